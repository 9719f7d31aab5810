"""Best-of-n against enumeration of all subsets, against simulation, and at its limits."""

import math
from itertools import combinations

import numpy as np
import pytest

from trimtab.evaluation.best_of import best_of_curve, best_of_n, kl_bound


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
def test_best_of_n_is_the_mean_over_all_subsets(n: int) -> None:
    rng = np.random.default_rng(n)
    proxy, gold = rng.normal(size=7).tolist(), rng.normal(size=7).tolist()
    picks = [gold[max(subset, key=lambda i: proxy[i])] for subset in combinations(range(7), n)]
    assert best_of_n(proxy, gold, n) == pytest.approx(np.mean(picks), abs=1e-12)


def test_equal_proxies_share_the_pick() -> None:
    # subsets of two of {a, b, c} with proxies 1, 1, 0: {a, b} -> (10 + 20) / 2, {a, c} -> 10, {b, c} -> 20
    assert best_of_n([1.0, 1.0, 0.0], [10.0, 20.0, 99.0], 2) == pytest.approx((15 + 10 + 20) / 3)
    assert best_of_n([3.0] * 4, [1.0, 2.0, 3.0, 6.0], 3) == pytest.approx(3.0)


def test_limits() -> None:
    proxy, gold = [0.2, 0.9, 0.5], [1.0, 2.0, 6.0]
    assert best_of_n(proxy, gold, 1) == pytest.approx(3.0)
    assert best_of_n(proxy, gold, 3) == 2.0
    normal = np.random.default_rng(0).normal(size=4000).tolist()
    assert best_of_n(normal, normal, 2) == pytest.approx(1 / math.sqrt(math.pi), abs=0.05)  # E max of two normals


def test_the_estimate_is_unbiased_and_steadier_than_one_draw() -> None:
    rng = np.random.default_rng(2)
    ours, single = [], []
    for _ in range(600):
        proxy = rng.normal(size=8)
        ours.append(best_of_n(proxy.tolist(), proxy.tolist(), 4))
        single.append(float(proxy[:4].max()))
    truth = 1.02938  # E max of four standard normals
    assert np.mean(ours) == pytest.approx(truth, abs=4 * np.std(ours) / math.sqrt(600))
    assert np.std(ours) < 0.9 * np.std(single)


def test_kl_bound_by_hand_and_against_a_known_case() -> None:
    assert kl_bound(1) == 0
    assert kl_bound(8) == pytest.approx(math.log(8) - 7 / 8)
    # two equally likely answers, best of 2: the better has probability 3/4, far below the bound's 0.193
    exact = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert exact < kl_bound(2)

    # m equally likely answers in order: P(best is the i-th) = (i^n - (i-1)^n) / m^n; the bound is approached as m grows
    def kl(m: int, n: int) -> float:
        p = np.diff(np.arange(m + 1, dtype=float) ** n) / float(m) ** n
        return float((p * np.log(p * m)).sum())

    assert kl(10, 4) < kl(1000, 4) < kl_bound(4) == pytest.approx(kl(1000, 4), abs=1e-2)


def test_the_curve_shows_over_optimisation() -> None:
    rng = np.random.default_rng(3)
    gold = rng.normal(size=(300, 16))
    proxy = gold + 1.5 * rng.normal(size=(300, 16))
    curve = best_of_curve(proxy.tolist(), gold.tolist())
    assert [p.n for p in curve] == [1, 2, 4, 8, 16]
    assert [p.proxy.value for p in curve] == sorted(p.proxy.value for p in curve)
    assert 0 < curve[-1].gold.value < 0.6 * curve[-1].proxy.value
    assert curve[0].gold.n == 300 and curve[3].kl_bound == kl_bound(8)
    assert best_of_curve([], []) == []
