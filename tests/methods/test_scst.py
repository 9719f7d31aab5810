"""SCST's step taken apart: its gradient against a sum written out, a bandit whose optimum is known, REINFORCE without a baseline."""

from dataclasses import replace
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
from transformers import AutoModelForCausalLM

from trimtab.feedback.protocol import Rule
from trimtab.losses.policy import group_normalised, leave_one_out, self_critical
from trimtab.methods.scst import SCST, Config
from trimtab.models.score import score_tokens
from trimtab.training.method import State
from trimtab.trees import TreeBatch

make = partial(made, SCST, Config)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("baseline", ["greedy", "none"])
def test_the_gradient_is_that_of_the_sum_written_out(start: Path, baseline: str, temperature: float) -> None:
    """One answer at a time: R = r - [cut] 2.5 - 0.3 log(pi/ref); (R - R of the greedy answer, or R itself) * -grad log pi / 9."""
    method = make(start, other_reference=True, beta=0.3, baseline=baseline, temperature=temperature)
    step = first_step(method)
    assert {batch.divisor for batch in step} == {9.0}
    found = slopes(method, step)
    greedy = baseline == "greedy"
    renderer = method.parts.renderer
    for tree in (tree for batch in step for tree in batch.trees.trees):
        assert len(tree.completions) == 3 + greedy
        prompt = next(p for p in PROMPTS if p.id == tree.key)
        returns, logs = [], []
        for completion in tree.completions:
            single = TreeBatch.pack([tree.with_completions([completion])])
            logs.append(score_tokens(method.policy, single, temperature=temperature).logprobs.sum())
            base = float(score_tokens(method.reference, single, temperature=temperature).logprobs.sum().detach())
            score = answer_score(prompt, renderer.decode(completion)) - 2.5 * (completion[-1] != renderer.end_id)
            returns.append(score - 0.3 * (float(logs[-1].detach()) - base))
        for value, log in zip(returns[:3], logs[:3], strict=True):
            (-(value - (returns[3] if greedy else 0.0)) * log / 9).backward()
    assert gradient_error(found, gradients(method.policy)) <= 1e-4


def test_the_greedy_answer_is_the_likeliest_token_by_token_and_is_not_counted(start: Path) -> None:
    method = make(start)
    step = first_step(method)
    plain = AutoModelForCausalLM.from_pretrained(start).eval()
    for tree in (tree for batch in step for tree in batch.trees.trees):
        ids = list(tree.prompt)
        for token in tree.completions[-1]:
            assert int(plain(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(token)
    totals: dict[str, float] = {}
    for batch in step:
        for name, (_, count) in method.loss(batch)[1].items():
            totals[name] = totals.get(name, 0.0) + count
    drawn = sum(len(c) for batch in step for tree in batch.trees.trees for c in tree.completions[:-1])
    assert totals["return"] == 9 and totals["entropy"] == totals["engine/mean_diff"] == drawn
    logged = method.after(State(1, 1))
    assert logged["engine/max_diff"] <= 1e-4 and "reward/greedy" in logged


def test_without_a_baseline_it_is_reinforce_and_makes_no_greedy_answer(start: Path) -> None:
    method = make(start, baseline="none")
    step = first_step(method)
    returns = sum(method.loss(batch)[1]["return"][0] for batch in step)
    assert returns == pytest.approx(sum(float(batch.extra["scores"].sum()) for batch in step), abs=1e-4)
    assert "reward/greedy" not in method.logged


def test_how_the_answers_are_packed_changes_nothing(start: Path) -> None:
    assert_packing_changes_nothing(make, start)


def test_a_constant_added_to_all_rewards_changes_nothing(start: Path) -> None:
    """Seven more for every answer: the greedy one gets them too. Plain REINFORCE would move."""
    found = []
    for more in (0.0, 7.0):
        method = make(start, other_reference=True)
        method.parts = replace(method.parts, reward=Rule(lambda prompt, text, more=more: answer_score(prompt, text) + more))
        found.append(slopes(method, first_step(method)))
    assert gradient_error(found[0], found[1]) <= 1e-5


def bandit_gradient(logits: torch.Tensor, rewards: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """The expectation of SCST's gradient over every sample y of a softmax policy over arms, each against the greedy arm."""
    total = torch.zeros_like(logits)
    logprobs = torch.log_softmax(logits.detach(), 0)
    returns = rewards - beta * (logprobs - reference)
    greedy = int(logprobs.argmax())
    for arm in range(len(logits)):
        pair, group, which = torch.stack([returns[arm], returns[greedy]]), torch.zeros(2, dtype=torch.long), torch.tensor([False, True])
        advantage = self_critical(pair, group, which)[0]
        (slope,) = torch.autograd.grad(torch.log_softmax(logits, 0)[arm], logits)
        total += logprobs[arm].exp() * advantage * slope
    return total


def test_on_a_bandit_it_climbs_to_the_optimum_that_is_known() -> None:
    """Three arms, r = 1 0 2, beta 0.5: the optimum of E[r] - beta KL is pi* = ref * exp(r / beta) / Z. There every arm has the same R =
    beta log Z, so that every advantage, of any baseline, is 0; and the expected gradient is that of the objective anywhere."""
    rewards, reference, beta = torch.tensor([1.0, 0.0, 2.0]).double(), torch.tensor([0.5, 0.3, 0.2]).double().log(), 0.5
    optimum = torch.log_softmax(reference + rewards / beta, 0)
    returns, group = rewards - beta * (optimum - reference), torch.zeros(3, dtype=torch.long)
    for advantages in (
        self_critical(returns, group, torch.tensor([False, False, True])), leave_one_out(returns, group),
        group_normalised(returns, group),
    ):  # fmt: skip
        assert advantages.abs().max() < 1e-10
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    logprobs = torch.log_softmax(logits, 0)
    objective = (logprobs.exp() * (rewards - beta * (logprobs - reference))).sum()
    (exact,) = torch.autograd.grad(objective, logits)
    assert torch.allclose(bandit_gradient(logits, rewards, reference, beta), exact, atol=1e-12)
    for _ in range(600):
        logits = (logits + 4 * bandit_gradient(logits, rewards, reference, beta)).detach().requires_grad_()
    assert torch.allclose(torch.log_softmax(logits, 0), optimum, atol=1e-6)


def test_the_reward_grows(start: Path) -> None:
    """Untied from the reference."""
    assert_the_reward_grows(make(start, beta=0.0, batch_size=4, num_completions=8, lr=3e-3))
