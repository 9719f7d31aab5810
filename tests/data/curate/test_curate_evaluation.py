"""Contamination: words in a row that a prompt shares with an evaluation set."""

from pathlib import Path

import numpy as np

from trimtab.data.curate.evaluation import Evaluation
from trimtab.data.curate.text import normalise

TESTS = ["one two three four five six", "seven eight nine", "one two three"]


def overlaps(evaluation: Evaluation, *texts: str) -> list[int]:
    return evaluation.overlaps([normalise(text) for text in texts]).tolist()


def test_which_evaluation_text_is_met() -> None:
    evaluation = Evaluation.of(TESTS, 3)
    assert overlaps(evaluation, "zero, Two Three FOUR!", "seven eight", "so: seven eight nine.", "two four three", "") == [0, -1, 1, -1, -1]
    assert overlaps(evaluation, "seven eight nine one two three") == [1]  # the first that is met
    assert overlaps(Evaluation.of(TESTS, 4), "zero two three four", "two three four five") == [-1, 0]


def test_words_of_two_texts_are_not_in_a_row() -> None:
    evaluation = Evaluation.of(["a b", "c d"], 3)
    assert len(evaluation.grams) == 0 and overlaps(evaluation, "a b c d") == [-1]
    assert overlaps(Evaluation.of(["a b c d"], 3), "a b", "c d") == [-1, -1]


def test_saved_and_read_again(tmp_path: Path) -> None:
    evaluation = Evaluation.of(TESTS, 3)
    evaluation.save(tmp_path / "evaluation.npz")
    again = Evaluation.load(tmp_path / "evaluation.npz")
    assert again.n == 3 and np.array_equal(again.grams, evaluation.grams) and np.array_equal(again.owner, evaluation.owner)
