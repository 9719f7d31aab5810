"""What is carried from one iteration to the next beside the weights: the strength of a penalty, the scale of the scores."""

import math
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from trimtab.common.config import Settings


class KLControl(Settings):
    """Ziegler et al. 2019, equation 3: beta grows while KL is above the target and shrinks below it.

    It moves by 20 % * (completions of an iteration / horizon) at most (and never by more than a factor of 2, up or down), and a policy
    takes iterations to follow: with a horizon of an iteration's completions beta runs away before the policy has answered, with one of a
    hundred iterations it hardly moves. Five to fifteen iterations is a good horizon for short runs.
    """

    target: float = Field(
        0.0, ge=0, description="KL to the reference to hold, nats per completion; 0 = beta stays fixed"
    )
    horizon: int = Field(2000, ge=1, description="completions over which an error of 20 % or more moves beta by 20 %")


class Penalty(Settings):
    """Schulman et al. 2017, equation 8: the KL to the policy that sampled has a price, which dual descent finds."""

    beta: float = Field(1.0, gt=0, description="variant=penalty: price of KL(old, new) to start from, per nat")
    target: float = Field(0.02, gt=0, description="variant=penalty: KL(old, new) that an iteration is to end at, nats per token")
    rate: float = Field(0.5, ge=0, description="variant=penalty: step of the dual descent on log beta; 0 = beta stays fixed")


# What an iteration does to beta at most: a horizon far shorter than an iteration would turn the penalty into a reward on the way down, and
# multiply it by fifty on the way up.
LEAST_FACTOR, MOST_FACTOR = 0.5, 2.0


def proportional(beta: float, kl: float, control: KLControl, completions: int) -> float:
    """Ziegler et al. 2019, equation 3: beta * (1 + error * completions / horizon), the error kl / target - 1 clipped to 20 %, the factor to
    1/2 and 2."""
    error = min(0.2, max(-0.2, kl / control.target - 1))
    return beta * min(MOST_FACTOR, max(LEAST_FACTOR, 1 + error * completions / control.horizon))


def dual_descent(beta: float, kl: float, penalty: Penalty) -> float:
    """One step on the dual of max E[ratio * A] subject to KL(old, new) <= target: beta * exp(rate * error).

    The dual's slope in beta is target - kl. The step is taken in log beta and in units of the target, with error = kl / target - 1
    clipped to 1: beta stays positive, and neither the scale of the advantages nor the target's changes how fast it is found.
    """
    return beta * math.exp(penalty.rate * min(1.0, kl / penalty.target - 1))


class RunningScale:
    """Mean and standard deviation of every score so far (Chan et al. 1983), from which scores are told in standard deviations.

    Zheng et al. 2023 (Secrets of RLHF, part I), section 5.3: reward normalisation.
    """

    def __init__(self, count: float = 0.0, mean: float = 0.0, squares: float = 0.0) -> None:
        self.count, self.mean, self.squares = count, mean, squares  # squares: sum of (score - mean)^2

    def add(self, scores: Sequence[float]) -> None:
        """Takes new scores into account."""
        if scores:
            count, mean = len(scores), float(np.mean(scores))
            away, both = mean - self.mean, self.count + count
            self.squares += float(np.square(np.subtract(scores, mean)).sum()) + away**2 * self.count * count / both
            self.mean += away * count / both
            self.count = both

    def normalised(self, score: float) -> float:
        """(score - mean) / standard deviation; 0 while all scores were equal."""
        deviation = math.sqrt(self.squares / self.count) if self.count else 0.0
        return (score - self.mean) / deviation if deviation > 1e-8 else 0.0

    def state_dict(self) -> dict[str, float]:
        return {"count": self.count, "mean": self.mean, "squares": self.squares}
