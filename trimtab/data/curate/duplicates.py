"""Duplicates among prompts: the same text, a long common prefix, nearly the same words. The earliest of them is kept.

Three rules, on normalised texts (``text.normalise``):

* ``exact``: the texts are equal.
* ``prefix``: they begin with the same 100 characters or more, and the common beginning is at least 0.8 of the shorter one. That is
  InstructGPT's heuristic (Ouyang 2022, section 3.2: "prompts that share a long common prefix"), which names no numbers; these leave
  prompts alone that share an introduction and then differ.
* ``near``: the Jaccard similarity of their sets of words and of neighbouring words is at least 0.6, and the longer has 20 words or more
  (in a shorter one, one word is a different question). Candidates come from MinHash signatures cut into bands (Broder 1997;
  Leskovec, Mining of Massive Datasets, 3.4), and every candidate is verified on the texts.

``mark`` is the work on single texts, a shard at a time; ``resolve`` joins the marks of all shards in sorted arrays, so that memory is
some 300 bytes a prompt and nothing is compared with everything.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from trimtab.data.curate.hashing import U64, WordHashes, band_hashes, hash64, hashed, minhash, shingles
from trimtab.data.curate.settings import DuplicateSettings
from trimtab.data.curate.text import normalise, words

I64 = NDArray[np.int64]
Shingles = frozenset[str | tuple[str, str]]
KINDS = ("exact", "prefix", "near")
DEFAULT = DuplicateSettings()
# Texts in one bucket that are compared each with each; in a larger bucket with the next ones and with the first.
WINDOW = 8


@dataclass(frozen=True)
class Marks:
    """What is known of each text for finding its duplicates.

    ``exact`` and ``prefix`` (0: shorter than a long prefix) are hashes, one a text; ``bands`` has a row for each text of ``signed``.
    """

    exact: U64
    prefix: U64
    signed: I64
    bands: U64

    @staticmethod
    def join(parts: Sequence["Marks"]) -> "Marks":
        """The marks of several shards as those of their texts one after another."""
        offsets = np.cumsum([0, *(len(part.exact) for part in parts)])
        signed = [part.signed + offset for part, offset in zip(parts, offsets, strict=False)]
        whole = [np.concatenate([getattr(part, name) for part in parts]) for name in ("exact", "prefix", "bands")]
        return Marks(whole[0], whole[1], np.concatenate(signed), whole[2])


@dataclass(frozen=True)
class Duplicates:
    """For each text: the kept one that it duplicates (-1: it is kept itself), by which rule, how alike, and its group.

    A group holds texts that are linked by duplicates, also through texts that are left out; ``similarity`` is the common part of the
    shorter text for ``prefix``, Jaccard for ``near``.
    """

    of: I64
    kind: NDArray[np.int8]
    similarity: NDArray[np.float32]
    group: I64


def find_duplicates(texts: Sequence[str], settings: DuplicateSettings = DEFAULT, protected: int = 0) -> Duplicates:
    """Which of ``texts`` (as they are written) duplicate an earlier one; the first ``protected`` are kept whatever they are.

    Raises:
        UserError: datasketch is not installed.
    """
    normal = [normalise(text) for text in texts]
    return resolve(mark(normal, settings), normal, settings, protected)


def mark(texts: Sequence[str], settings: DuplicateSettings = DEFAULT, table: WordHashes | None = None) -> Marks:
    """The marks of normalised texts."""
    exact = np.array([hash64(text) for text in texts], np.uint64)
    at = settings.prefix
    prefix = np.array([hash64(text[:at]) if at and len(text) >= at else 0 for text in texts], np.uint64)
    bands = np.zeros((0, settings.bands), np.uint64)
    signed = np.zeros(0, np.int64)
    if settings.near:
        # a pair counts when one has near_words words; the other may have a near-th part of them
        split = [words(text) for text in texts]
        signed = np.array([i for i, w in enumerate(split) if len(w) >= settings.near * settings.near_words], np.int64)
        if len(signed):
            values, starts = shingles(*hashed([split[i] for i in signed], table if table is not None else WordHashes()))
            bands = band_hashes(minhash(values, starts, settings.permutations), settings.bands)
    return Marks(exact, prefix, signed, bands)


def resolve(marks: Marks, texts: Sequence[str], settings: DuplicateSettings = DEFAULT, protected: int = 0) -> Duplicates:
    """Who duplicates whom, from the marks of all texts; ``texts`` (normalised, by index) are asked for candidates only."""
    count = len(marks.exact)
    first = first_of(marks.exact)
    alone = first == np.arange(count)  # one of each text goes on; the others' fate is its own
    found: list[Pairs] = []
    crowded, left, at_prefix = bool(settings.near), alone, alone & (marks.prefix != 0)
    while True:
        new = [_pairs(1, prefix_pairs(marks.prefix, at_prefix, texts, settings), protected)]
        if crowded:
            rows = left[marks.signed]
            candidates, crowded = near_candidates(marks.bands[rows], marks.signed[rows])
            new.append(_pairs(2, near_pairs(candidates[candidates[:, 1] >= protected], texts, settings), protected))
        found += new
        of, kind, similarity = keep_earliest(found, count)
        if not any(len(pairs.indices) for pairs in new):
            break
        # not every pair is given, neither of a prefix nor of a crowded bucket: where something goes, what stays is looked at again
        left = alone & (of < 0)
        at_prefix = left & (marks.prefix != 0) & np.isin(marks.prefix, marks.prefix[alone & ~left])
    again = ~alone & (np.arange(count) >= protected)
    like = first[again]
    stays = of[like] < 0  # if the first of equal texts goes, the others go by the same rule
    of[again], kind[again] = np.where(stays, like, of[like]), np.where(stays, 0, kind[like])
    similarity[again] = np.where(stays, 1, similarity[like])
    edges = np.concatenate([*(pairs.indices for pairs in found), np.stack([first, np.arange(count)], axis=1)])
    graph = coo_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(count, count))
    return Duplicates(of, kind, similarity, connected_components(graph, directed=False)[1].astype(np.int64))


@dataclass(frozen=True)
class Pairs:
    """Duplicates found by one rule (an index into ``KINDS``): (earlier, later) indices and how alike the two are."""

    kind: int
    indices: I64
    similarity: NDArray[np.float32]


def keep_earliest(found: Sequence[Pairs], count: int) -> tuple[I64, NDArray[np.int8], NDArray[np.float32]]:
    """For each text the one that it duplicates (-1: it is kept), by which rule, and how alike. In the order of the texts, each that
    duplicates an earlier one which is kept is left out, so that what it duplicates is kept in the end."""
    of, kind, similarity = np.full(count, -1, np.int64), np.full(count, -1, np.int8), np.zeros(count, np.float32)
    indices = np.concatenate([pairs.indices for pairs in found])
    kinds = np.repeat([pairs.kind for pairs in found], [len(pairs.indices) for pairs in found])
    alike = np.concatenate([pairs.similarity for pairs in found])
    for at in np.lexsort((indices[:, 0], kinds, indices[:, 1])).tolist():
        earlier, later = indices[at].tolist()
        if of[later] < 0 and of[earlier] < 0:
            of[later], kind[later], similarity[later] = earlier, kinds[at], alike[at]
    return of, kind, similarity


def first_of(keys: U64) -> I64:
    """For each key the index of its first occurrence."""
    _, first, where = np.unique(keys, return_index=True, return_inverse=True)
    return first[where].astype(np.int64)


def prefix_pairs(
    keys: U64, alone: NDArray[np.bool_], texts: Sequence[str], settings: DuplicateSettings
) -> Iterator[tuple[int, int, float]]:
    """(index, index, common share of the shorter) of texts with a long common prefix: enough pairs to link all that have one."""
    rows = np.flatnonzero((keys != 0) & alone)
    order = rows[np.argsort(keys[rows], kind="stable")]
    edges = np.flatnonzero(np.diff(keys[order], prepend=0, append=0))
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if end - begin > 1:
            items = sorted((texts[i], i) for i in order[begin:end].tolist())
            yield from _common_prefixes(items, settings)
            yield from _common_prefixes(items[::-1], settings)


def _common_prefixes(items: list[tuple[str, int]], settings: DuplicateSettings) -> Iterator[tuple[int, int, float]]:
    """Pairs among texts in one direction of the alphabet, where the text that comes first is the shorter (or as long).

    In alphabetical order the common prefix of two texts is the shortest of those of all neighbours between them. So a text stays a
    candidate as long as ``reach``, what everything since has in common with it, is a large enough part of it; and of all candidates the
    shortest stays longest and is a duplicate of the others, so that it alone has to be remembered. Pairs with the earliest text are given
    too: that is the one that is kept.
    """
    (before, _), *rest = items
    (short, short_at), reach = items[0], len(items[0][0])
    (early, early_at), early_reach = items[0], reach
    for text, at in rest:
        common = common_prefix(before, text)
        reach, early_reach = min(reach, common), min(early_reach, common)
        shorter = min(len(early), len(text))
        alike = early_reach >= max(settings.prefix, settings.prefix_share * shorter)
        if alike and early_at != short_at:
            yield early_at, at, early_reach / shorter
        if not alike or at < early_at:
            early, early_at, early_reach = text, at, len(text)
        close = reach >= max(settings.prefix, settings.prefix_share * len(short))
        if close:
            yield short_at, at, min(1.0, reach / min(len(short), len(text)))
        if not close or len(text) <= len(short):
            short, short_at, reach = text, at, len(text)
        before = text


def common_prefix(a: str, b: str) -> int:
    """Characters that two texts begin with alike."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def near_candidates(bands: U64, signed: I64) -> tuple[I64, bool]:
    """(earlier, later) of texts that have a band in common, and whether a bucket was too full to compare each with each."""
    keys = np.zeros(0, np.int64)
    total, crowded = (int(signed[-1]) + 1 if len(signed) else 0), False
    for band in range(bands.shape[1]):
        order = np.argsort(bands[:, band], kind="stable")  # stable: in a bucket, texts stay in their order
        values, found = bands[order, band], []
        place = np.arange(len(order))
        start = np.maximum.accumulate(np.where(np.diff(values, prepend=values[:1]) != 0, place, 0)) if len(order) else place
        for step in range(1, WINDOW):
            later = place[step:][start[step:] <= place[:-step]]
            found.append((order[later - step], order[later]))
        far = place[place - start >= WINDOW]
        crowded |= bool(len(far))
        found.append((order[start[far]], order[far]))
        earlier, later = signed[np.concatenate([f[0] for f in found])], signed[np.concatenate([f[1] for f in found])]
        keys = np.unique(np.concatenate([keys, earlier * total + later]))
    return np.stack([keys // max(total, 1), keys % max(total, 1)], axis=1), crowded


def near_pairs(candidates: I64, texts: Sequence[str], settings: DuplicateSettings) -> Iterator[tuple[int, int, float]]:
    """The candidates whose similarity, computed from the texts, is high enough."""
    at, mine, ours = -1, 0, Shingles()
    for earlier, later in candidates.tolist():
        if earlier != at:
            split = words(texts[earlier])
            at, mine, ours = earlier, len(split), shingle_set(split)
        split = words(texts[later])
        if max(mine, len(split)) >= settings.near_words:
            alike = jaccard(ours, shingle_set(split))
            if alike >= settings.near:
                yield earlier, later, alike


def shingle_set(split: Sequence[str]) -> Shingles:
    """A text's words and its pairs of neighbouring words."""
    return frozenset([*split, *zip(split, split[1:], strict=False)])


def jaccard(a: Shingles, b: Shingles) -> float:
    """|a and b| / |a or b|; 0 where both are empty."""
    common = len(a & b)
    return common / (len(a) + len(b) - common) if a or b else 0.0


def _pairs(kind: int, found: Iterator[tuple[int, int, float]], protected: int) -> Pairs:
    """``found`` in order, without pairs of texts that are kept whatever they are."""
    rows = [(min(a, b), max(a, b), alike) for a, b, alike in found if max(a, b) >= protected]
    return Pairs(
        kind, np.array([(a, b) for a, b, _ in rows], np.int64).reshape(-1, 2), np.array([alike for _, _, alike in rows], np.float32)
    )  # fmt: skip
