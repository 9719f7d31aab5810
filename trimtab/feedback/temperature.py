"""What a reward model's margins are worth as confidence: one number, fitted on rankings that it was not trained on.

P(a is preferred to b) = sigma((r_a - r_b) / T), r the model's plain outputs. A model that was trained long is sure too early, and T is then
above 1. Guo et al. 2017, section 4.2 (temperature scaling), for pairs: the order of the answers, and so every accuracy, stays.
"""

from collections.abc import Sequence

import numpy as np

MOST = 1e6
"""Where a reciprocal temperature counts as infinite."""


def fit_temperature(margins: Sequence[float]) -> float | None:
    """The T > 0 with the least ``pair_loss`` of ``margins``: (n,) plain outputs, better minus worse, one for each pair.

    The loss is convex in 1 / T; its slope there is -mean m * sigma(-m / T), of which this is the root. None where there is none: no pairs,
    pairs that are all ordered rightly (the surer the better, T -> 0), or margins that are no evidence (their mean is not above 0, T ->
    infinity).
    """
    from scipy.optimize import brentq  # takes a second

    m = np.asarray(margins, dtype=np.float64)

    def slope(reciprocal: float) -> float:
        return float(-np.mean(m * 0.5 * (1 - np.tanh(reciprocal * m / 2))))

    if not len(m) or slope(0.0) >= 0 or slope(MOST) <= 0:
        return None
    return 1 / float(brentq(slope, 0.0, MOST, xtol=1e-14, rtol=1e-12, maxiter=500))


def pair_loss(margins: Sequence[float], temperature: float = 1.0) -> float:
    """-mean log sigma(m / T) of (n,) margins, nats per pair."""
    return float(np.mean(np.logaddexp(0.0, -np.asarray(margins, dtype=np.float64) / temperature)))
