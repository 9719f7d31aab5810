"""Train, validation and test by user: no user and no group of near-duplicates in two of them.

Users and groups that have a prompt in common belong together. The connected parts of that graph are dealt out, the largest first,
each to a split drawn in proportion to the room that is left among those where it fits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from trimtab.common.rng import generator
from trimtab.data.curate.hashing import U64, hash64

I64 = NDArray[np.int64]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Each prompt's split (an index into ``SPLITS``), how many connected parts there are, and the largest one's prompts.

    ``reachable`` is False when that part alone is more than the largest share: then no dealing can give the shares.
    """

    of: NDArray[np.int8]
    parts: int
    largest: int
    reachable: bool


def split(users: U64, starts: I64, groups: I64, shares: Sequence[float], seed: int = 0) -> Split:
    """Deals prompts out by user and group in ``shares`` (train, validation, test; in any unit).

    Prompt i belongs to ``users[starts[i]:starts[i + 1]]`` (hashes; none: a user of its own) and to ``groups[i]``.
    """
    part = connected(users, starts, groups)
    sizes = np.bincount(part) if len(part) else np.zeros(0, np.int64)
    targets = np.array(shares, np.float64) / sum(shares) * len(part)
    order = np.argsort(-sizes, kind="stable")
    where = np.zeros(len(sizes), np.int8)
    room = targets.tolist()
    draws = generator(seed, "split").random(len(sizes)).tolist()
    for at, size, draw in zip(order.tolist(), sizes[order].tolist(), draws, strict=True):
        where[at] = chosen = _choose(room, size, draw)
        room[chosen] -= size
    out = Split(where[part], len(sizes), int(sizes.max(initial=0)), bool(sizes.max(initial=0) <= np.ceil(targets.max(initial=0))))
    assert_apart(out.of, users, starts, groups)
    return out


def split_by_user(
    users: Sequence[Sequence[str]], shares: Mapping[str, float], seed: int = 0, groups: Sequence[int] | None = None
) -> list[str]:
    """The split of each prompt: ``users[i]`` are prompt i's users, ``groups[i]`` its near-duplicates' group (all alone by default)."""
    flat = np.array([hash64(user) for mine in users for user in mine], np.uint64)
    starts = np.cumsum([0, *map(len, users)])
    named = np.array(groups if groups is not None else range(len(users)), np.int64)
    found = split(flat, starts, named, [shares.get(name, 0.0) for name in SPLITS], seed)
    return [SPLITS[at] for at in found.of.tolist()]


def connected(users: U64, starts: I64, groups: I64) -> I64:
    """The connected part of each prompt, numbered in the order of their first prompts."""
    prompts = len(starts) - 1
    names, user = np.unique(users, return_inverse=True)
    found, group = np.unique(groups, return_inverse=True)
    owner = np.repeat(np.arange(prompts), np.diff(starts))
    rows = np.concatenate([owner, np.arange(prompts)])
    columns = np.concatenate([prompts + user, prompts + len(names) + group])
    size = prompts + len(names) + len(found)
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(size, size))
    part = connected_components(graph, directed=False)[1][:prompts]
    _, first, numbered = np.unique(part, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[numbered].astype(np.int64)


def _choose(room: Sequence[float], size: int, draw: float) -> int:
    """A split in proportion to its room, of those where ``size`` fits; where it fits nowhere, the one with the most room."""
    fitting = [max(left, 0.0) if size <= left + 0.5 else 0.0 for left in room]
    total = sum(fitting)
    if not total:
        return max(range(len(room)), key=lambda i: room[i])
    for i, left in enumerate(fitting):
        draw -= left / total
        if draw < 0:
            return i
    return max(range(len(room)), key=lambda i: fitting[i])


def assert_apart(of: NDArray[np.int8], users: U64, starts: I64, groups: I64) -> None:
    """No user and no group is in two splits; anything else is a mistake in this code."""
    owner = np.repeat(np.arange(len(of)), np.diff(starts))
    for what, names, at in (("user", users, of[owner]), ("group of near-duplicates", groups, of)):
        pairs = np.unique(np.stack([names.astype(np.uint64), at.astype(np.uint64)], axis=1), axis=0)
        if len(np.unique(pairs[:, 0])) < len(pairs):
            raise AssertionError(f"a {what} is in two splits")
