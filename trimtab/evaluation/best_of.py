"""Best-of-n: the answer that a reward model likes most among n samples, the line that every training method must beat.

From N samples per prompt the expectation over all subsets of size n is exact, without drawing any: sorted by proxy
score, sample i (from 1) is the best of C(i - 1, n - 1) of the C(N, n) subsets (Nakano et al. 2021, appendix I). So one
set of 64 samples gives the whole curve n = 1..64, and each point uses every sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.common.best_of import best_of_n, kl_bound
from trimtab.common.stats import Estimate, mean_interval


@dataclass(frozen=True)
class BestOf:
    """One point of the curve; intervals are over prompts. ``kl_bound``: nats per completion, see ``kl_bound``."""

    n: int
    kl_bound: float
    proxy: Estimate
    gold: Estimate


def best_of_curve(
    proxy: Sequence[Sequence[float]], gold: Sequence[Sequence[float]], sizes: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)
) -> list[BestOf]:
    """Proxy and gold score of best-of-n for every n in ``sizes`` that all prompts have samples for.

    Row i of both is prompt i; column j is the same sample in both.
    """
    fewest = min(map(len, proxy), default=0)
    out = []
    for n in (size for size in sizes if size <= fewest):
        proxies = mean_interval([best_of_n(p, p, n) for p in proxy])
        golds = mean_interval([best_of_n(p, g, n) for p, g in zip(proxy, gold, strict=True)])
        out.append(BestOf(n, kl_bound(n), proxies, golds))
    return out
