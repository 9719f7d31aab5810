"""Losses and estimators: pure functions on tensors. Imports torch and nothing of ours; knows no model and no file.

Legend: S scored tokens of a batch, C completions, P pairs. ``completion_of`` (S,) says which completion a token belongs to.
Each function returns one value per element; what to divide by is the method's business, because the right divisor is counted
over the whole optimizer step, not over one micro-batch.
"""
