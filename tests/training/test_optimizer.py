"""Schedules and parameter groups."""

import math
import sys

import pytest
import torch
from tiny_models import tiny_policy
from torch import nn
from transformers import get_scheduler

from trimtab.common.errors import UserError
from trimtab.training.optimizer import adamw, kept_of, learning_rate, trained_parameters
from trimtab.training.settings import TrainingSettings


def rates(**options: object) -> list[float]:
    settings = TrainingSettings(**{"lr": 1.0, "warmup": 0.0, "final_lr": 0.0, **options})
    return [learning_rate(settings, step, 4) for step in range(4)]


def test_schedules_worked_by_hand() -> None:
    """Four steps from 1: linear falls by 1/4 a step; cosine is (1 + cos(pi t / 4)) / 2; constant stays."""
    assert rates(schedule="linear") == [1.0, 0.75, 0.5, 0.25]
    half = math.sqrt(0.5)
    assert rates(schedule="cosine") == pytest.approx([1.0, (1 + half) / 2, 0.5, (1 - half) / 2])
    assert rates(schedule="constant") == [1.0] * 4


def test_the_final_rate_is_a_share_of_the_peak() -> None:
    assert rates(schedule="linear", lr=2.0, final_lr=0.5) == [2.0, 1.75, 1.5, 1.25]
    assert rates(schedule="cosine", final_lr=1.0) == [1.0] * 4


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_the_step_after_the_last_would_have_the_final_rate_as_in_transformers(schedule: str, warmup: float) -> None:
    """The sentence of the option; theirs counts its warm-up from 0 and so agrees from the peak on."""
    settings = TrainingSettings(lr=1.0, warmup=warmup, schedule=schedule, final_lr=0.0)
    warm, found = round(10 * warmup), [learning_rate(settings, step, 10) for step in range(11)]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(schedule, optimizer, num_warmup_steps=warm, num_training_steps=10)
    for step in range(11):
        assert step < warm or found[step] == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()
    assert found[9] > 0.02 and found[10] == pytest.approx(0.0, abs=1e-12)
    assert "the step after the last" in str(TrainingSettings.model_fields["final_lr"].description)


def test_warm_up_rises_in_equal_steps_to_the_peak_and_never_starts_at_zero() -> None:
    """warmup 0.3 of 10 steps: 1/4, 2/4, 3/4, then the peak, then the fall over the other 7."""
    settings = TrainingSettings(lr=1.0, warmup=0.3, schedule="linear", final_lr=0.0)
    found = [learning_rate(settings, step, 10) for step in range(10)]
    assert found == pytest.approx([0.25, 0.5, 0.75, *(1 - i / 7 for i in range(7))])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_every_rate_is_positive_and_at_most_the_peak(schedule: str, steps: int) -> None:
    settings = TrainingSettings(lr=0.5, schedule=schedule)
    found = [learning_rate(settings, step, steps) for step in range(steps)]
    assert all(0 < rate <= 0.5 for rate in found) and max(found) == 0.5


def test_matrices_are_decayed_and_vectors_are_not() -> None:
    """Without a gradient AdamW's step is p * (1 - lr * decay): 1 - 0.1 * 0.5 for the matrix, nothing for bias and norm."""
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    optimizer = adamw(module.parameters(), TrainingSettings(lr=0.1, weight_decay=0.5))
    before = [p.detach().clone() for p in module.parameters()]
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p, old in zip(module.parameters(), before, strict=True):
        assert torch.allclose(p, old * 0.95 if p.ndim == 2 else old)


def test_tied_weights_are_one_parameter_and_frozen_ones_none() -> None:
    model = tiny_policy("gpt2")
    names = trained_parameters({"policy": model})
    assert len({id(p) for p in names.values()}) == len(names) == len(list(model.parameters()))
    assert "policy.transformer.wte.weight" in names and not any("lm_head" in name for name in names)
    model.transformer.wte.requires_grad_(False)
    assert "policy.transformer.wte.weight" not in trained_parameters({"policy": model})


def test_eight_bits_take_the_same_first_step_and_a_quarter_of_the_moments() -> None:
    """Moments are quantised after a step, so that the first is AdamW's own; later ones differ by the rounding of 8 bits."""
    torch.manual_seed(0)
    weights, gradients = torch.randn(64, 128), torch.randn(12, 64, 128)
    found = {}
    for name in ("adamw", "adamw8bit"):
        parameter = nn.Parameter(weights.clone())
        optimizer = adamw([parameter], TrainingSettings(lr=0.01, weight_decay=0.1, optimizer=name))
        steps = []
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
            steps.append(parameter.detach().clone())
        found[name] = steps
    torch.testing.assert_close(found["adamw8bit"][0], found["adamw"][0], rtol=1e-5, atol=1e-6)
    moved = (found["adamw"][-1] - weights).norm()
    assert 0 < (found["adamw8bit"][-1] - found["adamw"][-1]).norm() < 0.05 * moved
    kept = kept_of(optimizer, parameter)
    assert sum(t.nbytes for t in kept.values()) < 2.1 * weights.numel() + 16


def test_without_bitsandbytes_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match=r"adamw8bit needs bitsandbytes .*pip install 'trimtab\[qlora\]'"):
        adamw([nn.Parameter(torch.zeros(2))], TrainingSettings(optimizer="adamw8bit"))
