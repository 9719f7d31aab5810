"""Records as TRL's rows and back, by hand and through ``datasets``; what a type cannot say is refused or left out with a reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.common.errors import UserError
from trimtab.data.convert import ConvertSettings, convert_file
from trimtab.data.formats import read_any
from trimtab.data.formats.as_trl import TRL_TYPES

SKY, SUN = "What color is the sky?", "Where is the sun?"


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def user(text: str) -> list[dict[str, str]]:
    return said(("user", text))


def assistant(text: str) -> list[dict[str, str]]:
    return said(("assistant", text))


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


TURNS = said(("system", "Be brief."), ("user", SKY), ("assistant", "Blue."), ("user", "Why?"))
ROWS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("trl-prompt", "standard"): [{"prompt": SKY}, {"prompt": SUN}],
    ("trl-prompt", "conversational"): [{"prompt": user(SKY)}, {"prompt": TURNS}],
    ("trl-prompt-completion", "standard"): [{"prompt": "The sky is", "completion": " blue."}, {"prompt": SUN, "completion": ""}],
    ("trl-prompt-completion", "conversational"): [
        {"prompt": user(SKY), "completion": assistant("Blue.")}, {"prompt": TURNS, "completion": assistant("Air scatters blue.")},
    ],
    ("trl-language-modeling", "conversational"): [{"messages": user(SKY) + assistant("Blue.")}, {"messages": TURNS + assistant("Air.")}],
    ("trl-preference", "standard"): [{"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}],
    ("trl-preference", "conversational"): [
        {"prompt": user(SKY), "chosen": assistant("Blue."), "rejected": assistant("Green.")},
        {"prompt": TURNS, "chosen": assistant("Air."), "rejected": assistant("")},
    ],
    ("trl-unpaired", "standard"): [
        {"prompt": SKY, "completion": "Blue.", "label": True}, {"prompt": SKY, "completion": "Green.", "label": False},
    ],
    ("trl-unpaired", "conversational"): [{"prompt": TURNS, "completion": assistant("Green."), "label": False}],
    ("trl-stepwise", "standard"): [
        {"prompt": "2 + 2 * 2?", "completions": ["2 * 2 = 4.", "2 + 4 = 7."], "labels": [True, False]},
        {"prompt": SKY, "completions": ["Blue."], "labels": [True]},
    ],
}  # fmt: skip


@pytest.mark.parametrize(("to", "style"), ROWS)
def test_trls_rows_come_back(tmp_path: Path, to: str, style: Any) -> None:
    """TRL -> native -> TRL, and the native records in between survive a second passage."""
    rows = ROWS[to, style]
    native, back = tmp_path / "native.jsonl", tmp_path / "back.jsonl"
    assert convert_file(write(tmp_path / "a.jsonl", *rows), native).kept == len(rows)
    convert_file(native, back, ConvertSettings(to=to, style=style))  # type: ignore[arg-type]
    assert lines(back) == rows
    records = read_any(native)
    convert_file(back, native, ConvertSettings(overwrite=True))
    assert [r.to_json() | {"id": ""} for r in read_any(native)] == [r.to_json() | {"id": ""} for r in records]


def test_every_type_is_tried_here() -> None:
    assert {to for to, _ in ROWS} == set(TRL_TYPES)


@pytest.mark.parametrize(("to", "style"), ROWS)
def test_datasets_reads_what_is_written_and_is_read(tmp_path: Path, to: str, style: Any) -> None:
    """``datasets`` finds the columns and values; what it saves as Parquet is read as the same rows."""
    import datasets

    path = write(tmp_path / "a.jsonl", *ROWS[to, style])
    convert_file(path, tmp_path / "native.jsonl")
    convert_file(tmp_path / "native.jsonl", tmp_path / "b.jsonl", ConvertSettings(to=to, style=style))  # type: ignore[arg-type]
    loaded = datasets.load_dataset("json", data_files=str(tmp_path / "b.jsonl"), split="train", cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ROWS[to, style]
    loaded.to_parquet(str(tmp_path / "c.parquet"))
    convert_file(tmp_path / "c.parquet", tmp_path / "d.jsonl", ConvertSettings(to=to, style=style))  # type: ignore[arg-type]
    assert lines(tmp_path / "d.jsonl") == ROWS[to, style]


RANKING = {
    "id": "r", "messages": user(SKY), "completions": [{"text": t} for t in ("Blue.", "Green.", "Azure.", "Red.")], "ranks": [1, 2, 1, None],
    "dataset": "d",
}  # fmt: skip


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("trl-preference", [("Blue.", "Green."), ("Azure.", "Green.")]),
        ("trl-unpaired", [("Blue.", True), ("Green.", False), ("Azure.", True)]),
        ("trl-prompt-completion", ["Blue.", "Azure."]),
        ("trl-prompt", [SKY]),
    ],
)
def test_a_ranking_in_each_type(tmp_path: Path, to: Any, expected: list[Any]) -> None:
    """Ties and unranked answers are in no pair; all that are ranked best are answers to learn from."""
    out = tmp_path / "b.jsonl"
    convert_file(write(tmp_path / "a.jsonl", RANKING), out, ConvertSettings(to=to, style="standard"))
    columns = {"trl-preference": ("chosen", "rejected"), "trl-unpaired": ("completion", "label"), "trl-prompt-completion": ("completion",)}
    found = [tuple(row[c] for c in columns.get(to, ("prompt",))) for row in lines(out)]
    assert found == [e if isinstance(e, tuple) else (e,) for e in expected]


def test_fields_that_are_kept_stand_beside_trls_own(tmp_path: Path) -> None:
    out = tmp_path / "b.jsonl"
    convert_file(
        write(tmp_path / "a.jsonl", RANKING, {"prompt": SKY}), out, ConvertSettings(to="trl-prompt", keep=["id", "dataset", "prompt"])
    )
    assert lines(out) == [{"id": "r", "dataset": "d", "prompt": user(SKY)}, {"id": "a.jsonl:2", "dataset": None, "prompt": user(SKY)}]


@pytest.mark.parametrize(
    ("row", "to", "style", "says"),
    [
        ({"prompt": TURNS}, "trl-prompt", "standard", "a.jsonl:1: standard rows have one message in a prompt, this has 4; write style="),
        ({"prompt": SKY}, "trl-preference", "standard", "1 left out: no answers to compare 1"),
        ({"prompt": SKY}, "trl-unpaired", "standard", "1 left out: a prompt without an answer 1"),
        ({**RANKING, "ranks": [1, 1, 1, None]}, "trl-preference", "standard", "1 left out: no two answers of different rank 1"),
        ({"prompt": SKY, "completion": "x", "label": False}, "trl-prompt-completion", "standard", "1 left out: labelled as bad 1"),
        ({"prompt": SKY, "completion": "x"}, "trl-stepwise", "standard", "1 left out: no steps and labels 1"),
        ({"prompt": SKY}, "demonstrations", "standard", "found a prompt (trl-prompt format), needed a demonstration"),
    ],
)
def test_what_a_type_cannot_say(tmp_path: Path, row: dict[str, Any], to: Any, style: Any, says: str) -> None:
    with pytest.raises(UserError) as error:
        convert_file(write(tmp_path / "a.jsonl", row), tmp_path / "b.jsonl", ConvertSettings(to=to, style=style))
    assert says in str(error.value) and not (tmp_path / "b.jsonl").exists()


def test_records_of_one_kind(tmp_path: Path) -> None:
    out = tmp_path / "b.jsonl"
    account = convert_file(write(tmp_path / "a.jsonl", RANKING, {**RANKING, "labeler": "x"}), out, ConvertSettings(to="prompts"))
    assert [p.to_json() for p in read_any(out)] == [{"id": "r", "messages": user(SKY), "dataset": "d"}]
    assert account.skipped == {"repeated prompt": 1}


def test_only_lines_of_json_are_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ends in .jsonl"):
        convert_file(write(tmp_path / "a.jsonl", RANKING), tmp_path / "b.parquet")
