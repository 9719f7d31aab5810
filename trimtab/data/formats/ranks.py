"""Ranks from whatever says which answer is better: 1 is the best, equal numbers tie, None leaves an answer out."""

from collections.abc import Sequence
from typing import Any, Literal

from trimtab.common.errors import bad_field
from trimtab.data.formats.base import number


def dense_ranks(values: Sequence[float | None], best: Literal["low", "high"]) -> list[int | None]:
    """Ranks from 1 (best) without gaps; equal values tie, None stays None. ``best="high"``: [0, 2, 2] -> [2, 1, 1]."""
    order = sorted({v for v in values if v is not None}, reverse=best == "high")
    place = {value: i + 1 for i, value in enumerate(order)}
    return [None if v is None else place[v] for v in values]


def numbers(values: Any, where: str, field: str) -> list[float | None]:
    """A list of numbers and nulls.

    Raises:
        RowError: there is something else.
    """
    if not isinstance(values, list):
        raise bad_field(where, field, values, "write a list of numbers, null for an answer that has none")
    out = [number(value) for value in values]
    for i, (value, found) in enumerate(zip(values, out, strict=True)):
        if found is None and value is not None:
            raise bad_field(where, f"{field}[{i}]", value, "write a number, or null for an answer that has none")
    return out
