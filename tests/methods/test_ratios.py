"""What PPO and GRPO share: what they say of the ratio of the policy to the one that sampled, and when an iteration's updates end."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trimtab.methods.grpo import GRPO
from trimtab.methods.online import OnRatios, ratio_metrics
from trimtab.methods.ppo import PPO


def said(clip: float | None) -> dict[str, tuple[float, float]]:
    """Of three tokens whose ratios are 1, 1.5 and 0.5."""
    ratio = torch.tensor([1.0, 1.5, 0.5])
    return ratio_metrics(ratio.log(), torch.zeros(3), ratio, clip)


def test_metrics_worked_by_hand() -> None:
    """k3 = ratio - 1 - log ratio: 0, 0.5 - log 1.5, log 2 - 0.5, in all log(4 / 3); two of the three are further than 0.2 from 1."""
    found = said(0.2)
    assert found["approx_kl"] == (pytest.approx(0.287682, abs=1e-6), 3.0)
    assert found["clipfrac"] == (2.0, 3.0) and found["ratio_mean"] == (3.0, 3.0) and said(0.6)["clipfrac"] == (0.0, 3.0)


def test_where_nothing_is_clipped_there_is_no_share_of_it() -> None:
    assert said(None).keys() == {"approx_kl", "ratio_mean"}


@pytest.mark.parametrize("kind", [PPO, GRPO])
def test_both_end_an_iteration_by_one_rule(kind: type[OnRatios]) -> None:
    method: Any = SimpleNamespace(config=SimpleNamespace(stop_kl=0.1), updates=0)
    assert kind.before_step(method, {"approx_kl": (0.9, 10.0)}) and not kind.before_step(method, {"approx_kl": (1.1, 10.0)})
    assert method.updates == 1
