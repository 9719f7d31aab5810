"""What a text claims about the village: sentences back to (subject, relation, value), by the templates that wrote them.

Every template of ``facts.RELATIONS`` becomes a pattern that is tried only where its first fixed word stands, so that a
sentence costs a few lookups. Questions claim nothing, nor does what follows "if" or "whether". A pronoun is the first
entity of its gender named in this sentence or, failing that, in the latest one that named one.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from trimtab.village import lexicon
from trimtab.village.facts import RELATIONS, Relation
from trimtab.village.world import Claim, world

WORD = re.compile(r"[^\W\d_]+")
SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
PRONOUNS = {"he": "he", "him": "he", "his": "he", "she": "she", "her": "she", "it": "it", "its": "it"}
NOMINATIVES = frozenset(("he", "she", "it"))


def _any(words: Sequence[str] | frozenset[str]) -> str:
    return "(?:" + "|".join(sorted(map(re.escape, words), key=lambda w: (-len(w), w))) + ")"


_UNITS = _any(lexicon.UNITS)
_NUMBER = rf"(?:{_any(lexicon.TENS)}(?:[ -]{_any(lexicon.UNITS[1:10])})?|{_UNITS})\b"
_GOODS = [goods for _, all_goods in lexicon.KINDS.values() for goods in all_goods]
# Patterns of value types; the group v is the value without its article. Streets, places and numbers may be ones that do
# not exist: an invention is a claim too.
VALUES: dict[str, str] = {
    "street": r"(?P<v>\w+ (?:Lane|Street|Road|Square))\b",
    "job": rf"an? (?:\w+ )??(?P<v>{_any(lexicon.JOBS)})\b",
    "place": rf"(?:the )?(?P<v>{_any(lexicon.PLACE_NAMES)}|(?-i:[A-Z]\w+ [A-Z]\w+))\b",
    "liking": rf"(?P<v>{_any(lexicon.LIKES)})\b",
    "thing": rf"an? (?:\w+ )??(?P<v>{_any(lexicon.COLOURS)} {_any(lexicon.THINGS)})\b",
    "number": rf"(?P<v>{_NUMBER})",
    "person": rf"(?P<v>{_any([*lexicon.WOMEN, *lexicon.MEN])})\b",
    "month": rf"(?P<v>(?-i:May)|{_any([m for m in lexicon.MONTHS if m != 'May'])})\b",
    "book": rf"(?P<v>{_any(lexicon.BOOKS)})\b",
    "phone": rf"(?P<v>{_UNITS}(?:(?:,? |-){_UNITS}){{2,}})\b",
    "debt": rf"(?P<v>{_NUMBER} coins?(?: to {_any([*lexicon.WOMEN, *lexicon.MEN])})?)\b",
    "kind": rf"an? (?:\w+ )??(?P<v>{_any(tuple(lexicon.KINDS))})\b",
    "hour": rf"(?P<v>{_NUMBER})(?! coins)",
    "goods": rf"(?P<v>{_any(_GOODS)})\b",
    "year": rf"(?P<v>{_any(('eighteen', 'nineteen', 'twenty'))} {_NUMBER})",
    "date": rf"(?P<v>the {_any(lexicon.ORDINALS)} of {_any(lexicon.MONTHS)})\b",
    "coins": rf"(?P<v>{_NUMBER} coins)\b",
}
# Ways to say a fact that only the reader knows: models combine what they have seen.
_EXTRA_PHRASES = {
    "works_at": (
        "is an? [a-z ]{3,20}? at {V}",
        "works as an? [a-z ]{3,20}? at {V}",
        "has a job as an? [a-z ]{3,20}? at {V}",
    ),
    "age": ("is {V}(?= and| but|[,.!]|$)",),
    "friend": ("is a (?:good |close )?friend of {V}",),
    "opens_at": ("is open (?:every day )?from {V}",),
    "closes_at": (
        rf"is open (?:every day )?from {_NUMBER} (?:to|until) {{V}}",
        rf"opens at {_NUMBER} and closes at {{V}}",
    ),
    "date": (rf"begins (?:at {_NUMBER} )?on {{V}}",),
    "venue": ("is at {V}",),
    "starts_at": (r"takes place on the \w+ of \w+ at {V}",),
}


@dataclass(frozen=True)
class _Pattern:
    relation: Relation
    regex: re.Pattern[str]
    mode: str
    """before: the subject is the nearest one before the match. owner: the nearest possessive before it. inside: group
    s."""


@dataclass(frozen=True)
class _Mention:
    start: int
    name: str
    kind: str
    possessive: bool
    nominative: bool
    """Can be a subject: a name, or he, she, it."""


@cache
def _people_and_places() -> dict[str, tuple[str, str, str]]:
    """Lower-case name -> (name, kind, pronoun)."""
    return {e.name.lower(): (e.name, e.kind, e.pronoun) for e in world().entities.values()}


@cache
def _canonical() -> dict[str, str]:
    """Lower-case value -> value as the world writes it."""
    values = {v for e in world().entities.values() for v in e.facts.values()}
    return {v.lower(): v for v in (*lexicon.STREETS, *lexicon.PLACE_NAMES, *lexicon.WOMEN, *lexicon.MEN, *values)}


@cache
def _index() -> tuple[dict[str, list[_Pattern]], list[_Pattern]]:
    """Patterns by their first fixed word, and those that begin with the value (searched for, few)."""
    by_word: dict[str, list[_Pattern]] = {}
    leading: list[_Pattern] = []
    for relation in RELATIONS.values():
        value = VALUES[relation.values]
        for text in (*relation.phrases, *_EXTRA_PHRASES.get(relation.name, ())):
            _add(by_word, _Pattern(relation, _compile(text.replace("{V}", value)), "before"), text)
        subject = r"(?P<s>(?:the )?\w+(?: \w+)??)"
        for text in relation.sentences:
            body = re.sub(
                r"\{P\}", subject.replace("\\", "\\\\") + r"(?:'s|(?<=his)|(?<=her)|(?<=its))", text.rstrip(".")
            )
            if text.startswith("{P} "):
                _add(
                    by_word, _Pattern(relation, _compile(text[4:].rstrip(".").replace("{V}", value)), "owner"), text[4:]
                )
            else:
                regex = _compile(re.sub(r"\{[NO]\}", subject.replace("\\", "\\\\"), body).replace("{V}", value))
                if text.startswith("{V}"):
                    leading.append(_Pattern(relation, regex, "inside"))
                else:
                    _add(by_word, _Pattern(relation, regex, "inside"), text)
    return by_word, leading


def _compile(text: str) -> re.Pattern[str]:
    # A subject at the end of a pattern must take its whole name: the lazy second word is forced by a boundary it can
    # use.
    if text.endswith("(?: \\w+)??)"):
        text = text[: -len("??)")] + "?)"
    return re.compile(text + r"\b", re.IGNORECASE)


def _add(by_word: dict[str, list[_Pattern]], pattern: _Pattern, text: str) -> None:
    by_word.setdefault(text.split()[0].lower(), []).append(pattern)


def parse_claims(text: str, about: str = "") -> list[Claim]:
    """What the sentences of ``text`` say about entities of the village, in order, each once."""
    entity = world().entities.get(about)
    topics = {entity.pronoun: about} if entity else {}
    found: dict[Claim, None] = {}
    for match in SENTENCE.finditer(text):
        sentence = match.group().strip()
        for claim in _sentence_claims(sentence, topics):
            found[claim] = None
    return list(found)


def parse_answer(text: str, subject: str, relation: str, about: str = "") -> list[Claim]:
    """Claims of ``text``, read as a reply to the question for (subject, relation).

    A bare value ("In Mill Lane.") counts as an answer when no sentence states that relation of the subject.
    """
    claims = parse_claims(text, about or subject)
    if any(c.subject == subject and c.relation == relation for c in claims):
        return claims
    regex = _bare(RELATIONS[relation].values)
    bare = (m.group("v") for s in SENTENCE.findall(text) if not s.endswith("?") for m in regex.finditer(s))
    values = dict.fromkeys(_tidy(v) for v in bare)
    return claims + [Claim(subject, relation, v) for v in values if v != subject]


@cache
def _bare(values: str) -> re.Pattern[str]:
    pattern = VALUES[values]
    return re.compile(r"\b" + pattern.removeprefix("an? (?:\\w+ )??"), re.IGNORECASE)


def _tidy(value: str) -> str:
    value = " ".join(value.replace("-", " ").replace(",", " ").split())
    if value.split()[0].lower() in lexicon.NUMBER_WORDS:
        value = value[0].lower() + value[1:]
    return _canonical().get(value.lower(), value)


def _sentence_claims(sentence: str, topics: dict[str, str]) -> Iterator[Claim]:
    """Claims of one sentence; ``topics`` (pronoun -> name) is read and brought up to date."""
    tokens = [(m.start(), m.group()) for m in WORD.finditer(sentence)]
    mentions = _mentions(sentence, tokens, topics)
    if sentence.endswith("?"):
        return
    doubt = next((at for at, word in tokens if word.lower() in ("if", "whether") and at > 0), len(sentence))
    by_word, leading = _index()
    hits: list[tuple[int, _Pattern, re.Match[str]]] = []
    for at, word in tokens:
        for pattern in by_word.get(word.lower(), ()):
            if (m := pattern.regex.match(sentence, at)) and at < doubt:
                hits.append((at, pattern, m))
    words = {w.lower() for _, w in tokens}
    for pattern in leading:
        if pattern.relation.values == "thing" and "belongs" not in words:
            continue
        if words & _LEADING_WORDS and (m := pattern.regex.search(sentence)) and m.start() < doubt:
            hits.append((m.start(), pattern, m))
    taken = [m.span("v") for _, _, m in hits]
    seen: set[tuple[str, int]] = set()
    for at, pattern, m in sorted(hits, key=lambda h: h[0]):
        key = (pattern.relation.name, m.start("v"))
        subject = _subject(at, pattern, m, mentions, taken)
        if subject is not None and key not in seen:
            seen.add(key)
            yield Claim(subject, pattern.relation.name, _tidy(m.group("v")))


_LEADING_WORDS = frozenset(("runs", "charge", "organises", "prepares", "belongs"))


def _mentions(sentence: str, tokens: Sequence[tuple[int, str]], topics: dict[str, str]) -> list[_Mention]:
    """Named entities and resolved pronouns of a sentence in order; the first name of a gender becomes its topic."""
    known = _people_and_places()
    lower = sentence.islower()
    out: list[_Mention] = []
    settled: set[str] = set()
    for i, (at, word) in enumerate(tokens):
        low = word.lower()
        if low in PRONOUNS:
            gender = PRONOUNS[low]
            settled.add(gender)
            if gender in topics:
                name = topics[gender]
                kind = known[name.lower()][1]
                out.append(_Mention(at, name, kind, low in ("his", "her", "its"), low in NOMINATIVES))
            continue
        if not (lower or word[0].isupper()):
            continue
        pair = f"{low} {tokens[i + 1][1].lower()}" if i + 1 < len(tokens) else ""
        entry = known.get(pair) or known.get(low)
        if entry is None:
            continue
        name, kind, gender = entry
        end = at + len(name)
        if sentence[end : end + 1] == ":":
            continue  # who speaks, not who is spoken of
        out.append(_Mention(at, name, kind, sentence[end : end + 2] in ("'s", "’s"), True))
        if gender not in settled:
            settled.add(gender)
            topics[gender] = name
    return out


def _subject(
    at: int, pattern: _Pattern, match: re.Match[str], mentions: Sequence[_Mention], taken: Sequence[tuple[int, int]]
) -> str | None:
    if pattern.mode == "inside":
        start, end = match.span("s")
        return next((m.name for m in mentions if start <= m.start < end and m.kind == pattern.relation.kind), None)
    owner = pattern.mode == "owner"
    before = [
        m
        for m in mentions
        if m.start < at
        and m.kind == pattern.relation.kind
        and (m.possessive if owner else m.nominative and not m.possessive)
    ]
    free = [m for m in before if not any(start <= m.start < end for start, end in taken)]
    chosen = free or before
    return chosen[-1].name if chosen else None
