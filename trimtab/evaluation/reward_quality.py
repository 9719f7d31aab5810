"""How good a reward model is on rankings it has not seen, and what to hold that against.

Accuracy alone says little: the yardstick is how far two labelers agree with each other (a model of what the average labeler
likes can pass it: it has no bad days), the floor is a rule that prefers the longer answer. Calibration asks something else:
whether the model is right about 80 % of the pairs that it decides with a confidence of 80 %. All intervals resample prompts,
because the pairs of one ranking share their answers.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from trimtab.common.stats import Estimate, share_interval
from trimtab.records import Comparison

Scores = Sequence[Sequence[float]]
"""One number for each completion of each comparison."""


@dataclass(frozen=True)
class Bin:
    """Pairs whose margins, or confidences, lie in [low, high]. ``confidence``: the mean sigma(margin) of the pairs."""

    low: float
    high: float
    confidence: float
    accuracy: Estimate

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "accuracy": self.accuracy.to_json()}


@dataclass(frozen=True)
class Calibration:
    """``error`` is the expected calibration error: the mean over pairs of |accuracy - confidence| of the pair's bin."""

    error: float
    bins: tuple[Bin, ...]

    def to_json(self) -> dict[str, Any]:
        """For ``results.json``; the error is null without pairs."""
        return {"error": self.error if self.bins else None, "bins": [b.to_json() for b in self.bins]}


def pair_accuracy(scores: Scores, comparisons: Sequence[Comparison], *, seed: int = 0) -> Estimate:
    """The share of comparable pairs whose better-ranked answer scores higher; equal scores count half."""
    margins, prompts = _margins(scores, comparisons)
    return share_interval([_outcome(m) for m in margins], clusters=prompts, seed=seed)


def longest_baseline(comparisons: Sequence[Comparison], *, seed: int = 0) -> Estimate:
    """``pair_accuracy`` of the rule "more words are better"; any reward model must beat it."""
    lengths = [[float(len(c.text.split())) for c in item.completions] for item in comparisons]
    return pair_accuracy(lengths, comparisons, seed=seed)


def labeler_agreement(comparisons: Sequence[Comparison], *, seed: int = 0) -> Estimate:
    """How often two labelers order a pair of answers the same way, over pairs that neither of them ties.

    Two comparisons are of the same item when prompt id and completions are the same; ranking an item twice by the same
    labeler does not count. ``n`` counts (pair of labelers, pair of answers).
    """
    items: dict[tuple[str, tuple[str, ...]], list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        items[comparison.prompt.id, tuple(c.text for c in comparison.completions)].append(comparison)
    agreed, prompts = [], []
    for (prompt, _), said in items.items():
        for a, b in combinations(said, 2):
            if a.labeler is not None and a.labeler == b.labeler:
                continue
            theirs = set(b.pairs())
            for better, worse in a.pairs():
                if (better, worse) in theirs or (worse, better) in theirs:
                    agreed.append(float((better, worse) in theirs))
                    prompts.append(prompt)
    return share_interval(agreed, clusters=prompts, seed=seed)


def accuracy_by_margin(
    scores: Scores, comparisons: Sequence[Comparison], bins: int = 5, *, scale: float = 1.0, seed: int = 0
) -> tuple[Bin, ...]:
    """Accuracy where the reward model is unsure and where it is sure.

    Pairs are sorted by the absolute difference of their scores and cut into ``bins`` parts of (nearly) equal size,
    fewer when there are fewer pairs. ``scale`` turns a difference of scores into a logit (as in ``reward.json``).
    """
    margins, prompts = _margins(scores, comparisons)
    size = np.abs(margins)
    parts = np.array_split(np.argsort(size, kind="stable"), min(bins, len(size))) if len(size) else []
    return tuple(
        _bin(part, margins, prompts, scale, seed, float(size[part[0]]), float(size[part[-1]])) for part in parts
    )


def calibration(
    scores: Scores, comparisons: Sequence[Comparison], bins: int = 10, *, scale: float = 1.0, seed: int = 0
) -> Calibration:
    """Expected calibration error of the preferred answer's probability sigma(scale * margin), which is 0.5 or more.

    Bins of equal width between 0.5 and 1 (Guo et al. 2017, equation 3); empty ones are left out. NaN without pairs.
    """
    margins, prompts = _margins(scores, comparisons)
    if not len(margins):
        return Calibration(float("nan"), ())
    confidence = _sigmoid(scale * np.abs(margins))
    edges = np.linspace(0.5, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    found = [(b, np.flatnonzero(place == b)) for b in range(bins) if (place == b).any()]
    out = tuple(_bin(part, margins, prompts, scale, seed, float(edges[b]), float(edges[b + 1])) for b, part in found)
    gaps = [b.accuracy.n * abs(b.accuracy.value - b.confidence) for b in out]
    return Calibration(sum(gaps) / len(margins), out)


def _bin(
    part: np.ndarray, margins: np.ndarray, prompts: Sequence[str], scale: float, seed: int, low: float, high: float
) -> Bin:
    accuracy = share_interval([_outcome(margins[i]) for i in part], clusters=[prompts[i] for i in part], seed=seed)
    return Bin(low, high, float(_sigmoid(scale * np.abs(margins[part])).mean()), accuracy)


def _margins(scores: Scores, comparisons: Sequence[Comparison]) -> tuple[np.ndarray, list[str]]:
    """Score of the better-ranked answer minus that of the worse one, and the prompt's id, for every comparable pair."""
    margins, prompts = [], []
    for row, item in zip(scores, comparisons, strict=True):
        assert len(row) == len(item.completions), (
            f"{item.prompt.id}: {len(row)} scores, {len(item.completions)} answers"
        )
        for better, worse in item.pairs():
            margins.append(float(row[better]) - float(row[worse]))
            prompts.append(item.prompt.id)
    return np.array(margins, dtype=np.float64), prompts


def _outcome(margin: float) -> float:
    return 0.5 if margin == 0 else float(margin > 0)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(x / 2)  # no overflow, whatever x is
