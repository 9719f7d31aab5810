"""Rankings with ties as lists of ranks, 1 best, None unranked: places, and how alike two of them are. Pure functions."""

from collections.abc import Sequence

from trimtab.records import pairs_of


def mean_ranks(ranks: Sequence[int | None]) -> list[float | None]:
    """Ties at the mean of the places they share: [1, 1, 2, None] -> [1.5, 1.5, 3.0, None]."""
    known = [r for r in ranks if r is not None]
    return [None if r is None else sum(x < r for x in known) + (known.count(r) + 1) / 2 for r in ranks]


def alike(one: Sequence[int | None], other: Sequence[int | None]) -> tuple[int, int]:
    """(pairs ordered alike, pairs that neither ties): InstructGPT's agreement of two labelers (Ouyang et al. 2022)."""
    a, b = set(pairs_of(one)), set(pairs_of(other))
    both = {frozenset(p) for p in a} & {frozenset(p) for p in b}
    return len(a & b), len(both)


def concordance(known: Sequence[int | None], given: Sequence[int | None]) -> tuple[float, int]:
    """(pairs ordered as known, pairs that are known): of the pairs that the known ranks order, a tie or an unranked answer counts half."""
    pairs = pairs_of(known)
    right = 0.0
    for better, worse in pairs:
        a, b = given[better], given[worse]
        right += 0.5 if a is None or b is None or a == b else float(a < b)
    return right, len(pairs)
