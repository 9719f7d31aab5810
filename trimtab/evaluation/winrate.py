"""Win rate: how often one model's answer is scored above another's on the same prompt."""

from collections.abc import Hashable, Sequence

from trimtab.common.stats import Estimate, share_interval

TIE = 0.05
"""Scores closer than this are a tie: a twentieth of a point of 7 is below anything a reader would notice."""


def win_rate(
    scores: Sequence[Sequence[float]],
    baseline_scores: Sequence[Sequence[float]],
    tie: float = TIE,
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Estimate:
    """P(score > baseline's score) + P(tie) / 2, for one random answer of each to a random prompt.

    Position i of both holds the scores of all answers to the same prompt; every answer of one model is held against every
    answer of the other, and a prompt counts once however many there are. A prompt that one of them has no score for is left
    out. Tie: the scores differ by at most ``tie``. Interval: bootstrap over prompts, or over ``clusters`` (one label per
    position, e.g. the user who wrote the prompt).
    """
    assert len(scores) == len(baseline_scores), f"{len(scores)} prompts against {len(baseline_scores)}"
    kept = [i for i, (a, b) in enumerate(zip(scores, baseline_scores, strict=True)) if a and b]
    outcomes = [_share_won(scores[i], baseline_scores[i], tie) for i in kept]
    groups = [clusters[i] for i in kept] if clusters is not None else None
    return share_interval(outcomes, clusters=groups, seed=seed)


def _share_won(scores: Sequence[float], others: Sequence[float], tie: float) -> float:
    won = [0.5 if abs(a - b) <= tie else float(a > b) for a in scores for b in others]
    return sum(won) / len(won)
