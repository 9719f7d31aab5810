"""Task dialogues, benchmarks, and files that are known to hold no records."""

import json
from typing import Any

from trimtab.common.errors import bad_field
from trimtab.data.formats.base import Format, ReadSettings, choice, fields, mapping, objects, refusal, text, without
from trimtab.records import JSON


def taskmaster(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    """An agent's next step in a dialogue, good (1) or not (0). Context and step are JSON inside text.

    What the agent asks of the API is an assistant's turn, and what the API answers is a user's, both as JSON.
    """
    turns = _inner(row, "context", where)
    if not isinstance(turns, list) or not turns:
        raise bad_field(where, "context", row["context"], "write a list of turns as JSON")
    said = [_turn(turn, f"context[{i}]", where) for i, turn in enumerate(turns)]
    step = _turn(_inner(row, "generation", where), "generation", where)
    label = choice(row["reward"], {1: True, 0: False}, where, "reward")
    return [{**without(row, "context", "generation"), "messages": said, "completion": step["content"], "label": label}]


def _inner(row: JSON, name: str, where: str) -> Any:
    try:
        return json.loads(text(row, name, where))
    except (ValueError, RecursionError):
        raise bad_field(where, name, row[name], "write JSON as text") from None


def _turn(turn: Any, name: str, where: str) -> JSON:
    """``{"role": "agent" | "user" | "api", "text" | "api" | "response": ...}`` as a message."""
    role = choice(mapping(turn).get("role"), {"agent": "assistant", "user": "user", "api": "user"}, where, f"{name}[role]")
    said = next((turn[key] for key in ("text", "api", "response") if key in turn), None)
    if said is None:
        raise bad_field(where, f"{name}[text]", turn, "write 'text', 'api' or 'response'")
    return {"role": role, "content": said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)}


def mt_bench(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    """The first question is the prompt. The second one follows a model's own answer, so it stays in ``later_turns``."""
    first, *later = row["turns"]
    out = {**without(row, "turns", "question_id", "category"), "messages": [{"role": "user", "content": first}], "later_turns": later}
    return [{**out, "id": f"mt-bench-{row['question_id']}", "use_case": row.get("category")}]


def truthfulqa(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    """A question with right answers (rank 1) and wrong ones (rank 2), which stand in one cell each, parted by semicolons."""
    answers = [("Correct Answers", 1), ("Incorrect Answers", 2)]
    told = [(answer.strip(), rank) for name, rank in answers for answer in text(row, name, where).split(";") if answer.strip()]
    return [{
        **without(row, "Question", "Correct Answers", "Incorrect Answers", "Category", "Source"), "use_case": row.get("Category"),
        "messages": [{"role": "user", "content": text(row, "Question", where)}], "source": row.get("Source"),
        "completions": [{"text": answer} for answer, _ in told], "ranks": [rank for _, rank in told],
    }]  # fmt: skip


def is_mt_bench(row: JSON) -> bool:
    turns = row["turns"]
    return isinstance(turns, list) and bool(turns) and all(isinstance(turn, str) for turn in turns)


FORMATS = (
    Format(
        "taskmaster", "Taskmaster's pointwise rewards: a label for an agent's next step",
        fields("context", "generation", "reward"), taskmaster,
        {"context": '[{"role": "user", "text": "A latte"}]', "generation": '{"role": "agent", "text": "What size?"}', "reward": 1.0},
    ),
    Format(
        "mt-bench", "MT-Bench's questions; the prompt is the first turn", fields("question_id", "turns"), mt_bench,
        {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]}, is_mt_bench,
    ),
    Format(
        "truthfulqa", "TruthfulQA: right answers tie at rank 1, wrong ones at rank 2",
        fields("Question", "Correct Answers", "Incorrect Answers"), truthfulqa,
        {"Question": "What color is the sky?", "Correct Answers": "Blue; It is blue", "Incorrect Answers": "Green"},
    ),
    Format(
        "mt-bench-answers", "*refused:* MT-Bench's reference answers", fields("question_id", "choices"),
        refusal("answers to questions of another file; give the file of questions (question_id, turns)"),
        {"question_id": 101, "choices": [{"index": 0, "turns": ["Second.", "Last."]}]}, lambda row: objects(row["choices"]),
    ),
    Format(
        "summary-ratings", "*refused:* ratings of summaries by several people", fields("system", "annotators", "prompts"),
        refusal("ratings of texts that are not in this file; give the file that has the texts and their ranks (sys_summ, rank)"),
        {"id": "17", "system": "reference", "annotators": [2, 1], "prompts": {"overall": {"human": [1, -1]}}},
    ),
    Format(
        "open-assistant-messages", "*refused:* Open-Assistant's messages one a row",
        fields("message_id", "message_tree_id", "text", "role"),
        refusal("one message of a tree a row; give the file of trees (oasst_ready.trees.jsonl.gz), it has their replies and ranks"),
        {"message_id": "m", "message_tree_id": "m", "parent_id": None, "role": "prompter", "text": "What color is the sky?"},
    ),
)  # fmt: skip
