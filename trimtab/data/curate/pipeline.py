"""All steps of curation, one after another: files of raw prompts -> train, validation and test, what was left out, and the card.

    read -> length, language -> personal data -> evaluation sets, duplicates -> users' limits -> use cases -> split -> write, card

Single prompts are worked on a shard at a time (``shards``), in as many processes as are given, or under Ray; what concerns all prompts
is decided on arrays in this process (``decide``). The same files, settings and seed give the same bytes, however the work was spread.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from trimtab.common.config import dump
from trimtab.common.errors import UserError
from trimtab.common.files import atomic_write, check_writable
from trimtab.data.curate import card, personal
from trimtab.data.curate.decide import apply_caps, deal, find_fates, load_corpus, new_names, write_decisions
from trimtab.data.curate.evaluation import Evaluation
from trimtab.data.curate.filters import check_languages
from trimtab.data.curate.labels import label
from trimtab.data.curate.names import short_names
from trimtab.data.curate.settings import CurateSettings
from trimtab.data.curate.shards import clean_shard, finish_shard, rules_of
from trimtab.data.curate.splits import SPLITS
from trimtab.data.curate.spread import Job, Runner
from trimtab.data.curate.store import Shard
from trimtab.data.curate.text import conversation, normalise
from trimtab.data.curate.work import Work, work_folder
from trimtab.data.files.hub import is_hub
from trimtab.data.formats import as_kind, only_looking, read_prompts, scan
from trimtab.records import JSON, Prompt

ROWS = 10_000
"""Rows of a shard."""
DEFAULTS = CurateSettings()


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
    if settings.language.keep:
        check_languages(settings.language)
    with work_folder(out) as folder:
        work = Work(folder, settings, workers, runner, rows)
        tests, test_ids = evaluation_texts(settings)
        if tests:
            Evaluation.of(tests, settings.evaluation.ngram).save(folder / "evaluation.npz")
        reports = work.each("clean", clean_shard, clean_jobs(tags, work, bool(tests)))
        if not reports:
            raise UserError(f"{', '.join(tags)}: no rows; needed files of prompts")
        corpus = load_corpus([Shard(folder, number) for number in range(len(reports))], reports)
        fates = find_fates(corpus, tests, settings)
        users = apply_caps(corpus, fates, settings)
        labels = label(corpus, fates, work)
        split, at = deal(corpus, fates, settings)
        renamed = new_names(corpus, fates.kept)
        write_decisions(corpus, fates, at, renamed, test_ids)
        finish = {"labels": labels.predictable, "weights": labels.weights, "reasons": reasons(settings)}
        work.each_of("write", finish_shard, len(corpus.shards), sum(report["rows"] for report in reports), **finish)
        for name in (*SPLITS, "left_out"):
            join([shard.path(name) for shard in corpus.shards], out / f"{name}.jsonl")
        return card.write(card.Facts(tags, out, settings, reports, corpus, fates, users, labels, split, at, len(tests), len(renamed)))


def source_tags(files: Sequence[Path | str], settings: CurateSettings) -> dict[str, str]:
    """The tag that prompts of each file get when they have none: from ``sources`` by path or name, or the file's name without endings.

    Raises:
        UserError: there is no file, one is given twice, or ``sources`` names another.
    """
    if not files:
        raise UserError("curate needs files of prompts: trimtab curate FILE... -o DIR")
    out: dict[str, str] = {}
    for file in map(str, files):
        if file in out:
            raise UserError(f"{file}: is given twice; give each file once")
        if not is_hub(file) and not Path(file).exists():
            raise UserError(f"{file}: no such file")
        out[file] = ""
    for file, name in short_names(out).items():
        folder, _, last = name.rpartition("/")
        own = last.split(".")[0] or last
        out[file] = settings.sources.get(file) or settings.sources.get(Path(file).name) or (f"{folder}/{own}" if folder else own)
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
    """Every row of every file: a prompt, or why there is none.

    Raises:
        UserError: a file has rows, and none of them is a prompt.
    """
    names, reading = short_names(tags), only_looking(settings)
    for file, tag in tags.items():
        rows, prompts, first = 0, 0, None
        for found in scan(file, reading):
            where = f"{names[file]}{found.where.removeprefix(file)}"
            rows += 1
            if not found.records:
                first = first or found.error
                # not its text, which has the row's values in it
                yield {"where": where, "source": tag, "error": "no prompt in this row" if found.error is None else found.error.reason}
            for record in found.records:
                prompt = as_kind(record, "prompt", found).to_json()
                prompts += 1
                answered = not isinstance(record, Prompt)
                yield {"where": where, "source": prompt.setdefault("source", tag), "record": prompt, "answered": answered}
        if rows and not prompts:
            shared = " (fields.* holds for every file: bring this one into form first, trimtab data convert)" if len(tags) > 1 else ""
            raise UserError(f"{file}: none of its {rows:,} rows is a prompt{f'; the first: {first}' if first else ''}{shared}")


def reasons(settings: CurateSettings) -> dict[str, str]:
    """What ``left_out.jsonl`` says of each step that is decided over all prompts."""
    return {
        "evaluation": f"repeats an evaluation prompt: the same, nearly, or {settings.evaluation.ngram} words in a row",
        "exact": "the same text as another prompt",
        "prefix": "a long common prefix with another prompt",
        "near": "nearly the words of another prompt",
        "cap": f"its user has more than {settings.users.most} prompts",
        "mix": "more than its use case's share, or of no use case of the target",
    }


def join(parts: Sequence[Path], path: Path) -> None:
    """The files ``parts`` end to end."""
    with atomic_write(path) as temporary, open(temporary, "wb") as f:
        for part in parts:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, f)


