"""Curation: from raw prompts to train, validation and test by user. Each step is a function of its own; ``pipeline`` runs them all."""
