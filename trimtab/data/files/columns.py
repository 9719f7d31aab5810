"""Rows of ``.parquet`` and ``.arrow``, a few hundred at a time, and their values as JSON has them."""

import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from trimtab.common.errors import RowError, UserError, bad_field
from trimtab.data.files.opening import must_be_file, suffix_of
from trimtab.records import JSON

AT_ONCE = 256  # rows; a row is a few kilobytes
BUFFER = 1 << 20


def scan_columns(path: Path | str) -> Iterator[tuple[str, JSON | RowError]]:
    """The rows of a Parquet file, or of an Arrow file or stream as ``datasets`` saves them; ``where`` is ``file[index]``.

    Raises:
        UserError: it is no such file, or damaged.
    """
    import pyarrow

    must_be_file(path)
    index = 0
    try:
        for batch in _batches(str(path)):
            batch.validate(full=True)  # Arrow trusts the offsets of a file; damaged ones lead outside of it
            for row in batch.to_pylist():
                where = f"{path}[{index}]"
                yield where, plain_row(row, where)
                index += 1
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        kind = suffix_of(path).removeprefix(".").capitalize()
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: not a readable {kind} file ({reason}); {index:,} rows were read before") from None


def _batches(path: str) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    if suffix_of(path) == ".parquet":
        # without a buffer of its own a whole row group, often the whole file, is read at once
        with pyarrow.parquet.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
            yield from file.iter_batches(batch_size=AT_ONCE)
        return
    with pyarrow.OSFile(path) as source:
        stream = source.read(6) != b"ARROW1"
        source.seek(0)
        opened = pyarrow.ipc.open_stream(source) if stream else pyarrow.ipc.open_file(source)
        batches = opened if stream else (opened.get_batch(i) for i in range(opened.num_record_batches))
        for batch in batches:
            yield from (batch.slice(start, AT_ONCE) for start in range(0, batch.num_rows, AT_ONCE))


def plain_row(row: Mapping[str, Any], where: str) -> JSON | RowError:
    """``row`` in the values that JSON has: dates as ISO 8601 text, decimals and durations (in seconds) as numbers, NaN as null."""
    field = ""
    try:
        out = {}
        for name, value in row.items():
            field = str(name)
            out[field] = plain(value)
        return out
    except (ValueError, RecursionError) as error:
        found = bad_field(where, field, row[field], "leave that column out, or write it as text")
        return found if not isinstance(error, RecursionError) else RowError(where, f"field '{field}' is nested too deeply", field=field)


def plain(value: Any) -> Any:
    """One value as JSON has it.

    Raises:
        ValueError: it has no form in JSON: bytes that are no text, infinity.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise ValueError("infinity")
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return plain(int(value) if value == value.to_integral_value() else float(value))
    if isinstance(value, bytes):
        return value.decode()  # UnicodeDecodeError is a ValueError
    raise ValueError(type(value).__name__)
