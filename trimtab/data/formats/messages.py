"""Conversations in anybody's terms -> messages, and two of them -> a prompt with two answers."""

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from trimtab.common.errors import RowError, bad_field, names
from trimtab.records import JSON

ROLE_NAMES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bard": "assistant", "bing": "assistant",
    "model": "assistant", "bot": "assistant", "ai": "assistant",
}  # fmt: skip
TURN = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")
HASHED_TURN = re.compile(r"(?:\A|\n)### (Human|Assistant):")


def parse_transcript(text: str, turn: re.Pattern[str] = TURN) -> list[JSON]:
    """Messages of ``"\\n\\nHuman: ... \\n\\nAssistant: ..."``. Turns of one speaker in a row become one."""
    parts = turn.split(text)
    messages: list[JSON] = []
    for speaker, content in zip(parts[1::2], parts[2::2], strict=True):
        role = "user" if speaker == "Human" else "assistant"
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += "\n\n" + content.strip()
        else:
            messages.append({"role": role, "content": content.strip()})
    return messages


def is_transcript(value: Any) -> bool:
    """Whether a text is a dialogue as HH-RLHF writes them."""
    return isinstance(value, str) and TURN.match(value) is not None and "\n\nAssistant:" in value


def messages(value: Any, where: str, name: str, role: str = "user") -> list[JSON]:
    """Messages from a text (said by ``role``), a transcript, or messages in OpenAI's or ShareGPT's terms.

    Raises:
        RowError: it is none of these.
    """
    if is_transcript(value):
        said = parse_transcript(value)
        waiting = role == "user" and said[-1] == {"role": "assistant", "content": ""}  # it ends with "Assistant:"
        return said[:-1] if waiting else said
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    rows = [value] if isinstance(value, Mapping) else value
    if not isinstance(rows, list) or not rows:
        advice = "write text, or messages [{'role', 'content'}]"
        if value in ([], {}, None):
            raise RowError(where, f"field '{name}' is empty; {advice}", reason=f"wrong field '{name}'", field=name)
        raise bad_field(where, name, value, advice)
    return [message(row, f"{name}[{i}]", where) for i, row in enumerate(rows)]


def message(row: Any, name: str, where: str) -> JSON:
    """One message, whatever its fields are called.

    Raises:
        RowError: it has no text, or nobody known says it.
    """
    if not isinstance(row, Mapping):
        raise bad_field(where, name, row, "write {'role': 'user', 'content': '...'}")
    role, content = row.get("role", row.get("from")), row.get("content", row.get("value"))
    if isinstance(content, list) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        said = "only messages with text can be read, no calls of tools and no pictures"
        raise RowError(where, f"{name} has no text (found: {names(row)}); {said}", reason="a message without text", field=name)
    known = ROLE_NAMES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        advice = f"write one of {', '.join(ROLE_NAMES)}"
        raise RowError(where, f"{name} is said by {str(role)[:40]!r}; {advice}", reason="an unknown role", field=name)
    return {"role": known, "content": content}


def answered(row: JSON, said: list[JSON], where: str) -> JSON:
    """``row`` as a demonstration if the last turn is the assistant's, else as a prompt.

    Raises:
        RowError: nobody is answered.
    """
    if said[-1]["role"] != "assistant":
        return {**row, "messages": said}
    if len(said) < 2:
        raise RowError(where, "an answer without a prompt; a conversation begins with the user", reason="an answer without a prompt")
    return {**row, "messages": said[:-1], "completion": said[-1]["content"]}


def conversation(prompt: Any, answer: Any, name: str, where: str) -> list[JSON]:
    """Prompt and answer as one conversation; an answer that repeats the prompt (TRL's implicit one) is one already."""
    if is_transcript(prompt) and isinstance(answer, str) and not is_transcript(answer):
        answer = answer.strip()  # "Assistant:" stands at the prompt's end, and the space behind it at the answer's beginning
    said = messages(answer, where, name, "assistant")
    if prompt is None or said[0]["role"] != "assistant":
        return said
    asked = messages(prompt, where, "prompt")
    return said if said[: len(asked)] == asked else asked + said


def preferred(row: JSON, prompt: Any, chosen: Any, rejected: Any, where: str) -> JSON:
    """``row`` as a comparison of two answers, the first of them better."""
    shared, better, worse, left_out = split_pair(
        conversation(prompt, chosen, "chosen", where), conversation(prompt, rejected, "rejected", where), where
    )
    note = {"left_out_turns": left_out} if left_out else {}
    return {**row, "messages": shared, "completions": [{"text": better}, {"text": worse}], "ranks": [1, 2], **note}


def split_pair(chosen: Sequence[JSON], rejected: Sequence[JSON], where: str) -> tuple[list[JSON], str, str, int]:
    """The shared messages, the two answers that follow them, and how many later turns were left out.

    The answers are the first assistant turns that differ; where all is equal, the last ones.

    Raises:
        RowError: the conversations part before an answer, so that they answer different prompts.
    """
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))))
    if shared == len(chosen) == len(rejected):
        shared -= 1
    if not 0 < shared < min(len(chosen), len(rejected)):
        said = "'chosen' and 'rejected' share no prompt, or one begins the other"
        raise RowError(where, f"{said}; add a field 'prompt'", reason="no shared prompt")
    a, b = chosen[shared], rejected[shared]
    if not a["role"] == b["role"] == "assistant":
        said = f"'chosen' and 'rejected' part at turn {shared + 1} ({a['role']} and {b['role']}), before an answer"
        raise RowError(where, f"{said}; the two must answer the same prompt", reason="no shared prompt")
    left_out = len(chosen) + len(rejected) - 2 * (shared + 1)
    return list(chosen[:shared]), a["content"], b["content"], left_out
