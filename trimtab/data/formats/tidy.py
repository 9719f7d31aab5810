"""What is mended in rows of every foreign format, and what is only noticed: end tokens written out, system prompts, several users."""

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

from trimtab.common.errors import bad_field
from trimtab.data.formats.base import objects
from trimtab.records import JSON, Comparison, Demonstration, Prompt, Record

END_MARKS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "</s>")
CELLS = ("messages", "conversations", "conversation", "completions", "ranks", "scores", "labels", "answers", "turns", "context", "users")
ABOUT = ("id", "user", "use_case", "source", "labeler", "label", "system", "seconds")
MESSAGE_CELLS = ("prompt", "completion", "chosen", "rejected")
PARTING = re.compile(r"\s*[,;|]\s*")


def tidy(row: JSON, where: str, native: bool) -> tuple[JSON, list[str]]:
    """A row in native terms, mended, and in a few words what was done to it. A native row's texts are left alone.

    Raises:
        RowError: ``users`` is no list of names.
    """
    out, notes = {**row}, list[str]()
    if out.get("user") is None and out.get("users") is not None:
        out["users"] = named(out["users"], where)
        out["user"] = out["users"][0] if out["users"] else None
    if native:
        return out, notes
    if _add_system(out):
        notes.append("'system' read as the system message")
    if _cut_ends(out):
        notes.append("an end token written behind an answer, taken away")
    return out, notes


def named(users: Any, where: str) -> list[str]:
    """The users of a list, or of a text that parts them by commas, semicolons or bars.

    Raises:
        RowError: it is neither.
    """
    found = PARTING.split(users.strip()) if isinstance(users, str) else users
    if not isinstance(found, list) or not all(isinstance(user, str | int) for user in found):
        raise bad_field(where, "users", users, "write a list of names, or names parted by commas")
    return [str(user) for user in found if str(user)]


def _add_system(row: JSON) -> bool:
    name = next((name for name in ("system", "system_prompt") if isinstance(row.get(name), str)), None)
    messages = row.get("messages")
    if name is None or not objects(messages) or messages[0].get("role") == "system":  # type: ignore[index]
        return False
    content = row.pop(name)
    if content.strip():
        row["messages"] = [{"role": "system", "content": content}, *messages]  # type: ignore[misc]
    return bool(content.strip())


def _cut_ends(row: JSON) -> bool:
    """Takes end tokens away: they are the tokenizer's to add. Whether there was one."""
    cut = False
    if isinstance(row.get("completion"), str):
        row["completion"], cut = without_end(row["completion"])
    if objects(row.get("completions")):
        found = [without_end(c["text"]) if isinstance(c.get("text"), str) else (c.get("text"), False) for c in row["completions"]]
        row["completions"] = [{**c, "text": text} for c, (text, _) in zip(row["completions"], found, strict=True)]
        cut = any(was_cut for _, was_cut in found)
    return cut


def without_end(text: str) -> tuple[str, bool]:
    """``text`` without the end token that is written out behind it, and whether there was one. ``</s>`` may close HTML's ``<s>``."""
    short = text.rstrip()
    for mark in END_MARKS:
        if short.endswith(mark) and not (mark == "</s>" and "<s>" in text):
            return short.removesuffix(mark), True
    return text, False


def noticed(record: Record) -> Iterator[str]:
    """What a reader may want to know of a record, in a few words: nothing of it is changed."""
    prompt = record if isinstance(record, Prompt) else record.prompt
    texts = [message.content for message in prompt.messages]
    if isinstance(record, Demonstration):
        texts.append(record.completion)
    elif isinstance(record, Comparison):
        texts += [completion.text for completion in record.completions]
    if mark := next((mark for mark in END_MARKS[:-1] for text in texts if mark in text), None):
        yield f"'{mark}' inside a text, left as it is"
    if prompt.user and "," in prompt.user and "users" not in prompt.extra:
        yield "a comma in 'user', read as one name; fields.users=NAME reads several"


def from_cells(row: JSON) -> JSON:
    """A table's row whose cells hold lists as JSON, or as Python writes them (pandas does); of what is no text, empty is null."""
    out = {name: None if cell == "" and name in (*CELLS, *ABOUT) else cell for name, cell in row.items()}
    for name in CELLS + MESSAGE_CELLS:
        cell = row.get(name)
        if isinstance(cell, str) and cell.startswith("[") and cell.rstrip().endswith("]"):
            value = _literal(cell)
            if isinstance(value, list) and (name in CELLS or objects(value)):
                out[name] = value
    return out


def _literal(cell: str) -> Any:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
