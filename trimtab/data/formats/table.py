"""The table of formats, and which of them a row has."""

import difflib
import functools
import re
import shlex
from collections.abc import Iterable, Mapping

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

# Fields that a row may lack because they are misspelt.
MISSPELT = ("prompt", "messages", "completion", "completions", "ranks", "chosen", "rejected", "instruction", "conversations")

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
# Of these words, some mean a prompt only beside another: elsewhere they are who wrote it and where it came from.
BESIDE = {"user": "assistant", "source": "target"}
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


def detect(row: JSON, where: str = "row") -> str:
    """The name of the format that ``row`` has.

    Raises:
        RowError: it has none that is known.
    """
    present = {name for name, value in row.items() if value is not None}
    for form in FORMATS:
        if form.needs <= present and form.test(row):
            return form.name
    advice = "write 'messages' or 'prompt', with 'completion' or with 'completions' and 'ranks'"
    advice += _misspelt(row) or suggestion(row) or _other_hint(row)
    raise RowError(where, f"no known format (fields: {names(row)}); {advice}", reason="no known format")


@functools.lru_cache(1024)
def nearly(name: str, wanted: tuple[str, ...]) -> str | None:
    """Which of ``wanted`` is misspelt as ``name``; None where none is, or it is spelt rightly."""
    return None if name in wanted else next(iter(difflib.get_close_matches(name, wanted, 1, 0.75)), None)


def _misspelt(row: JSON) -> str:
    """``; did you mean 'prompt' by 'promt'?``, or nothing."""
    found = {close: name for name in row if (close := nearly(name, MISSPELT)) is not None and close not in row}
    said = " and ".join(f"'{close}' by '{name}'" for close, name in found.items())
    return f"; did you mean {said}?" if said else ""


def _other_hint(row: JSON) -> str:
    if "text" in row:
        return "; 'text' alone is read by pretrain, or fields.prompt=text makes a prompt of each row"
    if len(row) == 1 and isinstance(next(iter(row.values())), list):
        return f"; the rows seem to stand inside {names(row)}: write these, one a line"
    return ""


def suggestion(row: Mapping[str, object], wanted: tuple[str, ...] = tuple(OTHER_NAMES), *, exact: bool = False) -> str:
    """``; try fields.prompt=question fields.completion=answer`` where there are other words for what a record needs, or nothing.

    A name may be such a word, or end with one (``Customer Question``), unless ``exact``. A question with a context is an instruction
    with an input, which the format alpaca puts together.
    """
    texts = {name.lower(): name for name, value in row.items() if isinstance(value, str)}
    usable = {word: name for word, name in texts.items() if BESIDE.get(word, word) in texts}
    found: dict[str, str] = {}
    for named in (usable,) if exact else (usable, _by_their_words(texts.values())):
        for ours in (ours for ours in wanted if ours not in row and ours not in found):
            words = OTHER_NAMES[ours] if named is usable else (ours, *OTHER_NAMES[ours])
            theirs = next((named[word] for word in words if word in named and named[word] not in found.values()), None)
            if theirs is not None:
                found[ours] = theirs
    found = {ours: found[ours] for ours in wanted if ours in found}
    if "prompt" in found and "context" in texts and "completion" in found:
        found = {"instruction": found["prompt"], "input": texts["context"], "output": found["completion"]}
    if not found:
        return ""
    return f"; try {' '.join(f'fields.{ours}={shlex.quote(theirs)}' for ours, theirs in found.items())}"


def _by_their_words(names: Iterable[str]) -> dict[str, str]:
    """Names of several words by the last of them, which is what they are; of a pair's answers, by the word that says which."""
    out: dict[str, str] = {}
    for name in names:
        words = [word.lower() for word in WORD.findall(name)]
        if len(words) > 1 and words[-1] not in BESIDE:
            out.setdefault(next((word for word in words if word in ("chosen", "rejected")), words[-1]), name)
    return out


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
