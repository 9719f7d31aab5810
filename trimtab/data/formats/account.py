"""An account of every row of a file: kept, or left out and why; the first errors in words; what was noticed on the way."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from trimtab.common.errors import RowError, UserError
from trimtab.common.files import atomic_write

FIRST_ERRORS = 20
NAMED_ROWS = 5  # of the rows with one and the same error, those that are named beside the first
HOPELESS = 10_000  # rows of a file, all of them bad: it is the wrong file, and need not be read to its end


@dataclass
class Alike:
    """Rows of which the same is wrong."""

    first: str  # where it stands
    rows: int = 0
    others: list[str] = field(default_factory=list)  # where the first NAMED_ROWS of them stand


@dataclass
class Account:
    """rows = kept + all of skipped. ``records`` counts what the kept rows hold, by kind; a row may hold several."""

    path: Path | str
    rows: int = 0
    kept: int = 0
    bad: int = 0  # of the rows left out, those that could not be read
    formats: Counter[str] = field(default_factory=Counter)
    records: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    errors: dict[str, Alike] = field(default_factory=dict)  # the first FIRST_ERRORS different ones
    first: dict[str, str] = field(default_factory=dict)  # where each note, and each reason of a row that is not bad, came first

    def refuse(self, error: RowError) -> None:
        """Counts a bad row, and keeps what is wrong with it if it is among the first."""
        self.bad += 1
        self.skipped[error.reason] += 1
        if error.text not in self.errors and len(self.errors) < FIRST_ERRORS:
            self.errors[error.text] = Alike(error.where)
        if (alike := self.errors.get(error.text)) is not None:
            alike.rows += 1
            if 1 < alike.rows <= NAMED_ROWS + 1:
                alike.others.append(error.where)

    def skip(self, reason: str, where: str) -> None:
        """Counts a row that can be read and gives nothing."""
        self.skipped[reason] += 1
        self.first.setdefault(reason, where)

    def note(self, notes: Iterable[str], where: str) -> None:
        """Counts what was noticed in a row."""
        for note in notes:
            self.notes[note] += 1
            self.first.setdefault(note, where)

    def problems(self) -> list[str]:
        """The first errors and a count of the others, one line each; rows with the same error share a line."""
        lines = [self._line(text, alike) for text, alike in self.errors.items()]
        more = self.bad - sum(alike.rows for alike in self.errors.values())
        return [*lines, *([f"... and {more:,} more"] if more else [])]

    def _line(self, text: str, alike: Alike) -> str:
        """``a.jsonl:4: no known format (and in 24 more rows: 5, 6, 7, 8, 9, ...)``."""
        if alike.rows == 1:
            return f"{alike.first}: {text}"
        others = [where.removeprefix(str(self.path)).lstrip(":") for where in alike.others]
        dots = ["..."] if alike.rows - 1 > len(others) else []
        return f"{alike.first}: {text} (and in {many(alike.rows - 1, 'more row')}: {', '.join(others + dots)})"

    def raise_errors(self, *, ended: bool = True) -> None:
        """Ends the reading of a file that has bad rows.

        Raises:
            UserError: there are any.
        """
        if not self.bad:
            return
        problems, (text, first) = self.problems(), next(iter(self.errors.items()))
        if self.bad == 1 and ended:
            raise UserError(problems[0])
        counted = f"{self.bad:,} of {self.rows:,} rows cannot be read" if ended else f"none of the first {self.rows:,} rows can be read"
        more = "; skip_bad=true leaves such rows out" if self.kept else ""
        told = problems[0] if len(problems) == 1 else f"{first.first}: {text}"
        failed = UserError(f"{self.path}: {counted}, the first: {told}{more}")
        failed.details = tuple(problems) if len(problems) > 1 else ()
        raise failed

    def __str__(self) -> str:
        """``5 rows (alpaca 5), 4 kept with 4 demonstrations; 1 left out: not JSON 1``."""
        found = f" ({_counts(self.formats)})" if self.formats else ""
        held = f" with {_counts(self.records, plural=True)}" if self.records else ""
        out = f"{many(self.rows, 'row')}{found}, {self.kept:,} kept{held}"
        if self.skipped:
            out += f"; {sum(self.skipped.values()):,} left out: {_counts(self.skipped)}"
        return out

    def remarks(self) -> list[str]:
        """What was noticed, and what was left out though it can be read: where first and in how many rows, one line each."""
        found = dict(self.notes.most_common()) | {reason: n for reason, n in self.skipped.items() if reason in self.first}
        return [
            f"{self.first[said]}: {'' if said in self.notes else 'left out, '}{said} ({many(n, 'row')}{' from here on' if n > 1 else ''})"
            for said, n in found.items()
        ]


class LeftOut:
    """The file of rows that were left out, one JSON object a line: where, reason, error, row. There is none where none were."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._writing: Any = None
        self._file: IO[bytes] | None = None

    def add(self, where: str, reason: str, error: str, row: Any) -> None:
        """Writes one row; nothing if no file is wanted."""
        if self.path is None:
            return
        if self._file is None:
            self._writing = atomic_write(self.path)
            self._file = open(self._writing.__enter__(), "wb")
        told = {"where": where, "reason": reason, "error": error}
        try:
            line = json.dumps({**told, "row": row}, ensure_ascii=False)
        except RecursionError:  # what was nested too deeply to be read is too deep to be written
            line = json.dumps({**told, "row": None}, ensure_ascii=False)
        self._file.write(line.encode(errors="replace") + b"\n")

    def __enter__(self) -> "LeftOut":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
        if self._writing is not None:
            self._writing.__exit__(kind, error, trace)
        elif self.path is not None and kind is None:
            self.path.unlink(missing_ok=True)  # that of an earlier reading would tell of rows that are mended


def _counts(counter: Counter[str], plural: bool = False) -> str:
    if plural:
        return ", ".join(many(n, name) for name, n in counter.most_common())
    return ", ".join(f"{name} {n:,}" for name, n in counter.most_common())


def many(n: int, name: str) -> str:
    """``1 row``, ``2,000 rows``."""
    return f"{n:,} {name}{'' if n == 1 else 's'}"
