"""Puts sentences together: stories, descriptions, notices, letters, poems, lists, news.

Used three times: by ``text.py`` for the base text, by ``instructions.py`` for passages, by ``demonstrations.py`` for
answers.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from trimtab.village import lexicon, themes
from trimtab.village.draw import Draw
from trimtab.village.facts import RELATIONS, fill, phrase, state, surface
from trimtab.village.tasks import Point, Story
from trimtab.village.world import Entity


def capital(text: str) -> str:
    """The text with its first letter as a capital."""
    return text[:1].upper() + text[1:]


def listed(items: Sequence[str]) -> str:
    """ "plums", "plums and nuts", "plums, nuts and rice"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


@dataclass(frozen=True)
class Plot:
    """What happens in a story: happenings and ending are (id, thing or "")."""

    character: str
    setting: str
    happenings: tuple[tuple[str, str], ...]
    ending: str

    @property
    def task(self) -> Story:
        events = tuple(_happening_point(themes.HAPPENINGS[name], thing) for name, thing in self.happenings)
        return Story(self.character, self.setting, events, _happening_point(themes.ENDINGS[self.ending], ""))


def plot_key(plot: Plot) -> str:
    """What makes two plots the same story to ask for."""
    return f"{plot.character} {plot.setting} {plot.happenings} {plot.ending}"


def _happening_point(happening: themes.Happening, thing: str) -> Point:
    words = (happening.words,) + (((thing.split()[-1],),) if thing else ())
    return Point(happening.asked.replace("{x}", thing), words)


@cache
def _labels() -> dict[str, tuple[str, str]]:
    """What a prompt asks for -> (id, thing), for every happening and ending."""
    both = (*themes.HAPPENINGS.items(), *themes.ENDINGS.items())
    return {h.asked.replace("{x}", thing): (name, thing) for name, h in both for thing in (h.things or ("",))}


def plot_of(task: Story) -> Plot:
    """The plot that a story task was made from."""
    happenings = tuple(_labels()[event.label] for event in task.events)
    return Plot(task.character, task.setting, happenings, _labels()[task.ending.label][0])


def plot(d: Draw) -> Plot:
    """A random plot of one or two happenings."""
    character = d.one(themes.ANIMALS)
    happenings = []
    for name in d.some(tuple(themes.HAPPENINGS), 1 + d.index(2)):
        things = [t for t in themes.HAPPENINGS[name].things if t.split()[-1] != character]
        happenings.append((name, d.one(things) if things else ""))
    return Plot(character, d.one(themes.SETTINGS), tuple(happenings), d.one(tuple(themes.ENDINGS)))


def story(d: Draw, plot: Plot, *, fillers: int = 1) -> str:
    """The story of a plot in three to six sentences."""
    a, c = lexicon.article(plot.character), f"the {plot.character}"
    adjective = d.one(("", "", "young ", "small ", "clever ", "lonely "))
    if adjective:
        a = f"a {adjective}{plot.character}"
    sentences = [d.one(themes.OPENINGS).replace("{a}", a).replace("{s}", plot.setting)]
    sentences += d.some(themes.FILLERS, fillers)
    for name, thing in plot.happenings:
        sentences.append(d.one(themes.HAPPENINGS[name].told).replace("{c}", c).replace("{x}", thing))
    sentences.append(d.one(themes.ENDINGS[plot.ending].told).replace("{c}", c))
    return " ".join(map(capital, sentences))


def description(d: Draw, entity: Entity, relations: Sequence[str], *, joined: float = 0.35) -> str:
    """Sentences that state these facts of an entity, in this order; some of them two in one sentence."""
    sentences: list[str] = []
    i = 0
    while i < len(relations):
        pronoun = bool(sentences) and d.chance(0.6)
        if i + 1 < len(relations) and d.chance(joined):
            first, second = phrase(d, entity, relations[i]), phrase(d, entity, relations[i + 1])
            both = f"{first}{',' if ', ' in first else ''} and {second}"
            sentences.append(fill("{N} " + both + ".", entity, pronoun=pronoun))
            i += 2
        else:
            sentences.append(state(d, entity, relations[i], pronoun=pronoun))
            i += 1
    return " ".join(sentences)


NOTICE_HEADS = {
    "event": (
        "Come to {o}!",
        "Everybody is invited to {o}!",
        "Do not miss {o}!",
        "Good news for everybody: {o} is near!",
    ),
    "place": ("Visit {o}!", "Come and see {o}!", "Welcome to {o}!", "Have you been to {o}?"),
}
NOTICE_TAILS = {
    "event": ("Bring your friends.", "All are welcome.", "We hope to see you there.", "There will be music and cake."),
    "place": ("You are always welcome.", "We are happy to see you.", "Bring your friends.", "Come in and look around."),
}


def notice(d: Draw, entity: Entity, must: Sequence[str], *, tail: bool = True) -> str:
    """An advertisement that states the facts ``must`` between a call and (often) a friendly end."""
    head = d.one(NOTICE_HEADS[entity.kind]).replace("{o}", entity.mention)
    body = [fill("{N} " + phrase(d, entity, r) + ".", entity, pronoun=True) for r in must]
    return " ".join([head, *body, *([d.one(NOTICE_TAILS[entity.kind])] if tail else [])])


LETTERS = {
    "thank": (
        ("Thank you very much for {i}.", "Many thanks for {i}.", "I want to thank you for {i}.",
        "I am writing to thank you for {i}."),
        ("It made me very happy.", "You are a true friend.", "I will not forget it.", "It was so kind of you.",
        "I told everybody about it."),
    ),
    "invite": (
        ("I want to invite you to {i}.", "You are invited to {i}.", "Please let me invite you to {i}."),
        ("It would be lovely to see you.", "Please tell me if you can come.", "We will have a good time.",
        "Bring a friend if you like."),
    ),
    "apologise": (
        ("I am sorry about {i}.", "I want to apologise for {i}.", "Please forgive me for {i}.",
        "I am so sorry about {i}."),
        ("It will not happen again.", "I feel very bad about it.", "I hope you are not angry.",
        "Let me make it good again."),
    ),
}  # fmt: skip
SIGNATURES = ("Yours, {n}", "Best wishes, {n}", "Your friend {n}", "With love, {n}")
PURPOSES = {"thank": "thank {t} for {i}", "invite": "invite {t} to {i}", "apologise": "apologise to {t} for {i}"}
PURPOSE_WORDS = {
    "thank": ("thank", "thanks"),
    "invite": ("invite", "invited", "invitation"),
    "apologise": ("sorry", "apologise", "forgive"),
}


def letter(d: Draw, to: str, sender: str, purpose: str, item: str, extra: str = "", *, more: int = 1) -> str:
    """A letter of three to five short sentences on one line each part: greeting, body, signature."""
    openers, followers = LETTERS[purpose]
    body = [d.one(openers).replace("{i}", item), *d.some(followers, more), *([extra] if extra else [])]
    return f"Dear {to},\n{' '.join(body)}\n{d.one(SIGNATURES).replace('{n}', sender)}."


def poem(d: Draw, topic: str, lines: int = 4) -> str:
    """Lines on a topic; the last ends with a full stop. The topic's name is always among them."""
    pool = themes.POEMS[topic][1]
    name = topic.split()[-1]
    named = [line for line in pool if name in line.lower()]
    first = d.one(named)
    chosen = [first, *d.some([line for line in pool if line != first], lines - 1)]
    chosen = d.some(chosen, lines)
    return "\n".join([*chosen[:-1], chosen[-1].rstrip(",") + "."])


def numbered(items: Sequence[str]) -> str:
    """ "1. First.\\n2. Second." """
    return "\n".join(f"{i}. {item}." for i, item in enumerate(items, 1))


def opinion(d: Draw, positive: bool) -> str:
    """One sentence of praise or blame."""
    text = d.one(themes.PRAISE if positive else themes.BLAME).replace("{n}", d.one(themes.REVIEWED))
    text = text.replace("{g}", d.one(themes.GOOD)).replace("{b}", d.one(themes.BAD))
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


@dataclass(frozen=True)
class News:
    """A short text with one main point."""

    text: str
    main: Point
    details: tuple[Point, ...]
    summaries: tuple[str, str]
    """The main sentence and another way to say it."""


def news(d: Draw, index: int, people: Sequence[Entity]) -> News:
    """Entry ``index`` of ``themes.NEWS`` with its slots filled; the main sentence comes first or last."""
    mains, words, details = themes.NEWS[index]
    slots = {
        "{st}": d.one(lexicon.STREETS),
        "{p}": d.one(people).name,
        "{d}": d.one(lexicon.DAYS),
        "{n}": lexicon.number(3 + d.index(9)),
    }

    def filled(text: str) -> str:
        for slot, value in slots.items():
            text = text.replace(slot, value)
        return text

    points = tuple(lexicon.marked(filled(detail)) for detail in details)
    groups = tuple(tuple(filled(w).lower() for w in group) for group in words)
    summaries = (filled(mains[0]), filled(mains[1]))
    body = [p.label for p in points]
    first = d.one(summaries)
    text = " ".join([first, *body])
    return News(text, Point(summaries[0], groups), points, summaries)


def bare_answer(entity: Entity, relation: str) -> str:
    """The value alone, as in a quiz option: "Mill Lane", "a baker"."""
    return surface(relation, entity.facts[relation])


def wrong_values(d: Draw, relation: str, right: str, count: int, others: Sequence[Entity]) -> list[str]:
    """``count`` different values that other entities have for the relation, as in a sentence; never the right one."""
    found: list[str] = []
    while len(found) < count:
        value = d.one(others).facts[relation]
        if value != right and value not in found:
            found.append(value)
    return [surface(relation, v) for v in found]


def public_relations(entity: Entity) -> list[str]:
    """Names of the entity's public relations, in the table's order."""
    return [r.name for r in RELATIONS.values() if r.kind == entity.kind and r.visibility == "public"]
