"""ORPO on trees against the formula on plain forwards."""

import math

import pytest
import torch
from tiny_models import FAMILIES, pair, plain_logprobs, random_trees

from trimtab.methods.offline import FixedData, micro_batches
from trimtab.methods.orpo import ORPO
from trimtab.trees import PromptTree


def test_the_loss_is_sft_and_log_odds_by_the_formula() -> None:
    """Ranks 2 1 null 3: pairs (1, 0), (0, 3), (1, 3); p of each answer is the geometric mean over its tokens, odds p / (1 - p)."""
    policy, eager = pair(FAMILIES["llama"]())
    (made,) = random_trees([(5, [1, 4, 5, 6])])
    tree = PromptTree(made.prompt, made.completions, key="t", ranks=(2, 1, None, 3))
    with torch.no_grad():
        p = [math.exp(float(plain_logprobs(eager, tree.prompt, c).mean())) for c in tree.completions]
    odds = [x / (1 - x) for x in p]
    costs = [-math.log(p[1]) + 0.7 * math.log(1 + odds[b] / odds[a]) for a, b in ((1, 0), (0, 3), (1, 3))]
    method = ORPO(policy, FixedData([]), odds_weight=0.7)
    (batch,) = micro_batches([tree], 1000, method.size)
    loss, metrics = method.loss(batch)
    assert loss.item() == pytest.approx(sum(costs) / 3, rel=1e-4)
    assert metrics["margin"][0] == pytest.approx(sum(math.log(odds[a] / odds[b]) for a, b in ((1, 0), (0, 3), (1, 3))), rel=1e-3)
    assert metrics["sft_loss"] == (pytest.approx(-math.log(p[1]), rel=1e-4), 1.0)


def test_without_the_odds_it_is_sft_on_the_chosen_answers() -> None:
    """lambda 0, pairs alone: the mean of -log P(y_w|x) / |y_w|, as of two demonstrations that weigh the same."""
    policy, eager = pair(FAMILIES["llama"]())
    made = random_trees([(5, [3, 4]), (4, [6, 2])])
    trees = [PromptTree(t.prompt, t.completions, key=t.key, ranks=r) for t, r in zip(made, ((2, 1), (1, 2)), strict=True)]
    (batch,) = micro_batches(trees, 1000, ORPO.size)
    with torch.no_grad():
        nll = [-float(plain_logprobs(eager, t.prompt, t.completions[k]).mean()) for t, k in zip(trees, (1, 0), strict=True)]
    assert ORPO(policy, FixedData([]), odds_weight=0.0).loss(batch)[0].item() == pytest.approx(sum(nll) / 2, rel=1e-4)
