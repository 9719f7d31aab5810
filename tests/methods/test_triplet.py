"""The sequence triplet on trees against the formula on plain forwards."""

import pytest
import torch
from tiny_models import FAMILIES, pair, plain_logprobs, random_trees

from trimtab.methods.offline import FixedData, micro_batches
from trimtab.methods.triplet import Triplet
from trimtab.trees import PromptTree


def ranked(*ranks: int | None) -> PromptTree:
    """Answers of 1, 2, 3 ... tokens."""
    (tree,) = random_trees([(5, [1 + i for i in range(len(ranks))])])
    return PromptTree(tree.prompt, tree.completions, key="t", ranks=ranks)


@pytest.mark.parametrize("normalised", [False, True])
def test_the_loss_is_the_mean_over_all_pairs_by_the_formula(normalised: bool) -> None:
    """Ranks 2 1 null 3: pairs (1, 0), (0, 3), (1, 3); log P(y|x) from plain eager forwards of each answer alone."""
    policy, eager = pair(FAMILIES["llama"]())
    tree = ranked(2, 1, None, 3)
    with torch.no_grad():
        each = [plain_logprobs(eager, tree.prompt, c) for c in tree.completions]
    logprobs = [float(x.mean() if normalised else x.sum()) for x in each]
    pairs = ((1, 0), (0, 3), (1, 3))
    method = Triplet(policy, FixedData([]), delta=1.5, length_normalised=normalised)
    (batch,) = micro_batches([tree], 1000, method.size)
    assert batch.divisor == 3.0
    loss, metrics = method.loss(batch)
    costs = [max(0.0, 1.5 - logprobs[a] + logprobs[b]) for a, b in pairs]
    assert loss.item() == pytest.approx(sum(costs) / 3, rel=1e-4)
    assert metrics["active"] == (float(sum(c > 0 for c in costs)), 3.0)
    assert metrics["margin"] == (pytest.approx(sum(logprobs[a] - logprobs[b] for a, b in pairs), rel=1e-4), 3.0)
    assert metrics["logprob_chosen"][0] == pytest.approx(sum(float(each[a].sum()) for a, _ in pairs), rel=1e-4)


def test_answers_of_one_token_have_one_likelihood_however_it_is_counted() -> None:
    policy = pair(FAMILIES["llama"]())[0]
    tree = PromptTree((5, 6, 7), ((8,), (9,)), key="one", ranks=(2, 1))
    found = []
    for normalised in (False, True):
        method = Triplet(policy, FixedData([]), delta=9.0, length_normalised=normalised)
        (batch,) = micro_batches([tree], 1000, method.size)
        found.append(method.loss(batch)[0].item())
    assert found[0] == found[1] > 0


def test_a_margin_that_is_kept_moves_nothing() -> None:
    """delta 0 and the likelier answer ranked best: loss 0 and no gradient."""
    policy = pair(FAMILIES["llama"]())[0]
    method = Triplet(policy, FixedData([]), delta=0.0)
    for ranks in ((1, 2), (2, 1)):
        (batch,) = micro_batches([ranked(*ranks)], 1000, method.size)
        loss, metrics = method.loss(batch)
        loss.backward()
        right = metrics["accuracy"][0] == 1.0
        assert right == (loss.item() == 0) == (not any(p.grad.any() for p in policy.parameters()))
        policy.zero_grad()
