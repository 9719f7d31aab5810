"""Rows of ``.csv`` and ``.tsv``: the first line names the columns, every row has a cell for each."""

import csv
import io
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO

from trimtab.common.errors import RowError, UserError, names
from trimtab.data.files.opening import (
    BLANK_BYTES,
    ROW_BYTES,
    TO_UTF8,
    TOO_LONG,
    open_bytes,
    suffix_of,
    too_blank,
    too_long,
)
from trimtab.records import JSON

QUOTES = "text with commas, quotes or line ends stands in double quotes, and a quote inside is doubled"


def scan_table(path: Path | str) -> Iterator[tuple[str, JSON | RowError]]:
    """The rows as text by column. Where the first line has no comma, semicolons or tabs part its cells.

    Raises:
        UserError: the file has no first line, or one that names no columns.
    """
    csv.field_size_limit(ROW_BYTES)  # the default is 131,072 characters
    with open_bytes(path) as f:
        # bytes that are no text travel as half characters, so that only their row is lost
        text = io.TextIOWrapper(f, encoding="utf-8", errors="surrogateescape", newline="")
        try:
            yield from _rows(_lines(text, path), path)
        finally:
            text.detach()  # or the wrapper closes a file that is not its own


def _rows(lines: Iterator[str], path: Path | str) -> Iterator[tuple[str, JSON | RowError]]:
    header = next(lines, "")
    separator = "\t" if suffix_of(path) == ".tsv" else next((mark for mark in ",;\t" if mark in header), ",")
    rows = csv.reader(chain([header], lines), delimiter=separator, strict=True)
    columns = _columns(rows, path)
    while True:
        where = f"{path}:{rows.line_num + 1}"
        try:
            cells = next(rows, None)
        except csv.Error as failed:
            error = _broken(where, failed)
            if error.reason == TOO_LONG:  # what follows a quote that is never closed is no rows
                raise error from None
            yield where, error
            continue
        if cells is None:
            return
        if cells:
            yield where, _row(columns, cells, where)


def _columns(rows: Iterator[list[str]], path: Path | str) -> list[str]:
    try:
        columns = next(rows, None)
    except csv.Error as error:
        raise _broken(f"{path}:1", error) from None
    if not columns:
        raise UserError(f"{path}: is empty; the first line of a table names its columns")
    if len(set(columns)) < len(columns):
        raise UserError(f"{path}:1: a column name is given twice ({names(columns)}); give each column its own")
    if unreadable := _no_text(columns, f"{path}:1"):
        raise unreadable
    return columns


def _row(columns: list[str], cells: list[str], where: str) -> JSON | RowError:
    error = _no_text(cells, where)
    if error is None and len(cells) != len(columns):
        said = f"too {'many' if len(cells) > len(columns) else 'few'} cells"
        counted = f"{len(cells)} cell{'s' * (len(cells) > 1)} for {len(columns)} columns"
        error = RowError(where, f"{counted}; {QUOTES}", reason=said)
    if error is None:
        return dict(zip(columns, cells, strict=True))
    error.row = [cell.encode(errors="surrogateescape").decode(errors="replace") for cell in cells]
    return error


def _no_text(cells: list[str], where: str) -> RowError | None:
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return RowError(where, f"not UTF-8 text; {TO_UTF8}", reason="not UTF-8 text")
    return None


def _broken(where: str, error: csv.Error) -> RowError:
    if "field limit" in str(error):
        return too_long(where)
    ended = str(error) == "unexpected end of data"
    said = "a quote that opens here or later is never closed" if ended else str(error)
    return RowError(where, f"not CSV ({said}); {QUOTES}", reason="not CSV")


def _lines(text: IO[str], path: Path | str) -> Iterator[str]:
    """Lines with their ends, none longer than a row may be."""
    blank = number = 0
    while line := text.readline(ROW_BYTES + 1):
        number += 1
        if len(line) > ROW_BYTES:
            raise too_long(f"{path}:{number}")
        blank = blank + len(line) if line.isspace() else 0
        if blank > BLANK_BYTES:
            raise too_blank(f"{path}:{number}")
        yield line
