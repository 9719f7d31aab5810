"""What a label says, checked. A ranking travels in the order of the screen and is kept in the order of the task's completions.

Kept values are JSON: ``{"ranks": [1, 2, 2], "ratings": [6, 3, 3], "flags": [[], ["made_up"], []], "note": ""}`` for ``rank`` and
``compare``; ``{"text": ..., "note": ...}`` for ``write``; ``{"style", "text", "examples", "use_case", "note"}`` for ``prompt``.
"""

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from trimtab.label.errors import Invalid
from trimtab.label.settings import BEST_RATING, FLAGS, ProjectSettings
from trimtab.records import JSON

KINDS = ("write", "rank", "compare", "prompt")
RANKED = ("rank", "compare")
STYLES = ("plain", "few_shot", "use_case")
MOST_ANSWERS = 9
LONGEST_TEXT = 50_000
LONGEST_NOTE = 5_000
MOST_EXAMPLES = 8

T = TypeVar("T")


def checked(kind: str, raw: Any, shown: Sequence[int], settings: ProjectSettings) -> JSON:
    """A submitted value as it is kept.

    Args:
        shown: position on the screen -> index of the completion; empty for ``write`` and ``prompt``.

    Raises:
        Invalid: something is missing or is not what it should be.
    """
    if not isinstance(raw, dict):
        raise Invalid("the label is not an object")
    note = clean(raw.get("note") or "", "note", LONGEST_NOTE)
    if kind == "write":
        return {"text": _needed(raw.get("text"), "your answer", LONGEST_TEXT), "note": note}
    if kind == "prompt":
        return {**_prompt(raw), "note": note}
    return {**_ranking(kind, raw, shown, settings), "note": note}


def clean(value: Any, name: str, longest: int) -> str:
    """A text that every database can keep and every page can show.

    Raises:
        Invalid: it is no text, too long, or holds NUL or half a surrogate pair.
    """
    if not isinstance(value, str):
        raise Invalid(f"{name} is not a text")
    if len(value) > longest:
        raise Invalid(f"{name} has {len(value)} characters; at most {longest} can be kept")
    if "\x00" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise Invalid(f"{name} holds a character that is none (NUL or half a pair)")
    return value.replace("\r\n", "\n")


def check_json(value: Any, name: str, longest: int) -> None:
    """Refuses what one of the databases cannot keep as JSON, or an export cannot write.

    Raises:
        Invalid: it holds NaN, an infinite number or half a surrogate pair, or is too long.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise Invalid(f"{name} holds a number that is none (NaN, or too large)") from None
    clean(text, name, longest)


def to_completions(values: Sequence[T], shown: Sequence[int]) -> list[T]:
    """From the order of the screen to the order of the completions."""
    out = list(values)
    for position, index in enumerate(shown):
        out[index] = values[position]
    return out


def to_screen(values: Sequence[T], shown: Sequence[int]) -> list[T]:
    """From the order of the completions to the order of the screen."""
    return [values[index] for index in shown]


def on_screen(kind: str, value: JSON, shown: Sequence[int]) -> JSON:
    """A kept value in the order in which its labeler saw the answers: what undo puts back as a draft."""
    if kind not in RANKED:
        return value
    return {**value, **{name: to_screen(value[name], shown) for name in ("ranks", "ratings", "flags")}}


def dense(ranks: Sequence[int | None]) -> list[int | None]:
    """Ranks from 1 without gaps; equal numbers stay tied: [5, 2, None, 5] -> [2, 1, None, 2]."""
    place = {rank: i + 1 for i, rank in enumerate(sorted({r for r in ranks if r is not None}))}
    return [None if r is None else place[r] for r in ranks]


def written_out(ranks: Sequence[int | None], names: str = "ABCDEFGHI") -> str:
    """``D > C > A = B`` for [3, 3, 2, 1]; ``A = C; not ranked: B`` for [1, None, 1]."""
    tiers: dict[int, list[str]] = {}
    for name, rank in zip(names, ranks, strict=False):
        if rank is not None:
            tiers.setdefault(rank, []).append(name)
    out = [name for name, rank in zip(names, ranks, strict=False) if rank is None]
    return " > ".join(" = ".join(tiers[rank]) for rank in sorted(tiers)) + (f"; not ranked: {', '.join(out)}" if out else "")


def _ranking(kind: str, raw: JSON, shown: Sequence[int], settings: ProjectSettings) -> JSON:
    k = len(shown)
    ranks = _list(raw, "ranks", k)
    for rank in ranks:
        if rank is not None and (not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MOST_ANSWERS):
            raise Invalid("a rank is a whole number from 1 (best), or nothing for an answer that cannot be ranked")
    if sum(rank is not None for rank in ranks) < 2:
        raise Invalid("order at least two answers, or skip the task")
    ratings = _list(raw, "ratings", k) if raw.get("ratings") is not None else [None] * k
    for rating in ratings:
        if rating is not None and (
            not isinstance(rating, int) or isinstance(rating, bool) or not 1 <= rating <= BEST_RATING
        ):
            raise Invalid(f"a rating is a whole number from 1 to {BEST_RATING}")
    if kind == "rank" and settings.rate and None in ratings:
        raise Invalid(f"answer {'ABCDEFGHI'[ratings.index(None)]} has no rating yet")
    flags = _list(raw, "flags", k) if raw.get("flags") is not None else [[] for _ in range(k)]
    known = {*settings.flags, "both_bad"}
    for raised in flags:
        if not isinstance(raised, list) or not all(isinstance(f, str) and f in known for f in raised):
            raise Invalid(f"an answer's flags are names out of {', '.join(settings.flags) or 'none'}")
    return {
        "ranks": dense(to_completions(ranks, shown)),
        "ratings": to_completions(ratings, shown),
        "flags": to_completions(
            [sorted(set(f), key=[*FLAGS, "both_bad", *settings.flags].index) for f in flags], shown
        ),
    }


def _prompt(raw: JSON) -> JSON:
    style = raw.get("style")
    if style not in STYLES:
        raise Invalid(f"the style is one of {', '.join(STYLES)}")
    text = _needed(raw.get("text"), "the instruction", LONGEST_TEXT)
    given = raw.get("examples") or []
    if not isinstance(given, list) or len(given) > MOST_EXAMPLES or not all(isinstance(e, dict) for e in given):
        raise Invalid(f"examples are at most {MOST_EXAMPLES} pairs of a query and its response")
    examples = [
        {name: _needed(e.get(name), f"the {name} of example {i}", LONGEST_TEXT) for name in ("query", "response")}
        for i, e in enumerate(given, 1)
    ]
    if style == "few_shot" and len(examples) < 2:
        raise Invalid("a few-shot prompt has at least two examples, each a query and its response")
    use_case = clean(raw.get("use_case") or "", "use case", 64)
    return {
        "style": style,
        "text": text,
        "examples": examples if style == "few_shot" else [],
        "use_case": use_case or None,
    }


def _needed(value: Any, name: str, longest: int) -> str:
    text = clean(value if value is not None else "", name, longest)
    if not text.strip():
        raise Invalid(f"{name} is empty")
    return text


def _list(raw: JSON, name: str, k: int) -> list[Any]:
    value = raw.get(name)
    if not isinstance(value, list) or len(value) != k:
        raise Invalid(f"{name} has one entry for each of the {k} answers")
    return value
