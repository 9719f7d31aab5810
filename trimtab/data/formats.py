"""Every common format -> native records. Detected row by row; a format is one function that says a row in native terms.

Read as they are: native records; TRL's prompt, prompt-completion, preference (explicit or implicit prompt) and
unpaired, each standard or conversational; HH-RLHF transcripts; Alpaca and self-instruct; ShareGPT; OpenAI messages;
Open-Assistant trees; LLMBar pairs; summaries ranked K at a time; T0. Fields that no format knows stay in ``extra``.
"""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import Field

from trimtab.common.config import Settings
from trimtab.common.errors import UserError
from trimtab.data.files import scan_rows
from trimtab.records import JSON, ROLES, Comparison, Completion, Demonstration, Prompt, Record, parse_record

ROLE_NAMES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bard": "assistant", "bing": "assistant",
    "model": "assistant",
}  # fmt: skip
END_OF_TEXT = "<|endoftext|>"
TURN = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")
SUMMARY_REQUEST = "Write a short summary of the article."  # the ranked summaries come without their articles
NEEDS = {
    "prompt": "a prompt: 'messages' [{role, content}], or 'prompt'",
    "demonstration": "a demonstration: a prompt and 'completion', or 'messages' that end with the assistant",
    "comparison": "a comparison: a prompt, 'completions' [{text}] and 'ranks' [1 = best], or 'chosen' and 'rejected'",
}

# Fields by which a demonstration or a comparison is told from a prompt.
TELLING_FIELDS = ("completion", "completions", "ranks", "messages", "chosen", "rejected")

Kind = Literal["prompt", "demonstration", "comparison"]
R = TypeVar("R", Prompt, Demonstration, Comparison)


class RankSettings(Settings):
    """What rank numbers mean where the format does not say."""

    best: Literal["stated", "low", "high"] = Field(
        "stated", description="which rank is best: low (0 or 1), high, or stated (1, or what the format defines)"
    )


class ReadSettings(Settings):
    """How a file of records is read."""

    format: str = Field("", description="name of the format; empty = detected row by row")
    fields: dict[str, str] = Field({}, description="the file's own names of fields, such as {prompt: question}")
    ranks: RankSettings = Field(RankSettings(), description="what rank numbers mean")


DEFAULT = ReadSettings()


@dataclass(frozen=True, slots=True)
class Format:
    """A format's name, how it is recognised, and its rows in native terms (a row may hold several records, or none)."""

    name: str
    matches: Callable[[JSON], bool]
    native: Callable[[JSON, str, ReadSettings], list[JSON]]


@dataclass(frozen=True, slots=True)
class Found:
    """What one row of a file holds: records of a ``format``, or the error that says why not."""

    where: str
    format: str = ""
    records: tuple[Record, ...] = ()
    error: UserError | None = None


@dataclass(frozen=True, slots=True)
class Reading(Generic[R]):
    """Records of one kind, and an account of every row: its format, and why a row gave no record."""

    records: list[R]
    rows: int
    formats: Mapping[str, int]
    skipped: Mapping[str, int] = field(default_factory=dict)


def read_prompts(path: Path | str, settings: ReadSettings = DEFAULT) -> list[Prompt]:
    """Prompts; those of demonstrations and comparisons too. One that several labelers ranked is read once.

    Raises:
        UserError: the file is missing, or a row cannot be read.
    """
    return read(path, "prompt", settings).records


def read_demonstrations(path: Path | str, settings: ReadSettings = DEFAULT) -> list[Demonstration]:
    """Demonstrations; a row that an unpaired set labels as bad is none.

    Raises:
        UserError: the file is missing, or a row cannot be read or holds something else.
    """
    return read(path, "demonstration", settings).records


def read_comparisons(path: Path | str, settings: ReadSettings = DEFAULT) -> list[Comparison]:
    """Comparisons.

    Raises:
        UserError: the file is missing, or a row cannot be read or holds something else.
    """
    return read(path, "comparison", settings).records


def read_answers(path: Path | str, settings: ReadSettings = DEFAULT) -> list[Comparison]:
    """Every answer that a file of comparisons or demonstrations holds: a demonstration is a comparison of one answer, unranked.

    Raises:
        UserError: the file is missing, or a row cannot be read or is a prompt alone.
    """
    out = []
    for found in scan(path, settings):
        for record in _checked(found):
            if isinstance(record, Prompt):
                needed = f"needed an answer too, 'completion' or 'completions'{misspelt(record)}"
                raise UserError(f"{found.where}: found a prompt ({found.format} format), {needed}")
            if isinstance(record, Demonstration):
                record = Comparison(record.prompt, (Completion(record.completion),), (None,))
            out.append(record)
    if not out:
        raise UserError(f"{path}: holds no answers; needed {NEEDS['demonstration']}, or {NEEDS['comparison']}")
    return out


def read_any(path: Path | str, settings: ReadSettings = DEFAULT) -> list[Record]:
    """Whatever records there are, in the order of the file.

    Raises:
        UserError: the file is missing, or a row cannot be read.
    """
    return [record for found in scan(path, settings) for record in _checked(found)]


def read(path: Path | str, kind: Kind, settings: ReadSettings = DEFAULT) -> Reading[Any]:
    """Records of one kind with an account of the rows.

    Raises:
        UserError: the file is missing, a row cannot be read or holds something else, or nothing is left.
    """
    records: list[Record] = []
    formats: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    seen: set[tuple[Any, ...]] = set()
    rows = 0
    for found in scan(path, settings):
        rows += 1
        got = _checked(found)
        formats[found.format] += 1
        if not got:
            skipped["no ranked answers"] += 1
        for record in got:
            wanted = as_kind(record, kind, found)
            if kind == "demonstration" and found.format == "trl-unpaired" and not wanted.prompt.extra["label"]:
                skipped["labelled as bad"] += 1
            elif kind == "prompt" and (key := (wanted.id, wanted.messages)) in seen:
                skipped["repeated prompt"] += 1
            else:
                records.append(wanted)
                if kind == "prompt":
                    seen.add(key)
    if not rows:
        raise UserError(f"{path}: holds no rows; needed {NEEDS[kind]}")
    return Reading(records, rows, formats, skipped)


def as_kind(record: Record, kind: Kind, found: Found) -> Any:
    """``record`` as a prompt, demonstration or comparison: the same, or the prompt of a richer one.

    Raises:
        UserError: it is not that kind.
    """
    if kind == "prompt":
        return record if isinstance(record, Prompt) else record.prompt
    if kind_of(record) != kind:
        raise UserError(f"{found.where}: found a {kind_of(record)} ({found.format} format), needed {NEEDS[kind]}{misspelt(record)}")
    return record


def misspelt(record: Record) -> str:
    """``; did you mean 'chosen' by 'chosn'?`` where a field that nobody knows is nearly one that would have made another record."""
    extra = record.extra if isinstance(record, Prompt | Comparison) else record.prompt.extra
    for name in extra:
        if close := difflib.get_close_matches(name, TELLING_FIELDS, 1, 0.75):
            return f"; did you mean '{close[0]}' by '{name}'?"
    return ""


def kind_of(record: Record) -> Kind:
    """Which of the three a record is."""
    if isinstance(record, Prompt):
        return "prompt"
    return "demonstration" if isinstance(record, Demonstration) else "comparison"


def scan(path: Path | str, settings: ReadSettings = DEFAULT) -> Iterator[Found]:
    """Every row of a file as records or as its error, one after another.

    Raises:
        UserError: the file as a whole cannot be read, or ``settings.format`` is unknown.
    """
    if settings.format and settings.format not in BY_NAME:
        raise UserError(
            f"format={settings.format} is unknown; write one of {', '.join(BY_NAME)}, or nothing: it is detected"
        )
    for where, row in scan_rows(path):
        if isinstance(row, UserError):
            yield Found(where, error=row)
            continue
        try:
            row = _renamed(row, settings.fields, where)
            name = settings.format or detect(row, where)
            yield Found(where, name, tuple(convert(row, name, where, settings)))
        except UserError as error:
            yield Found(where, error=error)


def refuse_shared_ids(prompts: Iterable[Prompt], where: Path | str) -> None:
    """Work that finds a prompt again by its id needs one prompt for each id.

    Raises:
        UserError: two prompts with different messages have one id.
    """
    seen: dict[str, Prompt] = {}
    for prompt in prompts:
        if seen.setdefault(prompt.id, prompt).messages != prompt.messages:
            raise UserError(f"{where}: two different prompts have the id {prompt.id!r}; give each its own")


def detect(row: JSON, where: str = "row") -> str:
    """The name of the format that ``row`` has.

    Raises:
        UserError: it has none that is known.
    """
    for form in FORMATS:
        if form.matches(row):
            return form.name
    hint = "; 'text' alone is read by pretrain" if "text" in row else ""
    raise UserError(
        f"{where}: no known format (fields: {_names(row)}); write 'messages' or 'prompt', with 'completion' or with "
        f"'completions' and 'ranks'{hint}"
    )


def convert(row: JSON, name: str, where: str, settings: ReadSettings = DEFAULT) -> list[Record]:
    """The records of a row that has the format ``name``.

    Raises:
        UserError: a field is missing or has the wrong type.
    """
    try:
        rows = BY_NAME[name].native(row, where, settings)
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # a nested field is something else
        missing = f"field {error} is missing" if isinstance(error, KeyError) else "a field has the wrong type"
        raise UserError(f"{where}: {missing} for format {name} (found: {_names(row)})") from None
    out = []
    for i, native in enumerate(rows):
        named = {k: str(native[k]) for k in ("user", "use_case", "source") if isinstance(native.get(k), int | float)}
        if native.get("id") is None:
            # the file's name and line, without its folder: a moved file keeps its ids, and with them its random streams
            named["id"] = Path(where).name if len(rows) == 1 else f"{Path(where).name}-{i}"
        out.append(parse_record({**native, **named}, where))
    return out


def dense_ranks(values: Sequence[float | None], best: Literal["low", "high"]) -> list[int | None]:
    """Ranks from 1 (best) without gaps; equal values tie, None stays None. ``best="high"``: [0, 2, 2] -> [2, 1, 1]."""
    order = sorted({v for v in values if v is not None}, reverse=best == "high")
    place = {value: i + 1 for i, value in enumerate(order)}
    return [None if v is None else place[v] for v in values]


def parse_transcript(text: str) -> list[JSON]:
    """Messages of ``"\\n\\nHuman: ... \\n\\nAssistant: ..."``. Turns of one speaker in a row become one."""
    parts = TURN.split(text)
    messages: list[JSON] = []
    for speaker, content in zip(parts[1::2], parts[2::2], strict=True):
        role = "user" if speaker == "Human" else "assistant"
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += "\n\n" + content.strip()
        else:
            messages.append({"role": role, "content": content.strip()})
    return messages


def split_pair(chosen: Sequence[JSON], rejected: Sequence[JSON], where: str) -> tuple[list[JSON], str, str, int]:
    """The shared messages, the two answers that follow them, and how many later turns were left out.

    The answers are the first assistant turns that differ; where all is equal, the last ones.

    Raises:
        UserError: the conversations part before an answer, so that they answer different prompts.
    """
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))))
    if shared == len(chosen) == len(rejected):
        shared -= 1
    if not 0 < shared < min(len(chosen), len(rejected)):
        raise UserError(
            f"{where}: 'chosen' and 'rejected' share no prompt, or one begins the other; add a field 'prompt'"
        )
    a, b = chosen[shared], rejected[shared]
    if not a["role"] == b["role"] == "assistant":
        raise UserError(
            f"{where}: 'chosen' and 'rejected' part at turn {shared + 1} ({a['role']} and {b['role']}), before an "
            "answer; the two must answer the same prompt"
        )
    left_out = len(chosen) + len(rejected) - 2 * (shared + 1)
    return list(chosen[:shared]), a["content"], b["content"], left_out


def _checked(found: Found) -> tuple[Record, ...]:
    if found.error is not None:
        raise found.error
    return found.records


def _renamed(row: JSON, fields: Mapping[str, str], where: str) -> JSON:
    """``row`` with the user's names of fields replaced by ours."""
    for theirs in fields.values():
        if theirs not in row:
            raise UserError(f"{where}: fields names '{theirs}', which is not there (found: {_names(row)})")
    ours = {theirs: name for name, theirs in fields.items()}
    return {ours.get(k, k): v for k, v in row.items() if k in ours or k not in fields}


def _messages(value: Any, where: str, name: str, role: str = "user") -> list[JSON]:
    """Messages from a text (said by ``role``), a transcript, or messages in OpenAI's or ShareGPT's terms."""
    if _is_transcript(value):
        messages = parse_transcript(value)
        waiting = role == "user" and messages[-1] == {"role": "assistant", "content": ""}  # it ends with "Assistant:"
        return messages[:-1] if waiting else messages
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    rows = [value] if isinstance(value, Mapping) else value
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{where}: field '{name}' is {_kind(value)}; write text, or messages [{{'role', 'content'}}]")
    return [_message(row, f"{name}[{i}]", where) for i, row in enumerate(rows)]


def _message(row: Any, name: str, where: str) -> JSON:
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: {name} is {_kind(row)}; write {{'role': 'user', 'content': '...'}}")
    role, content = row.get("role", row.get("from")), row.get("content", row.get("value"))
    if isinstance(content, list) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise UserError(f"{where}: {name} has no text (found: {_names(row)}); only messages with text can be read")
    if role not in ROLE_NAMES:
        raise UserError(f"{where}: {name} is said by '{role}'; write one of {', '.join(ROLE_NAMES)}")
    return {"role": ROLE_NAMES[role], "content": content}


def _without(row: JSON, *names: str) -> JSON:
    return {k: v for k, v in row.items() if k not in names}


def _answered(row: JSON, messages: list[JSON], where: str) -> JSON:
    """A demonstration if the last turn is the assistant's, else a prompt."""
    if messages[-1]["role"] != "assistant":
        return {**row, "messages": messages}
    if len(messages) < 2:
        raise UserError(f"{where}: an answer without a prompt; a conversation begins with the user")
    return {**row, "messages": messages[:-1], "completion": messages[-1]["content"]}


def _conversation(prompt: Any, answer: Any, name: str, where: str) -> list[JSON]:
    """Prompt and answer as one conversation; an answer that repeats the prompt (TRL's implicit one) is one already."""
    said = _messages(answer, where, name, "assistant")
    if prompt is None or said[0]["role"] != "assistant":
        return said
    asked = _messages(prompt, where, "prompt")
    return said if said[: len(asked)] == asked else asked + said


def _pair(row: JSON, prompt: Any, chosen: Any, rejected: Any, where: str) -> JSON:
    shared, better, worse, left_out = split_pair(
        _conversation(prompt, chosen, "chosen", where), _conversation(prompt, rejected, "rejected", where), where
    )
    note = {"left_out_turns": left_out} if left_out else {}
    return {**row, "messages": shared, "completions": [{"text": better}, {"text": worse}], "ranks": [1, 2], **note}


def _native(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    ranks = row.get("ranks")
    if settings.ranks.best == "stated" or not isinstance(ranks, list):
        return [row]
    if not all(rank is None or isinstance(rank, int | float) for rank in ranks):
        raise UserError(f"{where}: field 'ranks' holds something else than numbers and null")
    return [{**row, "ranks": dense_ranks(ranks, settings.ranks.best)}]


def _ranked_summaries(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    if settings.ranks.best == "stated":
        raise UserError(
            f"{where}: the file does not say which 'rank' is best; convert it first, with ranks.best=low or ranks.best=high: "
            "trimtab data convert FILE ranks.best=high -o rankings.jsonl"
        )
    out = []
    for key, items in row.items():
        out.append({
            "id": key, "messages": [{"role": "user", "content": SUMMARY_REQUEST}], "use_case": "summarization",
            "completions": [{"text": item["sys_summ"], "model": item.get("sys_name")} for item in items],
            "ranks": dense_ranks([item["rank"] for item in items], settings.ranks.best),
            "reference": items[0].get("ref"),
        })  # fmt: skip
    return out


def _open_assistant(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    """Every user message with two or more ranked replies (0 = best there; a reply without a rank is in no pair)."""
    out = []
    waiting: list[tuple[JSON, list[JSON]]] = [(row["prompt"], [])]
    while waiting:
        node, before = waiting.pop()
        path = [*before, _message({"role": node["role"], "content": node["text"]}, "message", where)]
        replies = [r for r in node.get("replies", ()) if not r.get("deleted")]
        waiting.extend((reply, path) for reply in reversed(replies))
        ranks = [reply.get("rank") for reply in replies]
        if path[-1]["role"] == "user" and len(replies) > 1 and len(replies) - ranks.count(None) > 1:
            out.append({
                "id": node["message_id"], "messages": path, "lang": node.get("lang"),
                "completions": [{"text": r["text"], "model": r.get("model_name")} for r in replies],
                "ranks": [None if rank is None else rank + 1 for rank in ranks],
            })  # fmt: skip
    return out


def _llmbar(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    if row["label"] not in (1, 2):
        raise UserError(f"{where}: field 'label' is {row['label']!r}; write 1 or 2, the better output")
    return [{
        **_without(row, "input", "output_1", "output_2", "label"), "messages": _messages(row["input"], where, "input"),
        "completions": [{"text": row["output_1"]}, {"text": row["output_2"]}],
        "ranks": [1, 2] if row["label"] == 1 else [2, 1],
    }]  # fmt: skip


def _sharegpt(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    rest = _without(row, "conversations", "chosen", "rejected")
    messages = _messages(row["conversations"], where, "conversations")
    if "chosen" in row:
        return [_pair(rest, messages, row["chosen"], row["rejected"], where)]
    return [_answered(rest, messages, where)]


def _alpaca(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    """The input follows the instruction after an empty line, as in Alpaca's own prompt."""
    rest = _without(row, "instruction", "input", "output", "chosen", "rejected", "instances")
    if "instances" in row:
        return [
            {**rest, "messages": _instruction(row, case, where), "completion": case["output"]}
            | ({"id": f"{row['id']}-{i}"} if "id" in row and len(row["instances"]) > 1 else {})
            for i, case in enumerate(row["instances"])
        ]
    messages = _instruction(row, row, where)
    if "chosen" in row:
        return [_pair(rest, messages, row["chosen"], row["rejected"], where)]
    return [{**rest, "messages": messages, **({"completion": row["output"]} if "output" in row else {})}]


def _instruction(row: JSON, case: JSON, where: str) -> list[JSON]:
    instruction, given = row["instruction"], case.get("input") or ""
    if not isinstance(instruction, str) or not isinstance(given, str):
        raise UserError(f"{where}: fields 'instruction' and 'input' must be strings")
    return [{"role": "user", "content": f"{instruction}\n\n{given}" if given else instruction}]


def _preference(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    rest = _without(row, "prompt", "messages", "chosen", "rejected")
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if prompt is None and all(isinstance(v, str) and not _is_transcript(v) for v in (chosen, rejected)):
        prompt, chosen, rejected = _shared_text(chosen, rejected, where)
    return [_pair(rest, prompt, chosen, rejected, where)]


def _shared_text(chosen: str, rejected: str, where: str) -> tuple[str, str, str]:
    """TRL's implicit prompt: the longest common beginning, cut back to the end of a word."""
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))))
    while 0 < shared < max(len(chosen), len(rejected)) and not chosen[shared - 1].isspace():
        shared -= 1
    prompt = chosen[:shared].rstrip()
    if not prompt or chosen == rejected:
        raise UserError(f"{where}: 'chosen' and 'rejected' begin with no common prompt; add a field 'prompt'")
    return prompt, chosen[shared:], rejected[shared:]


def _unpaired(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    labels = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}
    label = row["label"].strip().lower() if isinstance(row["label"], str) else row["label"]
    if not isinstance(label, str | int | float) or label not in labels:
        raise UserError(f"{where}: field 'label' is {row['label']!r}; write true (good completion) or false (bad)")
    return [{**_prompt_completion(row, where, settings)[0], "label": labels[label]}]


def _prompt_completion(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    conversation = _conversation(row["prompt"], row["completion"], "completion", where)
    if conversation[-1]["role"] != "assistant":
        raise UserError(f"{where}: 'completion' does not end with the assistant's turn")
    return [_answered(_without(row, "prompt", "completion"), conversation, where)]


def _t0(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    """The end token is written out in the text there; it is the tokenizer's to add."""
    return _prompt_completion({**row, "completion": row["completion"].removesuffix(END_OF_TEXT)}, where, settings)


def _trl_prompt(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    return [{**_without(row, "prompt"), "messages": _messages(row["prompt"], where, "prompt")}]


def _openai(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    return [_answered(_without(row, "messages"), _messages(row["messages"], where, "messages"), where)]


def _is_transcript(value: Any) -> bool:
    return isinstance(value, str) and TURN.match(value) is not None and "\n\nAssistant:" in value


def _is_native(row: JSON) -> bool:
    messages = row.get("messages")
    if not isinstance(messages, list) or {"chosen", "rejected"} <= row.keys():
        return False
    if "completions" in row or "completion" in row:
        return True
    plain = all(isinstance(m, dict) and m.get("role") in ROLES and isinstance(m.get("content"), str) for m in messages)
    return plain and bool(messages) and messages[-1]["role"] != "assistant"


def _is_ranked_summaries(row: JSON) -> bool:
    items = [item for group in row.values() for item in (group if isinstance(group, list) and group else [None])]
    return bool(items) and all(isinstance(item, dict) and {"rank", "sys_summ"} <= item.keys() for item in items)


def _has(*names: str) -> Callable[[JSON], bool]:
    return lambda row: all(row.get(name) is not None for name in names)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _kind(value: Any) -> str:
    return "empty" if value in ("", [], {}, None) else f"a {type(value).__name__}"


def _names(row: Mapping[str, Any]) -> str:
    shown = ", ".join(map(str, list(row)[:12])) or "nothing"
    return shown + (", ..." if len(row) > 12 else "")


FORMATS = (  # the first that matches is taken: the more particular come first
    Format("native", _is_native, _native),
    Format("ranked-summaries", _is_ranked_summaries, _ranked_summaries),
    Format("open-assistant", lambda row: "replies" in _mapping(row.get("prompt")), _open_assistant),
    Format("sharegpt", _has("conversations"), _sharegpt),
    Format("alpaca", _has("instruction"), _alpaca),
    Format("llmbar", _has("input", "output_1", "output_2", "label"), _llmbar),
    Format("hh-rlhf", lambda row: all(map(_is_transcript, (row.get("chosen"), row.get("rejected")))), _preference),
    Format("trl-preference", _has("chosen", "rejected"), _preference),
    Format("trl-unpaired", _has("prompt", "completion", "label"), _unpaired),
    Format("t0", lambda row: _has("prompt")(row) and str(row.get("completion")).endswith(END_OF_TEXT), _t0),
    Format("trl-prompt-completion", _has("prompt", "completion"), _prompt_completion),
    Format("openai", _has("messages"), _openai),
    Format("trl-prompt", _has("prompt"), _trl_prompt),
)
BY_NAME = {form.name: form for form in FORMATS}
