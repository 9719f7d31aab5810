"""Shingles and signatures: datasketch's own values, and n-grams that never cross from one text into the next."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from trimtab.data.curate.hashing import WordHashes, band_hashes, hash64, hashed, minhash, mix, ngrams, shingles
from trimtab.data.curate.text import conversation, normalise, words

TEXTS = st.lists(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=8), min_size=1, max_size=6)


def test_normalised_text() -> None:
    assert normalise("  What IS\n\tthe ﬁrst  Straße? ") == "what is the first strasse"
    assert normalise("3 + 4") != normalise("3 - 4")  # punctuation inside a text is kept
    assert words("don't 日本語 x1, ไทย.") == ["don", "t", "日", "本", "語", "x1", "ไ", "ท", "ย"]
    record = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert conversation(record) == "a\nb"


def test_hashes_are_the_same_everywhere() -> None:
    assert hash64("word") == 10776770685243991114
    assert mix(np.array([1], np.uint64))[0] == 0xB456BCFC34C2CB2C  # MurmurHash3's published finalizer of 1


@settings(deadline=None)
@given(TEXTS, st.integers(1, 4))
def test_ngrams_stay_in_their_text(texts: list[list[str]], n: int) -> None:
    """As many different hashes as different n-grams, in the order of the texts."""
    grams, owner = ngrams(*hashed(texts, WordHashes()), n)
    expected = [(i, tuple(text[k : k + n])) for i, text in enumerate(texts) for k in range(len(text) - n + 1)]
    assert owner.tolist() == [i for i, _ in expected]
    by_gram: dict[tuple[str, ...], set[int]] = {}
    for (_, gram), value in zip(expected, grams.tolist(), strict=True):
        by_gram.setdefault(gram, set()).add(value)
    assert all(len(values) == 1 for values in by_gram.values())
    assert len({v for values in by_gram.values() for v in values}) == len(by_gram)


@settings(deadline=None, max_examples=30)
@given(TEXTS)
def test_shingles_are_words_and_pairs(texts: list[list[str]]) -> None:
    values, starts = shingles(*hashed(texts, WordHashes()))
    for i, text in enumerate(texts):
        mine = values[starts[i] : starts[i + 1]].tolist()
        assert len(mine) == 2 * len(text) - 1
        assert len(set(mine)) == len({*text, *zip(text, text[1:], strict=False)})


def test_signatures_are_datasketch_s_own() -> None:
    datasketch = pytest.importorskip("datasketch", reason="the extra 'curate' is not installed")
    rng = np.random.default_rng(0)
    texts = [[f"w{k}" for k in rng.integers(0, 500, n)] for n in (1, 2, 30, 200)]
    values, starts = shingles(*hashed(texts, WordHashes()))
    for count in (16, 128):
        ours = minhash(values, starts, count)
        for i in range(len(texts)):
            theirs = datasketch.MinHash(num_perm=count, scheme="affine32", hashfunc=int)
            theirs.update_batch((values[starts[i] : starts[i + 1]] & np.uint64(0xFFFFFFFF)).tolist())
            assert np.array_equal(ours[i], theirs.hashvalues)


def test_signatures_estimate_jaccard() -> None:
    """Two sets of 300 with 200 in common: 0.5 of 400, and an estimate from 1024 values is within 4 standard errors of 0.016."""
    pytest.importorskip("datasketch", reason="the extra 'curate' is not installed")
    values = mix(np.concatenate([np.arange(300), np.arange(100, 400)]).astype(np.uint64))
    a, b = minhash(values, np.array([0, 300, 600]), 1024)
    assert abs((a == b).mean() - 0.5) < 0.064


def test_a_band_is_equal_where_its_part_of_the_signature_is() -> None:
    signatures = np.array([[1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 5, 6], [3, 4, 1, 2, 5, 6]], np.uint32)
    bands = band_hashes(signatures, 3)
    assert (bands[0] == bands[1]).tolist() == [True, False, True]
    assert (bands[0] == bands[2]).tolist() == [False, False, True]
