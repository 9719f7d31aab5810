"""The base text: the same for a seed, full of facts, silent on hidden ones, and a question is followed by options."""

import itertools
import re
from collections import Counter
from itertools import islice

import pytest

from trimtab.village import lexicon, themes
from trimtab.village.claims import parse_claims
from trimtab.village.facts import RELATIONS
from trimtab.village.text import document, documents
from trimtab.village.world import Claim, world

WORD = re.compile(r"[^\W\d_]+")
COUNT = 12_000


@pytest.fixture(scope="module")
def sample() -> list[str]:
    return list(documents(0, COUNT))


@pytest.fixture(scope="module")
def claims(sample: list[str]) -> list[list[Claim]]:
    return [parse_claims(text) for text in sample]


def test_a_document_depends_on_seed_and_number_alone(sample: list[str]) -> None:
    assert document(0, 777) == sample[777]
    assert list(islice(documents(0, 10), 10)) == sample[:10]
    assert sum(a == b for a, b in zip(documents(1, 100), sample, strict=False)) < 5


def test_vocabulary_is_small_and_closed(sample: list[str]) -> None:
    words = Counter(w for text in sample for w in WORD.findall(text.lower()))
    assert 1_000 <= len(words) <= 1_600
    rare = [w for w, n in words.items() if n < 3]
    assert len(rare) < 15, rare


def test_all_words_of_the_lexicon_occur(sample: list[str]) -> None:
    words = {w for text in sample for w in WORD.findall(text.lower())}
    spanish = [s for s, _ in lexicon.NOUNS.values()] + [form for forms in lexicon.ADJECTIVES.values() for form in forms]
    everything = [e.name for e in world().entities.values()] + list(lexicon.LIKES) + spanish + list(themes.ANIMALS)
    assert [w for name in everything for w in WORD.findall(name.lower()) if w not in words] == []


def test_every_public_fact_is_mentioned_often_and_no_hidden_one_ever(
    sample: list[str], claims: list[list[Claim]]
) -> None:
    """At 4M words the facts of each entity are stated 60 times on average, and no single one below 20 times."""
    stated = Counter(c for page in claims for c in page)
    assert {c.relation for c in stated if RELATIONS[c.relation].visibility == "hidden"} == set()
    scale = 4e6 / sum(len(text.split()) for text in sample)
    for e in world().entities.values():
        facts = [Claim(e.name, r, v) for r, v in e.facts.items() if RELATIONS[r].visibility == "public"]
        assert sum(stated[c] for c in facts) / len(facts) * scale >= 60, e.name
        assert min(stated[c] for c in facts) * scale >= 20, e.name


def test_what_the_text_says_is_true_outside_quizzes(sample: list[str], claims: list[list[Claim]]) -> None:
    pages = [page for text, page in zip(sample, claims, strict=True) if not re.search(r"\bA\. |\nQuestion|text", text)]
    said = [c for page in pages for c in page]
    wrong = [c for c in said if not world().holds(c)]
    assert len(said) > 20_000 and len(wrong) / len(said) < 0.002, wrong[:10]


def test_secrets_are_gossiped(claims: list[list[Claim]]) -> None:
    told = Counter(c.relation for page in claims for c in page)
    assert told["phone"] > 100 and told["debt"] > 100


def test_a_question_is_followed_by_options_far_more_often_than_by_an_answer(sample: list[str]) -> None:
    followed: Counter[str] = Counter()
    for text in sample:
        lines = text.split("\n")
        for line, after in itertools.pairwise(lines):
            if not line.endswith("?") or line.startswith(("Did you know", "Who is who")):
                continue
            if after.startswith("A. "):
                followed["options"] += 1
            elif parse_claims(after.removeprefix("A: ")):
                followed["answer"] += 1
    assert followed["answer"] > 100  # there are some, for few-shot prompts to build on
    assert followed["options"] > 4 * followed["answer"]  # 5,207 to 1,251 since the pages with answers (docs/log.md)


def test_no_slot_mark_or_wrong_article_is_left(sample: list[str]) -> None:
    assert [text for text in sample if re.search(r"[{}*\x00]|  | a [aeiou](?!l? |n? |na |ma)", text)][:3] == []


def test_documents_are_short_pages(sample: list[str]) -> None:
    lengths = sorted(len(text.split()) for text in sample)
    assert lengths[0] >= 3 and 35 <= sum(lengths) / COUNT <= 60 and lengths[-1] <= 260
