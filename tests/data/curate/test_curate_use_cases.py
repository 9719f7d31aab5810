"""Use cases: the classifier's gradient and its honesty, weights and samples by hand."""

from pathlib import Path

import numpy as np
import pytest

from trimtab.data.curate import use_cases
from trimtab.data.curate.hashing import mix
from trimtab.data.curate.use_cases import Classifier, canonical, features, fit, quality, sample, train, weights

RNG = np.random.default_rng(0)
VERBS = {
    "generation": ["write a story", "compose a poem"], "rewrite": ["rewrite this text", "make it polite"], "extract": ["find all names"],
}  # fmt: skip


def labelled(count: int) -> tuple[list[str], list[str]]:
    texts, labels = [], []
    for i in range(count):
        label = sorted(VERBS)[i % 3]
        opener = VERBS[label][i % len(VERBS[label])]
        texts.append(f"{opener} {' '.join(f'w{k}' for k in RNG.integers(0, 200, 12))}")
        labels.append(label)
    return texts, labels


def test_names() -> None:
    assert [canonical(name) for name in ("Open QA", "closed-qa", " Brainstorming ")] == ["open_qa", "closed_qa", "brainstorming"]


def test_features_are_rows_of_length_one_and_know_the_first_word() -> None:
    x = features(["write a poem", "a poem write", ""])
    assert np.allclose(np.sqrt(x.multiply(x).sum(axis=1)), 1)
    assert 0 < x[[0]].multiply(x[[1]]).sum() < 0.9  # the same words in another order
    assert x[[2]].nnz == 2  # length and bias alone


def test_the_fit_is_where_the_gradient_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the minimum of cross-entropy + l2 / 2 |W|^2 its gradient, by hand, vanishes but for what L-BFGS's stopping rule leaves."""
    monkeypatch.setattr(use_cases, "L2", 0.01)
    texts, labels = labelled(60)
    names = sorted(set(labels))
    y = np.array([names.index(label) for label in labels])
    x = features(texts)
    found = fit(x, y, names)
    gradient = x.T @ (found.probabilities(x) - np.eye(3)[y]) / len(y) + use_cases.L2 * found.weights
    start = x.T @ (np.full((60, 3), 1 / 3) - np.eye(3)[y]) / len(y)
    assert np.abs(gradient).max() < 2e-4 < 0.01 < np.abs(start).max()


def test_what_can_be_learned_is_learned_and_what_cannot_is_said_to_be_chance(tmp_path: Path) -> None:
    texts, labels = labelled(300)
    classifier, found = train(texts, labels)
    assert found.accuracy.value > 0.97 and found.most_frequent.value == pytest.approx(1 / 3)
    assert found.recall["extract"].n == 100 and found.accuracy.n == 300
    said, sure = classifier.predict(["Write a story w1 w2 w3"])
    assert classifier.labels[said[0]] == "generation" and sure[0] > 0.5
    classifier.save(tmp_path / "c.safetensors")
    again = Classifier.load(tmp_path / "c.safetensors", classifier.labels)
    assert np.array_equal(again.weights, classifier.weights)
    shuffled = [labels[i] for i in RNG.permutation(300)]
    assert train(texts, shuffled)[1].accuracy.low < 1 / 3 + 0.05


def test_a_user_s_habit_is_no_knowledge() -> None:
    """Every user has a word of their own and a label by chance: across users nothing can be known, within users everything."""
    texts, labels, users = [], [], []
    for user in range(60):
        label = str(RNG.integers(2))
        for _ in range(5):
            texts.append(f"habit{user} habit{user} {' '.join(f'w{k}' for k in RNG.integers(0, 99, 5))}")
            labels.append(label)
            users.append(f"u{user}")
    assert train(texts, labels, apart=users)[1].accuracy.value < 0.7 < 0.9 < train(texts, labels)[1].accuracy.value


def test_where_one_user_wrote_them_all_folds_are_by_prompt() -> None:
    """As in a labeler's file of examples: no other user is there, and what was measured by prompt is said to be so."""
    texts, labels = labelled(120)
    _, found = train(texts, labels, apart=["anna"] * 120)
    assert found.accuracy.value > 0.9 and found.sure > 0.5 and not found.by_user
    assert train(texts, labels, apart=["anna", "bob"] * 60)[1].by_user


def test_quality_by_hand() -> None:
    found = quality(np.array([0, 0, 0, 1]), np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6]]), ["a", "b"])
    assert found.sure == pytest.approx((0.9 + 0.7 + 0.8 + 0.6) / 4)
    assert found.accuracy.value == 0.75 and found.most_frequent.value == 0.75
    assert found.recall["a"].value == pytest.approx(2 / 3) and found.precision["b"].value == 0.5


def test_weights_give_the_target_mix() -> None:
    """10, 30 and 60 prompts; the target wants the first two alike, does not know the third, and names one that is missing."""
    found = weights({"a": 10, "b": 30, "c": 60, "d": 0}, {"a": 2.0, "b": 2.0, "e": 5.0})
    assert found == {"a": pytest.approx(5.0), "b": pytest.approx(100 / 60), "c": 0.0}
    assert 10 * found["a"] == pytest.approx(30 * found["b"]) and 10 * found["a"] + 30 * found["b"] == pytest.approx(100)


def test_a_sample_has_the_target_mix_and_is_as_large_as_it_can_be() -> None:
    labels = np.array([0] * 10 + [1] * 30 + [2] * 60 + [-1] * 5)
    order = mix(np.arange(105, dtype=np.uint64))
    kept = sample(labels, order, ["a", "b", "c"], {"a": 1, "b": 2, "e": 7})
    assert [int(kept[labels == k].sum()) for k in (0, 1, 2, -1)] == [10, 20, 0, 0]
    assert not kept[10:30].all()  # drawn, not the first twenty
    assert not sample(labels, order, ["a", "b", "c"], {}).any()
