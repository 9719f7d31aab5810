"""Options that do not go together, and data that a method can do nothing with: one line that says what to write instead, and no model has
been loaded by then."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from trimtab.cli import main
from trimtab.methods.build import methods
from trimtab.models import load

ASKED = [{"id": f"p{i}", "messages": [{"role": "user", "content": f"say {i}"}]} for i in range(3)]


def compared(*ranks: int | None, **more: Any) -> list[dict[str, Any]]:
    return [{**row, "completions": [{"text": "abc"[k]} for k in range(len(ranks))], "ranks": list(ranks), **more} for row in ASKED]


FILES: dict[str, list[dict[str, Any]]] = {
    "prompts": ASKED, "pairs": compared(1, 2), "single": compared(1), "ties": compared(1, 1), "unranked": compared(None, None),
    "said": compared(1, 2, labeler="ann"), "demonstrations": [{**row, "completion": "yes"} for row in ASKED],
    "few": [{**ASKED[0], "completion": "yes"}], "labels": [{**row, "completion": "yes", "label": True} for row in ASKED],
}  # fmt: skip


@pytest.fixture
def place(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, rows in FILES.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "base").symlink_to(workshop / "base/model")
    (tmp_path / "text.txt").symlink_to(workshop / "text.txt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(load, "_load", lambda *a, **k: pytest.fail("a model was loaded before the options and the data were looked at"))
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], command: str) -> str:
    assert main(shlex.split(command)) == 2, capsys.readouterr()
    said = capsys.readouterr().err
    lines = said.splitlines()
    *rows, last = lines  # rows of a file that cannot be read are listed before the one line
    assert last.startswith("trimtab: ") and all(re.match(r"\S+:\d+: ", row) for row in rows), said
    return last.removeprefix("trimtab: ")


def of_others(verb: str, option: str) -> str:
    """What is said of an option that ``verb`` lacks: every method that has it, by name."""
    owners = [name for name, method in sorted(methods().items()) if option.partition(".")[0] in method.Config.model_fields]
    assert owners and verb not in owners
    return f"{option}= is an option of {', '.join(owners)}; {verb} has nothing like it, leave it out"


ONLINE = "model=base data=prompts.jsonl reward=village"
CASES = [
    # things of another method
    ("dpo model=base data=pairs.jsonl value_coef=0.5", of_others("dpo", "value_coef")),
    ("dpo model=base data=pairs.jsonl loss=kto", "loss=kto: kto is a verb of its own: trimtab kto"),
    ("dpo model=base data=pairs.jsonl loss=nonsense", "loss is 'nonsense', expected one of sigmoid, ipo,"),
    ("ppo " + ONLINE + " prompts_per_iteration=8", "unknown key 'prompts_per_iteration', it is 'batch_size' here"),
    ("ppo " + ONLINE + " wholly_different=8", "unknown key 'wholly_different', --help lists the options"),
    ("dpo model=base data=pairs.jsonl reward=village", of_others("dpo", "reward")),
    ("simpo model=base data=pairs.jsonl reference=base", of_others("simpo", "reference")),
    ("bon " + ONLINE + " beta=0.1", of_others("bon", "beta")),
    ("pretrain data=text.txt lora.rank=8", of_others("pretrain", "lora.rank")),
    ("grpo " + ONLINE + " ptx.weight=1", of_others("grpo", "ptx.weight")),
    ("bon " + ONLINE + " beta=0.1 clip=0.2", f"{of_others('bon', 'beta')}; {of_others('bon', 'clip')}"),
    ("orpo model=base data=pairs.jsonl beta=0.1", "orpo calls its own odds_weight"),
    # K = 1
    ("reward model=base data=single.jsonl", "single.jsonl: no ranking has two answers; reward needs at least one that has"),
    ("dpo model=base data=single.jsonl", "single.jsonl: no ranking has two answers; dpo needs"),
    ("slic model=base data=single.jsonl", "single.jsonl: no ranking has two answers; slic needs"),
    ("kto model=base data=single.jsonl", "single.jsonl: no ranking has two answers; kto needs"),
    ("grpo " + ONLINE + " num_completions=1", "num_completions is 1, expected whole number >= 2"),
    ("rloo " + ONLINE + " num_completions=1", "num_completions is 1, expected whole number >= 2"),
    ("trpo " + ONLINE + " num_completions=1", "num_completions is 1, expected whole number >= 2"),
    ("bon " + ONLINE + " num_completions=1", "num_completions is 1, expected whole number >= 2"),
    # nothing to learn from
    ("triplet model=base data=ties.jsonl", "ties.jsonl: no ranking has two answers of different rank; triplet needs"),
    ("orpo model=base data=unranked.jsonl", "unranked.jsonl: its answers have no ranks, which trimtab rank"),
    ("reward model=base data=unranked.jsonl ties=half", "unranked.jsonl: its answers have no ranks, which trimtab rank"),
    ("kto model=base data=pairs.jsonl desirable_weight=0 undesirable_weight=0", "desirable_weight=0 undesirable_weight=0: nothing is left"),
    # files and names that do not fit
    ("dpo model=base data=nowhere.jsonl", "nowhere.jsonl: no such file"),
    ("dpo model=base data=prompts.jsonl", "prompts.jsonl:1: found a prompt"),
    ("sft model=base data=pairs.jsonl", "pairs.jsonl:1: found a comparison"),
    ("sft model=base data=demonstrations.jsonl eval_data=nowhere.jsonl", "nowhere.jsonl: no such file"),
    ("reward model=base data=pairs.jsonl demonstrations=nowhere.jsonl", "nowhere.jsonl: no such file"),
    ("ppo model=base data=nowhere.jsonl reward=village", "nowhere.jsonl: no such file"),
    ("slic model=base data=pairs.jsonl demonstrations=few.jsonl", "2 of 3 rankings (the first is 'p1') have no demonstration of their"),
    ("dpo model=base data=pairs.jsonl models=[sft]", "pairs.jsonl: no answer is by sft; it names no answer's model"),
    ("dpo model=base data=said.jsonl labeler_weights={bob:2}", "labeler_weights is {'bob:2': None}, write a blank behind each colon"),
    ("dpo model=base data=said.jsonl 'labeler_weights={bob: 2}'", "labeler_weights: bob ranked nothing in said.jsonl; its"),
    ("dpo model=base data=said.jsonl 'labeler_weights={ann: 0}'", "labeler_weights is {'ann': 0}, write numbers above 0"),
    ("dpo model=base data=pairs.jsonl reference=./nowhere", "./nowhere: no such model folder"),
    ("dpo model=./bsae data=pairs.jsonl", "./bsae: no such model folder; did you mean 'base'?"),
    ("dpo model=base data=pair.jsonl", "pair.jsonl: no such file; did you mean 'pairs.jsonl'?"),
    ("ppo model=./nowhere data=prompts.jsonl reward=village", "./nowhere: no such model folder"),
    # options that contradict each other, or that nothing would read
    ("dpo model=base data=pairs.jsonl loss=ipo label_smoothing=0.1", "label_smoothing=0.1 means nothing to loss=ipo; write loss=cdpo or"),
    ("dpo model=base data=pairs.jsonl loss=cdpo", "loss=cdpo without label_smoothing is loss=sigmoid; write label_smoothing=0.1, or leave"),
    ("dpo model=base data=pairs.jsonl loss=robust", "loss=robust without label_smoothing is loss=sigmoid; write label_smoothing=0.1"),
    ("dpo model=base data=pairs.jsonl beta=0", "beta is 0, expected number > 0"),
    ("dpo model=base data=pairs.jsonl eval_limit=5", "eval_limit=5 means nothing without eval_data; write eval_data=FILE, or leave it out"),
    ("sft model=base data=demonstrations.jsonl eval_every=5", "eval_every=5 means nothing without eval_data; write eval_data=FILE"),
    ("grpo " + ONLINE + " eval_every=5", "eval_every=5 means nothing to grpo, whose metrics are of its own answers, in every"),
    ("bon " + ONLINE + " eval_every=5", "eval_every=5 means nothing to bon, whose metrics are of its own answers, in every"),
    ("pretrain data=text.txt held_out=0 eval_every=5", "eval_every=5 means nothing without documents to measure on; write held_out=200"),
    ("sft model=base data=demonstrations.jsonl epochs=7 steps=2", "epochs=7.0 means nothing beside steps=2, which decides"),
    ("ppo " + ONLINE + " epochs=7 steps=2", "epochs=7.0 means nothing beside steps=2, which decides; leave one of the two out"),
    ("dpo model=base data=pairs.jsonl schedule=constant final_lr=0.5", "final_lr=0.5 means nothing to schedule=constant"),
    ("dpo model=base data=pairs.jsonl lora.alpha=8", "lora.alpha=8.0: no adapters without a rank; write lora.rank=16"),
    ("dpo model=base data=pairs.jsonl lora.rank=4 lora.dropout=0.1", "lora.dropout=0.1: only sft may drop"),
    ("reward model=base data=pairs.jsonl ties=half loss=plackett_luce", "ties=half means nothing to loss=plackett_luce"),
    ("slic model=base data=pairs.jsonl sft_weight=0", "sft_weight=0: without the cross-entropy this is the sequence triplet; write"),
    ("slic model=base data=pairs.jsonl demonstrations=few.jsonl models=[a]", "models= names whose answers to read"),
    ("kto model=base data=labels.jsonl batch_size=1", "batch_size=1: KTO measures its baseline on answers to another prompt"),
    ("ppo " + ONLINE + " penalty.beta=2", "penalty.beta=2.0 means nothing to variant=clip; write variant=penalty, or leave it out"),
    ("ppo " + ONLINE + " variant=penalty clip=0.1", "clip=0.1 means nothing to variant=penalty"),
    ("ppo " + ONLINE + " variant=penalty penalty.rate=0 penalty.target=0.5", "penalty.target=0.5 means nothing to penalty.rate=0"),
    ("ppo " + ONLINE + " ptx.weight=1", "ptx.weight=1 needs one of ptx.demonstrations=FILE and ptx.text=FILE"),
    ("ppo " + ONLINE + " ptx.text=text.txt", "text.txt: would not be mixed in, ptx.weight is 0; write a weight"),
    ("ppo " + ONLINE + " ptx.weight=1 ptx.text=nowhere.txt", "nowhere.txt: no such file"),
    ("ppo " + ONLINE + " ptx.batch_size=4", "ptx.batch_size=4 means nothing without a mix"),
    ("rloo " + ONLINE + " kl.horizon=100", "kl.horizon=100 means nothing without kl.target: beta stays fixed; write a target"),
    ("scst " + ONLINE + " kl.target=2 beta=0", "kl.target=2 multiplies beta, and beta is 0; write a beta to start from"),
    ("grpo " + ONLINE + " cut=left_out cut_penalty=3", "cut_penalty=3.0 means nothing to cut=left_out"),
    ("grpo " + ONLINE + " kl_in=reward kl_corrected=true", "kl_corrected=true means nothing to kl_in=reward"),
    ("ppo " + ONLINE + " max_tokens=400", "max_tokens=400 leaves no room for a prompt: the model takes 256 tokens; lower it"),
    ("bon " + ONLINE + " max_tokens=100 max_length=100", "max_tokens=100 leaves no room for a prompt: max_length is 100 tokens; lower it"),
    ("grpo " + ONLINE + " beta=0 kl_corrected=true", "kl_corrected=true means nothing to beta=0, at which there is no KL to correct or to"),
    ("grpo " + ONLINE + " beta=0 kl_in=reward", "kl_in=reward means nothing to beta=0, at which there is no KL to correct or to place"),
    ("rloo model=base data=prompts.jsonl reward=mean-std:village", "'mean-std:village': one judge does not disagree with itself; write"),
    ("trpo " + ONLINE + " lr=1e-4", "lr=0.0001 means nothing to trpo, which has no such optimizer: trust.delta bounds its steps"),
    ("trpo " + ONLINE + " dtype=bfloat16", "dtype=bfloat16: trpo multiplies in float32"),
    ("pretrain data=text.txt model=base hidden=64", "hidden=64 means nothing to a model that is there already"),
    ("pretrain data=text.txt tokenizer=base vocabulary=500", "vocabulary=500 means nothing beside tokenizer=, which has its own"),
    ("ppo model=base data=prompts.jsonl reward=nobody", "'nobody' is no judge; write village, or reward:DIR"),
    ("ppo model=base data=prompts.jsonl reward=base", "base: a language model, not a reward model; trimtab reward model=base data="),
]  # fmt: skip


@pytest.mark.parametrize(("command", "line"), CASES, ids=[command for command, _ in CASES])
def test_it_is_refused_in_one_line_before_anything_is_loaded(
    command: str, line: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = refused(capsys, f"{command} out=run")
    assert found.removeprefix("command line: ").startswith(line) or line in found
    assert not (place / "run").exists()
