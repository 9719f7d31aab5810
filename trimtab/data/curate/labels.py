"""The use case of every clean prompt: its own, or predicted by what the labelled ones teach; and the mix that is wanted."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trimtab.common.errors import UserError
from trimtab.data.curate import personal, use_cases
from trimtab.data.curate.caps import draw_order
from trimtab.data.curate.decide import Corpus, Fates
from trimtab.data.curate.hashing import hash64
from trimtab.data.curate.shards import label_shard, rules_of
from trimtab.data.curate.text import conversation, normalise
from trimtab.data.curate.work import Work
from trimtab.data.formats import read_prompts


@dataclass(frozen=True)
class Labels:
    """Use cases of all clean prompts, as indices into ``names`` (-1: unknown), and where they are from.

    ``predictable`` are the classifier's labels (none: nothing was predicted), ``sure`` its mean probability where it had to predict;
    ``own`` says which prompts came with a label, ``weights`` are by use case, where they are asked for.
    """

    names: list[str]
    case: NDArray[np.int64]
    own: NDArray[np.bool_]
    predictable: list[str] = field(default_factory=list)
    quality: use_cases.Quality | None = None
    examples: int = 0
    sure: float = 0.0
    weights: dict[str, float] | None = None


def label(corpus: Corpus, fates: Fates, work: Work) -> Labels:
    """Learns from the labelled prompts that are kept, and from ``use_cases.examples``, and predicts the others' use cases.

    With ``mix=sample``, prompts beyond their use case's share are left out.

    Raises:
        UserError: that would leave none.
    """
    wanted = work.settings.use_cases
    own = np.array([bool(name) for name in corpus.cases], np.bool_)[corpus.case]
    texts, labels, apart = _examples(corpus, fates.kept & own, work)
    blank = fates.kept & ~own
    classifier = quality = None
    case = np.array([-1] * len(corpus), np.int64)
    sure = 0.0
    if wanted.predict and blank.any() and len(set(labels)) > 1 and len(labels) >= use_cases.FEWEST_EXAMPLES:
        classifier, quality = use_cases.train(texts, labels, work.settings.seed, apart)
        case, probability = _predict(corpus, classifier, work)
        sure = float(probability[blank].mean())
    predictable = list(classifier.labels) if classifier else []
    names = sorted({*corpus.cases, *predictable} - {""})
    foretold = np.array([*(names.index(name) for name in predictable), -1], np.int64)[case]  # the last stands for "not predicted"
    stated = np.array([names.index(name) if name else -1 for name in corpus.cases], np.int64)[corpus.case]
    known = np.where(own, stated, foretold)
    target = {use_cases.canonical(name): share for name, share in wanted.target.items()}
    rows = np.flatnonzero(fates.kept)
    if wanted.mix == "sample":
        order = draw_order(work.settings.seed, "mix", corpus.ids[rows])
        drawn = use_cases.sample(known[rows], order, names, target)
        if len(rows) and not drawn.any():
            found = f"they have {', '.join(names[:12])}" if names else "they have none, and too few to learn from"
            raise UserError(f"use_cases.mix=sample would leave nothing: no prompt has a use case of use_cases.target ({found})")
        fates.leave(rows[~drawn], "mix")
    counts = {name: int((known[rows] == k).sum()) for k, name in enumerate(names)}
    weights = use_cases.weights(counts, target) if wanted.mix == "weight" else None
    return Labels(names, known, own, predictable, quality, min(len(labels), use_cases.MOST_EXAMPLES), sure, weights)


def _examples(corpus: Corpus, labelled: NDArray[np.bool_], work: Work) -> tuple[list[str], list[str], list[str]]:
    """Texts, labels and users of the labelled prompts (a seeded sample of them) and of the files of examples."""
    texts, labels, apart = [], [], []
    rules = rules_of(work.settings)
    rows = np.flatnonzero(labelled)
    order = draw_order(work.settings.seed, "examples", corpus.ids[rows])
    for row in rows[np.argsort(order, kind="stable")][: use_cases.MOST_EXAMPLES].tolist():
        mine = corpus.users[corpus.user_starts[row] : corpus.user_starts[row + 1]]
        texts.append(corpus.texts[row])
        labels.append(corpus.cases[corpus.case[row]])
        apart.append(str(mine[0]) if len(mine) else f"prompt {row}")
    for file in work.settings.use_cases.examples:
        for prompt in read_prompts(file):
            if prompt.use_case:
                texts.append(normalise(conversation(prompt.to_json())))
                labels.append(use_cases.canonical(prompt.use_case))
                user = personal.pseudonym("user", prompt.user or "", rules)  # as among the prompts that are curated
                apart.append(str(hash64(user)) if user else f"{file} {prompt.id}")
    return texts, labels, apart


def _predict(corpus: Corpus, classifier: use_cases.Classifier, work: Work) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Label (-1: the prompt has its own) and probability of every clean prompt."""
    path = work.folder / "classifier.safetensors"
    classifier.save(path)
    work.each_of("label", label_shard, len(corpus.shards), len(corpus), classifier=str(path), labels=list(classifier.labels))
    found = [shard.load("labels") for shard in corpus.shards]
    return np.concatenate([part["label"] for part in found]), np.concatenate([part["probability"] for part in found])
