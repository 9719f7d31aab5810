"""SFT with GPT-1's second term: the loss on the prompt's own tokens, by plain forwards; without it nothing changes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import (
    FAMILIES,
    TEXT,
    gradient_error,
    gradients,
    pair,
    plain_logprobs,
    random_trees,
    read_lines,
    save_tiny_policy,
    write_lines,
)

from trimtab.methods.build import run
from trimtab.methods.offline import FixedData
from trimtab.methods.sft import SFT, Config
from trimtab.trees import PromptTree


def demonstrations() -> list[PromptTree]:
    """Single answers; one prompt of a single token; a conversation of whose six tokens the user wrote the third and fourth."""
    a, b, c, d = random_trees([(5, [4]), (3, [2]), (1, [5]), (4, [6])])
    return [a, b, c, PromptTree(d.prompt, d.completions, ((True, True, False, False, True, True),), key=d.key)]


def made(weight: float, budget: int = 1000) -> SFT:
    trees = demonstrations()
    return SFT(pair(FAMILIES["llama"]())[0], FixedData(trees, trees, budget=budget), text_weight=weight)


def step(method: SFT) -> tuple[float, dict[str, torch.Tensor]]:
    loss = 0.0
    for batch in method.split(method.data.trees):
        part = method.loss(batch)[0]
        part.backward()
        loss += float(part.detach())
    return loss, gradients(method.policy)


@pytest.mark.parametrize("budget", [1, 20, 1000])
def test_the_loss_is_the_tasks_mean_and_lambda_times_the_texts(budget: int) -> None:
    """Task: 4 + 2 + 5 + 4 tokens. Text: 4 + 2 + 0 + 3 of the prompts (their first tokens follow nothing), and the user's 2 in between."""
    eager = pair(FAMILIES["llama"]())[1]
    task, text = [], []
    with torch.no_grad():
        for tree in demonstrations():
            ids = (*tree.prompt[1:], *tree.completions[0])
            flags = [False] * (len(tree.prompt) - 1) + list(tree.trained[0] if tree.trained else [True] * len(tree.completions[0]))
            for logprob, of_task in zip(plain_logprobs(eager, tree.prompt[:1], ids).tolist(), flags, strict=True):
                (task if of_task else text).append(-logprob)
    assert (len(task), len(text)) == (15, 11)
    method = made(0.5, budget)
    assert step(method)[0] == pytest.approx(sum(task) / 15 + 0.5 * sum(text) / 11, rel=1e-4)
    found = method.evaluate(None)  # type: ignore[arg-type]
    assert found["eval/loss"] == pytest.approx(sum(task) / 15, rel=1e-4)
    assert found["eval/text_loss"] == pytest.approx(sum(text) / 11, rel=1e-4)
    assert 0 <= found["eval/top1"] <= found["eval/top5"] <= 1


def test_a_weight_of_almost_nothing_is_sft_and_packing_changes_nothing() -> None:
    loss, plain = step(made(0.0))
    near, found = step(made(1e-9))
    assert near == pytest.approx(loss, rel=1e-5) and gradient_error(found, plain) < 1e-4
    whole, apart = step(made(0.5)), step(made(0.5, budget=1))
    assert whole[0] == pytest.approx(apart[0], rel=1e-5) and gradient_error(whole[1], apart[1]) < 1e-4
    assert gradient_error(whole[1], plain) > 0.1


def test_a_run_keeps_the_language_that_sft_alone_forgets(tmp_path: Path) -> None:
    """The prompts' loss falls with it; without it nobody looks at it."""
    rows = [{"id": f"d{i}", "messages": [{"role": "user", "content": TEXT[i]}], "completion": TEXT[i + 6]} for i in range(6)]
    data, start = write_lines(tmp_path / "d.jsonl", rows), save_tiny_policy(tmp_path / "policy")
    words: dict[str, Any] = {"model": str(start), "data": str(data), "steps": 12, "batch_size": 6, "lr": 1e-2, "dtype": "float32"}
    run("sft", Config(out=str(tmp_path / "run"), text_weight=0.5, **words), lambda _: None)  # type: ignore[arg-type,return-value]
    found = {(row["step"], row["name"]): row["value"] for row in read_lines(tmp_path / "run/metrics.jsonl")}
    assert found[12, "text_loss"] < 0.7 * found[1, "text_loss"] and found[12, "loss"] < 0.7 * found[1, "loss"]
    run("sft", Config(out=str(tmp_path / "plain"), **words), lambda _: None)  # type: ignore[arg-type,return-value]
    assert "text_loss" not in {row["name"] for row in read_lines(tmp_path / "plain/metrics.jsonl")}
