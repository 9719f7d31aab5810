"""Rows of ``.txt``: each line that is not blank is the field ``text`` of a row."""

from collections.abc import Iterator
from pathlib import Path

from trimtab.common.errors import RowError
from trimtab.data.files.opening import TO_UTF8, lines, open_bytes
from trimtab.records import JSON


def scan_plain(path: Path | str) -> Iterator[tuple[str, JSON | RowError]]:
    """The rows; ``where`` is ``file:line``. A line that is not UTF-8 costs itself alone."""
    with open_bytes(path) as f:
        for number, raw in lines(f, path):
            where = f"{path}:{number}"
            if isinstance(raw, RowError):
                yield where, raw
            elif not raw.isspace():
                yield where, _row(raw.rstrip(b"\r\n"), where)


def _row(line: bytes, where: str) -> JSON | RowError:
    try:
        return {"text": line.decode()}
    except UnicodeDecodeError:
        error = RowError(where, f"not UTF-8 text; {TO_UTF8}", reason="not UTF-8 text")
        error.row = line.decode(errors="replace")
        return error
