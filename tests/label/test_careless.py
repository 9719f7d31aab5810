"""Spammers are found, honest people are left alone, position bias is seen where it is and nowhere else."""

import itertools

import numpy as np
import pytest
from label_league import league, shown_orders

from trimtab.common.rng import generator
from trimtab.label.careless import (
    HORIZON,
    Ranked,
    Usual,
    by_chance,
    evidence,
    position_bias,
    standing,
    stands,
    suspicions,
)


def test_a_random_ranking_stands_anywhere() -> None:
    """u of random rankings is uniform whatever K, ties and others are: its mean is 1/2 and each fifth has a fifth."""
    rng = generator(0, "random rankings")
    for k, others in ((2, 1), (4, 2), (7, 2)):
        found = []
        for i in range(1500):
            ranks = tuple(int(r) for r in rng.integers(1, k + 1, k))
            held = tuple(tuple(int(r) for r in rng.permutation(k) + 1) for _ in range(others))
            u = standing(ranks, held, generator(1, i))
            if u is not None:
                found.append(u)
        counts = np.histogram(found, 5, (0, 1))[0] / len(found)
        assert np.abs(counts - 0.2).max() < 0.04, (k, counts)


def test_where_nothing_can_be_said() -> None:
    rng = generator(0)
    assert standing((1, 2), (), rng) is None
    assert standing((1, 1), ((1, 2),), rng) is None
    assert standing((1, 2, None), ((None, None, 1),), rng) is None
    assert standing((1, 2, 3, 4, 5), ((1, 2, 3, 4, 5),), rng) > 0.99  # type: ignore[operator]


def test_who_ties_much_is_not_careless_for_that() -> None:
    """A winner before six that tie: every seventh of the shufflings agrees as much, so it stands on an interval; its likelihood by hand.

    Beta(2, 1) has F(u) = u^2: the upper half holds 3/4 of what is usual and 1/2 of what is random, 2/3 as likely; no point of it is drawn.
    """
    rng = generator(0)
    assert stands((1, 2, 2), [(1, 2, 3)], rng) == pytest.approx((4 / 6, 1))
    low, high = stands((1, 2, 2, 2, 2, 2, 2), [(1, 2, 3, 4, 5, 6, 7)], rng) or (0, 0)
    assert high == 1 and low == pytest.approx(6 / 7, abs=0.06)
    usual = Usual({7: (2.0, 1.0)}, (1.0, 1.0))
    assert evidence([(7, (0.5, 1.0), None)], usual) == pytest.approx([np.log(0.7 + 0.3 * 2 / 3)])
    assert evidence([(7, (0.0, 0.25), (0.0, 1.0)), (4, (0.0, 0.1), None)], usual) == pytest.approx([np.log(0.7 + 0.3 * 4), 0])


@pytest.mark.parametrize(("spam", "consistent"), [(0.3, False), (0.6, True)])
def test_spammers_are_flagged(spam: float, consistent: bool) -> None:
    """20 people, 4 to 9 answers; the first clicks at random in 30 % of the items, or guesses a fitting order in 60 %."""
    for seed in range(2):
        found = suspicions(league(seed, spam=spam, consistent=consistent))[0]
        assert found.flagged_at is not None and found.flagged_at <= HORIZON and found.level >= 1


def test_others_are_not() -> None:
    false = [who for seed in range(3) for who, s in suspicions(league(seed, spam=0.0)).items() if s.flagged_at]
    assert len(false) <= 5  # of 60; 2 % are 1.2


def test_somebody_who_gets_tired_is_found_in_the_last_items() -> None:
    items = league(3, spam=0.0, items=80)
    own = [i for i, item in enumerate(items) if item.labeler == 0]
    rng = generator(0, "tired")
    for i in own[50:]:
        items[i] = Ranked(
            0, tuple(int(r) for r in rng.permutation(len(items[i].ranks)) + 1), items[i].others, items[i].ratings
        )
    assert suspicions(items[: own[45]])[0].flagged_at is None
    assert suspicions(items)[0].flagged_at is not None


def test_nobody_is_judged_by_too_few_others() -> None:
    assert suspicions([Ranked("a", (1, 2, 3), ((3, 2, 1),))] * 60) == {}


@pytest.mark.parametrize("pull", [0.0, 0.35])
def test_position_bias(pull: float) -> None:
    """2,000 pairs by somebody who looks at the answers alone, or whom the first-shown one draws ``pull`` of the time."""
    rng = generator(4, "bias")
    items = []
    for shown in shown_orders(2000, 2):
        ranks = (1, 2) if rng.random() < 0.7 else (2, 1)
        if rng.random() < pull:
            ranks = (1, 2) if shown[0] == 0 else (2, 1)
        items.append((ranks, shown))
    found = position_bias(items)
    assert found.biased == (pull > 0)
    assert found.share.value == pytest.approx(0.5 + pull / 2, abs=0.03)


def test_few_pairs_name_no_bias() -> None:
    assert not position_bias([((1, 2), (0, 1))] * 19).biased
    assert position_bias([]).share.n == 0


def test_the_variance_of_the_first_shown_answers_wins() -> None:
    """Against all 120 orders in which five answers can be shown, without ties, with them, and with one that is not ranked."""
    for ranks in ((1, 2, 3, 4, 5), (1, 1, 2, 3, 3), (1, 2, None, 2, 3), (1, 1, 1, 1, 2)):
        wins = [
            sum(ranks[a] < ranks[b] for a, b in itertools.combinations(order, 2) if None not in (ranks[a], ranks[b]))  # type: ignore[operator]
            for order in itertools.permutations(range(5))
        ]
        assert by_chance(ranks) == pytest.approx(np.var(wins)), ranks


@pytest.mark.parametrize("rankings", [2, 3, 10])
def test_newcomers_are_not_called_biased(rankings: int) -> None:
    """A few rankings of seven answers, shown at random, by 1,000 people who do not care for places: at most 1 % are named."""
    orders = iter(shown_orders(1000 * rankings, 7))
    named = sum(position_bias([((1, 2, 3, 4, 5, 6, 7), next(orders)) for _ in range(rankings)], resamples=2).biased for _ in range(1000))
    assert named <= 12
