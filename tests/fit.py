"""Whether drawn tokens are from the distribution they should be from: Pearson's chi-square against transformers' own logits."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from transformers import PreTrainedModel

from trimtab.sampling.protocol import SamplingOptions

# A cell that fewer draws are expected in is joined with the others like it: below that the statistic is not chi-square's.
LEAST_EXPECTED = 5


@dataclass(frozen=True)
class Fit:
    """The statistic, its degrees of freedom, and how likely a larger one is if all is right; draws that should be impossible."""

    draws: int
    statistic: float
    freedom: int
    p: float
    impossible: int


def next_tokens(model: PreTrainedModel, prompt: list[int], options: SamplingOptions) -> np.ndarray:
    """(V,) float64: what the next token should be drawn from, by the family's own attention, truncated by sorting."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt]), use_cache=False).logits[0, -1].double() / options.temperature
    probabilities = logits.softmax(-1).numpy()
    order = np.argsort(-probabilities)
    kept = order[: options.top_k or None]
    shares = probabilities[kept] / probabilities[kept].sum()
    kept = kept[: int(np.searchsorted(shares.cumsum(), options.top_p)) + 1] if options.top_p < 1 else kept
    out = np.zeros_like(probabilities)
    out[kept] = probabilities[kept] / probabilities[kept].sum()
    return out


def goodness_of_fit(counts: np.ndarray, expected: np.ndarray) -> Fit:
    """Counts of any shape against probabilities of the same shape, which sum to 1."""
    counts, expected = counts.ravel(), expected.ravel() * counts.sum()
    frequent, rare = expected >= LEAST_EXPECTED, (expected > 0) & (expected < LEAST_EXPECTED)
    observed, wanted = counts[frequent], expected[frequent]
    if rare.any():
        observed, wanted = np.append(observed, counts[rare].sum()), np.append(wanted, expected[rare].sum())
    impossible = int(counts[expected == 0].sum())
    assert impossible or len(wanted) > 1
    found = stats.chisquare(observed, wanted * observed.sum() / wanted.sum())
    return Fit(int(counts.sum()), float(found.statistic), len(wanted) - 1, float(found.pvalue), impossible)
