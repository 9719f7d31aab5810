"""How far labelers agree: raw share, Krippendorff's alpha, Gwet's AC1, each with an interval. Pure functions; nothing is read here.

Three figures are shown together, because each misleads alone: the raw share is high where one answer is common, alpha is near zero
there however careful people are, AC1 is not (Gwet 2008). Units that belong together (the pairs of one task) are drawn together.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.common.rng import generator
from trimtab.common.stats import CONFIDENCE, Estimate
from trimtab.label.rankings import mean_ranks

Level = Literal["nominal", "ordinal", "interval", "ratio"]
Floats = NDArray[np.float64]
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Unit:
    """One thing that several people judged: a value from each of them, and the cluster (task) that it belongs to."""

    values: tuple[float, ...]
    cluster: Hashable = None


@dataclass(frozen=True)
class _Table:
    """Counts (U units, V values), the values in rising order, and each unit's cluster as a number from 0."""

    counts: Floats
    values: Floats
    clusters: NDArray[np.int64]


def alpha(units: Sequence[Unit], level: Level, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Krippendorff's alpha = 1 - observed / expected disagreement (Krippendorff 2011), with a cluster bootstrap's interval.

    NaN where fewer than two different values were given: there is nothing to tell apart.
    """

    def statistic(coincidences: Floats, values: Floats) -> float:
        return _alpha_of(coincidences, values, level)

    return _estimate(units, _coincidences, statistic, seed, resamples)


def raw_agreement(units: Sequence[Unit], *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """The share of pairs of people who said the same, averaged over units."""
    return _estimate(units, _gwet_parts, lambda parts, _: _raw_of(parts), seed, resamples)


def ac1(units: Sequence[Unit], categories: int, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Gwet's AC1 = (p_a - p_e) / (1 - p_e), p_e = sum_k pi_k (1 - pi_k) / (q - 1), for any number of people and missing values (Gwet 2008).

    Args:
        categories: q, how many values there are to choose from, given or not.
    """

    def statistic(parts: Floats, values: Floats) -> float:
        raw, shares = _raw_of(parts), parts[2:] / parts[2:].sum()
        chance = float((shares * (1 - shares)).sum() / (categories - 1))
        return (raw - chance) / (1 - chance) if chance < 1 else math.nan

    return _estimate(units, _gwet_parts, statistic, seed, resamples, single=True)


def pair_units(rankings: Mapping[Hashable, Sequence[Sequence[int | None]]]) -> list[Unit]:
    """Each pair of answers of each task as a unit: 1 where the first is better, -1 where the second is, 0 for a tie.

    Which of two answers counts as the first alternates, so that the order of completions (one model first, say) makes no value common.
    """
    out = []
    for task, given in rankings.items():
        size = len(given[0]) if given else 0
        for i in range(size):
            for j in range(i + 1, size):
                a, b = (i, j) if (i + j) % 2 else (j, i)
                ranks = [(r[a], r[b]) for r in given]
                said = tuple(float(np.sign(y - x)) for x, y in ranks if x is not None and y is not None)
                if len(said) > 1:
                    out.append(Unit(said, task))
    return out


def rank_units(rankings: Mapping[Hashable, Sequence[Sequence[int | None]]]) -> list[Unit]:
    """Each answer of each task as a unit: its place from each person, from 0 (best) to 1, ties at the mean of the places they share.

    Places are shares of K because tasks differ in K: rank 2 is the worst of two and among the best of nine, and pooled as they are, ranks
    of people who answer at random would differ less within a task than between tasks, so that alpha were above 0.
    """
    out = []
    for task, given in rankings.items():
        placed = [_places(ranks) for ranks in given]
        for i in range(len(placed[0]) if placed else 0):
            said = tuple(r for p in placed if (r := p[i]) is not None)
            if len(said) > 1:
                out.append(Unit(said, task))
    return out


def _places(ranks: Sequence[int | None]) -> list[float | None]:
    k = sum(r is not None for r in ranks)
    return [None if r is None else (r - 0.5) / k for r in mean_ranks(ranks)]


def _alpha_of(coincidences: Floats, values: Floats, level: Level) -> float:
    totals = coincidences.sum(0)
    n = totals.sum()
    expected = (np.outer(totals, totals) * (distance := _distance(totals, values, level))).sum()
    return float(1 - (n - 1) * (coincidences * distance).sum() / expected) if expected > 0 else math.nan


def _distance(totals: Floats, values: Floats, level: Level) -> Floats:
    """Squared differences between values; the ordinal one counts how many values lie between."""
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    if level == "ordinal":
        reached = np.cumsum(totals) - totals / 2
        return np.subtract.outer(reached, reached) ** 2
    difference = np.subtract.outer(values, values)
    if level == "ratio":
        total = np.add.outer(values, values)
        difference = np.divide(difference, total, out=np.zeros_like(difference), where=total != 0)
    return difference**2


def _coincidences(table: _Table) -> Floats:
    """(C, V, V) sums over each cluster's units of the pairs of values, a unit with m of them weighing 1 / (m - 1) a pair."""
    counts = table.counts
    m = counts.sum(1)
    scaled = counts / np.maximum(m - 1, 1)[:, None]
    out = np.zeros((int(table.clusters.max()) + 1, counts.shape[1], counts.shape[1]))
    np.add.at(out, table.clusters, scaled[:, :, None] * counts[:, None, :])
    diagonal = np.arange(counts.shape[1])
    lost = np.zeros(out.shape[:2])
    np.add.at(lost, table.clusters, scaled)
    out[:, diagonal, diagonal] -= lost
    return out


def _gwet_parts(table: _Table) -> Floats:
    """(C, 2 + V) for each cluster: the units' agreement summed, units with two values or more, and the units' shares of values summed."""
    counts = table.counts
    m = counts.sum(1)
    several = m > 1
    agreed = np.where(several, (counts * (counts - 1)).sum(1) / np.maximum(m * (m - 1), 1), 0)
    out = np.zeros((int(table.clusters.max()) + 1, 2 + counts.shape[1]))
    np.add.at(out, table.clusters, np.column_stack([agreed, several, counts / m[:, None]]))
    return out


def _raw_of(parts: Floats) -> float:
    return float(parts[0] / parts[1]) if parts[1] > 0 else math.nan


def _estimate(
    units: Sequence[Unit], parts: Callable[[_Table], Floats], statistic: Callable[[Floats, Floats], float], seed: int, resamples: int, *,
    single: bool = False,
) -> Estimate:  # fmt: skip
    """The statistic of the clusters' summed parts, and its percentile interval when whole clusters are drawn again."""
    used = [u for u in units if len(u.values) > 1 or (single and u.values)]
    if not used:
        return Estimate(math.nan, math.nan, math.nan, 0)
    table = _table(used)
    by_cluster = parts(table)
    value = statistic(by_cluster.sum(0), table.values)
    clusters = len(by_cluster)
    if clusters < 2 or not resamples:
        return Estimate(value, math.nan, math.nan, len(used))
    rng = generator(seed, "agreement bootstrap")
    flat = by_cluster.reshape(clusters, -1)
    weights = np.empty((resamples, clusters))
    for drawn in weights:
        drawn[:] = np.bincount(rng.integers(clusters, size=clusters), minlength=clusters)
    sums = (weights @ flat).reshape(resamples, *by_cluster.shape[1:])
    draws = [statistic(one, table.values) for one in sums]
    kept = [d for d in draws if math.isfinite(d)]
    low, high = np.quantile(kept, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2]) if kept else (math.nan, math.nan)
    return Estimate(value, float(low), float(high), len(used))


def _table(units: Sequence[Unit]) -> _Table:
    values = np.array(sorted({v for u in units for v in u.values}))
    column = {v: i for i, v in enumerate(values.tolist())}
    counts = np.zeros((len(units), len(values)))
    number: dict[Hashable, int] = {}
    clusters = np.zeros(len(units), dtype=np.int64)
    for i, unit in enumerate(units):
        for v in unit.values:
            counts[i, column[v]] += 1
        key = unit.cluster if unit.cluster is not None else ("unit", i)
        clusters[i] = number.setdefault(key, len(number))
    return _Table(counts, values, clusters)
