"""One file per method: its settings, where its batches come from, its loss, its metrics, its paper.

A method's file has ``Config`` (a ``TrainingSettings``) and ``build(config, rewards) -> Trained``; being in this folder is all
it takes to become a verb of the command line.
"""

NOT_METHODS = ("build", "control", "mix", "offline", "online", "rankings", "reference", "reinforce")  # what methods share
