"""What a user is meant to see: one line for each thing that can be mended."""

from collections.abc import Iterable
from itertools import islice
from typing import Any


class UserError(Exception):
    """Something the user can mend: wrong input, a missing file, a full disk.

    The message is one line: what was given, where (``file:line``), and what to write instead. The command line
    prints it without a traceback and ends with exit status 2; ``details`` are lines that it prints above.
    """

    details: tuple[str, ...] = ()


class RowError(UserError):
    """A row of a file that cannot be read: where it stands, which field, and why.

    ``reason`` says it without the row's values, so that rows can be counted by it. ``row`` is what stood there, for the
    file of rows that were left out.
    """

    def __init__(self, where: str, text: str, *, reason: str = "", field: str = "") -> None:
        super().__init__(f"{where}: {text}")
        self.where, self.text, self.reason, self.field = where, text, reason or text, field
        self.row: Any = None


class Interrupted(UserError):
    """Ctrl-C: what was done is kept, and the same command goes on from there."""


class RunFailed(UserError):
    """A run ended for what no input explains (a loss or logits that are not finite). The command line ends with exit status 1."""


def bad_field(where: str, field: str, value: Any, advice: str) -> RowError:
    """``file:7: ranks[0] is 0; write a whole number from 1``."""
    name = field if "[" in field else f"field '{field}'"
    return RowError(where, f"{name} is {shown(value)}; {advice}", reason=f"wrong field '{field.split('[')[0]}'", field=field)


def missing_field(where: str, field: str, row: Iterable[Any]) -> RowError:
    """``file:7: field 'completion' is missing (found: prompt, id)``."""
    said = f"field '{field}' is missing"
    return RowError(where, f"{said} (found: {names(row)})", reason=said, field=field)


def names(row: Iterable[Any]) -> str:
    """The first twelve fields of a row, on one line: ``prompt, id``; ``nothing`` where there are none."""
    fields = [name if isinstance(name, str) and name.isprintable() else repr(name) for name in islice(row, 13)]
    return ", ".join(field[:60] for field in fields[:12]) + (", ..." if len(fields) > 12 else "") or "nothing"


def shown(value: Any) -> str:
    """A value as Python writes it, cut after 60 characters, on one line."""
    if isinstance(value, str) and len(value) > 60:
        value = value[:60]  # before repr: a value may be megabytes
        return f"{value!r:.57}..."
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; a number of thousands of digits
        return f"a {type(value).__name__} that is too long to be shown"
    return text if len(text) <= 60 else text[:57] + "..."
