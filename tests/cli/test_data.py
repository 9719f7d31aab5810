"""``trimtab data`` and the words by which every verb reads its data: fields, ranks, rows left out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trimtab.cli import main


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qa.csv").write_text("question,answer,who\nWhere?,There.,ann\nWhen?,Then.,bob\n")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "q", "completion": "a"}\nno\n{"prompt": 3}\n' + '{"foo": 1}\n' * 25)
    return tmp_path


def test_converting_says_what_it_read(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fields.prompt=question", "fields.completion=answer", "fields.user=who"]
    assert main(["data", "convert", "qa.csv", *words, "-o", "out/r.jsonl"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == ["qa.csv: 2 rows (trl-prompt-completion 2), 2 kept with 2 demonstrations", "written: out/r.jsonl"]
    assert lines(here / "out/r.jsonl")[0] == {
        "id": "qa.csv:2", "messages": [{"role": "user", "content": "Where?"}], "user": "ann", "completion": "There."
    }  # fmt: skip
    assert main(["data", "convert", "out/r.jsonl", "to=trl-prompt-completion", "style=standard", "keep=[user]", "-o", "t.jsonl"]) == 0
    assert lines(here / "t.jsonl")[1] == {"user": "bob", "prompt": "When?", "completion": "Then."}


def test_bad_rows_are_listed_above_the_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "convert", "bad.jsonl"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4 and said[0] == "bad.jsonl:2: not JSON (Expecting value at column 1)"
    assert said[2].startswith("bad.jsonl:4: no known format (fields: foo)")
    assert said[2].endswith("(and in 24 more rows: 5, 6, 7, 8, 9, ...)")
    assert said[3].startswith("trimtab: bad.jsonl: 27 of 28 rows cannot be read, the first: bad.jsonl:2: ")
    assert not (here / "records.jsonl").exists()
    assert main(["data", "check", "bad.jsonl"]) == 2
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4 and said[3] == (
        "bad.jsonl: 28 rows (trl-prompt-completion 1), 1 kept with 1 demonstration; 27 left out: no known format 25, not JSON 1, "
        "wrong field 'prompt' 1"
    )


def test_skipping_bad_rows(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "convert", "bad.jsonl", "--skip-bad", "-o", "out/r.jsonl"]) == 0
    assert "left out: out/bad.jsonl.left-out.jsonl" in capsys.readouterr().out
    assert len(lines(here / "out/r.jsonl")) == 1 and len(lines(here / "out/bad.jsonl.left-out.jsonl")) == 27


def test_training_reads_with_the_same_words(workshop: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table with its own names and a broken row: refused in one line, then trained on without it; the run's folder has the row."""
    (here / "qa.csv").write_text("question,answer\nWhere?,There.\nWhen?\nWho?,She.\n")
    words = [f"model={workshop}/base", "data=qa.csv", "out=run", "steps=1", "threads=1"]
    words += ["fields.prompt=question", "fields.completion=answer"]
    assert main(["sft", *words]) == 2
    assert "trimtab: qa.csv:3: 1 cell for 2 columns" in capsys.readouterr().err
    assert main(["sft", *words, "skip_bad=true"]) == 0
    said = capsys.readouterr().out
    assert "sft: qa.csv: 3 rows (trl-prompt-completion 2), 2 kept with 2 demonstrations; 1 left out: too few cells 1" in said
    (row,) = lines(here / "run/qa.csv.left-out.jsonl")
    assert row["where"] == "qa.csv:3" and row["row"] == ["When?"] and "run/qa.csv.left-out.jsonl" in said
    assert json.loads((here / "run/run.json").read_text())["config"]["fields"] == {"prompt": "question", "completion": "answer"}


def test_rankings_are_trained_on_with_the_word_their_file_lacks(workshop: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "r.jsonl").write_text(json.dumps({"prompt": "q", "completions": ["worst", "best"], "ranks": [0, 1]}) + "\n")
    words = [f"model={workshop}/base", "data=r.jsonl", "out=run", "steps=1", "threads=1"]
    assert main(["dpo", *words]) == 2
    assert "ranks[0] is 0; write a whole number from 1 (best)" in capsys.readouterr().err
    assert main(["dpo", *words, "ranks.best=high"]) == 0


def test_an_entry_of_a_mapping_is_a_word_of_its_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "qa.csv", "fields={prompt: question}", "fields.completion=answer"]) == 0
    assert "2 demonstrations" in capsys.readouterr().out
    assert main(["data", "check", "qa.csv", "feilds.prompt=question"]) == 2
    assert "unknown key 'feilds.prompt', did you mean 'fields.prompt'?" in capsys.readouterr().err
    assert main(["data", "check", "qa.csv", "rank.best=high"]) == 2
    assert "unknown key 'rank.best', did you mean 'ranks.best'?" in capsys.readouterr().err


def test_converting_says_where_rows_that_a_type_cannot_say_would_be_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "p.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n{"prompt": "q"}\n')
    assert main(["data", "convert", "p.jsonl", "to=trl-preference", "-o", "out/t.jsonl"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "p.jsonl:2: left out, no answers to compare (1 row)"
    assert said[2:] == ["(--skip-bad writes what was left out to out/p.jsonl.left-out.jsonl)", "written: out/t.jsonl"]


@pytest.mark.parametrize("out", ["bad.jsonl", "../{name}/bad.jsonl", "link.jsonl"])
def test_a_file_is_not_converted_onto_itself(here: Path, out: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = (here / "bad.jsonl").read_bytes()
    (here / "link.jsonl").symlink_to("bad.jsonl")
    assert main(["data", "convert", "bad.jsonl", "--skip-bad", "--overwrite", "-o", out.format(name=here.name)]) == 2
    assert "bad.jsonl: is the file that is read" in capsys.readouterr().err.replace("link.jsonl", "bad.jsonl")
    assert (here / "bad.jsonl").read_bytes() == before and not list(here.glob("*left-out*"))


@pytest.mark.parametrize("verb", ["check", "show"])
def test_looking_leaves_nothing_out_and_finds_nothing_in_an_empty_file(here: Path, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("skip_bad=true", "left_out=lo"):
        assert main(["data", verb, "bad.jsonl", word]) == 2
        assert f"trimtab: {word}: data check and data show only look" in capsys.readouterr().err
    assert main(["data", verb, "bad.jsonl", "--skip-bad"]) == 2
    assert "data convert leaves them out" in capsys.readouterr().err
    (here / "empty.jsonl").write_text("\n")
    (here / "head.csv").write_text("prompt,completion\n")
    for name in ("empty.jsonl", "head.csv"):
        assert main(["data", verb, name]) == 2
        assert capsys.readouterr().err == f"trimtab: {name}: holds no rows\n"


def test_an_option_that_is_a_word_is_told_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sft", "--batch-size", "4"]) == 2
    said = capsys.readouterr().err
    assert "No such option: --batch-size (options are words here: batch_size=VALUE" in said
    assert main(["--nonsense"]) == 2
    assert "trimtab --help lists the verbs" in capsys.readouterr().err


def test_help_breaks_no_value_at_its_hyphen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "convert", "--help"]) == 0
    assert not [line for line in capsys.readouterr().out.splitlines() if line.endswith("-")]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sft", "model=m", "data=no.jsonl"], "no.jsonl: no such file"), (["dpo", "eval_data=no.jsonl"], "no.jsonl: no such file"),
        (["doctor", "m", "no.jsonl"], "no.jsonl: no such file"), (["doctor", "./no"], "./no: no such model folder"),
        (["sft", "data=qa.csv", "model=/no"], "/no: no such model folder"),
        (["data", "show", "qa.csv", "model=./no"], "./no: no such model folder"),
    ],
)  # fmt: skip
def test_what_is_missing_is_told_before_anything_heavy_is_imported(here: Path, words: list[str], says: str) -> None:
    script = f"import sys; from trimtab.cli import main; status = main({words}); print(status, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "2 False\n" and done.stderr == f"trimtab: {says}\n"
