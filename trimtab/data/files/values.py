"""One row of JSON: an object that can be written again as it was read, or the error that says why not."""

import json
import re
from typing import Any

from trimtab.common.errors import RowError
from trimtab.records import JSON

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
KINDS = {list: "a list", str: "a string", int: "a number", float: "a number", bool: "a truth value", type(None): "null"}


class NotPlain(ValueError):
    """JSON that Python reads and that has no one meaning: a field given twice, a number that is none."""


def _unique(pairs: list[tuple[str, Any]]) -> JSON:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise NotPlain(f"field {twice!r:.80} is given twice")
    return row


def _constant(name: str) -> None:
    """NaN is what pandas and others write for a missing value: it is read as null. There is no such use of infinity."""
    if name != "NaN":
        raise NotPlain(f"{name} is not a number of JSON; write null")


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant)
LENIENT = json.JSONDecoder()  # only to find the end of what DECODER refuses


def parse_row(raw: bytes, where: str) -> JSON | RowError:
    """The object that a line of JSON holds, or why it is none."""
    try:
        text = raw.decode()
        return as_object(DECODER.decode(text), text, where)
    except UnicodeDecodeError as error:
        found = RowError(where, f"not UTF-8 text ({error.reason} at byte {error.start} of the line)", reason="not UTF-8 text")
    except (ValueError, RecursionError) as error:
        found = not_json(where, error)
    found.row = raw.decode(errors="replace").rstrip("\r\n")
    return found


def as_object(value: Any, text: str, where: str) -> JSON | RowError:
    """``value`` if it is an object whose strings are text that can be written again."""
    if not isinstance(value, dict):
        found = f"found {kind_of_value(value)}, needed a JSON object"
        return _with_row(RowError(where, f'{found}, such as {{"prompt": "..."}}', reason=found), value)
    if SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            said = "a lone surrogate (\\ud800-\\udfff) is not a character; remove it"
            return _with_row(RowError(where, said, reason="a lone surrogate"), text)
        except RecursionError as error:
            return _with_row(not_json(where, error), text)
    return value


def not_json(where: str, error: Exception) -> RowError:
    """The error of text that is no JSON."""
    if isinstance(error, json.JSONDecodeError):
        said = f"{error.msg.removesuffix(' at')} at column {error.colno}"
    elif isinstance(error, NotPlain):
        return RowError(where, str(error), reason="ambiguous JSON")
    else:  # Python's own limits
        said = "nested too deeply" if isinstance(error, RecursionError) else "a number of thousands of digits"
    return RowError(where, f"not JSON ({said})", reason="not JSON")


def kind_of_value(value: Any) -> str:
    """``a list``, ``a number``."""
    return KINDS.get(type(value), type(value).__name__)


def _with_row(error: RowError, row: Any) -> RowError:
    error.row = row
    return error
