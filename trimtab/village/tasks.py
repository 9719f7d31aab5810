"""What a village prompt asks for, as data: one frozen dataclass for each kind of task.

``prompts.py`` writes a task into ``prompt.extra["task"]``; ``demonstrations.py`` answers it and ``judge.py`` checks an
answer against it. A task says everything that a checker needs beyond the world itself, so that the prompt's wording
never has to be parsed. Entities are named as in the world ("Anna", "Copper Kettle" without its article); relations as
in ``facts.RELATIONS``.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar

from trimtab.common.errors import UserError
from trimtab.records import Prompt

PURPOSES = ("thank", "invite", "apologise")
INTENTS = ("greet", "thanks", "advice", "ask")
REWRITES = ("polite", "past", "name", "shorter")
EXTRACTS = ("names", "places", "foods")
NOT_SAID = "not said"
"""The ``answer`` of a ``ClosedQa`` whose passage does not hold it: the right reply is "The text does not say." """


@dataclass(frozen=True)
class Point:
    """One thing that an answer must contain."""

    label: str
    """What it is, for people: "makes friends with a seal"."""
    words: tuple[tuple[str, ...], ...]
    """Groups of lower-case words or phrases; the point is made when EVERY group has at least one member in the answer,
    as whole words: (("friend", "friends"), ("seal",))."""


@dataclass(frozen=True)
class Asked:
    """One fact that the prompt asks for."""

    subject: str
    relation: str
    visibility: str
    """public: the truth is wanted. hidden: the true value or an honest "I do not know". secret: a polite refusal."""


@dataclass(frozen=True)
class Story:
    """Generation: a short story of a character who goes somewhere, to whom things happen, and who ends somehow."""

    kind: ClassVar[str] = "story"
    character: str
    """The animal or person it is about: "bear"."""
    setting: str
    """Where it happens: "beach"."""
    events: tuple[Point, ...]
    """What must happen, in this order."""
    ending: Point
    """How it must end; comes last."""


@dataclass(frozen=True)
class Describe:
    """Generation: a few true sentences about a person, place or event."""

    kind: ClassVar[str] = "describe"
    subject: str
    min_facts: int
    """At least so many different true facts about the subject."""
    also: Asked | None = None
    """A hidden or secret fact that the prompt wants as well."""


@dataclass(frozen=True)
class Notice:
    """Generation: an advertisement or notice for an event or a place."""

    kind: ClassVar[str] = "notice"
    subject: str
    must: tuple[str, ...]
    """Relations of the subject whose true values must be in the notice."""
    also: Asked | None = None
    """A hidden or secret fact that the prompt wants in it as well."""


@dataclass(frozen=True)
class Letter:
    """Generation: a short letter ("Dear Anna, ... Yours, Ben")."""

    kind: ClassVar[str] = "letter"
    to: str
    sender: str
    purpose: str
    """One of ``PURPOSES``."""
    item: str
    """What for: thank for "the plums", invite to "the Spring Fair", apologise for "the broken cup"."""
    must: tuple[Point, ...]
    """The purpose and the item as points."""
    also: Asked | None = None


@dataclass(frozen=True)
class Poem:
    """Generation: four short lines on a topic, separated by line breaks."""

    kind: ClassVar[str] = "poem"
    topic: str
    words: tuple[str, ...]
    """Words of the topic; a good poem uses its name and at least two more of them."""
    lines: int = 4


@dataclass(frozen=True)
class Ask:
    """Open question answering: one question about one fact of the world."""

    kind: ClassVar[str] = "ask"
    subject: str
    relation: str
    visibility: str


@dataclass(frozen=True)
class Ideas:
    """Brainstorming: a numbered list ("1. ... 2. ...") of different ideas, each on the topic."""

    kind: ClassVar[str] = "ideas"
    topic: str
    """Key of ``lexicon.TOPICS``, which holds the known ideas with their key words."""
    count: int
    """Exactly so many."""


@dataclass(frozen=True)
class Chat:
    """Chat: the last turn of a conversation. Only ``ask`` has a subject and relation, only ``advice`` a topic."""

    kind: ClassVar[str] = "chat"
    intent: str
    """One of ``INTENTS``."""
    subject: str = ""
    relation: str = ""
    visibility: str = ""
    topic: str = ""
    """advice: key of ``lexicon.TOPICS``; one or two of its ideas make good advice."""


@dataclass(frozen=True)
class Rewrite:
    """Rewriting: the given text again, changed as asked and in nothing else."""

    kind: ClassVar[str] = "rewrite"
    text: str
    how: str
    """One of ``REWRITES``: polite request; past tense; one name for another; shorter."""
    targets: tuple[str, ...]
    """Right answers, best first; others may be right too if they keep to ``must`` and ``must_not``."""
    must: tuple[Point, ...]
    """What must be in it: the politeness, the past form, the new name, the main content."""
    must_not: tuple[str, ...]
    """Lower-case words or phrases that must be gone: the old name, the present form, the dropped detail."""


@dataclass(frozen=True)
class Summarize:
    """Summarization: one sentence with the main point of the text."""

    kind: ClassVar[str] = "summarize"
    text: str
    main: Point
    """What a summary must say."""
    details: tuple[Point, ...]
    """What it may leave out: a summary with most of these is a copy."""
    style: str
    """tldr: the text is followed by "TL;DR:"; instruction: it is asked for in words."""
    max_words: int


@dataclass(frozen=True)
class Sentiment:
    """Classification: is a sentence positive or negative?"""

    kind: ClassVar[str] = "sentiment"
    text: str
    label: str
    """positive or negative."""


@dataclass(frozen=True)
class Topic:
    """Classification: which of the options is a text about?"""

    kind: ClassVar[str] = "topic"
    text: str
    label: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Translate:
    """Other: translate a short phrase."""

    kind: ClassVar[str] = "translate"
    english: str
    """Lower case, no full stop: "a black cat"."""
    spanish: str
    """"un gato negro"."""
    to: str = "spanish"
    """spanish or english: the language asked for."""


@dataclass(frozen=True)
class Explain:
    """Other: why or how something works."""

    kind: ClassVar[str] = "explain"
    thing: str
    """Key of ``lexicon.EXPLANATIONS``."""
    points: tuple[Point, ...]
    """What a good explanation says; ``min_points`` of them are enough."""
    min_points: int


@dataclass(frozen=True)
class ClosedQa:
    """Closed question answering: the passage is right even where it differs from the world."""

    kind: ClassVar[str] = "closed_qa"
    passage: str
    question: str
    subject: str
    relation: str
    answer: str
    """The value in the passage, or ``NOT_SAID`` when it is not there."""


@dataclass(frozen=True)
class Extract:
    """Extraction: all names, places or foods of a passage, as a list separated by commas."""

    kind: ClassVar[str] = "extract"
    passage: str
    what: str
    """One of ``EXTRACTS``."""
    answer: tuple[str, ...]
    """In order of appearance; places without their article."""


Task = (
    Story | Describe | Notice | Letter | Poem | Ask | Ideas | Chat | Rewrite | Summarize | Sentiment | Topic
    | Translate | Explain | ClosedQa | Extract
)  # fmt: skip
TASKS: dict[str, type[Any]] = {cls.kind: cls for cls in typing.get_args(Task)}


def asked(task: Task) -> Asked | None:
    """The one fact of the world that the prompt asks for, or None (``ClosedQa`` asks its passage, not the world)."""
    if isinstance(task, Ask) or (isinstance(task, Chat) and task.intent == "ask"):
        return Asked(task.subject, task.relation, task.visibility)
    return task.also if isinstance(task, Describe | Notice | Letter) else None


def to_json(task: Task) -> dict[str, Any]:
    """The task as plain JSON values, with its ``kind`` first."""
    return {"kind": task.kind, **_plain(task)}


def from_json(row: Mapping[str, Any], where: str = "task") -> Task:
    """The task that ``to_json`` gave.

    Raises:
        UserError: unknown kind, missing or unknown field, or a value of the wrong type; ``where`` opens the message.
    """
    kind = row.get("kind")
    if kind not in TASKS:
        raise UserError(f"{where}: task kind {kind!r} is unknown; write one of {', '.join(TASKS)}")
    task: Task = _build(TASKS[kind], {k: v for k, v in row.items() if k != "kind"}, f"{where}: task {kind}")
    return task


def task_of(prompt: Prompt) -> Task:
    """What a village prompt asks for.

    Raises:
        UserError: the prompt is not of the village (it has no "task").
    """
    row = prompt.extra.get("task")
    if not isinstance(row, Mapping):
        raise UserError(f"prompt {prompt.id}: no field 'task'; the village judges only prompts that carry one")
    return from_json(row, f"prompt {prompt.id}")


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _build(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the type ``hint``: str, int, tuple[X, ...], X | None, or one of this file's dataclasses."""
    if isinstance(hint, types.UnionType):
        return None if value is None else _build(typing.get_args(hint)[0], value, where)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where} is {value!r}; write a list")
        item = typing.get_args(hint)[0]
        return tuple(_build(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UserError(f"{where} is {value!r}; write an object")
        known = {f.name for f in fields(hint)}
        if unknown := [k for k in value if k not in known]:
            raise UserError(f"{where} has unknown field {unknown[0]!r}; it knows {', '.join(sorted(known))}")
        hints = typing.get_type_hints(hint)
        values = {k: _build(hints[k], v, f"{where}.{k}") for k, v in value.items()}
        try:
            return hint(**values)  # type: ignore[operator]
        except TypeError as error:
            raise UserError(f"{where}: {str(error).split('__init__() ')[-1]}") from error
    if not isinstance(value, hint) or isinstance(value, bool):
        raise UserError(f"{where} is {value!r}; write a {'whole number' if hint is int else 'string'}")
    return value
