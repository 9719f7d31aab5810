"""What a label may say, and how it travels between the order of the screen and that of the completions."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from trimtab.label.errors import Invalid
from trimtab.label.settings import ProjectSettings
from trimtab.label.values import checked, dense, on_screen, to_completions, to_screen, written_out

SETTINGS = ProjectSettings()
SHOWN = [2, 0, 1]  # first on the screen stands completion 2
FULL: dict[str, Any] = {
    "ranks": [1, 2, 2],
    "ratings": [7, 3, 2],
    "flags": [["opinion"], [], ["made_up", "made_up"]],
    "note": "n",
}


def test_a_ranking_is_kept_in_the_order_of_the_completions() -> None:
    value = checked("rank", FULL, SHOWN, SETTINGS)
    assert value == {"ranks": [2, 2, 1], "ratings": [3, 2, 7], "flags": [[], ["made_up"], ["opinion"]], "note": "n"}
    assert on_screen("rank", value, SHOWN)["ratings"] == [7, 3, 2]


@given(st.permutations(range(9)), st.lists(st.integers(), min_size=9, max_size=9))
def test_there_and_back(shown: list[int], values: list[int]) -> None:
    assert to_screen(to_completions(values, shown), shown) == values


def test_ranks_have_no_gaps_and_are_written_as_in_the_paper() -> None:
    assert dense([5, 2, None, 5]) == [2, 1, None, 2]
    assert written_out([3, 3, 2, 1]) == "D > C > A = B"
    assert written_out([1, None, 1]) == "A = C; not ranked: B"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ranks": [1, 2]}, "one entry for each of the 3 answers"),
        ({"ranks": [1, 0, 2]}, "whole number from 1"),
        ({"ranks": [1, True, 2]}, "whole number from 1"),
        ({"ranks": [1, 1.5, 2]}, "whole number from 1"),
        ({"ranks": [1, None, None]}, "at least two answers"),
        ({"ratings": [7, 3, None]}, "answer C has no rating"),
        ({"ratings": [7, 3, 8]}, "from 1 to 7"),
        ({"ratings": "7,3,8"}, "one entry for each"),
        ({"flags": [["rude"], [], []]}, "flags are names"),
        ({"flags": [[7], [], []]}, "flags are names"),
        ({"note": "x" * 5001}, "at most 5000"),
        ({"note": "a\x00b"}, "character that is none"),
        ({"note": "a\ud800b"}, "character that is none"),
        ({"note": 7}, "not a text"),
    ],
)
def test_what_a_ranking_lacks_is_said(change: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid, match=said):
        checked("rank", {**FULL, **change}, SHOWN, SETTINGS)


def test_ratings_are_needed_where_the_project_asks_for_them() -> None:
    bare = {"ranks": [1, 2, None]}
    assert checked("rank", bare, SHOWN, ProjectSettings(rate=False))["ratings"] == [None] * 3
    assert checked("compare", {"ranks": [1, 1], "flags": [["both_bad"], []]}, [1, 0], SETTINGS)["flags"] == [
        [],
        ["both_bad"],
    ]
    with pytest.raises(Invalid):
        checked("rank", bare, SHOWN, SETTINGS)


def test_texts_and_prompts() -> None:
    assert checked("write", {"text": "a\r\nb"}, [], SETTINGS) == {"text": "a\nb", "note": ""}
    with pytest.raises(Invalid, match="your answer is empty"):
        checked("write", {"text": " \n"}, [], SETTINGS)
    one = {"query": "2+2", "response": "4"}
    few = checked(
        "prompt", {"style": "few_shot", "text": "Add.", "examples": [one, one], "use_case": "chat"}, [], SETTINGS
    )
    assert few == {"style": "few_shot", "text": "Add.", "examples": [one, one], "use_case": "chat", "note": ""}
    for wrong in (
        {"style": "few_shot", "text": "Add.", "examples": [one]},
        {"style": "odd", "text": "Add."},
        {"style": "plain"},
        [],
        None,
        7,
    ):
        with pytest.raises(Invalid):
            checked("prompt", wrong, [], SETTINGS)
