"""Simulated labelers: answers have a quality, people see it with noise; some answer at random now and then."""

from collections.abc import Sequence

import numpy as np

from trimtab.common.rng import generator
from trimtab.label.careless import Ranked

NOISE = 0.85  # two people then agree on 73 % of the pairs that neither ties (InstructGPT: 72.6 %)
TIE = 0.3
Ranks = tuple[int, ...]


def league(
    seed: int, *, spam: float, people: int = 20, items: int = 40, overlap: int = 3, sizes: Sequence[int] = (4, 5, 6, 7, 8, 9),
    noise: float = NOISE, consistent: bool = False,
) -> list[Ranked]:  # fmt: skip
    """Rankings and ratings of ``items`` tasks by each of ``people``; person 0 answers a share ``spam`` of theirs at random.

    ``consistent``: what is answered at random has an order that fits its ratings; otherwise each is clicked by itself.
    """
    rng = generator(seed, "league")
    done = dict.fromkeys(range(people), 0)
    out: list[Ranked] = []
    while min(done.values()) < items:
        group = sorted(done, key=lambda p: (done[p], rng.random()))[:overlap]
        quality = rng.normal(size=int(rng.choice(sizes)))
        said = [say(quality, p == 0 and rng.random() < spam, rng, noise, consistent) for p in group]
        for i, person in enumerate(group):
            done[person] += 1
            out.append(Ranked(person, said[i][0], tuple(r for j, (r, _) in enumerate(said) if j != i), said[i][1]))
    return out


def say(
    quality: np.ndarray, at_random: bool, rng: np.random.Generator, noise: float, consistent: bool
) -> tuple[Ranks, Ranks]:
    """One person's ranking and ratings; answers that look alike within ``TIE`` tie."""
    spread = np.sqrt(1 + noise**2)
    view = rng.normal(size=len(quality)) * spread if at_random else quality + noise * rng.normal(size=len(quality))
    rated = rng.normal(size=len(quality)) * spread if at_random and not consistent else view
    return ranked(view), tuple(int(np.clip(round(4 + 1.3 * x), 1, 7)) for x in rated)


def ranked(view: np.ndarray) -> Ranks:
    """Ranks from 1; what lies within ``TIE`` of the best of its group joins it."""
    ranks, rank, top = [0] * len(view), 0, np.inf
    for i in np.argsort(-view):
        if top - view[i] >= TIE:
            rank, top = rank + 1, view[i]
        ranks[i] = rank
    return tuple(ranks)


def shown_orders(number: int, k: int) -> list[list[int]]:
    """Orders as the app draws them."""
    return [[int(i) for i in generator(1, "shown", task, 7).permutation(k)] for task in range(number)]
