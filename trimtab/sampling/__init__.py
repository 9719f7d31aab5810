"""Prompts in, K completions each out: the engine protocol and the native engine that samples from the modules being trained.

Knows token ids only: chat templates and text belong to ``data``.
"""
