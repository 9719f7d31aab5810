"""The native records, and rankings whose fields have the native names but plainer values."""

from typing import Any

from trimtab.common.errors import bad_field
from trimtab.data.formats.base import Format, ReadSettings, fields, has, mapping, without
from trimtab.data.formats.messages import messages
from trimtab.data.formats.ranks import dense_ranks, numbers
from trimtab.records import JSON, ROLES


def is_native(row: JSON) -> bool:
    said = row["messages"]
    if not isinstance(said, list) or has(row, "chosen", "rejected") or is_ranking(row):
        return False
    if has(row, "completions") or has(row, "completion"):
        return True
    plain = all(isinstance(m, dict) and m.get("role") in ROLES and isinstance(m.get("content"), str) for m in said)
    return plain and bool(said) and said[-1]["role"] != "assistant"


def native(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    if settings.ranks.best == "stated" or not isinstance(row.get("ranks"), list):
        return [row]
    return [{**row, "ranks": dense_ranks(numbers(row["ranks"], where, "ranks"), settings.ranks.best)}]


def is_ranking(row: JSON) -> bool:
    """Whether ranks or scores stand beside answers, and something is plainer than in a native record: prompt, answers or ranks."""
    answers = row.get("completions")
    if not isinstance(answers, list) or not answers or not (has(row, "prompt") or has(row, "messages")):
        return False
    if not all(isinstance(answer, str) or "text" in mapping(answer) for answer in answers):
        return False
    plainer = not has(row, "messages") or all(isinstance(answer, str) for answer in answers)
    return plainer if has(row, "ranks") else has(row, "scores")


def ranking(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    """Answers as text, ranks as the setting says, or scores, of which the highest is the best."""
    asked = row["prompt"] if row.get("prompt") is not None else row["messages"]
    out: dict[str, Any] = {
        **without(row, "prompt"), "messages": messages(asked, where, "prompt"),
        "completions": [{"text": answer} if isinstance(answer, str) else answer for answer in row["completions"]],
    }  # fmt: skip
    if row.get("ranks") is None:
        scores = numbers(row["scores"], where, "scores")
        if len(scores) != len(row["completions"]):
            raise bad_field(where, "scores", row["scores"], f"write one for each of the {len(row['completions'])} completions")
        return [{**out, "ranks": dense_ranks(scores, "high")}]
    return native(out, where, settings)


U = {"role": "user", "content": "What color is the sky?"}
FORMATS = (
    Format(
        "native", "trimtab's own: a prompt, with `completion` a demonstration, with `completions` and `ranks` a comparison",
        fields("messages"), native, {"messages": [U], "completions": [{"text": "Blue."}, {"text": "Green."}], "ranks": [1, 2]}, is_native,
    ),
    Format(
        "ranking", "K answers as text with `ranks` (1 = best, or `ranks.best=`) or `scores` (high = good)",
        fields("completions"), ranking, {"prompt": "What color is the sky?", "completions": ["Green.", "Blue."], "scores": [0.1, 0.9]},
        is_ranking,
    ),
)  # fmt: skip
