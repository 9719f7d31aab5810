"""Rows of any file, and of the hub: which reader a name asks for. Knows no format: a row is a JSON object.

Rows stream: memory does not grow with the file, and no row is longer than ``opening.ROW_BYTES``.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from trimtab.common.errors import RowError, UserError
from trimtab.data.files.columns import scan_columns
from trimtab.data.files.hub import is_hub, scan_hub
from trimtab.data.files.jsons import scan_json
from trimtab.data.files.opening import must_be_file, suffix_of
from trimtab.data.files.plain import scan_plain
from trimtab.data.files.tables import scan_table
from trimtab.data.files.xmls import scan_xml
from trimtab.records import JSON

Row = tuple[str, JSON | RowError]  # where it stands, and what stands there or why it cannot be read

READERS: dict[str, Callable[[Path | str], Iterator[Row]]] = {
    ".jsonl": scan_json, ".json": scan_json, ".csv": scan_table, ".tsv": scan_table, ".parquet": scan_columns,
    ".arrow": scan_columns, ".ndjson": scan_json, ".xml": scan_xml, ".txt": scan_plain,
}  # fmt: skip
ROW_SUFFIXES = tuple(READERS)
NEVER_GZIPPED = (".parquet", ".arrow")  # they are compressed inside


def read_rows(path: Path | str) -> Iterator[tuple[str, JSON]]:
    """``(where, row)`` of every row of a file (see ``READERS``; text formats plain or ``.gz``) or of ``hub:owner/name``.

    ``where`` is ``file:line``, ``file:line[index]`` in a JSON array, ``file[index]`` in a Parquet file and a data set of the hub.

    Raises:
        UserError: there is no such file, or a row cannot be read.
    """
    for where, row in scan_rows(path):
        if isinstance(row, UserError):
            raise row
        yield where, row


def scan_rows(path: Path | str) -> Iterator[Row]:
    """Like ``read_rows``, but a broken row comes as its error in its place, and reading goes on if it can.

    Raises:
        UserError: the file as a whole cannot be read, or not from here on.
    """
    if is_hub(path):
        return scan_hub(path)
    suffix = suffix_of(path)
    gzipped = str(path).lower().endswith(".gz")
    if suffix not in READERS or (gzipped and suffix in NEVER_GZIPPED):
        must_be_file(path)
        if gzipped and suffix in NEVER_GZIPPED:
            raise UserError(f"{path}: gunzip it first; a {suffix} file is compressed inside")
        endings = ", ".join(ROW_SUFFIXES)
        raise UserError(f"{path}: unknown kind of file; give one that ends in {endings} (text: or + .gz), or hub:owner/name")
    return READERS[suffix](path)
