"""What the command line does beside training: sample, rank, score, evaluate, chat. Those that recipes use are ``Config`` and
``run(config)``.

Like ``methods``, a verb is a plain call with a configuration, so that recipes and Python run exactly what the command line does.
"""
