"""What a format is, the settings it is read with, and the small helpers that its functions share."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from trimtab.common.config import Settings
from trimtab.common.errors import RowError, bad_field
from trimtab.records import JSON


class RankSettings(Settings):
    """What rank numbers mean where the format does not say."""

    best: Literal["stated", "low", "high"] = Field(
        "stated", description="which rank is best: low (0 or 1), high, or stated (1, or what the format defines)"
    )


class LookSettings(Settings):
    """How the rows of a file are understood."""

    format: str = Field("", description="name of the data's format; empty = detected row by row")
    fields: dict[str, str] = Field(
        {}, description="the file's own names of fields, fields.prompt=question; a dot reaches inside, fields.prompt=data.question"
    )
    ranks: RankSettings = Field(RankSettings(), description="what rank numbers mean")


class ReadSettings(LookSettings):
    """How a file of records is read, and what becomes of rows that cannot be."""

    skip_bad: bool = Field(False, description="leave out rows that cannot be read, and write them with the reasons to a file")
    left_out: str = Field("", description="folder of that file; empty = the run's folder, or beside what is written or read")


DEFAULT = ReadSettings()


def only_looking(settings: LookSettings) -> ReadSettings:
    """The same, for the functions that read."""
    return ReadSettings(format=settings.format, fields=settings.fields, ranks=settings.ranks)


# A row in native terms: what it holds as prompts, demonstrations or comparisons; none where it says nothing.
Reader = Callable[[JSON, str, ReadSettings], list[JSON]]


@dataclass(frozen=True, slots=True)
class Format:
    """A format: how its rows are recognised, and what they are in native terms.

    A row of it has the fields ``needs``, none of them null, and passes ``test``. ``example`` is such a row: tests read it, and
    docs/data.md shows it.
    """

    name: str
    about: str
    needs: frozenset[str]
    native: Reader
    example: JSON
    test: Callable[[JSON], bool] = lambda row: True


def fields(*names: str) -> frozenset[str]:
    """What a format needs."""
    return frozenset(names)


def has(row: JSON, *names: str) -> bool:
    """Whether the fields ``names`` are there and not null."""
    return all(row.get(name) is not None for name in names)


def without(row: JSON, *names: str) -> JSON:
    """``row`` without the fields that a format uses up; the others stay in the record."""
    return {k: v for k, v in row.items() if k not in names}


def mapping(value: Any) -> Mapping[str, Any]:
    """``value`` if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def objects(value: Any) -> bool:
    """Whether ``value`` is a list of objects with something in it."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def text(row: Mapping[str, Any], name: str, where: str, field: str = "") -> str:
    """The text in a field; ``field`` is what to call it in the error.

    Raises:
        RowError: there is something else.
    """
    value = row[name]
    if not isinstance(value, str):
        raise bad_field(where, field or name, value, "write text")
    return value


def choice(value: Any, meanings: Mapping[Any, Any], where: str, field: str) -> Any:
    """What ``value`` means; numbers may come as text (``"1"``), and text in any case.

    Raises:
        RowError: it means nothing.
    """
    key = value.strip().lower() if isinstance(value, str) else value
    if isinstance(key, str) and key not in meanings:
        key = number(key)
    if isinstance(key, str | int | float | None) and key in meanings:
        return meanings[key]
    raise bad_field(where, field, value, f"write {' or '.join(dict.fromkeys(map(_plain, meanings)))}")


def number(value: Any) -> float | int | None:
    """A number, also one that came as text (tables have nothing else); None where there is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
        return number(value) if isinstance(value, int | float) else None
    return value if value == value else None


def refusal(reason: str) -> Reader:
    """The reader of a format that is known, and known to hold no records."""

    def refuse(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
        raise RowError(where, reason, reason=reason.partition(";")[0])

    return refuse


def _plain(value: Any) -> str:
    return "null" if value is None else str(value).lower()
