"""Accuracy, agreement, baselines and calibration on rankings small enough to count by hand, and on simulated ones."""

import json
import math

import numpy as np
import pytest

from trimtab.evaluation.reward_quality import (
    accuracy_by_margin,
    calibration,
    labeler_agreement,
    longest_baseline,
    pair_accuracy,
)
from trimtab.records import Comparison, Completion, Message, Prompt


def ranking(prompt: str, texts: list[str], ranks: list[int | None], labeler: str | None = None) -> Comparison:
    return Comparison(
        Prompt(prompt, (Message("user", "?"),)), tuple(Completion(t) for t in texts), tuple(ranks), labeler=labeler
    )


def test_pair_accuracy_by_hand() -> None:
    items = [ranking("p", ["a", "b", "c"], [1, 2, 3]), ranking("q", ["a", "b", "c"], [1, 1, None])]
    # p: (a, b) right, (a, c) wrong, (b, c) wrong; q: a tie and an unranked answer, no pair
    e = pair_accuracy([[2.0, 1.0, 3.0], [0.0, 9.0, 5.0]], items)
    assert (e.value, e.n) == (pytest.approx(1 / 3), 3)
    assert pair_accuracy([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]], items).value == 0.5
    assert pair_accuracy([[0.0, 0.0, 0.0]], [items[1]]).n == 0


def test_pair_accuracy_is_clustered_by_prompt() -> None:
    texts, ranks = [str(i) for i in range(6)], [1, 2, 3, 4, 5, 6]
    items = [ranking(f"p{i}", texts, ranks) for i in range(20)]
    right, wrong = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    e = pair_accuracy([right if i % 4 else wrong for i in range(20)], items)
    assert (e.value, e.n) == (0.75, 20 * 15)
    # 20 rankings that are all right or all wrong: as uncertain as 20 coin tosses, not as 300
    assert 0.3 < e.high - e.low < 0.45


def test_longest_baseline_counts_words() -> None:
    items = [ranking("p", ["one two three", "incomprehensibilities"], [1, 2]), ranking("q", ["a b", "c d"], [1, 2])]
    assert longest_baseline(items).value == 0.75  # right, and a tie in length


def test_labelers_agree_by_hand() -> None:
    texts = ["a", "b", "c"]
    items = [
        ranking("p", texts, [1, 2, 3], "ann"),
        ranking("p", texts, [1, 3, 2], "ben"),  # agrees on (a, b) and (a, c), not on (b, c)
        ranking("p", texts, [1, 1, 2], "ann"),  # ann again: only against ben, (a, c) agrees, (b, c) not, (a, b) is tied
        ranking("q", texts, [1, 2, 3], "ann"),
        ranking("q", ["a", "b", "x"], [3, 2, 1], "ben"),  # other answers: another item
    ]
    e = labeler_agreement(items)
    assert (e.value, e.n) == (pytest.approx(3 / 5), 5)
    assert labeler_agreement(items[3:]).n == 0


def test_agreement_of_labelers_with_known_noise() -> None:
    rng = np.random.default_rng(0)
    flip, items = 0.2, []
    for i in range(1500):
        for labeler in ("ann", "ben"):
            items.append(ranking(f"p{i}", ["a", "b"], [1, 2] if rng.random() > flip else [2, 1], labeler))
    expected = flip**2 + (1 - flip) ** 2
    e = labeler_agreement(items)
    assert e.low <= expected <= e.high and e.n == 1500


def logistic_world(n: int = 3000) -> tuple[list[list[float]], list[Comparison]]:
    """Pairs whose better answer is drawn with probability sigma(score difference): perfectly calibrated."""
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(n, 2)) * 2
    first_wins = rng.random(n) < 1 / (1 + np.exp(scores[:, 1] - scores[:, 0]))
    return scores.tolist(), [ranking(f"p{i}", ["a", "b"], [1, 2] if w else [2, 1]) for i, w in enumerate(first_wins)]


def test_calibration_is_small_for_true_probabilities_and_large_for_boasting_ones() -> None:
    scores, items = logistic_world()
    honest, boasting = calibration(scores, items), calibration(scores, items, scale=5.0)
    assert honest.error < 0.03
    assert boasting.error > 0.08
    assert sum(b.accuracy.n for b in honest.bins) == 3000
    assert all(b.low <= b.confidence <= b.high for b in honest.bins)


def test_calibration_by_hand() -> None:
    items = [ranking(p, ["a", "b"], [1, 2]) for p in "pqrs"]
    huge = 1e6  # confidence 1 without overflow
    c = calibration([[huge, 0], [huge, 0], [huge, 0], [0, huge]], items)
    assert (c.error, len(c.bins), c.bins[0].accuracy.value) == (pytest.approx(0.25), 1, 0.75)
    assert math.isnan(calibration([], []).error)
    assert calibration([], []).to_json() == {"error": None, "bins": []}
    row = json.loads(json.dumps(c.to_json()))
    assert row["bins"][0]["accuracy"]["value"] == 0.75 and row["bins"][0]["high"] == 1.0


def test_accuracy_rises_with_the_margin() -> None:
    scores, items = logistic_world()
    bins = accuracy_by_margin(scores, items, 4)
    assert [b.accuracy.n for b in bins] == [750] * 4
    assert all(a.high <= b.low for a, b in zip(bins, bins[1:], strict=False))
    values = [b.accuracy.value for b in bins]
    assert values == sorted(values) and values[0] < 0.65 and values[-1] > 0.9
    assert len(accuracy_by_margin(scores[:2], items[:2], 5)) == 2
    assert accuracy_by_margin([], []) == ()
