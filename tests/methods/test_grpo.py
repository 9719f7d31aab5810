"""GRPO's step taken apart: its gradient against a sum written out, Dr. GRPO against RLOO, what several epochs change, invariances."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from online_methods import (
    TEMPERATURES,
    assert_the_reward_grows,
    assert_updates_end_once_the_policy_has_moved,
    first_step,
    made,
    shuffled,
    slopes,
)
from tiny_models import PROMPTS, answer_score, gradient_error, gradients

from trimtab.methods import rloo
from trimtab.methods.grpo import GRPO, Config
from trimtab.models.score import score_tokens
from trimtab.training.method import State
from trimtab.trees import TreeBatch

DR = {"divide_by_std": False, "length": "constant"}
make = partial(made, GRPO, Config)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("corrected", [False, True])
def test_the_gradient_is_that_of_the_sum_written_out(start: Path, corrected: bool, temperature: float) -> None:
    """Nine answers: A = (r - mean) / (std + 1e-4) of the prompt's three; -A grad log pi / |y| + 0.3 / |y| grad k3; all over 9.

    At pi = pi_old the ratio's gradient is grad log pi; k3 = ref/pi - 1 - log(ref/pi) has the gradient (1 - ref/pi) grad log pi, and times
    the ratio log(pi/ref) grad log pi."""
    method = make(start, other_reference=True, beta=0.3, kl_corrected=corrected, temperature=temperature)
    step = first_step(method)
    assert {batch.divisor for batch in step} == {9.0}
    found = slopes(method, step)
    renderer = method.parts.renderer
    for tree in (tree for batch in step for tree in batch.trees.trees):
        prompt = next(p for p in PROMPTS if p.id == tree.key)
        scores = torch.tensor(
            [answer_score(prompt, renderer.decode(c)) - 2.5 * (c[-1] != renderer.end_id) for c in tree.completions]
        )
        advantages = (scores - scores.mean()) / (scores.std(correction=1) + 1e-4)
        for completion, advantage in zip(tree.completions, advantages.tolist(), strict=True):
            single = TreeBatch.pack([tree.with_completions([completion])])
            logprobs = score_tokens(method.policy, single, temperature=temperature).logprobs
            reference = score_tokens(method.reference, single, temperature=temperature).logprobs.detach()
            log_ratio = logprobs.detach() - reference
            weights = -advantage + 0.3 * (log_ratio if corrected else 1 - (-log_ratio).exp())
            ((weights * logprobs).sum() / len(completion) / 9).backward()
    assert gradient_error(found, gradients(method.policy)) <= 1e-4


def test_without_std_and_length_it_is_rloo_up_to_a_factor(start: Path) -> None:
    """R - mean is (K - 1) / K of R less the mean of the others; here K = 3 and the constant length is 6: 2 / 3 / 6 of RLOO's gradient."""
    method = make(start, other_reference=True, beta=0.3, kl_in="reward", **DR)
    other = made(rloo.RLOO, rloo.Config, start, other_reference=True, beta=0.3)
    found, expected = slopes(method, first_step(method)), slopes(other, first_step(other))
    assert gradient_error(found, {name: slope * 2 / 3 / 6 for name, slope in expected.items()}) <= 1e-5


def test_the_first_ratio_is_one_and_the_clip_is_felt_later(start: Path) -> None:
    """Before an update nothing is clipped; once the policy has moved, a small eps changes the gradient and eps = 1e9 is the plain ratio."""
    method = make(start, clip=0.01)
    step = first_step(method)
    for batch in step:
        metrics = method.loss(batch)[1]
        assert metrics["ratio_mean"][0] / metrics["ratio_mean"][1] == pytest.approx(1, abs=1e-5)
        assert metrics["clipfrac"][0] == 0
    with torch.no_grad():
        method.policy.lm_head.weight.mul_(1.05)
    clipped = slopes(method, step)
    assert sum(method.loss(batch)[1]["clipfrac"][0] for batch in step) > 0
    method.config = method.config.model_copy(update={"clip": 1e9})
    free = slopes(method, step)
    assert gradient_error(clipped, free) > 1e-2
    method.config = method.config.model_copy(update={"clip": 2e9})
    assert gradient_error(slopes(method, step), free) == 0


def test_approx_kl_is_of_the_old_policy_to_the_new(start: Path) -> None:
    """k3 on tokens that the old one sampled: ratio - 1 - log ratio. The other way round, 1 / ratio - 1 + log ratio, it is another."""
    method = make(start)
    step = first_step(method)
    with torch.no_grad():
        method.policy.lm_head.weight.mul_(1.5)
    for batch in step:
        log_ratio = (score_tokens(method.policy, batch.trees).logprobs.detach() - batch.extra["old_logprobs"]).double()
        kl, tokens = method.loss(batch)[1]["approx_kl"]
        assert tokens == len(log_ratio) and kl == pytest.approx(float((torch.expm1(log_ratio) - log_ratio).sum()), rel=1e-4)
        assert kl != pytest.approx(float((torch.expm1(-log_ratio) + log_ratio).sum()), rel=0.05)


def test_several_epochs_see_every_answer_once_each(start: Path) -> None:
    method = make(start, epochs_per_batch=3, minibatch_size=2)
    steps = [[tree for batch in step for tree in batch.trees.trees] for step in method.batches(State(2, 9))]
    assert len(steps) == 3 * 2
    epochs = [sorted((t.prompt, t.completions) for step in steps[e : e + 2] for t in step) for e in (0, 2, 4)]
    assert epochs[0] == epochs[1] == epochs[2] and len(epochs[0]) == 3
    assert method.before_step({"approx_kl": (0.9, 10.0)}) and not method.before_step({"approx_kl": (1.1, 10.0)})
    assert_updates_end_once_the_policy_has_moved(make, start)


@pytest.mark.parametrize("kl_in", ["loss", "reward"])
def test_packing_sibling_order_and_a_constant_change_nothing(start: Path, kl_in: str) -> None:
    method = make(start, other_reference=True, kl_in=kl_in)
    answers = method.answer([0, 1, 2], 0)
    expected = slopes(method, method.minibatch(method.groups(answers)))

    def found(method: GRPO, answers: Any) -> dict[str, torch.Tensor]:
        return slopes(method, method.minibatch(method.groups(answers)))

    assert gradient_error(found(method, shuffled(answers, [[2, 0, 1], [1, 0, 2], [0, 2, 1]])), expected) <= 1e-5
    lifted = replace(answers, scores=[[x + shift for x in row] for row, shift in zip(answers.scores, (7, -3, 0), strict=True)])
    assert gradient_error(found(method, lifted), expected) <= 1e-4
    small = make(start, other_reference=True, kl_in=kl_in, micro_batch_tokens=1)
    assert gradient_error(found(small, answers), expected) <= 1e-5


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_against_itself_the_kl_is_zero_and_the_engine_agrees(start: Path, temperature: float) -> None:
    method = make(start, temperature=temperature)
    first_step(method)
    logged = method.after(State(1, 1))
    assert logged["kl/reference"] == 0.0 == logged["kl/per_token"] and logged["engine/max_diff"] <= 1e-4
    assert 0 < logged["advantage_abs"] <= 1 + 1e-6


def test_the_reward_grows(start: Path) -> None:
    """Untied from the reference, two epochs."""
    assert_the_reward_grows(make(start, beta=0.0, batch_size=4, num_completions=8, lr=3e-3, epochs_per_batch=2, stop_kl=1e9))
