"""Losses on pairs: values worked by hand, limits, invariances, finite differences."""

import math
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from trimtab.losses.preference import DPO_LOSSES, bradley_terry_loss, dpo_loss, kto_loss, plackett_luce_loss, tie_loss

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


def test_a_tie_worked_by_hand() -> None:
    """Scores log 3 apart: half of log 4/3 and half of log 4 = log(4 / sqrt 3). Equal scores: log 2, the least, with no slope."""
    assert float(tie_loss(vector(math.log(3)), vector(0))) == pytest.approx(math.log(4 / math.sqrt(3)), abs=1e-12)
    assert torch.equal(tie_loss(vector(2), vector(5)), tie_loss(vector(5), vector(2)))
    a = vector(1.5).requires_grad_()
    loss = tie_loss(a, vector(1.5))
    assert float(loss.detach()) == pytest.approx(math.log(2)) and float(torch.autograd.grad(loss, a)[0]) == pytest.approx(0, abs=1e-15)


def ranking(*scores: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """All pairs of answers in the order best to worst, as ``plackett_luce_loss`` takes them."""
    pairs = [(i, j) for i in range(len(scores)) for j in range(i + 1, len(scores))]
    better, worse = torch.tensor(pairs).T
    return vector(*scores)[better], vector(*scores)[worse], better, len(scores)


def test_plackett_luce_worked_by_hand() -> None:
    """Scores log 4, log 2, log 2 in the order of the ranking: first of 8 with 4, then of 4 with 2, the last has no rival.

    The losses are log 2, log 2 and 0, and P(ranking) = 1/2 * 1/2.
    """
    assert plackett_luce_loss(*ranking(math.log(4), math.log(2), math.log(2))).tolist() == pytest.approx([math.log(2), math.log(2), 0])


def test_plackett_luce_of_one_pair_is_bradley_terry() -> None:
    for a, b in ((1.0, 0.3), (-2.0, 5.0), (1e4, -1e4), (-1e4, 1e4)):
        assert plackett_luce_loss(*ranking(a, b)).tolist() == pytest.approx([float(bradley_terry_loss(vector(a), vector(b))), 0.0])


@given(st.lists(finite, min_size=2, max_size=5), finite)
def test_plackett_luce_is_a_distribution_over_rankings_and_ignores_a_shift(scores: list[float], shift: float) -> None:
    """The probabilities of all orders of the same answers sum to 1."""
    total = sum(math.exp(-float(plackett_luce_loss(*ranking(*order)).sum())) for order in permutations(scores))
    assert total == pytest.approx(1, abs=1e-9)
    moved = plackett_luce_loss(*ranking(*(s + shift for s in scores)))
    assert moved.tolist() == pytest.approx(plackett_luce_loss(*ranking(*scores)).tolist(), abs=1e-9)


def test_dpo_variants_worked_by_hand() -> None:
    """The margin of the example above is 2: with e = 0.1, s = log(1 + e^-2) and s' = log(1 + e^2) = s + 2.

    cdpo 0.9 s + 0.1 s'; robust (0.9 s - 0.1 s') / 0.8; hinge max(0, 1 - 2) = 0, and of beta 0.1 (margin 0.4) 0.6.
    ipo, beta 0.5: log-ratios 2 and -2, h = 4, (4 - 1)^2 = 9; per token of 4 and 2 tokens h = 0.5 + 1 = 1.5, (1.5 - 1)^2 = 0.25.
    """
    inputs = vector(-3), vector(-8), vector(-5), vector(-6)
    s = math.log(1 + math.exp(-2))

    def value(loss: str, **options: Any) -> float:
        return float(dpo_loss(*inputs, **{"beta": 0.5, "loss": loss, **options})[0])

    assert value("cdpo", label_smoothing=0.1) == pytest.approx(0.9 * s + 0.1 * (s + 2), abs=1e-12)
    assert value("robust", label_smoothing=0.1) == pytest.approx((0.9 * s - 0.1 * (s + 2)) / 0.8, abs=1e-12)
    assert value("hinge") == 0 and value("hinge", beta=0.1) == pytest.approx(0.6, abs=1e-12)
    assert value("ipo") == pytest.approx(9, abs=1e-12)
    assert value("ipo", lengths=(vector(4), vector(2))) == pytest.approx(0.25, abs=1e-12)


def test_the_sigmoid_loss_is_its_equation_bit_for_bit() -> None:
    a, b, c, d = torch.randn(4, 99, generator=torch.Generator().manual_seed(6)) * 30
    expected = -torch.nn.functional.logsigmoid(0.3 * (a - c) - 0.3 * (b - d))
    assert torch.equal(dpo_loss(a, b, c, d, beta=0.3, lengths=(torch.ones(99), torch.ones(99)))[0], expected)


@pytest.mark.parametrize("loss", ["cdpo", "robust"])
def test_no_label_smoothing_is_the_sigmoid_loss(loss: str) -> None:
    pairs = torch.randn(4, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 20
    assert torch.equal(dpo_loss(*pairs, beta=0.3, loss=loss)[0], dpo_loss(*pairs, beta=0.3)[0])


@given(finite, st.floats(0, 0.45))
def test_robust_is_unbiased_and_cdpo_is_the_noisy_mean(margin: float, flips: float) -> None:
    """With chance e of a flip, robust's mean over flips is the sigmoid loss of the truth; cdpo is the sigmoid loss's mean over flips."""

    def value(m: float, loss: str) -> float:
        return float(dpo_loss(vector(m), vector(0), vector(0), vector(0), beta=1.0, loss=loss, label_smoothing=flips)[0])

    mean = (1 - flips) * value(margin, "robust") + flips * value(-margin, "robust")
    assert mean == pytest.approx(value(margin, "sigmoid"), abs=1e-9)
    noisy = (1 - flips) * value(margin, "sigmoid") + flips * value(-margin, "sigmoid")
    assert value(margin, "cdpo") == pytest.approx(noisy, abs=1e-9)


def test_ipo_asks_for_half_of_one_over_beta_and_no_more() -> None:
    """h = 1 / (2 beta) = 5 costs nothing and has no slope; one nat of h more or less costs 1."""
    policy = vector(5, 6, 4).requires_grad_()
    loss = dpo_loss(policy, torch.zeros_like(policy), vector(0, 0, 0), vector(0, 0, 0), beta=0.1, loss="ipo")[0]
    assert loss.tolist() == pytest.approx([0, 1, 1]) and torch.autograd.grad(loss.sum(), policy)[0].tolist() == pytest.approx([0, 2, -2])


@pytest.mark.parametrize("loss", DPO_LOSSES)
def test_dpo_variants_of_equal_log_ratios_are_symmetric_and_report_rewards_alike(loss: str) -> None:
    """The implicit rewards do not depend on the loss; a common shift of both log-ratios changes none of them."""
    inputs = [vector(-3), vector(-8), vector(-5), vector(-6)]
    losses, chosen, rejected = dpo_loss(*inputs, beta=0.5, loss=loss, label_smoothing=0.1)
    assert (float(chosen), float(rejected)) == (1.0, -1.0) and not chosen.requires_grad
    moved = dpo_loss(inputs[0] + 7, inputs[1] + 7, *inputs[2:], beta=0.5, loss=loss, label_smoothing=0.1)[0]
    assert float(moved) == pytest.approx(float(losses), abs=1e-9)


def test_kto_worked_by_hand() -> None:
    """beta 0.5, z = 1. Desirable with log-ratio 3: 1 - sigma(1) = sigma(-1), weight 2. Undesirable with -1: sigma(0.5 * -2) = sigma(-1)."""
    losses, rewards = kto_loss(
        vector(-2, -6), vector(-5, -5), torch.tensor([True, False]), vector(1)[0], beta=0.5, desirable_weight=2.0, undesirable_weight=3.0
    )
    low = 1 / (1 + math.e)
    assert losses.tolist() == pytest.approx([2 * low, 3 * low], abs=1e-12) and rewards.tolist() == [1.5, -0.5]


def test_kto_of_a_policy_that_is_its_reference_is_half() -> None:
    """Log-ratios and baseline 0: every answer costs half its weight, desirable or not."""
    logprobs, kinds = torch.randn(6, dtype=torch.float64), torch.arange(6) % 2 == 0
    losses, rewards = kto_loss(logprobs, logprobs, kinds, vector(0)[0], beta=0.1)
    assert losses.tolist() == [0.5] * 6 and not rewards.any()


def test_kto_saturates_and_no_gradient_reaches_the_baseline() -> None:
    """Far above the baseline a desirable answer costs nothing, an undesirable one its whole weight."""
    policy, baseline = vector(1e4, 1e4).requires_grad_(), vector(0.5).requires_grad_()
    losses, _ = kto_loss(policy, vector(0, 0), torch.tensor([True, False]), baseline[0], beta=0.1)
    assert losses.tolist() == [0.0, 1.0]
    assert torch.autograd.grad(losses.sum(), baseline, allow_unused=True) == (None,)


def test_gradients_of_the_variants_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(2)
    a, b, c, d = (torch.randn(4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(4))
    assert torch.autograd.gradcheck(tie_loss, (a, b))
    stage = torch.tensor([0, 0, 1, 3])
    assert torch.autograd.gradcheck(lambda *x: plackett_luce_loss(*x, stage, 5), (a, b))
    for loss in DPO_LOSSES:
        lengths = (torch.tensor([1, 3, 2, 5]), torch.tensor([2, 2, 1, 4]))
        assert torch.autograd.gradcheck(
            lambda *x: dpo_loss(*x, beta=0.7, loss=loss, label_smoothing=0.2, lengths=lengths)[0], (a, b, c, d)  # noqa: B023 - called here
        )
    kinds = torch.tensor([True, False, False, True])
    options = {"beta": 0.7, "desirable_weight": 1.5, "undesirable_weight": 0.5}
    assert torch.autograd.gradcheck(lambda *x: kto_loss(*x, kinds, vector(0.3)[0], **options)[0], (a, b))
