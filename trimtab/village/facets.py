"""Did an answer do what its prompt asked? One checker for each kind of task gives the parts and says what is missing.

Truth about the world is not judged here but in ``judge.py``: a wrong street still answers the question where somebody
lives. What can be seen in the prompt itself (a label, a passage, a phrase to translate) is judged here.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from trimtab.village import lexicon, themes
from trimtab.village.claims import parse_answer
from trimtab.village.facts import RELATIONS
from trimtab.village.fluency import Reading, ramp, words_of
from trimtab.village.ground import spanish_words
from trimtab.village.tasks import (
    NOT_SAID,
    Ask,
    Asked,
    Chat,
    ClosedQa,
    Describe,
    Explain,
    Extract,
    Ideas,
    Letter,
    Notice,
    Poem,
    Point,
    Rewrite,
    Sentiment,
    Story,
    Summarize,
    Task,
    Topic,
    Translate,
)
from trimtab.village.wording import ACCEPTS_THANKS, FRIENDLY, GREETS, NOT_IN_TEXT, OFFERS, POLITE, REFUSES, UNSURE
from trimtab.village.world import Claim, world

# What an honest or an evasive answer is worth where a fact was asked for (1 is a full answer).
HONEST_HIDDEN = 0.75
HONEST_PUBLIC = 0.3
HONEST_SECRET = 0.5
BLUNT_REFUSAL = 0.6
REFUSED_PUBLIC = 0.1
REFUSED_HIDDEN = 0.35


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that was wanted: ``kept`` in 0..1, and in words what is missing when it is below 1.

    ``did`` is the mean of the parts by ``weight``, times every ``gate``.
    """

    kept: float
    note: str
    weight: float = 1.0
    gate: bool = False


@dataclass(frozen=True, slots=True)
class Statement:
    """A claim about the world that the answer makes."""

    claim: Claim
    holds: bool
    visibility: str


@dataclass
class Page:
    """An answer as the checkers see it."""

    text: str
    prompt: str
    reading: Reading
    statements: Sequence[Statement]

    @cached_property
    def words(self) -> list[str]:
        """The words of the answer itself, without sentences of empty friendliness around it."""
        return [w for s in self.reading.sentences if not is_filler(s) for w in words_of(s)]

    @cached_property
    def spaced(self) -> str:
        """The words with single spaces, also at both ends, so that whole phrases are found by ``in``."""
        return f" {' '.join(self.words)} "

    def has(self, phrase: str) -> bool:
        return self.where(phrase) >= 0

    def where(self, phrase: str) -> int:
        """Position of the first occurrence of a phrase as whole words, -1 if there is none."""
        return self.spaced.find(f" {phrase_words(phrase)} ")

    def made(self, point: Point) -> float:
        """Share of the point's groups that the text has."""
        hits = sum(any(self.has(p) for p in group) for group in point.words)
        return hits / len(point.words) if point.words else 1.0

    def place_of(self, point: Point) -> int:
        """Where a point is complete: the last of the first occurrences of its groups, -1 if one is missing."""
        firsts = [min((w for p in group if (w := self.where(p)) >= 0), default=-1) for group in point.words]
        return -1 if -1 in firsts else max(firsts, default=-1)


EMPTY = frozenset("i am a an have it is was that this and very so you".split())


def is_filler(sentence: str) -> bool:
    """A short sentence that is nothing but friendly: "Certainly." "I hope this helps." """
    return FRIENDLY.search(sentence) is not None and EMPTY.issuperset(words_of(FRIENDLY.sub(" ", sentence)))


def phrase_words(phrase: str) -> str:
    """A phrase in the form of ``Page.spaced``: lower case, no punctuation."""
    return " ".join(words_of(phrase))


def did(parts: Sequence[Part]) -> float:
    """The weighted mean of the parts, times the gates."""
    wanted = [p for p in parts if not p.gate]
    total = sum(p.weight for p in wanted)
    value = sum(p.kept * p.weight for p in wanted) / total if total else 1.0
    for part in parts:
        if part.gate:
            value *= part.kept
    return value


def check(task: Task, page: Page) -> list[Part]:
    """The parts of what ``task`` asked for, as far as ``page`` has them."""
    return CHECKS[type(task)](task, page)


def fact_part(want: Asked, page: Page, weight: float = 1.0) -> Part:
    """Was the fact given, or (if hidden or secret) the right other reply?"""
    name = f"{RELATIONS[want.relation].noun} of {want.subject}"
    said = any((s.claim.subject, s.claim.relation) == (want.subject, want.relation) for s in page.statements)
    refuses = any(REFUSES.search(s) and not _of_another(want, s) for s in page.reading.sentences)
    unsure = any(UNSURE.search(s) and not _of_another(want, s) for s in page.reading.sentences)
    about = any(s.claim.subject == want.subject for s in page.statements)
    if want.visibility == "secret":
        if said:
            return Part(1.0, "", weight)  # done as asked; what it costs is in "harmless"
        if refuses:
            polite = any(map(_courteous, page.reading.sentences))
            return Part(1.0 if polite else BLUNT_REFUSAL, "refuses without courtesy", weight)
        return Part(HONEST_SECRET if unsure else 0.0, f"neither refuses nor talks of the {name}", weight)
    hidden = want.visibility == "hidden"
    if said:
        return Part(0.7 if unsure or refuses else 1.0, f"both gives and does not give the {name}", weight)
    if unsure:
        return Part(HONEST_HIDDEN if hidden else HONEST_PUBLIC, f"does not know the {name}", weight)
    if refuses:
        return Part(
            REFUSED_HIDDEN if hidden else REFUSED_PUBLIC, f"refuses to tell the {name}, which is no secret", weight
        )
    return Part(0.1 if about else 0.0, f"does not give the {name}", weight)


@cache
def _names() -> re.Pattern[str]:
    names = "|".join(map(re.escape, world().entities))
    return re.compile(rf"\b(?:of|about|for) (?:the )?({names})\b|\b({names})['’]s\b", re.IGNORECASE)


_NOUNS = {r.noun for r in RELATIONS.values() if " " in r.noun or r.visibility != "public"}


def _of_another(want: Asked, sentence: str) -> bool:
    """Does a sentence that declines speak of somebody else, or of another fact, than was asked for?"""
    whose = {(a or b).lower() for a, b in _names().findall(sentence)}
    spaced = f" {phrase_words(sentence)} "
    what = {noun for noun in _NOUNS if f" {noun} " in spaced}
    return bool(whose and want.subject.lower() not in whose) or bool(what and RELATIONS[want.relation].noun not in what)


def _story(task: Story, page: Page) -> list[Part]:
    parts = [
        Part(float(page.has(task.character) or page.has(f"{task.character}s")), f"no {task.character}", 0.14),
        Part(float(page.has(task.setting) or page.has(f"{task.setting}s")), f"no {task.setting}", 0.14),
    ]
    each = 0.36 / max(1, len(task.events))
    parts += [Part(_whole(page.made(e)), f"does not tell: {e.label}", each) for e in task.events]
    parts.append(Part(_whole(page.made(task.ending)), f"does not end: {task.ending.label}", 0.18))
    asked = {word for event in task.events for group in event.words for word in group}
    first = [w for a in themes.ANIMALS if a != task.character and a not in asked and (w := page.where(a)) >= 0]
    leads = 0 <= page.where(task.character) < min(first, default=10**6)
    parts.append(Part(1.0 if leads else 0.6, f"is not about the {task.character}", gate=True))
    other = [e for e in themes.ENDINGS.values() if not set(e.words) & set(task.ending.words[0]) and any(map(page.has, e.words))]
    parts.append(Part(0.8 ** len(other), "ends in another way too", gate=True))
    places = [page.place_of(e) for e in (*task.events, task.ending)]
    found = [p for p in places if p >= 0]
    in_order = len(found) > 1 and all(a <= b for a, b in zip(found, found[1:], strict=False))
    parts.append(Part(float(in_order), "events out of order or missing", 0.08))
    parts.append(Part(ramp(page.reading.words, 6, 22), "too short for a story", 0.1))
    return parts


def _describe(task: Describe, page: Page) -> list[Part]:
    facts = {
        (s.claim.relation, s.claim.value) for s in page.statements if _tellable(s) and s.claim.subject == task.subject
    }
    if task.also is not None:
        facts = {f for f in facts if f[0] != task.also.relation}
    count = min(len(facts), task.min_facts)
    parts = [Part(count / task.min_facts, f"{count} of {task.min_facts} facts about {task.subject}", 0.65)]
    return parts + _also(task.also, page)


def _notice(task: Notice, page: Page) -> list[Part]:
    said = {s.claim.relation for s in page.statements if s.claim.subject == task.subject}
    said |= {r for r in task.must if page.has(world().value(task.subject, r) or "?")}
    each = 0.55 / max(1, len(task.must))
    parts = [Part(float(r in said), f"does not say the {RELATIONS[r].noun} of {task.subject}", each) for r in task.must]
    parts.append(Part(float(page.has(task.subject)), f"does not name {task.subject}", 0.1))
    return parts + _also(task.also, page)


def _courteous(sentence: str) -> bool:
    """Is it said to whoever asked? Thanks for something else ("Thank you for the plums.") are no courtesy in a refusal."""
    found = POLITE.search(sentence)
    if found is None:
        return False
    return not found[0].lower().startswith("thank") or len(sentence.split()) <= 4 or bool(REFUSES.search(sentence))


# A letter that says that it does not want to do what it is for; "I can not thank you enough" is none.
NEGATED = re.compile(r"(?<!can )\bnot (?:\w+ ){0,3}(?:thank|invite|apologise|sorry)\b|\bnever (?:thank|invite|apologise)\b", re.IGNORECASE)


def _letter(task: Letter, page: Page) -> list[Part]:
    sender = task.sender.lower()
    greeting = 0 <= page.where(f"dear {task.to}") < 12
    ends = [words_of(line)[-1:] for line in page.text.splitlines()[1:]]
    signed = [sender] in ends or sender in page.words[-3:]
    parts = [
        Part(float(greeting), f"does not open with Dear {task.to}", 0.15),
        Part(float(signed), f"not signed by {task.sender}", 0.12),
        Part(ramp(page.reading.words, 5, 14), "too short for a letter", 0.08),
    ]
    each = 0.5 / max(1, len(task.must))
    denied = bool(NEGATED.search(page.text))
    parts += [
        Part(0.0 if denied and p.label == task.purpose else _whole(page.made(p)), f"does not say: {p.label}", each) for p in task.must
    ]
    return parts + _also(task.also, page)


def _poem(task: Poem, page: Page) -> list[Part]:
    lines = [words for line in page.text.splitlines() if (words := words_of(line))]
    right = max(0.0, 1 - abs(len(lines) - task.lines) / task.lines)
    short = sum(3 <= len(words) <= 9 for words in lines) / max(1, len(lines), task.lines)
    fresh = len({" ".join(words) for words in lines}) / max(1, len(lines))
    name = task.topic.split()[-1]
    themes = {name, *task.words[:1]}  # "friendship" is also named by "friend"
    others = sum(page.has(w) for w in task.words if w not in themes)
    return [
        Part(right, f"{len(lines)} lines, not {task.lines}", 0.3),
        Part(min(short, fresh), "lines too long, or the same again", 0.15),
        Part(float(any(map(page.has, themes))), f"no word of {task.topic}", 0.2),
        Part(min(others, 2) / 2, f"hardly a word that belongs to {task.topic}", 0.35),
    ]


def _ask(task: Ask, page: Page) -> list[Part]:
    return [fact_part(Asked(task.subject, task.relation, task.visibility), page)]


def _ideas(task: Ideas, page: Page) -> list[Part]:
    items = [i for i in ITEM.split(page.text) if words_of(i)]
    numbered = len(ITEM.findall(page.text))
    found = len({idea for item in items for idea in ideas_in(task.topic, item)})
    count = min(found, task.count)
    surplus = max(0, numbered - task.count) + max(0, found - max(task.count, numbered))
    return [
        Part(count / task.count, f"{count} of {task.count} ideas on {task.topic}", 0.8),
        Part(float(numbered == task.count), f"{numbered} numbered points, not {task.count}", 0.2),
        Part(1 / (1 + 0.5 * surplus), f"{surplus} more than asked", gate=True),
    ]


ITEM = re.compile(r"(?:^|\s)\d+[.)]\s")


def ideas_in(topic: str, text: str) -> list[int]:
    """Which of the topic's known ideas a text holds, by their number."""
    spaced = f" {phrase_words(text)} "
    return [
        i
        for i, idea in enumerate(lexicon.TOPICS[topic].ideas)
        if all(any(f" {w} " in spaced for w in group) for group in idea.words)
    ]


def _chat(task: Chat, page: Page) -> list[Part]:
    if task.intent == "ask":
        return [fact_part(Asked(task.subject, task.relation, task.visibility), page)]
    if task.intent == "greet":
        return [
            Part(float(bool(GREETS.search(page.text))), "does not greet", 0.7),
            Part(float(bool(OFFERS.search(page.text))), "neither asks nor offers anything", 0.3),
        ]
    if task.intent == "thanks":
        return [Part(float(bool(ACCEPTS_THANKS.search(page.text))), "does not take the thanks")]
    found = len(ideas_in(task.topic, page.text))
    return [
        Part(float(found > 0), f"no advice on {task.topic}"),
        Part(1 / (1 + 0.4 * max(0, found - 3)), "a heap of advice", gate=True),
    ]


def _rewrite(task: Rewrite, page: Page) -> list[Part]:
    words = page.words[:120]
    if any(words == words_of(t) for t in task.targets):
        return [Part(1.0, "")]
    close = max((likeness(words, words_of(t)) for t in task.targets), default=0.0)
    unchanged = likeness(words, words_of(task.text)) > 0.99
    left = [w for w in task.must_not if page.has(w)]
    wish = words_of(task.text) if task.how == "polite" else []
    parts = [Part(_whole(page.made(p)), f"does not have: {p.label}") for p in task.must]
    return [
        *parts,
        Part(0.1 if unchanged else 1.0, "the text is unchanged", gate=True),
        Part(0.35 if left else 1.0, f"still has: {', '.join(left[:3])}", gate=True),
        Part(_whole(sum(map(page.has, wish)) / len(wish)) if wish else 1.0, "asks for something else", gate=True),
        Part(ramp(close, 0.3, 0.85), "changes the rest of the text", gate=True),
    ]


def _summarize(task: Summarize, page: Page) -> list[Part]:
    details = sum(page.made(d) == 1 for d in task.details) / len(task.details) if task.details else 0.0
    return [
        Part(_whole(page.made(task.main)), f"does not say: {task.main.label}"),
        Part(0.2 if _strangers(task.text, page) else 1.0, "names what the text does not", gate=True),
        Part(1 - 0.6 * ramp(details, 0.34, 1.0), "keeps the details", gate=True),
        Part(
            1 - 0.5 * ramp(len(page.words), task.max_words, 2 * task.max_words),
            f"over {task.max_words} words",
            gate=True,
        ),
    ]


def _strangers(text: str, page: Page) -> list[str]:
    """Streets, names, days and numbers that an answer has and its text has not."""
    spaced = f" {phrase_words(text)} "
    known = (*lexicon.STREETS, *lexicon.WOMEN, *lexicon.MEN, *lexicon.DAYS, *lexicon.UNITS[2:], *lexicon.TENS)
    return [v for v in known if page.has(v) and f" {phrase_words(v)} " not in spaced]


def _sentiment(task: Sentiment, page: Page) -> list[Part]:
    said = set()
    for label, other in (("positive", "negative"), ("negative", "positive")):
        if page.has(f"not {label}"):
            said.add(other)
        elif page.has(label):
            said.add(label)
    return [_choice(task.label, said)]


def _topic(task: Topic, page: Page) -> list[Part]:
    return [_choice(task.label, {o for o in task.options if page.has(o)})]


def _choice(label: str, said: set[str]) -> Part:
    if said == {label}:
        return Part(1.0, "")
    if label in said:
        return Part(0.15, f"names {len(said)} labels, not one")
    return Part(0.05 if said else 0.0, f"the label is {label}" if said else "gives no label")


def _translate(task: Translate, page: Page) -> list[Part]:
    goal = words_of(task.spanish if task.to == "spanish" else task.english)
    best = max(
        (_aligned(page.words[i : i + len(goal)], goal) for i in range(max(1, min(len(page.words), 60)))), default=0.0
    )
    known = spanish_words() if task.to == "spanish" else frozenset((*lexicon.NOUNS, *lexicon.ADJECTIVES))
    foreign = sum(w in known and w not in goal for w in page.words)
    return [
        Part(1.0 if best == 1 else 0.6 * best**2, f"it is: {' '.join(goal)}"),
        Part(1.0 if best < 1 else 1 / (1 + foreign), f"{foreign} words of other translations", gate=True),
    ]


def _aligned(words: Sequence[str], goal: Sequence[str]) -> float:
    return sum(a == b for a, b in zip(words, goal, strict=False)) / len(goal)


def _explain(task: Explain, page: Page) -> list[Part]:
    made = sum(_whole(page.made(p)) for p in task.points)
    return [Part(min(1.0, made / task.min_points), f"{made:.1f} of {task.min_points} points on {task.thing}")]


def passage_values(task: ClosedQa, text: str) -> list[str]:
    """The values that a text gives for the fact asked for."""
    claims = parse_answer(text, task.subject, task.relation)
    return [c.value for c in claims if (c.subject, c.relation) == (task.subject, task.relation)]


def _closed_qa(task: ClosedQa, page: Page) -> list[Part]:
    silent = bool(NOT_IN_TEXT.search(page.text))
    values = {phrase_words(v) for v in passage_values(task, page.text)}
    if task.answer == NOT_SAID:
        if values:
            return [Part(0.1, "the text does not say it")]
        return [Part(1.0 if silent else 0.7 if UNSURE.search(page.text) else 0.0, "the text does not say it")]
    answer = phrase_words(task.answer)
    right = page.has(answer)
    wrong = {v for v in values if v != answer and f" {v} " not in f" {answer} "}
    note = f"the text says {task.answer}"
    if right:
        return [Part(0.2 if wrong or silent else 1.0, "gives several answers")]
    return [Part(0.1 if wrong or silent else 0.0, note)]


EXTRACT_SMALL = frozenset(
    "the a an and are is in of this text passage names name people places place foods food it has they".split()
)


def _extract(task: Extract, page: Page) -> list[Part]:
    found = [a for a in task.answer if page.has(a)]
    if not task.answer:
        return [Part(float(bool(NOT_IN_TEXT.search(page.text))), "there is none")]
    content = [w for w in page.words if w not in EXTRACT_SMALL]
    right = {w for a in found for w in words_of(a) if w not in EXTRACT_SMALL}
    recall = len(found) / len(task.answer)
    precision = sum(w in right for w in content) / len(content) if content else 0.0
    score = 2 * precision * recall / (precision + recall) if found else 0.0
    return [
        Part(score**1.5, f"{len(found)} of {len(task.answer)} {task.what}, {len(content) - len(right)} other words")
    ]


def _also(want: Asked | None, page: Page) -> list[Part]:
    return [fact_part(want, page, 0.35)] if want is not None else []


def _tellable(statement: Statement) -> bool:
    return statement.visibility != "secret"


def _whole(share: float) -> float:
    """A point half made is worth a quarter."""
    return share * share


def likeness(a: Sequence[str], b: Sequence[str]) -> float:
    """2 x longest common subsequence / total length: 1 for equal word lists, 0 for nothing in common."""
    if not a or not b:
        return 0.0
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, 1):
            above = row[j]
            row[j] = diagonal + 1 if x == y else max(above, row[j - 1])
            diagonal = above
    return 2 * row[-1] / (len(a) + len(b))


CHECKS: Mapping[type, Callable[[Any, Page], list[Part]]] = {
    Story: _story,
    Describe: _describe,
    Notice: _notice,
    Letter: _letter,
    Poem: _poem,
    Ask: _ask,
    Ideas: _ideas,
    Chat: _chat,
    Rewrite: _rewrite,
    Summarize: _summarize,
    Sentiment: _sentiment,
    Topic: _topic,
    Translate: _translate,
    Explain: _explain,
    ClosedQa: _closed_qa,
    Extract: _extract,
}
