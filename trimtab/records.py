"""What people write and say: prompts, demonstrations, comparisons. One JSON object a line; unknown fields are kept.

These types know nothing of tokens or models. ``data/`` reads them from every other format; ``trees.py`` is what models see.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trimtab.common.errors import RowError, UserError, bad_field, missing_field

JSON = dict[str, Any]
ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked: the messages before the answer, and where they came from.

    ``extra`` holds every field that trimtab does not know (the village keeps the task's specification there).
    """

    id: str
    messages: tuple[Message, ...]
    user: str | None = None
    use_case: str | None = None
    source: str | None = None
    extra: JSON = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The last message's text: what a person would call the prompt of a single-turn record."""
        return self.messages[-1].content

    def to_json(self) -> JSON:
        known = {"user": self.user, "use_case": self.use_case, "source": self.source}
        return {
            "id": self.id,
            "messages": [{"role": m.role, "content": m.content} for m in self.messages],
            **{k: v for k, v in known.items() if v is not None},
            **self.extra,
        }


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt and the answer somebody wrote for it."""

    prompt: Prompt
    completion: str

    def to_json(self) -> JSON:
        return {**self.prompt.to_json(), "completion": self.completion}


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of a comparison.

    ``token_ids`` are used for training only when ``tokenizer`` (a sha256) is the training tokenizer's own; ``stop`` says why
    sampling ended (``end``, ``length`` or ``string``): an end token is appended unless it was ``length``.
    """

    text: str
    model: str | None = None
    token_ids: tuple[int, ...] | None = None
    tokenizer: str | None = None
    stop: str | None = None

    def to_json(self) -> JSON:
        out: JSON = {"text": self.text}
        for name in ("model", "tokenizer", "stop"):
            if getattr(self, name) is not None:
                out[name] = getattr(self, name)
        if self.token_ids is not None:
            out["token_ids"] = list(self.token_ids)
        return out


@dataclass(frozen=True, slots=True)
class Comparison:
    """K answers to one prompt and what one labeler said of them; sampled answers that nobody ranked yet have all ranks None.

    ``ranks[k]`` is 1 for the best; equal numbers tie; ``None`` leaves an answer out of every pair. ``weight`` is what the ranking counts in
    training: 2 as much as the same ranking twice.
    """

    prompt: Prompt
    completions: tuple[Completion, ...]
    ranks: tuple[int | None, ...]
    labeler: str | None = None
    ratings: tuple[int, ...] | None = None
    flags: tuple[tuple[str, ...], ...] | None = None
    shown_order: tuple[int, ...] | None = None
    seconds: float | None = None
    weight: float | None = None
    extra: JSON = field(default_factory=dict)

    def pairs(self) -> list[tuple[int, int]]:
        """``pairs_of`` its ranks."""
        return pairs_of(self.ranks)

    def among(self, models: Sequence[str]) -> "Comparison":
        """The same labeler's word on the answers of these models alone; whoever else was on show is forgotten."""
        kept = [i for i, c in enumerate(self.completions) if c.model in models]
        return replace(
            self, completions=tuple(self.completions[i] for i in kept), ranks=tuple(self.ranks[i] for i in kept), shown_order=None,
            ratings=tuple(self.ratings[i] for i in kept) if self.ratings else None,
            flags=tuple(self.flags[i] for i in kept) if self.flags else None,
        )  # fmt: skip

    def to_json(self) -> JSON:
        out = {
            **self.prompt.to_json(),
            "completions": [c.to_json() for c in self.completions],
            "ranks": list(self.ranks),
        }
        if self.labeler is not None:
            out["labeler"] = self.labeler
        if self.ratings is not None:
            out["ratings"] = list(self.ratings)
        if self.flags is not None:
            out["flags"] = [list(f) for f in self.flags]
        if self.shown_order is not None:
            out["shown_order"] = list(self.shown_order)
        if self.seconds is not None:
            out["seconds"] = self.seconds
        if self.weight is not None:
            out["weight"] = self.weight
        return {**out, **self.extra}


Record = Prompt | Demonstration | Comparison

PROMPT_FIELDS = ("id", "messages", "user", "use_case", "source")
RANK_ADVICE = "write a whole number from 1 (best), or null for unranked; for other numbers add ranks.best=low (or high)"
COMPARISON_FIELDS = ("completions", "ranks", "labeler", "ratings", "flags", "shown_order", "seconds", "weight")


def parse_prompt(row: Mapping[str, Any], where: str, *, taken: Sequence[str] = ()) -> Prompt:
    """A prompt from a JSON object; ``where`` (``file:line``) opens every error; fields in ``taken`` do not go to ``extra``.

    Raises:
        UserError: a field is missing or has the wrong type.
    """
    messages = parse_messages(_need(row, "messages", list, where), where)
    if messages[-1].role == "assistant":
        raise RowError(where, "messages end with role 'assistant'; a prompt ends with 'user' (put the answer in 'completion')")
    extra = {k: v for k, v in row.items() if k not in PROMPT_FIELDS and k not in taken}
    return Prompt(
        id=str(row["id"]) if row.get("id") is not None else where,
        messages=messages,
        user=_optional_text(row, "user", where),
        use_case=_optional_text(row, "use_case", where),
        source=_optional_text(row, "source", where),
        extra=extra,
    )


def parse_messages(rows: Sequence[Any], where: str) -> tuple[Message, ...]:
    """Messages from ``[{"role", "content"}, ...]``.

    Raises:
        UserError: the list is empty, or a message lacks role or content, or has an unknown role.
    """
    if not rows:
        raise bad_field(where, "messages", rows, "give at least one {'role': 'user', 'content': '...'}")
    out = []
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping) or not isinstance(row.get("content"), str):
            raise bad_field(where, f"messages[{i}]", row, "write {'role': 'user', 'content': '...'}")
        if row.get("role") not in ROLES:
            raise bad_field(where, f"messages[{i}].role", row.get("role"), f"write one of {', '.join(ROLES)}")
        out.append(Message(row["role"], row["content"]))
    return tuple(out)


def parse_demonstration(row: Mapping[str, Any], where: str) -> Demonstration:
    """A demonstration from a JSON object.

    Raises:
        UserError: a field is missing or has the wrong type.
    """
    completion = _need(row, "completion", str, where)
    return Demonstration(parse_prompt(row, where, taken=("completion",)), completion)


def parse_comparison(row: Mapping[str, Any], where: str) -> Comparison:
    """A comparison from a JSON object.

    Raises:
        UserError: a field is missing, has the wrong type, or ranks and completions differ in number.
    """
    rows = _need(row, "completions", list, where)
    if not rows:
        raise bad_field(where, "completions", rows, "give at least one {'text': '...'}")
    completions = tuple(_parse_completion(c, i, where) for i, c in enumerate(rows))
    ranks = _need(row, "ranks", list, where)
    if len(ranks) != len(completions):
        raise RowError(
            where, f"'ranks' has {len(ranks)} entries for {len(completions)} completions; write one rank for each",
            reason="wrong field 'ranks'", field="ranks",
        )  # fmt: skip
    for i, rank in enumerate(ranks):
        if rank is not None and (not isinstance(rank, int) or isinstance(rank, bool) or rank < 1):
            raise bad_field(where, f"ranks[{i}]", rank, RANK_ADVICE)
    ratings, flags, shown = row.get("ratings"), row.get("flags"), row.get("shown_order")
    for name, value in (("ratings", ratings), ("flags", flags), ("shown_order", shown)):
        if value is not None and (not isinstance(value, list) or len(value) != len(completions)):
            raise bad_field(where, name, value, "write a list with one entry for each completion")
    for i, rating in enumerate(ratings or ()):
        if not isinstance(rating, int) or isinstance(rating, bool):
            raise bad_field(where, f"ratings[{i}]", rating, "write a whole number")
    seconds = row.get("seconds")
    if seconds is not None and (not isinstance(seconds, (int, float)) or isinstance(seconds, bool)):
        raise bad_field(where, "seconds", seconds, "write a number")
    for i, raised in enumerate(flags or ()):
        if not isinstance(raised, list) or not all(isinstance(flag, str) for flag in raised):
            raise bad_field(where, f"flags[{i}]", raised, "write a list of names, empty where nothing was flagged")
    return Comparison(
        prompt=parse_prompt(row, where, taken=COMPARISON_FIELDS),
        completions=completions,
        ranks=tuple(ranks),
        labeler=_optional_text(row, "labeler", where),
        ratings=tuple(ratings) if ratings is not None else None,
        flags=tuple(tuple(f) for f in flags) if flags is not None else None,
        shown_order=tuple(shown) if shown is not None else None,
        seconds=seconds,
        weight=parse_weight(row, where),
    )


def parse_weight(row: Mapping[str, Any], where: str) -> float | None:
    """The field ``weight`` of a JSON object, None where it has none.

    Raises:
        UserError: it is not a finite number above 0.
    """
    weight = row.get("weight")
    if weight is None:
        return None
    if not isinstance(weight, (int, float)) or isinstance(weight, bool) or not 0 < weight < math.inf:
        raise bad_field(where, "weight", weight, "write a number above 0 (a row that is to count nothing is left out)")
    return float(weight)


def parse_record(row: Mapping[str, Any], where: str) -> Record:
    """The native record that ``row`` is: a comparison has ``completions``, a demonstration ``completion``, a prompt neither.

    Raises:
        UserError: it is none of them.
    """
    if "completions" in row:
        return parse_comparison(row, where)
    if "completion" in row:
        return parse_demonstration(row, where)
    return parse_prompt(row, where)


def dump(record: Record) -> str:
    """One line of JSON, without the newline.

    Raises:
        UserError: what it holds is no JSON: NaN, half a character (a lone surrogate), something that is no data.
    """
    try:
        line = ENCODER.encode(record.to_json())
        line.encode()
    except (ValueError, TypeError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
        prompt = record if isinstance(record, Prompt) else record.prompt
        reason = "a lone surrogate is not a character" if isinstance(error, UnicodeEncodeError) else str(error)
        raise UserError(f"record {prompt.id!r} cannot be written as JSON: {reason}") from None
    return line


def _parse_completion(row: Any, index: int, where: str) -> Completion:
    if not isinstance(row, Mapping) or not isinstance(row.get("text"), str):
        raise bad_field(where, f"completions[{index}]", row, "write {'text': '...'}")
    ids = row.get("token_ids")
    if row.get("stop") not in (None, "end", "length", "string"):
        raise bad_field(where, f"completions[{index}].stop", row["stop"], "write end, length or string")
    for name in ("model", "tokenizer"):
        if row.get(name) is not None and not isinstance(row[name], str):
            raise bad_field(where, f"completions[{index}].{name}", row[name], "write a string")
    if ids is not None and not (isinstance(ids, list) and all(isinstance(t, int) for t in ids)):
        raise bad_field(where, f"completions[{index}].token_ids", ids, "write a list of whole numbers")
    return Completion(
        row["text"], row.get("model"), tuple(ids) if ids is not None else None, row.get("tokenizer"), row.get("stop")
    )


def _need(row: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    if name not in row:
        raise missing_field(where, name, row)
    if not isinstance(row[name], kind):
        raise bad_field(where, name, row[name], f"it must be a {'string' if kind is str else kind.__name__}")
    return row[name]


def _optional_text(row: Mapping[str, Any], name: str, where: str) -> str | None:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise bad_field(where, name, value, "it must be a string")
    return value


def pairs_of(ranks: Sequence[int | None]) -> list[tuple[int, int]]:
    """(better, worse) for every pair of ranked answers that is not a tie, in order of index; ``[2, 1, None]`` -> [(1, 0)]."""
    out = []
    for i, a in enumerate(ranks):
        for j in range(i + 1, len(ranks)):
            b = ranks[j]
            if a is not None and b is not None and a != b:
                out.append((i, j) if a < b else (j, i))
    return out
