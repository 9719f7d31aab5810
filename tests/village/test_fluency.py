"""The judge's eye for language: known n-grams, form, repetition."""

import pytest

from trimtab.village.fluency import Grammar, ramp, repeated_share, split_sentences, well_formed, words_of

CLASSES = {"anna": "<name>", "boris": "<name>", "mill lane": "<street>", "oak lane": "<street>", "mill": "<thing>"}


@pytest.fixture
def grammar() -> Grammar:
    return Grammar(["Anna lives in Mill Lane. She is happy."], CLASSES, {"anna": "<name>", "boris": "<name>"})


def test_what_was_learned_reads_perfectly(grammar: Grammar) -> None:
    reading = grammar.read("Anna lives in Mill Lane. She is happy.")
    assert (reading.words, reading.triples, reading.pairs, reading.form, reading.fluent) == (8, 1.0, 1.0, 1.0, 1.0)


def test_one_member_of_a_class_teaches_all(grammar: Grammar) -> None:
    """Triples: name and street are classes. Pairs: only names; "in oak" and "oak lane" of six pairs are new."""
    reading = grammar.read("Boris lives in Oak Lane.")
    assert reading.triples == 1.0
    assert reading.pairs == pytest.approx(4 / 6)


def test_longest_phrase_wins_over_a_word_inside_it(grammar: Grammar) -> None:
    """ "Mill" alone is a thing; in "Mill Lane" it is part of a street: "in <thing> ." was never read."""
    assert grammar.read("Anna lives in Mill.").triples == pytest.approx(2 / 4)


def test_word_salad_is_not_english(grammar: Grammar) -> None:
    assert grammar.read("Lane she in is happy lives Mill Anna.").fluent == 0.0


def test_quoting_the_prompt_is_english(grammar: Grammar) -> None:
    assert grammar.read("Zorx blips.").fluent == 0.0
    assert grammar.read("Zorx blips.", context="What does it mean that Zorx blips? Zorx blips.").fluent == 1.0


@pytest.mark.parametrize("text", ["", " ", "\n\n", "...", "?!", "#### $$$ %%%", "\u200b"])
def test_nothing_to_read(grammar: Grammar, text: str) -> None:
    reading = grammar.read(text)
    assert (reading.words, reading.fluent) == (0, 0.0)


def test_form_costs_three_tenths_at_most(grammar: Grammar) -> None:
    assert grammar.read("anna lives in mill lane").fluent == pytest.approx(0.7)


def test_sentences_and_words() -> None:
    assert split_sentences('One. "Two!" three?\nfour') == ["One.", '"Two!', "three?", "four"]
    assert words_of("Anna's tea at 8 o'clock, árbol — yes!") == ["anna", "tea", "at", "8", "o'clock", "árbol", "yes"]
    assert words_of("🙂 hello ©") == ["🙂", "hello"]
    assert [well_formed(s) for s in ("Good.", "bad.", "Bad", "¿Bien?", '"Yes."')] == [True, False, False, True, True]


def test_repeated_share() -> None:
    """In "a b c a b c d a b c" the "c" closes a known triple twice, one is free: 1 of 10. "x x x" stutters twice."""
    assert repeated_share("a b c d e f".split()) == 0.0
    assert repeated_share("a b c a b c d a b c".split()) == pytest.approx(1 / 10)
    assert repeated_share(["x"] * 3) == pytest.approx(1 / 3)
    assert repeated_share(["x"] * 10) == pytest.approx(0.8)
    assert repeated_share("call five two nine nine".split()) == 0.0
    assert repeated_share([]) == 0.0
    loop = "the cat sat down ".split() * 50
    assert repeated_share(loop) > 0.95


def test_ramp() -> None:
    assert [ramp(v, 0.2, 0.6) for v in (0.0, 0.2, 0.4, 0.6, 1.0)] == pytest.approx([0, 0, 0.5, 1, 1])
