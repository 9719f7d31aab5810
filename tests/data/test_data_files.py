"""Rows, text and records to and from files."""

import gzip
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from trimtab.common.errors import UserError
from trimtab.data.files import merge_blocks, read_rows, read_text, scan_rows, write_records
from trimtab.data.formats import read_any
from trimtab.records import Comparison, Completion, Demonstration, Message, Prompt

ROWS = [{"prompt": "Where?", "n": 1}, {"prompt": 'A "b", c\nd', "n": 2}, {"prompt": "é ü 猫", "n": 3}]


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_array_rows_and_their_index(tmp_path: Path, bom: bytes, suffix: str, indent: int | None) -> None:
    path = put(tmp_path / f"a.json{suffix}", bom + json.dumps(ROWS, indent=indent).encode())
    assert list(read_rows(path)) == [(f"{path}[{i}]", row) for i, row in enumerate(ROWS)]


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
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1: not JSON"),
        ("a.json", b'[{"a": 1},\n {"a": }]', "a.json:2: not JSON"),
        ("a.json", b'[{"a": 1}\n {"a": 1}]', "a.json:2: not JSON (',' or ']' is missing after element 0)"),
        ("a.json", b'[{"a": 1}', "a.json:1: not JSON"),
        ("a.json", b'[{"a": 1}] x', "something follows"),
        ("a.json", b"[3]", "a.json[0]: found a number"),
        ("a.json", b'"text"', "found a string"),
        ("a.json", b"\xff\xfe", "not UTF-8"),
        ("a.json", b"", "not JSON"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"a,a\n1,2\n", "column name is given twice"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "a.csv:3: 3 cells for 2 columns"),
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


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.one_of(st.none(), text)
prompts = st.builds(
    Prompt, id=text, user=names, use_case=names, source=names,
    messages=st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), text), max_size=3).map(
        lambda before: (*before, Message("user", "ask"))
    ),
    extra=st.dictionaries(st.sampled_from(["lang", "label"]), st.one_of(text, st.integers(), st.lists(text))),
)  # fmt: skip
completions = st.builds(
    Completion, text, names, st.one_of(st.none(), st.lists(st.integers(0, 9)).map(tuple)), names,
    st.sampled_from([None, "end", "length", "string"]),
)  # fmt: skip


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    answers = tuple(draw(st.lists(completions, min_size=2, max_size=4)))
    ranks = draw(st.lists(st.one_of(st.none(), st.integers(1, 4)), min_size=len(answers), max_size=len(answers)))
    return Comparison(draw(prompts), answers, tuple(ranks), draw(names))


@given(st.lists(st.one_of(prompts, st.builds(Demonstration, prompts, text), comparisons()), max_size=4), st.booleans())
def test_any_records_round_trip(tmp_path_factory: pytest.TempPathFactory, records: list, gz: bool) -> None:  # type: ignore[type-arg]
    path = tmp_path_factory.mktemp("trip") / ("a.jsonl.gz" if gz else "a.jsonl")
    assert write_records(path, records) == len(records)
    assert read_any(path) == records


PIECES = st.sampled_from(
    [b'{"prompt": "x"}', b"\n", b"[", b"]", b",", b'{"messages": 3}', b"\xff", b"\x00", b'"', b"a", b"\\"]
)


@given(st.one_of(st.binary(max_size=60), st.lists(PIECES, max_size=12).map(b"".join)), st.sampled_from(
    ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz"]))  # fmt: skip
def test_any_bytes_give_records_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    path = tmp_path_factory.mktemp("bytes") / name
    path.write_bytes(content)
    try:
        read_any(path)
    except UserError as error:
        assert "\n" not in str(error)
