"""Who answers without reading, and whether the first-shown answer wins too often. Pure functions.

**Careless labelers.** Of each ranking we ask where its agreement with the others (or with the known answer) stands among all shufflings
of that same ranking: u, which is uniform on (0, 1) for somebody who answers at random, whatever K, the ties and the number of others are.
In the same way v: how the ranking agrees with this person's own ratings, which were given one by one before it. How u and v are spread
among all who work here is estimated from the others, densities f and g. Somebody who answers at random in a share e of the items makes
u uniform there, and v, too, if they click ratings and order independently, so each item adds log((1 - e) + e (1 + 1 / g(v)) / (2 f(u)))
to the evidence. Where ties leave several shufflings that agree as much, u and v are intervals, and so are what is likely: who ties much
is careless no more than who ties little. The sum is the likelihood ratio of the mixture, summed as in Wald's sequential test. Who passes
the threshold at any of the last 40 items is flagged; the threshold is what 2 % of people who work like the others would pass, found by
drawing such stretches from the others' items. Pairs (K = 2) say little each; rankings of five and more say it soon.

**Too fast to have read.** People read about 4 words a second and skim 8 to 12 (Brysbaert 2019). Whoever, in more than half of the last
items, took less active time than 20 words a second and 0.2 seconds for the two keys of each answer, has not read them (``unread_share``).

**Known answers.** Whoever orders the pairs of known answers so much worse than the others do that as many items drawn from the others'
are as bad in fewer than one of 200 draws, and by a sixth of the pairs or more, is named (``below_others``).
"""

import functools
import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from trimtab.common.rng import generator
from trimtab.common.stats import Estimate, bootstrap_interval
from trimtab.label.rankings import mean_ranks

Floats = NDArray[np.float64]
Ranks = Sequence[int | None]
Shape = tuple[float, float]
Interval = tuple[float, float]
Placed = tuple[int, Interval, Interval | None]  # how many answers, u, v
HORIZON = 40  # items that are looked at together, the last ones
FALSE_FLAGS = 0.02  # share of such stretches in which somebody who works like the others is flagged
SHARE = 0.3  # of random answers, against which evidence is collected
DRAWS = 2000
PRIOR = 20  # items by which the distribution of one size of ranking is drawn to that of all sizes
LARGEST = math.log(50)  # one item alone is never more than this times likelier at random
FEWEST_ITEMS = 40  # of the others', below which nothing is known of how people work here
SHUFFLINGS = 300  # drawn where K! is more
ENUMERATED = 5  # K up to which all shufflings are taken
FEWEST_PAIRS = 20  # below this no position bias is named
SURE = 2.81  # standard deviations from 1/2 at which it is: one of 200 unbiased people

WORDS_A_SECOND, SECONDS_AN_ANSWER = 20.0, 0.2  # faster than this nobody has read them
FEWEST_LABELS = 5  # below this nobody is called too fast
FEWEST_KNOWN, FEWEST_KNOWN_OTHERS = 3, 6  # items, below which nothing is said of known answers
DOUBT = (0.0, 0.5)  # items that are added to the others', who may just have been lucky
BY_CHANCE, FAR = 0.005, 1 / 6


@dataclass(frozen=True, slots=True)
class Ranked:
    """One labeler's ranking of one task, and what it is held against: the others' rankings, or the known one."""

    labeler: Hashable
    ranks: tuple[int | None, ...]
    others: tuple[tuple[int | None, ...], ...]
    ratings: tuple[int | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Evidence that a labeler answers at random: the sum after each of the last items, what is enough, and where it was first reached."""

    path: tuple[float, ...]
    enough: float
    flagged_at: int | None

    @property
    def level(self) -> float:
        """The highest evidence as a share of what is enough."""
        return max(self.path, default=0.0) / self.enough


def suspicions(
    items: Sequence[Ranked], *, seed: int = 0, false_flags: float = FALSE_FLAGS
) -> dict[Hashable, Suspicion]:
    """Each labeler's evidence over their last ``HORIZON`` items, which come in the order in which they were done."""
    placed: dict[Hashable, list[Placed]] = {}
    for i, item in enumerate(items):
        rng = generator(seed, "standing", i)
        u = stands(item.ranks, item.others, rng)
        v = stands(item.ranks, [[None if r is None else -r for r in item.ratings]], rng) if item.ratings else None
        if u is not None:
            placed.setdefault(item.labeler, []).append((len(item.ranks), u, v))
    out = {}
    for who, own in placed.items():
        others = [u for other, us in placed.items() if other != who for u in us]
        if len(others) >= FEWEST_ITEMS:
            out[who] = _suspicion(own[-HORIZON:], others, false_flags, seed)
    return out


def standing(ranks: Ranks, others: Sequence[Ranks], rng: np.random.Generator) -> float | None:
    """u: a random point of where this ranking ``stands``, uniform on (0, 1) for somebody who answers at random."""
    where = stands(ranks, others, rng)
    return None if where is None else float(rng.uniform(*where))


def stands(ranks: Ranks, others: Sequence[Ranks], rng: np.random.Generator) -> Interval | None:
    """The share of shufflings of this ranking that agree less with the others than it does, and the share that agree no more.

    None where nothing can be said: no others, or a ranking that ties everything.
    """
    known = [i for i, rank in enumerate(ranks) if rank is not None]
    own = _centred([ranks[i] for i in known])
    target = sum((_centred([other[i] for i in known]) for other in others), np.zeros(len(known)))
    if not np.any(own) or not np.any(target):
        return None
    k = len(known)
    drawn = k > ENUMERATED
    shuffled = own[_all_orders(k)] if not drawn else rng.permuted(np.tile(own, (SHUFFLINGS, 1)), axis=1)
    agreements, mine = shuffled @ target, float(own @ target)
    less, same = (agreements < mine - 1e-9).sum(), (np.abs(agreements - mine) <= 1e-9).sum()
    # Drawn shufflings do not hold the ranking itself for certain; it is counted in, so that u stays uniform (Phipson and Smyth 2010).
    number = len(shuffled) + drawn
    return float(less / number), float((less + same + drawn) / number)


@functools.cache
def _all_orders(k: int) -> NDArray[np.int64]:
    return np.array(list(itertools.permutations(range(k))))


def _centred(ranks: Sequence[int | None]) -> Floats:
    """Places, ties at their mean, less the mean place; 0 for what is unranked. Products of two of these are Spearman's correlation."""
    places = mean_ranks(ranks)
    centre = [p for p in places if p is not None]
    middle = sum(centre) / len(centre) if centre else 0.0
    return np.array([0.0 if p is None else p - middle for p in places])


@dataclass(frozen=True)
class Usual:
    """How u (by number of answers) and v are spread among those who work here: Beta distributions, as (a, b)."""

    u: Mapping[int, Shape]
    v: Shape


def usual_of(placed: Sequence[Placed]) -> Usual:
    """Beta distributions with the mean and variance that were seen; to each size of ranking ``PRIOR`` items of any size are added."""
    overall = _moments([u for _, u, _ in placed])
    by_size = {k: _shape([u for size, u, _ in placed if size == k], overall) for k in {k for k, _, _ in placed}}
    return Usual(by_size, _shape([v for _, _, v in placed if v is not None], _moments([(0.88, 1.0)])))


def evidence(placed: Sequence[Placed], usual: Usual) -> Floats:
    """log((1 - e) + e (1 + 1 / g(v)) / (2 f(u))) of each item; an item of a size that nobody else had says nothing."""
    odd = _times_likelier([u for _, u, _ in placed], [usual.u.get(k, (1.0, 1.0)) for k, _, _ in placed])
    own = _times_likelier([v or (0.0, 1.0) for _, _, v in placed], [usual.v] * len(placed))  # (0, 1) is 1: nothing is known
    return np.log((1 - SHARE) + SHARE * odd * (1 + own) / 2)


def _moments(seen: Sequence[Interval]) -> Floats:
    """(2,) the mean and the mean square of points that lie anywhere in these intervals, one in each."""
    low, high = np.array(seen).T if seen else np.empty((2, 0))
    return np.array([(low + high).sum() / 2, (low**2 + low * high + high**2).sum() / 3]) / max(len(seen), 1)


def _shape(seen: Sequence[Interval], prior: Floats) -> Shape:
    mean, square = (len(seen) * _moments(seen) + PRIOR * prior) / (len(seen) + PRIOR)
    spread = max(mean * (1 - mean) / max(square - mean**2, 1e-6) - 1, 0.1)
    return float(mean * spread), float((1 - mean) * spread)


def _times_likelier(intervals: Sequence[Interval], shapes: Sequence[Shape]) -> Floats:
    """How much likelier each interval is at random than under its Beta distribution."""
    (low, high), (a, b) = np.array(intervals).T, np.array(shapes).T
    usual = betainc(a, b, high) - betainc(a, b, low)
    return (high - low) / np.maximum(usual, (high - low) / math.exp(LARGEST))


def _suspicion(own: Sequence[Placed], others: Sequence[Placed], false_flags: float, seed: int) -> Suspicion:
    usual = usual_of(others)
    drawn = generator(seed, "careless").choice(evidence(others, usual), size=(DRAWS, HORIZON))
    enough = max(0.5, float(np.quantile(np.cumsum(drawn, axis=1).max(1), 1 - false_flags)))
    path = np.cumsum(evidence(own, usual))
    reached = np.flatnonzero(path >= enough)
    return Suspicion(tuple(path.tolist()), enough, int(reached[0]) + 1 if len(reached) else None)


@dataclass(frozen=True, slots=True)
class Position:
    """How often the answer that stood first won, among pairs that are not ties, and whether that is more or less than chance."""

    share: Estimate
    biased: bool


def position_bias(
    items: Sequence[tuple[Sequence[int | None], Sequence[int]]], *, seed: int = 0, resamples: int = 2000
) -> Position:
    """Over pairs of answers, how often the earlier-shown one was preferred. Orders are random, so without bias it is 1/2.

    The pairs of one ranking hang together, so what chance does is computed for whole rankings (``by_chance``): a newcomer's two rankings of
    seven answers are 42 pairs, and say little.

    Args:
        items: (ranks by completion, shown: place on the screen -> completion) of each ranking. The pairs of one ranking are drawn together.
    """
    wins: list[float] = []
    tasks: list[int] = []
    variance = 0.0
    for task, (ranks, shown) in enumerate(items):
        variance += by_chance(ranks)
        for a, b in itertools.combinations(shown, 2):
            first, second = ranks[a], ranks[b]
            if first is not None and second is not None and first != second:
                wins.append(float(first < second))
                tasks.append(task)
    share = bootstrap_interval(wins, clusters=tasks, seed=seed, resamples=resamples)
    biased = len(wins) >= FEWEST_PAIRS and abs(sum(wins) - len(wins) / 2) > SURE * math.sqrt(variance)
    return Position(share, biased)


def by_chance(ranks: Ranks) -> float:
    """The variance of the number of pairs that the first-shown answer wins, when this ranking's answers are shown in a random order.

    A quarter of that of Kendall's S: (k (k - 1) (2 k + 5) - sum over ties of t (t - 1) (2 t + 5)) / 18 (Kendall 1970, chapter 4).
    """
    known = [r for r in ranks if r is not None]
    ties = [known.count(r) for r in set(known)]
    return (_kendall(len(known)) - sum(map(_kendall, ties))) / 72


def _kendall(k: int) -> int:
    return k * (k - 1) * (2 * k + 5)


def least_seconds(words: int, answers: int) -> float:
    """Active time below which nobody has read so many words and pressed the keys for so many answers, in seconds."""
    return words / WORDS_A_SECOND + answers * SECONDS_AN_ANSWER


def unread_share(items: Sequence[tuple[float, float]]) -> float:
    """The share of the last ``HORIZON`` items, each (active seconds, ``least_seconds``), that went faster than can be; nan for too few."""
    last = items[-HORIZON:]
    return sum(seconds < least for seconds, least in last) / len(last) if len(last) >= FEWEST_LABELS else math.nan


def below_others(own: Sequence[float], others: Sequence[float], *, seed: int = 0) -> bool:
    """Whether somebody's shares of known pairs ordered as known, an item each, are clearly below the others'."""
    if len(own) < FEWEST_KNOWN or len(others) < FEWEST_KNOWN_OTHERS:
        return False
    drawn = generator(seed, "known answers").choice(np.array([*others, *DOUBT]), size=(DRAWS, len(own))).mean(1)
    mean = float(np.mean(own))
    return mean < float(np.mean(others)) - FAR and (1 + int((drawn <= mean + 1e-9).sum())) / (DRAWS + 1) < BY_CHANCE
