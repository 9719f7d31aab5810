"""``trimtab data show --model``: the template that is used, the length that counts, the HTML file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from chat_families import tokenizer_of
from transformers import LlamaConfig

from trimtab.cli import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder without weights, which showing does not need, and a file of two records."""
    tokenizer_of("ChatML").save_pretrained(tmp_path / "model")
    LlamaConfig(max_position_embeddings=40).save_pretrained(tmp_path / "model")
    rows = [{"prompt": "Where?", "completion": " ".join(["mill"] * n)} for n in (1, 99)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_show_counts_what_fits_the_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "show", str(folder / "a.jsonl"), "--model", str(folder / "model")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "at most 40 tokens" in said and "1 of 2; the others are left out" in said and "\x1b" not in said
    assert main([*words, "--max-length", "5"]) == 0
    assert "0 of 2" in capsys.readouterr().out
    assert main([*words, "--max-length", "5000"]) == 0
    assert "at most 40 tokens" in capsys.readouterr().out


def test_show_says_which_template_a_model_without_one_gets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model" / "chat_template.jinja").unlink()
    words = ["data", "show", str(folder / "a.jsonl"), "--model", str(folder / "model")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.count("no chat template; ChatML is used and saved with what is trained (its tokens were there") == 1
    assert "mill<|im_end|>" in said
    (folder / "own.jinja").write_text("{% for m in messages %}{{ m.content + eos_token }}{% endfor %}")
    assert main([*words, "--chat-template", str(folder / "own.jinja")]) == 0
    said = capsys.readouterr().out
    assert "Where?</s>" in said and "mill</s>" in said and "ChatML" not in said


def test_show_writes_html(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "show", str(folder / "a.jsonl"), "--model", str(folder / "model"), "-o", str(folder / "show.html")]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{folder}/show.html\n"
    html = (folder / "show.html").read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>") and "mill" in html and "what is trained is green" in html


def test_show_replaces_nothing_unless_it_is_told_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "show.html").write_text("mine")
    words = ["data", "show", str(folder / "a.jsonl"), "-o", str(folder / "show.html")]
    assert main(words) == 2
    assert "show.html: is there already" in capsys.readouterr().err and (folder / "show.html").read_text() == "mine"
    assert main([*words, "--overwrite"]) == 0
    assert "mill" in (folder / "show.html").read_text(encoding="utf-8")


def test_show_takes_its_options_as_words_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", str(folder / "a.jsonl"), f"model={folder}/model", "max_length=5", "limit=0"]) == 0
    said = capsys.readouterr().out
    assert "0 of 2" in said and "sample" not in said
    assert main(["data", "show", str(folder / "a.jsonl"), "--limit", "-1"]) == 2
    assert "limit is -1, expected whole number >= 0" in capsys.readouterr().err


def test_show_says_what_is_missing(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, more in (("./nowhere", ""), ("nowhere", "; nor is it in the hub's cache, and the hub cannot be reached")):
        assert main(["data", "show", str(folder / "a.jsonl"), "--model", name]) == 2
        assert f"trimtab: {name}: no such model folder{more}\n" == capsys.readouterr().err
    (folder / "bad.jsonl").write_text('{"foo": 1}\n' * 3)
    assert main(["data", "show", str(folder / "bad.jsonl")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"trimtab: {folder}/bad.jsonl: no record in 3 rows, the first error: {folder}/bad.jsonl:1: no known format")
    (folder / "bad.jsonl").unlink()
    assert main(["data", "show", str(folder)]) == 2
    assert f"trimtab: {folder}: is a folder and not of text" in capsys.readouterr().err


def test_lines_of_text_are_shown_as_prompts_where_a_word_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "p.txt").write_text("Where?\n\nWhen?\n")
    assert main(["data", "show", str(folder / "p.txt"), "fields.prompt=text"]) == 0
    assert "prompt 2" in capsys.readouterr().out
    assert main(["data", "show", str(folder / "p.txt")]) == 0
    assert "1 with 2 words" in capsys.readouterr().out


def test_show_without_a_model_imports_no_model_library(folder: Path) -> None:
    script = f"import sys; from trimtab.cli import main; main(['data', 'show', '{folder}/a.jsonl']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_show_without_a_model_has_no_tokens_to_count(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--max-length", "5"], ["--chat-template", "x"]):
        assert main(["data", "show", str(folder / "a.jsonl"), *option]) == 2
        assert "need --model" in capsys.readouterr().err
