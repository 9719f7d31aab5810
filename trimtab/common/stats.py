"""Numbers with their uncertainty: every figure that a decision rests on is an ``Estimate`` with n and a 95 % interval.

Which interval: a mean of many values gets Student's t, a share of yes and no gets Wilson's, values that come in groups
(the pairs of one prompt) get a bootstrap that draws whole groups, two systems on the same prompts get their paired
difference.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit  # what scipy.stats, which takes two seconds to import, calls too

from trimtab.common.rng import generator

CONFIDENCE = 0.95

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure, the 95 % interval around it, and the number of values it rests on.

    What cannot be known is NaN, and null in JSON: everything when n is 0, the interval of a mean when n is 1.
    """

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, Any]:
        return {"value": _finite(self.value), "low": _finite(self.low), "high": _finite(self.high), "n": self.n}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Estimate":
        value, low, high = (math.nan if row.get(k) is None else float(row[k]) for k in ("value", "low", "high"))
        return cls(value, low, high, int(row["n"]))

    def text(self, digits: int = 2, *, scale: float = 1.0, unit: str = "") -> str:
        """``4.31 [4.20, 4.42] n=480``; value and interval are multiplied by ``scale``."""
        shown = (f"{x * scale:.{digits}f}" if math.isfinite(x) else "?" for x in (self.value, self.low, self.high))
        value, low, high = shown
        return f"{value}{unit} [{low}, {high}] n={self.n}"

    def percent(self, digits: int = 1) -> str:
        """A share as ``62.1 % [57.0, 67.2] n=480``."""
        return self.text(digits, scale=100, unit=" %")

    def __str__(self) -> str:
        return self.text()


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def mean(values: Values) -> float:
    """The default statistic of ``bootstrap_interval``."""
    return float(values.mean())


def mean_interval(values: Sequence[float]) -> Estimate:
    """The mean of independent values with Student's t interval: mean +- t(0.975, n - 1) * sd / sqrt(n)."""
    x = np.asarray(values, dtype=np.float64)
    n = len(x)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    if n == 1:
        return Estimate(float(x[0]), math.nan, math.nan, 1)
    centre = float(x.mean())
    half = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2) * x.std(ddof=1) / math.sqrt(n))
    return Estimate(centre, centre - half, centre + half, n)


def proportion_interval(successes: float, n: int) -> Estimate:
    """``successes`` of ``n`` independent yes-no trials with the interval of Wilson 1927; a tie may count as a half, and a
    ranking as the share of its pairs: no mean of values in [0, 1] varies more than that of yes and no.

    It stays inside [0, 1] and keeps its width at 0 and n successes, where the textbook interval has none.
    """
    assert 0 <= successes <= n, f"{successes} successes of {n}"
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    z = float(ndtri(0.5 + CONFIDENCE / 2))
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Estimate(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)), n)


def bootstrap_interval(
    values: Sequence[float],
    statistic: Callable[[Values], float] = mean,
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> Estimate:
    """A statistic of ``values`` with its percentile bootstrap interval (Efron 1979).

    Args:
        statistic: float array (any length >= 1) -> float.
        clusters: one label per value. Values of one cluster are drawn together, because they are not independent: the
            pairs of one prompt, the prompts of one user. ``n`` still counts values.

    When all values are equal the interval has no width, however few they are: for shares use ``share_interval``.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    groups = _groups(x, clusters)
    if len(groups) == 1:
        return Estimate(statistic(x), math.nan, math.nan, len(x))
    rng = generator(seed, "bootstrap")
    if statistic is mean:  # the mean of drawn clusters needs only their sums and sizes
        sums, sizes = np.array([g.sum() for g in groups]), np.array([len(g) for g in groups])
        drawn = (rng.integers(len(groups), size=len(groups)) for _ in range(resamples))
        draws = [float(sums[i].sum() / sizes[i].sum()) for i in drawn]
    else:
        drawn = (rng.integers(len(groups), size=len(groups)) for _ in range(resamples))
        draws = [statistic(np.concatenate([groups[j] for j in i])) for i in drawn]
    low, high = np.quantile(draws, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    return Estimate(statistic(x), float(low), float(high), len(x))


def _groups(values: Values, clusters: Sequence[Hashable] | None) -> list[Values]:
    """The values of each cluster, clusters in order of appearance."""
    if clusters is None:
        return [values[i : i + 1] for i in range(len(values))]
    assert len(clusters) == len(values), f"{len(clusters)} cluster labels for {len(values)} values"
    members: dict[Hashable, list[int]] = {}
    for i, label in enumerate(clusters):
        members.setdefault(label, []).append(i)
    return [values[i] for i in members.values()]


def share_interval(values: Sequence[float], *, clusters: Sequence[Hashable] | None = None, seed: int = 0) -> Estimate:
    """The mean of values in [0, 1] (won 1, tied 0.5, lost 0) with the cluster bootstrap's interval.

    Where all values are 0, or all 1, there is nothing to resample; then Wilson's interval on the number of clusters is
    given, so that 20 wins of 20 do not claim certainty.
    """
    n = len(values)
    if n and all(v == values[0] for v in values) and values[0] in (0, 1):
        independent = len(set(clusters)) if clusters is not None else n
        wilson = proportion_interval(values[0] * independent, independent)
        return Estimate(wilson.value, wilson.low, wilson.high, n)
    return bootstrap_interval(values, clusters=clusters, seed=seed)


def paired_difference(a: Sequence[float | None], b: Sequence[float | None]) -> Estimate:
    """The mean of a - b over positions where both have a value, with Student's t interval.

    Two systems on the same prompts: the prompts' own difficulty cancels, so this interval is narrower than that of the
    difference of two means.
    """
    assert len(a) == len(b), f"{len(a)} values against {len(b)}"
    return mean_interval([float(x) - float(y) for x, y in zip(a, b, strict=True) if x is not None and y is not None])
