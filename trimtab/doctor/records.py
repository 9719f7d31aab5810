"""What stands in the data file, whatever the model: rows, empty and broken texts, repetitions, prompts of the test set."""

import re
from collections.abc import Callable, Sequence

import numpy as np

from trimtab.data.formats.account import many
from trimtab.doctor.check import Group, NotApplicable, Result, fail, judged, ok, warning
from trimtab.doctor.subject import Subject
from trimtab.doctor.survey import NGRAM, Survey, ngrams, prompt_key, prompt_of, repeats, words_of
from trimtab.records import Comparison, Demonstration, Record

GROUP = Group("Data")
# A fault that is in more than this share of the records, and in as many of them, is no slip.
GRAVE, SEVERAL = 0.01, 3
# Control characters, the character for what could not be decoded, private use, and UTF-8 that was read as Latin-1 (é as Ã©, ' as â€™).
BROKEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd\ue000-\uf8ff]|[ÃÂ][\x80-\xbf]|â€[\u0090-\u00ff\u2018-\u2122\u0153]")
LETTER_OR_DIGIT = re.compile(r"[^\W_]")
MANY_REPEATS = 0.2


def needed(s: Subject) -> Survey:
    """The data, if there are records in it."""
    if not s.data.total:
        raise NotApplicable("no record could be read")
    return s.data


def share(name: str, count: int, total: int, example: str = "") -> str:
    """``3 of 480 records have ... (0.6 %)``, or ``none of 480 records have ...``."""
    if not count:
        return f"none of {total:,} {name}"
    return f"{count:,} of {total:,} {name} ({100 * count / total:.1f} %)" + (f": {example}" if example else "")


def faults(records: Sequence[Record], wrong: Callable[[Record], str], what: str, *, clean: str, grave: float = GRAVE) -> Result:
    """``what`` is wrong with the records that ``wrong`` says something of: a warning where there are any, a failure above ``grave``."""
    found = [(prompt_of(record), said) for record in records if (said := wrong(record))]
    count, total = len(found), len(records)
    example = f"{found[0][0].id}: {found[0][1]}" if found else ""
    text = share(f"records {what}", count, total, example) if count else clean
    return judged(text, bad=count > 0, grave=count >= SEVERAL and count > grave * total, count=count, records=total)


@GROUP.check(
    "rows",
    means="A row that cannot be read ends a training run before it begins; a row of an unexpected format is read as something else.",
    do="See them all with trimtab data check FILE, mend or remove them, or name the file's own fields: fields={prompt: question}.",
)
def rows(s: Subject) -> Result:
    data = s.data
    kinds = ", ".join(many(n, kind) for kind, n in data.kinds.most_common()) or "no records"
    formats = ", ".join(data.formats) or "none"
    if not data.rows:
        return fail("the file holds no rows", "Give a file that has some.", bad=0, rows=0)
    if data.bad_rows or not data.total:
        first = f": {data.errors[0]}" if data.errors else ""
        return fail(f"{data.bad_rows:,} of {many(data.rows, 'row')} cannot be read{first}", bad=data.bad_rows, rows=data.rows)
    mixed = len(data.kinds) > 1
    return judged(f"{many(data.rows, 'row')}, {kinds} (format {formats})", bad=mixed, grave=False, bad_rows=0, rows=data.rows)


@GROUP.check(
    "empty answers",
    means="An empty answer that is trained, or preferred, teaches the model to say nothing: it ends at once.",
    do="Remove these records, or look at how the file was made: often the answer stands in another field.",
)
def empty_answers(s: Subject) -> Result:
    def wrong(record: Record) -> str:
        if isinstance(record, Demonstration) and not record.completion.strip():
            return "the answer is empty"
        if isinstance(record, Comparison):
            if all(not c.text.strip() for c in record.completions):
                return "all answers are empty"
            if record.pairs() and any(not text.strip() for text in best_texts(record)):
                return "an empty answer is the best"
        return ""

    records = [r for r in needed(s).records if isinstance(r, Demonstration | Comparison)]
    if not records:
        raise NotApplicable("prompts only")
    rejected = sum(not worse.text.strip() for _, _, worse in s.data.pairs)
    note = f"none is trained or ranked best{f' ({rejected:,} pairs reject one)' if rejected else ''}"
    return faults(records, wrong, "teach an empty answer", clean=note)


@GROUP.check(
    "near-empty prompts",
    means="A prompt without a word asks for nothing: what the model learns from it is to guess.",
    do="Remove them, or look at whether the question stands in another field (fields={prompt: ...}).",
)
def near_empty_prompts(s: Subject) -> Result:
    def wrong(record: Record) -> str:
        said = "".join(m.content for m in prompt_of(record).messages if m.role != "system")
        return "" if LETTER_OR_DIGIT.search(said) else f"it says {said.strip()[:20]!r}"

    return faults(needed(s).records, wrong, "ask nothing", clean="every prompt has letters or digits")


@GROUP.check(
    "broken characters",
    means="Control characters, characters that could not be decoded, and UTF-8 read as Latin-1 are learnt like any other text.",
    do="Read the source again as UTF-8, and write the file anew; ftfy mends text that was decoded wrongly.",
)
def broken_characters(s: Subject) -> Result:
    def wrong(record: Record) -> str:
        for text in good_texts(record):
            if match := BROKEN.search(text):
                return f"{text[max(0, match.start() - 8) : match.end() + 8]!r}"
        return ""

    return faults(needed(s).records, wrong, "hold broken characters", clean="none found", grave=0.1)


@GROUP.check(
    "duplicate records",
    means="A record that stands twice counts twice; one that stands in training and evaluation makes the evaluation worthless.",
    do="Remove all but one before the file is split; of prompts trimtab curate does it.",
)
def duplicate_records(s: Subject) -> Result:
    data = needed(s)
    count = repeats(data.record_keys)
    found = share("records of the file came before, word for word", count, data.total)
    return judged(found, bad=count > GRAVE * data.total, grave=False, count=count, records=data.total)


@GROUP.check(
    "repeated prompts",
    means="A prompt that comes again and again takes the place of others; with several answers to one prompt, split by prompt, not by row.",
    do="Keep one record of each prompt, or cap how often one may come; for comparisons join the answers of a prompt into one ranking.",
)
def repeated_prompts(s: Subject) -> Result:
    data = needed(s)
    count = repeats(data.prompt_keys)
    distinct = data.total - count
    compared = data.kinds["comparison"] > data.total / 2
    found = f"{distinct:,} distinct prompts in the file's {data.total:,} records"
    several = compared and data.total <= 10 * distinct  # several labelers, several pairs of answers: as it should be
    return judged(found, bad=count > MANY_REPEATS * data.total and not several, grave=False, distinct=distinct, records=data.total)


@GROUP.check(
    "test prompts",
    means="A prompt of the test set that is trained on makes the test a test of memory.",
    do="Remove these records from the training data, and split by prompt (or by user) before anything else.",
)
def test_prompts(s: Subject) -> Result:
    data = needed(s)
    if not s.config.test:
        raise NotApplicable("give test=FILE to look for its prompts in the data")
    wanted = np.unique(np.array([prompt_key(p) for p in data.test_prompts], dtype=np.uint64))
    hits = int(np.isin(np.frombuffer(data.prompt_keys, dtype=np.uint64), wanted).sum())
    if hits:
        return fail(share("records of the file have a test prompt", hits, data.total), exact=hits, records=data.total)
    known = {gram for p in data.test_prompts for gram in ngrams(words_of(p))}
    near = sum(_mostly(list(ngrams(words_of(p))), known) for p in data.prompts)
    tested = f"none of {len(wanted):,} test prompts stands in the file"
    if near:
        found = share("drawn records repeat most of one", near, len(data.prompts))
        return warning(f"{tested}, but {found}: by {NGRAM} words in a row", exact=0, near=near)
    return ok(f"{tested}, nor most of one in {data.drawn}", exact=0, near=0)


def _mostly(grams: Sequence[object], known: set[tuple[str, ...]]) -> bool:
    """Whether half of ``grams`` or more are known."""
    return bool(grams) and 2 * sum(gram in known for gram in grams) >= len(grams)


def best_texts(record: Comparison) -> list[str]:
    """The answers with the best rank."""
    best = min((rank for rank in record.ranks if rank is not None), default=None)
    return [c.text for c, rank in zip(record.completions, record.ranks, strict=True) if rank is not None and rank == best]


def good_texts(record: Record) -> list[str]:
    """What a model reads and learns to write; a rejected answer may be anything."""
    answers = [record.completion] if isinstance(record, Demonstration) else []
    answers += best_texts(record) if isinstance(record, Comparison) else []
    return [*(m.content for m in prompt_of(record).messages), *answers]
