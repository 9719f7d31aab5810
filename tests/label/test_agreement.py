"""Agreement against the published worked examples, and against what must hold whatever the data."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from trimtab.common.rng import generator
from trimtab.label.agreement import Unit, ac1, alpha, pair_units, rank_units, raw_agreement
from trimtab.label.rankings import alike, mean_ranks

_ = None
# Four observers, twelve units, five values, values missing (Krippendorff 2011, "Computing Krippendorff's alpha-reliability", example C).
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]
UNITS = [Unit(tuple(float(v) for v in column if v is not None)) for column in zip(*OBSERVERS, strict=True)]


@pytest.mark.parametrize(
    ("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849), ("ratio", 0.797)]
)
def test_krippendorffs_example(level: str, published: float) -> None:
    assert round(alpha(UNITS, level).value, 3) == published  # type: ignore[arg-type]


def test_krippendorffs_binary_example() -> None:
    """Two observers, ten units, 0 and 1: alpha 0.095 (the same paper, example A)."""
    a, b = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    units = [Unit((float(x), float(y))) for x, y in zip(a, b, strict=True)]
    assert round(alpha(units, "nominal").value, 3) == 0.095
    assert raw_agreement(units).value == pytest.approx(0.6)


def test_gwets_example() -> None:
    """The same four observers: AC1 0.77544, raw agreement 0.81818 (Gwet, Handbook of Inter-Rater Reliability, the table of 12 subjects)."""
    assert ac1(UNITS, 5).value == pytest.approx(0.77544, abs=5e-6)
    assert raw_agreement(UNITS).value == pytest.approx(0.81818, abs=5e-6)


def test_ac1_by_hand() -> None:
    """Two people, ten units, 9 x (1, 1) and one (1, 0): p_a = 0.9, pi = 0.95 and 0.05, p_e = 2 * 0.95 * 0.05 = 0.095."""
    units = [Unit((1.0, 1.0))] * 9 + [Unit((1.0, 0.0))]
    assert ac1(units, 2).value == pytest.approx((0.9 - 0.095) / 0.905)
    assert alpha(units, "nominal").value == pytest.approx(0.0, abs=1e-12)  # the paradox for which both are shown


def test_limits() -> None:
    assert alpha([Unit((1.0, 1.0)), Unit((2.0, 2.0))], "ordinal").value == 1
    assert math.isnan(alpha([Unit((1.0, 1.0)), Unit((1.0, 1.0))], "nominal").value)
    assert math.isnan(alpha([Unit((1.0,)), Unit((2.0,))], "nominal").value) and alpha([], "nominal").n == 0
    rng = generator(0, "agreement test")
    chance = [Unit(tuple(float(v) for v in rng.integers(0, 3, 3))) for _ in range(4000)]
    assert abs(alpha(chance, "nominal").value) < 0.02 and abs(ac1(chance, 3).value) < 0.02


@given(st.lists(st.lists(st.integers(1, 5), min_size=2, max_size=4), min_size=2, max_size=12), st.randoms())
def test_no_order_matters(rows: list[list[int]], random) -> None:  # type: ignore[no-untyped-def]
    units = [Unit(tuple(map(float, r))) for r in rows]
    mixed = [Unit(tuple(random.sample(u.values, len(u.values)))) for u in random.sample(units, len(units))]
    for level in ("nominal", "ordinal", "interval"):
        one, other = (alpha(u, level, resamples=0).value for u in (units, mixed))  # type: ignore[arg-type]
        assert one == pytest.approx(other, nan_ok=True)
    assert alpha(units, "nominal", resamples=0).value == pytest.approx(  # names of values mean nothing to nominal data
        alpha([Unit(tuple(-v for v in u.values)) for u in units], "nominal", resamples=0).value, nan_ok=True
    )


def test_the_interval_covers_and_clusters_widen_it() -> None:
    """100 samples of 60 tasks from one population: the 95 % interval holds its alpha in about 95; copies in a task add nothing."""

    def sample(seed: int) -> list[Unit]:
        rng = generator(seed, "population")
        truth = rng.integers(0, 3, 60)
        return [
            Unit(tuple(float(t if rng.random() < 0.8 else rng.integers(0, 3)) for _ in range(2)), i)
            for i, t in enumerate(truth)
        ]

    population = alpha(
        [Unit(u.values, (s, u.cluster)) for s in range(200) for u in sample(s)], "nominal", resamples=0
    ).value
    found = [alpha(sample(s), "nominal", resamples=300) for s in range(100)]
    assert 88 <= sum(e.low <= population <= e.high for e in found) <= 99
    copies = alpha(sample(0) * 10, "nominal", resamples=300)
    assert copies.high - copies.low == pytest.approx(found[0].high - found[0].low, rel=0.15)


def test_rankings_become_units() -> None:
    given = {"t": [[1, 2, 2], [1, 2, None]]}
    assert mean_ranks([1, 1, 2, None]) == [1.5, 1.5, 3.0, None]
    assert [(u.values, u.cluster) for u in rank_units(given)] == [((1 / 6, 1 / 4), "t"), ((4 / 6, 3 / 4), "t")]
    assert [u.values for u in pair_units(given)] == [(1.0, 1.0)]  # the others have one value each
    assert len(pair_units({"t": [[1, 2, 3], [3, 2, 1]]})) == 3
    assert alike([1, 2, 3], [1, 3, 2]) == (2, 3) and alike([1, 1, 2], [1, 2, 3]) == (2, 2)
    assert np.isnan(alpha(pair_units({}), "nominal").value)


def test_random_rankings_of_all_sizes_agree_by_chance_alone() -> None:
    """3,000 tasks of two to nine answers, ranked at random by two people, with ties: alpha is 0, not above."""
    rng = generator(0, "random rankings of all sizes")
    rankings = {t: [[int(r) for r in rng.integers(1, k + 1, k)] for _ in range(2)] for t, k in enumerate(rng.integers(2, 10, 3000))}
    assert abs(alpha(rank_units(rankings), "ordinal", resamples=0).value) < 0.02
