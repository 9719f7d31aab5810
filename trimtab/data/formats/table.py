"""The table of formats, and which of them a row has."""

import difflib
from collections.abc import Mapping

from trimtab.common.errors import RowError, UserError, names
from trimtab.data.formats import chats, instructions, native, pairs, rankings, tasks, trl
from trimtab.data.formats.base import Format
from trimtab.records import COMPARISON_FIELDS, JSON, PROMPT_FIELDS

FORMATS: tuple[Format, ...] = (  # the first that matches is taken: the more particular come first
    *native.FORMATS, *rankings.FORMATS, *chats.FORMATS, *pairs.FORMATS, *instructions.FORMATS, *trl.FORMATS, *tasks.FORMATS,
    chats.OPENAI, trl.PROMPT_ONLY, chats.TRANSCRIPT, rankings.RANKED_SUMMARIES,
)  # fmt: skip
BY_NAME = {form.name: form for form in FORMATS}

# Every field that some format knows, and those that a record has beside them.
KNOWN_FIELDS = {*PROMPT_FIELDS, *COMPARISON_FIELDS, "completion", "users", "system", "scores", "label"}
KNOWN_FIELDS |= {field for form in FORMATS for field in form.example if form.name != "ranked-summaries"}

# What people call the fields, in lower case.
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "prompt": (
        "question", "query", "instruction", "input", "problem", "request", "task", "user_input", "history", "user", "source",
    ),
    "completion": (
        "answer", "response", "output", "reply", "target", "solution", "completion_text", "generation", "assistant", "summary", "result",
    ),
    "chosen": ("accepted", "preferred", "better", "best", "winner", "positive", "good_answer", "good", "chosen_response"),
    "rejected": ("dispreferred", "worse", "worst", "loser", "negative", "bad_answer", "bad", "rejected_response"),
}  # fmt: skip


def detect(row: JSON, where: str = "row") -> str:
    """The name of the format that ``row`` has.

    Raises:
        RowError: it has none that is known.
    """
    present = {name for name, value in row.items() if value is not None}
    for form in FORMATS:
        if form.needs <= present and form.test(row):
            return form.name
    advice = f"write 'messages' or 'prompt', with 'completion' or with 'completions' and 'ranks'{suggestion(row) or _other_hint(row)}"
    raise RowError(where, f"no known format (fields: {names(row)}); {advice}", reason="no known format")


def _other_hint(row: JSON) -> str:
    if "text" in row:
        return "; 'text' alone is read by pretrain"
    if len(row) == 1 and isinstance(next(iter(row.values())), list):
        return f"; the rows seem to stand inside {names(row)}: write these, one a line"
    return ""


def suggestion(row: Mapping[str, object], wanted: tuple[str, ...] = tuple(OTHER_NAMES)) -> str:
    """``; try fields.prompt=question fields.completion=answer`` where there are other words for what a record needs, or nothing.

    A question with a context is an instruction with an input, which the format alpaca puts together.
    """
    texts = {name.lower(): name for name, value in row.items() if isinstance(value, str)}
    found = {}
    for ours in wanted:
        theirs = next((texts[name] for name in OTHER_NAMES[ours] if name in texts), None)
        if theirs is not None and ours not in row:
            found[ours] = theirs
    if "prompt" in found and "context" in texts and "completion" in found:
        found = {"instruction": found["prompt"], "input": texts["context"], "output": found["completion"]}
    if not found:
        return ""
    return f"; try {' '.join(f'fields.{ours}={theirs}' for ours, theirs in found.items())}"


def refuse_unknown(name: str, fields: Mapping[str, str]) -> None:
    """Refuses a format or a field of ours that nobody knows.

    Raises:
        UserError: there is one.
    """
    if name and name not in BY_NAME:
        raise UserError(f"format={name} is unknown; write one of {', '.join(BY_NAME)}, or nothing: it is detected")
    for ours in fields:
        if ours not in KNOWN_FIELDS:
            close = difflib.get_close_matches(ours, sorted(KNOWN_FIELDS), 1)
            more = f"did you mean {close[0]}?" if close else f"write one of {', '.join(sorted(KNOWN_FIELDS))}"
            raise UserError(f"fields.{ours}={fields[ours]}: no format has a field '{ours}'; {more}")
