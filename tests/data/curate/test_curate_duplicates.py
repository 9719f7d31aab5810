"""Duplicates: each rule by hand, the fast ways against comparing everything with everything."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

pytest.importorskip("datasketch", reason="the extra 'curate' is not installed")

from trimtab.data.curate.duplicates import (
    KINDS,
    Marks,
    common_prefix,
    find_duplicates,
    jaccard,
    mark,
    prefix_pairs,
    resolve,
    shingle_set,
)  # fmt: skip
from trimtab.data.curate.settings import DuplicateSettings
from trimtab.data.curate.text import normalise, words

BY_RULE = {"exact": DuplicateSettings(prefix=0, near=0), "prefix": DuplicateSettings(prefix=10, near=0)}
LONG = (
    "Write a friendly letter to the people of the old mill by the river and tell them that the bridge will be closed for eleven days "
    "while the carpenters look for rotten beams under the western side of it"
)


def kinds(texts: list[str], settings: DuplicateSettings) -> list[str]:
    """Each text's rule and the index of the text that it duplicates, "-" where it is kept."""
    found = find_duplicates(texts, settings)
    return [f"{KINDS[k]} {of}" if of >= 0 else "-" for k, of in zip(found.kind.tolist(), found.of.tolist(), strict=True)]


def test_exact_after_normalisation() -> None:
    texts = ["Write a poem", "write  A poem.", "Write a poem!", "Write a poem, 2 lines", "write a Poem, 3 lines", "Write a poem"]
    assert kinds(texts, BY_RULE["exact"]) == ["-", "exact 0", "exact 0", "-", "-", "exact 0"]


def test_long_common_prefix_by_hand() -> None:
    """Ten characters and 0.8 of the shorter: 0 and 1 share 12 of 14 and 15 (12/14 = 0.86), 0 and 2 share 12 of 14 and 16, 0 and 3 share
    9, and 4 and 5 share 11 of 20 and 20 (0.55)."""
    texts = ["abcdefghijklXX", "abcdefghijklYYY", "abcdefghijkl0000", "abcdefghiZZZZZZ", "0123456789aAAAAAAAAA", "0123456789aBBBBBBBBB"]
    assert kinds(texts, BY_RULE["prefix"]) == ["-", "prefix 0", "prefix 0", "-", "-", "-"]
    found = find_duplicates(texts, BY_RULE["prefix"])
    assert found.similarity[1] == pytest.approx(12 / 14)


def test_a_prompt_that_goes_on_is_one_and_a_short_beginning_is_none() -> None:
    first = "Translate the words into French"
    longer = f"{first}: bread, milk, cheese, wine and a great many other things besides"
    assert kinds([first, longer], BY_RULE["prefix"]) == ["-", "prefix 0"]
    assert kinds(["Translate", f"{first}: bread"], BY_RULE["prefix"]) == ["-", "-"]
    assert kinds([first, f"{first}: bread"], DuplicateSettings(near=0)) == ["-", "-"]  # by default 100 characters


@settings(deadline=None, max_examples=300)
@given(st.lists(st.text("ab", min_size=1, max_size=9), min_size=2, max_size=12, unique=True), st.sampled_from([0.5, 0.8, 1.0]))
def test_prefix_pairs_link_what_comparing_all_links(texts: list[str], share: float) -> None:
    rule = DuplicateSettings(prefix=2, prefix_share=share, near=0)

    def parts(pairs: list[tuple[int, int]]) -> set[frozenset[int]]:
        group = {i: {i} for i in range(len(texts))}
        for a, b in pairs:
            joined = group[a] | group[b]
            group |= dict.fromkeys(joined, joined)
        return {frozenset(g) for g in group.values()}

    every = []
    for a in range(len(texts)):
        for b in range(a):
            common = common_prefix(texts[a], texts[b])
            if common >= 2 and common >= share * min(len(texts[a]), len(texts[b])):
                every.append((a, b))
    found = list(prefix_pairs(mark(texts, rule).prefix, np.ones(len(texts), np.bool_), texts, rule))
    assert {(max(a, b), min(a, b)) for a, b, _ in found} <= set(every)
    assert parts([(a, b) for a, b, _ in found]) == parts(every)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.text("ab", min_size=1, max_size=9), min_size=2, max_size=12, unique=True), st.sampled_from([0.5, 0.8, 1.0]))
def test_of_texts_with_a_long_common_prefix_no_two_stay(texts: list[str], share: float) -> None:
    """Every one that is left out has one with an earlier text that stays, and no two that stay have one."""
    found = find_duplicates(texts, DuplicateSettings(prefix=2, prefix_share=share, near=0)).of.tolist()

    def alike(a: int, b: int) -> bool:
        return common_prefix(texts[a], texts[b]) >= max(2, share * min(len(texts[a]), len(texts[b])))

    for i, of in enumerate(found):
        earlier = [k for k in range(i) if found[k] < 0 and alike(i, k)]
        assert of in earlier if of >= 0 else not earlier


def test_of_many_few_shot_prompts_with_one_beginning_the_first_stays() -> None:
    texts = [LONG + f" {'and ' * (40 - i)}then {i}" for i in range(40)]
    assert kinds(texts, DuplicateSettings(near=0, prefix_share=0.4)) == ["-"] + ["prefix 0"] * 39


@given(st.text("ab", max_size=9), st.text("ab", max_size=9))
def test_common_prefix(a: str, b: str) -> None:
    n = common_prefix(a, b)
    assert a[:n] == b[:n] and a[n : n + 1] != b[n : n + 1] or n == min(len(a), len(b))


def test_jaccard_by_hand() -> None:
    """{a, b, c, d, ab, bc, cd} and {a, b, c, e, ab, bc, ce}: five in common of nine."""
    assert jaccard(shingle_set(list("abcd")), shingle_set(list("abce"))) == pytest.approx(5 / 9)
    assert jaccard(shingle_set([]), shingle_set([])) == 0


def test_edits_of_long_prompts_are_found_and_another_short_question_is_not() -> None:
    edited = LONG.replace("friendly", "kind").replace("eleven", "twelve").replace("rotten ", "")
    assert kinds([LONG, edited], DuplicateSettings(prefix=0)) == ["-", "near 0"]
    assert kinds(["What is the price of a horse in Spain", "What is the price of a horse in France"], DuplicateSettings()) == ["-", "-"]


def test_what_duplicates_only_what_goes_stays() -> None:
    """The third goes on where the second ends, and the second nearly is the first; the first and the third are not alike."""
    first = LONG.replace("Write a friendly letter", "Please send some kind lines")
    longer = f"{LONG}, {' '.join(f'w{i}' for i in range(60))}"
    assert kinds([LONG, longer], DuplicateSettings()) == ["-", "prefix 0"] and kinds([first, longer], DuplicateSettings()) == ["-", "-"]
    assert kinds([first, LONG, longer], DuplicateSettings()) == ["-", "near 0", "-"]
    found = find_duplicates([first, LONG, longer])
    assert len(set(found.group.tolist())) == 1  # still linked, so in one split


def test_what_is_left_out_duplicates_one_that_stays_in_crowds_too() -> None:
    """Four hundred few-shot prompts with the same beginning, some of them edited: more than a bucket compares with each other."""
    rng = np.random.default_rng(3)
    texts = []
    for _ in range(400):
        split = LONG.split()
        for _ in range(int(rng.integers(0, 12))):
            split[int(rng.integers(len(split)))] = f"w{rng.integers(0, 30)}"
        texts.append(" ".join([*split, *(f"v{k}" for k in rng.integers(0, 30, rng.integers(0, 40)))]))
    found, normal, rule = find_duplicates(texts), [normalise(text) for text in texts], DuplicateSettings()
    sets = [shingle_set(words(text)) for text in normal]
    for i in np.flatnonzero(found.of >= 0).tolist():
        of = int(found.of[i])
        common, shorter = common_prefix(normal[i], normal[of]), min(len(normal[i]), len(normal[of]))
        alike = [normal[i] == normal[of], common >= max(100, 0.8 * shorter), jaccard(sets[i], sets[of]) >= rule.near]
        assert of < i and found.of[of] < 0 and alike[found.kind[i]]


def test_a_copy_of_what_goes_goes_by_the_same_rule() -> None:
    """The third is equal to the second, which nearly is the first: its duplicate is the first, which it is not equal to."""
    edited = LONG.replace("friendly", "kind")
    found = find_duplicates([LONG, edited, f"{edited.upper()}.", LONG], DuplicateSettings(prefix=0))
    assert found.of.tolist() == [-1, 0, 0, 0] and [KINDS[k] for k in found.kind[1:].tolist()] == ["near", "near", "exact"]
    assert found.similarity[1] == found.similarity[2] < 1 == found.similarity[3]


def random_texts(rng: np.random.Generator, count: int) -> list[str]:
    """Texts of 20 to 40 words, a third of them earlier ones with some words changed."""
    out: list[str] = []
    for _ in range(count):
        split = [f"w{k}" for k in rng.integers(0, 400, rng.integers(20, 40))]
        if out and rng.random() < 0.34:
            split = words(out[int(rng.integers(len(out)))])
            for _ in range(int(rng.integers(1, 6))):
                split[int(rng.integers(len(split)))] = f"w{rng.integers(0, 400)}"
        out.append(" ".join(split))
    return out


def test_what_is_found_is_what_comparing_all_finds() -> None:
    """On 600 texts: every one that is left out is alike enough to one that is kept and earlier, and no kept one is to another kept one
    but for the pairs that signatures miss, under one in a hundred."""
    texts, rule = random_texts(np.random.default_rng(1), 600), DuplicateSettings(prefix=0)
    found = find_duplicates(texts, rule)
    sets = [shingle_set(words(text)) for text in texts]
    kept = found.of < 0
    for i in np.flatnonzero(~kept).tolist():
        of = int(found.of[i])
        assert of < i and kept[of]
        assert found.similarity[i] == pytest.approx(jaccard(sets[i], sets[of]), abs=1e-6) and found.similarity[i] >= rule.near
    rows = np.flatnonzero(kept).tolist()
    missed = sum(jaccard(sets[a], sets[b]) >= rule.near for i, a in enumerate(rows) for b in rows[:i])
    assert (~kept).sum() > 100 and missed <= 1


def test_a_crowd_of_near_duplicates_leaves_one() -> None:
    """Sixty texts that differ in one word each: more than a bucket compares with each other."""
    texts = [LONG.replace("eleven", f"n{i}") for i in range(60)]
    found = find_duplicates(texts, DuplicateSettings(prefix=0))
    assert (found.of[1:] == 0).all() and found.of[0] == -1 and len(set(found.group.tolist())) == 1


def test_a_chain_keeps_both_ends_in_one_group() -> None:
    """b duplicates a, c duplicates b, and c is too far from a: a and c are kept and linked."""
    split = [f"w{i}" for i in range(30)]

    def changed(upto: int) -> str:
        return " ".join("x" + word if i % 3 == 0 and i < upto else word for i, word in enumerate(split))

    texts = [changed(0), changed(10), changed(20)]
    sets = [shingle_set(words(text)) for text in texts]
    alike = [jaccard(sets[0], sets[1]), jaccard(sets[1], sets[2]), jaccard(sets[0], sets[2])]
    rule = DuplicateSettings(prefix=0, near=0.55)
    assert min(alike[:2]) >= rule.near > alike[2]
    found = find_duplicates(texts, rule)
    assert found.of.tolist() == [-1, 0, -1] and len(set(found.group.tolist())) == 1


def test_protected_texts_are_never_left_out() -> None:
    found = find_duplicates(["a b", "a b", "c d", "A b", "c d"], BY_RULE["exact"], protected=2)
    assert found.of.tolist() == [-1, -1, -1, 0, 2]


def test_marks_of_parts_join_to_those_of_the_whole() -> None:
    texts = [normalise(text) for text in random_texts(np.random.default_rng(2), 40)]
    whole, joined = mark(texts), Marks.join([mark(texts[:7]), mark(texts[7:7]), mark(texts[7:])])
    for name in ("exact", "prefix", "signed", "bands"):
        assert np.array_equal(getattr(whole, name), getattr(joined, name))
    assert np.array_equal(resolve(whole, texts).of, resolve(joined, texts).of)


@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["x"], ["日" * 50, "日" * 51]])
def test_odd_input(texts: list[str]) -> None:
    assert len(find_duplicates(texts).of) == len(texts)
