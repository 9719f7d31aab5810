"""SimPO on trees against the formula on plain forwards."""

import math

import pytest
import torch
from tiny_models import FAMILIES, pair, plain_logprobs, random_trees

from trimtab.methods.offline import FixedData, micro_batches
from trimtab.methods.simpo import SimPO
from trimtab.trees import PromptTree


def test_the_loss_is_the_mean_over_all_pairs_by_the_formula() -> None:
    """Ranks 2 1 null 3: pairs (1, 0), (0, 3), (1, 3); the reward is beta times the mean logprob of an answer's tokens."""
    policy, eager = pair(FAMILIES["llama"]())
    (made,) = random_trees([(5, [1, 4, 5, 6])])
    tree = PromptTree(made.prompt, made.completions, key="t", ranks=(2, 1, None, 3))
    with torch.no_grad():
        rewards = [2.5 * float(plain_logprobs(eager, tree.prompt, c).mean()) for c in tree.completions]
    margins = [rewards[a] - rewards[b] for a, b in ((1, 0), (0, 3), (1, 3))]
    method = SimPO(policy, FixedData([]), beta=2.5, gamma=0.8)
    (batch,) = micro_batches([tree], 1000, method.size)
    loss, metrics = method.loss(batch)
    assert loss.item() == pytest.approx(sum(math.log1p(math.exp(0.8 - m)) for m in margins) / 3, rel=1e-4)
    assert metrics["margin"] == (pytest.approx(sum(margins), rel=1e-3), 3.0)
    assert metrics["reward_chosen"][0] == pytest.approx(2 * rewards[1] + rewards[0], rel=1e-4)


def test_a_small_scale_asks_for_the_margin_alone() -> None:
    """beta -> 0: log(1 + e^gamma), whatever the answers."""
    policy = pair(FAMILIES["llama"]())[0]
    (made,) = random_trees([(5, [3, 4])])
    (batch,) = micro_batches([PromptTree(made.prompt, made.completions, ranks=(1, 2))], 1000, SimPO.size)
    found = SimPO(policy, FixedData([]), beta=1e-9, gamma=1.5).loss(batch)[0].item()
    assert found == pytest.approx(math.log1p(math.exp(1.5)), rel=1e-6)
