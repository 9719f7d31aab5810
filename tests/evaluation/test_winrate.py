"""Win rates worked by hand: ties, missing scores, several answers, symmetry."""

import math
from collections.abc import Sequence

import pytest

from trimtab.common.stats import proportion_interval
from trimtab.evaluation.winrate import TIE, win_rate


def one(*scores: float) -> Sequence[Sequence[float]]:
    """One answer to each prompt."""
    return [[score] for score in scores]


def test_wins_ties_and_losses_by_hand() -> None:
    # win, tie (equal), tie (0.04 apart), loss -> (1 + 0.5 + 0.5 + 0) / 4
    e = win_rate(one(5.0, 3.0, 4.04, 2.0), one(4.0, 3.0, 4.0, 6.0))
    assert (e.value, e.n) == (0.5, 4)
    assert e.low < 0.5 < e.high


def test_the_tie_rule_is_at_most_tie_on_both_sides() -> None:
    assert win_rate(one(1.0), one(1.0 - TIE * 0.99)).value == 0.5 == win_rate(one(1.0), one(1.0 + TIE * 0.99)).value
    assert win_rate(one(1.0 + TIE * 1.01), one(1.0)).value == 1.0
    assert win_rate(one(1.0, 2.0), one(1.001, 1.0), tie=0).value == 0.5  # without ties: one loss, one win


def test_a_model_against_itself_is_one_half_and_sides_add_up() -> None:
    a, b = one(3.0, 4.5, 6.0, 2.0, 5.5), one(4.0, 4.5, 2.0, 3.0, 5.0)
    assert win_rate(a, a).value == 0.5
    assert win_rate(a, b).value + win_rate(b, a).value == pytest.approx(1)


def test_a_prompt_without_a_score_on_either_side_is_left_out() -> None:
    e = win_rate([[5.0], [], [1.0], [6.0]], [[4.0], [2.0], [], [7.0]])
    assert (e.value, e.n) == (0.5, 2)
    nothing = win_rate([[]], one(2.0))
    assert nothing.n == 0 and math.isnan(nothing.value)


def test_each_answer_meets_each_and_a_prompt_counts_once() -> None:
    # prompt 1: (5, 1) against (3, 1): win, win, loss, tie -> 2.5 / 4; prompt 2: one win
    e = win_rate([[5.0, 1.0], [2.0]], [[3.0, 1.0], [1.0]])
    assert (e.value, e.n) == ((2.5 / 4 + 1) / 2, 2)


def test_winning_everywhere_is_not_certain() -> None:
    e = win_rate(one(*[7.0] * 30), one(*[1.0] * 30))
    assert (e.value, e.low) == (1.0, proportion_interval(30, 30).low)


def test_clusters_widen_the_interval_when_their_prompts_agree() -> None:
    wins = one(*([2.0] * 10 + [0.0] * 10) * 4)
    base = one(*[1.0] * 80)
    alone = win_rate(wins, base)
    users = win_rate(wins, base, clusters=[i // 10 for i in range(80)])
    assert users.value == alone.value == 0.5
    assert users.high - users.low > 2 * (alone.high - alone.low)
