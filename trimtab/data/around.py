"""What a chat template writes around an answer, found by asking it: the end token, and what stands before and after the text."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimtab.common.errors import UserError
from trimtab.data.codec import Codec
from trimtab.records import Message

PROBE_PROMPT = (Message("user", "Where is the mill?"),)
PROBE_NEXT = Message("user", "Who lives there?")
PROBE_ANSWERS = ("By the river.", "1. one\n2. two")
THOUGHT_AT_END = re.compile(r"<([\w-]+)>\s*</\1>\s*$")  # one that nobody had, as Qwen 3 writes it
OPENED = re.compile(r"<([\w-]+)>\s*$")  # one that the generation prompt begins (Qwen 3 thinking)
OPENING = re.compile(rf"\s*(?:{THOUGHT_AT_END.pattern})?")  # all that a model can be asked to write by itself before its answer


@dataclass(frozen=True, slots=True)
class Around:
    """An answer is rendered as generation prompt + ``opening`` + text + ``gap`` + ``end``; all but the first is trained."""

    end: str  # the end token's text
    opening: str = ""  # white space, or an empty thought (Qwen 3), or the end of one that the generation prompt has opened
    opened: str = ""  # the tag that opens it
    gap: str = ""  # white space (Llama 2)
    shared: bool = False  # the end token opens the next turn too, and the template leaves it out after the last answer (GLM-4)


def find_around(name: str, render: Callable[..., str], codec: Codec, start_token: str | None) -> Around:
    """Of the template that ``render(messages, generation=...)`` renders to sealed text; ``name`` opens every error.

    Raises:
        UserError: answers cannot be told from prompts, or end with no token of their own.
    """
    answer = Message("assistant", PROBE_ANSWERS[0])
    before, after = _split(name, render, codec, (*PROBE_PROMPT, answer))
    tag = OPENED.search(render(PROBE_PROMPT, generation=True))
    opened = f"<{tag[1]}>" if tag and before.strip() == f"</{tag[1]}>" else ""
    if not opened and not OPENING.fullmatch(before):
        raise UserError(
            f"{name}: the chat template writes {codec.plain(before)!r} between its prompt and an answer, which the assistant would have to "
            "write itself; let add_generation_prompt write it"
        )
    shared = not any(codec.parts(after)[1::2])
    if shared:
        _, after = _split(name, render, codec, (*PROBE_PROMPT, answer, PROBE_NEXT))
    gap, end, *_ = [*codec.parts(after), ""]
    opens = render(PROBE_PROMPT, generation=True).removeprefix(render(PROBE_PROMPT, generation=False))
    if not end or (shared and (end == start_token or codec.name(end) in opens)):
        raise UserError(f"{name}: the chat template ends answers with no special token; add eos_token after each")
    if gap.strip():
        raise UserError(f"{name}: the chat template writes {gap.strip()!r} between an answer and its end token {end}; leave it out")
    return Around(end, before, opened, gap, shared)


def _split(name: str, render: Callable[..., str], codec: Codec, messages: Sequence[Message]) -> tuple[str, str]:
    """What stands between the generation prompt and the text of ``messages[1]``, and what follows the text."""
    prompt, whole = render(messages[:1], generation=True), render(messages, generation=False)
    text = messages[1].content
    if not whole.startswith(prompt):
        same = next(i for i, (a, b) in enumerate(zip(prompt, whole + "\0", strict=False)) if a != b)
        rest = codec.plain(prompt[same:])
        raise UserError(
            f"{name}: the chat template's prompt is not the beginning of prompt + answer: it ends with {rest!r}, which is not written "
            "before an answer, so that answers cannot be told from prompts; give the model a template that writes both alike"
        )
    before, found, after = whole[len(prompt) :].partition(text)
    if not found:
        raise UserError(f"{name}: the chat template leaves out what the assistant says, or rewrites it; give the model another template")
    return before, after
