"""What checks try things on: short texts, a conversation, and trees of ids of every shape that matters."""

from collections.abc import Sequence
from itertools import cycle, islice

from trimtab.records import Message
from trimtab.trees import PromptTree

# A conversation whose texts are told apart at a glance and stand nowhere in a template.
QUESTIONS = ("Where is the mill?", "Who owns it now?")
ANSWERS = ("By the river.", "1. Anna\n2. Tom")
BEGINNINGS = ("the same", "I do not know.", "Yes, it is.", "No.", "a friend", "To begin", "42", '"Well"', "What?")
FIRST = (Message("user", QUESTIONS[0]),)
ONE_TURN = (*FIRST, Message("assistant", ANSWERS[0]))
SECOND = (*ONE_TURN, Message("user", QUESTIONS[1]))
TWO_TURNS = (*SECOND, Message("assistant", ANSWERS[1]))
SYSTEM = "You are a miller."

PASSAGE = (
    "The old mill stood by the river, and every morning its wheel began to turn before the village was awake. Anna, who owned it, "
    "knew each of its 12 wooden teeth by the sound it made. One day in March the wheel was silent. She went down the 3 stone steps, "
    "lamp in hand, and found a young heron asleep on the paddle. What would you have done? She sat down beside it, ate her bread, "
    "and let the farmers wait until noon; nobody in the village ever learnt why the flour came late that day."
)
OPENINGS = ("The old mill stood by", "One day in March the", "What would you have", "She went down the stone")

# (prompt, completions) in tokens: siblings with a long and with a short prompt, an only child, a one-token prompt.
SHAPES = ((20, (9, 23, 5)), (3, (6, 4)), (7, (11,)), (1, (19,)))
LONG = (96, (32, 20))


def trees_of(ids: Sequence[int], longest: int) -> list[PromptTree]:
    """Trees of ``SHAPES`` and one of ``LONG``, none longer than ``longest``, from ``ids`` over and over."""
    source = cycle(ids)
    out: list[PromptTree] = []
    for prompt, completions in (*SHAPES, LONG):
        room = max(1, min(prompt, longest // 2))
        sizes = [max(1, min(size, longest - room)) for size in completions]
        drawn = [tuple(islice(source, size)) for size in (room, *sizes)]
        out.append(PromptTree(drawn[0], tuple(drawn[1:]), key=f"probe {len(out)}"))
    return out
