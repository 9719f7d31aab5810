"""Bad input: one line that says what to write instead, exit status 2, no traceback, nothing half-written."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trimtab.cli import main
from trimtab.models import load
from trimtab.training import checkpoint


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which ``arguments`` are refused."""
    status = main(list(arguments))
    said = capsys.readouterr()
    assert status == 2, said
    assert "Traceback" not in said.err
    lines = [line for line in said.err.splitlines() if line.startswith("trimtab: ")]
    assert len(lines) == 1, said.err
    return lines[0]


def test_missing_file(workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "sft", f"model={workshop}/base", "data=nowhere.jsonl", f"out={tmp_path}/run")
    assert "nowhere.jsonl" in line and "no such file" in line
    assert not (tmp_path / "run").exists()


def test_wrong_field_names_file_and_line(workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (workshop / "world/demonstrations.jsonl").read_text(encoding="utf-8").splitlines()
    broken = {key: value for key, value in json.loads(rows[1]).items() if key != "completion"}
    file = tmp_path / "demonstrations.jsonl"
    file.write_text(f"{rows[0]}\n{json.dumps(broken)}\n", encoding="utf-8")
    assert f"{file}:2" in refused(capsys, "sft", f"model={workshop}/base", f"data={file}", f"out={tmp_path}/run")


def test_ranking_of_the_wrong_length(workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rankings.jsonl"
    row = {"id": "1", "messages": [{"role": "user", "content": "Hi"}], "completions": [{"text": "a"}, {"text": "b"}]}
    file.write_text(json.dumps({**row, "ranks": [1, 2]}) + "\n" + json.dumps({**row, "ranks": [1, 2, 3]}) + "\n")
    line = refused(capsys, "reward", f"model={workshop}/base", f"data={file}", f"out={tmp_path}/run")
    assert f"{file}:2" in line and "3 entries for 2 completions" in line


def test_model_folder_without_a_tokenizer(workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(workshop / "base/model", tmp_path / "bare")
    for path in (tmp_path / "bare").glob("tokenizer*"):
        path.unlink()
    data = f"data={workshop}/world/demonstrations.jsonl"
    assert "no tokenizer" in refused(capsys, "sft", f"model={tmp_path}/bare", data, f"out={tmp_path}/run")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["sft", "learning_rat=3"], "unknown key 'learning_rat'"),
        (["dpo", "beto=0.1"], "did you mean 'beta'?"),
        (["sft", "lr=fast"], "lr is"),
        (["sft", "data=x.jsonl"], "model= is missing"),
        (["sft", "model=/nowhere/at/all", "data=x.jsonl"], "no such model folder"),
        (["speak"], "No such command"),
        (["run", "no-such-recipe"], "no-such-recipe"),
        (["config", "nothing"], "no verb 'nothing'"),
        (["rank", "answers.jsonl", "--by", "nobody"], "no such file"),
        (["sample", "m", "p.jsonl", "temperature=0"], "temperature is 0, write greedy=true"),
        (["sample", "m", "p.jsonl", "temperature=1e-40"], "temperature is 1e-40, expected number >= 0.001"),
        (["chat", "m", "--temperature", "0"], "--temperature 0: write a number >= 0.001, or --greedy in its place"),
        (["sample", "m", "p.jsonl", r"stop=\nTask:"], """line break is read in double quotes, for the shell: 'stop=["\\n"]'"""),
        (["sample", "m", "p.jsonl", "stop=a,b"], "write [a,b] for several texts"),
    ],
)
def test_mistyped_options(
    arguments: list[str], hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.jsonl").write_text("")
    assert hint in refused(capsys, *arguments)


def test_inputs_that_are_read_whole_before_they_are_used(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these once ended in a traceback, in a random reward, or after all the work was done."""
    monkeypatch.chdir(tmp_path)
    base, prompts = f"{workshop}/base", f"{workshop}/world/prompts.train.jsonl"
    demonstrations = f"{workshop}/world/demonstrations.jsonl"
    row = {"id": "1", "messages": [{"role": "user", "content": "Hi"}], "completions": [{"text": "a"}, {"text": "b"}], "ranks": [1, 2]}
    Path("rankings.jsonl").write_text(json.dumps(row) + "\n")
    Path("flags.jsonl").write_text(json.dumps({**row, "flags": [None, None]}) + "\n")
    asked = [{"id": "1", "messages": [{"role": "user", "content": text}]} for text in ("A", "B")]
    Path("twins.jsonl").write_text("".join(json.dumps(a) + "\n" for a in asked))
    shutil.copytree(workshop / "base/model", "broken")
    weights = Path("broken/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    cases = [
        (["score", base, "rankings.jsonl"], "a language model, not a reward model"),
        (["rank", "rankings.jsonl", "--by", f"reward:{base}", "-o", "r.jsonl"], "a language model, not a reward model"),
        (["sample", "broken", prompts], "transformers cannot load it"),
        (["sample", base, prompts, "-o", "answers.json"], "written as .jsonl"),
        (["sample", base, prompts, "max_tokens=256"], "leaves no room for a prompt"),
        (["sample", base, "twins.jsonl"], "twins.jsonl: two different prompts have the id '1'; give each its own"),
        (["sample", base, prompts, "kv_gb=1e-5"], "kv_gb=1e-05 is too little for one answer: with its prompt it may have"),
        (["sample", base, prompts, "kv_gb=1", "engine=vllm"], "kv_gb=1 is for engine=native"),
        (["ppo", f"model={base}", f"data={prompts}", "reward=village", "kv_gb=1e-5", "out=p"], "kv_gb=1e-05 is too little for one answer"),
        (["village", "out=world.jsonl"], "the world is a folder"),
        (["data", "convert", "flags.jsonl"], "flags[0]"),
        (["ppo", f"model={base}", "data=twins.jsonl", "reward=village", "out=p"], "two different prompts have the id '1'"),
        (["ppo", f"model={base}", f"data={prompts}", "reward=village", "beta=0", "kl.target=1", "out=p"], "beta is 0"),
        (["ppo", f"model={base}", f"data={prompts}", "reward=village", "ptx.weight=1", "out=p"], "ptx.weight=1 needs one of"),
        (["ppo", f"model={base}", f"data={prompts}", "reward=village", "ptx.text=t.txt", "out=p"], "ptx.weight is 0"),
        (["scst", f"model={base}", f"data={prompts}", "reward=mine.py", "out=p"], "'mine.py': no such file"),
        (["grpo", f"model={base}", f"data={prompts}", "reward=min:village,nobody", "out=p"], "'nobody' is no judge"),
        (["grpo", f"model={base}", f"data={prompts}", "reward=village", "num_completions=1", "out=p"], "whole number >= 2"),
        (["pretrain", f"data={workshop}/text.txt", "hidden=10", "heads=2", "out=q"], "even hidden / heads"),
        (["reward", f"model={base}", "data=rankings.jsonl", f"demonstrations={demonstrations}", "max_length=12", "out=r"],
         "raise max_length"),
    ]  # fmt: skip
    for arguments, hint in cases:
        assert hint in refused(capsys, *arguments), arguments


def test_a_file_that_is_there_is_replaced_only_when_asked(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every verb with -o: refused before any work, the file untouched; replaced with --overwrite; a folder's run is never replaced."""
    from trimtab.models.load import load_scorer, load_tokenizer, save_model

    monkeypatch.chdir(tmp_path)
    prompts, demonstrations = (f"{workshop}/world/{name}.jsonl" for name in ("prompts.train", "demonstrations"))
    save_model(load_scorer(workshop / "base"), load_tokenizer(workshop / "base"), tmp_path / "reward")
    sampled = ["sample", f"{workshop}/base", prompts, "max_tokens=4", "limit=2"]
    assert main([*sampled, "-o", "answers.jsonl"]) == 0
    commands = [
        sampled, ["rank", "answers.jsonl", "--by", "gold"], ["score", "reward", "answers.jsonl"],
        ["logprobs", f"{workshop}/base", "answers.jsonl"], ["data", "convert", demonstrations], ["compare", *[f"{workshop}/base"] * 2],
    ]  # fmt: skip
    for command in commands:
        kept = Path(f"{command[0]}.html" if command[0] == "compare" else f"{command[0]}.jsonl")
        kept.write_text("mine\n")
        line = refused(capsys, *command, "-o", str(kept))
        assert f"{kept}: is there already; choose another name, or replace it with --overwrite" in line
        assert kept.read_text() == "mine\n"
        assert main([*command, "-o", str(kept), "--overwrite"]) == 0
        assert kept.read_text() != "mine\n" and kept.stat().st_size > 20
        assert "is there already" in refused(capsys, *command, "-o", str(kept))
    assert main([*sampled, "out=sample.jsonl", "overwrite=true"]) == 0
    assert main([*sampled, "out=run"]) == 0
    before = Path("run/answers.jsonl").read_bytes()
    assert "this is a run's folder" in refused(capsys, *sampled, "seed=7", "out=run", "overwrite=true")
    assert main([*sampled, "out=run"]) == 0 and Path("run/answers.jsonl").read_bytes() == before
    run = json.loads(Path("run/run.json").read_text())
    del run["config"]["overwrite"]  # as an earlier version wrote it: the run is still this one
    Path("run/run.json").write_text(json.dumps(run))
    capsys.readouterr()
    assert main([*sampled, "out=run"]) == 0 and "already done" in capsys.readouterr().out


def test_words_count_where_no_flag_says_otherwise(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sample` and `rank` take their options as flags or as key=value words."""
    monkeypatch.chdir(tmp_path)
    prompts = f"{workshop}/world/prompts.train.jsonl"
    assert main(["sample", f"{workshop}/base", prompts, "num_completions=2", "max_tokens=4", "limit=2", "out=two.jsonl"]) == 0
    assert [len(json.loads(line)["completions"]) for line in Path("two.jsonl").read_text().splitlines()] == [2, 2]
    assert main(["rank", "two.jsonl", "by=gold", "out=gold.jsonl"]) == 0
    assert "scores" in json.loads(Path("gold.jsonl").read_text().splitlines()[0])


def test_another_run_in_the_folder_is_not_overwritten(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"model={workshop}/base", f"data={workshop}/world/demonstrations.jsonl", f"out={tmp_path}/run", "steps=1", "threads=1"]
    assert main(["sft", *words]) == 0
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    assert "another run" in refused(capsys, "sft", *words, "lr=0.5")
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


def test_full_disk_keeps_the_last_checkpoint(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"model={workshop}/base", f"data={workshop}/world/demonstrations.jsonl", f"out={tmp_path}/run"]
    words += ["steps=4", "save_every=1"]
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 24:  # run.json takes 2, each checkpoint 9 (metrics first): the third one fails while its files are written
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert "the disk is full" in refused(capsys, "sft", *words, "threads=1")
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["step-2"]
    monkeypatch.setattr(os, "fsync", real)
    assert main(["sft", *words, "threads=1"]) == 0, "the same command goes on once there is room"
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "done"
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["name"] == "loss"] == [1, 2, 3, 4]


def test_ctrl_c_leaves_a_run_that_goes_on(workshop: Path, tmp_path: Path) -> None:
    words = ["sft", f"model={workshop}/base", f"data={workshop}/world/demonstrations.jsonl", f"out={tmp_path}/run"]
    words += ["steps=400", "threads=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "trimtab", *words], env=environment, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and '"step": 3' in metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 2 and "Traceback" not in said, said
    assert "the same command goes on" in said
    info = json.loads((tmp_path / "run/run.json").read_text())
    assert info["status"] == "interrupted"
    assert checkpoint.latest(tmp_path / "run/checkpoints") is not None


def test_ctrl_c_where_there_is_nothing_to_save_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trimtab.verbs.curate.run", stopped)
    assert main(["curate", "a.jsonl"]) == 130
    assert capsys.readouterr().err == "trimtab: interrupted; the same command begins again\n"


def test_ids_that_no_tokenizer_has(workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from trimtab.data.template import tokenizer_sha
    from trimtab.models.load import load_tokenizer

    sha = tokenizer_sha(load_tokenizer(workshop / "base"))
    for wrong in (99999, -3):
        answers = [{"text": "a", "token_ids": [wrong], "tokenizer": sha}, {"text": "b"}]
        row = {"id": "seven", "messages": [{"role": "user", "content": "Hi"}], "completions": answers, "ranks": [1, 2]}
        (tmp_path / "rankings.jsonl").write_text(json.dumps(row) + "\n")
        line = refused(capsys, "reward", f"model={workshop}/base", f"data={tmp_path}/rankings.jsonl", f"out={tmp_path}/run{wrong}")
        assert "'seven'" in line and "token ids" in line


def test_a_reward_model_is_not_taken_for_a_language_model(workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its head is tied to its embeddings, so that no weight would be missing."""
    from trimtab.models.load import load_scorer, load_tokenizer, save_model

    save_model(load_scorer(workshop / "base"), load_tokenizer(workshop / "base"), tmp_path / "reward")
    line = refused(capsys, "sft", f"model={tmp_path}/reward", f"data={workshop}/world/demonstrations.jsonl", f"out={tmp_path}/run")
    assert "reward or value model" in line


def test_a_path_is_not_looked_for_on_the_hub(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``./dir`` can only be a folder; a bare name is looked for in the hub's cache alone where the hub cannot be reached."""
    monkeypatch.chdir(tmp_path)
    data = f"data={workshop}/world/demonstrations.jsonl"
    assert "./sfft: no such model folder" in refused(capsys, "sft", "model=./sfft", data, "out=run")
    monkeypatch.setattr(load, "hub_reachable", lambda: False)
    assert load._where("sfft") == {"local_files_only": True} and load._where(tmp_path) == {}
    monkeypatch.setattr(load, "hub_reachable", lambda: True)
    assert load._where("sfft") == {}


def test_more_demonstrations_than_there_are_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "4000 prompts" in refused(capsys, "village", f"out={tmp_path}/world", "demonstrations=4001")
    assert not (tmp_path / "world").exists()


def test_skipping_every_prompt(workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{workshop}/base", f"{workshop}/world/prompts.train.jsonl", "skip=100000", f"out={tmp_path}/answers.jsonl"]
    assert "skip=100000 leaves none" in refused(capsys, "sample", *words)


def test_a_disk_that_fills_up_under_the_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tokenizers raises a plain Exception with the system's error in its words."""
    from tiny_models import save_tiny_policy

    from trimtab.common.errors import UserError
    from trimtab.models.load import load_policy, load_tokenizer, save_model

    start = save_tiny_policy(tmp_path / "start")
    policy, tokenizer = load_policy(start), load_tokenizer(start)

    def full(*given: object, **named: object) -> None:
        raise Exception("No space left on device (os error 28)")

    monkeypatch.setattr(type(tokenizer), "save_pretrained", full)
    with pytest.raises(UserError, match="the disk is full"):
        save_model(policy, tokenizer, tmp_path / "saved")
    assert not (tmp_path / "saved").exists() and not list(tmp_path.glob(".saved*"))


def test_a_field_that_is_nearly_right_is_named(workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "Hi", "chosn": "a", "rejected": "b"}) + "\n")
    line = refused(capsys, "reward", f"model={workshop}/base", f"data={tmp_path}/pairs.jsonl", f"out={tmp_path}/run")
    assert "did you mean 'chosen' by 'chosn'?" in line
