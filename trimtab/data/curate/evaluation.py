"""Contamination: prompts that share words in a row with an evaluation set.

A prompt is contaminated when ``ngram`` words in a row, 13 by default (Brown 2020, appendix C), stand in a prompt of an evaluation set
too. Evaluation prompts also take part in the search for duplicates, which finds those that are shorter than that, and edited copies.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trimtab.data.curate.hashing import U64, WordHashes, hashed, ngrams
from trimtab.data.curate.text import words


@dataclass(frozen=True)
class Evaluation:
    """The n-grams of an evaluation set: hashes in ascending order, and the number of the text that each is from."""

    n: int
    grams: U64
    owner: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Iterable[str], n: int) -> "Evaluation":
        """The n-grams of normalised texts."""
        grams, owner = ngrams(*hashed(map(words, texts), WordHashes()), n)
        grams, first = np.unique(grams, return_index=True)
        return cls(n, grams, owner[first])

    def overlaps(self, texts: Sequence[str], table: WordHashes | None = None) -> NDArray[np.int64]:
        """For each normalised text the number of an evaluation text that shares n words in a row with it, -1 if none does."""
        out = np.full(len(texts), -1, np.int64)
        if len(self.grams):
            grams, owner = ngrams(*hashed(map(words, texts), table if table is not None else WordHashes()), self.n)
            at = np.minimum(np.searchsorted(self.grams, grams), len(self.grams) - 1)
            hit = np.flatnonzero(self.grams[at] == grams)[::-1]  # backwards, so that each text's first hit is written last
            out[owner[hit]] = self.owner[at[hit]]
        return out

    def save(self, path: Path) -> None:
        np.savez(path, n=self.n, grams=self.grams, owner=self.owner)

    @classmethod
    def load(cls, path: Path) -> "Evaluation":
        with np.load(path) as arrays:
            return cls(int(arrays["n"]), arrays["grams"], arrays["owner"])
