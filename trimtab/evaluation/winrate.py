"""Win rate: how often one model's answer is scored above another's on the same prompt."""

from collections.abc import Hashable, Sequence

from trimtab.common.stats import Estimate, share_interval

TIE = 0.05
"""Scores closer than this are a tie: a twentieth of a point of 7 is below anything a reader would notice."""


def win_rate(
    scores: Sequence[float | None],
    baseline_scores: Sequence[float | None],
    tie: float = TIE,
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Estimate:
    """The share of prompts on which ``scores`` beats ``baseline_scores``; a tie counts as half a win.

    Position i of both is the same prompt; a prompt that one of them has no score for is left out. Tie: the scores
    differ by at most ``tie``. Interval: bootstrap over prompts, or over ``clusters`` (one label per position, e.g. the
    user who wrote the prompt).
    """
    assert len(scores) == len(baseline_scores), f"{len(scores)} scores against {len(baseline_scores)}"
    pairs = zip(scores, baseline_scores, strict=True)
    kept = [(i, a - b) for i, (a, b) in enumerate(pairs) if a is not None and b is not None]
    outcomes = [0.5 if abs(margin) <= tie else float(margin > 0) for _, margin in kept]
    groups = [clusters[i] for i, _ in kept] if clusters is not None else None
    return share_interval(outcomes, clusters=groups, seed=seed)
