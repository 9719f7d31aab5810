"""Conjugate gradient, the size of a natural step and the line search, on problems whose answers are known."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trimtab.training.trust_region import conjugate_gradient, line_search, natural_step


def spd(size: int, seed: int) -> Tensor:
    """A symmetric positive definite matrix of eigenvalues 0.5 .. 2."""
    draw = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64))[0]
    return q @ torch.diag(torch.linspace(0.5, 2.0, size, dtype=torch.float64)) @ q.T


def counted(matrix: Tensor, calls: list[int]) -> Callable[[Tensor], Tensor]:
    def product(v: Tensor) -> Tensor:
        calls.append(1)
        return matrix @ v

    return product


def test_conjugate_gradient_solves_by_hand() -> None:
    """[[4, 1], [1, 3]] x = [1, 2] has x = [1/11, 7/11]."""
    matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    target = torch.tensor([1.0, 2.0], dtype=torch.float64)
    found = conjugate_gradient(lambda v: matrix @ v, target, iterations=2)
    assert found.x.tolist() == pytest.approx([1 / 11, 7 / 11], abs=1e-12)
    assert target.tolist() == [1.0, 2.0]  # what was given is left alone


@pytest.mark.parametrize("size", [1, 5, 12])
def test_a_system_of_n_is_solved_in_n_products_and_no_fewer(size: int) -> None:
    matrix, calls = spd(size, size), []
    target = torch.linspace(-1, 2, size, dtype=torch.float64)
    found = conjugate_gradient(counted(matrix, calls), target, iterations=size)
    assert len(calls) == size and torch.allclose(matrix @ found.x, target, atol=1e-9)
    assert found.relative(target) <= 1e-9
    assert torch.allclose(found.residual, target - matrix @ found.x, atol=1e-9)
    if size > 1:
        assert conjugate_gradient(lambda v: matrix @ v, target, iterations=size // 2).relative(target) > 1e-6


def test_conjugate_gradient_ends_at_its_tolerance() -> None:
    calls: list[int] = []
    target = torch.linspace(-1, 2, 30, dtype=torch.float64)
    found = conjugate_gradient(counted(spd(30, 1), calls), target, iterations=30, tolerance=1e-2)
    assert found.relative(target) <= 1e-2 and len(calls) < 12


@pytest.mark.parametrize("matrix", [torch.zeros(2, 2), -torch.eye(2), torch.full((2, 2), math.nan)], ids=["zero", "negative", "nan"])
def test_where_there_is_no_curvature_conjugate_gradient_stays(matrix: Tensor) -> None:
    found = conjugate_gradient(lambda v: matrix @ v, torch.tensor([3.0, 4.0]), iterations=5)
    assert found.x.tolist() == [0, 0] and found.relative(torch.tensor([3.0, 4.0])) == 1.0


def test_nothing_to_solve_is_solved_by_zero() -> None:
    found = conjugate_gradient(lambda v: pytest.fail("asked"), torch.zeros(3), iterations=5)
    assert found.x.tolist() == [0, 0, 0] and found.relative(torch.zeros(3)) == 0.0


def bandit_fisher(logits: Tensor) -> Tensor:
    p = torch.softmax(logits, -1)
    return torch.diag(p) - torch.outer(p, p)


def test_one_step_on_a_bandit_worked_by_hand() -> None:
    """Two arms with rewards 1 and 0, logits 0: p = (1/2, 1/2), A = (1/2, -1/2), g = p A = (1/4, -1/4), F = 1/4 [[1, -1], [-1, 1]].

    F x = g at x = (1/2, -1/2); x^T F x = 1/4; with delta = 0.02 the size is sqrt(0.04 / 0.25) = 0.4 and the step (0.2, -0.2): the natural
    gradient. There KL(old, new) = log cosh 0.2 = 0.01987, within the bound at the first try, and the better arm's chance is
    sigmoid(0.4) = 0.5987: the surrogate's gain is 0.0987, against 0.1 predicted.
    """
    logits = torch.zeros(2, dtype=torch.float64)
    old, advantages = torch.softmax(logits, -1), torch.tensor([0.5, -0.5], dtype=torch.float64)
    fisher = bandit_fisher(logits)
    found = natural_step(lambda v: fisher @ v, old * advantages, delta=0.02, damping=0.0, iterations=2, tolerance=1e-9)
    assert found.step.tolist() == pytest.approx([0.2, -0.2], abs=1e-9)
    assert (found.size, found.predicted, found.residual) == pytest.approx((0.4, 0.1, 0.0), abs=1e-9)

    def measure(fraction: float) -> tuple[float, float]:
        new = torch.softmax(logits + fraction * found.step, -1)
        return float(((new - old) * advantages).sum()), float((old * (old / new).log()).sum())

    search = line_search(measure, delta=0.02, shrink=0.5, tries=5)
    assert search.fraction == 1.0
    assert search.kl == search.proposed_kl == pytest.approx(math.log(math.cosh(0.2)), abs=1e-12)
    assert search.gain == pytest.approx(1 / (1 + math.exp(-0.4)) - 0.5, abs=1e-12)


def test_the_natural_gradient_does_not_depend_on_how_the_policy_is_parametrised() -> None:
    """Logits = M theta: the step in logits is the same for every invertible M, as it is not for the plain gradient."""
    logits = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    p = torch.softmax(logits, -1)
    advantages = torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64)
    advantages = advantages - (p * advantages).sum()
    steps, plain = [], []
    for matrix in (torch.eye(3, dtype=torch.float64), spd(3, 7) * 5):
        fisher, gradient = matrix.T @ bandit_fisher(logits) @ matrix, matrix.T @ (p * advantages)
        found = natural_step(lambda v, f=fisher: f @ v, gradient, delta=0.01, damping=0.0, iterations=2, tolerance=1e-9)  # type: ignore[misc]
        steps.append(torch.softmax(logits + matrix @ found.step, -1))
        plain.append(torch.softmax(logits + matrix @ gradient * 0.1, -1))
    assert torch.allclose(steps[0], steps[1], atol=1e-9) and not torch.allclose(plain[0], plain[1], atol=1e-3)


def test_the_step_reaches_delta_of_the_quadratic_model_whatever_the_damping() -> None:
    fisher, gradient = spd(6, 2), torch.linspace(-1, 1, 6, dtype=torch.float64)
    for damping in (0.0, 0.1, 30.0):
        found = natural_step(lambda v: fisher @ v, gradient, delta=0.03, damping=damping, iterations=6, tolerance=0.0)
        assert float(found.step @ fisher @ found.step) / 2 == pytest.approx(0.03, rel=1e-6)
    # without much of F in it the direction is the plain gradient's
    assert float(torch.cosine_similarity(found.step, gradient, 0)) > 0.999


@pytest.mark.parametrize("gradient", [torch.zeros(2), torch.tensor([1.0, 1.0])], ids=["no gradient", "only where F is 0"])
def test_where_nothing_can_be_gained_the_step_is_zero(gradient: Tensor) -> None:
    fisher = bandit_fisher(torch.zeros(2))
    found = natural_step(lambda v: fisher @ v, gradient, delta=0.01, damping=0.1, iterations=5, tolerance=1e-6)
    assert found.step.tolist() == [0, 0] and found.size == 0


def test_the_first_fraction_that_is_good_is_taken() -> None:
    """KL = 0.08 f^2, bound 0.01: f <= 0.354, so 1/4 of the halves."""
    tried = []

    def measure(fraction: float) -> tuple[float, float]:
        tried.append(fraction)
        return fraction, 0.08 * fraction**2

    found = line_search(measure, delta=0.01, shrink=0.5, tries=9)
    assert tried == [1.0, 0.5, 0.25] and (found.fraction, found.gain) == (0.25, 0.25)
    assert (found.kl, found.proposed_kl) == (0.08 / 16, 0.08)


@pytest.mark.parametrize(
    "measure",
    [
        lambda f: (-f, 0.0),  # the surrogate falls
        lambda f: (0.0, 0.0),  # nothing is gained
        lambda f: (1.0, 0.011),  # the KL stays above the bound
        lambda f: (1.0, math.nan),
        lambda f: (math.nan, 0.0),
        lambda f: (math.inf, math.inf),
    ],
)
def test_an_adversary_gets_no_step(measure: Callable[[float], tuple[float, float]]) -> None:
    found = line_search(measure, delta=0.01, shrink=0.7, tries=10)
    assert (found.fraction, found.gain, found.kl) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_accepted_keeps_the_bound(seed: int) -> None:
    """Surrogates and KLs that jump at random: what is accepted was measured to gain and to keep the bound; what came before was not."""
    draw = torch.Generator().manual_seed(seed)
    said: list[tuple[float, float]] = []

    def measure(fraction: float) -> tuple[float, float]:
        gain, kl = torch.randn(2, generator=draw).tolist()
        said.append((gain, abs(kl) * 0.02))
        return said[-1]

    found = line_search(measure, delta=0.01, shrink=0.5, tries=6)
    good = [gain > 0 and kl <= 0.01 for gain, kl in said]
    if found.fraction:
        assert (found.gain, found.kl) == said[-1] and good == [False] * (len(said) - 1) + [True]
        assert found.fraction == 0.5 ** (len(said) - 1)
    else:
        assert len(said) == 6 and not any(good)
