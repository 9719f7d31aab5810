"""What a chat template writes around an answer, found by asking it: the end token, and what stands before and after the text."""

import re
from collections.abc import Callable
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


def find_end(name: str, render: Callable[..., str], codec: Codec, start_token: str | None) -> tuple[str, bool]:
    """The token that ends an answer in the template that ``render(messages, generation=...)`` renders to sealed text, and whether it is
    the next turn's first; ``name`` opens every error.

    Raises:
        UserError: there is none, or none that begins only a user's turn.
    """
    answer = Message("assistant", PROBE_ANSWERS[0])
    for more in ((), (PROBE_NEXT,)):
        _, found, after = render((*PROBE_PROMPT, answer, *more), generation=False).rpartition(answer.content)
        if not found:
            raise UserError(f"{name}: the chat template leaves out what the assistant says, or rewrites it; give another template")
        if len(parts := codec.parts(after)) > 1:
            break
    opens = render(PROBE_PROMPT, generation=True).removeprefix(render(PROBE_PROMPT, generation=False))
    if len(parts) == 1 or (more and (parts[1] == start_token or codec.name(parts[1]) in opens)):
        raise UserError(f"{name}: the chat template ends answers with no special token; add eos_token after each")
    return parts[1], bool(more)


def find_around(name: str, render: Callable[..., str], codec: Codec, end: str, shared: bool) -> Around:
    """What else stands around answers, whose ``end`` is known.

    Raises:
        UserError: answers cannot be told from prompts, or something is said in the assistant's place.
    """
    answer = Message("assistant", PROBE_ANSWERS[0])
    prompt = render(PROBE_PROMPT, generation=True)
    whole = render((*PROBE_PROMPT, answer, *([PROBE_NEXT] if shared else [])), generation=False)
    if not whole.startswith(prompt):
        same = next(i for i, (a, b) in enumerate(zip(prompt, whole + "\0", strict=False)) if a != b)
        rest = codec.plain(prompt[same:])
        raise UserError(
            f"{name}: the chat template's prompt is not the beginning of prompt + answer: it ends with {rest!r}, which is not written "
            "before an answer, so that answers cannot be told from prompts; give the model a template that writes both alike"
        )
    opening, _, after = whole[len(prompt) :].partition(answer.content)
    tag = OPENED.search(prompt)
    opened = f"<{tag[1]}>" if tag and opening.strip() == f"</{tag[1]}>" else ""
    if not opened and not OPENING.fullmatch(opening):
        raise UserError(
            f"{name}: the chat template writes {codec.plain(opening)!r} between its prompt and an answer, which the assistant would have "
            "to write itself; let add_generation_prompt write it"
        )
    gap = codec.parts(after)[0]
    if gap.strip():
        raise UserError(f"{name}: the chat template writes {gap.strip()!r} between an answer and its end token {end}; leave it out")
    return Around(end, opening, opened, gap, shared)
