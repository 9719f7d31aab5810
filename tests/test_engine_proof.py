"""The engine's figures: what is asked of them can fail, and every part has a table of whole rows."""

import copy
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = str(Path(__file__).resolve().parents[1] / "bench")

VERB = {
    "products": "float32", "steps": 4, "seconds": 3.0, "kills": 5, "killed at": [0, 1, 1, 3, 3], "weights": "ab" * 32,
    "killed run": True, "second run": True, "engine differences": [2e-6, 9e-5],
}  # fmt: skip
GOOD: dict[str, dict[str, Any]] = {
    "distribution": {"vocabulary": 60, "rows": [
        {"drawn": "one token", "draws": 100, "statistic": 1.5, "freedom": 2, "p": 0.4, "impossible": 0},
        {"drawn": "one token", "top_k": 2, "draws": 100, "statistic": 1.5, "freedom": 2, "p": 0.002, "impossible": 0},
    ]},
    "batches": {"settings": ["1 prompts, 8 rows"], "answers": 2, "tokens": 9, "equal": True},
    "trainer": {"rows": [{"tokens": 5, "policy": 1e-6, "drawn": 9e-5}, {"top_p": 0.9, "tokens": 5, "policy": 1e-6}]},
    "killed": {"verbs": {"sft": {**VERB, "products": "bfloat16", "engine differences": []}, "ppo": VERB}},
    "rewards": {"answers": 8, "spread": 1.0, "budgets": [1, 2], "orders": 3, "differences": {"padded left": 9e-6}},
    "memory": {"width": 64, "cells": [
        {"vocabulary": 150_000, "tokens": tokens, "ours": 10**8 + tokens * 4 * 150_000 // 50, "plain": tokens * 4 * 450_000}
        for tokens in (512, 4096)
    ]},
    "refused": {"lines": {"bloom": "trimtab: BloomForCausalLM is not supported: ..."}},
}  # fmt: skip
# One figure of each part beyond its bound: where it stands, and its value.
BAD: list[tuple[str, list[Any], Any]] = [
    ("distribution", ["rows", 1, "p"], 5e-4), ("distribution", ["rows", 1, "impossible"], 1), ("batches", ["equal"], False),
    ("trainer", ["rows", 0, "drawn"], 2e-4), ("trainer", ["rows", 1, "policy"], 2e-4), ("killed", ["verbs", "sft", "killed run"], False),
    ("killed", ["verbs", "sft", "kills"], 0), ("killed", ["verbs", "ppo", "second run"], False),
    ("killed", ["verbs", "ppo", "engine differences", 1], 2e-4), ("rewards", ["differences", "padded left"], 2e-5),
    ("memory", ["cells", 1, "ours"], 10**9), ("refused", ["lines", "bloom"], ""),
]  # fmt: skip


@pytest.fixture(scope="module")
def engine_proof() -> ModuleType:
    sys.path.insert(0, BENCH)
    try:
        return importlib.import_module("engine_proof")
    finally:
        sys.path.remove(BENCH)


@pytest.mark.parametrize("kind", GOOD)
def test_a_part_within_its_bounds_is_reached_and_has_a_table(engine_proof: ModuleType, kind: str) -> None:
    entry = {"engine": kind, **GOOD[kind]}
    assert all(reached for _, _, reached in engine_proof.asked(entry))
    said, empty, head, rule, *rows, last = engine_proof.render(entry)
    assert said and not empty and not last and rows
    assert {line.count("|") for line in (head, rule, *rows)} == {head.count("|")}
    assert set(GOOD) == set(engine_proof.MEASURED) == set(engine_proof.TABLES)


@pytest.mark.parametrize(("kind", "place", "value"), BAD)
def test_a_figure_beyond_its_bound_is_not_reached(engine_proof: ModuleType, kind: str, place: list[Any], value: Any) -> None:
    entry = {"engine": kind, **copy.deepcopy(GOOD[kind])}
    inside: Any = entry
    for step in place[:-1]:
        inside = inside[step]
    inside[place[-1]] = value
    assert sum(not reached for _, _, reached in engine_proof.asked(entry)) == 1


def test_growth_is_a_share_of_the_logits_that_were_added(engine_proof: ModuleType) -> None:
    """Two bytes of a hundred for each logit that four bytes would hold; plain keeps three tables."""
    entry = {"engine": "memory", **GOOD["memory"]}
    assert engine_proof.growth(entry, "ours") == pytest.approx(0.02) and engine_proof.growth(entry, "plain") == pytest.approx(3.0)


def test_a_child_says_what_its_work_says_and_leaves_its_parent_alone(engine_proof: ModuleType) -> None:
    here = []
    assert engine_proof.in_a_child(lambda: here.append(1) or 40 + len(here)) == 41 and not here
