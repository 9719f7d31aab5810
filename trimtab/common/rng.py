"""Seeded streams. Every random draw belongs to a named stream, so that no draw depends on how work was split or ordered."""

import hashlib

import numpy as np


def seed_for(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream ``names`` of a run's ``seed``; the same on every machine and Python."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """An independent generator for one purpose, e.g. ``generator(seed, "labeler", prompt_id)``."""
    return np.random.Generator(np.random.Philox(seed_for(seed, *names)))
