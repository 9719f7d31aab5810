"""What holds for every method on rankings: order of siblings, packing and ties change nothing, and training widens the margin."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import (
    FAMILIES,
    gradient_error,
    gradients,
    pair,
    random_trees,
    read_lines,
    save_tiny_policy,
    write_lines,
)

from trimtab.common.config import load_config
from trimtab.common.errors import UserError
from trimtab.data.formats import read_comparisons
from trimtab.losses.preference import DPO_LOSSES, SMOOTHED
from trimtab.methods.build import methods, run
from trimtab.methods.dpo import DPO
from trimtab.methods.kto import KTO
from trimtab.methods.offline import FixedData, Offline
from trimtab.methods.orpo import ORPO
from trimtab.methods.reward import Reward
from trimtab.methods.simpo import SimPO
from trimtab.methods.slic import SLiC
from trimtab.methods.triplet import Triplet
from trimtab.models.score import score_rewards
from trimtab.trees import PromptTree, TreeBatch

RANKS: list[tuple[int | None, ...]] = [(2, 1, 4, 3), (1, 2), (1, 1, 2), (2, 1, None), (1, 3, 2), (2, 2, 1, 1)]


def ranked_trees() -> list[PromptTree]:
    """Answers of 1 to 6 tokens, one-token answers among them."""
    made = random_trees([(4, [1 + (3 * i + n) % 6 for i in range(len(ranks))]) for n, ranks in enumerate(RANKS)])
    return [PromptTree(t.prompt, t.completions, key=t.key, ranks=r) for t, r in zip(made, RANKS, strict=True)]


def policy_and_reference() -> tuple[Any, Any]:
    policy = pair(FAMILIES["llama"]())[0]
    reference = copy.deepcopy(policy)
    with torch.no_grad():
        reference.lm_head.weight.mul_(0.8)
    return policy, reference


def make(name: str, trees: list[PromptTree], budget: int = 1000) -> Offline:
    """``dpo hinge``, ``slic per-token``, ``reward half`` ...: a method and what is not its default."""
    kind, _, option = name.partition(" ")
    data = FixedData(trees, trees, batch_size=len(trees), budget=budget)
    if kind == "reward":
        words = {"half": {"ties": "half"}, "plackett_luce": {"loss": option}}.get(option, {})
        return Reward(pair(FAMILIES["llama"](), scorer=True)[0], data, **words)
    policy, reference = policy_and_reference()
    if kind == "dpo":
        smoothing = 0.1 if option in ("cdpo", "robust") else 0.0
        loss = "sigmoid" if option == "sft" else option
        return DPO(policy, reference, data, beta=0.3, loss=loss, label_smoothing=smoothing, sft_weight=0.7 * (option == "sft"))
    if kind == "kto":
        return KTO(policy, reference, data, beta=0.3, longest=96, desirable_weight=1.5)
    if kind in ("triplet", "slic"):
        words = {"delta": 2.0, "length_normalised": option == "per-token"}
        pairs = "tournament" if option == "tournament" else "all"
        return Triplet(policy, data, **words) if kind == "triplet" else SLiC(policy, data, sft_weight=0.5, pairs=pairs, **words)
    return ORPO(policy, data, odds_weight=0.5) if kind == "orpo" else SimPO(policy, data, beta=2.0, gamma=0.5)


NAMES = [
    *(f"dpo {loss}" for loss in (*DPO_LOSSES, "sft")), "kto", "triplet", "triplet per-token", "slic", "slic per-token", "orpo", "simpo",
    "slic tournament", "reward pairs", "reward half", "reward plackett_luce",
]  # fmt: skip


def step(method: Offline) -> tuple[float, dict[str, torch.Tensor]]:
    """One optimizer step's loss and gradients."""
    loss = 0.0
    for batch in method.split(method.data.trees):
        part = method.loss(batch)[0]
        part.backward()
        loss += float(part.detach())
    return loss, gradients(next(iter(method.modules.values())))


def turned(tree: PromptTree) -> PromptTree:
    """The same tree with its answers in the opposite order."""
    return PromptTree(tree.prompt, tree.completions[::-1], key=tree.key, ranks=(tree.ranks or ())[::-1])


@pytest.mark.parametrize("name", NAMES)
def test_the_split_into_micro_batches_changes_neither_loss_nor_gradient(name: str) -> None:
    loss, expected = step(make(name, ranked_trees()))
    for budget in (1, 40):
        other, found = step(make(name, ranked_trees(), budget))
        assert other == pytest.approx(loss, rel=1e-5) and gradient_error(found, expected) < 1e-4


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("kto", "slic tournament")])
def test_the_order_of_siblings_changes_neither_loss_nor_gradient(name: str) -> None:
    """(KTO's baseline and a knock-out's matches go by the answers' place: their tests are in their own files. There is only one best answer
    here, the reference answer.)"""
    trees = [tree for tree in ranked_trees() if name.startswith("reward") or (tree.ranks or ()).count(1) == 1]
    loss, expected = step(make(name, trees))
    other, found = step(make(name, [turned(tree) for tree in trees]))
    assert other == pytest.approx(loss, rel=1e-5) and gradient_error(found, expected) < 1e-4


@pytest.mark.parametrize("name", [name for name in NAMES if name != "reward half"])
def test_a_ranking_without_a_preference_costs_nothing_and_changes_nothing(name: str) -> None:
    trees = ranked_trees()[:2]
    tie = PromptTree((5, 6, 7), ((8, 9), (10,)), key="tie", ranks=(1, 1))
    alone = make(name, [tie])
    assert step(alone)[0] == 0.0
    if name != "kto":  # there its prompt takes part in the baseline
        assert step(make(name, [*trees, tie]))[0] == pytest.approx(step(make(name, trees))[0], rel=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dpo sft"])  # of which the SFT loss is logged apart
def test_held_out_metrics_are_those_of_the_loss(name: str) -> None:
    method = make(name, ranked_trees(), budget=30)
    found = method.evaluate(None)  # type: ignore[arg-type]
    assert found["eval/loss"] == pytest.approx(step(method)[0], rel=1e-5) and 0 <= found["eval/accuracy"] <= 1


@pytest.mark.parametrize("name", NAMES)
def test_a_ranking_of_weight_two_is_the_ranking_twice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss, gradient and every metric. (KTO's baseline is of prompts, which the second copy would change: it is held still here.)"""
    monkeypatch.setattr(KTO, "baseline", lambda self, trees: 0.4)
    trees = ranked_trees()
    heavy = [replace(tree, weight=2.0) if i in (0, 3) else tree for i, tree in enumerate(trees)]
    twice = [*trees, trees[0], trees[3]]
    once, both = make(name, heavy, budget=40), make(name, twice, budget=40)
    (loss, slopes), (expected, exact) = step(once), step(both)
    assert loss == pytest.approx(expected, rel=1e-5) and gradient_error(slopes, exact) < 1e-4
    assert gradient_error(slopes, step(make(name, trees))[1]) > 0.05
    found, there = once.evaluate(None), both.evaluate(None)  # type: ignore[arg-type]
    assert found == pytest.approx(there, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_one_size_change_nothing(name: str) -> None:
    """A third for everybody is one for everybody, also where the divisor falls below 1."""
    loss, expected = step(make(name, ranked_trees()))
    other, found = step(make(name, [replace(tree, weight=1 / 30) for tree in ranked_trees()]))
    assert other == pytest.approx(loss, rel=1e-5) and gradient_error(found, expected) < 1e-4


def test_the_reward_models_weighted_mean_worked_by_hand() -> None:
    """One pair each, margins m1 and m2, weights 3 and 0.5: (3 log(1 + e^-m1) + 0.5 log(1 + e^-m2)) / 3.5."""
    trees = [replace(tree, weight=weight) for tree, weight in zip(ranked_trees()[1:4:2], (3.0, 0.5), strict=True)]
    assert [t.ranks for t in trees] == [(1, 2), (2, 1, None)]
    method = make("reward pairs", trees)
    with torch.no_grad():
        a, b = (score_rewards(method.scorer, TreeBatch.pack([tree])).tolist() for tree in trees)  # type: ignore[attr-defined]
    costs = [math.log1p(math.exp(-(a[0] - a[1]))), math.log1p(math.exp(-(b[1] - b[0])))]
    assert step(method)[0] == pytest.approx((3 * costs[0] + 0.5 * costs[1]) / 3.5, rel=1e-5)


def comparison(i: int) -> dict[str, Any]:
    texts = ["the cat", "near the mill .", "the old dog saw the cat"]
    order = [i % 3, (i + 1) % 3, (i + 2) % 3]
    return {
        "id": f"c{i}", "messages": [{"role": "user", "content": f"the dog {i}"}],
        "completions": [{"text": texts[k]} for k in order], "ranks": [1 + k for k in order],
    }  # fmt: skip


WORDS: list[tuple[str, dict[str, Any]]] = [
    *(("dpo", {"loss": loss, "beta": 0.3, "label_smoothing": 0.1 * (loss in SMOOTHED)}) for loss in DPO_LOSSES),
    ("triplet", {"delta": 20.0}), ("triplet", {"length_normalised": True, "delta": 5.0}),
    ("slic", {"delta": 20.0}), ("kto", {"beta": 0.3}), ("orpo", {"odds_weight": 1.0}), ("simpo", {}),
    ("reward", {"ties": "half"}), ("reward", {"loss": "plackett_luce"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("start")
    save_tiny_policy(place / "policy")
    write_lines(place / "rankings.jsonl", [comparison(i) for i in range(8)])
    write_lines(place / "held_out.jsonl", [comparison(i) for i in range(8, 12)])
    return place


def config(name: str, start: Path, out: Path, **words: Any) -> Any:
    given = {"steps": 12, "batch_size": 8, "lr": 3e-3, "dtype": "float32", "eval_every": 12, **words}
    return methods()[name].Config(
        model=str(start / "policy"), data=str(start / "rankings.jsonl"), eval_data=str(start / "held_out.jsonl"), out=str(out), **given
    )


@pytest.mark.parametrize(("name", "words"), WORDS, ids=[f"{name} {words}" for name, words in WORDS])
def test_a_run_lowers_the_loss_and_widens_the_margin(name: str, words: dict[str, Any], start: Path, tmp_path: Path) -> None:
    run(name, config(name, start, tmp_path / "run", **words), lambda reward: None)  # type: ignore[arg-type,return-value]
    rows = {(row["step"], row["name"]): row["value"] for row in read_lines(tmp_path / "run" / "metrics.jsonl")}
    assert rows[12, "loss"] < 0.97 * rows[1, "loss"] and rows[12, "margin"] > rows[1, "margin"]
    assert rows[12, "eval/margin"] > rows[0, "eval/margin"] and rows[12, "eval/loss"] < rows[0, "eval/loss"]


def weighed(start: Path, out: Path, rows: list[dict[str, Any]], **words: Any) -> list[float]:
    """The losses of two steps of a reward model on ``rows``."""
    out.mkdir()
    data = write_lines(out / "rows.jsonl", rows)
    given = {"model": str(start / "policy"), "data": str(data), "steps": 2, "batch_size": len(rows), "lr": 1e-3, "dtype": "float32"}
    run("reward", methods()["reward"].Config(out=str(out / "run"), **given, **words), lambda reward: None)  # type: ignore[arg-type,return-value]
    return [row["value"] for row in read_lines(out / "run" / "metrics.jsonl") if row["name"] == "loss"]


def test_a_labelers_weight_is_that_of_every_ranking_of_hers(start: Path, tmp_path: Path) -> None:
    """ann 2 and the row's own 1.5 make 3: the same file with the weights written into the rows, and not the file without."""
    rows = [{**comparison(i), "labeler": "ann" if i % 2 else "bob"} for i in range(6)]
    own = [{**row, "weight": 1.5} if i == 3 else row for i, row in enumerate(rows)]
    written = [{**row, "weight": {3: 3.0}.get(i, 2.0 if i % 2 else 0.25)} for i, row in enumerate(rows)]
    found = weighed(start, tmp_path / "option", own, labeler_weights={"ann": 2.0, "bob": 0.25})
    assert found == weighed(start, tmp_path / "field", written) != weighed(start, tmp_path / "plain", rows)


@pytest.mark.parametrize("weight", [0, -1, True, "2"])
def test_a_weight_that_is_none_is_refused_with_its_line(weight: Any, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", [comparison(0), {**comparison(1), "weight": weight}])
    with pytest.raises(UserError, match=r"r\.jsonl:2: field 'weight' is .*; write a number above 0"):
        read_comparisons(path)


def test_weights_of_labelers_are_looked_at(start: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"labeler_weights is \{'ann': 0\}, write numbers above 0"):
        load_config(methods()["dpo"].Config, None, ["labeler_weights={ann: 0}"])
    rows = [{**comparison(0), "labeler": "ann"}, {**comparison(1), "labeler": "bob"}]
    with pytest.raises(UserError, match=r"labeler_weights: anne ranked nothing in .*rows\.jsonl; its labelers are ann, bob"):
        weighed(start, tmp_path / "x", rows, labeler_weights={"anne": 2.0})


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("dpo", {"label_smoothing": 0.1}, "label_smoothing=0.1 means nothing to loss=sigmoid; write loss=cdpo or loss=robust"),
        ("dpo", {"label_smoothing": 0.2, "loss": "ipo"}, "label_smoothing=0.2 means nothing to loss=ipo"),
        ("dpo", {"loss": "robust"}, "loss=robust without label_smoothing is loss=sigmoid; write label_smoothing=0.1, or leave loss out"),
        ("reward", {"ties": "half", "loss": "plackett_luce"}, "ties=half means nothing to loss=plackett_luce"),
        ("kto", {"batch_size": 1}, "batch_size=1: KTO measures its baseline on answers to another prompt"),
        ("slic", {"demonstrations": "a", "models": ["b"]}, "models= names whose answers to read"),
    ],
)
def test_options_that_contradict_are_refused_before_anything_is_loaded(
    name: str, words: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for loader in ("load_policy", "load_scorer"):
        if hasattr(methods()[name], loader):
            monkeypatch.setattr(methods()[name], loader, lambda *a, **k: pytest.fail("loaded before the options were checked"))
    given = methods()[name].Config(model="no/such", data="no/such", out=str(tmp_path / "run"), **words)
    with pytest.raises(UserError) as caught:
        run(name, given, lambda reward: None)  # type: ignore[arg-type,return-value]
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
