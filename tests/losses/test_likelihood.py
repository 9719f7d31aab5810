"""Losses on the policy's own likelihoods: values worked by hand, limits, invariances, finite differences."""

import math

import pytest
import torch
from hypothesis import given, strategies as st

from trimtab.losses.likelihood import (
    cross_entropy,
    log_odds,
    orpo_loss,
    simpo_loss,
    slic_loss,
    task_and_text_loss,
    triplet_loss,
)
from trimtab.losses.preference import bradley_terry_loss, dpo_loss

logprob = st.floats(-20, -1e-3, allow_nan=False)


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_cross_entropy_worked_by_hand() -> None:
    """Chances 1/2, 1/4 and 1/8, the last token's tree counted three times, of ten tokens in the whole step: log 2 * (1 + 2 + 9) / 10. Every
    token pulls with its weight's share, whatever its chance."""
    logprobs, weights = (-math.log(2) * vector(1, 2, 3)).requires_grad_(), vector(1, 1, 3)
    loss = cross_entropy(logprobs, weights, tokens=10)
    assert float(loss.detach()) == pytest.approx(1.2 * math.log(2))
    loss.backward()
    assert logprobs.grad is not None and logprobs.grad.tolist() == [-0.1, -0.1, pytest.approx(-0.3)]


def test_a_steps_cross_entropy_is_the_sum_of_its_micro_batches_and_gpt_ones_without_text() -> None:
    logprobs, ones = vector(-2, -3, -4, -1), torch.ones(4, dtype=torch.float64)
    whole = cross_entropy(logprobs, ones, tokens=4)
    assert float(whole) == 2.5 == float(cross_entropy(logprobs[:3], ones[:3], tokens=4) + cross_entropy(logprobs[3:], ones[3:], tokens=4))
    assert float(task_and_text_loss(logprobs, ones.bool(), text_weight=0.7, task_tokens=4, text_tokens=0).sum()) == 2.5


def test_the_triplet_worked_by_hand() -> None:
    """delta 2. log P 3 apart: satisfied, 0. 1 apart: 1 is missing. Wrong by 4: 2 + 4 = 6."""
    assert triplet_loss(vector(-5, -5, -9), vector(-8, -6, -5), delta=2.0).tolist() == [0.0, 1.0, 6.0]


def test_a_triplet_that_is_satisfied_pulls_at_nothing_and_the_others_with_force_one() -> None:
    """With delta 0 only a wrong order costs, and what it costs is its size."""
    chosen, rejected = vector(-5, -9).requires_grad_(), vector(-8, -5).requires_grad_()
    loss = triplet_loss(chosen, rejected, delta=0.0)
    up, down = torch.autograd.grad(loss.sum(), [chosen, rejected])
    assert loss.tolist() == [0.0, 4.0] and up.tolist() == [0.0, -1.0] and down.tolist() == [0.0, 1.0]


def test_gpt_ones_objective_worked_by_hand() -> None:
    """Task tokens -2 and -4, text -3, of 4 and 2 in the whole step, lambda 0.5: 2/4 + 4/4 and 0.5 * 3/2; with no text its part is 0."""
    logprobs, task = vector(-2, -3, -4), torch.tensor([True, False, True])
    found = task_and_text_loss(logprobs, task, text_weight=0.5, task_tokens=4, text_tokens=2)
    assert found.tolist() == [0.5, 0.75, 1.0]
    assert task_and_text_loss(logprobs, task, text_weight=0.0, task_tokens=2, text_tokens=1).tolist() == [1.0, 0.0, 2.0]
    alone = task_and_text_loss(vector(-2, -4), torch.tensor([True, True]), text_weight=0.5, task_tokens=2, text_tokens=0)
    assert alone.tolist() == [1.0, 2.0]


@given(logprob, logprob, st.floats(0, 5), st.floats(-10, 10))
def test_the_triplet_depends_on_the_difference_only(a: float, b: float, delta: float, shift: float) -> None:
    found = triplet_loss(vector(a + shift), vector(b + shift), delta=delta)
    assert float(found) == pytest.approx(float(triplet_loss(vector(a), vector(b), delta=delta)), abs=1e-9)


def test_the_triplet_is_rsos_hinge_of_a_uniform_reference() -> None:
    """max(0, 1 - beta * (ratio_w - ratio_l)) = beta * max(0, 1 / beta - ...) where the reference gives both answers the same log P."""
    a, b = torch.randn(2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 10
    same = torch.full_like(a, -7)
    assert torch.allclose(dpo_loss(a, b, same, same, beta=0.2, loss="hinge")[0], 0.2 * triplet_loss(a, b, delta=5.0))


def test_slic_worked_by_hand() -> None:
    """delta 1, lambda 0.5, the second example's reference answer at -4: max(0, 1 - 3) + 0.5 * 6 = 3 and max(0, 1 + 1) + 0.5 * 4 = 4."""
    assert slic_loss(vector(-5, -6), vector(-8, -5), vector(-6, -4), delta=1.0, sft_weight=0.5).tolist() == [3.0, 4.0]


def test_slic_without_its_reference_answer_is_the_triplet_and_never_forgets_it() -> None:
    """Where the hinge is satisfied the gradient is that of cross-entropy alone: -lambda on log P(y_ref|x)."""
    chosen, rejected, answer = vector(-1).requires_grad_(), vector(-9).requires_grad_(), vector(-3).requires_grad_()
    assert torch.equal(slic_loss(chosen, rejected, answer, delta=2.0, sft_weight=0.0), triplet_loss(chosen, rejected, delta=2.0))
    found = torch.autograd.grad(slic_loss(chosen, rejected, answer, delta=2.0, sft_weight=0.3).sum(), [chosen, rejected, answer])
    assert [float(g) for g in found] == [0.0, 0.0, -0.3]


def test_orpo_worked_by_hand() -> None:
    """p(y_w) = 3/4, p(y_l) = 1/2: odds 3 and 1, sigma(log 3) = 3/4; with lambda 2 the loss is log 4/3 + 2 log 4/3."""
    loss = orpo_loss(vector(math.log(3 / 4)), vector(math.log(1 / 2)), vector(math.log(3 / 4)), odds_weight=2.0)
    assert float(loss) == pytest.approx(3 * math.log(4 / 3), abs=1e-12)


def test_orpo_limits() -> None:
    """Without the odds it is cross-entropy; for unlikely answers 1 - p is 1, and the odds ratio is the ratio of probabilities."""
    a, b = vector(-2.0, -0.5), vector(-3.0, -0.1)
    assert torch.equal(orpo_loss(a, b, a, odds_weight=0.0), -a)
    far = orpo_loss(a - 40, b - 40, torch.zeros_like(a), odds_weight=1.0)
    assert torch.allclose(far, bradley_terry_loss(a, b), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_odds_of_a_sure_answer_are_finite(dtype: torch.dtype) -> None:
    """One token of probability 1, and one of e^-100: finite values and gradients; in between the definition to float32's rounding."""
    logprobs = torch.tensor([0.0, -1e-9, -100.0], dtype=dtype, requires_grad=True)
    found = log_odds(logprobs)
    assert found.tolist() == pytest.approx([math.log(1e6), math.log(1e6), -100], rel=1e-3)
    assert torch.isfinite(torch.autograd.grad(found.sum(), logprobs)[0]).all()
    p = torch.linspace(0.001, 0.999, 99, dtype=torch.float64)
    assert torch.allclose(log_odds(p.log().to(dtype)).double(), torch.logit(p), atol=2e-4 if dtype == torch.float32 else 1e-11)


def test_simpo_worked_by_hand() -> None:
    """beta 2, gamma 1, means -0.5 and -1.5: the margin 2 - 1 = 1, loss log(1 + 1/e). At a margin of gamma: log 2."""
    losses = simpo_loss(vector(-0.5, -1.0), vector(-1.5, -1.5), beta=2.0, gamma=1.0)
    assert losses.tolist() == pytest.approx([math.log(1 + 1 / math.e), math.log(2)], abs=1e-12)


def test_simpo_without_a_target_margin_is_bradley_terry_on_its_rewards() -> None:
    a, b = torch.randn(2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    assert torch.allclose(simpo_loss(a, b, beta=2.5, gamma=0.0), bradley_terry_loss(2.5 * a, 2.5 * b))


def test_gradients_by_finite_differences() -> None:
    """Logprobs away from the hinge's corner."""
    generator = torch.Generator().manual_seed(5)
    a, b, c = ((-0.1 - 3 * torch.rand(6, generator=generator, dtype=torch.float64)).requires_grad_() for _ in range(3))
    assert float((0.5 - a + b).detach().abs().min()) > 1e-3
    assert torch.autograd.gradcheck(lambda *x: triplet_loss(*x, delta=0.5), (a, b))
    assert torch.autograd.gradcheck(lambda *x: slic_loss(*x, delta=0.5, sft_weight=0.7), (a, b, c))
    assert torch.autograd.gradcheck(lambda *x: orpo_loss(*x, odds_weight=0.7), (a, b, c))
    assert torch.autograd.gradcheck(lambda *x: simpo_loss(*x, beta=2.0, gamma=0.5), (a, b))
    task = torch.arange(len(a)) % 2 == 0
    assert torch.autograd.gradcheck(lambda x: task_and_text_loss(x, task, text_weight=0.3, task_tokens=5, text_tokens=4), (a,))
