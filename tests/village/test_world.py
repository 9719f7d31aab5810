"""The village's facts: fixed, split cleanly, and every sentence that states one reads back as that fact."""

import pytest

from trimtab.village.claims import parse_answer, parse_claims
from trimtab.village.facts import RELATIONS, fill, relations_of, surface
from trimtab.village.lexicon import ADJECTIVES, NOUNS, number, phrase_pair
from trimtab.village.world import SIZES, SPLITS, Claim, Entity, world


def test_sizes_and_splits_are_disjoint() -> None:
    names = [e.name for kind in SIZES for split in SPLITS for e in world().of(kind, split)]
    assert len(names) == len(set(names)) == len(world().entities) == 140 + 40 + 16
    for kind, sizes in SIZES.items():
        assert tuple(len(world().of(kind, split)) for split in SPLITS) == sizes


def test_no_fact_leads_from_one_split_into_another() -> None:
    for e in world().entities.values():
        for relation, value in e.facts.items():
            name = value.split(" to ")[-1] if relation == "debt" else value
            other = world().entities.get(name)
            assert other is None or other.split == e.split, (e.name, relation, value)


def test_every_entity_has_exactly_the_relations_of_its_kind() -> None:
    for e in world().entities.values():
        assert set(e.facts) == {r.name for r in RELATIONS.values() if r.kind == e.kind}


def test_no_value_of_a_person_is_a_safe_guess() -> None:
    """With 14 to 98 people a split, no home, liking or possession may be common enough to be guessed."""
    people = world().of("person", "train")
    for relation in ("home", "likes", "owns", "birth_month", "favourite_book"):
        values = [p.facts[relation] for p in people]
        assert max(map(values.count, values)) <= len(people) * 0.11, relation


def test_phone_numbers_are_unique() -> None:
    phones = [p.facts["phone"] for p in world().of("person")]
    assert len(phones) == len(set(phones))


@pytest.mark.parametrize("relation", RELATIONS)
def test_every_template_reads_back_as_the_fact_it_states(relation: str) -> None:
    row = RELATIONS[relation]
    for e in world().of(row.kind)[::7]:
        want = Claim(e.name, relation, e.facts[relation])
        value = surface(relation, want.value)
        for template in ("{N} " + phrase + "." for phrase in row.phrases):
            assert parse_claims(fill(template, e, value)) == [want]
            assert parse_claims(f"I know {e.mention}. " + fill(template, e, value, pronoun=True)) == [want]
        for template in row.sentences:
            assert parse_claims(fill(template, e, value)) == [want]


@pytest.mark.parametrize("relation", RELATIONS)
def test_questions_claim_nothing(relation: str) -> None:
    row = RELATIONS[relation]
    e = world().of(row.kind)[0]
    for template in row.questions:
        assert parse_claims(fill(template, e)) == []


def claim(subject: str, relation: str, value: str) -> Claim:
    return Claim(subject, relation, value)


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        (
            "Anna lives in Mill Lane and likes plums. She has a black cat.",
            [claim("Anna", "home", "Mill Lane"), claim("Anna", "likes", "plums"), claim("Anna", "owns", "black cat")],
        ),
        (
            "Anna's best friend is Clara. She is forty two years old.",  # "She" is whom the sentence before began with
            [claim("Anna", "friend", "Clara"), claim("Anna", "age", "forty two")],
        ),
        (
            "Anna works at the Copper Kettle. It opens at six. She owes forty coins to Boris.",
            [
                claim("Anna", "works_at", "Copper Kettle"),
                claim("Copper Kettle", "opens_at", "six"),
                claim("Anna", "debt", "forty coins to Boris"),
            ],
        ),
        (
            "Boris runs the Copper Kettle, and Anna works at the Old Barrel.",
            [claim("Copper Kettle", "run_by", "Boris"), claim("Anna", "works_at", "Old Barrel")],
        ),
        (
            "Anna is a baker at the Copper Kettle.",
            [claim("Anna", "job", "baker"), claim("Anna", "works_at", "Copper Kettle")],
        ),
        ("anna lives in mill lane.", [claim("Anna", "home", "Mill Lane")]),
        ("Anna lives in Nowhere Street.", [claim("Anna", "home", "Nowhere Street")]),
        ("I do not know where Anna lives.", []),
        ("I do not know if Anna lives in Mill Lane.", []),
        ("Anna: My brother wears shoes of size forty.", []),
        ("She lives in Mill Lane.", []),
        ("", []),
        ("zero one two ¿? lives in", []),
    ],
)
def test_claims_by_hand(text: str, claims: list[Claim]) -> None:
    assert parse_claims(text) == claims


def test_a_bare_value_answers_the_question() -> None:
    assert parse_answer("In Mill Lane.", "Anna", "home") == [Claim("Anna", "home", "Mill Lane")]
    assert parse_answer("Five five two nine.", "Anna", "phone") == [Claim("Anna", "phone", "five five two nine")]
    assert parse_answer("She lives in Mill Lane. Anna lives in Oak Lane.", "Anna", "home") == [
        Claim("Anna", "home", "Mill Lane"), Claim("Anna", "home", "Oak Lane"),
    ]  # fmt: skip
    assert parse_answer("I do not know.", "Anna", "home") == []


def test_a_claim_holds_exactly_when_it_is_the_fact() -> None:
    anna = world().entities["Anna"]
    assert world().holds(Claim("Anna", "home", anna.facts["home"]))
    assert not world().holds(Claim("Anna", "home", "Nowhere Street"))
    assert not world().holds(Claim("Nobody", "home", "Mill Lane"))
    assert not world().holds(Claim("Copper Kettle", "home", "Mill Lane"))


def test_a_debt_may_be_told_without_its_creditor_but_not_with_another() -> None:
    amount, creditor = world().entities["Anna"].facts["debt"].split(" to ")
    other = next(e.name for e in world().of("person") if e.name not in ("Anna", creditor))
    assert world().holds(Claim("Anna", "debt", amount))
    assert not world().holds(Claim("Anna", "debt", f"{amount} to {other}"))
    assert not world().holds(Claim("Anna", "debt", amount.split()[0] + " hundred coins"))


def test_mention_and_pronouns() -> None:
    e = Entity("Old Barrel", "place", "it", "train", {"run_by": "Ben"})
    assert fill("{P} doors open for {O}.", e) == "The Old Barrel's doors open for the Old Barrel."
    assert fill("{P} doors open for {O}.", e, pronoun=True) == "Its doors open for it."


def test_relations_of_a_kind() -> None:
    assert [r.name for r in relations_of("person", "secret")] == ["phone", "debt"]
    assert [r.name for r in relations_of("event", "secret")] == []


@pytest.mark.parametrize(
    ("words", "pair"),
    [
        (("a", "black", "cat"), ("a black cat", "un gato negro")),
        (("a", "white", "house"), ("a white house", "una casa blanca")),
        (("the", "old", "key"), ("the old key", "la llave vieja")),
        (("my", "", "egg"), ("my egg", "mi huevo")),
        (("a", "empty", "egg"), ("an empty egg", "un huevo vacío")),
    ],
)
def test_phrases_translate_by_rule(words: tuple[str, str, str], pair: tuple[str, str]) -> None:
    assert phrase_pair(*words) == pair


def test_the_dictionary_is_as_large_as_promised() -> None:
    assert len(NOUNS) == 60 and len(ADJECTIVES) == 20
    assert {gender for _, gender in NOUNS.values()} == {"m", "f"}


def test_numbers_in_words() -> None:
    assert [number(n) for n in (0, 9, 10, 19, 20, 21, 99)] == [
        "zero", "nine", "ten", "nineteen", "twenty", "twenty one", "ninety nine",
    ]  # fmt: skip
