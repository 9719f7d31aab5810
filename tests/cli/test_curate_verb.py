"""``trimtab curate`` as one types it."""

import json
from pathlib import Path

import pytest

pytest.importorskip("presidio_analyzer", reason="the extra 'curate' is not installed")
pytest.importorskip("datasketch", reason="the extra 'curate' is not installed")
pytest.importorskip("py3langid", reason="the extra 'curate' is not installed")

from trimtab.cli import main
from trimtab.verbs.curate import sorted_words


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "a=b.jsonl"  # a name that looks like an option
    rows = [{"id": f"p{i}", "prompt": f"Write poem number {i} for a@example.org", "user": f"u{i % 4}"} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_files_options_and_a_config_in_any_order(prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("users: {most: 2}\nworkers: 1\n", encoding="utf-8")
    out = tmp_path / "out"
    assert main(["curate", "seed=3", str(prompts), str(config), "-o", str(out), "personal.action=replace"]) == 0
    said = capsys.readouterr().out
    assert "8 of 12 rows kept (train " in said and f"card: {out / 'card.md'}" in said
    card, run = (json.loads((out / name).read_text()) for name in ("card.json", "run.json"))
    assert card["settings"]["users"]["most"] == 2 and card["settings"]["seed"] == 3
    assert run["verb"] == "curate" and run["status"] == "done" and run["inputs"].keys() == {str(prompts)}
    assert main(["curate", str(prompts), str(config), "-o", str(out), "seed=3", "workers=2", "personal.action=replace"]) == 0
    assert "already done" in capsys.readouterr().out
    assert main(["curate", str(prompts), "-o", str(out)]) == 2
    assert "holds another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "curate needs files of prompts: trimtab curate FILE... -o DIR"),
        (["nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["nowhere.jsonl", "user.most=3"], "unknown key 'user.most', did you mean 'users.most'?"),
        (["nowhere.jsonl", "duplicates.bands=31"], "bands=31 does not divide permutations=128"),
        (["a.yaml", "b.yaml"], "b.yaml: a second config; give one YAML file"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curate", *words, "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out" / "run.json").exists()


def test_words_are_files_unless_they_are_options(prompts: Path) -> None:
    assert sorted_words([str(prompts), "x=1", "b.jsonl", "c.yml"]) == ([str(prompts), "b.jsonl"], ["c.yml", "x=1"])
