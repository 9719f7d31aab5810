"""Plain text for pretraining: documents from ``.txt``, ``.zip``, folders of them, and the field ``text`` of rows."""

import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from trimtab.common.errors import UserError, names
from trimtab.data.files.hub import is_hub
from trimtab.data.files.opening import TO_UTF8, must_be_file, open_bytes, suffix_of
from trimtab.data.files.rows import ROW_SUFFIXES, read_rows

TEXT_SUFFIXES = (".txt", ".jsonl", ".json", ".zip")  # of the files that are looked for in a folder
TEXT_ENDINGS = ", ".join(TEXT_SUFFIXES)
DOCUMENT_CHARACTERS = 4000
LINE_CHARACTERS = 1 << 20


def read_text(path: Path | str, characters: int = DOCUMENT_CHARACTERS) -> Iterator[str]:
    """Documents for pretraining: from ``.txt``, from the field ``text`` of rows of any file or of the hub, from a ``.zip``
    of ``.txt``, from a folder of them in order of name; each plain or ``.gz``.

    Blocks of plain text between blank lines are merged into documents of about ``characters`` characters.

    Raises:
        UserError: there is no such file, it is not UTF-8 text, or a row has no ``text``.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and suffix_of(p) in TEXT_SUFFIXES and not _hidden(p))
        if not found:
            raise UserError(f"{path}: no text in this folder; it needs files that end in {TEXT_ENDINGS}")
        for inner in found:
            yield from read_text(inner, characters)
    elif (suffix := suffix_of(path)) == ".txt":
        with open_bytes(path) as f, _text_errors(path):
            yield from merge_blocks(_lines(io.TextIOWrapper(f, encoding="utf-8")), characters)
    elif suffix == ".zip":
        yield from _zip_text(path, characters)
    elif is_hub(path) or suffix in ROW_SUFFIXES:
        for where, row in read_rows(path):
            if not isinstance(row.get("text"), str):
                raise UserError(f"{where}: no text in field 'text' (found: {names(row)}); plain text is read from it")
            yield row["text"]
    else:
        must_be_file(path)
        raise UserError(f"{path}: unknown kind of text; give a folder or a file that ends in {TEXT_ENDINGS}")


def is_text(path: Path | str) -> bool:
    """Whether a path is plain text for pretraining, by its name: a folder, ``.txt``, ``.zip`` (or these + ``.gz``)."""
    return Path(path).is_dir() or suffix_of(path) in (".txt", ".zip")


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


def _lines(text: IO[str]) -> Iterator[str]:
    """Lines, and pieces of a line that would fill the memory."""
    return iter(lambda: text.readline(LINE_CHARACTERS), "")


def _zip_text(path: Path, characters: int) -> Iterator[str]:
    with open_bytes(path, text=False) as f:
        try:
            archive = zipfile.ZipFile(f)
            members = sorted(name for name in archive.namelist() if name.endswith(".txt") and not _hidden(name))
            if not members:
                raise UserError(f"{path}: no .txt file inside")
            for name in members:
                with _text_errors(f"{path}/{name}"), archive.open(name) as member:
                    yield from merge_blocks(_lines(io.TextIOWrapper(member, encoding="utf-8-sig")), characters)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:  # RuntimeError: a password
            raise UserError(f"{path}: not a readable zip file ({error})") from None


@contextmanager
def _text_errors(path: Path | str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); {TO_UTF8}") from None


def _hidden(path: Path | str) -> bool:
    """Whether a name is one that systems leave beside the user's files (``.DS_Store``, ``__MACOSX/._a.txt``)."""
    return Path(path).name.startswith(".")


def _tidy(lines: list[str]) -> str:
    return "".join(lines).strip("\n").rstrip() if any(map(str.strip, lines)) else ""
