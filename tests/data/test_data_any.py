"""Any records come back as they were written; any bytes give records or one line of error, with every row accounted for."""

import gzip
import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from trimtab.common.errors import UserError
from trimtab.data.convert import ConvertSettings, check_file, convert_file
from trimtab.data.files import ROW_SUFFIXES, write_records
from trimtab.data.formats import FORMATS, read_any
from trimtab.records import (
    COMPARISON_FIELDS,
    PROMPT_FIELDS,
    Comparison,
    Completion,
    Demonstration,
    Message,
    Prompt,
    Record,
)

# What splits lines somewhere, ends strings in C, combines, writes from the right, or stands outside the first plane.
ODD = st.sampled_from([
    "\u2028", "\u2029", "\x85", "\x00", "\r\n", "\n", "\t", "\\", '"', "e\u0301", "\u202e", "\ufeff", "🏳️‍🌈", "\U0010ffff", "\ufffe",
])  # fmt: skip
text = st.lists(st.one_of(ODD, st.text(st.characters(exclude_categories=["Cs"]), max_size=8)), max_size=4).map("".join)
names = st.one_of(st.none(), text)
numbers = st.one_of(st.integers(), st.integers(-(10**400), 10**400), st.floats(allow_nan=False, allow_infinity=False))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, text),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=10,
)
# Fields that a record does not know; what it knows, and what the native format is told from others by, is not among them.
KNOWN = {*PROMPT_FIELDS, *COMPARISON_FIELDS, "completion", "chosen", "rejected", "users", "scores"}
FOREIGN = sorted({name for form in FORMATS for name in form.example} - KNOWN)  # what other formats are told by, in a record's own fields
extras = st.dictionaries(st.one_of(text.filter(lambda name: name not in KNOWN), st.sampled_from(FOREIGN)), values, max_size=4)
prompts = st.builds(
    Prompt, id=text, user=names, use_case=names, source=names, extra=extras,
    messages=st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), text), max_size=3).map(
        lambda before: (*before, Message("user", "ask"))
    ),
)  # fmt: skip
completions = st.builds(
    Completion, text, names, st.one_of(st.none(), st.lists(st.integers(0, 10**30)).map(tuple)), names,
    st.sampled_from([None, "end", "length", "string"]),
)  # fmt: skip


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    answers = tuple(draw(st.lists(completions, min_size=1, max_size=4)))

    def each(what: st.SearchStrategy[Any]) -> Any:
        return tuple(draw(st.lists(what, min_size=len(answers), max_size=len(answers))))

    return Comparison(
        draw(prompts.map(lambda p: Prompt(p.id, p.messages, p.user, p.use_case, p.source, p.extra))), answers,
        each(st.one_of(st.none(), st.integers(1, 10**20))), draw(names), draw(st.none()) or each(st.integers()),
        each(st.lists(text, max_size=2).map(tuple)), each(st.integers()), draw(st.one_of(st.none(), st.floats(0, 1e6))),
        draw(st.one_of(st.none(), st.floats(0, 1e6, exclude_min=True))),
    )  # fmt: skip


records = st.one_of(prompts, st.builds(Demonstration, prompts, text), comparisons())
# The proof (bench/formats_proof.py) tries thousands.
quick = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=int(os.environ.get("TRIMTAB_EXAMPLES", "40")))


@quick
@given(st.lists(records, max_size=4), st.booleans())
@example([Prompt("1", (Message("user", "a\u2028b\x85c\x00"),), extra={"n": 10**4000, "deep": {"é": [{"": None}]}})], False)
def test_any_records_round_trip(tmp_path_factory: pytest.TempPathFactory, given_records: list[Record], gz: bool) -> None:
    folder = tmp_path_factory.mktemp("trip")
    path, again = folder / ("a.jsonl.gz" if gz else "a.jsonl"), folder / "b.jsonl.gz"
    assert write_records(path, given_records) == len(given_records)
    assert read_any(path) == given_records
    if given_records:
        convert_file(path, again)
        assert read_any(again) == given_records


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("\ud800", "record 'id' cannot be written as JSON: a lone surrogate is not a character"),
        (math.nan, "record 'id' cannot be written as JSON: Out of range float values"),
        (math.inf, "Out of range float"),
        ({1, 2}, "set is not JSON serializable"),
    ],
)
def test_what_json_cannot_say_is_not_written(tmp_path: Path, bad: Any, says: str) -> None:
    with pytest.raises(UserError) as error:
        write_records(tmp_path / "a.jsonl", [Prompt("id", (Message("user", "x"),), extra={"field": bad})])
    assert says in str(error.value) and not list(tmp_path.iterdir())


def made(suffix: str) -> bytes:
    """A file of each kind that can be read."""
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c, \"d\"", "completion": "é\n"}]
    table, buffer = pyarrow.Table.from_pylist(rows), io.BytesIO()
    if suffix == ".parquet":
        pyarrow.parquet.write_table(table, buffer)
    elif suffix == ".arrow":
        with pyarrow.ipc.new_file(buffer, table.schema) as writer:
            writer.write_table(table)
    elif suffix in (".csv", ".tsv"):
        mark = "\t" if suffix == ".tsv" else ","
        return f'prompt{mark}completion\na{mark}b\n"c"{mark}"d ""e"""\n'.encode()
    elif suffix == ".xml":
        return b"<l><r><prompt>a</prompt><completion>b</completion></r></l>"
    elif suffix == ".json":
        return json.dumps([form.example for form in FORMATS]).encode()
    else:
        return "".join(json.dumps(form.example) + "\n" for form in FORMATS).encode()
    return buffer.getvalue()


MADE = {suffix: made(suffix) for suffix in ROW_SUFFIXES}
PIECES = st.sampled_from([
    b'{"prompt": "x"}', b"\n", b"\r", b"[", b"]", b"{", b",", b";", b"\t", b'{"messages": 3}', b"\xff", b"\x00", b'"', b"a", b"\\",
    b"\\ud800", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 5000, b'{"a":' * 2000, b"\xef\xbb\xbf", b"\xff\xfe",
    b"\xe2\x80\xa8", b"<", b"&x;", b'{"a":1,"a":2}',
])  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, suffix: str) -> bytes:
    """A file that can be read, with pieces put in, bytes changed, and its end cut off."""
    content = MADE[suffix]
    for _ in range(draw(st.integers(0, 3))):
        at, piece = draw(st.integers(0, len(content))), draw(st.one_of(PIECES, st.binary(max_size=4)))
        content = content[:at] + piece + content[at + draw(st.integers(0, 8)) :]
    return content[: draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]


def contents(suffix: str) -> st.SearchStrategy[bytes]:
    return st.one_of(damaged(suffix), st.lists(PIECES, max_size=12).map(b"".join), st.binary(max_size=60))


def one_line(work: Callable[[], Any]) -> Any:
    """What ``work`` gives, or None where it is refused in one line."""
    try:
        return work()
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
        return None


@pytest.mark.parametrize("suffix", [*ROW_SUFFIXES, ""])
@quick
@given(data=st.data(), gz=st.booleans())
def test_any_bytes_give_records_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject, gz: bool
) -> None:
    content = data.draw(contents(suffix) if suffix in MADE else st.binary(max_size=20))
    folder = tmp_path_factory.mktemp("bytes")
    path, out = folder / f"a{suffix}{'.gz' if gz else ''}", folder / "out.jsonl"
    path.write_bytes(gzip.compress(content) if gz else content)
    found = one_line(lambda: read_any(path))
    account = one_line(lambda: check_file(path))
    if account is None:  # the file as a whole cannot be read, or holds no rows
        assert not found
        return
    assert account.rows == account.kept + sum(account.skipped.values()) and account.bad <= sum(account.skipped.values())
    assert sum(alike.rows for alike in account.errors.values()) == account.bad or len(account.errors) == 20
    assert all("\n" not in line for line in account.problems())
    assert (found is None) == bool(account.bad) and (found is None or len(found) == sum(account.records.values()))
    kept = one_line(lambda: convert_file(path, out, ConvertSettings(skip_bad=True)))
    assert (kept is None) == (not account.kept)
    if kept is not None:
        left_out = folder / f"{path.name}.left-out.jsonl"
        lines = left_out.read_bytes().splitlines() if left_out.exists() else []  # of bytes: U+2028 ends no line of JSON
        assert len(read_any(out)) == sum(kept.records.values()) and len(lines) == kept.rows - kept.kept
        assert all({"where", "reason", "error", "row"} == json.loads(line).keys() for line in lines)
