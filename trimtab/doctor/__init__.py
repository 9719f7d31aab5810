"""One page of checks on a model, a data set, an engine: what was found, what it means, what to do."""
