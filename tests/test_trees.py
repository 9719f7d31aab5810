"""Trees: what lies where in a packed batch, how trees share micro-batches, which items a step uses."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from trimtab.trees import PromptTree, TreeBatch, epoch_order, pack_by_budget, step_indices

A = PromptTree((10, 11, 12), ((20, 21), (30,)), key="a")
B = PromptTree((40,), ((50, 51, 52),), trained=((True, False, True),), key="b")


def tree(tokens: int, key: str = "") -> PromptTree:
    return PromptTree((1,), ((2,) * (tokens - 1),), key=key)


def test_a_packed_batch_worked_by_hand() -> None:
    """A: prompt 10 11 12 at 0-2, 20 21 at 3-4, 30 at 5. B: prompt 40 at 6, 50 51 52 at 7-9, of which 50 and 52 are trained.

    20 and 30 are both predicted from 12 (row 2), 21 from 20 (row 3); 50 from 40 (row 6), 52 from 51 (row 8).
    """
    batch = TreeBatch.pack([A, B])
    assert batch.ids.tolist() == [10, 11, 12, 20, 21, 30, 40, 50, 51, 52]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 3, 0, 1, 2, 3]
    assert batch.sources.tolist() == [2, 3, 2, 6, 8]
    assert batch.targets.tolist() == [20, 21, 30, 50, 52]
    assert batch.completion_of.tolist() == [0, 0, 1, 2, 2]
    assert batch.lengths.tolist() == [2, 1, 2]
    assert batch.last.tolist() == [4, 5, 9]
    assert batch.prompt_last.tolist() == [2, 6]
    assert batch.tree_of.tolist() == [0, 0, 1]
    assert (batch.tokens, batch.completions, A.tokens, A.longest, B.longest) == (10, 3, 6, 5, 4)


def test_who_sees_whom_worked_by_hand() -> None:
    """Each row of the mask as the tokens it may attend to: its prompt up to itself, its own completion up to itself."""
    mask = TreeBatch.pack([A, B]).layout.dense_mask()
    assert [row.nonzero().flatten().tolist() for row in mask] == [
        [0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 5], [6], [6, 7], [6, 7, 8], [6, 7, 8, 9],
    ]  # fmt: skip


def test_sums_by_completion_and_their_gradient() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], requires_grad=True)
    sums = TreeBatch.pack([A, B]).sum_by_completion(values)
    assert sums.tolist() == [3.0, 4.0, 24.0]
    (sums @ torch.tensor([1.0, 10.0, 100.0])).backward()
    assert values.grad is not None and values.grad.tolist() == [1.0, 1.0, 10.0, 100.0, 100.0]


def test_a_completion_without_trained_tokens_counts_none_but_keeps_its_place() -> None:
    silent = PromptTree((1, 2), ((3, 4), (5,)), trained=((False, False), (True,)))
    batch = TreeBatch.pack([silent])
    assert batch.targets.tolist() == [5] and batch.sources.tolist() == [1]
    assert batch.lengths.tolist() == [0, 1] and batch.last.tolist() == [3, 4]
    assert batch.sum_by_completion(torch.tensor([7.0])).tolist() == [0.0, 7.0]


def test_a_prompt_alone_and_an_empty_batch() -> None:
    alone = TreeBatch.pack([PromptTree((1, 2, 3), ())])
    assert (
        alone.tokens == 3 and alone.completions == 0 and len(alone.targets) == 0 and alone.prompt_last.tolist() == [2]
    )
    empty = TreeBatch.pack([])
    assert empty.tokens == 0 and empty.ids.dtype == torch.long and empty.positions.dtype == torch.long


def test_a_tree_without_prompt_or_with_an_empty_completion_is_a_programmers_error() -> None:
    with pytest.raises(AssertionError, match="nothing to be predicted from"):
        PromptTree((), ((1,),), key="x")
    with pytest.raises(AssertionError, match="empty completion"):
        PromptTree((1,), ((2,), ()), key="x")


def test_other_completions_forget_ranks_and_trained_spans() -> None:
    ranked = PromptTree((1,), ((2, 3), (4,)), trained=((True, False), (True,)), key="k", ranks=(1, 2), weight=0.5)
    assert ranked.with_completions([[7, 8]]) == PromptTree((1,), ((7, 8),), key="k", weight=0.5)


def test_moving_a_batch_keeps_every_tensor() -> None:
    batch = TreeBatch.pack([A, B])
    moved = batch.to("cpu")
    for name in ("ids", "positions", "sources", "targets", "completion_of", "last", "prompt_last", "tree_of"):
        assert torch.equal(getattr(moved, name), getattr(batch, name))
    assert moved.layout is batch.layout and moved.trees == batch.trees


def test_packing_worked_by_hand() -> None:
    """Budget 10, sizes 7 3 6 4 5 2: 27 tokens ask for three micro-batches. Largest first into the emptiest: 7 | 6 | 5, 4 beside 5, 3 beside
    6, 2 beside 7; nine tokens each. Inside a micro-batch the trees keep their order."""
    trees = [tree(size, str(i)) for i, size in enumerate([7, 3, 6, 4, 5, 2])]
    assert [[t.key for t in group] for group in pack_by_budget(trees, 10)] == [["0", "5"], ["1", "2"], ["3", "4"]]
    assert pack_by_budget([], 10) == []


def test_packing_that_is_tight_worked_by_hand() -> None:
    """Budget 10, sizes 5 3 3 3 3 3: 20 tokens ask for two, but nothing fills 10 with 5 and threes. Three, then: 5 | 3 | 3, the next two
    threes beside a three each, the last beside 5. And budget 10, sizes 4 12 4: the larger tree is alone."""
    trees = [tree(size, str(i)) for i, size in enumerate([5, 3, 3, 3, 3, 3])]
    assert [[t.key for t in group] for group in pack_by_budget(trees, 10)] == [["0", "5"], ["1", "3"], ["2", "4"]]
    trees = [tree(size, str(i)) for i, size in enumerate([4, 12, 4])]
    assert [[t.key for t in group] for group in pack_by_budget(trees, 10)] == [["1"], ["0", "2"]]


def test_best_fit_is_taken_where_evenness_would_need_more() -> None:
    """Budget 10, sizes 6 4 4 3 3: exactly 20 in two, as 6 + 4 and 4 + 3 + 3. Largest into the emptiest gives 6 + 3 and 4 + 4 + 3 = 11, so
    best fit's two stand."""
    trees = [tree(size, str(i)) for i, size in enumerate([6, 4, 4, 3, 3])]
    assert [[t.key for t in group] for group in pack_by_budget(trees, 10)] == [["0", "1"], ["2", "3", "4"]]


@given(st.lists(st.integers(2, 30), max_size=40), st.integers(8, 40))
def test_packing_loses_nothing_and_keeps_to_the_budget(sizes: list[int], budget: int) -> None:
    """Every tree once; over the budget only a tree alone; no more than best fit needs: its last micro-batch was opened by a tree of s
    tokens, when all others had less than s tokens of room left."""
    trees = [tree(size, str(i)) for i, size in enumerate(sizes)]
    groups = pack_by_budget(trees, budget)
    assert sorted(t.key for group in groups for t in group) == sorted(t.key for t in trees)
    assert all(groups)
    assert all(sum(t.tokens for t in group) <= budget or len(group) == 1 for group in groups)
    assert groups == pack_by_budget(list(trees), budget)
    if max(sizes, default=0) <= budget:
        assert len(groups) <= 1 + sum(sizes) / (budget - max(sizes, default=0) + 1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("batch_size", "budget"), [(32, 2048), (32, 4096), (128, 4096), (128, 8192)])
def test_micro_batches_of_preference_pairs_are_few_and_even(seed: int, batch_size: int, budget: int) -> None:
    """Lengths like those of HH-RLHF's pairs (prompt 129, answers 40 and 51 tokens on average, long tails).

    At most ceil(tokens / budget) + 1 micro-batches in every step, and what they lack to the step's largest is less than 5 % of it, on
    average over an epoch.
    """
    generator = np.random.default_rng(seed)
    sizes = sum(generator.gamma(2.0, mean / 2, size=2048).round().astype(int) + 1 for mean in (129, 40, 51))
    lacking = []
    for start in range(0, len(sizes), batch_size):
        trees = [tree(min(int(size), budget)) for size in sizes[start : start + batch_size]]
        filled = [sum(t.tokens for t in group) for group in pack_by_budget(trees, budget)]
        assert 2 <= len(filled) <= math.ceil(sum(filled) / budget) + 1
        lacking.append(1 - np.mean(filled) / max(filled))
    assert np.mean(lacking) < 0.05


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 3))
def test_every_epoch_uses_every_item_once(count: int, batch_size: int, seed: int) -> None:
    """The steps' indices laid end to end are epoch 0's permutation, then epoch 1's, ..., wherever the steps begin and end."""
    steps = math.ceil(3 * count / batch_size)
    stream = [i for step in range(steps) for i in step_indices(count, batch_size, seed, step)]
    for epoch in range(3):
        part = stream[epoch * count : (epoch + 1) * count]
        assert sorted(part) == list(range(count))
        assert part == epoch_order(count, seed, epoch).tolist()


def test_a_steps_indices_need_no_history_and_depend_on_seed_and_epoch() -> None:
    late = step_indices(100, 7, 3, 1000)
    for step in range(5):
        step_indices(100, 7, 3, step)
    assert step_indices(100, 7, 3, 1000) == late and len(late) == 7
    assert epoch_order(100, 0, 0).tolist() != epoch_order(100, 0, 1).tolist()
    assert epoch_order(100, 0, 0).tolist() != epoch_order(100, 1, 0).tolist()
