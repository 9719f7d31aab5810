"""One row, whose format is known -> native records."""

import os
import re
from collections.abc import Mapping
from typing import Any

from trimtab.common.errors import RowError, names
from trimtab.data.formats.base import DEFAULT, ReadSettings, mapping
from trimtab.data.formats.table import BY_NAME
from trimtab.data.formats.tidy import tidy
from trimtab.records import JSON, Record, parse_record

LINE_OF_ELEMENT = re.compile(r":\d+(?=\[\d+\]$)")
# What tells the kinds of records apart: null, as tables of columns have it, is as good as absent.
TELLING = ("completion", "completions", "ranks")


def own_id(where: str) -> str:
    """``data/a.jsonl:7`` -> ``a.jsonl:7``, ``a.json:57[3]`` -> ``a.json[3]``: an id that stays when the file is moved or indented,
    and with it the random streams that are drawn for the prompt."""
    return LINE_OF_ELEMENT.sub("", os.path.basename(where))


def convert(row: JSON, name: str, where: str, settings: ReadSettings = DEFAULT) -> list[Record]:
    """The records of a row that has the format ``name``.

    Raises:
        RowError: a field is missing or has the wrong type.
    """
    return converted(row, name, where, settings)[0]


def converted(row: JSON, name: str, where: str, settings: ReadSettings) -> tuple[list[Record], list[str]]:
    """``convert``, and what was done to the row, in a few words.

    Raises:
        RowError: as ``convert``.
    """
    out, notes = [], []
    try:
        rows = BY_NAME[name].native(row, where, settings)
        for i, found in enumerate(rows):
            native, done = tidy({k: v for k, v in found.items() if v is not None or k not in TELLING}, where, name == "native")
            notes += done
            as_text = {k: str(native[k]) for k in ("user", "use_case", "source") if isinstance(native.get(k), int | float)}
            if native.get("id") is None:
                as_text["id"] = own_id(where) if len(rows) == 1 else f"{own_id(where)}-{i}"
            out.append(parse_record({**native, **as_text}, where))
    except KeyError as error:
        said = f"field {error} is missing"
        raise RowError(where, f"{said} for format {name} (found: {names(row)})", reason=said, field=str(error.args[0])) from None
    except (TypeError, AttributeError, ValueError, RecursionError) as error:  # a nested field is something else
        said = f"a field has the wrong type for format {name} (found: {names(row)}; {error})"
        raise RowError(where, " ".join(said.split()), reason="a field of the wrong type") from None
    return out, notes


def renamed(row: JSON, fields: Mapping[str, str], where: str) -> JSON:
    """``row`` with the user's names of fields replaced by ours.

    Raises:
        RowError: one of them is not there.
    """
    found = {ours: _reached(row, theirs, where) for ours, theirs in fields.items()}
    used = {*fields, *fields.values()}
    return {**{k: v for k, v in row.items() if k not in used}, **found} if fields else row


def _reached(row: JSON, name: str, where: str) -> Any:
    """The field that the user calls ``name``: of the row, or inside one of its fields, ``data.question``."""
    value: Any = row
    for part in [name] if name in row else name.split("."):
        if part not in mapping(value):
            said = f"fields names '{name}', which is not there (found: {names(row)})"
            raise RowError(where, said, reason=f"no field '{name}'", field=name)
        value = value[part]
    return value
