"""Rows and records to ``.jsonl`` files, complete or not at all."""

import gzip
from collections.abc import Iterable
from pathlib import Path

from trimtab.common.errors import UserError
from trimtab.common.files import atomic_write
from trimtab.data.files.opening import suffix_of
from trimtab.records import Record, dump


def write_records(path: Path | str, records: Iterable[Record]) -> int:
    """Writes records one a line to ``.jsonl`` or ``.jsonl.gz``, complete or not at all; returns how many.

    Raises:
        UserError: another suffix, a full disk, a place that cannot be written, a record that is no JSON.
    """
    return write_lines(path, map(dump, records))


def write_lines(path: Path | str, lines: Iterable[str]) -> int:
    """The same for lines of JSON, given without their ends.

    Raises:
        UserError: another suffix, a full disk, a place that cannot be written.
    """
    path = Path(path)
    if suffix_of(path) != ".jsonl":
        raise UserError(f"{path}: records are written one a line; give a name that ends in .jsonl or .jsonl.gz")
    count = 0
    with atomic_write(path) as temporary, open(temporary, "wb") as raw:
        # no name and no time inside, so that equal records are equal files
        f = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else raw
        for line in lines:
            f.write(line.encode() + b"\n")
            count += 1
        if f is not raw:
            f.close()
    return count
