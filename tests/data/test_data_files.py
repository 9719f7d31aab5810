"""Rows, text and records to and from files."""

import gzip
import json
import zipfile
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from trimtab.common.errors import UserError
from trimtab.data.files import (
    jsons,
    merge_blocks,
    opening,
    read_rows,
    read_text,
    scan_rows,
    tables,
    text,
    write_records,
    xmls,
)
from trimtab.data.formats import ReadSettings, read_any, read_prompts
from trimtab.records import Message, Prompt

ROWS = [{"prompt": "Where?", "n": 1}, {"prompt": 'A "b", c\nd', "n": 2}, {"prompt": "é ü 猫", "n": 3}]


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_array_rows_and_their_index(tmp_path: Path, bom: bytes, suffix: str, indent: int | None) -> None:
    path = put(tmp_path / f"a.json{suffix}", bom + json.dumps(ROWS, indent=indent).encode())
    lines = (2, 6, 10) if indent else (1, 1, 1)
    assert list(read_rows(path)) == [(f"{path}:{n}[{i}]", row) for i, (n, row) in enumerate(zip(lines, ROWS, strict=True))]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_one_object_a_line_with_line_numbers(tmp_path: Path, bom: bytes, suffix: str, name: str) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    path = put(tmp_path / f"{name}{suffix}", bom + f"{lines[0]}\n\n{lines[1]}\r\n{lines[2]}".encode())
    assert list(read_rows(path)) == [(f"{path}:{n}", row) for n, row in zip((1, 3, 4), ROWS, strict=True)]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_csv_line_is_where_a_row_begins(tmp_path: Path, bom: bytes) -> None:
    long = "x" * 200_000
    path = put(tmp_path / "a.csv", bom + f'prompt,user\n"two\nlines, and ""quotes""",u1\n{long},"u2,u3"\n'.encode())
    assert list(read_rows(path)) == [
        (f"{path}:2", {"prompt": 'two\nlines, and "quotes"', "user": "u1"}),
        (f"{path}:4", {"prompt": long, "user": "u2,u3"}),
    ]


def test_json_array_longer_than_the_window(tmp_path: Path) -> None:
    rows = [{"prompt": "p" * (300_000 + i), "n": i} for i in range(8)] + [{"prompt": "q" * 3_000_000}]
    path = put(tmp_path / "a.json", json.dumps(rows).encode())
    assert [row for _, row in read_rows(path)] == rows


def test_a_separator_inside_a_line_does_not_split_it(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", '{"prompt": "a\u2028b\x85c"}\n'.encode())
    assert [row for _, row in read_rows(path)] == [{"prompt": "a\u2028b\x85c"}]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "a.jsonl:2: not JSON"),
        ("a.jsonl", b'{"a": 1}\n[1, 2]\n', "a.jsonl:2: found a list, needed a JSON object"),
        ("a.jsonl", b'{"a": "\xff"}\n', "a.jsonl:1: not UTF-8"),
        ("a.jsonl", b'{"a": "\\ud800"}\n', "a.jsonl:1: a lone surrogate"),
        ("a.jsonl", b'{"a": ' + b"1" * 5000 + b"}", "a.jsonl:1: not JSON"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1: not JSON (nested too deeply)"),
        ("a.jsonl", b'{"a": ' + b"1" * 5000 + b"}", "a.jsonl:1: not JSON (a number of thousands of digits)"),
        ("a.json", b'[{"a": 1},\n {"a": }]', "a.json:2: not JSON"),
        ("a.json", b'[{"a": 1}\n {"a": 1}]', "a.json:2: not JSON (',' or ']' is missing after element 0)"),
        ("a.json", b'[{"a": 1}', "a.json:1: not JSON"),
        ("a.json", b'[{"a": 1},\n{"a\n', "a.json:2: not JSON (Invalid control character at column 4)"),
        ("a.json", b'[{"a": 1}] x', "something follows"),
        ("a.json", b"[\n3]", "a.json:2[0]: found a number"),
        ("a.json", b'"text"', "found a string"),
        ("a.json", b"\xff\xfe", "UTF-16 text, not UTF-8; convert it first (iconv -f utf-16"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), "UTF-16 text"),
        ("a.jsonl", b'{"a": 1, "b": {"a": 2, "a": 3}}', "a.jsonl:1: field 'a' is given twice"),
        ("a.jsonl", b'{"a": -Infinity}', "a.jsonl:1: -Infinity is not a number of JSON; write null"),
        ("a.json", b'[{"a": 1},\n{"a": "\xff"}]', "a.json:2: not UTF-8"),
        ("a.json", b"", "not JSON"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"a,a\n1,2\n", "column name is given twice"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "a.csv:3: 3 cells for 2 columns"),
        ("a.csv", b"a,b\n1,2\n1\n", "a.csv:3: 1 cell for 2 columns"),
        ("a.csv", b'a,b\n1,"x\ny,z\n', "a.csv:2: not CSV (a quote that opens here or later is never closed)"),
        ("a.csv", b'a,b\n1,2\n"x"y,2\n', "a.csv:3: not CSV (',' expected after '\"')"),
        ("a.parquet", b"PAR1 no", "a.parquet: not a readable Parquet file"),
        ("a.parquet", b"", "a.parquet: not a readable Parquet file"),
        ("a.arrow", b"ARROW1", "a.arrow: not a readable Arrow file"),
        ("a.parquet.gz", b"", "a.parquet.gz: gunzip it first"),
        ("a.xml", b"<l><r></l>", "a.xml: not XML (mismatched tag"),
        ("a.xml", b"<l><r>text</r></l>", "a.xml[0]: <r> holds no fields"),
        ("a.xml", b'<!DOCTYPE l [<!ENTITY x "y">]><l/>', "a.xml: defines XML entities"),
        ("a.xml", b"<l>" + b"<r>" * 200, "nested too deeply"),
        ("a.csv", b"a\n\xff\n", "not UTF-8"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 1000)[:-20], "not a complete gzip file"),
        ("a.xyz", b"<a/>", "ends in .jsonl, .json, .csv"),
    ],
)  # fmt: skip
def test_broken_files_say_where_and_what(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        list(read_rows(path))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for name in ("no.jsonl", "no.json", "no.csv.gz", "no.txt", "no"):
        with pytest.raises(UserError, match="no such file"):
            list(read_rows(tmp_path / name))
        with pytest.raises(UserError, match="no such file"):
            list(read_text(tmp_path / name))
    with pytest.raises(UserError, match="is a folder"):
        list(read_rows(tmp_path))
    with pytest.raises(UserError, match="no text in this folder"):
        list(read_text(tmp_path))


def test_scan_goes_on_after_a_broken_row(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", b'{"a": 1}\nnonsense\n{"a": 3}\n')
    rows = [row for _, row in scan_rows(path)]
    assert rows[0] == {"a": 1} and isinstance(rows[1], UserError) and rows[2] == {"a": 3}


def test_blocks_are_merged_up_to_the_size() -> None:
    """Blocks of 5 characters and an empty line of 1: the second blank line is the first at which 10 are reached."""
    lines = ["aaaa\n", "\n", "bbbb\n", " \n", "cccc\n", "\n", "\n", "dddd"]
    assert list(merge_blocks(lines, 10)) == ["aaaa\n\nbbbb", "cccc\n\n\ndddd"]
    assert list(merge_blocks(lines, 1)) == ["aaaa", "bbbb", "cccc", "dddd"]
    assert list(merge_blocks(["\n", " \n"], 1)) == []


def test_text_without_blank_lines_is_cut_at_a_line_end() -> None:
    assert list(merge_blocks(["12345\n"] * 5, 3)) == ["12345\n12345", "12345\n12345", "12345"]


def test_text_from_every_container(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    put(tmp_path / "a.jsonl.gz", b'{"text": "first"}\n{"text": "second", "id": 3}\n')
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("z/late.txt", "late")
        archive.writestr("z/early.txt", "early")
        archive.writestr("z/readme.md", "not text")
        archive.writestr("__MACOSX/._early.txt", b"\xff\x00")
    (tmp_path / "notes.md").write_text("not text")
    assert list(read_text(tmp_path)) == ["first", "second", "one\ntwo", "early", "late"]
    assert list(read_text(tmp_path / "b.txt")) == ["one\ntwo"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"caf\xe9", "not UTF-8 text"),
        ("a.zip", b"PK no", "not a readable zip"),
        ("a.jsonl", b'{"prompt": "x"}\n', "a.jsonl:1: no text in field 'text' (found: prompt)"),
        ("a.xyz", b"<a/>", "unknown kind of text"),
    ],
)
def test_text_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        list(read_text(tmp_path / name))
    assert says in str(error.value)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.zip"])
def test_text_on_one_endless_line_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(text, "LINE_CHARACTERS", 100)
    if name == "a.zip":
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("x.txt", "é" * 1050)
    else:
        put(tmp_path / name, ("é" * 1050).encode())
    got = list(read_text(tmp_path / name, 100))
    assert "".join(got) == "é" * 1050 and max(map(len, got)) == 400


def test_records_survive_a_failure_while_writing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    first = Prompt("1", (Message("user", "x"),))
    assert write_records(path, [first]) == 1

    def broken():  # type: ignore[no-untyped-def]
        yield Prompt("2", (Message("user", "y"),))
        raise UserError("stop")

    with pytest.raises(UserError, match="stop"):
        write_records(path, broken())
    assert read_any(path) == [first]
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_equal_records_give_equal_gz_files(tmp_path: Path) -> None:
    record = Prompt("1", (Message("user", "x"),))
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_records(tmp_path / name, [record])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    with pytest.raises(UserError, match="ends in .jsonl"):
        write_records(tmp_path / "a.json", [record])


def test_tables_with_other_separators(tmp_path: Path) -> None:
    tabs = put(tmp_path / "a.tsv", b'prompt\tn\n"with\ta tab"\t1\nplain, with a comma\t2\n')
    assert [row for _, row in read_rows(tabs)] == [{"prompt": "with\ta tab", "n": "1"}, {"prompt": "plain, with a comma", "n": "2"}]
    semicolons = put(tmp_path / "a.csv.gz", b"prompt;n\na, b;1\n")
    assert list(read_rows(semicolons)) == [(f"{semicolons}:2", {"prompt": "a, b", "n": "1"})]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.jsonl.gz"])
def test_bytes_that_are_no_text_cost_their_line_alone(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / name, b'{"a": 1}\n{"a": "\xff"}\n{"a": 3}\n')
    first, broken, last = [row for _, row in scan_rows(path)]
    assert first == {"a": 1} and last == {"a": 3} and isinstance(broken, UserError) and broken.row == '{"a": "\ufffd"}'


def test_bytes_that_are_no_text_cost_their_row_alone(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", b"a,b\n1,2\n\xff,3\n4,5\n")
    rows = list(scan_rows(path))
    assert [where for where, _ in rows] == [f"{path}:2", f"{path}:3", f"{path}:4"]
    assert isinstance(rows[1][1], UserError) and rows[1][1].row == ["\ufffd", "3"] and rows[2][1] == {"a": "4", "b": "5"}


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".stream.arrow"])
def test_columns_in_the_values_that_json_has(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    table = pyarrow.table({
        "prompt": ["x", None], "messages": [[{"role": "user", "content": "y"}], []], "score": [1.5, float("nan")],
        "when": [datetime(2024, 1, 2, 3, 4, 5), None], "price": [Decimal("2.50"), Decimal("3.00")], "big": [2**62, None],
        "raw": [b"z", b""],
    })  # fmt: skip
    if suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=1)
    else:
        with (pyarrow.ipc.new_stream if "stream" in suffix else pyarrow.ipc.new_file)(path, table.schema) as writer:
            writer.write_table(table)
    first = {
        "prompt": "x", "messages": [{"role": "user", "content": "y"}], "score": 1.5, "when": "2024-01-02T03:04:05", "price": 2.5,
        "big": 2**62, "raw": "z",
    }  # fmt: skip
    second = {"prompt": None, "messages": [], "score": None, "when": None, "price": 3, "big": None, "raw": ""}
    assert list(read_rows(path)) == [(f"{path}[0]", first), (f"{path}[1]", second)]


def test_a_value_that_json_has_not_names_its_column(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"ok": ["x", "y"], "raw": [b"\xff", b"z"]}), tmp_path / "a.parquet")
    rows = [row for _, row in scan_rows(tmp_path / "a.parquet")]
    assert "a.parquet[0]: field 'raw' is b'\\xff'" in str(rows[0]) and rows[1] == {"ok": "y", "raw": "z"}


def test_xml_rows_are_nested_text(tmp_path: Path) -> None:
    path = put(tmp_path / "a.xml.gz", b"<l><r><a>1</a><b><c>x</c><c>y</c><c/></b></r><r><a>&lt;2</a></r></l>")
    assert list(read_rows(path)) == [(f"{path}[0]", {"a": "1", "b": {"c": ["x", "y", ""]}}), (f"{path}[1]", {"a": "<2"})]


def test_nan_is_a_missing_value(tmp_path: Path) -> None:
    assert next(read_rows(put(tmp_path / "a.jsonl", b'{"a": NaN}')))[1] == {"a": None}


def test_objects_that_span_lines_and_an_array_by_another_name(tmp_path: Path) -> None:
    spread = put(tmp_path / "a.json", "\n".join(json.dumps(row, indent=2) for row in ROWS).encode())
    assert list(read_rows(spread)) == [(f"{spread}:{n}", row) for n, row in zip((1, 5, 9), ROWS, strict=True)]
    array = put(tmp_path / "b.jsonl", json.dumps(ROWS).encode())
    assert [row for _, row in read_rows(array)] == ROWS


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_an_element_that_is_refused_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """However little of the file is in sight when the parser gives up."""
    monkeypatch.setattr(jsons, "CHUNK", chunk)
    path = put(tmp_path / "a.json", '[{"a": 1, "a": 2, "b": [{"c": "]}é"}]},\n {"a": Infinity}, 7, {"a": 3}]'.encode())
    found = list(scan_rows(path))
    assert [where for where, _ in found] == [f"{path}:{n}[{i}]" for i, n in enumerate((1, 2, 2, 2))] and found[3][1] == {"a": 3}
    assert [str(row).partition(": ")[2] for _, row in found[:3]] == [
        "field 'a' is given twice", "Infinity is not a number of JSON; write null",
        'found a number, needed a JSON object, such as {"prompt": "..."}',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": "' + b"x" * 3000),
        ("a.json", b'[{"a": 1}, {"a": "' + b"x" * 3000),
        ("a.csv", b'a\n1\n"' + b"x\n" * 2000),
        ("a.csv", b"a\n1\n" + b"x" * 3000),
        ("a.xml", b"<l><r><a>1</a></r><r><a>" + b"x" * 300_000),
        ("a.jsonl", b'{"a": 1}\n' + b" " * 1000 + b"\n" * 2000),
        ("a.json", b'[{"a": 1},' + b" " * 3000),
        ("a.csv", b"a\n1\n" + b"\n" * 2000),
    ],
)
def test_no_row_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes) -> None:
    """With limits of 1,000 bytes instead of megabytes; a compressed file can hide gigabytes of one row or of nothing."""
    for module in (opening, jsons, tables, xmls):
        for limit in ("ROW_BYTES", "BLANK_BYTES"):
            if hasattr(module, limit):
                monkeypatch.setattr(module, limit, 1000)
    monkeypatch.setattr(jsons, "CHUNK", 100)
    path = put(tmp_path / f"{name}.gz", content)
    monkeypatch.setattr(opening, "SKIPPED_BYTES", 1000)
    rows = scan_rows(path)
    assert next(rows)[1] in ({"a": 1}, {"a": "1"})
    with pytest.raises(UserError, match="a row of more than|of white space"):
        list(rows)


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_a_line_that_is_too_long_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It is told to leave the line out, not to write one object a line, for that is how it stands there."""
    monkeypatch.setattr(opening, "ROW_BYTES", 100)
    path = put(tmp_path / name, b'{"a": 1}\n{"a": "' + b"x" * 500_000 + b'"}\n{"a": 3}\n' + b"y" * 100 + b"\n" + b"z" * 200)
    rows = list(scan_rows(path))
    assert [where for where, _ in rows] == [f"{path}:{n}" for n in (1, 2, 3, 4, 5)]
    for where, error in (rows[1], rows[3], rows[4]):
        assert str(error).startswith(f"{where}: a row of more than 32 MB; leave it out") and "one JSON object a line" not in str(error)
    assert not isinstance(rows[2][1], UserError)


def test_lines_of_text_are_rows(tmp_path: Path) -> None:
    path = put(tmp_path / "a.txt.gz", b"\xef\xbb\xbfWhere?\r\n\n  \nWh\xe9n?\n How? ")
    first, broken, last = scan_rows(path)
    assert first == (f"{path}:1", {"text": "Where?"}) and last == (f"{path}:5", {"text": " How? "})
    assert broken[0] == f"{path}:4" and str(broken[1]).startswith(f"{path}:4: not UTF-8 text; convert the file first (iconv -f cp1252")
    settings = ReadSettings(fields={"prompt": "text"}, skip_bad=True)
    assert [prompt.text for prompt in read_prompts(path, settings)] == ["Where?", " How? "]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.xml", "a.txt"])
@pytest.mark.parametrize("content", [bytes(range(256)) * 20, b"\x7fELF\x02\x01\x01" + bytes(100), b"\x89PNG\r\n\x1a\n" + bytes(8)])
def test_what_is_no_text_is_refused_once(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(UserError, match=f"{name}: not a text file; is this the right one"):
        list(scan_rows(put(tmp_path / name, content)))


def test_text_of_western_windows_is_not_taken_for_no_text(tmp_path: Path) -> None:
    """And the command that the error names reads it."""
    path = put(tmp_path / "a.jsonl", '{"a": "“café” €"}\n'.encode("cp1252"))
    ((_, error),) = scan_rows(path)
    assert isinstance(error, UserError) and "iconv -f cp1252 -t utf-8 FILE > NEW" in str(error)
