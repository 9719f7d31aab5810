"""Rows and plain text from files, compressed or not; records back to files. Knows no format: a row is a JSON object.

Rows stream: memory does not grow with the file, except for a ``.json`` file that holds one single object.
"""

import csv
import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from trimtab.common.errors import UserError
from trimtab.common.files import atomic_write
from trimtab.records import JSON, Record, dump

ROW_SUFFIXES = (".jsonl", ".json", ".csv")
TEXT_SUFFIXES = (".txt", ".jsonl", ".json", ".zip")
ROW_ENDINGS, TEXT_ENDINGS = ", ".join(ROW_SUFFIXES), ", ".join(TEXT_SUFFIXES)
DOCUMENT_CHARACTERS = 4000
CHUNK = 1 << 20
BOM = b"\xef\xbb\xbf"
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

Row = tuple[str, JSON | UserError]  # where it stands, and what stands there or why it cannot be read


def read_rows(path: Path | str) -> Iterator[tuple[str, JSON]]:
    """``(where, row)`` of every row of a ``.jsonl``, ``.json`` or ``.csv`` file, plain or ``.gz``.

    ``where`` is ``file:line``, or ``file[index]`` in a JSON array. A ``.json`` file holds an array of objects, one
    object, or objects one a line.

    Raises:
        UserError: there is no such file, or a row cannot be read.
    """
    for where, row in scan_rows(path):
        if isinstance(row, UserError):
            raise row
        yield where, row


def scan_rows(path: Path | str) -> Iterator[Row]:
    """Like ``read_rows``, but a broken row comes as a ``UserError`` in its place, and reading goes on if it can.

    Raises:
        UserError: the file as a whole cannot be read.
    """
    readers = {".jsonl": _scan_lines, ".json": _scan_json, ".csv": _scan_csv}
    suffix = _suffix(path)
    if suffix not in readers:
        _must_be_file(path)
        raise UserError(f"{path}: unknown kind of file; give one that ends in {ROW_ENDINGS} (or one of these + .gz)")
    return readers[suffix](path)


def read_text(path: Path | str, characters: int = DOCUMENT_CHARACTERS) -> Iterator[str]:
    """Documents for pretraining: from ``.txt``, from the field ``text`` of ``.jsonl`` and ``.json``, from a ``.zip`` of
    ``.txt``, from a folder of them in order of name; each plain or ``.gz``.

    Blocks of plain text between blank lines are merged into documents of about ``characters`` characters.

    Raises:
        UserError: there is no such file, it is not UTF-8 text, or a row has no ``text``.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and _suffix(p) in TEXT_SUFFIXES and not _hidden(p))
        if not found:
            raise UserError(f"{path}: no text in this folder; it needs files that end in {TEXT_ENDINGS}")
        for inner in found:
            yield from read_text(inner, characters)
    elif (suffix := _suffix(path)) == ".txt":
        with _open(path) as f, _text_errors(path):
            yield from merge_blocks(io.TextIOWrapper(f, encoding="utf-8-sig"), characters)
    elif suffix == ".zip":
        yield from _zip_text(path, characters)
    elif suffix in (".jsonl", ".json"):
        for where, row in read_rows(path):
            if not isinstance(row.get("text"), str):
                names = ", ".join(row) or "nothing"
                raise UserError(f"{where}: no text in field 'text' (found: {names}); plain text is read from it")
            yield row["text"]
    else:
        _must_be_file(path)
        raise UserError(f"{path}: unknown kind of text; give a folder or a file that ends in {TEXT_ENDINGS}")


def merge_blocks(lines: Iterable[str], characters: int) -> Iterator[str]:
    """Documents of at least ``characters`` characters (the last may be shorter), cut at blank lines.

    Text without blank lines is cut at the end of a line once it is four times as long.
    """
    document: list[str] = []
    size = 0
    for line in lines:
        document.append(line)
        size += len(line)
        if size >= (characters if not line.strip() else 4 * characters):
            if text := _tidy(document):
                yield text
            document, size = [], 0
    if text := _tidy(document):
        yield text


def write_records(path: Path | str, records: Iterable[Record]) -> int:
    """Writes records one a line to ``.jsonl`` or ``.jsonl.gz``, complete or not at all; returns how many.

    Raises:
        UserError: another suffix, a full disk, a place that cannot be written.
    """
    path = Path(path)
    if _suffix(path) != ".jsonl":
        raise UserError(f"{path}: records are written one a line; give a name that ends in .jsonl or .jsonl.gz")
    count = 0
    with atomic_write(path) as temporary, open(temporary, "wb") as raw:
        # no name and no time inside, so that equal records are equal files
        f = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else raw
        for record in records:
            f.write(dump(record).encode() + b"\n")
            count += 1
        if f is not raw:
            f.close()
    return count


def _scan_lines(path: Path | str) -> Iterator[Row]:
    with _open(path) as f:
        for number, raw in enumerate(f, 1):
            raw = raw.removeprefix(BOM) if number == 1 else raw
            if raw.strip():
                where = f"{path}:{number}"
                yield where, _parse_line(raw, where)


def _parse_line(raw: bytes, where: str) -> JSON | UserError:
    try:
        text = raw.decode()
        value = json.loads(text)
    except UnicodeDecodeError as error:
        return UserError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start} of the line)")
    except (ValueError, RecursionError) as error:
        return UserError(f"{where}: not JSON ({_reason(error)}); write one JSON object a line")
    return _object(value, text, where)


def _object(value: Any, text: str, where: str) -> JSON | UserError:
    """``value`` if it is an object whose strings are text that can be written again."""
    if not isinstance(value, dict):
        return UserError(f'{where}: found {_kind(value)}, needed a JSON object, such as {{"prompt": "..."}}')
    if SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return UserError(f"{where}: a lone surrogate (\\ud800-\\udfff) is not a character; remove it")
    return value


def _scan_json(path: Path | str) -> Iterator[Row]:
    with _open(path) as f, _text_errors(path):
        source = _Buffer(io.TextIOWrapper(f, encoding="utf-8-sig", newline=""), path)
        if source.peek() == "[":
            yield from source.items()
            return
        value, text = source.value()
        alone = not source.peek()
    if alone:
        yield str(path), _object(value, text, str(path))
    else:
        yield from _scan_lines(path)


class _Buffer:
    """A window on a JSON text that grows until the next value is complete."""

    def __init__(self, source: IO[str], path: Path | str) -> None:
        self.source, self.path = source, path
        self.text, self.at, self.line, self.ended = "", 0, 1, False
        self.decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is not white space, or "" at the end."""
        while True:
            match = re.compile(r"\s*").match(self.text, self.at)
            assert match
            self.at = match.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def more(self, size: int = CHUNK) -> bool:
        """Drops what was read and takes in ``size`` more characters; False at the end."""
        self.line += self.text.count("\n", 0, self.at)
        chunk = self.source.read(size)
        self.text, self.at, self.ended = self.text[self.at :] + chunk, 0, not chunk
        return bool(chunk)

    def value(self) -> tuple[Any, str]:
        """The next value and its text."""
        self.peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except (ValueError, RecursionError) as error:
                # doubling keeps the work linear however long one value is
                if not isinstance(error, RecursionError) and self.more(max(CHUNK, len(self.text))):
                    continue
                line = self.line_at(error.pos if isinstance(error, json.JSONDecodeError) else self.at)
                raise UserError(f"{self.path}:{line}: not JSON ({_reason(error)})") from None
            text, self.at = self.text[self.at : end], end
            return value, text

    def line_at(self, position: int) -> int:
        """The line of the file, from 1, on which ``position`` of the window stands."""
        return self.line + self.text.count("\n", 0, position)

    def items(self) -> Iterator[Row]:
        """The elements of the array that begins here."""
        self.at += 1
        index = 0
        if self.peek() == "]":
            self.at += 1
        else:
            while True:
                value, text = self.value()
                where = f"{self.path}[{index}]"
                yield where, _object(value, text, where)
                index += 1
                mark = self.peek()
                self.at += 1
                if mark == "]":
                    break
                if mark != ",":
                    line = self.line_at(self.at)
                    raise UserError(f"{self.path}:{line}: not JSON (',' or ']' is missing after element {index - 1})")
        if self.peek():
            raise UserError(f"{self.path}: not JSON (something follows the array's end)")


def _scan_csv(path: Path | str) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # the most that every platform takes; the default is 131,072 characters
    with _open(path) as f, _text_errors(path):
        rows = csv.reader(io.TextIOWrapper(f, encoding="utf-8-sig", newline=""))
        names = next(rows, None)
        if not names:
            raise UserError(f"{path}: is empty; the first line of a .csv file names its columns")
        if len(set(names)) < len(names):
            raise UserError(f"{path}:1: a column name is given twice ({', '.join(names)}); give each column its own")
        while True:
            where = f"{path}:{rows.line_num + 1}"
            cells = next(rows, None)
            if cells is None:
                return
            if len(cells) > len(names):
                message = f"{where}: {len(cells)} cells for {len(names)} columns; put text with commas in double quotes"
                yield where, UserError(message)
            elif cells:
                yield where, dict(zip(names, cells, strict=False))


def _zip_text(path: Path, characters: int) -> Iterator[str]:
    with _open(path) as f:
        try:
            archive = zipfile.ZipFile(f)
            names = sorted(name for name in archive.namelist() if name.endswith(".txt") and not _hidden(name))
            if not names:
                raise UserError(f"{path}: no .txt file inside")
            for name in names:
                with _text_errors(f"{path}/{name}"), archive.open(name) as member:
                    yield from merge_blocks(io.TextIOWrapper(member, encoding="utf-8-sig"), characters)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:  # RuntimeError: a password
            raise UserError(f"{path}: not a readable zip file ({error})") from None


@contextmanager
def _open(path: Path | str) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed; what goes wrong while it is read becomes one line."""
    _must_be_file(path)
    try:
        opener: Any = gzip.open if str(path).endswith(".gz") else open
        with opener(path, "rb") as f:
            yield f
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: not a complete gzip file ({error})") from None
    except PermissionError:
        raise UserError(f"{path}: may not be read; check its permissions") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


@contextmanager
def _text_errors(path: Path | str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); convert it first (iconv -t utf-8)") from None
    except csv.Error as error:
        raise UserError(f"{path}: not CSV ({error})") from None


def _must_be_file(path: Path | str) -> None:
    if not Path(path).exists():
        raise UserError(f"{path}: no such file")
    if Path(path).is_dir():
        raise UserError(f"{path}: is a folder; give a file that ends in {ROW_ENDINGS}")


def _suffix(path: Path | str) -> str:
    """The last suffix before ``.gz``, in lower case."""
    name = Path(path).name.lower().removesuffix(".gz")
    return Path(name).suffix


def _hidden(path: Path | str) -> bool:
    """Whether a name is one that systems leave beside the user's files (``.DS_Store``, ``__MACOSX/._a.txt``)."""
    return Path(path).name.startswith(".")


def _tidy(lines: list[str]) -> str:
    return "".join(lines).strip("\n").rstrip() if any(map(str.strip, lines)) else ""


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:100]


def _kind(value: Any) -> str:
    names = {
        list: "a list",
        str: "a string",
        int: "a number",
        float: "a number",
        bool: "a truth value",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)
