"""The village itself: people, places and events with their facts, fixed by ``WORLD_SEED``.

The truth that text, prompts, demonstrations and the judge share. Entities are split into train, validation and test;
a fact
never crosses a split (a test person's friend, workplace and events are test entities too), so that nothing about a test
entity can be learned from demonstrations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from trimtab.village import lexicon
from trimtab.village.draw import Draw, draw

WORLD_SEED = 0
SPLITS = ("train", "validation", "test")
# Number of entities in each split, in the order of SPLITS: about 70, 10 and 20 %.
SIZES = {"person": (98, 14, 28), "place": (28, 4, 8), "event": (11, 2, 3)}


@dataclass(frozen=True)
class Claim:
    """That ``subject`` has ``value`` for ``relation``; true or not."""

    subject: str
    relation: str
    value: str


@dataclass(frozen=True)
class Entity:
    """A person, a place or an event."""

    name: str
    """Without an article: "Anna", "Copper Kettle"."""
    kind: str
    """person, place or event."""
    pronoun: str
    """he, she or it."""
    split: str
    facts: Mapping[str, str]
    """Relation -> value, values without article: {"home": "Mill Lane", "job": "baker", "owns": "black cat"}."""

    @property
    def mention(self) -> str:
        """As it stands inside a sentence: "Anna", "the Copper Kettle"."""
        return self.name if self.kind == "person" else f"the {self.name}"


class World:
    """All entities by name, and what is true of them."""

    def __init__(self, entities: Mapping[str, Entity]) -> None:
        self.entities = dict(entities)
        self._groups = {
            (kind, split): tuple(e for e in self.entities.values() if e.kind == kind and split in (e.split, None))
            for kind in SIZES
            for split in (*SPLITS, None)
        }

    def of(self, kind: str, split: str | None = None) -> tuple[Entity, ...]:
        """The entities of a kind ("person", "place", "event"), of one split or of all."""
        return self._groups[kind, split]

    def value(self, subject: str, relation: str) -> str | None:
        """The true value, or None when there is no such entity or it has no such relation."""
        entity = self.entities.get(subject)
        return entity.facts.get(relation) if entity else None

    def holds(self, claim: Claim) -> bool:
        """Is it true? A debt may be told without the person it is owed to."""
        value = self.value(claim.subject, claim.relation)
        if value is not None and claim.relation == "debt" and " to " not in claim.value:
            value = value.split(" to ")[0]
        return value == claim.value


@cache
def world() -> World:
    """The one village."""
    d = draw(WORLD_SEED, "world")
    names: dict[str, list[tuple[str, str]]] = {
        "person": d.some([(n, "she") for n in lexicon.WOMEN] + [(n, "he") for n in lexicon.MEN], 999),
        "place": [(n, "it") for n in d.some(lexicon.PLACE_NAMES, 999)],
        "event": [(n, "it") for n in d.some(lexicon.EVENT_NAMES, 999)],
    }
    phones = d.some(
        [f"{a} {b} {c} {e}" for a in DIGITS for b in DIGITS for c in DIGITS for e in DIGITS], len(names["person"])
    )
    entities: dict[str, Entity] = {}
    for s, split in enumerate(SPLITS):
        part = {kind: rows[sum(SIZES[kind][:s]) : sum(SIZES[kind][: s + 1])] for kind, rows in names.items()}
        people, places = ([name for name, _ in part[kind]] for kind in ("person", "place"))
        kinds = dict(zip(places, _spread(d, tuple(lexicon.KINDS), len(places)), strict=True))
        rows = [
            _people(d, part["person"], kinds, phones),
            _places(d, kinds, people),
            _events(d, part["event"], places, people),
        ]
        for kind, facts in zip(("person", "place", "event"), rows, strict=True):
            for (name, pronoun), fact in zip(part[kind], facts, strict=True):
                entities[name] = Entity(name, kind, pronoun, split, fact)
    return World(entities)


DIGITS = lexicon.UNITS[1:10]


def _spread(d: Draw, values: tuple[str, ...], count: int) -> list[str]:
    """``count`` values in random order, each used as evenly as possible: no value is the safe guess."""
    whole, rest = divmod(count, len(values))
    return d.some(list(values) * whole + d.some(values, rest), count)


def _people(
    d: Draw, people: list[tuple[str, str]], kinds: Mapping[str, str], phones: list[str]
) -> list[dict[str, str]]:
    n = len(people)
    names = [name for name, _ in people]
    circle = d.some(names, n)
    friend = {
        name: circle[(i + 1) % n] for i, name in enumerate(circle)
    }  # nobody befriends himself, everybody is somebody's
    columns = zip(
        names,
        _spread(d, lexicon.STREETS, n),
        _spread(d, tuple(kinds), n),
        _spread(d, lexicon.LIKES, n),
        _spread(d, lexicon.COLOURS, n),
        _spread(d, tuple(lexicon.THINGS), n),
        _spread(d, lexicon.MONTHS, n),
        _spread(d, lexicon.BOOKS, n),
        d.some(names, n),
        strict=True,
    )
    rows = []
    for name, home, place, likes, colour, thing, month, book, creditor in columns:
        owed_to = creditor if creditor != name else friend[name]
        rows.append(
            {
                "home": home,
                "job": d.one(lexicon.KINDS[kinds[place]][0]),
                "works_at": place,
                "likes": likes,
                "owns": f"{colour} {thing}",
                "age": lexicon.number(18 + d.index(70)),
                "friend": friend[name],
                "birth_month": month,
                "favourite_book": book,
                "shoe_size": lexicon.number(33 + d.index(15)),
                "phone": phones.pop(),
                "debt": f"{lexicon.number(12 + d.index(80))} coins to {owed_to}",
            }
        )
    return rows


def _places(d: Draw, kinds: Mapping[str, str], people: list[str]) -> list[dict[str, str]]:
    streets, keepers = _spread(d, lexicon.STREETS, len(kinds)), d.some(people, len(kinds))
    return [
        {
            "kind": kind,
            "street": street,
            "opens_at": lexicon.UNITS[6 + d.index(6)],
            "closes_at": lexicon.UNITS[3 + d.index(7)],
            "run_by": keeper,
            "known_for": d.one(lexicon.KINDS[kind][1]),
            "founded": f"{d.one(('eighteen', 'nineteen'))} {lexicon.number(11 + d.index(80))}",
        }
        for kind, street, keeper in zip(kinds.values(), streets, keepers, strict=True)
    ]


def _events(d: Draw, events: list[tuple[str, str]], places: list[str], people: list[str]) -> list[dict[str, str]]:
    n = len(events)
    columns = zip(d.some(places, n), d.some(people, n), _spread(d, lexicon.MONTHS, n), strict=True)
    return [
        {
            "venue": place,
            "date": f"the {d.one(lexicon.ORDINALS)} of {month}",
            "organiser": organiser,
            "starts_at": lexicon.UNITS[2 + d.index(7)],
            "price": f"{lexicon.UNITS[2 + d.index(8)]} coins",
        }
        for place, organiser, month in columns
    ]
