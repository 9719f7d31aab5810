"""What is carried between iterations: the two controllers find the KL that they are asked for, whatever its scale."""

import math

import numpy as np
import pytest

from trimtab.methods.control import KLControl, Penalty, RunningScale, dual_descent, proportional


def test_dual_descent_worked_by_hand() -> None:
    """Rate 0.5, target 0.1. KL 0.15: error 0.5, beta * e^0.25. KL 9: error clipped to 1. KL 0: error -1. On target: nothing."""
    penalty = Penalty(target=0.1, rate=0.5)
    for kl, power in ((0.15, 0.25), (9.0, 0.5), (0.0, -0.5), (0.1, 0.0)):
        assert dual_descent(2.0, kl, penalty) == pytest.approx(2 * math.exp(power))
    assert dual_descent(2.0, 9.0, Penalty(rate=0.0)) == 2.0


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_dual_descent_drives_a_synthetic_kl_to_its_target(scale: float, power: float) -> None:
    """KL = scale / beta^power, as a policy that moves less where moving costs more: from ten times too much or too little of it,
    30 iterations end within 1 % of the target, for any scale of the advantages."""
    target = 0.02
    best = (scale / target) ** (1 / power)
    for begin in (best / 10, best * 10):
        beta, penalty = begin, Penalty(target=target)
        for _ in range(30):
            beta = dual_descent(beta, scale / beta**power, penalty)
        assert scale / beta**power == pytest.approx(target, rel=1e-2)


def test_dual_descent_holds_a_noisy_kl_on_average() -> None:
    rng, beta, seen = np.random.default_rng(0), 5.0, []
    penalty = Penalty(target=0.05, rate=0.2)
    for _ in range(400):
        seen.append(0.3 / beta * math.exp(rng.normal(0, 0.3)))
        beta = dual_descent(beta, seen[-1], penalty)
    assert float(np.mean(seen[50:])) == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("begin", [0.005, 5.0])
def test_zieglers_controller_tracks_a_synthetic_kl(begin: float) -> None:
    """KL = 1 / beta in nats per completion, target 8, 64 completions an iteration: the last ten lie within 20 % of it."""
    beta, seen, control = begin, [], KLControl(target=8.0, horizon=640)
    for _ in range(400):
        seen.append(1 / beta)
        beta = proportional(beta, seen[-1], control, 64)
    assert float(np.mean(seen[-10:])) == pytest.approx(8.0, rel=0.2)


@pytest.mark.parametrize(("kl", "horizon", "factor"), [(9.0, 1, 2.0), (0.0, 1, 0.5), (9.0, 64, 1.8), (0.0, 128, 0.6), (1.1, 64, 1.4)])
def test_a_horizon_shorter_than_an_iteration_doubles_or_halves_beta_at_most(kl: float, horizon: int, factor: float) -> None:
    """Target 1, 256 completions an iteration: 1 + error * 256 / horizon would be 52.2 and -50.2 with a horizon of one completion."""
    assert proportional(0.1, kl, KLControl(target=1.0, horizon=horizon), 256) == pytest.approx(0.1 * factor)


def test_a_running_scale_is_that_of_all_scores_at_once() -> None:
    """1 2 | 3 | 4 10: mean 4, variance (9 + 4 + 1 + 0 + 36) / 5 = 10; a state that was kept goes on."""
    scale = RunningScale()
    scale.add([1.0, 2.0])
    scale.add([3.0])
    scale = RunningScale(**scale.state_dict())
    scale.add([4.0, 10.0])
    assert scale.mean == pytest.approx(4.0) and scale.normalised(14.0) == pytest.approx(math.sqrt(10))
