"""KTO on trees against the formula on plain forwards: the step's baseline, labels of rankings and of single answers."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, pair, plain_logprobs, random_trees, read_lines, save_tiny_policy, write_lines

from trimtab.common.errors import UserError
from trimtab.data.formats import read_any
from trimtab.methods.build import run
from trimtab.methods.kto import KTO, Config, balance, judged, labels_of, mismatched
from trimtab.methods.offline import FixedData
from trimtab.trees import PromptTree

RANKS: list[tuple[int | None, ...]] = [(2, 1, None, 3), (1,), (2,), (1, 1)]


def labelled_trees() -> list[PromptTree]:
    """A ranking, a good and a bad answer on their own, a ranking that prefers nothing."""
    made = random_trees([(4 + n, [3 + i for i in range(len(ranks))]) for n, ranks in enumerate(RANKS)])
    return [PromptTree(t.prompt, t.completions, key=t.key, ranks=r) for t, r in zip(made, RANKS, strict=True)]


def test_labels_of_rankings_and_of_single_answers() -> None:
    assert [labels_of(tree) for tree in labelled_trees()] == [[False, True, None, False], [True], [False], [None, None]]
    ranks = {(3, 2, 2): [False, True, True], (None, 5): [None, None], (None,): [None]}
    assert {r: labels_of(PromptTree((1,), ((2,),) * len(r), ranks=r)) for r in ranks} == ranks


def test_what_one_side_outweighs_is_told_with_the_weight_that_mends_it() -> None:
    """Two desirable and three undesirable answers: 2 to 3 is even enough; 2 to 3 x 4 is not until the desirable ones count 6."""
    trees, said = labelled_trees(), "2 desirable and 3 undesirable answers"
    assert balance(trees, Config()) == said
    heavy = balance(trees, Config(undesirable_weight=4))
    assert heavy == f"{said}; by their weights the undesirable ones are most of the loss, desirable_weight=6 would balance them"
    assert balance(trees, Config(undesirable_weight=4, desirable_weight=6)) == said
    assert "the desirable ones are most of the loss, undesirable_weight=4 would" in balance(trees, Config(desirable_weight=6))
    assert balance(trees, Config(desirable_weight=0)) == said


def test_mismatched_answers_are_labelled_ones_of_the_next_prompt_that_differs() -> None:
    """The third prompt skips the tie (no labelled answer) and goes around to the ranking; its third labelled answer is taken."""
    trees = labelled_trees()
    found = mismatched(trees, 96)
    a, b, c, _ = trees
    assert [t.prompt for t in found] == [t.prompt for t in trees]
    expected = [b.completions[0], c.completions[0], a.completions[3], a.completions[0]]
    assert [t.completions for t in found] == [(answer,) for answer in expected]
    same = [PromptTree((5, 6), ((7,), (8,)), ranks=(1, 2)) for _ in range(3)]
    assert mismatched(same, 96) == [] and mismatched(trees[:1], 96) == []


def test_a_mismatched_answer_that_is_too_long_is_passed_over() -> None:
    """Room for three tokens behind the first prompt, for seven behind the second: it gets the third answer or none."""
    trees = [PromptTree((5,) * 6, ((7,) * 2,), ranks=(1,)), PromptTree((6, 6), ((8,) * 5, (9,) * 3), ranks=(1, 2))]
    assert [t.completions for t in mismatched(trees, 9)] == [((9, 9, 9),), ((7, 7),)]
    assert [t.completions for t in mismatched(trees, 8)] == [((7, 7),)]


@pytest.mark.parametrize("budget", [1, 1000])
def test_the_loss_is_the_mean_over_labelled_answers_by_the_formula(budget: int) -> None:
    """Five labelled answers; log-ratios, the baseline's too, from plain eager forwards of each prompt and answer alone."""
    policy, eager = pair(FAMILIES["llama"]())
    reference, plain = pair(FAMILIES["llama"]())
    with torch.no_grad():
        for model in (reference, plain):
            model.lm_head.weight.mul_(2.5)

        def ratio(prompt: Any, answer: Any) -> float:
            return float((plain_logprobs(eager, prompt, answer) - plain_logprobs(plain, prompt, answer)).sum())

        trees = labelled_trees()
        baseline = sum(ratio(t.prompt, t.completions[0]) for t in mismatched(trees, 96)) / 4
        assert baseline > 0.1
        labelled = [(t, c, label) for t in trees for c, label in zip(t.completions, labels_of(t), strict=True) if label is not None]
        costs = [
            (2.0 if good else 1.5) / (1 + math.exp((1 if good else -1) * 0.3 * (ratio(t.prompt, c) - baseline))) for t, c, good in labelled
        ]
    data = FixedData(trees, budget=budget)
    method = KTO(policy, reference, data, beta=0.3, longest=96, desirable_weight=2.0, undesirable_weight=1.5)
    batches = method.split(trees)
    parts = [method.loss(batch) for batch in batches]
    assert len(costs) == 5 and {batch.divisor for batch in batches} == {5.0} and len(batches) == (4 if budget == 1 else 1)
    assert sum(loss.item() for loss, _ in parts) == pytest.approx(sum(costs) / 5, rel=1e-4)
    assert all(metrics["kl/baseline"] == (pytest.approx(baseline, rel=1e-4), 1.0) for _, metrics in parts)
    with torch.no_grad():
        good = [0.3 * ratio(t.prompt, c) for t, c, label in labelled if label]
    assert sum(metrics["reward_chosen"][0] for _, metrics in parts) == pytest.approx(sum(good), rel=1e-3)
    assert sum(metrics["accuracy"][1] for _, metrics in parts) == 3  # the pairs of the ranking


def test_a_baseline_below_zero_is_zero_and_equal_weights_start_at_half() -> None:
    """KL is never negative; with equal weights it and every log-ratio are exactly 0, and each answer costs 1/2."""
    policy = pair(FAMILIES["llama"]())[0]
    trees, reference = labelled_trees(), copy.deepcopy(policy)
    method = KTO(policy, reference, FixedData(trees), beta=0.3, longest=96)
    (batch,) = method.split(trees)
    assert method.loss(batch)[0].item() == 0.5 and float(batch.extra["baseline"]) == 0
    with torch.no_grad():
        policy.lm_head.weight.mul_(2.5)
    below = KTO(policy, reference, FixedData(trees), beta=0.3, longest=96)
    assert below.baseline(trees) == 0.0


def single(i: int, label: Any = True) -> dict[str, Any]:
    text = "the cat saw" if label else "near the mill ."
    return {"id": f"s{i}", "messages": [{"role": "user", "content": f"the dog {i}"}], "completion": text, "label": label}


def ranking(i: int, *models: str) -> dict[str, Any]:
    completions = [{"text": "the cat saw", "model": m} for m in models]
    return {"id": f"r{i}", "messages": [{"role": "user", "content": f"a cat {i}"}], "completions": completions, "ranks": [1, 2]}


def test_a_ranking_of_which_one_answer_is_left_is_no_label(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", [ranking(0, "x", "y"), ranking(1, "x", "x")])
    assert [r.ranks for r in judged(read_any(path), str(path))] == [(1, 2), (1, 2)]
    assert [r.ranks for r in judged(read_any(path), str(path), ["x"])] == [(None, None), (1, 2)]


@pytest.mark.parametrize("form", ["native", "TRL's"])
def test_a_run_on_single_answers_prefers_the_good_ones(form: str, tmp_path: Path) -> None:
    """Half of them good; the mean implicit reward of good ones rises above that of bad ones. No pairs: no accuracy is logged."""
    folder = save_tiny_policy(tmp_path / "policy")
    rows = [single(i, i % 2 == 0) for i in range(8)]
    if form == "TRL's":
        rows = [{"prompt": row["messages"][0]["content"], "completion": row["completion"], "label": row["label"]} for row in rows]
    data = write_lines(tmp_path / "labels.jsonl", rows)
    config = Config(model=str(folder), data=str(data), out=str(tmp_path / "run"), steps=8, batch_size=8, lr=3e-3)
    run("kto", config, lambda name: None)  # type: ignore[arg-type,return-value]
    found = {(row["step"], row["name"]): row["value"] for row in read_lines(tmp_path / "run" / "metrics.jsonl")}
    assert found[1, "loss"] == 0.5 and found[1, "kl/baseline"] == 0 and found[8, "loss"] < 0.48
    assert found[8, "reward_chosen"] > 0.1 + found[8, "reward_rejected"]
    assert (8, "accuracy") not in found


UNLABELLED = {name: value for name, value in single(0).items() if name != "label"}
PROMPT = {name: value for name, value in UNLABELLED.items() if name != "completion"}


@pytest.mark.parametrize("row", [single(0, "yes"), UNLABELLED, PROMPT])
def test_what_says_neither_good_nor_bad_is_refused(row: dict[str, Any], tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", [single(1), row])
    with pytest.raises(UserError, match=r"x\.jsonl: record 's0' has neither 'completions' with 'ranks' nor 'completion' with 'label'"):
        judged(read_any(path), str(path))
