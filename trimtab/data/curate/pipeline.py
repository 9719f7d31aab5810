"""All steps of curation, one after another: files of raw prompts -> train, validation and test, what was left out, and the card.

    read -> length, language -> personal data -> evaluation sets, duplicates -> users' limits -> use cases -> split -> write, card

Single prompts are worked on a shard at a time (``shards``), in as many processes as are given, or under Ray; what concerns all prompts
is decided on arrays in this process (``decide``). The same files, settings and seed give the same bytes, however the work was spread.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.common.config import dump
from trimtab.common.errors import UserError
from trimtab.common.files import atomic_write, check_writable
from trimtab.common.progress import Progress
from trimtab.data.curate import card, personal, use_cases
from trimtab.data.curate.caps import draw_order
from trimtab.data.curate.decide import (
    Corpus,
    Fates,
    apply_caps,
    find_fates,
    load_corpus,
    new_names,
    users_of_rows,
    write_decisions,
)  # fmt: skip
from trimtab.data.curate.evaluation import Evaluation
from trimtab.data.curate.filters import check_languages
from trimtab.data.curate.settings import CurateSettings
from trimtab.data.curate.shards import clean_shard, finish_shard, label_shard, rules_of
from trimtab.data.curate.splits import SPLITS, Split, split
from trimtab.data.curate.spread import Job, Runner, on_shards
from trimtab.data.curate.store import Shard
from trimtab.data.curate.text import conversation, normalise
from trimtab.data.formats import DEFAULT, as_kind, read_prompts, scan
from trimtab.records import JSON

ROWS = 10_000
"""Rows of a shard."""
DEFAULTS = CurateSettings()


@dataclass(frozen=True)
class Work:
    """Where shards lie and who works on them."""

    folder: Path
    settings: CurateSettings
    workers: int
    runner: Runner
    rows: int

    def each(self, title: str, function: Callable[[Job], Any], jobs: Iterable[Job], total: int = 0) -> list[Any]:
        """``function`` of every job, with a progress line."""
        out = []
        with Progress(title, total, "shards") as bar:
            for result in on_shards(function, jobs, self.workers, self.runner):
                out.append(result)
                bar.advance()
        return out


def curate(
    files: Sequence[Path | str], out: Path | str, settings: CurateSettings = DEFAULTS, *, workers: int = 1,
    runner: Runner = "processes", rows: int = ROWS,
) -> JSON:  # fmt: skip
    """Curates the prompts of ``files`` into the folder ``out`` and returns the card.

    Writes ``train.jsonl``, ``validation.jsonl``, ``test.jsonl``, ``left_out.jsonl``, ``card.json`` and ``card.md``. With more than one
    worker processes are started, so the caller's script must be importable (``if __name__ == "__main__":``).

    Raises:
        UserError: a file or setting is wrong, an extra is not installed, or the folder cannot be written.
    """
    out = Path(out)
    check_writable(out / "card.json", overwrite=True)
    tags = source_tags(files, settings)
    rules_of(settings)
    if settings.language.keep:
        check_languages(settings.language)
    with work_folder(out) as folder:
        work = Work(folder, settings, workers, runner, rows)
        tests, test_ids = evaluation_texts(settings)
        if tests:
            Evaluation.of(tests, settings.evaluation.ngram).save(folder / "evaluation.npz")
        reports = work.each("clean", clean_shard, clean_jobs(tags, work, bool(tests)))
        if not reports:
            raise UserError(f"{', '.join(map(str, files))}: no rows; needed files of prompts")
        shards = [Shard(folder, number) for number in range(len(reports))]
        corpus = load_corpus(shards, reports)
        fates = find_fates(corpus, tests, settings)
        users = apply_caps(corpus, fates, settings)
        labels = label(corpus, fates, work)
        mixed = mix(corpus, fates, labels, settings)
        dealt = deal(corpus, fates, settings)
        at = np.full(len(corpus), -1, np.int8)
        at[fates.kept] = dealt.of
        renamed = new_names(corpus, fates.kept)
        write_decisions(corpus, fates, at, renamed, test_ids)
        reasons = {
            "evaluation": f"repeats an evaluation prompt: the same, nearly, or {settings.evaluation.ngram} words in a row",
            "exact": "the same text as another prompt", "prefix": "a long common prefix with another prompt",
            "near": "nearly the words of another prompt", "cap": f"its user has more than {settings.users.most} prompts",
            "mix": "more than its use case's share",
        }  # fmt: skip
        common = {"folder": str(folder), "labels": labels.names, "weights": mixed.weights, "reasons": reasons}
        work.each("write", finish_shard, ({**common, "number": k} for k in range(len(shards))), len(shards))
        for name in (*SPLITS, "left_out"):
            join([shard.path(name) for shard in shards], out / f"{name}.jsonl")
        facts = card.Facts(
            files=tags, out=out, settings=settings, reports=reports, corpus=corpus, fates=fates, split=dealt, at=at, users=users,
            case=mixed.case, cases=mixed.names, quality=labels.quality, examples=labels.examples, sure=labels.sure, weights=mixed.weights,
            tests=len(tests), renamed=len(renamed),
        )  # fmt: skip
        return card.write(facts)


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """A folder for shards inside ``out``, removed afterwards; one that a killed run left is removed first."""
    for old in out.glob(".work-*"):
        shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=".work-", dir=out))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def source_tags(files: Sequence[Path | str], settings: CurateSettings) -> dict[str, str]:
    """The tag that prompts of each file get when they have none: from ``sources`` by path or name, or the file's name without endings.

    Raises:
        UserError: there is no file, one is given twice, or ``sources`` names another.
    """
    if not files:
        raise UserError("curate needs files of prompts: trimtab curate FILE... -o DIR")
    out: dict[str, str] = {}
    for file in files:
        name = Path(file).name
        if str(file) in out:
            raise UserError(f"{file}: is given twice; give each file once")
        if not Path(file).exists():
            raise UserError(f"{file}: no such file")
        out[str(file)] = settings.sources.get(str(file)) or settings.sources.get(name) or name.split(".")[0]
    known = {*out, *(Path(file).name for file in out)}
    if unknown := [name for name in settings.sources if name not in known]:
        raise UserError(f"sources names '{unknown[0]}', which is none of the files ({', '.join(out)})")
    return out


def evaluation_texts(settings: CurateSettings) -> tuple[list[str], list[str]]:
    """The normalised texts of all evaluation prompts, personal data replaced as in the prompts, and their ids."""
    texts, ids = [], []
    rules = rules_of(settings)
    for file in settings.evaluation.files:
        for prompt in read_prompts(file):
            texts.append(normalise(personal.redact(conversation(prompt.to_json()), rules)))
            ids.append(f"{Path(file).name}: {prompt.id}")
    return texts, ids


def clean_jobs(tags: dict[str, str], work: Work, tested: bool) -> Iterator[Job]:
    """Writes the files' rows as shards of native records and yields the job of each as soon as it is written."""
    common = {"folder": str(work.folder), "settings": dump(work.settings)}
    common |= {"evaluation": str(work.folder / "evaluation.npz")} if tested else {}
    rows: list[JSON] = []
    number = 0
    for row in raw_rows(tags, work.settings):
        rows.append(row)
        if len(rows) == work.rows:
            Shard(work.folder, number).write_lines("raw", rows)
            yield {**common, "number": number}
            rows, number = [], number + 1
    if rows:
        Shard(work.folder, number).write_lines("raw", rows)
        yield {**common, "number": number}


def raw_rows(tags: dict[str, str], settings: CurateSettings) -> Iterator[JSON]:
    """Every row of every file: a prompt, or why there is none."""
    for file, tag in tags.items():
        for found in scan(file, settings):
            where = f"{Path(file).name}{found.where.removeprefix(file)}"
            if found.error is not None:
                yield {"where": where, "source": tag, "error": str(found.error).removeprefix(f"{found.where}: ")}
            elif not found.records:
                yield {"where": where, "source": tag, "error": "no prompt in this row"}
            for record in found.records:
                prompt = as_kind(record, "prompt", found).to_json()
                yield {"where": where, "source": prompt.setdefault("source", tag), "record": prompt}


def join(parts: Sequence[Path], path: Path) -> None:
    """The files ``parts`` end to end."""
    with atomic_write(path) as temporary, open(temporary, "wb") as f:
        for part in parts:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, f)


# ---- use cases -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels:
    """The classifier's labels (none: nothing was predicted), what it predicts for each clean prompt, and how right it is."""

    names: list[str]
    predicted: NDArray[np.int64] | None = None
    quality: use_cases.Quality | None = None
    examples: int = 0
    sure: float = 0.0  # its mean probability where it had to predict


def label(corpus: Corpus, fates: Fates, work: Work) -> Labels:
    """Learns use cases from the labelled prompts that are kept (and ``use_cases.examples``) and predicts the others'."""
    settings = work.settings
    blank = corpus.cases.index("") if "" in corpus.cases else -1
    if not settings.use_cases.predict or not (fates.kept & (corpus.case == blank)).any():
        return Labels([])
    texts, labels, apart = [], [], []
    rows = np.flatnonzero(fates.kept & (corpus.case != blank))
    order = draw_order(settings.seed, "examples", corpus.ids[rows])
    for row in rows[np.argsort(order, kind="stable")][: use_cases.MOST_EXAMPLES].tolist():
        mine = corpus.users[corpus.user_starts[row] : corpus.user_starts[row + 1]]
        texts.append(corpus.texts[row])
        labels.append(corpus.cases[corpus.case[row]])
        apart.append(str(mine[0]) if len(mine) else f"prompt {row}")
    for file in settings.use_cases.examples:
        for prompt in read_prompts(file, DEFAULT):
            if prompt.use_case:
                texts.append(normalise(conversation(prompt.to_json())))
                labels.append(use_cases.canonical(prompt.use_case))
                apart.append(prompt.user or f"{file} {prompt.id}")
    if len(set(labels)) < 2 or len(labels) < use_cases.FEWEST_EXAMPLES:
        return Labels([], examples=len(labels))
    classifier, quality = use_cases.train(texts, labels, settings.seed, apart)
    path = work.folder / "classifier.safetensors"
    classifier.save(path)
    names, count = list(classifier.labels), len(corpus.shards)
    common = {"folder": str(work.folder), "classifier": str(path), "labels": names}
    work.each("label", label_shard, ({**common, "number": k} for k in range(count)), count)
    found = [shard.load("labels") for shard in corpus.shards]
    predicted, probability = (np.concatenate([part[name] for part in found]) for name in ("label", "probability"))
    sure = float(probability[fates.kept & (corpus.case == blank)].mean())
    return Labels(names, predicted, quality, min(len(labels), use_cases.MOST_EXAMPLES), sure)


@dataclass(frozen=True)
class Mix:
    """Use cases of all clean prompts, as indices into ``names`` (-1: unknown), and their weights, where weights are asked for."""

    names: list[str]
    case: NDArray[np.int64]
    weights: dict[str, float] | None


def mix(corpus: Corpus, fates: Fates, labels: Labels, settings: CurateSettings) -> Mix:
    """The use cases as they are; with ``mix=sample``, prompts beyond their case's share are left out."""
    names = sorted({*corpus.cases, *labels.names} - {""})
    known = np.array([names.index(name) if name else -1 for name in corpus.cases], np.int64)[corpus.case]
    if labels.predicted is not None:
        foretold = np.array([names.index(name) for name in labels.names])[labels.predicted]
        known = np.where(known < 0, foretold, known)
    target = {use_cases.canonical(name): share for name, share in settings.use_cases.target.items()}
    rows = np.flatnonzero(fates.kept)
    if settings.use_cases.mix == "sample":
        order = draw_order(settings.seed, "mix", corpus.ids[rows])
        fates.leave(rows[~use_cases.sample(known[rows], order, names, target)], "mix")
    if settings.use_cases.mix != "weight":
        return Mix(names, known, None)
    counts = {name: int((known[rows] == k).sum()) for k, name in enumerate(names)}
    return Mix(names, known, use_cases.weights(counts, target))


def deal(corpus: Corpus, fates: Fates, settings: CurateSettings) -> Split:
    """The split of the prompts that are kept."""
    users, starts = users_of_rows(corpus, fates.kept)
    shares = [getattr(settings.split, name) for name in SPLITS]
    return split(users, starts, fates.group[fates.kept], shares, settings.seed)


