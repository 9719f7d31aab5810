"""An instruction, perhaps with an input, and the answer somebody wrote for it."""

from trimtab.common.errors import bad_field
from trimtab.data.formats.base import Format, ReadSettings, fields, has, objects, text, without
from trimtab.data.formats.messages import preferred
from trimtab.records import JSON

USED = ("instruction", "input", "context", "output", "response", "chosen", "rejected", "instances", "history")


def alpaca(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    """The input follows the instruction after an empty line, as in Alpaca's own prompt."""
    given = "input" if row.get("input") is not None else "context"
    said = [*_history(row, where), {"role": "user", "content": instruction(row, row, given, where)}]
    rest = without(row, *USED)
    if has(row, "chosen", "rejected"):
        return [preferred(rest, said, row["chosen"], row["rejected"], where)]
    answer = next((name for name in ("output", "response") if row.get(name) is not None), None)
    return [{**rest, "messages": said, **({"completion": text(row, answer, where)} if answer else {})}]


def self_instruct(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    """Each instance of an instruction is a demonstration of its own."""
    rest, cases = without(row, *USED), row["instances"]
    if not objects(cases):
        raise bad_field(where, "instances", cases, "write [{'input': '...', 'output': '...'}]")
    return [
        {
            **rest, "messages": [{"role": "user", "content": instruction(row, case, "input", where)}],
            "completion": text(case, "output", where, f"instances[{i}].output"),
            **({"id": f"{row['id']}-{i}"} if row.get("id") is not None and len(cases) > 1 else {}),
        }
        for i, case in enumerate(cases)
    ]  # fmt: skip


def instruction(row: JSON, case: JSON, given: str, where: str) -> str:
    """``instruction``, and below it the text in the field ``given`` of ``case``, if there is any.

    Raises:
        RowError: one of them is no text.
    """
    asked, more = text(row, "instruction", where), case.get(given) or ""
    if not isinstance(more, str):
        raise bad_field(where, given, more, "write text")
    return f"{asked}\n\n{more}" if more else asked


def _history(row: JSON, where: str) -> list[JSON]:
    """LLaMA-Factory's earlier turns, pairs of question and answer."""
    pairs = row.get("history") or []
    if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 and all(isinstance(t, str) for t in p) for p in pairs):
        raise bad_field(where, "history", pairs, "write pairs of texts [['question', 'answer'], ...]")
    return [{"role": role, "content": said} for pair in pairs for role, said in zip(("user", "assistant"), pair, strict=True)]


FORMATS = (
    Format(
        "self-instruct", "self-instruct's tasks with instances", fields("instruction", "instances"), self_instruct,
        {"instruction": "Translate.", "instances": [{"input": "bleu", "output": "blue"}, {"input": "vert", "output": "green"}]},
    ),
    Format(
        "dolly", "Dolly: instruction, context, response", fields("instruction", "response"), alpaca,
        {"instruction": "What color is it?", "context": "The sky is blue.", "response": "Blue."},
    ),
    Format(
        "alpaca-eval", "a model's outputs for AlpacaEval", fields("instruction", "output", "generator"), alpaca,
        {"instruction": "What color is the sky?", "output": "Blue.", "generator": "my-model"},
    ),
    Format(
        "alpaca", "Alpaca; with `chosen` and `rejected` a comparison, without `output` a prompt", fields("instruction"), alpaca,
        {"instruction": "Translate into English.", "input": "bleu", "output": "blue"},
    ),
)  # fmt: skip
