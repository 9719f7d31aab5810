"""Whole conversations: the assistant's last turn is the answer, what comes before is the prompt."""

import re

from trimtab.data.formats.base import Format, ReadSettings, fields, has, without
from trimtab.data.formats.messages import HASHED_TURN, TURN, answered, messages, parse_transcript, preferred
from trimtab.records import JSON


def openai(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    return [answered(without(row, "messages"), messages(row["messages"], where, "messages"), where)]


def sharegpt(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    rest = without(row, "conversations", "chosen", "rejected")
    said = messages(row["conversations"], where, "conversations")
    if has(row, "chosen", "rejected"):
        return [preferred(rest, said, row["chosen"], row["rejected"], where)]
    return [answered(rest, said, where)]


def logged(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    return [answered(without(row, "conversation"), messages(row["conversation"], where, "conversation"), where)]


def _turns(row: JSON) -> re.Pattern[str] | None:
    text = row.get("text")
    return next((turn for turn in (TURN, HASHED_TURN) if isinstance(text, str) and turn.match(text)), None)


def transcript(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    said = parse_transcript(row["text"], _turns(row) or TURN)
    waiting = said[-1] == {"role": "assistant", "content": ""}
    return [answered(without(row, "text"), said[:-1] if waiting else said, where)]


ASKED, SAID = "What color is the sky?", "Blue."
FORMATS = (
    Format(
        "sharegpt", "ShareGPT; with `chosen` and `rejected` beside it a comparison", fields("conversations"), sharegpt,
        {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": SAID}]},
    ),
    Format(
        "conversation", "conversations as LMSYS-Chat and WildChat log them", fields("conversation"), logged,
        {"conversation": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]},
    ),
)  # fmt: skip
OPENAI = Format(
    "openai", "OpenAI messages, which are TRL's conversational language modeling too", fields("messages"), openai,
    {"messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]},
)  # fmt: skip
TRANSCRIPT = Format(
    "transcript", "a dialogue in `text`, told by `Human:` and `Assistant:` (HH-RLHF) or `### Human:` (guanaco)",
    fields("text"), transcript, {"text": f"### Human: {ASKED}\n### Assistant: {SAID}"}, lambda row: _turns(row) is not None,
)  # fmt: skip
