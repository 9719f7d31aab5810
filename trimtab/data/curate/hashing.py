"""Words, shingles and MinHash signatures as numpy arrays, many texts at a time.

Signatures are datasketch's own (scheme ``affine32``, its permutations for a seed), computed for a shard of texts at once:
``tests/data/curate/test_hashing.py`` holds them against ``datasketch.MinHash`` value by value.
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from trimtab.common.errors import UserError

U64 = NDArray[np.uint64]
PERMUTATIONS_SEED = 1  # datasketch's default


def hash64(text: str) -> int:
    """A 64-bit hash, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class WordHashes(dict[str, int]):
    """word -> 64-bit hash, computed once for each word."""

    def __missing__(self, word: str) -> int:
        self[word] = value = hash64(word)
        return value


def hashed(texts: Iterable[Sequence[str]], table: WordHashes) -> tuple[U64, NDArray[np.int64]]:
    """The word hashes of all texts end to end, and where each text begins (one more entry: the end)."""
    flat: list[int] = []
    starts = [0]
    for text in texts:
        flat.extend([table[word] for word in text])
        starts.append(len(flat))
    return np.array(flat, dtype=np.uint64), np.array(starts, dtype=np.int64)


def mix(values: U64) -> U64:
    """MurmurHash3's 64-bit finalizer: every bit of the result depends on every bit of the value."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def ngrams(hashes: U64, starts: NDArray[np.int64], n: int) -> tuple[U64, NDArray[np.int64]]:
    """Hashes of every run of ``n`` words inside one text, and the text that each belongs to."""
    count = len(hashes) - n + 1
    if count <= 0:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    rolled = np.zeros(count, np.uint64)
    for k in range(n):
        rolled = rolled * np.uint64(0x9E3779B97F4A7C15) + hashes[k : k + count]
    owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    inside = owner[:count] == owner[n - 1 :]
    return mix(rolled[inside]), owner[:count][inside]


def shingles(hashes: U64, starts: NDArray[np.int64]) -> tuple[U64, NDArray[np.int64]]:
    """Hashes of each text's words and of its pairs of neighbouring words, text after text, and where each text begins."""
    pairs, owner = ngrams(hashes, starts, 2)
    lengths = np.diff(starts)
    both = np.concatenate([mix(hashes), pairs])
    order = np.argsort(np.concatenate([np.repeat(np.arange(len(lengths)), lengths), owner]), kind="stable")
    return both[order], np.concatenate([[0], np.cumsum(lengths + np.maximum(lengths - 1, 0))])


@cache
def permutations(count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """datasketch's permutations a * h + b."""
    try:
        from datasketch import MinHash
    except ImportError as error:
        raise UserError(f"near-duplicates need the extra 'curate' ({error.name} is missing): pip install 'trimtab[curate]'") from None
    a, b = MinHash(num_perm=count, seed=PERMUTATIONS_SEED, scheme="affine32").permutations
    return a.astype(np.uint32), b.astype(np.uint32)


def minhash(values: U64, starts: NDArray[np.int64], count: int) -> NDArray[np.uint32]:
    """MinHash signatures (texts x ``count``) of sets of hashes, of which the low 32 bits are used; no set may be empty."""
    low = values.astype(np.uint32)  # MurmurHash3's 32-bit finalizer, as datasketch mixes before it permutes
    low = (low ^ (low >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    low = (low ^ (low >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    low = low ^ (low >> np.uint32(16))
    a, b = permutations(count)
    out = np.empty((len(starts) - 1, count), np.uint32)
    for k in range(count):
        out[:, k] = np.minimum.reduceat(low * a[k] + b[k], starts[:-1]) if len(out) else 0
    return out


def band_hashes(signatures: NDArray[np.uint32], bands: int) -> U64:
    """One 64-bit hash for each of the ``bands`` equal parts of each signature (texts x bands)."""
    texts, count = signatures.shape
    parts = signatures.reshape(texts, bands, count // bands).astype(np.uint64)
    out = np.zeros((texts, bands), np.uint64)
    for k in range(parts.shape[2]):
        out = mix(out * np.uint64(0x9E3779B97F4A7C15) + parts[:, :, k])
    return out
