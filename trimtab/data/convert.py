"""``trimtab data convert`` and ``check``: any file that is read -> native records or TRL's rows; or only the account of its rows."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from trimtab.common.errors import RowError, UserError
from trimtab.common.files import check_writable
from trimtab.data.files.write import write_lines
from trimtab.data.formats import DEFAULT, Account, Found, Kind, ReadSettings, left_out_file, only, stream
from trimtab.data.formats.as_trl import TRL_TYPES, Style, trl_rows
from trimtab.records import Record, dump

To = Literal[
    "native", "prompts", "demonstrations", "comparisons", "trl-prompt", "trl-prompt-completion", "trl-language-modeling",
    "trl-preference", "trl-unpaired", "trl-stepwise",
]  # fmt: skip
KINDS: dict[str, Kind] = {"prompts": "prompt", "demonstrations": "demonstration", "comparisons": "comparison"}


class ConvertSettings(ReadSettings):
    """Settings of ``trimtab data convert``."""

    to: To = Field("native", description="what to write: the native records, those of one kind, or rows of one of TRL's types")
    style: Style = Field("conversational", description="TRL's rows as messages, or as plain text (prompts of one message only)")
    overwrite: bool = Field(False, description="replace the file that is there")
    keep: list[str] = Field([], description="fields of the records to write beside TRL's own, such as [id, ground_truth]")


def convert_file(path: Path | str, out: Path | str, settings: ConvertSettings | None = None) -> Account:
    """Writes the records of ``path`` to ``out``, one a line, complete or not at all, and returns the account of the rows.

    Memory does not grow with the file.

    Raises:
        UserError: the file cannot be read, or has bad rows and ``skip_bad`` is off; nothing in it can be written so; ``out`` is no
            ``.jsonl``, is ``path`` itself or cannot be written.
    """
    settings = settings or ConvertSettings()
    settings = settings.model_copy(update={"left_out": str(left_out_of(path, out, settings).parent)})
    if Path(out).exists() and Path(path).exists() and Path(out).samefile(path):
        raise UserError(f"{out}: is the file that is read, and rows that are left out would be lost; choose another name")
    check_writable(out, overwrite=settings.overwrite)
    account = Account(path)
    write_lines(out, _something(stream(path, settings, account, _writer(settings)), account, settings.to))
    return account


def left_out_of(path: Path | str, out: Path | str, settings: ConvertSettings) -> Path:
    """Where rows of ``path`` that ``skip_bad`` leaves out are written: in ``left_out``, or beside ``out``."""
    return left_out_file(path, settings.model_copy(update={"left_out": settings.left_out or str(Path(out).parent)}))


def check_file(path: Path | str, settings: ReadSettings = DEFAULT) -> Account:
    """Reads every row and keeps account of them; bad rows are in it, not raised.

    Raises:
        UserError: there is no such file, or it holds no rows; or ``settings`` name an unknown format.
    """
    account = Account(path)
    try:
        for _ in stream(path, settings.model_copy(update={"skip_bad": False}), account, only(None)):
            pass
    except UserError:
        if not account.rows:
            raise
    if not account.rows:
        raise UserError(f"{path}: holds no rows")
    return account


def _writer(settings: ConvertSettings) -> Callable[[Record, Found], list[str]]:
    """What makes lines of a record."""
    take = only(KINDS.get(settings.to))

    def lines(record: Record, found: Found) -> list[str]:
        if settings.to in TRL_TYPES:
            rows = trl_rows(record, settings.to, settings.style, settings.keep, found.where)
            return [json.dumps(row, ensure_ascii=False) for row in rows]
        return [_dumped(kept, found.where) for kept in take(record, found)]

    return lines


def _dumped(record: Record, where: str) -> str:
    try:
        return dump(record)
    except UserError as error:
        raise RowError(where, str(error), reason="a record that is no JSON") from None


def _something(lines: Iterator[str], account: Account, to: str) -> Iterator[str]:
    """``lines``, of which there must be one: an empty file would be found out much later."""
    yield from lines
    if not account.kept:
        said = f"nothing in it can be written with to={to}: {account}" if account.rows else "holds no rows"
        raise UserError(f"{account.path}: {said}")
