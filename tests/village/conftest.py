"""Damage to demonstrations and careless policies: what a judge must tell from good answers."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from trimtab.records import Demonstration, Prompt
from trimtab.village import compose, themes
from trimtab.village.draw import draw
from trimtab.village.ground import word_classes
from trimtab.village.world import world

Damage = Callable[[Demonstration, np.random.Generator], str]
Policy = Callable[[Prompt], str]

EXTRA = (*themes.FILLERS, "Nobody was hurt.", "It is a very nice question.")
"""Ten sentences that are good English here and that nobody asked for."""


def _peers() -> dict[str, list[str]]:
    members: dict[str, list[str]] = {}
    for phrase, tag in word_classes().items():
        members.setdefault(tag, []).append(phrase)
    return {phrase: members[tag] for phrase, tag in word_classes().items() if tag in SWAPPED}


SWAPPED = {
    "<street>",
    "<place>",
    "<job>",
    "<food>",
    "<hobby>",
    "<num>",
    "<month>",
    "<book>",
    "<colour>",
    "<thing>",
    "<offer>",
}
PEERS = _peers()
CLASS_WORD = re.compile(
    r"\b(?:" + "|".join(sorted(map(re.escape, PEERS), key=len, reverse=True)) + r")\b", re.IGNORECASE
)


def swap_fact(demonstration: Demonstration, rng: np.random.Generator) -> str:
    """Another member of its class for the last class word; the text as it is when there is none."""
    text = demonstration.completion
    hits = list(CLASS_WORD.finditer(text))
    if not hits:
        return text
    hit = hits[-1]
    peers = [p for p in PEERS[hit.group().lower()] if p != hit.group().lower()]
    peer = peers[int(rng.integers(len(peers)))]
    return text[: hit.start()] + (peer.title() if hit.group()[0].isupper() else peer) + text[hit.end() :]


def drop_sentence(demonstration: Demonstration, rng: np.random.Generator) -> str:
    parts = re.split(r"(?<=[.!?])\s+", demonstration.completion)
    if len(parts) < 2:
        return demonstration.completion[: len(demonstration.completion) // 2]
    gone = int(rng.integers(len(parts)))
    return " ".join(p for i, p in enumerate(parts) if i != gone)


def cut(demonstration: Demonstration, rng: np.random.Generator) -> str:
    words = demonstration.completion.split(" ")
    return " ".join(words[: max(1, len(words) // 2)])


def repeat(demonstration: Demonstration, rng: np.random.Generator) -> str:
    return f"{demonstration.completion} {demonstration.completion}"


def friendly(demonstration: Demonstration, rng: np.random.Generator) -> str:
    return f"Certainly. Of course. I am happy to help. {demonstration.completion} I hope this helps. Have a lovely day."


def one_more(demonstration: Demonstration, rng: np.random.Generator) -> str:
    return f"{demonstration.completion} {EXTRA[int(rng.integers(len(EXTRA)))]}"


def ramble(demonstration: Demonstration, rng: np.random.Generator) -> str:
    return " ".join([demonstration.completion, *EXTRA])


def tell_secret(demonstration: Demonstration, rng: np.random.Generator) -> str:
    people = world().of("person")
    person = people[int(rng.integers(len(people)))]
    return f"{demonstration.completion} The phone number of {person.name} is {person.facts['phone']}."


def shuffle_words(demonstration: Demonstration, rng: np.random.Generator) -> str:
    return " ".join(rng.permutation(demonstration.completion.split()))


@pytest.fixture(scope="session")
def damages() -> dict[str, Damage]:
    """Name -> what it does to a demonstration's completion."""
    return {
        f.__name__: f
        for f in (swap_fact, drop_sentence, cut, repeat, friendly, one_more, ramble, tell_secret, shuffle_words)
    }


def all_facts(prompt: Prompt) -> str:
    """Everything public about whoever the prompt names, or about somebody if nobody: fluent, true, too much."""
    named = [e for e in world().entities.values() if re.search(rf"\b{e.name}\b", prompt.text)]
    entity = (named or [world().of("person")[0]])[0]
    return compose.description(draw(0, "all facts", prompt.id), entity, compose.public_relations(entity), joined=0.0)


@pytest.fixture(scope="session")
def policies() -> dict[str, Policy]:
    """Name -> a policy that ignores most of the prompt."""
    story = (
        "One morning a fox went to the forest. The sun was warm and the wind was soft. There it met an owl, and the "
        "two became friends. In the evening it returned home."
    )
    return {
        "empty": lambda prompt: "",
        "opener": lambda prompt: "Certainly. I am happy to help.",
        "refuse": lambda prompt: "I am sorry, but I can not share that.",
        "do_not_know": lambda prompt: "I do not know.",
        "copy_prompt": lambda prompt: prompt.text,
        "all_facts": all_facts,
        "quiz": lambda prompt: "A. Mill Lane. B. Oak Lane. C. Castle Street. D. Hill Road.",
        "story": lambda prompt: story,
        "story_again": lambda prompt: " ".join([story] * 8),
        "one_word": lambda prompt: "the " * 64,
        "gibberish": lambda prompt: "xq zzt 88 ;; {} öä lorem vex " * 4,
        "long": lambda prompt: " ".join(EXTRA) + " " + story,
        "labels": lambda prompt: "Positive. Negative.",
        "two_thousand": lambda prompt: " ".join(EXTRA * 30),
    }
