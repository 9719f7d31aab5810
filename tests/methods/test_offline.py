"""What methods on fixed data share: pairs of a ranking, divisors, evaluation."""

import pytest
import torch
from tiny_models import FAMILIES, pair, plain_logprobs, random_trees

from trimtab.methods.offline import FixedData, micro_batches, ranked_pairs, trained_tokens, tree_pairs
from trimtab.methods.sft import SFT
from trimtab.training.method import State
from trimtab.trees import PromptTree, TreeBatch


def ranking(*ranks: int | None) -> PromptTree:
    return PromptTree((1, 2), tuple((3 + i,) for i in range(len(ranks))), ranks=ranks)


def test_pairs_worked_by_hand() -> None:
    """Ranks 2 1 2 null: the second beats both others, the tie and the unranked answer make no pair."""
    assert tree_pairs(ranking(2, 1, 2, None)) == [(1, 0), (1, 2)]
    assert tree_pairs(ranking(1, 1)) == [] and tree_pairs(ranking(None, 1)) == []
    assert tree_pairs(PromptTree((1,), ((2,), (3,)))) == []
    assert len(tree_pairs(ranking(*range(1, 10)))) == 36  # 9 choose 2


def test_pairs_of_a_batch_point_into_its_completions() -> None:
    batch = TreeBatch.pack([ranking(2, 1), ranking(1, 1, 1), ranking(1, 3, 2)])
    better, worse, owner = ranked_pairs(batch)
    assert better.tolist() == [1, 5, 5, 7] and worse.tolist() == [0, 6, 7, 6] and owner.tolist() == [0, 2, 2, 2]


def test_trained_tokens() -> None:
    assert trained_tokens(PromptTree((1,), ((2, 3), (4,)))) == 3
    assert trained_tokens(PromptTree((1,), ((2, 3), (4,)), trained=((True, False), (False,)))) == 1


def test_the_divisor_is_counted_over_the_whole_step() -> None:
    trees = random_trees([(3, [4]), (3, [6]), (3, [2])])
    for budget in (1, 10, 100):
        batches = micro_batches(trees, budget, trained_tokens)
        assert {batch.divisor for batch in batches} == {12.0}
        assert sum(len(batch.trees.trees) for batch in batches) == 3


def test_sft_loss_is_the_mean_over_trained_tokens_of_the_step() -> None:
    """Not the mean of means: a tree with one trained token weighs a ninth of one with nine. Against the plain forward."""
    policy, eager = pair(FAMILIES["llama"]())
    long, other = random_trees([(4, [9]), (5, [3])])
    short = PromptTree(other.prompt, other.completions, trained=((False, True, False),), key=other.key)
    with torch.no_grad():
        of_long = plain_logprobs(eager, long.prompt, long.completions[0])
        of_short = plain_logprobs(eager, short.prompt, short.completions[0])[1]
        expected = -float(of_long.sum() + of_short) / 10
        for budget in (1, 100):
            method = SFT(policy, FixedData([long, short], [long, short], batch_size=2, budget=budget))
            (step,) = method.batches(State(0, 1))
            assert sum(method.loss(batch)[0].item() for batch in step) == pytest.approx(expected, rel=1e-5)
            evaluated = method.evaluate(State(0, 1))
            assert evaluated["eval/loss"] == pytest.approx(expected, rel=1e-5)
            assert evaluated.keys() == {"eval/loss", "eval/top1", "eval/top5"}


def test_without_held_out_data_nothing_is_evaluated() -> None:
    method = SFT(pair(FAMILIES["llama"]())[0], FixedData(random_trees([(2, [2])])))
    assert method.evaluate(State(0, 1)) == {}
