"""``trimtab doctor``: the page as people see it, its files, its exit status, and names that are wrong."""

import json
import re
from pathlib import Path

import pytest

from trimtab.cli import main
from trimtab.doctor.examine import GROUPS


@pytest.fixture
def broken(workshop: Path, tmp_path: Path) -> Path:
    """A model whose padding is its end token, and which generate would cut to 50 tokens."""
    from transformers import AutoTokenizer

    folder = tmp_path / "broken"
    folder.mkdir()
    for path in (workshop / "base/model").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**generation, "top_k": 50}))
    return folder


def test_a_healthy_model_and_file_end_with_0(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"{workshop}/base", f"{workshop}/world/demonstrations.jsonl", "skip=logprobs,sampling"]) == 0
    out = capsys.readouterr().out
    assert "FAIL" not in out and "warning" not in out and out.rstrip().endswith("exit status 0")
    for group in GROUPS:
        assert (group.title in out) == (group.title not in ("Logprobs", "Sampling"))


def test_a_failed_check_is_told_with_what_it_means_and_what_to_do(
    broken: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in (80, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        assert main(["doctor", str(broken), "only=special tokens,sampling defaults"]) == 1
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= min(width, 120)
        assert not re.search(r"[ \t]$", out, re.MULTILINE) and "\x1b" not in out
        words = " ".join(out.split())
        assert "FAIL pad token" in words and "means Trainers leave padding out of the loss" in words and "do Give padding a token" in words
        assert "warning sampling defaults" in words and "top_k=50" in words
        assert words.endswith("1 FAIL (pad token), 1 warning (sampling defaults), 4 ok, 0 not applicable; exit status 1")


def test_warnings_end_with_1_where_they_are_asked_to(broken: Path) -> None:
    assert main(["doctor", str(broken), "only=sampling defaults"]) == 0
    assert main(["doctor", str(broken), "only=sampling defaults", "strict=true"]) == 1


def test_the_page_is_written_for_programs_and_for_people(broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(tmp_path / "page.json"), str(tmp_path / "page.html")]
    assert main(["doctor", str(broken), "only=special tokens", "-o", files[0], "-o", files[1]]) == 1
    page = json.loads(Path(files[0]).read_text())
    assert page["counts"] == {"ok": 4, "warning": 0, "fail": 1, "n/a": 0} and page["exit_status"] == 1
    pad = next(c for c in page["checks"] if c["name"] == "pad token")
    assert pad["status"] == "fail" and pad["numbers"]["pad"] == pad["numbers"]["end"] and pad["means"] and pad["do"]
    html = Path(files[1]).read_text()
    assert "<script" not in html and "http" not in html
    text = re.sub(r"<[^>]+>", "", html)
    assert "pad token" in text and text.count("means") >= 5  # every check is explained there


def test_a_page_is_replaced_only_with_overwrite(broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.json").write_text("mine")
    words = ["doctor", str(broken), "only=end token", "-o", str(tmp_path / "page.json")]
    assert main(words) == 2
    assert "replace it with --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert json.loads((tmp_path / "page.json").read_text())["exit_status"] == 0


def test_colours_and_explanations_for_those_who_want_them(
    broken: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    main(["doctor", str(broken), "only=pad token"])
    assert "\x1b[" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    main(["doctor", str(broken), "only=end token", "explain=true"])
    out = capsys.readouterr().out
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", out) and "means" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["only=pad tokken"], "did you mean 'pad token'?"),
        (["skip=nonsense"], "no check or group 'nonsense'"),
        (["-o", "page.txt"], "page.txt: the page is written as .json or .html"),
        (["rwos=3"], "did you mean 'rows'?"),
        (["nowhere.jsonl"], "nowhere.jsonl: no such file"),
    ],
)
def test_wrong_words_are_told_in_one_line(workshop: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"{workshop}/base", *words]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("trimtab: ")]
    assert len(errors) == 1 and said in errors[0]


def test_a_missing_model_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"{tmp_path}/nothing"]) == 2
    assert "no such model folder" in capsys.readouterr().err


def test_a_check_that_breaks_fails_alone(workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from trimtab.doctor import tokens
    from trimtab.doctor.check import Check, Result
    from trimtab.doctor.subject import Subject

    def breaks(s: Subject) -> Result:
        raise KeyError("oops")

    check = Check(tokens.GROUP.title, "breaking", "nothing", "nothing", breaks)
    monkeypatch.setattr(tokens.GROUP, "checks", [check, *tokens.GROUP.checks])
    assert main(["doctor", f"{workshop}/base", "only=special tokens"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "the check itself could not be run: KeyError: 'oops'" in out and "ok end token" in out


def test_the_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    from trimtab.common.config import describe
    from trimtab.doctor.settings import Config

    assert main(["doctor", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"{option.name}=" in out for option in describe(Config))


def test_the_same_from_python(broken: Path) -> None:
    import trimtab as tt

    found = tt.diagnose(broken, only="special tokens")
    assert found.exit_status == 1 and found.named("pad token").result.status == "fail" and found.named("end token").result.status == "ok"
    with pytest.raises(tt.UserError, match="did you mean 'rows'"):
        tt.diagnose(broken, rwos=3)
