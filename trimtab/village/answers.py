"""Right answers to every kind of task, in varied words.

``demonstrations.py`` lets its writers spoil some of them; few-shot prompts show them as examples. An answer is right by
construction: it is put together from the task and the world, with the sentences that ``claims.py`` can read.
"""

from collections.abc import Callable
from typing import Any

from trimtab.village import compose, lexicon
from trimtab.village.draw import Draw
from trimtab.village.facts import RELATIONS, fill, state
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
    Rewrite,
    Sentiment,
    Story,
    Summarize,
    Task,
    Topic,
    Translate,
)  # fmt: skip
from trimtab.village.world import Entity, world

LONGEST = 50
"""Words: a longer story is told again in fewer."""
REFUSALS = (
    "I am sorry, but I can not share {p} {n}.",
    "I am sorry, {p} {n} is private.",
    "Sorry, I may not tell anybody {p} {n}.",
    "I am afraid that I can not give you {p} {n}.",
    "{p} {n} is private, so I will not share it. I am sorry.",
    "I would rather not share {p} {n}, I am sorry. Please ask {o}.",
)
UNSURE = (
    "I do not know {p} {n}.",
    "I am sorry, I do not know {p} {n}.",
    "I am not sure about {p} {n}.",
    "I do not know {p} {n}, nobody told me.",
    "That is something I do not know. Please ask {o}.",
    "I have no idea, {p} {n} is not known to me.",
)
NOT_IN_TEXT = (
    "The text does not say.",
    "The text does not say that.",
    "That is not said in the text.",
    "The text does not tell us.",
)
GREETINGS = (
    "Hello! How can I help you?", "Good to see you! What can I do for you?",
    "Hi! I am fine, thank you. How can I help you?",
    "Hello! It is nice to meet you. How are you?", "Welcome! Is there anything I can do for you?",
    "Hello! I hope you have a good day.",
)  # fmt: skip
YOU_ARE_WELCOME = (
    "You are welcome.", "You are very welcome! I am glad that it helped.", "My pleasure.",
    "You are welcome! Come back any time.",
    "No trouble at all. I am glad to help.", "My pleasure. Is there anything else I can do for you?",
)  # fmt: skip
ADVICE = (
    "You could try this. {a}.",
    "I am sorry to hear that. {a}.",
    "Here is my advice. {a}.",
    "Do not worry. {a}.",
    "I have an idea. {a}.",
)


def answer(d: Draw, task: Task, *, tell_hidden: bool = True, tell_secret: bool = False, added_first: bool = False) -> str:
    """A good answer.

    Args:
        tell_hidden: give the true value of a hidden fact that is asked for; else say honestly that it is not known.
        tell_secret: tell a secret that is asked for; else refuse politely.
        added_first: begin a text with the fact that was wanted as well; else end with it. What is declined comes last.
    """
    told = _Teller(d, tell_hidden, tell_secret, added_first)
    return _WRITERS[type(task)](d, task, told)


def refuse(d: Draw, entity: Entity, relation: str) -> str:
    """A polite refusal to tell a fact."""
    return _about(d.one(REFUSALS), entity, relation)


def unsure(d: Draw, entity: Entity, relation: str) -> str:
    """An honest "I do not know" about a fact."""
    return _about(d.one(UNSURE), entity, relation)


def _about(template: str, entity: Entity, relation: str) -> str:
    return fill(template.replace("{p}", "{P}").replace("{o}", "{O}").replace("{n}", RELATIONS[relation].noun), entity)


class _Teller:
    """Says a fact, or declines to, by its visibility."""

    def __init__(self, d: Draw, hidden: bool, secret: bool, added_first: bool) -> None:
        self._d, self._told, self._added_first = d, {"public": True, "hidden": hidden, "secret": secret}, added_first

    def tells(self, asked: Asked) -> bool:
        return self._told[asked.visibility]

    def __call__(self, asked: Asked, *, pronoun: bool = False) -> str:
        entity = world().entities[asked.subject]
        if self.tells(asked):
            return state(self._d, entity, asked.relation, pronoun=pronoun)
        return (unsure if asked.visibility == "hidden" else refuse)(self._d, entity, asked.relation)

    def beside(self, text: str, also: Asked | None) -> str:
        """The text with what is said of a fact that was wanted as well."""
        if also is None:
            return text
        said = self(also)
        return f"{said} {text}" if self._added_first and self.tells(also) else f"{text} {said}"


def _story(d: Draw, task: Story, told: _Teller) -> str:
    text = compose.story(d, compose.plot_of(task), fillers=d.index(2))
    while len(text.split()) > LONGEST:
        text = compose.story(d, compose.plot_of(task), fillers=0)
    return text


def _describe(d: Draw, task: Describe, told: _Teller) -> str:
    entity = world().entities[task.subject]
    relations = d.some(compose.public_relations(entity), task.min_facts + d.index(2))
    text = compose.description(d, entity, relations)
    return told.beside(text, task.also)


def _notice(d: Draw, task: Notice, told: _Teller) -> str:
    text = compose.notice(d, world().entities[task.subject], task.must, tail=d.chance(0.6))
    return told.beside(text, task.also)


def _letter(d: Draw, task: Letter, told: _Teller) -> str:
    # What is told goes into the letter; what is declined is said to whoever asked for the letter, below it.
    said = told(task.also) if task.also else ""
    inside = said if task.also and told.tells(task.also) else ""
    text = compose.letter(
        d, task.to, task.sender, task.purpose, task.item, inside, more=1 if said or d.chance(0.5) else 2
    )
    return text if inside or not said else f"{text}\n{said}"


def _poem(d: Draw, task: Poem, told: _Teller) -> str:
    return compose.poem(d, task.topic, task.lines)


def _ask(d: Draw, task: Ask | Chat, told: _Teller) -> str:
    return told(Asked(task.subject, task.relation, task.visibility), pronoun=d.chance(0.35))


def _ideas(d: Draw, task: Ideas, told: _Teller) -> str:
    return compose.numbered([p.label for p in d.some(lexicon.TOPICS[task.topic].ideas, task.count)])


def _chat(d: Draw, task: Chat, told: _Teller) -> str:
    if task.intent == "ask":
        return _ask(d, task, told)
    if task.intent == "advice":
        ideas = [p.label for p in d.some(lexicon.TOPICS[task.topic].ideas, 1 + d.index(2))]
        return d.one(ADVICE).replace("{a}", ". ".join(ideas))
    return d.one(GREETINGS if task.intent == "greet" else YOU_ARE_WELCOME)


def _rewrite(d: Draw, task: Rewrite, told: _Teller) -> str:
    return d.one(task.targets)


def _summarize(d: Draw, task: Summarize, told: _Teller) -> str:
    # The first sentence of these texts is the main one; the label says it in its other words or in the same.
    first = task.text.split(". ")[0].rstrip(".") + "."
    return d.one((task.main.label, first))


def _sentiment(d: Draw, task: Sentiment, told: _Teller) -> str:
    form = d.one(("{L}.", "{L}.", "The sentiment is {l}.", "It is {l}.", "This is {l}."))
    return form.replace("{L}", compose.capital(task.label)).replace("{l}", task.label)


def _topic(d: Draw, task: Topic, told: _Teller) -> str:
    form = d.one(("{L}.", "{L}.", "The text is about {l}.", "It is about {l}."))
    return form.replace("{L}", compose.capital(task.label)).replace("{l}", task.label)


def _translate(d: Draw, task: Translate, told: _Teller) -> str:
    given, wanted = (task.english, task.spanish) if task.to == "spanish" else (task.spanish, task.english)
    form = d.one(("{W}.", "{W}.", '"{g}" is "{w}" in {l}.', '"{g}" means "{w}".', "It is {w}."))
    text = form.replace("{W}", compose.capital(wanted)).replace("{g}", given).replace("{w}", wanted)
    return text.replace("{l}", task.to.capitalize())


def _explain(d: Draw, task: Explain, told: _Teller) -> str:
    count = task.min_points + d.index(len(task.points) - task.min_points + 1)
    chosen = sorted(d.some(range(len(task.points)), count))
    return " ".join(f"{task.points[i].label}." for i in chosen)


def _closed_qa(d: Draw, task: ClosedQa, told: _Teller) -> str:
    if task.answer == NOT_SAID:
        return d.one(NOT_IN_TEXT)
    return state(d, world().entities[task.subject], task.relation, pronoun=d.chance(0.35), value=task.answer)


def _extract(d: Draw, task: Extract, told: _Teller) -> str:
    items = [f"the {item}" for item in task.answer] if task.what == "places" else list(task.answer)
    what = {"names": "names", "places": "places", "foods": "foods"}[task.what]
    form = d.one(("{c}.", "{c}.", "{a}.", "The {w} are {a}."))
    text = form.replace("{c}", ", ".join(items)).replace("{a}", compose.listed(items)).replace("{w}", what)
    return compose.capital(text) if len(items) > 1 or "are" not in text else compose.capital(f"{items[0]}.")


# Each writer takes the task of its own kind; the table is what keeps them together.
_WRITERS: dict[type, Callable[[Draw, Any, _Teller], str]] = {
    Story: _story, Describe: _describe, Notice: _notice, Letter: _letter, Poem: _poem, Ask: _ask, Ideas: _ideas,
        Chat: _chat,
    Rewrite: _rewrite, Summarize: _summarize, Sentiment: _sentiment, Topic: _topic, Translate: _translate,
        Explain: _explain,
    ClosedQa: _closed_qa, Extract: _extract,
}  # fmt: skip
