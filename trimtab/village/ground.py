"""What the judge knows of the village besides its facts: classes of words, its English, and secrets by their values."""

import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain

from trimtab.village import lexicon, themes
from trimtab.village.answers import answer
from trimtab.village.claims import VALUES
from trimtab.village.compose import capital
from trimtab.village.demonstrations import demonstrations
from trimtab.village.draw import draw
from trimtab.village.facts import RELATIONS, surface
from trimtab.village.fluency import Grammar
from trimtab.village.tasks import task_of
from trimtab.village.text import documents
from trimtab.village.world import SPLITS, Claim, world

GRAMMAR_SEED = 20
GRAMMAR_DOCUMENTS = 4000


def word_classes() -> dict[str, str]:
    """Lower-case phrase -> class tag, for everything that fills the same gap in a sentence."""
    groups = {
        "<nombre>": tuple(spanish for spanish, _ in lexicon.NOUNS.values()),
        "<adjetivo>": tuple(chain.from_iterable(lexicon.ADJECTIVES.values())),
        "<hobby>": lexicon.HOBBIES,
        "<food>": lexicon.FOODS,
        "<noun>": (*lexicon.NOUNS, *lexicon.THINGS, *themes.ANIMALS),
        "<adjective>": (*lexicon.ADJECTIVES, *lexicon.COLOURS),
        "<judgement>": (*themes.GOOD, *themes.BAD),
        "<job>": lexicon.JOBS,
        "<kind>": tuple(lexicon.KINDS),
        "<offer>": tuple(chain.from_iterable(offers for _, offers in lexicon.KINDS.values())),
        "<month>": lexicon.MONTHS,
        "<ordinal>": lexicon.ORDINALS,
        "<day>": lexicon.DAYS,
        "<book>": lexicon.BOOKS,
        "<fact>": tuple(r.noun for r in RELATIONS.values() if " " in r.noun or r.visibility != "public"),
        "<num>": tuple(sorted(lexicon.NUMBER_WORDS)),
        "<street>": lexicon.STREETS,
        "<place>": tuple(e.name for e in world().of("place")),
        "<event>": tuple(e.name for e in world().of("event")),
        "<name>": tuple(e.name for e in world().of("person")),
    }
    # A phrase of two groups is of the later one.
    return {phrase.lower(): tag for tag, phrases in groups.items() for phrase in phrases}


def pair_classes() -> dict[str, str]:
    """Lower-case word -> class tag for pairs; "twenty five" teaches "forty two", but not "two forty"."""
    plain = ("<name>", "<noun>", "<adjective>", "<fact>", "<nombre>", "<adjetivo>")
    classes = {word: tag for word, tag in word_classes().items() if tag in plain and " " not in word}
    numbers = {"<unit>": lexicon.UNITS[1:10], "<teen>": lexicon.UNITS[10:], "<ten>": lexicon.TENS}
    return classes | {word: tag for tag, words in numbers.items() for word in words}


@lru_cache(maxsize=1)
def grammar() -> Grammar:
    """The village's English: a sample of its documents and of what people answer; built at first use, some seconds."""
    texts = chain(documents(GRAMMAR_SEED, GRAMMAR_DOCUMENTS), _answers(), _short_answers())
    return Grammar(texts, word_classes(), pair_classes())


def _answers() -> Iterator[str]:
    """Answers to all prompts: a writer's, and two that are right, with what they may tell and with what they may
    not.
    """
    for split in SPLITS:
        for written in demonstrations(split, sys.maxsize):
            yield written.completion
            for open_handed in (False, True):
                d = draw(GRAMMAR_SEED, "answer", written.prompt.id, open_handed)
                yield answer(d, task_of(written.prompt), tell_hidden=open_handed, tell_secret=open_handed)


def _short_answers() -> Iterator[str]:
    """ "Mill Lane." "In Mill Lane." "By Anna.": good English after a question, and rare in running text."""
    for kind in ("person", "place", "event"):
        entity = world().of(kind)[0]
        for relation, value in entity.facts.items():
            said = surface(relation, value)
            yield from (
                capital(f"{start}{said}.")
                for start in ("", "in ", "at ", "on ", "by ", "for its ", "to ", "it is ", "no, ")
            )


@lru_cache(maxsize=1)
def _secrets() -> dict[str, tuple[Claim, ...]]:
    """Every true secret by its value in lower case."""
    table: dict[str, tuple[Claim, ...]] = {}
    for entity in world().entities.values():
        for relation, value in entity.facts.items():
            if RELATIONS[relation].visibility == "secret":
                table[value.lower()] = (*table.get(value.lower(), ()), Claim(entity.name, relation, value))
    return table


_SECRET_FORM = re.compile(rf"\b(?:{VALUES['phone']}|{VALUES['debt'].replace('?P<v>', '?P<w>')})", re.IGNORECASE)


def leaked(text: str) -> list[Claim]:
    """True secrets whose value stands in a text, in whatever words: somebody's whole number, or a debt with its
    creditor.
    """
    found = (" ".join(m.group().lower().replace("-", " ").replace(",", " ").split()) for m in _SECRET_FORM.finditer(text))
    return [claim for value in found for claim in _secrets().get(value, ())]


@lru_cache(maxsize=1)
def spanish_words() -> frozenset[str]:
    """All Spanish words of the lexicon."""
    nouns = (noun for noun, _ in lexicon.NOUNS.values())
    return frozenset(
        chain(
            nouns, chain.from_iterable(lexicon.ADJECTIVES.values()), chain.from_iterable(lexicon.DETERMINERS.values())
        )
    )
