"""Policy-gradient pieces on flat tokens: values worked by hand, limits, invariances, finite differences."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from trimtab.losses.policy import (
    KL_ESTIMATORS,
    clipped_surrogate,
    clipped_value_loss,
    explained_variance,
    gae,
    group_normalised,
    kl_estimate,
    leave_one_out,
    penalised_surrogate,
    self_critical,
    shaped_rewards,
    surrogate,
    whiten,
)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_gae_worked_by_hand() -> None:
    """gamma 0.5, lambda 0.5; completion 1: r = 1 2, V = 4 6; completion 2: r = 3, V = 1.

    Completion 1: delta_2 = 2 - 6 = -4, delta_1 = 1 + 0.5 * 6 - 4 = 0; A_2 = -4, A_1 = 0 + 0.25 * -4 = -1.
    Completion 2: A = 3 - 1 = 2. Returns A + V: 3, 2, 3.
    """
    advantages, returns = gae(vector(1, 2, 3), vector(4, 6, 1), torch.tensor([2, 1]), gamma=0.5, gae_lambda=0.5)
    assert advantages.tolist() == [-1.0, -4.0, 2.0]
    assert returns.tolist() == [3.0, 2.0, 3.0]


def slow_gae(rewards: list[float], values: list[float], gamma: float, gae_lambda: float) -> list[float]:
    """Equation 16 as a double sum, for one completion."""
    after = [*values[1:], 0.0]
    deltas = [r + gamma * n - v for r, v, n in zip(rewards, values, after, strict=True)]
    return [sum((gamma * gae_lambda) ** j * d for j, d in enumerate(deltas[t:])) for t in range(len(rewards))]


numbers = st.floats(-5, 5, allow_nan=False)
completions = st.lists(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6), min_size=1, max_size=5)


@given(completions, st.floats(0.1, 1), st.floats(0, 1))
def test_gae_equals_the_sum_within_each_completion(
    rows: list[list[tuple[float, float]]], gamma: float, lam: float
) -> None:
    flat = [pair for row in rows for pair in row]
    rewards, values = vector(*(r for r, _ in flat)), vector(*(v for _, v in flat))
    lengths = torch.tensor([len(row) for row in rows])
    advantages, returns = gae(rewards, values, lengths, gamma=gamma, gae_lambda=lam)
    expected = [a for row in rows for a in slow_gae([r for r, _ in row], [v for _, v in row], gamma, lam)]
    assert advantages.tolist() == pytest.approx(expected, abs=1e-9)
    assert torch.allclose(returns, advantages + values)


def test_gae_limits_of_lambda() -> None:
    """lambda 1: return to go minus value, so returns are the rewards to go whatever the values; lambda 0: one-step errors."""
    rewards, values, lengths = vector(1, -2, 4, 0.5), vector(3, 1, -1, 2), torch.tensor([3, 1])
    advantages, returns = gae(rewards, values, lengths, gamma=1.0, gae_lambda=1.0)
    assert returns.tolist() == pytest.approx([3, 2, 4, 0.5]) and advantages.tolist() == pytest.approx([0, 1, 5, -1.5])
    advantages, _ = gae(rewards, values, lengths, gamma=1.0, gae_lambda=0.0)
    assert advantages.tolist() == pytest.approx([1 + 1 - 3, -2 - 1 - 1, 4 + 1, 0.5 - 2])


def test_gae_of_perfect_values_is_zero() -> None:
    """V(s_t) = discounted rewards to go: no token did better or worse than expected, for any lambda."""
    rewards, gamma = [1.0, -2.0, 4.0], 0.9
    values = [rewards[0] + gamma * (rewards[1] + gamma * rewards[2]), rewards[1] + gamma * rewards[2], rewards[2]]
    for lam in (0.0, 0.5, 1.0):
        advantages, _ = gae(vector(*rewards), vector(*values), torch.tensor([3]), gamma=gamma, gae_lambda=lam)
        assert advantages.abs().max() < 1e-12


def test_shaped_rewards_worked_by_hand() -> None:
    """beta 0.1, log-ratios 1 -2 | 3, scores 5 | 7: tokens -0.1, 0.2 + 5 | -0.3 + 7; sums 5 - 0.1 * (-1) and 7 - 0.1 * 3."""
    logprobs, reference = vector(-1, -4, -2), vector(-2, -2, -5)
    rewards = shaped_rewards(vector(5, 7), logprobs, reference, torch.tensor([1, 2]), beta=0.1)
    assert rewards.tolist() == pytest.approx([-0.1, 5.2, 6.7])
    assert float(rewards[:2].sum()) == pytest.approx(5 + 0.1) and float(rewards[2:].sum()) == pytest.approx(7 - 0.3)


def test_shaped_rewards_without_beta_are_the_scores_on_the_last_tokens() -> None:
    rewards = shaped_rewards(torch.tensor([5.0, 7.0]), torch.randn(5), torch.randn(5), torch.tensor([2, 4]), beta=0.0)
    assert rewards.tolist() == [0.0, 0.0, 5.0, 0.0, 7.0]


def test_kl_estimators_worked_by_hand() -> None:
    """log ratio x = log 2: k1 = log 2, k2 = (log 2)^2 / 2, k3 = 1/2 - 1 + log 2."""
    x = vector(math.log(2))
    found = [float(kl_estimate(x, name)) for name in KL_ESTIMATORS]
    assert found == pytest.approx([math.log(2), math.log(2) ** 2 / 2, math.log(2) - 0.5], abs=1e-12)


def test_k1_and_k3_are_unbiased_and_k3_is_never_negative() -> None:
    """Over p = 0.5 0.3 0.2 and q = 0.2 0.5 0.3 the expectation under p is the exact KL; k2's is not, but agrees for q near p."""
    p, q = vector(0.5, 0.3, 0.2), vector(0.2, 0.5, 0.3)
    exact = float((p * (p / q).log()).sum())
    mean = {name: float((p * kl_estimate((p / q).log(), name)).sum()) for name in KL_ESTIMATORS}
    assert (
        mean["k1"] == pytest.approx(exact) and mean["k3"] == pytest.approx(exact) and mean["k2"] != pytest.approx(exact)
    )
    near = p + 1e-4 * vector(1, -2, 1)
    small = float((p * (p / near).log()).sum())
    assert float((p * kl_estimate((p / near).log(), "k2")).sum()) == pytest.approx(small, rel=1e-2)
    assert kl_estimate(torch.linspace(-5, 5, 101), "k3").min() >= 0 and float(kl_estimate(vector(0), "k3")) == 0
    with pytest.raises(AssertionError, match="k4"):
        kl_estimate(p, "k4")


def test_the_surrogate_worked_by_hand() -> None:
    """Ratios 2 and 1/2, advantages 3 and -4: 6 and -2; at ratio 1 its slope is A grad log pi."""
    found = surrogate(vector(math.log(2), -math.log(2)), vector(0, 0), vector(3, -4))
    assert found.tolist() == pytest.approx([6, -2])
    logprobs = vector(-1, -2).requires_grad_()
    surrogate(logprobs, logprobs.detach(), vector(3, -4)).sum().backward()
    assert logprobs.grad is not None and logprobs.grad.tolist() == [3, -4]


def test_clipped_surrogate_worked_by_hand() -> None:
    """eps 0.2. ratio 1.5: A = 1 -> -1.2 (clipped), A = -1 -> 1.5 (not). ratio 0.5: A = 1 -> -0.5, A = -1 -> 0.8. ratio 1: -A."""
    ratios, advantages = vector(1.5, 1.5, 0.5, 0.5, 1.0), vector(1, -1, 1, -1, 3)
    loss, ratio = clipped_surrogate(ratios.log(), torch.zeros(5, dtype=torch.float64), advantages, clip=0.2)
    assert loss.tolist() == pytest.approx([-1.2, 1.5, -0.5, 0.8, -3.0])
    assert ratio.tolist() == pytest.approx([1.5, 1.5, 0.5, 0.5, 1.0]) and not ratio.requires_grad


def test_clipped_surrogate_has_no_slope_where_it_clips_and_the_policy_gradient_at_ratio_one() -> None:
    """d loss / d log pi = -ratio * A where the ratio counts, 0 where it is clipped in the direction of A."""
    logprobs = vector(math.log(1.5), math.log(1.5), math.log(0.5), math.log(0.5), 0.0).requires_grad_()
    loss, _ = clipped_surrogate(logprobs, torch.zeros(5, dtype=torch.float64), vector(1, -1, 1, -1, 3), clip=0.2)
    (slope,) = torch.autograd.grad(loss.sum(), logprobs)
    assert slope.tolist() == pytest.approx([0.0, 1.5, -0.5, 0.0, -3.0])


@given(st.floats(-1, 1), st.floats(-3, 3), st.floats(0.01, 0.9))
def test_the_clipped_surrogate_is_never_below_the_unclipped(log_ratio: float, advantage: float, clip: float) -> None:
    """It is a pessimistic bound (Schulman et al. 2017, section 3); an infinite clip gives the plain surrogate."""
    x, zero, a = vector(log_ratio), vector(0), vector(advantage)
    plain = -math.exp(log_ratio) * advantage
    assert float(clipped_surrogate(x, zero, a, clip=clip)[0]) >= plain - 1e-12
    assert float(clipped_surrogate(x, zero, a, clip=1e9)[0]) == pytest.approx(plain)


def test_clipped_value_loss_worked_by_hand() -> None:
    """old 0, return 1, clip 0.2. V = 0.5: clipped to 0.2, max(0.25, 0.64) / 2 = 0.32. V = 0.1: 0.405. V = 3: max(4, 0.64) / 2 = 2."""
    values, old, returns = vector(0.5, 0.1, 3.0), vector(0, 0, 0), vector(1, 1, 1)
    assert clipped_value_loss(values, old, returns, clip=0.2).tolist() == pytest.approx([0.32, 0.405, 2.0])
    assert clipped_value_loss(values, old, returns, clip=None).tolist() == pytest.approx([0.125, 0.405, 2.0])
    assert not clipped_value_loss(returns, old, returns, clip=None).any()


def test_whiten_worked_by_hand() -> None:
    """1 2 3: mean 2, variance 2/3; one value gives 0; scale and shift do not matter."""
    found = whiten(vector(1, 2, 3))
    assert found.tolist() == pytest.approx([-math.sqrt(1.5), 0, math.sqrt(1.5)], abs=1e-6)
    assert whiten(vector(5)).tolist() == [0.0] and whiten(vector(4, 4)).tolist() == [0.0, 0.0]
    values = torch.randn(50, dtype=torch.float64)
    assert torch.allclose(whiten(7 * values - 3), whiten(values), atol=1e-6)
    assert abs(float(whiten(values).mean())) < 1e-12 and float(whiten(values).std(correction=0)) == pytest.approx(
        1, abs=1e-6
    )


def test_whitening_may_keep_the_mean() -> None:
    """1 2 3 keep their mean 2: 2 -+ sqrt(1.5) and 2; a constant added comes out again; one value is itself."""
    found = whiten(vector(1, 2, 3), keep_mean=True)
    assert found.tolist() == pytest.approx([2 - math.sqrt(1.5), 2, 2 + math.sqrt(1.5)], abs=1e-6)
    assert torch.allclose(whiten(vector(11, 12, 13), keep_mean=True), found + 10)
    assert whiten(vector(5), keep_mean=True).tolist() == [5.0]


def test_penalised_surrogate_worked_by_hand() -> None:
    """beta 3. ratio 2, A = 1: -(2 - 3 (2 - 1 - log 2)) = 1 - 3 log 2. ratio 1/2, A = -1: 1/2 + 3 (1/2 - 1 + log 2). ratio 1: -A."""
    loss, ratio = penalised_surrogate(vector(2, 0.5, 1).log(), torch.zeros(3, dtype=torch.float64), vector(1, -1, 4), beta=3.0)
    assert loss.tolist() == pytest.approx([1 - 3 * math.log(2), 3 * math.log(2) - 1, -4])
    assert ratio.tolist() == pytest.approx([2.0, 0.5, 1.0]) and not ratio.requires_grad


def test_limits_of_the_surrogates() -> None:
    """eps to infinity and beta to 0 are the same plain surrogate; at ratio 1 all of them have REINFORCE's gradient -A grad log pi."""
    generator = torch.Generator().manual_seed(2)
    logprobs, old, a = (torch.randn(8, generator=generator, dtype=torch.float64) for _ in range(3))
    free = clipped_surrogate(logprobs, old, a, clip=1e9)[0]
    assert torch.equal(free, penalised_surrogate(logprobs, old, a, beta=0.0)[0]) and torch.allclose(free, -(logprobs - old).exp() * a)
    for of in (
        lambda x: clipped_surrogate(x, old, a, clip=1e9), lambda x: clipped_surrogate(x, old, a, clip=0.1),
        lambda x: penalised_surrogate(x, old, a, beta=5.0),
    ):  # fmt: skip
        there = old.clone().requires_grad_()
        (slope,) = torch.autograd.grad(of(there)[0].sum(), there)
        assert torch.allclose(slope, -a)


def test_the_penaltys_gradient_is_that_of_the_exact_kl() -> None:
    """Over p = softmax(old) the expectation of k3's gradient in the logits is that of KL(p, softmax(x)), which is softmax(x) - p."""
    old, x = vector(0.3, -0.2, 1.0), vector(-0.5, 0.4, 0.1).requires_grad_()
    p = old.softmax(0)
    zero = torch.zeros(3, dtype=torch.float64)
    mean = (p * penalised_surrogate(x.log_softmax(0), old.log_softmax(0), zero, beta=1.0)[0]).sum()
    assert float(mean.detach()) == pytest.approx(float((p * (p.log() - x.detach().log_softmax(0))).sum()))
    (slope,) = torch.autograd.grad(mean, x)
    assert torch.allclose(slope, x.detach().softmax(0) - p)


def test_explained_variance_worked_by_hand() -> None:
    """Perfect values 1, a constant 0, values off by more than the returns vary negative: returns 1 3, values 3 1 -> 1 - 4/1."""
    returns = vector(1, 3)
    assert float(explained_variance(returns, returns)) == 1.0
    assert float(explained_variance(vector(2, 2), returns)) == 0.0
    assert float(explained_variance(vector(3, 1), returns)) == -3.0
    assert float(explained_variance(returns + 10, returns)) == 1.0  # a constant error explains as much


def test_gradients_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.randn(6, generator=generator, dtype=torch.float64)

    logprobs, values, old, advantages, returns = (
        draw().requires_grad_(),
        draw().requires_grad_(),
        draw(),
        draw(),
        draw(),
    )
    assert torch.autograd.gradcheck(lambda x: surrogate(x, old, advantages), [logprobs])
    assert torch.autograd.gradcheck(lambda x: clipped_surrogate(x, old, advantages, clip=0.3)[0], [logprobs])
    assert torch.autograd.gradcheck(lambda x: penalised_surrogate(x, old, advantages, beta=0.7)[0], [logprobs])
    assert torch.autograd.gradcheck(lambda v: clipped_value_loss(v, old, returns, clip=0.3), [values])
    for name in KL_ESTIMATORS:
        assert torch.autograd.gradcheck(lambda x, name=name: kl_estimate(x, name), [logprobs])


def test_leave_one_out_worked_by_hand() -> None:
    """Prompt 0: returns 1, 4, 7: against means of the others 5.5, 4, 2.5. Prompt 1: 2 and 0. Prompt 2: alone."""
    found = leave_one_out(vector(1, 2, 4, 0, 7, 9), torch.tensor([0, 1, 0, 1, 0, 2]))
    assert found.tolist() == [-4.5, 2.0, 0.0, -2.0, 4.5, 0.0]


@given(st.lists(st.lists(numbers, min_size=2, max_size=5), min_size=1, max_size=4), numbers)
def test_leave_one_out_sums_to_zero_and_ignores_what_all_answers_share(rows: list[list[float]], shift: float) -> None:
    returns = vector(*(x for row in rows for x in row))
    group = torch.tensor([n for n, row in enumerate(rows) for _ in row])
    found = leave_one_out(returns, group)
    sums = torch.zeros(len(rows), dtype=found.dtype).index_add(0, group, found)
    assert torch.allclose(sums, torch.zeros_like(sums), atol=1e-9)
    assert torch.allclose(leave_one_out(returns + shift, group), found, atol=1e-9)


def test_self_critical_worked_by_hand() -> None:
    """Prompt 0: 1 and 4 against the greedy answer's 3; prompt 1: 2 against 5. The greedy answers themselves get 0."""
    returns, group = vector(1, 2, 4, 3, 5), torch.tensor([0, 1, 0, 0, 1])
    greedy = torch.tensor([False, False, False, True, True])
    assert self_critical(returns, group, greedy).tolist() == [-2.0, -3.0, 1.0, 0.0, 0.0]
    assert self_critical(returns[:0], group[:0], greedy[:0]).tolist() == []


def test_group_normalised_worked_by_hand() -> None:
    """Prompt 0: 1 4 7, mean 4, deviation sqrt(18 / 2); prompt 1: 2 0, mean 1, deviation sqrt(2 / 1); prompt 2: alone; prompt 3: equal."""
    returns, group = vector(1, 2, 4, 0, 7, 9, 5, 5), torch.tensor([0, 1, 0, 1, 0, 2, 3, 3])
    centred = [-3.0, 1.0, 0.0, -1.0, 3.0, 0.0, 0.0, 0.0]
    assert group_normalised(returns, group, divide_by_std=False).tolist() == centred
    deviations = [3, math.sqrt(2), 3, math.sqrt(2), 3, 1, 1, 1]
    expected = [x / (d + 1e-4) for x, d in zip(centred, deviations, strict=True)]
    assert group_normalised(returns, group).tolist() == pytest.approx(expected)


@given(st.lists(st.lists(numbers, min_size=2, max_size=5), min_size=1, max_size=4), numbers)
def test_groups_are_centred_and_ignore_what_all_answers_share(rows: list[list[float]], shift: float) -> None:
    """Sums are 0, a constant changes nothing, no advantage passes (K - 1) / sqrt(K), without the deviation it is (K - 1) / K of RLOO's."""
    returns = vector(*(x for row in rows for x in row))
    group = torch.tensor([n for n, row in enumerate(rows) for _ in row])
    sizes = torch.tensor([float(len(row)) for row in rows], dtype=torch.float64)[group]
    for std in (True, False):
        found = group_normalised(returns, group, divide_by_std=std)
        sums = torch.zeros(len(rows), dtype=found.dtype).index_add(0, group, found)
        assert torch.allclose(sums, torch.zeros_like(sums), atol=1e-8)
        assert torch.allclose(group_normalised(returns + shift, group, divide_by_std=std), found, atol=1e-8)
    assert (group_normalised(returns, group).abs() <= (sizes - 1) / sizes.sqrt() + 1e-9).all()
    assert torch.allclose(group_normalised(returns, group, divide_by_std=False), leave_one_out(returns, group) * (sizes - 1) / sizes)
