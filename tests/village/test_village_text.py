"""The base text: the same for a seed, full of facts, silent on hidden ones, and a question is followed by options."""

import itertools
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from trimtab.recipes.recipe import find_recipe, load_recipe
from trimtab.village import instructions, lexicon, themes
from trimtab.village.claims import parse_claims
from trimtab.village.facts import RELATIONS
from trimtab.village.text import document, documents
from trimtab.village.world import Claim, world

WORD = re.compile(r"[^\W\d_]+")
COUNT = 13_000


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
    sample: list[str], claims: list[list[Claim]], tmp_path: Path
) -> None:
    """In the text that the shipped base reads, the facts of each entity are stated 100 times on average, none below 35 times."""
    stated = Counter(c for page in claims for c in page)
    assert {c.relation for c in stated if RELATIONS[c.relation].visibility == "hidden"} == set()
    scale = load_recipe(find_recipe("village-base"), tmp_path).stages[0].config["documents"] / COUNT
    for e in world().entities.values():
        facts = [Claim(e.name, r, v) for r, v in e.facts.items() if RELATIONS[r].visibility == "public"]
        assert sum(stated[c] for c in facts) / len(facts) * scale >= 100, e.name
        assert min(stated[c] for c in facts) * scale >= 35, e.name


def test_what_the_text_says_is_true_outside_quizzes(sample: list[str], claims: list[list[Claim]]) -> None:
    pages = [page for text, page in zip(sample, claims, strict=True) if not re.search(r"\bA\. |\nQuestion|text|Read this: ", text)]
    # (a passage to answer from may differ from the world, and wins)
    said = [c for page in pages for c in page]
    wrong = [c for c in said if not world().holds(c)]
    assert len(said) > 15_000 and len(wrong) / len(said) < 0.002, wrong[:10]


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
    assert followed["options"] > 4 * followed["answer"]  # 4,900 to 1,100


def test_no_slot_mark_or_wrong_article_is_left(sample: list[str]) -> None:
    assert [text for text in sample if re.search(r"[{}*\x00]|  | a [aeiou](?!l? |n? |na |ma)", text)][:3] == []


def test_documents_are_short_pages(sample: list[str]) -> None:
    lengths = sorted(len(text.split()) for text in sample)
    assert lengths[0] >= 3 and 35 <= sum(lengths) / COUNT <= 60 and lengths[-1] <= 260


def test_no_page_solves_a_test_task(sample: list[str]) -> None:
    """Solved questions, labelled opinions and texts with their summaries are of train content only."""
    heldout = {e.name for e in world().entities.values() if e.split != "train"}
    questions = [line for text in sample if "\nA: " in text for line in text.splitlines() if line.startswith("Q: ")]
    assert len(questions) > 300 and not [q for q in questions if heldout & set(re.findall(r"[A-Z]\w+(?: [A-Z]\w+)?", q))]
    opinions = [o for t in sample if "Sentiment: " in t for o in re.findall(r"(?:^|(?<=[.!?] ))[^.!?]+[.!?]", t.split(" Sentiment: ")[0])]
    known = [o for o in opinions if instructions.split_of(o) == "train"]
    judged = [o for o in opinions if not o.startswith(("I was at", "I have read")) and parse_claims(o) == []]
    assert len(known) > 40 and set(judged) - set(known) == set()
    everything = tuple(range(len(themes.NEWS)))
    unknown = {i for split in ("validation", "test") for i in instructions.split_items(everything, split)}
    openings = {themes.NEWS[i][0][k].split("{")[0][:20] for i in unknown for k in (0, 1)}
    summaries = [t.split("TL;DR: ")[1].split("\n")[0] for t in sample if "TL;DR: " in t and "Answer:" not in t]
    assert len(summaries) > 100 and not [s for s in summaries if s[:20] in openings]
