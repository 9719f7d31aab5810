"""How a trust-region step is found: its direction by conjugate gradient, its size, a line search (Schulman et al. 2015, appendix C).

Pure functions: the matrix is a product with a vector, the policy a function of how much of the step is taken.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


class Solution(NamedTuple):
    """Of A x = b."""

    x: Tensor  # (n,)
    residual: Tensor  # (n,) b - A x

    def relative(self, target: Tensor) -> float:
        """|b - A x| / |b|; 0 where b is."""
        length = float(target.norm())
        return float(self.residual.norm()) / length if length else 0.0


def conjugate_gradient(product: Product, target: Tensor, *, iterations: int, tolerance: float = 0.0) -> Solution:
    """Solves A x = ``target`` (n,) for a symmetric positive semidefinite A, given as ``product`` v -> A v (Hestenes and Stiefel 1952).

    Ends after ``iterations`` products, or when |target - A x| <= ``tolerance`` |target|, or in a direction in which A is 0 or, by rounding,
    below: x is then the best so far.
    """
    x, residual = torch.zeros_like(target), target.clone()
    direction, squared = residual.clone(), float(residual @ residual)
    bound = squared * tolerance**2
    for _ in range(iterations):
        if squared <= bound:
            break
        image = product(direction)
        curvature = float(direction @ image)
        if not curvature > 0:
            break
        size = squared / curvature
        x += size * direction
        residual -= size * image
        before, squared = squared, float(residual @ residual)
        direction = residual + (squared / before) * direction
    return Solution(x, residual)


class Direction(NamedTuple):
    """The step that a quadratic model of the KL allows."""

    step: Tensor  # (n,) ``size`` times the solution of (F + damping) x = gradient
    size: float
    predicted: float  # the gain that a linear model of the surrogate predicts, gradient . step
    residual: float  # |gradient - (F + damping) x| / |gradient|


def natural_step(
    product: Product, gradient: Tensor, *, delta: float, damping: float, iterations: int, tolerance: float
) -> Direction:  # fmt: skip
    """The step x sqrt(2 ``delta`` / x^T F x) along x = (F + ``damping``)^-1 ``gradient``, F given as ``product`` v -> F v.

    The size is that of appendix C, with F itself and not the damped matrix, so that the quadratic model's KL is ``delta`` exactly. Where
    the gradient is 0, or F is along x, there is nowhere to go: the step is 0.
    """
    solution = conjugate_gradient(lambda v: product(v) + damping * v, gradient, iterations=iterations, tolerance=tolerance)
    x = solution.x
    curvature = float(x @ (gradient - solution.residual)) - damping * float(x @ x)  # x^T F x, without another product
    size = math.sqrt(2 * delta / curvature) if curvature > 0 else 0.0
    step = size * x
    return Direction(step, size, float(gradient @ step), solution.relative(gradient))


@dataclass(frozen=True)
class Search:
    """What a line search found: ``fraction`` of the step, 0 where no share of it was good, and ``gain`` and ``kl`` as measured there."""

    fraction: float
    gain: float
    kl: float
    proposed_kl: float  # of the whole step


def line_search(measure: Callable[[float], tuple[float, float]], *, delta: float, shrink: float, tries: int) -> Search:
    """The first of 1, ``shrink``, ``shrink``^2 ... (``tries`` of them) whose gain is above 0 and whose KL is at most ``delta``.

    ``measure`` takes a fraction of the step and gives (gain of the surrogate, KL) there; what is not a number is no gain and no bound.
    """
    proposed = math.nan
    for attempt in range(tries):
        fraction = shrink**attempt
        gain, kl = measure(fraction)
        proposed = kl if attempt == 0 else proposed
        if gain > 0 and kl <= delta:
            return Search(fraction, gain, kl, proposed)
    return Search(0.0, 0.0, 0.0, proposed)
