"""What a prompt is for: labels from the records, or predicted by softmax regression on hashed words; and the mix of them.

The features of a prompt are its words, its pairs of neighbouring words, its first one to three words and the magnitude of its length,
hashed into 2^16 columns. The regression is fitted by L-BFGS to the mean cross-entropy plus l2 / 2 * |W|^2.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.optimize import minimize
from scipy.sparse import csr_array

from trimtab.common.files import atomic_write
from trimtab.common.rng import generator
from trimtab.common.stats import Estimate, proportion_interval
from trimtab.data.curate.hashing import U64, WordHashes, hash64, hashed, mix, shingles
from trimtab.data.curate.text import normalise, words

COLUMNS = 1 << 16
L2 = 1e-5
ITERATIONS = 200
FOLDS = 5
FEWEST_EXAMPLES = 50
MOST_EXAMPLES = 20_000
FIRST_WORDS = 3


def canonical(label: str) -> str:
    """``Open QA`` -> ``open_qa``."""
    return "_".join(label.replace("-", " ").replace("_", " ").casefold().split())


def features(texts: Sequence[str], table: WordHashes | None = None) -> csr_array:
    """Texts (as written or normalised) -> texts x ``COLUMNS``, rows of length 1."""
    split = [words(normalise(text)) for text in texts]
    flat, starts = hashed(split, table if table is not None else WordHashes())
    values, begins = shingles(flat, starts)
    rows = [np.repeat(np.arange(len(texts)), np.diff(begins))]
    columns = [values]
    lengths = np.diff(starts)
    for k in range(FIRST_WORDS):  # how a prompt begins says most: "write a", "summarize the", "which of"
        long = np.flatnonzero(lengths > k)
        begun = mix(flat[starts[:-1][long] + k] + np.uint64(hash64(f"word {k}")))
        columns.append(begun)
        rows.append(long)
    magnitude = np.log2(lengths + 1).astype(np.uint64)
    columns += [mix(magnitude + np.uint64(hash64("length"))), np.full(len(texts), hash64("bias"), np.uint64)]
    rows += [np.arange(len(texts))] * 2
    row, column = np.concatenate(rows), (np.concatenate(columns) % np.uint64(COLUMNS)).astype(np.int64)
    counts = csr_array((np.ones(len(row)), (row, column)), shape=(len(texts), COLUMNS))
    counts.sum_duplicates()
    counts.data = np.log1p(counts.data)
    norms = np.sqrt(counts.multiply(counts).sum(axis=1))
    counts.data /= np.repeat(norms, np.diff(counts.indptr))
    return counts


@dataclass(frozen=True)
class Classifier:
    """Softmax regression: ``weights`` is columns x labels."""

    labels: tuple[str, ...]
    weights: NDArray[np.float64]

    def probabilities(self, x: csr_array) -> NDArray[np.float64]:
        """texts x labels."""
        scores = x @ self.weights
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)

    def predict(self, texts: Sequence[str], table: WordHashes | None = None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The likeliest label of each text (an index into ``labels``) and its probability."""
        found = self.probabilities(features(texts, table))
        return found.argmax(axis=1), found.max(axis=1)

    def save(self, path: Path) -> None:
        with atomic_write(path) as temporary:
            save_file({"weights": self.weights}, temporary)

    @classmethod
    def load(cls, path: Path, labels: Sequence[str]) -> "Classifier":
        return cls(tuple(labels), load_file(path)["weights"])


def fit(x: csr_array, y: NDArray[np.int64], labels: Sequence[str]) -> Classifier:
    """The classifier of least regularised cross-entropy; ``y`` are indices into ``labels``."""
    n, k = x.shape[0], len(labels)
    used = np.unique(x.indices)  # columns that no text has keep weight 0
    dense = csr_array(x[:, used])
    transposed = csr_array(dense.T)
    target = np.zeros((n, k))
    target[np.arange(n), y] = 1

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights = flat.reshape(len(used), k)
        scores = dense @ weights
        scores -= scores.max(axis=1, keepdims=True)
        log_total = np.log(np.exp(scores).sum(axis=1, keepdims=True))
        value = -(target * (scores - log_total)).sum() / n + L2 / 2 * (flat @ flat)
        gradient = transposed @ ((np.exp(scores - log_total) - target) / n) + L2 * weights
        return float(value), gradient.ravel()

    found = minimize(loss, np.zeros(len(used) * k), jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS}).x
    weights = np.zeros((x.shape[1], k))
    weights[used] = found.reshape(len(used), k)
    return Classifier(tuple(labels), weights)


@dataclass(frozen=True)
class Quality:
    """How right a classifier is on prompts it was not fitted to: ``recall`` and ``precision`` by label, ``sure`` its mean probability;
    ``by_user``: whether these were other users' prompts."""

    accuracy: Estimate
    sure: float
    most_frequent: Estimate
    recall: Mapping[str, Estimate]
    precision: Mapping[str, Estimate]
    by_user: bool = True


def train(
    texts: Sequence[str], labels: Sequence[str], seed: int = 0, apart: Sequence[str] | None = None
) -> tuple[Classifier, Quality]:
    """A classifier and its cross-validated quality: five folds, where prompts of one ``apart`` (such as a user) are in one fold, unless
    all are of one.

    Labels must be of two kinds at least; with more than ``MOST_EXAMPLES`` texts a seeded sample of them is used.
    """
    names = sorted(set(labels))
    assert len(names) > 1, "a classifier needs two labels"
    rng = generator(seed, "use cases")
    chosen = np.sort(rng.permutation(len(texts))[:MOST_EXAMPLES])
    y = np.array([names.index(labels[i]) for i in chosen])
    x = features([texts[i] for i in chosen])
    _, together = np.unique([apart[i] if apart is not None else str(i) for i in chosen], return_inverse=True)
    if not (by_user := bool(together.max())):
        together = np.arange(len(chosen))
    fold = rng.permutation(int(together.max()) + 1)[together] % FOLDS
    probability = np.zeros((len(y), len(names)))
    for k in range(FOLDS):
        held = fold == k
        if held.any():
            probability[held] = fit(x[~held], y[~held], names).probabilities(x[held])
    return fit(x, y, names), replace(quality(y, probability, names), by_user=by_user)


def quality(y: NDArray[np.int64], probability: NDArray[np.float64], names: Sequence[str]) -> Quality:
    """Accuracy, recall and precision of predictions (texts x labels), beside always saying the most frequent label."""
    said = probability.argmax(axis=1)
    right = y == said
    return Quality(
        proportion_interval(int(right.sum()), len(y)),
        float(probability.max(axis=1).mean()),
        proportion_interval(int(np.bincount(y).max(initial=0)), len(y)),
        {name: proportion_interval(int(right[y == k].sum()), int((y == k).sum())) for k, name in enumerate(names)},
        {name: proportion_interval(int(right[said == k].sum()), int((said == k).sum())) for k, name in enumerate(names)},
    )


# ---- the mix -------------------------------------------------------------------------------------------------------


def weights(counts: Mapping[str, int], target: Mapping[str, float]) -> dict[str, float]:
    """For each use case its target share divided by its share: prompts weighted so have the target mix and mean weight 1.

    Use cases that the target does not name get 0; those that have no prompts leave their share to the others.
    """
    present = {name: target[name] for name, count in counts.items() if count and target.get(name)}
    total, wanted = sum(counts.values()), sum(present.values())
    return {name: present[name] / wanted * total / count if name in present else 0.0 for name, count in counts.items() if count}


def sample(labels: NDArray[np.int64], order: U64, names: Sequence[str], target: Mapping[str, float]) -> NDArray[np.bool_]:
    """Which prompts are kept so that their mix is ``target``, as many as that allows, those of lowest ``order`` first.

    ``labels`` are indices into ``names`` (-1: none); use cases that the target does not name lose all their prompts.
    """
    counts = Counter({name: int((labels == k).sum()) for k, name in enumerate(names)})
    present = {name: target[name] for name, count in counts.items() if count and target.get(name)}
    kept = np.zeros(len(labels), np.bool_)
    size = min((counts[name] / share for name, share in present.items()), default=0.0)
    for name, share in present.items():
        rows = np.flatnonzero(labels == names.index(name))
        kept[rows[np.argsort(order[rows], kind="stable")][: round(size * share)]] = True
    return kept
