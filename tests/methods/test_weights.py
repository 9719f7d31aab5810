"""A tree of weight 2 is the same tree twice, in the loss and in every metric, for methods that learn single answers."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from online_methods import made
from tiny_models import FAMILIES, gradient_error, gradients, pair, random_trees

from trimtab.methods.bon import BestOfN, Config
from trimtab.methods.mix import mix_loss
from trimtab.methods.offline import FixedData, micro_batches, trained_tokens
from trimtab.methods.sft import SFT
from trimtab.training.method import MicroBatch
from trimtab.trees import PromptTree

FEW, LONG = random_trees([(5, [4]), (3, [7])])
PARTED = PromptTree(LONG.prompt, LONG.completions, ((True, True, False, False, True, True, True),), key=LONG.key)
WEIGHTED, TWICE = [FEW, replace(PARTED, weight=2.0)], [FEW, PARTED, PARTED]


def of_sft(trees: list[PromptTree], budget: int, text_weight: float) -> tuple[Any, list[MicroBatch]]:
    method = SFT(pair(FAMILIES["llama"]())[0], FixedData(trees, budget=budget), text_weight=text_weight)
    return method, method.split(trees)


def of_bon(trees: list[PromptTree], budget: int, start: Path) -> tuple[Any, list[MicroBatch]]:
    return made(BestOfN, Config, start), micro_batches(trees, budget, trained_tokens)


def learnt(method: Any, batches: list[MicroBatch], loss: Any) -> tuple[float, dict[str, float], dict[str, torch.Tensor]]:
    whole, sums = 0.0, {}
    for batch in batches:
        part, metrics = loss(batch)
        part.backward()
        whole += float(part.detach())
        for name, (total, count) in metrics.items():
            sums[name] = tuple(a + b for a, b in zip(sums.get(name, (0.0, 0.0)), (total, count), strict=True))
    return whole, {name: total / count for name, (total, count) in sums.items()}, gradients(method.policy)


@pytest.mark.parametrize("budget", [1, 1000])
@pytest.mark.parametrize("name", ["sft", "sft and text", "bon", "mix"])
def test_a_tree_of_weight_two_is_the_tree_twice(name: str, budget: int, start: Path) -> None:
    make = partial(of_bon, start=start) if name in ("bon", "mix") else partial(of_sft, text_weight=0.5 * (name == "sft and text"))
    found = []
    for trees in (WEIGHTED, TWICE, [FEW, PARTED]):
        method, batches = make(trees, budget)
        loss = partial(mix_loss, method.policy, weight=1.0) if name == "mix" else method.loss
        found.append(learnt(method, batches, loss))
    (loss, metrics, slope), (expected, same, twice), (other, _, once) = found
    assert loss == pytest.approx(expected, rel=1e-5) and metrics == pytest.approx(same, rel=1e-5) and gradient_error(slope, twice) <= 1e-5
    assert abs(other - expected) > 1e-4 and gradient_error(once, twice) > 1e-2
