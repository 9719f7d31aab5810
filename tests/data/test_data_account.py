"""Every row is accounted for: kept, skipped for a reason, or bad; what is left out is written down with its reason."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from trimtab.common.errors import UserError, bad_field
from trimtab.data.convert import ConvertSettings, check_file, convert_file
from trimtab.data.formats import Account, ReadSettings, read, read_any, read_demonstrations, stream
from trimtab.data.formats.account import HOPELESS, LeftOut

SKIP = ReadSettings(skip_bad=True)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


GOOD = {"prompt": "q", "completion": "a"}
MIXED = (GOOD, "not JSON\n", {"prompt": 3}, {"messages": []}, {"prompt": "q", "completion": "a", "label": False}, {"foo": 1}, GOOD)


def test_check_collects_the_first_errors_and_counts_all(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "x"}, *({"foo": i} for i in range(30)))
    account = check_file(path)
    assert (account.rows, account.kept, account.bad) == (31, 1, 30)
    (line,) = account.problems()
    assert line.startswith(f"{path}:2: no known format (fields: foo); write")
    assert line.endswith(" (and in 29 more rows: 3, 4, 5, 6, 7, ...)")
    assert str(account) == "31 rows (trl-prompt 1), 1 kept with 1 prompt; 30 left out: no known format 30"
    assert check_file(write(tmp_path / "b.jsonl", {"prompt": "x"})).bad == 0
    different = check_file(write(tmp_path / "c.jsonl", *({f"foo{i // 2}": i} for i in range(60)))).problems()
    assert len(different) == 21 and different[20] == "... and 20 more"
    assert different[1].startswith(f"{tmp_path}/c.jsonl:3: ") and different[1].endswith(" (and in 1 more row: 4)")


def test_rows_of_an_array_with_one_error_are_named_as_they_stand(tmp_path: Path) -> None:
    (line,) = check_file(write(tmp_path / "a.json", '[{"foo": 1},\n{"foo": 2}, {"foo": 3}]')).problems()
    assert line.startswith(f"{tmp_path}/a.json:1[0]: no known format") and line.endswith("(and in 2 more rows: 2[1], 2[2])")


def test_one_error_in_every_row_is_told_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *({"prompt": str(i)} for i in range(30)))
    with pytest.raises(UserError) as error:
        read_demonstrations(path)
    said = f"{path}: 30 of 30 rows cannot be read, the first: {path}:1: found a prompt"
    assert error.value.details == () and str(error.value).startswith(said)
    assert str(error.value).endswith("(and in 29 more rows: 2, 3, 4, 5, 6, ...)")
    write(path, {"prompt": "q", "chosen": "a", "rejected": "b"})
    with pytest.raises(UserError, match="found a comparison .* to=trl-prompt-completion makes them of the best answers"):
        read_demonstrations(path)


def test_check_of_a_file_that_breaks_off(tmp_path: Path) -> None:
    account = check_file(write(tmp_path / "a.json", '[{"prompt": "x"}, {"foo": 1}, {"pro'))
    assert (account.rows, account.kept, account.bad) == (3, 1, 2)
    assert account.problems()[1].startswith(f"{tmp_path}/a.json:1: not JSON (")
    with pytest.raises(UserError, match="no such file"):
        check_file(tmp_path / "no.json")
    with pytest.raises(UserError, match="format=x is unknown"):
        check_file(tmp_path / "a.json", ReadSettings(format="x"))


def test_errors_name_file_line_field_and_value(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *MIXED)
    with pytest.raises(UserError) as error:
        read_any(path)
    assert error.value.details == (
        f"{path}:2: not JSON (Expecting value at column 1)",
        f"{path}:3: field 'prompt' is 3; write text, or messages [{{'role', 'content'}}]",
        f"{path}:4: field 'messages' is empty; write text, or messages [{{'role', 'content'}}]",
        f"{path}:6: no known format (fields: foo); write 'messages' or 'prompt', with 'completion' or with 'completions' and 'ranks'",
    )
    assert str(error.value).startswith(f"{path}: 4 of 7 rows cannot be read, the first: {path}:2: not JSON")
    assert str(error.value).endswith("skip_bad=true leaves such rows out")


def test_a_single_error_is_told_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, {"prompt": 3})
    with pytest.raises(UserError) as error:
        read_any(path)
    assert str(error.value).startswith(f"{path}:2: field 'prompt' is 3") and error.value.details == ()


def test_skipping_accounts_for_every_row_and_writes_what_it_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *MIXED)
    got = read(path, "demonstration", SKIP)
    assert [d.prompt.id for d in got.records] == ["a.jsonl:1", "a.jsonl:7"]
    assert (got.account.rows, got.account.kept, got.account.bad) == (7, 2, 4)
    reasons = {"not JSON": 1, "wrong field 'prompt'": 1, "wrong field 'messages'": 1, "labelled as bad": 1, "no known format": 1}
    assert got.account.skipped == reasons
    rows = lines(tmp_path / "a.jsonl.left-out.jsonl")
    assert [(row["where"], row["reason"]) for row in rows] == [
        (f"{path}:2", "not JSON"), (f"{path}:3", "wrong field 'prompt'"), (f"{path}:4", "wrong field 'messages'"),
        (f"{path}:5", "labelled as bad"), (f"{path}:6", "no known format"),
    ]  # fmt: skip
    assert [row["row"] for row in rows] == ["not JSON", {"prompt": 3}, {"messages": []}, MIXED[4], {"foo": 1}]
    assert rows[1]["error"] == f"{path}:3: field 'prompt' is 3; write text, or messages [{{'role', 'content'}}]"


def test_a_file_that_was_mended_leaves_no_list_behind(tmp_path: Path) -> None:
    path, left_out = write(tmp_path / "a.jsonl", *MIXED), tmp_path / "elsewhere/a.jsonl.left-out.jsonl"
    settings = ReadSettings(skip_bad=True, left_out=str(tmp_path / "elsewhere"))
    read_any(path, settings)
    assert left_out.exists() and not (tmp_path / "a.jsonl.left-out.jsonl").exists()
    write(path, GOOD)
    read_any(path, settings)
    assert not left_out.exists()


def test_the_end_of_a_file_that_breaks_off_is_a_row_that_was_left_out(tmp_path: Path) -> None:
    rows = [json.dumps({**GOOD, "n": str(random.Random(i).random())}) for i in range(5000)]
    for name, content in (("a.jsonl.gz", "\n".join(rows)), ("a.json.gz", f"[{','.join(rows)}]")):
        path = tmp_path / name
        path.write_bytes(gzip.compress(content.encode())[:-20_000])
        with pytest.raises(UserError, match="not a complete gzip file"):
            read_any(path)
        got = read(path, None, SKIP).account
        assert 1000 < got.kept == got.rows - 1 and got.skipped == {"the file cannot be read to its end": 1}


def test_a_file_of_nothing_but_bad_rows_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "no\n" * (HOPELESS + 5))
    for settings in (ReadSettings(), SKIP):
        with pytest.raises(UserError, match="none of the first 10,000 rows can be read, the first: .*a.jsonl:1: not JSON"):
            read_any(path, settings)
    assert not list(tmp_path.glob("*left-out*"))


def test_nothing_left_is_refused_even_when_bad_rows_are_skipped(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 of 2 rows cannot be read"):
        read_demonstrations(write(tmp_path / "a.jsonl", {"foo": 1}, {"foo": 2}), SKIP)


def test_converting_writes_all_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path, out = write(tmp_path / "in/a.jsonl", *MIXED), tmp_path / "out/b.jsonl"
    with pytest.raises(UserError, match="4 of 7 rows"):
        convert_file(path, out)
    assert list(out.parent.iterdir()) == []
    account = convert_file(path, out, ConvertSettings(skip_bad=True))
    assert account.kept == len(lines(out)) == 3
    assert sorted(p.name for p in out.parent.iterdir()) == ["a.jsonl.left-out.jsonl", "b.jsonl"]


def test_what_was_noticed_is_counted_by_rows(tmp_path: Path) -> None:
    account = check_file(write(
        tmp_path / "a.jsonl", {"prompt": "q", "completion": "a<|endoftext|>"}, {"prompt": "q <|endoftext|> r"},
        {"prompt": "q", "response": "a"}, {"prompt": "q", "completion": "a", "system": "Be brief."}, {"prompt": "q", "user": "ann, bob"},
    ))  # fmt: skip
    assert [line.partition(": ")[2] for line in account.remarks()] == [
        "an end token written behind an answer, taken away (1 row)", "'<|endoftext|>' inside a text, left as it is (1 row)",
        "read as a prompt alone; try fields.completion=response (1 row)",
        "'system' read as the system message (1 row)", "a comma in 'user', read as one name; fields.users=NAME reads several (1 row)",
    ]  # fmt: skip


def test_what_was_noticed_and_left_out_is_told_with_its_first_row(tmp_path: Path) -> None:
    misspelt = ({"prompt": f"{i}", "chosn": "a"} for i in range(2))
    path = write(tmp_path / "a.jsonl", {"prompt": "q", "chosen": "a", "rejected": "b"}, *misspelt)
    assert check_file(path).remarks() == [f"{path}:2: read as a prompt alone; did you mean 'chosen' by 'chosn'? (2 rows from here on)"]
    account = convert_file(path, tmp_path / "b.jsonl", ConvertSettings(to="trl-preference"))
    assert account.remarks() == [f"{path}:2: left out, no answers to compare (2 rows from here on)"]


def test_what_stands_behind_a_bad_row_is_counted_and_not_given(tmp_path: Path) -> None:
    path, account, given = write(tmp_path / "a.jsonl", GOOD, {"prompt": 3}, GOOD), Account("a.jsonl"), []
    with pytest.raises(UserError, match="a.jsonl:2: field 'prompt' is 3"):
        for where in stream(path, ReadSettings(), account, lambda record, found: [found.where]):
            given.append(where)
    assert given == [f"{path}:1"] and (account.rows, account.kept) == (3, 2)


def test_what_cannot_be_written_down_is_one_line_too(tmp_path: Path) -> None:
    """The list of rows left out has no place, or a row is nested too deeply to be written again."""
    path = write(tmp_path / "a.jsonl", GOOD, {"prompt": 3})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        read_any(path, ReadSettings(skip_bad=True, left_out=str(tmp_path / "file/folder")))
    with LeftOut(tmp_path / "left.jsonl") as left_out:
        deep: Any = []
        for _ in range(100_000):
            deep = [deep]
        left_out.add("a:1", "deep", "a:1: deep", deep)
    assert lines(tmp_path / "left.jsonl") == [{"where": "a:1", "reason": "deep", "error": "a:1: deep", "row": None}]
    assert "too long to be shown" in str(bad_field("a:1", "x", deep, "")) and "too long" in str(bad_field("a:1", "x", 10**5000, ""))
