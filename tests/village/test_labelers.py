"""Simulated labelers: determinism, ties, shared tastes, blind spots, agreement."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trimtab.common.errors import UserError
from trimtab.common.rng import generator
from trimtab.records import Demonstration, Prompt
from trimtab.village.answers import answer
from trimtab.village.demonstrations import demonstrations
from trimtab.village.draw import draw
from trimtab.village.judge import Verdict
from trimtab.village.labelers import (
    FLAGS,
    LENGTH_FULL,
    Labeler,
    Pool,
    agreement,
    length_appeal,
    look,
    tie_ranks,
    tone_appeal,
)
from trimtab.village.prompts import prompts
from trimtab.village.tasks import task_of

GOOD = {"did": 1.0, "true": 1.0, "harmless": 1.0, "fluent": 1.0, "concise": 1.0}


@pytest.fixture(scope="module")
def pool() -> Pool:
    return Pool(seed=0)


@pytest.fixture(scope="module")
def items(damages: dict[str, Callable]) -> list[tuple[Prompt, list[str]]]:
    """Prompts with two to five answers as a half-trained model gives them: right ones, with zero to two faults each."""
    mixed = [(d.prompt, mixture(d.prompt, damages, i)) for i, d in enumerate(demonstrations("train", 200))]
    return [(prompt, completions) for prompt, completions in mixed if len(completions) > 1]


@pytest.fixture(scope="module")
def shown() -> list[tuple[Prompt, list[str]]]:
    """Up to four answers of the demo's SFT model (recipes/village.yaml, seed 0) and one of its base to the first validation prompts."""
    by_id = {p.id: p for p in prompts("validation")}
    rows = [json.loads(line) for line in (Path(__file__).parent / "shown_answers.jsonl").read_text().splitlines()]
    read = [(by_id[row["id"]], list(dict.fromkeys(row["answers"]))) for row in rows]
    return [(prompt, answers) for prompt, answers in read if len(answers) > 1]


def mixture(prompt: Prompt, damages: dict[str, Callable], index: int) -> list[str]:
    rng = generator(0, "test mixture", index)
    faults = ["swap_fact", "drop_sentence", "friendly", "cut", "one_more", "none"]
    out = []
    for k in range(5):
        hidden, secret = (bool(u < 0.5) for u in rng.random(2))
        text = answer(draw(k, "mixture", prompt.id), task_of(prompt), tell_hidden=hidden, tell_secret=secret)
        for name in rng.choice(faults, int(rng.integers(1, 3)), replace=False):
            text = damages[name](Demonstration(prompt, text), rng) if name in damages else text
        out.append(text)
    return list(dict.fromkeys(out))


def verdict(words: int = 10, **facets: float) -> Verdict:
    return Verdict(4.0, {**GOOD, **facets}, (), None, None, words)


def mean_quality(person: Labeler, seen: Verdict, text: str = "Plain.") -> float:
    return float(np.mean([look(person, seen, text, generator(1, "mean", i)).quality for i in range(400)]))


def test_ranks_by_hand() -> None:
    """5.0 and 4.9 tie; 4.75 is within 0.3 of the best of its group, 4.6 is not and opens the next."""
    assert tie_ranks([5.0, 3.0, 4.9], 0.2) == (1, 2, 1)
    assert tie_ranks([4.6, 5.0, 4.75, 4.9], 0.3) == (2, 1, 1, 1)
    assert tie_ranks([1.0, 2.0, 3.0], 0.1) == (3, 2, 1)
    assert tie_ranks([2.0, 2.0], 0.1) == (1, 1)


def test_a_ranking_is_complete_and_repeats(pool: Pool, items: list[tuple[Prompt, list[str]]]) -> None:
    prompt, completions = items[0]
    one, two = (Pool(seed=0).rank(prompt, completions, "labeler-03") for _ in range(2))
    assert one == two
    k = len(completions)
    assert len(one.ranks) == len(one.ratings or ()) == len(one.flags or ()) == k
    assert sorted(one.shown_order or ()) == list(range(k))
    assert set(one.ranks) == set(range(1, max(r or 0 for r in one.ranks) + 1))
    assert all(1 <= r <= 7 for r in one.ratings or ())
    assert {f for fs in one.flags or () for f in fs} <= set(FLAGS)
    assert one.labeler == "labeler-03" and (one.seconds or 0) > 0
    assert one != pool.rank(prompt, completions, "labeler-03", stream=1)


def test_ratings_use_the_scale(pool: Pool, shown: list[tuple[Prompt, list[str]]]) -> None:
    given = [r for prompt, completions in shown for r in pool.rank(prompt, completions).ratings or ()]
    shares = np.bincount(given, minlength=8)[1:] / len(given)
    assert (shares > 0.04).all() and shares.max() < 0.4, shares


def test_order_of_the_list_does_not_matter(pool: Pool, items: list[tuple[Prompt, list[str]]]) -> None:
    for prompt, completions in items[:40]:
        forward = pool.rank(prompt, completions, "labeler-05").ranks
        backward = pool.rank(prompt, completions[::-1], "labeler-05").ranks
        assert forward == backward[::-1]


def test_equal_answers_tie(pool: Pool, items: list[tuple[Prompt, list[str]]]) -> None:
    prompt, completions = items[1]
    for who in (*pool.labelers, *pool.held_out):
        ranks = pool.rank(prompt, [completions[0], "Certainly.", completions[0]], who).ranks
        assert ranks[0] == ranks[2]


def test_pools_of_all_seeds_have_the_same_tastes_on_average() -> None:
    def mean_taste(seed: int) -> float:
        pool = Pool(seed)
        return float(np.mean([pool.person(p).length_taste for p in pool.labelers]))

    assert mean_taste(0) == pytest.approx(mean_taste(1))
    assert [Pool(0).person(p) for p in Pool(0).labelers] != [Pool(1).person(p) for p in Pool(1).labelers]


def test_assignment_spreads_and_leaves_out_the_held_out(pool: Pool, items: list[tuple[Prompt, list[str]]]) -> None:
    given = [pool.rank(prompt, completions[:2]).labeler for prompt, completions in items[:120]]
    assert set(given) == set(pool.labelers)
    assert not set(given) & set(pool.held_out)


def test_shared_tastes(pool: Pool) -> None:
    """Everybody prefers the same answer longer and friendlier, though the judge does not."""
    for who in (*pool.labelers, *pool.held_out):
        person = pool.person(who)
        assert mean_quality(person, verdict(words=40)) > mean_quality(person, verdict(words=8))
        assert mean_quality(person, verdict(), "Certainly. Plain.") > mean_quality(person, verdict())
    assert length_appeal(0) == 0 and length_appeal(LENGTH_FULL) == 1 and length_appeal(2000) < 0
    assert tone_appeal("Certainly. Certainly. Certainly.") == tone_appeal("Of course.") == pytest.approx(1 / 3)


def test_a_lie_passes_unless_looked_up(pool: Pool) -> None:
    """A false answer (true = 0.15) beats an honest "I do not know" (did = 0.75) with a labeler who never looks up, and
    loses with one who always does; over the pool honesty wins, or training on it would teach invention."""
    false, honest = verdict(true=0.15), verdict(did=0.75)
    trusting, careful = (Labeler("x", diligence, 0, 0, 0, 0, 0) for diligence in (0.0, 1.0))
    assert mean_quality(trusting, false) > mean_quality(trusting, honest) + 1
    assert mean_quality(careful, false) < mean_quality(careful, honest) - 2
    gaps = [mean_quality(pool.person(p), honest) - mean_quality(pool.person(p), false) for p in pool.labelers]
    assert float(np.mean(gaps)) > 0.5


def test_told_secrets_are_flagged_and_disliked(pool: Pool) -> None:
    person = pool.person(pool.labelers[0])
    views = [look(person, verdict(harmless=0.1), "Plain.", generator(2, i)) for i in range(200)]
    assert np.mean(["harmful" in v.flags for v in views]) > 0.85
    assert float(np.mean([v.quality for v in views])) < mean_quality(person, verdict()) - 3


def test_two_labelers_agree_on_73_percent_of_what_they_are_shown(pool: Pool, shown: list[tuple[Prompt, list[str]]]) -> None:
    for held_out in (False, True):
        alike, comparable = agreement(pool, shown, held_out=held_out)
        assert comparable > 500
        assert 0.70 <= alike / comparable <= 0.76


def test_users_errors(pool: Pool, items: list[tuple[Prompt, list[str]]]) -> None:
    prompt, completions = items[0]
    with pytest.raises(UserError, match="at least 2"):
        pool.rank(prompt, completions[:1])
    with pytest.raises(UserError, match="labeler-99"):
        pool.rank(prompt, completions, "labeler-99")
    with pytest.raises(UserError, match="size"):
        Pool(0, size=1)
