"""The K-wise reward loss against the pairwise formula, and a trained reward model as feedback."""

import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, pair, random_trees, read_lines, save_tiny_policy, tiny_tokenizer, write_lines

from trimtab.common.errors import UserError
from trimtab.common.files import read_json
from trimtab.feedback.reward_model import RewardModel
from trimtab.methods.build import run
from trimtab.methods.offline import FixedData, micro_batches
from trimtab.methods.reward import Config, Reward, pair_margins
from trimtab.models.score import score_rewards
from trimtab.records import Completion, Message, Prompt
from trimtab.trees import PromptTree, TreeBatch

RANKS: list[tuple[int | None, ...]] = [(2, 1, 4, 3), (1, 2), (1, 1, 2), (1, 1), (None, 2, 1)]


def ranked_trees() -> list[PromptTree]:
    made = random_trees([(4, [3 + i for i in range(len(ranks))]) for ranks in RANKS])
    return [PromptTree(t.prompt, t.completions, key=t.key, ranks=r) for t, r in zip(made, RANKS, strict=True)]


def test_the_loss_is_the_pairwise_formula() -> None:
    """-1/C(K,2) * sum log sigma(r_w - r_l) over the comparable pairs of each ranking, then the mean over rankings that have one.

    Pairs: 6 of the first ranking, 1 of the second, 2 of the third (a tie), none of the fourth, 1 of the fifth (one unranked).
    """
    scorer = pair(FAMILIES["llama"](), scorer=True)[0]
    trees = ranked_trees()
    means, hits = [], []
    with torch.no_grad():
        for tree in trees:
            rewards = score_rewards(scorer, TreeBatch.pack([tree])).tolist()
            losses = []
            for i, j in combinations(range(len(rewards)), 2):
                a, b = (tree.ranks or ())[i], (tree.ranks or ())[j]
                if a is not None and b is not None and a != b:
                    margin = rewards[i] - rewards[j] if a < b else rewards[j] - rewards[i]
                    losses.append(math.log1p(math.exp(-margin)))
                    hits.append(margin > 0)
            if losses:
                means.append(sum(losses) / len(losses))
    assert (len(means), len(hits)) == (4, 10) and 0 < sum(hits) < 10
    method = Reward(scorer, FixedData(trees, trees, batch_size=5, budget=1))
    for budget in (1, 40, 1000):
        batches = micro_batches(trees, budget, method.size)
        assert {batch.divisor for batch in batches} == {4.0}
        loss = sum(float(method.loss(batch)[0].detach()) for batch in batches)
        assert loss == pytest.approx(sum(means) / 4, rel=1e-5)
    found = method.evaluate(None)  # type: ignore[arg-type]
    assert found["eval/loss"] == pytest.approx(sum(means) / 4, rel=1e-5)
    assert found["eval/accuracy"] == pytest.approx(sum(hits) / 10)


def test_each_ranking_weighs_the_same_whatever_its_k() -> None:
    """With all scores equal every pair costs log 2, so every ranking does."""
    scorer = pair(FAMILIES["llama"](), scorer=True)[0]
    torch.nn.init.zeros_(scorer.score.weight)
    trees = ranked_trees()
    for chosen in ([0], [1], [0, 1, 2, 3, 4]):
        (batch,) = micro_batches([trees[i] for i in chosen], 1000, Reward.size)
        assert Reward(scorer, FixedData([])).loss(batch)[0].item() == pytest.approx(math.log(2))


def test_margins_are_of_every_pair_that_is_no_tie() -> None:
    trees = [
        PromptTree((1,), ((2,), (3,), (4,)), key="a", ranks=(1, 2, 2)),
        PromptTree((1,), ((2,), (3,)), key="b", ranks=(2, 1)),
    ]
    assert pair_margins([[5.0, 5.0, 1.0], [7.0, 6.0]], trees) == ([0.0, 4.0, -1.0], ["a", "a", "b"])


def comparison(i: int) -> dict[str, Any]:
    """Longer is better: something a reward model can learn."""
    texts = ["the cat", "the cat saw the dog", "the cat saw the dog near the mill ."]
    order = [i % 3, (i + 1) % 3, (i + 2) % 3]
    return {
        "id": f"c{i}", "messages": [{"role": "user", "content": f"the {'old red sad'.split()[i % 3]} dog {i}"}],
        "completions": [{"text": texts[k]} for k in order], "ranks": [3 - k for k in order],
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model trained on 12 rankings, with demonstrations as its zero."""
    place = tmp_path_factory.mktemp("reward")
    rankings = write_lines(place / "rankings.jsonl", [comparison(i) for i in range(12)])
    held_out = write_lines(place / "held_out.jsonl", [comparison(i) for i in range(12, 18)])
    demonstrations = write_lines(
        place / "demos.jsonl",
        [
            {"id": f"d{i}", "messages": comparison(i)["messages"], "completion": "the dog near the mill ."}
            for i in range(5)
        ],
    )
    config = Config(
        model=str(save_tiny_policy(place / "policy")), data=str(rankings), eval_data=str(held_out), demonstrations=str(demonstrations),
        out=str(place / "run"), epochs=10, batch_size=4, lr=1e-2,
    )  # fmt: skip
    run("reward", config, lambda name: None)  # type: ignore[arg-type,return-value]
    return place


def test_it_starts_near_log_two_and_learns_what_is_plain_to_see(trained: Path) -> None:
    rows = {(row["step"], row["name"]): row["value"] for row in read_lines(trained / "run" / "metrics.jsonl")}
    assert rows[0, "eval/loss"] == pytest.approx(math.log(2), abs=0.4)
    assert rows[30, "eval/accuracy"] > 0.9
    figures = read_json(trained / "run" / "results.json")["figures"]
    assert figures["accuracy"]["value"] == rows[30, "eval/accuracy"] and figures["accuracy"]["n"] == 6 * 3


def test_eval_limit_bounds_the_curve_and_not_the_final_figure(trained: Path, tmp_path: Path) -> None:
    words = {"out": str(tmp_path / "limited"), "epochs": 1.0, "steps": 1, "eval_limit": 2}
    run("reward", Config(**read_json(trained / "run" / "run.json")["config"] | words), lambda name: None)  # type: ignore[arg-type,return-value]
    shares = [row["value"] for row in read_lines(tmp_path / "limited" / "metrics.jsonl") if row["name"] == "eval/accuracy"]
    assert len(shares) == 2 and all(value * 6 == pytest.approx(round(value * 6)) for value in shares)  # 2 rankings of 3: 6 pairs
    assert read_json(tmp_path / "limited" / "results.json")["figures"]["accuracy"]["n"] == 6 * 3


def test_demonstrations_average_zero_and_training_answers_vary_by_one(trained: Path) -> None:
    model = RewardModel(trained / "run")
    prompts = [Prompt(f"{i}", (Message("user", comparison(i)["messages"][0]["content"]),)) for i in range(12)]
    demonstrations = model.score(prompts[:5], [[Completion("the dog near the mill .")]] * 5)
    assert np.mean(demonstrations) == pytest.approx(0, abs=1e-5)
    answers = [[Completion(c["text"]) for c in comparison(i)["completions"]] for i in range(12)]
    scores = model.score(prompts, answers)
    assert np.std(scores) == pytest.approx(1, rel=1e-4)
    assert all(row[comparison(i)["ranks"].index(1)] == max(row) for i, row in enumerate(scores))
    small = RewardModel(trained / "run", budget=1)
    assert np.allclose(small.score(prompts, answers), scores, atol=1e-5)


def test_feedback_uses_sampled_ids_only_of_its_own_tokenizer(trained: Path) -> None:
    """Ids of this tokenizer stand for themselves (an end token is added unless the answer was cut); others' text is encoded."""
    model = RewardModel(trained / "run")
    tokenizer = tiny_tokenizer()
    prompt = Prompt("p", (Message("user", "the old dog"),))
    ids = tuple(model.renderer.completion("the cat"))
    sha = model.renderer.sha

    def score(completion: Completion) -> float:
        return model.score([prompt], [[completion]])[0][0]

    plain, cut = score(Completion("the cat")), score(Completion("the cat", stop="length"))
    assert plain != cut and tokenizer.eos_token_id == ids[-1]
    assert score(Completion("ignored", None, ids, sha, "end")) == plain
    assert score(Completion("ignored", None, ids[:-1], sha, "string")) == plain
    assert score(Completion("ignored", None, ids[:-1], sha, "length")) == cut
    assert score(Completion("the cat", None, (5, 6), "another", "end")) == plain
    assert score(Completion("", None, (5, 6), "another", "length")) == score(Completion(""))


def test_rankings_that_are_all_ties_are_refused(tmp_path: Path) -> None:
    rows = [{**comparison(i), "ranks": [1, 1, 1]} for i in range(3)]
    data = write_lines(tmp_path / "ties.jsonl", rows)
    config = Config(model=str(save_tiny_policy(tmp_path / "policy")), data=str(data), out=str(tmp_path / "run"))
    with pytest.raises(UserError, match="ties.jsonl: no ranking has two answers of different rank"):
        run("reward", config, lambda name: None)  # type: ignore[arg-type,return-value]


def one_batch(scorer: Any, trees: list[PromptTree], **options: Any) -> tuple[float, Any]:
    method = Reward(scorer, FixedData([]), **options)
    (batch,) = micro_batches(trees, 1000, method.size)
    loss, metrics = method.loss(batch)
    return loss.item(), metrics


def test_ties_as_half_by_the_formula() -> None:
    """The third ranking, 1 1 2: two pairs and a tie, each a third of it; the fourth is a tie alone and now counts: five rankings, not four.

    Accuracy is still of the ten pairs that differ.
    """
    scorer = pair(FAMILIES["llama"](), scorer=True)[0]
    trees = ranked_trees()
    with torch.no_grad():
        scores = [score_rewards(scorer, TreeBatch.pack([tree])).tolist() for tree in trees]

    def cost(margin: float) -> float:
        return math.log1p(math.exp(-margin))

    def tie(a: float, b: float) -> float:
        return 0.5 * cost(a - b) + 0.5 * cost(b - a)

    first, second, (a, b, c), (d, e), (_, f, g) = scores
    six = [cost(first[i] - first[j]) for i, j in ((1, 0), (1, 3), (1, 2), (0, 3), (0, 2), (3, 2))]
    means = [sum(six) / 6, cost(second[0] - second[1]), (cost(a - c) + cost(b - c) + tie(a, b)) / 3, tie(d, e), cost(g - f)]
    loss, metrics = one_batch(scorer, trees, ties="half")
    assert loss == pytest.approx(sum(means) / 5, rel=1e-5)
    assert metrics["loss"] == (pytest.approx(sum(means), rel=1e-5), 5.0) and metrics["accuracy"][1] == metrics["margin"][1] == 10


def test_plackett_luce_by_the_formula() -> None:
    """Each answer against all below it, tied ones not against each other, the mean over answers with somebody below; four rankings."""
    scorer = pair(FAMILIES["llama"](), scorer=True)[0]
    trees = ranked_trees()
    means = []
    with torch.no_grad():
        for tree in trees:
            scores, ranks = score_rewards(scorer, TreeBatch.pack([tree])).tolist(), tree.ranks or ()
            costs = []
            for i, rank in enumerate(ranks):
                below = [scores[j] for j, r in enumerate(ranks) if None not in (r, rank) and r > rank]  # type: ignore[operator]
                if below:
                    costs.append(math.log(math.exp(scores[i]) + sum(map(math.exp, below))) - scores[i])
            if costs:
                means.append(sum(costs) / len(costs))
    loss, metrics = one_batch(scorer, trees, loss="plackett_luce")
    assert len(means) == 4 and loss == pytest.approx(sum(means) / 4, rel=1e-5) and metrics["loss"][1] == 4


def test_of_two_answers_every_loss_of_a_ranking_is_the_pairs() -> None:
    scorer = pair(FAMILIES["llama"](), scorer=True)[0]
    trees = [tree for tree in ranked_trees() if tree.ranks in ((1, 2), (None, 2, 1))]
    found = [one_batch(scorer, trees, **options)[0] for options in ({}, {"ties": "half"}, {"loss": "plackett_luce"})]
    assert len(trees) == 2 and found[1] == found[0] and found[2] == pytest.approx(found[0], rel=1e-6)


def test_rankings_of_ties_alone_train_where_ties_count(tmp_path: Path) -> None:
    rows = [{**comparison(i), "ranks": [1, 1, 1]} for i in range(3)]
    data = write_lines(tmp_path / "ties.jsonl", rows)
    words: dict[str, Any] = {"model": str(save_tiny_policy(tmp_path / "policy")), "data": str(data), "steps": 1, "batch_size": 3}
    with pytest.raises(UserError, match="no ranking has two answers of different rank"):
        run("reward", Config(out=str(tmp_path / "skip"), **words), lambda name: None)  # type: ignore[arg-type,return-value]
    run("reward", Config(out=str(tmp_path / "half"), ties="half", **words), lambda name: None)  # type: ignore[arg-type,return-value]
    names = {row["name"] for row in read_lines(tmp_path / "half" / "metrics.jsonl")}
    assert "loss" in names and "accuracy" not in names
