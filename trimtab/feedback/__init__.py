"""Who says what is better: a reward model, a rule, simulated labelers, a judge. One protocol."""
