"""A reward that somebody wrote: found by module or file, and told in one line where it is wrong."""

from pathlib import Path

import pytest
from tiny_models import PROMPTS

from trimtab.common.errors import UserError
from trimtab.feedback.function import function_file, function_module, named_function
from trimtab.records import Completion
from trimtab.verbs.feedback import resolve_feedback

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Taste:
    weight: float = 2.0

def reward(prompt, text):
    return Taste().weight * len(text)

def asked(prompt, text):
    return prompt.text in text

def broken(prompt, text):
    raise KeyError(text)

def endless(prompt, text):
    return float("inf")

def words(prompt, text):
    return "seven"

number = 7
"""
ANSWERS = [[Completion("ab"), Completion("the cat sat")]]


def test_names() -> None:
    assert function_file("a/b.py") == (Path("a/b.py"), "reward") and function_file("a/b.py:f") == (Path("a/b.py"), "f")
    assert function_file("package.module:f") is None and function_module("package.module:f") == ("package.module", "f")
    for name in ("village", "reward:a/b", "./dir", "a b:c", "C:\\judge"):
        assert function_file(name) is None and function_module(name) is None, name
    assert named_function("runs/reward") is None


def test_a_function_by_file_and_by_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer answers score higher, the empty one 0; a bool counts as a number; modules are found in the working directory."""
    (tmp_path / "tastes_of_a_test.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    found = resolve_feedback(f"{tmp_path}/tastes_of_a_test.py")
    assert found.source == "rule" and found.score(PROMPTS[:1], ANSWERS) == [[4.0, 22.0]]
    assert found.score(PROMPTS[:1], [[Completion("")]]) == [[0.0]]
    for name in ("tastes_of_a_test.py:asked", "tastes_of_a_test:asked"):
        assert resolve_feedback(name).score(PROMPTS[:1], ANSWERS) == [[0.0, 1.0]]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.py", "no such file"),
        ("no_such_module_anywhere:f", "ModuleNotFoundError"),
        ("mine.py:missing", "has no function 'missing'; define it as def missing"),
        ("mine.py:number", "has no function 'number'"),
        ("typo.py", "SyntaxError"),
    ],
)
def test_what_cannot_be_found_is_one_line(name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(SOURCE)
    Path("typo.py").write_text("def reward(prompt, text:\n")
    with pytest.raises(UserError) as caught:
        resolve_feedback(name)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "said"), [("broken", "KeyError"), ("endless", "returned inf"), ("words", "returned 'seven'")]
)
def test_what_goes_wrong_later_names_the_prompt(function: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SOURCE)
    found = resolve_feedback(f"{tmp_path}/mine.py:{function}")
    with pytest.raises(UserError, match="on prompt p0") as caught:
        found.score(PROMPTS[:1], ANSWERS)
    assert said in str(caught.value) and "\n" not in str(caught.value)
