"""Best-of-n finetuning taken apart: the best is kept, its gradient is SFT's, what is logged about it is worked by hand."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from online_methods import TEMPERATURES, assert_the_reward_grows, first_step, made, shuffled, slopes
from pydantic import ValidationError
from tiny_models import PROMPTS, answer_score, gradient_error, gradients

from trimtab.methods.bon import BestOfN, Config, best
from trimtab.methods.offline import FixedData, micro_batches, trained_tokens
from trimtab.methods.sft import SFT
from trimtab.models.score import score_tokens
from trimtab.sampling.protocol import LEAST_TEMPERATURE
from trimtab.training.method import State
from trimtab.trees import TreeBatch

make = partial(made, BestOfN, Config)


def test_the_best_answer_of_each_prompt_is_trained_on_as_sft_does(start: Path) -> None:
    method = make(start)
    answers = method.answer([0, 1, 2], 0)
    end, renderer = method.parts.renderer.end_id, method.parts.renderer
    kept = best(answers)
    for tree, answered in zip(kept, answers.trees, strict=True):
        prompt = next(p for p in PROMPTS if p.id == tree.key)
        scores = [answer_score(prompt, renderer.decode(c)) - 2.5 * (c[-1] != end) for c in answered.completions]
        assert tree.completions == (answered.completions[scores.index(max(scores))],)
    expected = SFT(method.policy, FixedData(kept, batch_size=3))
    for batch in expected.batches(State(0, 1))[0]:
        expected.loss(batch)[0].backward()
    slope = gradients(method.policy)
    chosen = make(start)
    assert gradient_error(slopes(chosen, first_step(chosen)), slope) > 1e-2  # the first iteration's prompts are others
    chosen.answer = lambda *given: answers  # type: ignore[method-assign]
    assert gradient_error(slopes(chosen, first_step(chosen)), slope) <= 1e-5


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_what_is_logged_is_worked_by_hand(start: Path, temperature: float) -> None:
    """Scores 1 4 2 3 and 0 0 0 8. Best of 4: (4 + 8) / 2 = 6. Best of 2, over the six pairs: (4 * 3 + 3 * 2 + 2) / 6 = 20 / 6 and 8 / 2."""
    method = make(start, num_completions=4, temperature=temperature)
    answers = replace(method.answer([0, 1], 0), scores=[[1.0, 4.0, 2.0, 3.0], [0.0, 0.0, 0.0, 8.0]])
    method._log_best(answers)
    logged = method.after(State(1, 1))
    assert logged["reward/best"] == 6.0 and logged["reward/best_of_half"] == pytest.approx((20 / 6 + 4) / 2)
    assert logged["kl/bound"] == pytest.approx(math.log(4) - 0.75) and logged["kl/reference"] == 0.0


def test_sibling_order_and_a_constant_change_nothing(start: Path) -> None:
    method = make(start)
    answers = replace(method.answer([0, 1, 2], 0), scores=[[1.0, 3.0, 2.0], [5.0, 4.0, 0.0], [0.0, 1.0, 9.0]])
    kept = [tree.completions for tree in best(answers)]
    assert kept == [(tree.completions[k],) for tree, k in zip(answers.trees, (1, 0, 2), strict=True)]
    assert [tree.completions for tree in best(shuffled(answers, [[2, 0, 1], [1, 0, 2], [0, 2, 1]]))] == kept
    assert [tree.completions for tree in best(replace(answers, scores=[[x + 7 for x in row] for row in answers.scores]))] == kept


def test_what_was_drawn_at_another_temperature_is_learnt_by_the_plain_model(start: Path) -> None:
    """As in RAFT; what is logged is of what was drawn from: its KL to a cold reference, its entropy, and the engine's own logprobs."""
    cold = make(start, temperature=0.5, other_reference=True)
    answers = cold.answer([0, 1, 2], 0)
    slope = slopes(cold, micro_batches(best(answers), 1000, trained_tokens))
    expected = SFT(cold.policy, FixedData(best(answers), batch_size=3))
    for batch in expected.batches(State(0, 1))[0]:
        expected.loss(batch)[0].backward()
    assert gradient_error(slope, gradients(cold.policy)) <= 1e-5
    cold._log_best(answers)
    batch = TreeBatch.pack(answers.trees)
    with torch.no_grad():
        policy, reference = (score_tokens(model, batch, temperature=0.5) for model in (cold.policy, cold.reference))
        plain = score_tokens(cold.policy, batch)
    logged = cold.after(State(1, 1))
    assert logged["kl/reference"] == pytest.approx(float((policy.logprobs - reference.logprobs).sum()) / 9, rel=1e-4)
    assert logged["entropy"] == pytest.approx(float(policy.entropy.mean()), rel=1e-4)
    assert logged["entropy"] < float(plain.entropy.mean()) - 0.1
    assert logged["engine/max_diff"] <= 1e-4


def test_the_reward_grows(start: Path) -> None:
    """And the best of all is never below the best of half of them."""
    logged = assert_the_reward_grows(make(start, batch_size=4, num_completions=8, lr=3e-3))
    assert min(row["reward/best"] - row["reward/best_of_half"] for row in logged) >= -1e-9


def test_a_temperature_that_the_engine_refuses_is_refused_before_anything_is_read() -> None:
    """bon has a sentence of its own for the option; its bound is every other method's."""
    Config(temperature=LEAST_TEMPERATURE)
    with pytest.raises(ValidationError, match="temperature"):
        Config(temperature=LEAST_TEMPERATURE / 2)
