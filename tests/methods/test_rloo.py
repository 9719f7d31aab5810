"""RLOO's step taken apart: its gradient against a sum written out, KL 0 at first, packing, what grows when it is trained."""

from functools import partial
from pathlib import Path

import pytest
import torch
from online_methods import (
    TEMPERATURES,
    assert_packing_changes_nothing,
    assert_the_reward_grows,
    first_step,
    made,
    slopes,
)
from tiny_models import PROMPTS, answer_score, gradient_error, gradients

from trimtab.methods.rloo import RLOO, Config
from trimtab.models.score import score_tokens
from trimtab.training.method import State
from trimtab.trees import TreeBatch

make = partial(made, RLOO, Config)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_gradient_is_that_of_the_sum_written_out(start: Path, temperature: float) -> None:
    """Nine answers, one at a time: R = r - [cut] 2.5 - 0.3 log(pi/ref); A = R - mean of the prompt's other two; -A grad log pi / 9."""
    method = make(start, other_reference=True, beta=0.3, temperature=temperature)
    (step,) = list(method.batches(State(0, 1)))  # one in an iteration
    loss = sum(float(method.loss(batch)[0].detach()) for batch in step)
    found = slopes(method, step)
    expected = 0.0
    end = method.parts.renderer.end_id
    for tree in (tree for batch in step for tree in batch.trees.trees):
        singles = [TreeBatch.pack([tree.with_completions([c])]) for c in tree.completions]
        logs = [score_tokens(method.policy, single, temperature=temperature).logprobs.sum() for single in singles]
        with torch.no_grad():
            bases = [float(score_tokens(method.reference, single, temperature=temperature).logprobs.sum()) for single in singles]
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
    assert gradient_error(found, gradients(method.policy)) <= 1e-4


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_against_itself_the_kl_is_zero_and_the_engine_agrees(start: Path, temperature: float) -> None:
    method = make(start, temperature=temperature)
    for batch in first_step(method):
        metrics = method.loss(batch)[1]
        assert metrics["kl/reference"][0] == 0.0 and metrics["kl/per_token"][0] == 0.0
    logged = method.after(State(1, 1))
    assert logged["engine/max_diff"] <= 1e-4 and logged["length"] > 0 and "reward/rule" in logged
    stats = method.parts.engine.stats
    assert stats is not None and logged["engine/kv_gb"] == stats.kv_bytes / 1e9 > 0


def test_how_the_answers_are_packed_changes_nothing(start: Path) -> None:
    assert_packing_changes_nothing(make, start)


def test_the_reward_grows(start: Path) -> None:
    """Untied from the reference."""
    assert_the_reward_grows(make(start, beta=0.0, batch_size=4, num_completions=8, lr=3e-3))
