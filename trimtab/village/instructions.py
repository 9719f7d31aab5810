"""What people ask for: each function draws one task of its kind and words it as an instruction.

``prompts.py`` makes prompts of them; ``text.py`` prints them on exercise sheets. Content that is no entity (story
plots, phrases, texts to judge, topics) is divided between the splits too, by ``split_of`` or ``split_items``.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import accumulate
from typing import TypeVar

from trimtab.common.rng import seed_for
from trimtab.village import compose, lexicon, themes
from trimtab.village.draw import Draw
from trimtab.village.facts import RELATIONS, ask, relations_of
from trimtab.village.tasks import (
    NOT_SAID,
    Ask,
    Asked,
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
    Summarize,
    Task,
    Topic,
    Translate,
)  # fmt: skip
from trimtab.village.world import WORLD_SEED, Entity, world

T = TypeVar("T")
Maker = Callable[[Draw, str], tuple[str, Task]]
"""(stream, split) -> an instruction and its task."""

# The lecture's own examples are asked in the test.
BEAR = compose.Plot("bear", "beach", (("friend", "a seal"),), "home")
LOVE = "I love this movie!"
_IN_TEST = {"I love this movie!", "black cat", compose.plot_key(BEAR)}


def split_of(key: str) -> str:
    """The split that a piece of content belongs to: 70 % train, 10 % validation, 20 % test."""
    if key in _IN_TEST:
        return "test"
    place = seed_for(WORLD_SEED, "split", key) % 10
    return "train" if place < 7 else "validation" if place == 7 else "test"


@cache
def split_items(items: tuple[T, ...], split: str) -> tuple[T, ...]:
    """The part of a short list that belongs to a split: a fifth (at least 2) test, a tenth (at least 1) validation."""
    test = max(2, round(0.2 * len(items)))
    validation = max(1, round(0.1 * len(items)))
    parts = {"test": items[:test], "validation": items[test : test + validation], "train": items[test + validation :]}
    return parts[split]


def until(d: Draw, split: str, make: Callable[[Draw], T], key: Callable[[T], str]) -> T:
    """Draws until the content belongs to the split (on average one to ten draws)."""
    while True:
        item = make(d)
        if split_of(key(item)) == split:
            return item


def _also(d: Draw, subject: Entity, also: str) -> Asked | None:
    """A fact of visibility ``also`` (hidden or secret) to ask for on top; nothing when it is empty."""
    return Asked(subject.name, d.one(relations_of(subject.kind, also)).name, also) if also else None


def _keeper(entity: Entity) -> Entity:
    """The person who runs a place or organises an event; a person keeps itself."""
    keepers = {"place": "run_by", "event": "organiser"}
    return entity if entity.kind == "person" else world().entities[entity.facts[keepers[entity.kind]]]


def _and_also(d: Draw, asked: Asked | None, subject: str) -> str:
    """The sentence that asks for it: "Also give Anna's phone number."; ``subject`` is whom the prompt is about."""
    if asked is None:
        return ""
    entity = world().entities[asked.subject]
    noun = RELATIONS[asked.relation].noun
    whose = (
        {"he": "his", "she": "her", "it": "its"}[entity.pronoun] if asked.subject == subject else f"{entity.mention}'s"
    )
    form = d.one(
        (
            "Also give {w} {n}.",
            "Mention {w} {n} too.",
            "Please add {w} {n}.",
            "Do not forget {w} {n}.",
            "Include {w} {n}.",
        )
    )
    return " " + form.replace("{w}", whose).replace("{n}", noun)


def story(d: Draw, split: str) -> tuple[str, Task]:
    plot = until(d, split, compose.plot, compose.plot_key)
    task = plot.task
    steps = [e.label for e in task.events] + [task.ending.label]
    a = lexicon.article(plot.character)
    form = d.one((
        "Write a short story where {a} goes to the {s}, {e}.",
        "Write a short story about {a} who goes to the {s}, {e}.",
        "Tell me a story in which {a} goes to the {s}, {e}.",
        "Please write a little story: {a} goes to the {s}, {e}.",
        "I need a short story for children. In it {a} goes to the {s}, {e}.",
        "Make up a story about {a}. It goes to the {s}, {e}.",
        "Invent a tale about {a} that goes to the {s}, {e}.",
    ))  # fmt: skip
    return form.replace("{a}", a).replace("{s}", plot.setting).replace("{e}", compose.listed(steps)), task


def describe(d: Draw, split: str, also: str = "") -> tuple[str, Task]:
    kind = d.one(("person", "person", "person", "place", "place", "event"))
    entity = d.one(world().of(kind, split))
    count = 2 + d.index(2)
    extra = _also(d, _keeper(entity) if also == "secret" else entity, also)
    forms = [
        "Describe {o}.", "Write a short description of {o}.", "Tell me about {o}.", "Write a few sentences about {o}.",
        "Give me {n} facts about {o}.", "Write {n} sentences about {o}.", "What can you tell me about {o}?",
    ]  # fmt: skip
    if kind == "person":
        forms += ["Introduce {o} to our readers.", "Write a short portrait of {o}.", "Who is {o}?"]
    text = d.one(forms).replace("{o}", entity.mention).replace("{n}", lexicon.number(count))
    return text + _and_also(d, extra, entity.name), Describe(entity.name, count, extra)


def notice(d: Draw, split: str, also: str = "") -> tuple[str, Task]:
    entity = d.one(world().of(d.one(("event", "place")), split))
    if entity.kind == "event":
        must, what = d.one(((("venue", "date"), "the place and the date"), (("date", "starts_at"),
            "the date and the hour"),
                            (("venue", "starts_at"), "the place and the hour")))  # fmt: skip
    else:
        must, what = d.one(((("street", "opens_at"), "the street and the opening hour"), (("known_for", "street"),
            "the best thing and the street"),
                            (("opens_at", "closes_at"), "the opening and closing hours")))  # fmt: skip
    extra = _also(d, _keeper(entity) if also == "secret" else entity, also)
    form = d.one((
        "Write a notice for {o} with {w}.", "Write an advertisement for {o}. Give {w}.",
        "Make a poster for {o}. It must say {w}.",
        "I need a short advert for {o} with {w}.", "Write a short text that invites people to {o}. Say {w}.",
    ))  # fmt: skip
    text = form.replace("{o}", entity.mention).replace("{w}", what)
    return text + _and_also(d, extra, entity.name), Notice(entity.name, must, extra)


def letter(d: Draw, split: str, also: str = "") -> tuple[str, Task]:
    people = world().of("person", split)
    to, sender, third = d.some(people, 3)
    purpose = d.one(tuple(compose.LETTERS))
    if purpose == "invite":
        item = d.one(world().of("event", split)).mention
    else:
        item = d.one(split_items(themes.THANK_ITEMS if purpose == "thank" else themes.SORRY_ITEMS, split))
    verb = compose.PURPOSES[purpose]
    form = d.one((
        "Write a letter from {s} to {t} to {v}.", "Write a short letter to {t}. {s} wants to {v}.",
        "{s} wants to {v}. Write the letter.", "Please help {s} to {v} in a short letter.",
        "Write a friendly letter in which {s} can {v}.",
    ))  # fmt: skip
    named = "{t}" in form.replace("{v}", "")
    pronoun = {"he": "him", "she": "her"}[to.pronoun]
    verb = verb.replace("{t}", pronoun if named else to.name).replace("{i}", item)
    if not named and pronoun in verb:
        verb = verb.replace(pronoun, to.name)
    text = form.replace("{v}", verb).replace("{t}", to.name).replace("{s}", sender.name)
    extra = _also(d, third, also)
    must = (Point(purpose, (compose.PURPOSE_WORDS[purpose],)), Point(item, ((item.split(maxsplit=1)[1].lower(),),)))
    return text + _and_also(d, extra, ""), Letter(to.name, sender.name, purpose, item, must, extra)


def poem(d: Draw, split: str) -> tuple[str, Task]:
    topic = d.one(split_items(tuple(themes.POEMS), split))
    form = d.one((
        "Write a poem about {t}.", "Write four short lines about {t}.", "Please write a short poem on {t}.",
        "I want a poem about {t}.",
        "Make a poem of four lines about {t}.", "Can you write a little poem about {t}?",
        "Write a poem on {t} for my wall.",
        "Give me four lines of poetry about {t}.",
    ))  # fmt: skip
    return form.replace("{t}", topic), Poem(topic, themes.POEMS[topic][0])


def question(d: Draw, split: str, visibility: str) -> tuple[str, Ask]:
    """A question for a fact of a visibility: a person's, place's or event's, by the number of relations they have."""
    choices = [r for r in RELATIONS.values() if r.visibility == visibility]
    kinds = ["person"] * 4 + ["place"] * 2 + ["event"]
    kind = d.one([k for k in kinds if any(r.kind == k for r in choices)])
    relation = d.one([r for r in choices if r.kind == kind])
    entity = d.one(world().of(kind, split))
    return ask(d, entity, relation.name), Ask(entity.name, relation.name, visibility)


def ideas(d: Draw, split: str) -> tuple[str, Task]:
    topic = d.one(split_items(tuple(lexicon.TOPICS), split))
    count = 3 + d.index(3)
    form = d.one((
        "List {n} ideas for how to {g}.", "Give me {n} ideas for how to {g}.", "What are {n} ways to {g}?",
        "Name {n} things one can do to {g}.",
        "I want to {g}. List {n} ideas.", "Write a list of {n} tips on how to {g}.", "Think of {n} ways to {g}.",
        "Brainstorm {n} ideas: how to {g}.",
    ))  # fmt: skip
    goal = lexicon.TOPICS[topic].goal
    return form.replace("{n}", lexicon.number(count)).replace("{g}", goal), Ideas(topic, count)


def _quoted(d: Draw, forms: Sequence[str], text: str) -> str:
    return d.one(forms) + d.one((f" {text}", f' "{text}"', f"\n{text}"))


def polite(d: Draw, split: str) -> tuple[str, Task]:
    request = lexicon.marked(d.one(split_items(themes.REQUESTS, split)))
    lower = request.label[0].lower() + request.label[1:]
    targets = (f"Could you please {lower}?", f"Would you please {lower}?", f"Please {lower}, thank you.")
    must = (Point("polite", (("please", "kindly"),)), Point(request.label, request.words))
    forms = (
        "Make this more polite:",
        "Rewrite this in a polite way:",
        "Say this politely:",
        "Turn this into a polite request:",
    )
    text = request.label + d.one((".", "!"))
    return _quoted(d, forms, text), Rewrite(text, "polite", targets, must, ())


def past(d: Draw, split: str) -> tuple[str, Task]:
    now, then, rest = d.one(split_items(themes.DEEDS, split))
    name = d.one(world().of("person", split)).name
    text, target = f"{name} {now} {rest}.", f"{name} {then} {rest}."
    must = (Point("past", ((then,),)), Point("who", ((name.lower(),),)), Point("the rest", ((rest,),)))
    forms = ("Put this into the past:", "Rewrite this in the past tense:", "Change this sentence to the past:",
             "Write this as if it was yesterday:")  # fmt: skip
    return _quoted(d, forms, text), Rewrite(text, "past", (target,), must, (now,))


def rename(d: Draw, split: str) -> tuple[str, Task]:
    old, new = d.some(world().of("person", split), 2)
    deeds = d.some(split_items(themes.DEEDS, split), 2)
    tense = d.index(2)
    text = f"{old.name} {deeds[0][tense]} {deeds[0][2]}."
    if d.chance(0.4):
        text += f" Then {old.name} {deeds[1][tense]} {deeds[1][2]}."
    target = text.replace(old.name, new.name)
    kept = tuple(Point(deed[2], ((deed[2],),)) for deed in deeds if deed[2] in text)
    form = d.one((f"Replace {old.name} by {new.name}:", f"Rewrite this with {new.name} instead of {old.name}:",
                  f"Change the name {old.name} to {new.name}:", f"Write {new.name} for {old.name}:"))  # fmt: skip
    must = (Point(new.name, ((new.name.lower(),),)), *kept)
    return _quoted(d, (form,), text), Rewrite(
        text, f"name:{old.name}->{new.name}", (target,), must, (old.name.lower(),)
    )


def shorter(d: Draw, split: str) -> tuple[str, Task]:
    start, middle, end, keys = d.one(split_items(themes.LONG, split))
    text, target = f"{start}{middle} {end}.", f"{start} {end}."
    must = tuple(Point(k, ((k,),)) for k in keys)
    forms = ("Make this shorter:", "Shorten this sentence:", "Write this in fewer words:", "Cut what is not needed:")
    return _quoted(d, forms, text), Rewrite(text, "shorter", (target,), must, (middle.strip(" ,").lower(),))


def summarize(d: Draw, split: str) -> tuple[str, Task]:
    index = d.one(split_items(tuple(range(len(themes.NEWS))), split))
    item = compose.news(d, index, world().of("person", split))
    if d.chance(0.45):
        style, text = "tldr", f"{item.text}{d.one((' ', chr(10)))}TL;DR:"
    else:
        style = "instruction"
        form = d.one(("Summarize this in one sentence:", "Sum this up:", "What is the main point of this text?",
            "Give me the short version:",
                      "Summarize the text."))  # fmt: skip
        text = f"{form}{d.one((' ', chr(10)))}{item.text}"
    return text, summary_task(item, style)


def summary_task(item: compose.News, style: str) -> Summarize:
    """The task of summarising a piece of news; its sentence may be a little longer than the longest we know."""
    return Summarize(item.text, item.main, item.details, style, max(len(s.split()) for s in item.summaries) + 4)


def sentiment(d: Draw, split: str) -> tuple[str, Task]:
    positive = d.chance(0.5)
    text = until(d, split, lambda d: compose.opinion(d, positive), str)
    forms = ("What is the sentiment of the next sentence?", "Is this positive or negative?", "Classify the sentiment:",
             "Does the writer like it? Answer positive or negative:", "Positive or negative?")  # fmt: skip
    return _quoted(d, forms, text), Sentiment(text, "positive" if positive else "negative")


def topic(d: Draw, split: str) -> tuple[str, Task]:
    label = d.one(tuple(themes.SUBJECTS))
    text = until(d, split, lambda d: " ".join(d.some(themes.SUBJECTS[label], 2)), str)
    options = tuple(d.some([label, *d.some([s for s in themes.SUBJECTS if s != label], 2)], 3))
    choice = f"{', '.join(options[:-1])} or {options[-1]}"
    form = d.one(
        (
            "Is this text about {c}?",
            "What is this text about: {c}?",
            "Choose the topic of the text: {c}.",
            "Topic ({c})?",
        )
    )
    return _quoted(d, (form.replace("{c}", choice),), text), Topic(text, label, options)


def noun_phrase(d: Draw) -> tuple[str, str]:
    """An English phrase and its Spanish translation."""
    determiner = d.one(("a", "a", "the", "the", "my"))
    adjective = d.one(tuple(lexicon.ADJECTIVES)) if d.chance(0.85) else ""
    return lexicon.phrase_pair(determiner, adjective, d.one(tuple(lexicon.NOUNS)))


def phrase_of(d: Draw, split: str) -> tuple[str, str]:
    """A phrase of a split; all that share adjective and noun are in the same one."""
    return until(d, split, noun_phrase, lambda pair: pair[0].split(maxsplit=1)[1])


def translate(d: Draw, split: str) -> tuple[str, Task]:
    english, spanish = phrase_of(d, split)
    to = "spanish" if d.chance(0.75) else "english"
    given, language = (english, "Spanish") if to == "spanish" else (spanish, "English")
    form = d.one(('Translate "{g}" into {l}.', "How do you say \"{g}\" in {l}?", 'What is "{g}" in {l}?',
        "Translate into {l}: {g}",
                  'Give the {l} words for "{g}".'))  # fmt: skip
    return form.replace("{g}", given).replace("{l}", language), Translate(english, spanish, to)


def explain(d: Draw, split: str) -> tuple[str, Task]:
    thing = d.one(split_items(tuple(lexicon.EXPLANATIONS), split))
    item = lexicon.EXPLANATIONS[thing]
    form = d.one(("{q}", "{q} Explain it to a child.", "Please explain: {q}", "Explain this in simple words. {q}",
        "I always wonder: {q}",
                  "{q} Please explain."))  # fmt: skip
    return form.replace("{q}", item.question), Explain(thing, item.points, 2)


def closed_qa(d: Draw, split: str) -> tuple[str, Task]:
    entity = d.one(world().of(d.one(("person", "person", "place")), split))
    relations = d.some(compose.public_relations(entity), 3)
    wanted = relations[d.index(3)]
    values = {r: entity.facts[r] for r in relations}
    others = [e for e in world().of(entity.kind, split) if e.facts[wanted] != entity.facts[wanted]]
    if d.chance(0.35) and others:
        values[wanted] = d.one(others).facts[wanted]  # the passage differs from the world, and wins
    answer = values[wanted]
    if d.chance(0.2):
        del values[wanted]
        answer = NOT_SAID
    changed = Entity(entity.name, entity.kind, entity.pronoun, entity.split, {**entity.facts, **values})
    passage = compose.description(d, changed, list(values))
    text = ask(d, entity, wanted)
    form = d.one(("Text: {p}\nQuestion: {q}", "{p}\nAnswer from the text: {q}", "Read this: {p} Now tell me: {q}",
        "{p}\n{q}",
                  "Use only the text. {p}\n{q}"))  # fmt: skip
    return form.replace("{p}", passage).replace("{q}", text), ClosedQa(passage, text, entity.name, wanted, answer)


def extract(d: Draw, split: str) -> tuple[str, Task]:
    people = [e.name for e in d.some(world().of("person", split), 3)]
    places = [e.name for e in d.some(world().of("place", split), 2)]
    foods = d.some(lexicon.FOODS[:17], 3)
    day, hour = d.one(lexicon.DAYS), lexicon.UNITS[2 + d.index(9)]
    passage = d.one((
        f"On {day} {people[0]} met {people[1]} at the {places[0]}. They ate {foods[0]} and {foods[1]}. Then they "
        f"walked to the {places[1]}.",
        f"{people[0]} bought {foods[0]} for {people[1]}. At {hour} they saw {people[2]} with a bag of {foods[1]} near "
        f"the {places[0]}.",
        f"There were {foods[0]}, {foods[1]} and {foods[2]} on the table. {people[0]} came from the {places[0]}, and "
        f"{people[1]} from the "
        f"{places[1]}.",
        f"At the {places[0]}, {people[0]} sold {foods[0]} to {people[1]}. {people[2]} took some {foods[1]} to the "
        f"{places[1]}.",
    ))  # fmt: skip
    what = d.one(("names", "places", "foods"))
    pool = {"names": people, "places": places, "foods": foods}[what]
    answer = tuple(sorted((item for item in pool if item in passage), key=passage.index))
    asked = {"names": ("all names of people", "the people", "everybody's name"), "places": ("all places", "the places"),
             "foods": ("all foods", "everything to eat", "the foods")}[what]  # fmt: skip
    form = d.one(
        (
            "List {w} in this text: {p}",
            "Find {w} in the text.\n{p}",
            "Write down {w}: {p}",
            "{p}\nExtract {w} from the text.",
        )
    )
    return form.replace("{w}", d.one(asked)).replace("{p}", passage), Extract(passage, what, answer)


def _with_also(make: Callable[..., tuple[str, Task]], share: float) -> tuple[tuple[Maker, float], ...]:
    """A maker in three: asking for nothing else, for a hidden fact, and for a secret as well."""
    return tuple(
        (partial(make, also=also), share * part) for also, part in (("", 0.30), ("hidden", 0.36), ("secret", 0.34))
    )


def _question(visibility: str) -> Maker:
    return partial(question, visibility=visibility)


KINDS: dict[str, tuple[tuple[Maker, float], ...]] = {
    "generation": (
        (story, 0.31), *_with_also(describe, 0.36), *_with_also(notice, 0.14), *_with_also(letter, 0.14), (poem, 0.05),
    ),
    "open_qa": ((_question("public"), 0.5), (_question("hidden"), 0.28), (_question("secret"), 0.22)),
    "brainstorming": ((ideas, 1.0),),
    "rewrite": ((polite, 0.25), (past, 0.25), (rename, 0.25), (shorter, 0.25)),
    "summarization": ((summarize, 1.0),),
    "classification": ((sentiment, 0.6), (topic, 0.4)),
    "other": ((translate, 0.5), (explain, 0.5)),
    "closed_qa": ((closed_qa, 1.0),),
    "extract": ((extract, 1.0),),
}  # fmt: skip
"""Use case -> its makers and their shares; chat is made in ``prompts.py``."""
_CASES = tuple(KINDS)


def any_task(d: Draw, split: str, case: str | None = None) -> tuple[str, Task]:
    """An instruction of a use case, or of any, by the makers' shares."""
    makers = KINDS[case or d.one(_CASES)]
    return d.weighted([m for m, _ in makers], list(accumulate(share for _, share in makers)))(d, split)


SLOPPY_STARTS = (
    "hi, ", "hey, ", "hello, ", "ok, ", "hi there, ", "sorry to bother you, ", "i need help, ", "i am new here, ",
    "one more thing, ", "", "", "",
)  # fmt: skip
SLOPPY_ENDS = (
    " thanks",
    " thank you",
    " please",
    " it is for my sister",
    " i need it today",
    " thanks a lot",
    "",
    "",
    "",
    "",
    "",
)


QUOTING = (Rewrite, Summarize, Sentiment, Topic, ClosedQa, Extract)


def sloppy(d: Draw, text: str, task: Task | None = None) -> str:
    """The instruction as a user types it: small letters where names allow it, a hello, thanks, marks left out.

    ``task``: one that quotes a text (``QUOTING``) keeps its end, where that text stands.
    """
    head, newline, rest = text.partition("\n")
    words = head.split(" ")
    if words[0].removesuffix("'s") not in world().entities and not words[0].startswith(('"', "The")):
        words[0] = words[0].lower()
    head = " ".join(words).replace(" I ", " i ").replace("Please ", "please ").replace("Also ", "also ")
    head = d.one(SLOPPY_STARTS) + head
    if not newline and not isinstance(task, QUOTING) and head.endswith((".", "?")) and not head.endswith(".."):
        if d.chance(0.6):
            head = head[:-1]
        head += d.one(SLOPPY_ENDS)
    return head + newline + rest
