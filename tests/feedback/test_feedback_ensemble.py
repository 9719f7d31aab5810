"""Several judges as one: values worked by hand, who counts as what, and the names on the command line."""

from pathlib import Path

import numpy as np
import pytest
from tiny_models import PROMPTS, save_tiny_policy

from trimtab.common.errors import UserError
from trimtab.data.template import Renderer
from trimtab.feedback.ensemble import Ensemble, combined, member_names, named_judges, reward_folders, reward_models
from trimtab.feedback.protocol import Rule
from trimtab.feedback.reward_model import RewardModel
from trimtab.methods.build import inputs_of, parents_of
from trimtab.methods.reward import add_pad_token
from trimtab.models.load import load_scorer, load_tokenizer, save_model
from trimtab.records import Completion
from trimtab.verbs.feedback import resolve_feedback


def reward_model(start: Path, folder: Path, seed: int) -> Path:
    scorer, tokenizer = load_scorer(start, seed=seed), load_tokenizer(start)
    add_pad_token(scorer, tokenizer, Renderer(tokenizer).end_id)
    save_model(scorer, tokenizer, folder)
    return folder


def test_combined_worked_by_hand() -> None:
    """Two judges, two answers: 1 and 3 -> mean 2, least 1, deviation 1; 4 and 4 -> 4, 4, 0."""
    scores = np.array([[1.0, 4.0], [3.0, 4.0]])
    assert combined(scores, "mean") == [2.0, 4.0] and combined(scores, "min") == [1.0, 4.0]
    assert combined(scores, "mean-std") == [1.0, 4.0]


def test_one_member_is_itself_and_order_of_members_does_not_matter() -> None:
    answers = [[Completion("ab"), Completion("abc")], [Completion("")]]
    long, short = Rule(lambda p, t: float(len(t))), Rule(lambda p, t: -2.0 * len(t))
    for way in ("mean", "min", "mean-std"):
        assert Ensemble([long], way).score(PROMPTS[:2], answers) == long.score(PROMPTS[:2], answers)
        both = Ensemble([long, short], way).score(PROMPTS[:2], answers)
        assert both == Ensemble([short, long], way).score(PROMPTS[:2], answers)
        lifted = Ensemble([Rule(lambda p, t, m=m: m.function(p, t) + 5) for m in (long, short)], way)
        assert [[x - 5 for x in row] for row in lifted.score(PROMPTS[:2], answers)] == [pytest.approx(row) for row in both]
    assert Ensemble([long, short], "min").score(PROMPTS[:2], answers) == [[-4.0, -6.0], [0.0]]


def test_its_source_is_the_members_or_proxy() -> None:
    rule, gold = Rule(lambda p, t: 0.0), Rule(lambda p, t: 0.0, "gold")
    assert Ensemble([rule, rule], "mean").source == "rule" and Ensemble([gold], "min").source == "gold"
    assert Ensemble([rule, gold], "mean").source == "proxy"


def test_names_on_the_command_line() -> None:
    assert member_names("min:reward:a,b") == ("min", ["reward:a", "b"]) and member_names("reward:a") is None
    assert named_judges("mean-std:a,b,c") == ["a", "b", "c"] and named_judges("village") == ["village"]
    with pytest.raises(UserError, match="an empty name between its commas"):
        member_names("mean:a,,b")
    with pytest.raises(UserError, match="'nobody' is no judge"):
        resolve_feedback("mean:village,nobody")


def test_reward_models_are_found_in_it_and_their_folders_are_the_runs_parents(tmp_path: Path) -> None:
    start = save_tiny_policy(tmp_path / "policy")
    one, two = reward_model(start, tmp_path / "one", 1), reward_model(start, tmp_path / "two", 2)
    (tmp_path / "mine.py").write_text("def reward(prompt, text):\n    return 1\n")
    name = f"min:reward:{one},{two},{tmp_path}/mine.py"
    ensemble = resolve_feedback(name)
    assert [m.folder for m in reward_models(ensemble)] == [one, two] and ensemble.source == "proxy"
    answers = [[Completion("a cat"), Completion("the old mill .")]]
    parts = [RewardModel(folder).score(PROMPTS[:1], answers)[0] for folder in (one, two)]
    assert ensemble.score(PROMPTS[:1], answers) == [pytest.approx([min(*scores, 1.0) for scores in zip(*parts, strict=True)])]
    assert reward_folders(name) == [one, two] == parents_of({"reward": name})
    assert inputs_of({"data": "d.jsonl", "reward": name, "ptx": {"text": "t.txt"}}) == ["d.jsonl", "t.txt", f"{tmp_path}/mine.py"]
