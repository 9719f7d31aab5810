"""SLiC-HF on trees against the formula on plain forwards; where reference answers come from, and that there must be one."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, pair, plain_logprobs, random_trees, read_lines, save_tiny_policy, write_lines

from trimtab.common.errors import UserError
from trimtab.data.formats import read_comparisons
from trimtab.methods.build import run
from trimtab.methods.offline import FixedData, micro_batches, tournament_pairs
from trimtab.methods.slic import Config, SLiC, with_demonstrations
from trimtab.methods.triplet import Triplet
from trimtab.trees import PromptTree


def ranked(*ranks: int | None) -> PromptTree:
    (tree,) = random_trees([(5, [4 + i for i in range(len(ranks))])])
    return PromptTree(tree.prompt, tree.completions, key="t", ranks=ranks)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("demonstrated", [False, True])
def test_the_loss_is_hinge_and_cross_entropy_by_the_formula(normalised: bool, demonstrated: bool) -> None:
    """Ranks 2 1 3 null: three pairs; y_ref is the answer of rank 1, or the last, unranked one. A tie beside it adds nothing."""
    policy, eager = pair(FAMILIES["llama"]())
    tree = ranked(2, 1, 3, None)
    with torch.no_grad():
        each = [plain_logprobs(eager, tree.prompt, c) for c in tree.completions]
    logprobs = [float(x.mean() if normalised else x.sum()) for x in each]
    answer = 3 if demonstrated else 1
    costs = [max(0.0, 1.5 - logprobs[a] + logprobs[b]) - 0.3 * logprobs[answer] for a, b in ((1, 0), (0, 2), (1, 2))]
    method = SLiC(policy, FixedData([]), delta=1.5, sft_weight=0.3, length_normalised=normalised, demonstrated=demonstrated)
    (batch,) = micro_batches([ranked(1, 1, None), tree], 1000, method.size)
    loss, metrics = method.loss(batch)
    assert loss.item() == pytest.approx(sum(costs) / 3, rel=1e-4)
    assert metrics["sft_loss"] == (pytest.approx(-float(each[answer].mean()), rel=1e-4), 1.0)


def test_a_small_weight_leaves_the_triplet() -> None:
    """lambda -> 0."""
    policy = pair(FAMILIES["llama"]())[0]
    (batch,) = micro_batches([ranked(2, 1, 3), ranked(1, 2)], 1000, SLiC.size)
    slic = SLiC(policy, FixedData([]), delta=2.0, sft_weight=1e-9).loss(batch)
    triplet = Triplet(policy, FixedData([]), delta=2.0).loss(batch)
    assert slic[0].item() == pytest.approx(triplet[0].item(), rel=1e-6)
    assert all(slic[1][name] == pytest.approx(value, rel=1e-6) for name, value in triplet[1].items())


def comparison(i: int) -> dict[str, Any]:
    return {
        "id": f"c{i}", "messages": [{"role": "user", "content": f"the dog {i}"}],
        "completions": [{"text": "the cat saw"}, {"text": "near the mill ."}], "ranks": [1, 2],
    }  # fmt: skip


def demonstration(i: int) -> dict[str, Any]:
    return {"id": f"d{i}", "messages": comparison(i)["messages"], "completion": "the old dog near the mill ."}


def test_demonstrations_are_matched_by_their_prompt(tmp_path: Path) -> None:
    """Two labelers' rankings of one prompt get the same reference answer; it is ranked by nobody."""
    rankings = write_lines(tmp_path / "r.jsonl", [comparison(1), {**comparison(0), "ratings": [5, 1]}, comparison(0)])
    demos = write_lines(tmp_path / "d.jsonl", [demonstration(i) for i in range(3)])
    found = with_demonstrations(str(rankings), str(demos), read_comparisons(rankings))
    assert [r.completions[-1].text for r in found] == ["the old dog near the mill ."] * 3
    assert [r.ranks for r in found] == [(1, 2, None)] * 3 and [r.pairs() for r in found] == [[(0, 1)]] * 3


def test_a_run_with_demonstrations_makes_them_likelier_and_one_that_lacks_some_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "policy")
    rankings = write_lines(tmp_path / "r.jsonl", [comparison(i) for i in range(6)])
    words: dict[str, Any] = {"model": str(folder), "data": str(rankings), "steps": 8, "batch_size": 6, "lr": 3e-3}
    demos = write_lines(tmp_path / "d.jsonl", [demonstration(i) for i in range(6)])
    run("slic", Config(demonstrations=str(demos), out=str(tmp_path / "run"), **words), lambda name: None)  # type: ignore[arg-type,return-value]
    losses = [row["value"] for row in read_lines(tmp_path / "run" / "metrics.jsonl") if row["name"] == "sft_loss"]
    assert losses[-1] < 0.9 * losses[0]
    few = write_lines(tmp_path / "few.jsonl", [demonstration(i) for i in range(4)])
    with pytest.raises(UserError, match=r"r\.jsonl: 2 of 6 rankings \(the first is 'c4'\) have no demonstration.*few\.jsonl"):
        run("slic", Config(demonstrations=str(few), out=str(tmp_path / "none"), **words), lambda name: None)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("ranks", "matches"),
    [
        ((3, 1, 2, 4), [(1, 0), (2, 3), (1, 2)]),  # 0-1 and 2-3, then the winners
        ((2, 1, 3, 5, 4), [(1, 0), (2, 3), (1, 2), (1, 4)]),  # the fifth waits twice
        ((1, 1, 2, 2), [(0, 2)]),  # two matches between equals
        ((1, None, 2, None, 3), [(0, 2), (0, 4)]),  # nobody ranked the second and the fourth
        ((2, 1), [(1, 0)]),
        ((1, 1), []), ((None, 1), []), ((1,), []),
    ],
)  # fmt: skip
def test_a_knock_out_worked_by_hand(ranks: tuple[int | None, ...], matches: list[tuple[int, int]]) -> None:
    tree = PromptTree((1, 2), tuple((3 + i,) for i in range(len(ranks))), ranks=ranks)
    assert tournament_pairs(tree) == matches


def test_a_knock_out_of_k_has_k_less_one_pairs_and_everybody_but_the_best_loses_once() -> None:
    for k in range(2, 10):
        for order in itertools.islice(itertools.permutations(range(1, k + 1)), 40):
            found = tournament_pairs(PromptTree((1,), ((2,),) * k, ranks=order))
            assert sorted(loser for _, loser in found) == [i for i in range(k) if order[i] != 1]
            assert all(order[winner] < order[loser] for winner, loser in found)


def test_the_sample_rank_loss_is_that_of_the_knock_outs_pairs() -> None:
    """Ranks 3 1 2 4: matches 1 over 0, 2 over 3, 1 over 2; beside it ranks 1 2. Four pairs in all, y_ref each ranking's best."""
    policy, eager = pair(FAMILIES["llama"]())
    trees, costs = [ranked(3, 1, 2, 4), ranked(1, 2)], []
    for tree, matches, best in zip(trees, ([(1, 0), (2, 3), (1, 2)], [(0, 1)]), (1, 0), strict=True):
        with torch.no_grad():
            each = [float(plain_logprobs(eager, tree.prompt, c).sum()) for c in tree.completions]
        costs += [max(0.0, 1.5 - each[a] + each[b]) - 0.3 * each[best] for a, b in matches]
    method = SLiC(policy, FixedData([]), delta=1.5, sft_weight=0.3, pairs="tournament")
    (batch,) = micro_batches(trees, 1000, method.size)
    assert batch.divisor == 4.0
    assert method.loss(batch)[0].item() == pytest.approx(sum(costs) / 4, rel=1e-4)
