"""At most so many prompts of one user: a seeded sample of them, not the first."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trimtab.common.rng import seed_for
from trimtab.data.curate.hashing import U64, hash64, mix


def draw_order(seed: int, name: str, identities: U64) -> U64:
    """A random number for each prompt, from the seed and the prompt's identity alone: whoever else is there changes none of them."""
    return mix(identities ^ np.uint64(seed_for(seed, name)))


def cap(users: U64, starts: NDArray[np.int64], order: U64, most: int, exempt: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Which prompts are kept so that no user has more than ``most`` (0: no limit), those of lowest ``order`` first.

    Prompt i belongs to ``users[starts[i]:starts[i + 1]]`` (hashes). One with several users counts for each of them and is kept while
    all have room; ``exempt`` prompts are kept and count for nobody.
    """
    kept = np.ones(len(starts) - 1, np.bool_)
    if not most:
        return kept
    owner = np.repeat(np.arange(len(kept)), np.diff(starts))
    counted = users if exempt is None else users[~exempt[owner]]
    found, counts = np.unique(counted, return_counts=True)
    busy = set(found[counts > most].tolist())
    if not busy:
        return kept
    touched = np.unique(owner[np.isin(users, np.fromiter(busy, np.uint64))])
    touched = touched if exempt is None else touched[~exempt[touched]]
    taken: Counter[int] = Counter()
    for i in touched[np.argsort(order[touched], kind="stable")].tolist():
        mine = [user for user in users[starts[i] : starts[i + 1]].tolist() if user in busy]
        kept[i] = all(taken[user] < most for user in mine)
        if kept[i]:
            taken.update(mine)
    return kept


def cap_users(users: Sequence[Sequence[str]], most: int = 200, seed: int = 0, ids: Sequence[str] | None = None) -> list[bool]:
    """Which prompts are kept so that no user has more than ``most``, a seeded sample; ``users[i]`` are prompt i's (none: no limit).

    The draw depends on ``ids`` (the prompts' own, by default their numbers) and the seed.
    """
    flat = np.array([hash64(user) for mine in users for user in mine], np.uint64)
    starts = np.cumsum([0, *map(len, users)])
    names = ids if ids is not None else [str(i) for i in range(len(users))]
    order = draw_order(seed, "cap", np.array([hash64(name) for name in names], np.uint64))
    return cap(flat, starts, order, most).tolist()
