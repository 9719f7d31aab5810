"""DPO on trees against the formula on plain forwards; with equal weights it starts at log 2."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, pair, plain_logprobs, random_trees, read_lines, save_tiny_policy, write_lines

from trimtab.common.errors import UserError
from trimtab.methods.build import run
from trimtab.methods.dpo import DPO, Config
from trimtab.methods.offline import FixedData, micro_batches
from trimtab.records import parse_comparison
from trimtab.training.method import MicroBatch
from trimtab.trees import PromptTree


def ranked(*ranks: int | None) -> PromptTree:
    (tree,) = random_trees([(5, [4 + i for i in range(len(ranks))])])
    return PromptTree(tree.prompt, tree.completions, key="t", ranks=ranks)


def method_for(policy: Any, reference: Any, beta: float = 0.3) -> DPO:
    return DPO(policy, reference, FixedData([]), beta=beta)


def test_the_loss_is_the_mean_over_all_pairs_by_the_formula() -> None:
    """Ranks 2 1 null 3: pairs (1, 0), (0, 3), (1, 3); log-ratios from plain eager forwards of each completion alone."""
    (policy, eager), (reference, plain) = (pair(FAMILIES["llama"]()) for _ in range(2))
    with torch.no_grad():
        for model in (reference, plain):
            model.lm_head.weight.mul_(0.7)
        tree = ranked(2, 1, None, 3)
        ratios = [
            float((plain_logprobs(eager, tree.prompt, c) - plain_logprobs(plain, tree.prompt, c)).sum())
            for c in tree.completions
        ]
    margins = [0.3 * (ratios[a] - ratios[b]) for a, b in ((1, 0), (0, 3), (1, 3))]
    method = method_for(policy, reference)
    (batch,) = micro_batches([tree], 1000, method.size)
    assert batch.divisor == 3.0
    loss, metrics = method.loss(batch)
    assert loss.item() == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins) / 3, rel=1e-4)
    assert metrics["margin"][0] == pytest.approx(sum(margins), rel=1e-4) and metrics["margin"][1] == 3
    assert metrics["accuracy"] == (float(sum(m > 0 for m in margins)), 3.0)


def test_ipo_is_of_log_ratios_per_token() -> None:
    """Answers of 5 and 4 tokens, the longer one better, beta 0.3: (mean log-ratio of its five - mean of the other's four - 1 / 0.6)^2."""
    (policy, eager), (reference, plain) = (pair(FAMILIES["llama"]()) for _ in range(2))
    with torch.no_grad():
        for model in (reference, plain):
            model.lm_head.weight.mul_(0.7)
        tree = ranked(2, 1)
        worse, better = (
            float((plain_logprobs(eager, tree.prompt, c) - plain_logprobs(plain, tree.prompt, c)).mean()) for c in tree.completions
        )
    method = DPO(policy, reference, FixedData([]), beta=0.3, loss="ipo")
    (batch,) = micro_batches([tree], 1000, method.size)
    assert method.loss(batch)[0].item() == pytest.approx((better - worse - 1 / 0.6) ** 2, rel=1e-4)


def test_the_sft_term_is_the_best_answers_nll_per_token_in_every_pair() -> None:
    """Ranks 2 1 null 3 (3 pairs) and a tie (none): weight 0.5 adds 0.5 times the nll per token of the answer of rank 1."""
    policy, eager = pair(FAMILIES["llama"]())
    tree, tie = ranked(2, 1, None, 3), ranked(1, 1)
    plain, weighted = method_for(policy, copy.deepcopy(policy)), method_for(policy, copy.deepcopy(policy))
    weighted.sft_weight = 0.5
    (batch,) = micro_batches([tree, tie], 1000, weighted.size)
    with torch.no_grad():
        nll = -float(plain_logprobs(eager, tree.prompt, tree.completions[1]).mean())
    difference = weighted.loss(batch)[0].item() - plain.loss(batch)[0].item()
    assert difference == pytest.approx(0.5 * nll, rel=1e-4)
    assert weighted.loss(batch)[1]["sft_loss"] == (pytest.approx(nll, rel=1e-4), 1.0)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mistral"])
@pytest.mark.parametrize("autocast", [False, True])
def test_with_equal_weights_it_starts_at_log_two(family: str, autocast: bool) -> None:
    """Policy and reference take one numeric path, bf16 included: every log-ratio is exactly 0, the loss log 2 to 1e-6."""
    policy = pair(FAMILIES[family]())[0]
    method = method_for(policy, copy.deepcopy(policy))
    (batch,) = micro_batches([ranked(2, 1, 4, 3)], 1000, method.size)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss, metrics = method.loss(batch)
    assert abs(loss.item() - math.log(2)) < 1e-6
    assert metrics["reward_chosen"][0] == metrics["reward_rejected"][0] == metrics["margin"][0] == 0.0


def test_a_step_prefers_the_better_answer_and_leaves_the_reference() -> None:
    policy = pair(FAMILIES["llama"]())[0]
    reference = copy.deepcopy(policy)
    method = method_for(policy, reference)
    (batch,) = micro_batches([ranked(2, 1)], 1000, method.size)
    method.loss(batch)[0].backward()
    with torch.no_grad():
        for p in policy.parameters():
            p -= 1e-3 * p.grad
    loss, metrics = method.loss(batch)
    assert (
        loss.item() < math.log(2)
        and metrics["accuracy"] == (1.0, 1.0)
        and metrics["reward_chosen"] > metrics["reward_rejected"]
    )
    assert all(not p.requires_grad and p.grad is None for p in reference.parameters())
    assert set(method.modules) == {"policy"}


def test_ties_alone_cost_nothing() -> None:
    policy = pair(FAMILIES["llama"]())[0]
    method = method_for(policy, copy.deepcopy(policy))
    (batch,) = micro_batches([ranked(1, 1)], 1000, method.size)
    assert isinstance(batch, MicroBatch) and method.loss(batch)[0].item() == 0.0


def comparison(i: int) -> dict[str, Any]:
    return {
        "id": f"c{i}", "messages": [{"role": "user", "content": f"the dog {i}"}],
        "completions": [{"text": "the cat saw"}, {"text": "near the mill ."}], "ranks": [1, 2] if i % 2 else [2, 1],
    }  # fmt: skip


@pytest.mark.parametrize("template", [True, False], ids=["chat model", "base model without a template"])
def test_a_run_from_files_starts_at_log_two(template: bool, tmp_path: Path) -> None:
    """A base model gets two new token ids for its chat template: policy and reference get the same new rows."""
    folder = save_tiny_policy(tmp_path / "policy")
    if not template:
        (folder / "chat_template.jinja").unlink()
    data = write_lines(tmp_path / "pairs.jsonl", [comparison(i) for i in range(8)])
    config = Config(model=str(folder), data=str(data), out=str(tmp_path / "run"), steps=3, batch_size=4, lr=1e-3)
    run("dpo", config, lambda name: None)  # type: ignore[arg-type,return-value]
    rows = {(row["step"], row["name"]): row["value"] for row in read_lines(tmp_path / "run" / "metrics.jsonl")}
    assert abs(rows[1, "loss"] - math.log(2)) < 1e-6 and rows[1, "margin"] == 0.0
    assert rows[2, "loss"] != rows[1, "loss"]


def test_models_leaves_the_answers_of_others_out(tmp_path: Path) -> None:
    """A step on the two answers of one model out of three is a step on a file that never had the third."""
    folder = save_tiny_policy(tmp_path / "policy")
    two = [comparison(i) for i in range(4)]
    for row in two:
        row["completions"] = [{**c, "model": "sft"} for c in row["completions"]]
        row["ratings"], row["flags"] = [5, 2], [[], ["harmful"]]
    third = {"text": "a third answer", "model": "base"}
    three = [
        {**row, "completions": [row["completions"][0], third, row["completions"][1]], "ranks": [row["ranks"][0], 3, row["ranks"][1]],
         "ratings": [5, 1, 2], "flags": [[], [], ["harmful"]], "shown_order": [2, 0, 1]}
        for row in two
    ]  # fmt: skip
    losses = {}
    for name, rows, words in (("two", two, {}), ("three", three, {"models": ["sft"]})):
        data = write_lines(tmp_path / f"{name}.jsonl", rows)
        config = Config(model=str(folder), data=str(data), out=str(tmp_path / name), steps=2, batch_size=4, lr=1e-3, **words)
        run("dpo", config, lambda name: None)  # type: ignore[arg-type,return-value]
        losses[name] = [row["value"] for row in read_lines(tmp_path / name / "metrics.jsonl") if row["name"] == "loss"]
    assert losses["two"] == losses["three"] and len(losses["two"]) == 2
    with pytest.raises(UserError, match=r"three\.jsonl: no answer is by ppo or dpo; it has answers by base, sft"):
        config = Config(model=str(folder), data=str(tmp_path / "three.jsonl"), models=["ppo", "dpo"], out=str(tmp_path / "none"))
        run("dpo", config, lambda name: None)  # type: ignore[arg-type,return-value]


def test_among_keeps_what_was_said_of_the_answers_that_stay() -> None:
    row = parse_comparison(
        {**comparison(0), "completions": [{"text": t, "model": m} for t, m in (("a", "x"), ("b", "y"), ("c", "x"))], "ranks": [2, 1, 3],
         "ratings": [4, 7, 1], "flags": [["harmful"], [], []], "shown_order": [1, 0, 2]}, "here"
    )  # fmt: skip
    kept = row.among(["x"])
    assert [c.text for c in kept.completions] == ["a", "c"] and kept.ranks == (2, 3) and kept.ratings == (4, 1)
    assert kept.flags == (("harmful",), ()) and kept.shown_order is None and kept.pairs() == [(0, 1)]
