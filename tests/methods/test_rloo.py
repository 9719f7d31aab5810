"""RLOO's step taken apart: its gradient against a sum written out, KL 0 at first, packing, what grows when it is trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import PROMPTS, answer_score, online_parts, save_tiny_policy

from trimtab.feedback.protocol import Rule
from trimtab.methods.rloo import RLOO, Config
from trimtab.models.score import score_tokens
from trimtab.training.loop import Learner
from trimtab.training.method import State
from trimtab.trees import TreeBatch


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_policy(tmp_path_factory.mktemp("rloo") / "policy")


def make(start: Path, *, other_reference: bool = False, **options: Any) -> RLOO:
    settings = {"batch_size": 3, "num_completions": 3, "max_tokens": 6, "seed": 1, "dtype": "float32", "cut_penalty": 2.5}
    return RLOO(Config(**{**settings, **options}), online_parts(start, Rule(answer_score), other_reference=other_reference))


def slopes(method: RLOO) -> list[torch.Tensor]:
    return [p.grad.clone() for p in method.policy.parameters() if p.grad is not None]


def test_the_gradient_is_that_of_the_sum_written_out(start: Path) -> None:
    """Nine answers, one at a time: R = r - [cut] 2.5 - 0.3 log(pi/ref); A = R - mean of the prompt's other two; -A grad log pi / 9."""
    method = make(start, other_reference=True, beta=0.3)
    (step,) = list(method.batches(State(0, 1)))
    loss = sum(float(method.loss(batch)[0].detach()) for batch in step)
    for batch in step:
        method.loss(batch)[0].backward()
    found = slopes(method)
    method.policy.zero_grad()

    expected = 0.0
    end = method.parts.renderer.end_id
    for tree in (tree for batch in step for tree in batch.trees.trees):
        singles = [TreeBatch.pack([tree.with_completions([c])]) for c in tree.completions]
        logs = [score_tokens(method.policy, single).logprobs.sum() for single in singles]
        with torch.no_grad():
            bases = [float(score_tokens(method.reference, single).logprobs.sum()) for single in singles]
        prompt = next(p for p in PROMPTS if p.id == tree.key)
        returns = [
            answer_score(prompt, method.parts.renderer.decode(c)) - 2.5 * (c[-1] != end) - 0.3 * (float(log.detach()) - base)
            for c, log, base in zip(tree.completions, logs, bases, strict=True)
        ]
        for i, log in enumerate(logs):
            others = [r for j, r in enumerate(returns) if j != i]
            term = -(returns[i] - sum(others) / 2) * log / 9
            expected += float(term.detach())
            term.backward()
    assert loss == pytest.approx(expected, rel=1e-4)
    for a, b in zip(found, slopes(method), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5)


def test_against_itself_the_kl_is_zero_and_the_engine_agrees(start: Path) -> None:
    method = make(start)
    (step,) = list(method.batches(State(0, 1)))
    for batch in step:
        metrics = method.loss(batch)[1]
        assert metrics["kl/reference"][0] == 0.0 and metrics["kl/per_token"][0] == 0.0
    logged = method.after(State(1, 1))
    assert logged["engine/max_diff"] <= 1e-4 and logged["length"] > 0 and "reward/rule" in logged


def test_how_the_answers_are_packed_changes_nothing(start: Path) -> None:
    found = []
    for budget in (1, 10_000):
        method = make(start, other_reference=True, micro_batch_tokens=budget)
        (step,) = list(method.batches(State(0, 1)))
        for batch in step:
            method.loss(batch)[0].backward()
        found.append((len(step), slopes(method)))
    assert found[0][0] == 3 and found[1][0] == 1
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5)


def test_the_reward_grows(start: Path) -> None:
    """Rewarded for the letter a, untied from the reference: after 30 iterations there are more of them than at first."""
    method = make(start, beta=0.0, batch_size=4, num_completions=8, lr=3e-3)
    method.parts = replace(method.parts, reward=Rule(lambda prompt, text: float(text.count("a"))))
    learner = Learner(method, method.config)
    rewards = []
    for i in range(30):
        method.update(method.batches(State(i, 30)), learner, f"step {i}")
        rewards.append(method.after(State(i, 30))["reward/rule"])
    assert sum(rewards[-5:]) > 1.5 * sum(rewards[:5]) + 0.5
