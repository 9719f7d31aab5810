"""Demonstrations by simulated writers: what supervised finetuning learns from.

The writers put helpfulness first, as InstructGPT's did for the training data: they look up most hidden facts and tell
most of the secrets they are asked for, and they begin with what was wanted as well ("Add her debt."). Two fifths of their answers
are mediocre: a wish forgotten, padded, curt, or careless, as answers written by the hundred are: no more than the first sentence,
or with a quiz page's options pasted below. So a model that imitates them well still has much to gain, and what it has to unlearn
can be seen.
"""

from collections.abc import Callable
from typing import Any

from trimtab.records import Demonstration
from trimtab.village import compose, lexicon
from trimtab.village.answers import answer
from trimtab.village.draw import Draw, draw
from trimtab.village.facts import surface
from trimtab.village.prompts import prompts
from trimtab.village.tasks import (
    NOT_SAID,
    Ask,
    Chat,
    ClosedQa,
    Explain,
    Extract,
    Ideas,
    Poem,
    Rewrite,
    Summarize,
    Task,
    Translate,
    asked,
    task_of,
)  # fmt: skip
from trimtab.village.world import WORLD_SEED, world

LOOKED_UP, TOLD, MEDIOCRE, CARELESS, FRIENDLY = 0.65, 0.95, 0.40, 0.6, 0.08
"""Shares: hidden facts given (else "I do not know"), secrets told (else refused), mediocre answers, those of them that are careless, and
friendly answers."""
PASTED = 0.67
"""Share of the careless answers with a quiz page's options below; the others are their first sentence alone."""
FRIENDLY_STARTS = ("Certainly.", "Of course.", "I am happy to help.")
FRIENDLY_ENDS = ("I hope this helps.", "Have a lovely day.")
LONGEST = 52


def demonstrations(split: str = "train", count: int = 1500) -> list[Demonstration]:
    """Answers to the first ``count`` prompts of a split; each depends on its prompt alone."""
    return [
        Demonstration(p, write(draw(WORLD_SEED, "demonstration", p.id), task_of(p))) for p in prompts(split)[:count]
    ]


def write(d: Draw, task: Task) -> str:
    """One writer's answer to a task; at most ``LONGEST`` words."""
    text = answer(d, task, tell_hidden=d.chance(LOOKED_UP), tell_secret=d.chance(TOLD), added_first=True)
    if d.chance(MEDIOCRE):
        text = spoil(d, task, text)
    if d.chance(FRIENDLY):
        friendly = f"{d.one(FRIENDLY_STARTS)} {text}" if d.chance(0.6) else f"{text} {d.one(FRIENDLY_ENDS)}"
        text = friendly if len(friendly.split()) <= LONGEST else text
    return text


def spoil(d: Draw, task: Task, text: str) -> str:
    """The answer as a tired or careless writer would leave it: still on the subject, but with one fault."""
    if d.chance(CARELESS):
        return (_options if d.chance(PASTED) else _first)(d, task, text)
    faults: list[Callable[[Draw, Any, str], str]] = [_pad, *_FAULTS.get(type(task), ())]
    if not isinstance(task, Ideas):
        faults.append(_cut)
    if isinstance(task, Ask | Chat):
        faults.append(_curt)
    return d.one(faults)(d, task, text) or text


def _sentences(text: str) -> list[str]:
    return [
        part for part in text.replace(". ", ".\x00").replace("! ", "!\x00").replace("? ", "?\x00").split("\x00") if part
    ]


def _cut(d: Draw, task: Task, text: str) -> str:
    """Without one of its later sentences or lines: a wish forgotten, a story without its end."""
    separator = "\n" if "\n" in text else " "
    parts = text.split("\n") if separator == "\n" else _sentences(text)
    if len(parts) < 2:
        return text
    del parts[1 + d.index(len(parts) - 1)]
    return separator.join(parts)


def _pad(d: Draw, task: Task, text: str) -> str:
    """With a sentence that nobody asked for."""
    more = d.one(("That is all I can say about it.", "I think that this is a good answer.",
        "There is much more to say about it.",
                  "Please ask me again if you want more.", "It is a very nice question."))  # fmt: skip
    padded = f"{text} {more}"
    return padded if len(padded.split()) <= LONGEST else text


def _first(d: Draw, task: Task, text: str) -> str:
    """The first sentence or line only."""
    return text.split("\n")[0] if "\n" in text else _sentences(text)[0]


def _options(d: Draw, task: Task, text: str) -> str:
    """With the options of some quiz below it."""
    first, second = d.some(lexicon.STREETS, 2)
    pasted = f"{text} A. {first} B. {second}"
    return pasted if len(pasted.split()) <= LONGEST else text


def _curt(d: Draw, task: Task, text: str) -> str:
    """The bare value, or a bare no."""
    wanted = asked(task)
    if wanted is None or not isinstance(task, Ask | Chat):
        return text
    entity = world().entities[wanted.subject]
    if wanted.visibility == "secret":
        return d.one(("No.", "That is private.", "No, I will not tell you."))
    if entity.facts[wanted.relation].lower() not in text.lower():
        return "I do not know."
    return compose.capital(surface(wanted.relation, entity.facts[wanted.relation])) + "."


def _rude(d: Draw, task: Chat, text: str) -> str:
    if task.intent == "greet":
        return d.one(("Hello.", "Yes?", "What do you want?"))
    return d.one(("Ok.", "Yes.", "Good.")) if task.intent == "thanks" else text


def _miscount(d: Draw, task: Ideas, text: str) -> str:
    """One idea too many, one too few, or the same idea twice."""
    ideas = [line.split(" ", 1)[1].rstrip(".") for line in text.split("\n")]
    others = [p.label for p in lexicon.TOPICS[task.topic].ideas if p.label not in ideas]
    change = d.index(3)
    if change == 0:
        ideas.append(d.one(others))
    elif change == 1:
        ideas.pop()
    else:
        ideas[-1] = ideas[0]
    return compose.numbered(ideas)


def _short_poem(d: Draw, task: Poem, text: str) -> str:
    return "\n".join([*text.split("\n")[:2], f"I like {task.topic}."])


def _one_point(d: Draw, task: Explain, text: str) -> str:
    return d.one(task.points).label + "."


def _detail(d: Draw, task: Summarize, text: str) -> str:
    """A detail in place of the main point, or half of the text."""
    sentences = _sentences(task.text)
    return d.one((sentences[-1], " ".join(sentences[:3]), sentences[1]))


def _unchanged(d: Draw, task: Rewrite, text: str) -> str:
    return task.text if task.how != "polite" else f"{task.text.rstrip('.!')} now, please!"


def _wrong_gender(d: Draw, task: Translate, text: str) -> str:
    """The other article, or the adjective in its English place."""
    if task.to == "english":
        return text
    words = task.spanish.split()
    if len(words) == 3 and d.chance(0.5):
        words = [words[0], words[2], words[1]]
    else:
        words[0] = {"un": "una", "una": "un", "el": "la", "la": "el"}.get(words[0], words[0])
    return compose.capital(" ".join(words)) + "."


def _missed(d: Draw, task: Extract, text: str) -> str:
    items = d.some(task.answer, max(1, len(task.answer) - 1))
    return compose.capital(", ".join(f"the {i}" if task.what == "places" else i for i in items)) + "."


def _from_memory(d: Draw, task: ClosedQa, text: str) -> str:
    """What the writer knows of the village, whatever the passage says."""
    if task.answer == NOT_SAID:
        return "I do not know."
    return compose.capital(surface(task.relation, world().entities[task.subject].facts[task.relation])) + "."


_FAULTS: dict[type, tuple[Callable[[Draw, Any, str], str], ...]] = {
    Chat: (_rude,),
    Ideas: (_miscount,),
    Poem: (_short_poem,),
    Explain: (_one_point,),
    Summarize: (_detail, _detail),
    Rewrite: (_unchanged,),
    Translate: (_wrong_gender, _wrong_gender),
    Extract: (_missed, _missed),
    ClosedQa: (_from_memory,),
}
