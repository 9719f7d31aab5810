"""Losses on pairs: values worked by hand, limits, invariances, finite differences."""

import math

import pytest
import torch
from hypothesis import given, strategies as st

from trimtab.losses.preference import bradley_terry_loss, dpo_loss

finite = st.floats(-20, 20, allow_nan=False)


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_bradley_terry_worked_by_hand() -> None:
    """r_w - r_l = log 3: sigma = 3/4, loss = log 4/3. Equal rewards: log 2. r_w - r_l = -log 3: log 4."""
    losses = bradley_terry_loss(vector(math.log(3), 5, 0), vector(0, 5, math.log(3)))
    assert losses.tolist() == pytest.approx([math.log(4 / 3), math.log(2), math.log(4)], abs=1e-12)


def test_bradley_terry_limits() -> None:
    """A sure right order costs nothing, a sure wrong one its margin, and neither overflows."""
    assert bradley_terry_loss(vector(1e4, 0), vector(0, 1e4)).tolist() == pytest.approx([0.0, 1e4])


@given(finite, finite, finite)
def test_bradley_terry_depends_on_the_difference_only_and_both_orders_sum_right(
    a: float, b: float, shift: float
) -> None:
    """l(a, b) - l(b, a) = b - a, because log sigma(x) - log sigma(-x) = x."""
    forward, backward = bradley_terry_loss(vector(a), vector(b)), bradley_terry_loss(vector(b), vector(a))
    assert float(forward - backward) == pytest.approx(b - a, abs=1e-9)
    assert float(bradley_terry_loss(vector(a + shift), vector(b + shift))) == pytest.approx(float(forward), abs=1e-9)


def test_dpo_worked_by_hand() -> None:
    """beta 0.5, policy log-probs -3 and -8, reference -5 and -6: rewards 0.5 * 2 = 1 and 0.5 * -2 = -1, loss log(1 + e^-2)."""
    loss, chosen, rejected = dpo_loss(vector(-3), vector(-8), vector(-5), vector(-6), beta=0.5)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-2)), abs=1e-12)
    assert (float(chosen), float(rejected)) == (1.0, -1.0)


def test_dpo_of_a_policy_that_is_its_reference_is_log_two() -> None:
    logprobs = torch.randn(2, 5, dtype=torch.float64)
    for beta in (0.01, 0.1, 5.0):
        loss, chosen, rejected = dpo_loss(logprobs[0], logprobs[1], logprobs[0], logprobs[1], beta=beta)
        assert loss.tolist() == pytest.approx([math.log(2)] * 5, abs=1e-15)
        assert not chosen.any() and not rejected.any()


def test_dpo_for_small_beta_is_linear_in_the_margin() -> None:
    """beta -> 0: loss = log 2 - beta/2 * margin + O(beta^2); margin 4 - (-2) = 6."""
    beta = 1e-5
    loss = dpo_loss(vector(4), vector(-2), vector(0), vector(0), beta=beta)[0]
    assert (float(loss) - math.log(2)) / beta == pytest.approx(-3.0, abs=1e-4)


def test_dpo_gradient_has_the_papers_form() -> None:
    """Rafailov et al. 2023, section 4: dL/dlog pi(y_w) = -beta * sigma(r_l - r_w), the opposite for y_l; none to rewards."""
    policy = [vector(-3.0, -2.0).requires_grad_(), vector(-8.0, -1.0).requires_grad_()]
    reference = [vector(-5.0, -2.5), vector(-6.0, -3.0)]
    loss, chosen, rejected = dpo_loss(*policy, *reference, beta=0.3)
    up, down = torch.autograd.grad(loss.sum(), policy)
    weight = 0.3 * torch.sigmoid(rejected - chosen)
    assert torch.allclose(up, -weight) and torch.allclose(down, weight)
    assert not chosen.requires_grad and not rejected.requires_grad


def test_gradients_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = [torch.randn(4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    assert torch.autograd.gradcheck(bradley_terry_loss, pairs[:2])
    assert torch.autograd.gradcheck(lambda *x: dpo_loss(*x, beta=0.7)[0], pairs)
