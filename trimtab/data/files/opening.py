"""Files as bytes and lines: compressed or not, never more than one row in memory, every failure one line."""

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from trimtab.common.errors import RowError, UserError
from trimtab.common.files import near_name

KNOWN_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".zip")
SKIPPED_BYTES = 1 << 30  # a line that is too long is passed over up to here; beyond, the file is given up
ROW_BYTES = 32 << 20  # no row of a file of records is longer; what is, is no such file, or made to fill the memory
BLANK_BYTES = 1 << 20  # as much white space between two rows
HEAD_BYTES = 1 << 12  # enough to see whether a file is text
CONTROLS = bytes({*range(32)} - {*b"\t\n\v\f\r\x1b"})
TOO_LONG = f"a row of more than {ROW_BYTES >> 20} MB"
BOM = b"\xef\xbb\xbf"
# Most text that is not UTF-8 is in Windows' western encoding, of which Latin-1 is nearly all of a part.
TO_UTF8 = "convert the file first (iconv -f cp1252 -t utf-8 FILE > NEW, where Windows wrote it)"
OTHER_ENCODINGS = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@contextmanager
def open_bytes(path: Path | str, *, text: bool = True) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed, behind a UTF-8 byte-order mark; what goes wrong while they are read becomes one line.

    Raises:
        UserError: no such file, no permission, a damaged gzip file; with ``text``, text in UTF-16, or no text at all.
    """
    must_be_file(path)
    try:
        opener: Any = gzip.open if str(path).lower().endswith(".gz") else open
        with opener(path, "rb") as f:
            if text:
                _begin(f, path)
            yield f
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: not a complete gzip file ({error})") from None
    except PermissionError:
        raise UserError(f"{path}: may not be read; check its permissions") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _begin(f: IO[bytes], path: Path | str) -> None:
    head = read_up_to(f, HEAD_BYTES)
    for mark, name in OTHER_ENCODINGS.items():
        if head.startswith(mark):
            raise UserError(f"{path}: {name.upper()} text, not UTF-8; convert it first (iconv -f {name} -t utf-8 FILE > NEW)")
    if _is_binary(head):
        raise UserError(f"{path}: not a text file; is this the right one?")
    f.seek(len(BOM) if head.startswith(BOM) else 0)


def _is_binary(head: bytes) -> bool:
    """Whether a file begins as no text does, in whatever encoding of bytes: with control characters, more of them than slips leave."""
    return len(head) - len(head.translate(None, CONTROLS)) > len(head) // 50


def read_up_to(f: Any, size: int) -> bytes:
    """``size`` bytes, or what there is before the file ends or cannot be read further: what comes after says so at the next call."""
    chunks: list[bytes] = []
    while (missing := size - sum(map(len, chunks))) > 0:
        try:
            chunk = f.read1(missing)
        except (EOFError, OSError, zlib.error):
            if chunks:
                break
            raise
        if not chunk:
            break
        chunks.append(chunk)
    return b"".join(chunks)


def lines(f: IO[bytes], path: Path | str) -> Iterator[tuple[int, bytes | RowError]]:
    """``(number, line)`` of every line, its newline included; of one that is longer than a row may be, the error in its place.

    Raises:
        UserError: a line is longer than ``SKIPPED_BYTES``, or there is nothing but white space for a long while.
    """
    blank = number = 0
    while raw := f.readline(ROW_BYTES + 1):
        number += 1
        if len(raw) > ROW_BYTES:
            if not raw.endswith(b"\n"):
                _skip_line(f, f"{path}:{number}")
            yield number, _long_line(f"{path}:{number}")
            continue
        blank = blank + len(raw) if raw.isspace() else 0
        if blank > BLANK_BYTES:
            raise too_blank(f"{path}:{number}")
        yield number, raw


def _skip_line(f: IO[bytes], where: str) -> None:
    """Reads on to the line's end and keeps nothing of it: what is compressed may hide any number of bytes in a few."""
    skipped = 0
    while (piece := f.readline(HEAD_BYTES << 4)) and not piece.endswith(b"\n"):
        skipped += len(piece)
        if skipped > SKIPPED_BYTES:
            raise _long_line(where)


def _long_line(where: str) -> RowError:
    return RowError(where, f"{TOO_LONG}; leave it out, or write what it holds as several rows", reason=TOO_LONG)


def too_long(where: str) -> RowError:
    """The error of a row that would fill the memory."""
    advice = "write one JSON object a line (.jsonl)"
    return RowError(where, f"{TOO_LONG}, or a quote or bracket that is never closed; {advice}", reason=TOO_LONG)


def too_blank(where: str) -> RowError:
    """The error of a file that goes on and on without a row."""
    return RowError(where, f"more than {BLANK_BYTES >> 20} MB of white space; is this the right file?", reason="white space")


def must_be_file(path: Path | str) -> None:
    """Refuses what is not there, and folders.

    Raises:
        UserError: it is no file.
    """
    must_exist(path)
    if Path(path).is_dir():
        raise UserError(f"{path}: is a folder; give one of the files in it")


def must_exist(path: Path | str) -> None:
    """Refuses what is not there.

    Raises:
        UserError: it is neither a file nor a folder.
    """
    try:
        exists = Path(path).exists()
    except (OSError, ValueError) as error:  # a name that is too long, or has a NUL
        raise UserError(f"{str(path)[:200]!r}: no such file ({getattr(error, 'strerror', None) or error})") from None
    if not exists:
        raise UserError(f"{path}: no such file{_hub_hint(path) or near_name(path)}")


def _hub_hint(path: Path | str) -> str:
    looks_like = re.fullmatch(r"[\w-]+/[\w.-]+", str(path)) and suffix_of(path) not in KNOWN_SUFFIXES
    return f"; a data set of the hub is written hub:{path}" if looks_like else ""


def suffix_of(path: Path | str) -> str:
    """The last suffix before ``.gz``, in lower case."""
    return Path(Path(path).name.lower().removesuffix(".gz")).suffix
