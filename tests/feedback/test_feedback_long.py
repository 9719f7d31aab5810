"""Reward models that are too short for what a policy samples: what they read of it, what is counted, and that no run ends of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, TEXT, pair, read_lines, save_tiny_policy, write_lines

from trimtab.common.errors import UserError
from trimtab.common.files import read_json
from trimtab.data.tokenizer import train_tokenizer
from trimtab.feedback.ensemble import Ensemble, of_samples, reward_models
from trimtab.feedback.protocol import Rule
from trimtab.feedback.reward_model import RewardModel, ends
from trimtab.methods.build import run
from trimtab.methods.rloo import Config
from trimtab.models.load import save_model
from trimtab.records import Completion, Message, Prompt
from trimtab.trees import PromptTree
from trimtab.verbs.feedback import resolve_feedback


def judge(folder: Path, positions: int, vocabulary: int = 280, budget: int = 8192) -> RewardModel:
    """A reward model of so many positions; with a vocabulary of 280 it has the policy's tokenizer."""
    config, tokenizer = FAMILIES["llama"](), train_tokenizer(TEXT, vocabulary)
    config.vocab_size, config.max_position_embeddings = len(tokenizer), positions
    config.bos_token_id, config.eos_token_id, config.pad_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id, 2
    save_model(pair(config, scorer=True)[0], tokenizer, folder)
    return RewardModel(folder, budget=budget)


def test_ends_worked_by_hand() -> None:
    """Of 6 tokens: one answer leaves four of the prompt, one two; of one that is too long by itself the last five are left, and one."""
    tree = PromptTree((1, 2, 3, 4, 5), ((7, 8), (7, 8, 9, 6), (1, 2, 3, 4, 5, 6, 7)), key="p")
    assert [(t.prompt, t.completions, t.key) for t in ends(tree, 6)] == [
        ((2, 3, 4, 5), ((7, 8),), "p"), ((4, 5), ((7, 8, 9, 6),), "p"), ((5,), ((3, 4, 5, 6, 7),), "p"),
    ]  # fmt: skip
    assert ends(tree, 99) == [replace(tree, completions=(c,)) for c in tree.completions]


def test_a_long_prompt_is_read_from_its_end_and_counted(tmp_path: Path) -> None:
    """Three prompts: one fits, one with its short answer alone, one with neither. What fits is what it is without the others."""
    model = judge(tmp_path / "judge", 32)
    asked = ["the cat", "the old cat saw the dog near the new mill", " ".join(TEXT[:4])]
    prompts = [Prompt(f"p{i}", (Message("user", text),)) for i, text in enumerate(asked)]
    answers = [[Completion("the mill"), Completion("near the new mill the red cat saw the dog")]] * 3
    trees = [model.tree(p, row) for p, row in zip(prompts, answers, strict=True)]
    long = [[len(t.prompt) + len(c) > 32 for c in t.completions] for t in trees]
    assert long == [[False, False], [False, True], [True, True]]
    with pytest.raises(UserError, match="prompt p1: .* tokens with its longest answer, .* reads 32; leave it out"):
        model.score(prompts, answers)
    model.cuts = True
    found = model.score(prompts, answers)
    assert model.cut == 3
    expected = [[model.score_trees([t])[0][0] for t in ends(tree, 32)] for tree in trees]
    assert torch.allclose(torch.tensor(found), torch.tensor(expected), atol=1e-5)
    assert len({round(x, 4) for row in found for x in row}) == 6
    model.score(prompts[:1], answers[:1])
    assert model.cut == 0


def test_a_run_sets_its_judges_to_its_own_budget(tmp_path: Path) -> None:
    inside, alone, rule = judge(tmp_path / "a", 32, budget=7), judge(tmp_path / "b", 32), Rule(lambda prompt, text: 0.0)
    assert of_samples(Ensemble([rule, inside], "mean"), 50).source == "proxy" and of_samples(rule, 50) is rule
    assert (inside.budget, inside.cuts) == (50, True) and (alone.budget, alone.cuts) == (8192, False)
    assert reward_models(None, alone, Ensemble([rule, inside], "mean")) == [alone, inside]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    save_tiny_policy(folder / "policy")
    asked = ["the cat", "saw", " ".join(TEXT[:2]), "a dog"]
    write_lines(folder / "prompts.jsonl", [{"id": f"p{i}", "messages": [{"role": "user", "content": t}]} for i, t in enumerate(asked)])
    judge(folder / "same", 40)
    judge(folder / "strange", 32, vocabulary=262)
    return folder


def trained(place: Path, out: Path, **words: Any) -> dict[tuple[int, str], float]:
    given = {"steps": 2, "batch_size": 2, "num_completions": 2, "max_tokens": 12, "dtype": "float32", "micro_batch_tokens": 500, **words}
    config = Config(model=str(place / "policy"), data=str(place / "prompts.jsonl"), out=str(out), **given)
    run("rloo", config, lambda name: resolve_feedback(name) if name != "rule" else Rule(lambda prompt, text: float(len(text))))
    assert read_json(out / "run.json")["status"] == "done"
    return {(row["step"], row["name"]): row["value"] for row in read_lines(out / "metrics.jsonl")}


@pytest.mark.parametrize("words", [{"reward": "rule", "gold": "same"}, {"reward": "same"}, {"reward": "rule", "gold": "mean:same,same"}])
def test_a_judge_of_the_policys_tokens_is_left_room_for(
    words: dict[str, str], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Watched or maximised: the prompt that leaves twelve tokens no room in its 40 positions is dropped, and said so."""
    monkeypatch.chdir(place)
    found = trained(place, tmp_path / "run", **words)
    assert "4 read, 3 kept" in capsys.readouterr().out and not any(name == "reward/cut" for _, name in found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"gold": "same", "max_tokens": 40}, "max_tokens=40 leaves no room for a prompt: same takes 40 tokens; lower it"),
        ({"max_tokens": 94}, "max_tokens=94 leaves no room: the shortest prompt has 5 of 96 tokens; lower it"),
    ],
)
def test_answers_that_leave_no_prompt_room_are_told_as_such(
    words: dict[str, Any], message: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(UserError) as caught:
        trained(place, tmp_path / "run", reward="rule", **words)
    assert str(caught.value) == message


@pytest.mark.parametrize("words", [{"reward": "rule", "gold": "strange"}, {"reward": "strange"}])
def test_a_judge_of_other_tokens_ends_no_run(
    words: dict[str, str], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every prompt is kept; of those that the judge is too short for it reads the end, and the share of their answers is logged."""
    monkeypatch.chdir(place)
    found = trained(place, tmp_path / "run", **words)
    assert "4 read, 4 kept" in capsys.readouterr().out
    shares = [found[step, "reward/cut"] for step in (1, 2)]
    assert max(shares) > 0 and all(share * 4 == round(share * 4) for share in shares)
