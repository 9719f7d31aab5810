"""Rows of ``.jsonl`` and ``.json``: objects one a line, an array of objects, or objects that span lines."""

import codecs
import re
from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import IO, Any

from trimtab.common.errors import RowError
from trimtab.data.files.opening import (
    BLANK_BYTES,
    ROW_BYTES,
    TO_UTF8,
    lines,
    open_bytes,
    read_up_to,
    suffix_of,
    too_blank,
    too_long,
)
from trimtab.data.files.values import DECODER, LENIENT, NotPlain, as_object, not_json, parse_row
from trimtab.records import JSON

CHUNK = 1 << 20
SMALL_CHUNK = 1 << 12  # enough to see what a file begins with
SPACE = re.compile(r"[ \t\r\n]*")


def scan_json(path: Path | str) -> Iterator[tuple[str, JSON | RowError]]:
    """The rows of a file; what it begins with decides how they stand in it, so that an array called ``.jsonl`` is read too."""
    first, whole = _beginning(path)
    if first == b"[" or not whole:
        with open_bytes(path) as f:
            window = _Window(f, path)
            yield from window.elements() if first == b"[" else window.objects()
    else:
        yield from _scan_lines(path)


def _beginning(path: Path | str) -> tuple[bytes, bool]:
    """The first byte that is not white space; and of a ``.json`` file that is no array, whether its first line is JSON on its own.

    Raises:
        RowError: a ``.json`` file with nothing in it, or one that goes on and on with nothing.
    """
    blank = 0
    with open_bytes(path) as f:
        while chunk := read_up_to(f, SMALL_CHUNK):
            if head := chunk.lstrip():
                if head.startswith(b"[") or suffix_of(path) != ".json":
                    return head[:1], True
                line = head if b"\n" in head else head + f.readline(ROW_BYTES)
                return head[:1], _is_json(line.partition(b"\n")[0])
            blank += len(chunk)
            if blank > BLANK_BYTES:
                raise too_blank(f"{path}:1")
    if suffix_of(path) == ".json":
        raise RowError(f"{path}:1", "not JSON (the file is empty)", reason="not JSON")
    return b"", True


def _is_json(line: bytes) -> bool:
    try:
        LENIENT.decode(line.decode(errors="replace"))
    except (ValueError, RecursionError):
        return False
    return True


def _scan_lines(path: Path | str) -> Iterator[tuple[str, JSON | RowError]]:
    with open_bytes(path) as f:
        for number, raw in lines(f, path):
            if isinstance(raw, RowError):
                yield f"{path}:{number}", raw
            elif not raw.isspace():
                yield f"{path}:{number}", parse_row(raw, f"{path}:{number}")


class _Window:
    """A window on a JSON text, from ``at`` on, that grows until the next value is complete."""

    def __init__(self, source: IO[bytes], path: Path | str) -> None:
        self.source, self.path = source, path
        self.text, self.at = "", 0
        self.counted, self.line = 0, 1  # a position in the window, and the line on which it stands
        self.decode = codecs.getincrementaldecoder("utf-8")()

    def peek(self) -> str:
        """The next character that is not white space, or "" at the end."""
        skipped = 0
        while True:
            end = SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]  # it matches everywhere
            skipped, self.at = skipped + end - self.at, end
            if self.at < len(self.text):
                return self.text[self.at]
            if skipped > BLANK_BYTES:
                raise too_blank(self.where())
            if not self.more():
                return ""

    def more(self, size: int = CHUNK) -> bool:
        """Drops what was read and takes in ``size`` more bytes; False at the end."""
        self.count_lines()
        self.text, self.at, self.counted = self.text[self.at :], 0, 0
        chunk = read_up_to(self.source, size)
        try:
            self.text += self.decode.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            line = self.line + self.text.count("\n") + error.object.count(b"\n", 0, error.start)
            raise RowError(f"{self.path}:{line}", f"not UTF-8 text ({error.reason}); {TO_UTF8}", reason="not UTF-8 text") from None
        return bool(chunk)

    def value(self) -> tuple[Any, str]:
        """The next value and its text. A value that has no one meaning comes as its error."""
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except NotPlain as error:
                value, end = self._refused(error)
            except JSONDecodeError as error:
                ahead = error.pos - self.at  # ``more`` moves the window
                if len(self.text) > ROW_BYTES:
                    raise too_long(self.where()) from None
                if self.more(max(CHUNK, len(self.text))):  # doubling keeps the work linear however long one value is
                    continue
                raise not_json(self.where(self.at + ahead), error) from None
            except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 1,000 brackets
                raise not_json(self.where(), error) from None
            text, self.at = self.text[self.at : end], end
            return value, text

    def _refused(self, error: NotPlain) -> tuple[RowError, int]:
        """What DECODER refuses at a field may not be complete yet: its end is found by the other."""
        while True:
            try:
                _, end = LENIENT.raw_decode(self.text, self.at)
            except JSONDecodeError as broken:
                ahead = broken.pos - self.at
                if len(self.text) > ROW_BYTES:
                    raise too_long(self.where()) from None
                if not self.more(max(CHUNK, len(self.text))):
                    raise not_json(self.where(self.at + ahead), broken) from None
            except (ValueError, RecursionError) as broken:
                raise not_json(self.where(), broken) from None
            else:
                found = not_json(self.where(), error)
                found.row = self.text[self.at : end]
                return found, end

    def count_lines(self) -> None:
        """Up to where it stands, from where it was counted last: a file's lines are counted once."""
        self.line, self.counted = self.line + self.text.count("\n", self.counted, self.at), self.at

    def where(self, position: int | None = None) -> str:
        """``file:line`` of a position ahead in the window, by default of where it stands."""
        self.count_lines()
        return f"{self.path}:{self.line + self.text.count(chr(10), self.at, position or self.at)}"

    def row(self, where: str) -> JSON | RowError:
        """The next value as a row."""
        value, text = self.value()
        if isinstance(value, RowError):
            found = RowError(where, value.text, reason=value.reason)
            found.row = value.row
            return found
        return as_object(value, text, where)

    def objects(self) -> Iterator[tuple[str, JSON | RowError]]:
        """Values one after another, to the end of the file."""
        while self.peek():
            where = self.where()
            yield where, self.row(where)

    def elements(self) -> Iterator[tuple[str, JSON | RowError]]:
        """The elements of the array that comes next."""
        self.peek()
        self.at += 1
        index = 0
        if self.peek() == "]":
            self.at += 1
        else:
            while True:
                self.peek()
                where = f"{self.where()}[{index}]"
                yield where, self.row(where)
                mark = self.peek()
                if mark not in ("]", ","):
                    raise RowError(self.where(), f"not JSON (',' or ']' is missing after element {index})", reason="not JSON")
                self.at += 1
                if mark == "]":
                    break
                index += 1
        if self.peek():
            raise RowError(self.where(), "not JSON (something follows the array's end)", reason="not JSON")
