"""Intervals against scipy, closed forms, and their coverage in simulation."""

import json
import math

import numpy as np
import pytest
import scipy.stats

from trimtab.common.stats import (
    Estimate,
    bootstrap_interval,
    mean_interval,
    paired_difference,
    proportion_interval,
    share_interval,
)


def test_mean_interval_is_scipys_t_interval() -> None:
    values = [3.0, 4.5, 5.0, 2.0, 6.5, 4.0]
    low, high = scipy.stats.t.interval(0.95, 5, loc=np.mean(values), scale=scipy.stats.sem(values))
    e = mean_interval(values)
    assert (e.value, e.low, e.high, e.n) == pytest.approx((np.mean(values), low, high, 6), abs=1e-12)


def test_mean_of_one_has_no_interval_and_of_none_no_value() -> None:
    one, none = mean_interval([4.0]), mean_interval([])
    assert (one.value, one.n) == (4.0, 1) and math.isnan(one.low) and math.isnan(one.high)
    assert none.n == 0 and math.isnan(none.value)
    assert one.to_json() == {"value": 4.0, "low": None, "high": None, "n": 1}
    assert str(one) == "4.00 [?, ?] n=1"


@pytest.mark.parametrize(("successes", "n"), [(0, 20), (1, 20), (13, 48), (298, 480), (20, 20)])
def test_proportion_interval_is_scipys_wilson(successes: int, n: int) -> None:
    expected = scipy.stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    e = proportion_interval(successes, n)
    assert (e.value, e.low, e.high) == pytest.approx((successes / n, expected.low, expected.high), abs=1e-9)
    assert 0 <= e.low <= e.value <= e.high <= 1


def test_proportion_by_hand() -> None:
    # 10 of 20: the centre is 1/2, half the width z * sqrt(1 / 4n + z^2 / 4n^2) / (1 + z^2 / n)
    # = 1.95996 * sqrt(0.0125 + 0.0024010) / 1.192073 = 0.200705
    e = proportion_interval(10, 20)
    assert (e.low, e.high) == pytest.approx((0.2993, 0.7007), abs=1e-4)
    assert proportion_interval(0, 0).n == 0


def test_bootstrap_of_a_mean_agrees_with_t_when_n_is_large() -> None:
    values = np.random.default_rng(1).exponential(size=800)
    t, b = mean_interval(values), bootstrap_interval(values)
    assert b.value == pytest.approx(t.value)
    assert (b.low, b.high) == pytest.approx((t.low, t.high), abs=0.1 * (t.high - t.low))


def test_bootstrap_of_a_median_agrees_with_scipy() -> None:
    values = np.random.default_rng(2).normal(size=101)
    ours = bootstrap_interval(values, lambda x: float(np.median(x)))
    scipys = scipy.stats.bootstrap((values,), np.median, method="percentile", n_resamples=2000, rng=3)
    assert ours.value == np.median(values)
    assert (ours.low, ours.high) == pytest.approx(tuple(scipys.confidence_interval), abs=0.1)


def test_the_generic_path_gives_what_the_fast_path_gives() -> None:
    values, clusters = [1.0, 0.0, 4.0, 2.0, 2.5, 9.0], ["a", "a", "b", "c", "c", "c"]
    fast = bootstrap_interval(values, clusters=clusters, seed=5)
    slow = bootstrap_interval(values, lambda x: float(x.mean()), clusters=clusters, seed=5)
    assert (fast.value, fast.n) == (pytest.approx(slow.value), slow.n)
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), abs=1e-12)


def test_bootstrap_repeats_with_its_seed_and_not_with_another() -> None:
    values = [0.3, 1.7, 2.9, 0.1, 4.4]
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_copies_of_one_value_in_a_cluster_bring_no_certainty() -> None:
    values = np.random.default_rng(4).normal(size=40)
    alone = bootstrap_interval(values)
    tenfold = bootstrap_interval(np.repeat(values, 10), clusters=np.repeat(np.arange(40), 10).tolist())
    assert (tenfold.low, tenfold.high) == pytest.approx((alone.low, alone.high), abs=1e-9)
    assert tenfold.n == 400
    blind = bootstrap_interval(np.repeat(values, 10))
    assert blind.high - blind.low < 0.5 * (tenfold.high - tenfold.low)


def test_one_cluster_has_no_interval() -> None:
    e = bootstrap_interval([1.0, 2.0, 3.0], clusters=["p", "p", "p"])
    assert e.value == 2.0 and math.isnan(e.low) and e.n == 3


def coverage(intervals: list[Estimate], truth: float) -> float:
    return float(np.mean([e.low <= truth <= e.high for e in intervals]))


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    assert 0.93 <= coverage([mean_interval(rng.normal(3.0, 2.0, size=8)) for _ in range(1000)], 3.0) <= 0.97
    assert 0.93 <= coverage([proportion_interval(int(rng.binomial(60, 0.3)), 60) for _ in range(1000)], 0.3) <= 0.97


def test_the_cluster_bootstrap_covers_where_the_blind_one_does_not() -> None:
    rng = np.random.default_rng(7)
    clusters = np.repeat(np.arange(40), 6).tolist()
    aware, blind = [], []
    for _ in range(250):
        values = np.repeat(rng.normal(size=40), 6) + 0.5 * rng.normal(size=240)
        aware.append(bootstrap_interval(values, clusters=clusters, resamples=300))
        blind.append(bootstrap_interval(values, resamples=300))
    assert 0.89 <= coverage(aware, 0.0) <= 0.98
    assert coverage(blind, 0.0) < 0.75


def test_a_share_of_all_wins_is_not_certain() -> None:
    e = share_interval([1.0] * 20)
    assert (e.low, e.high) == (proportion_interval(20, 20).low, 1.0)
    grouped = share_interval([1.0] * 20, clusters=[i // 5 for i in range(20)])
    assert grouped.low == proportion_interval(4, 4).low and grouped.n == 20
    ties = share_interval([1.0, 0.5, 0.0, 1.0] * 30, seed=3)
    assert ties.value == 0.625 and 0 < ties.low < 0.625 < ties.high < 1


def test_paired_difference_drops_missing_and_beats_the_unpaired_interval() -> None:
    e = paired_difference([5.0, None, 4.0, 3.0], [4.0, 2.0, None, 1.0])
    assert (e.value, e.n) == (1.5, 2)
    rng = np.random.default_rng(3)
    hard = rng.normal(size=200)
    a, b = hard + 0.1 * rng.normal(size=200) + 0.2, hard + 0.1 * rng.normal(size=200)
    paired = paired_difference(a.tolist(), b.tolist())
    theirs = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (paired.low, paired.high) == pytest.approx(tuple(theirs), abs=1e-12)
    assert paired.high - paired.low < 0.3 * (mean_interval(a).high - mean_interval(a).low)


def test_text_and_json_round_trip() -> None:
    e = Estimate(0.6208, 0.5701, 0.6717, 480)
    assert e.percent() == "62.1 % [57.0, 67.2] n=480"
    assert Estimate(4.312, 4.2, 4.42, 480).text() == "4.31 [4.20, 4.42] n=480" == str(Estimate(4.312, 4.2, 4.42, 480))
    assert Estimate.from_json(json.loads(json.dumps(e.to_json()))) == e
    gone = Estimate.from_json(Estimate(math.nan, math.nan, math.nan, 0).to_json())
    assert gone.n == 0 and math.isnan(gone.value) and math.isnan(gone.low)
