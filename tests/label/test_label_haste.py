"""Who is too fast to have read, and whose known answers are clearly below the others': found where it is, and nowhere else."""

import math

import numpy as np
import pytest
from label_league import say
from label_people import Place, ranked

from trimtab.common.rng import generator
from trimtab.label.careless import below_others, least_seconds, unread_share
from trimtab.label.progress import workers
from trimtab.label.rankings import concordance


def test_by_hand() -> None:
    """100 words and four answers: five seconds and 0.8."""
    assert least_seconds(100, 4) == pytest.approx(5.8)
    assert unread_share([(1.0, 2.0)] * 3 + [(3.0, 2.0)]) != unread_share([])
    assert math.isnan(unread_share([(1.0, 2.0)] * 4))
    assert unread_share([(1.0, 2.0)] * 3 + [(3.0, 2.0)] * 2) == pytest.approx(0.6)
    assert unread_share([(1.0, 2.0)] * 10 + [(3.0, 2.0)] * 40) == 0.0  # the last forty count


def test_quick_readers_are_not_called_too_fast() -> None:
    """1,000 people who read or skim 2 to 15 words a second, each item at their own pace: at most 2 % are named; who clicks at once is."""
    rng = generator(0, "speeds")
    named = 0
    for _ in range(1000):
        speed = 6 * np.exp(0.4 * rng.normal())  # words a second
        items = []
        for _ in range(int(rng.integers(5, 41))):
            words, answers = int(rng.integers(30, 600)), int(rng.integers(2, 10))
            items.append((words / (speed * np.exp(0.5 * rng.normal())) + answers * 0.4, least_seconds(words, answers)))
        named += unread_share(items) > 0.5
    assert named <= 20
    assert unread_share([(1.0, least_seconds(60, 5))] * 7) == 1.0


def shares(rng: np.random.Generator, items: int, at_random: bool) -> list[float]:
    """Of known pairs ordered as known, an item each, by somebody who agrees with the known order as the league does."""
    out = []
    for _ in range(items):
        quality = rng.normal(size=int(rng.integers(2, 8)))
        known = [int(r) for r in np.argsort(np.argsort(-quality)) + 1]
        right, pairs = concordance(known, say(quality, at_random, rng, 0.85, False)[0])
        out.append(right / pairs)
    return out


def test_known_answers_that_are_missed() -> None:
    """Of people who work like the others at most 2 % are named, however few items there are; of those who guess, with ten items, 80 %."""
    rng = generator(1, "known")
    others = shares(rng, 200, False)
    assert sum(below_others(shares(rng, int(rng.integers(4, 30)), False), others) for _ in range(500)) <= 10
    assert sum(below_others(shares(rng, 10, True), others) for _ in range(100)) >= 80
    few = [below_others(shares(rng, int(rng.integers(3, 8)), False), shares(rng, int(rng.integers(6, 25)), False)) for _ in range(500)]
    assert sum(few) <= 10
    assert below_others([0.0] * 3, [1.0] * 8) and not below_others([1.0, 0.0, 0.0], [1.0] * 8)
    assert not below_others([0.0] * 2, others) and not below_others([0.0] * 10, others[:5])


def test_the_dashboards_figures_name_them(lite_place: Place) -> None:
    """Ada takes her time, Bob a second for each ranking of known answers, the wrong way round."""
    place = lite_place.begin(overlap=2, pass_score=0.0)
    place.add(*(ranked(f"known {i}", 5, [1, 2, 3, 4, 5]) for i in range(20)), purpose="screening")
    now = 1e9
    for name, seconds in (("ada", 30.0), ("bob", 1.0)):
        for _ in range(20):
            given = place.next(name, now=now).assignment
            assert given is not None
            row = place.row(given)
            ranks = [i + 1 if name == "ada" else 5 - i for i in row.shown]
            place.submit(name, given, {"ranks": ranks, "ratings": [4] * 5}, seconds=seconds, now=now + 60)
    with place.store.read() as connection:
        found = {worker.name: worker for worker in workers(connection, place.project)[0]}
    assert found["ada"].alarms == {} and found["ada"].unread == 0.0
    assert {"too fast", "known answers"} <= set(found["bob"].alarms) and "100 %" in found["bob"].alarms["too fast"]
