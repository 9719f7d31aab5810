"""Best of n: how far it can be from the policy that it samples from, and what it is worth, exact over all subsets of N samples."""

import math
from collections.abc import Sequence
from itertools import groupby


def kl_bound(n: int) -> float:
    """log n - (n - 1) / n: an upper bound on KL(best-of-n, policy) in nats per completion, whatever the reward.

    It was long used as the exact value; Beirami et al. 2024 show that it is only a bound, loose where a few answers
    hold most of the probability.
    """
    assert n >= 1, n
    return math.log(n) - (n - 1) / n


def best_of_n(proxy: Sequence[float], gold: Sequence[float], n: int) -> float:
    """E[gold of the sample with the highest proxy] over all subsets of ``n`` of one prompt's N samples.

    Samples with equal proxy share their chances: which of them is taken is a fair draw.
    """
    total = len(proxy)
    assert len(gold) == total and 1 <= n <= total, f"best of {n} from {total} samples with {len(gold)} gold scores"
    order = sorted(range(total), key=lambda i: proxy[i])
    subsets = math.comb(total, n)
    expected, below = 0.0, 0
    for _, tied in groupby(order, key=lambda i: proxy[i]):
        members = list(tied)
        upto = below + len(members)
        # the best lies in this group when the subset lies in the first `upto` samples but not in the first `below`
        chance = (math.comb(upto, n) - math.comb(below, n)) / subsets
        expected += chance * sum(gold[i] for i in members) / len(members)
        below = upto
    return expected
