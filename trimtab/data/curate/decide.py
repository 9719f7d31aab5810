"""What becomes of each clean prompt, decided over all of them: contamination, duplicates, users' limits, the mix, the split.

Everything here is arrays of some 400 bytes a prompt; texts are read from their files for candidate pairs alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.data.curate.caps import cap, draw_order
from trimtab.data.curate.duplicates import Duplicates, Marks, mark, resolve
from trimtab.data.curate.hashing import hash64
from trimtab.data.curate.settings import CurateSettings
from trimtab.data.curate.shards import EVALUATION, FATES
from trimtab.data.curate.splits import SPLITS, Split, split
from trimtab.data.curate.store import Shard, Texts
from trimtab.records import JSON

I64 = NDArray[np.int64]


@dataclass
class Corpus:
    """All clean prompts, by arrays, in the order of the files; ``starts[k]`` is the first prompt of shard k."""

    shards: list[Shard]
    starts: I64
    marks: Marks
    texts: Texts
    id_texts: Texts
    ids: NDArray[np.uint64]
    users: NDArray[np.uint64]
    user_starts: I64
    overlap: I64
    words: I64
    source: I64
    case: I64
    sources: list[str]
    cases: list[str]

    def __len__(self) -> int:
        return len(self.ids)


def load_corpus(shards: Sequence[Shard], reports: Sequence[Mapping[str, Any]]) -> Corpus:
    """Joins the arrays that ``clean_shard`` wrote."""
    parts = [shard.load("arrays") for shard in shards]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in ("ids", "users", "user_counts", "overlap", "words")}
    sources, source = _coded([part["source"] for part in parts], [report["source_names"] for report in reports])
    cases, case = _coded([part["case"] for part in parts], [report["case_names"] for report in reports])
    return Corpus(
        list(shards), np.cumsum([0, *(len(part["ids"]) for part in parts)]),
        Marks.join([Marks(part["exact"], part["prefix"], part["signed"], part["bands"]) for part in parts]),
        Texts((shard.path("texts"), part["text_ends"]) for shard, part in zip(shards, parts, strict=True)),
        Texts((shard.path("ids"), part["id_ends"]) for shard, part in zip(shards, parts, strict=True)),
        whole["ids"], whole["users"], np.cumsum([0, *whole["user_counts"]]), whole["overlap"], whole["words"], source, case, sources, cases,
    )  # fmt: skip


def _coded(parts: Sequence[I64], names: Sequence[Sequence[str]]) -> tuple[list[str], I64]:
    """Numbers into each part's names as numbers into all names."""
    known = sorted({name for some in names for name in some})
    place = {name: at for at, name in enumerate(known)}
    codes = [np.array([place[name] for name in some], np.int64)[part] for part, some in zip(parts, names, strict=True)]
    return known, np.concatenate(codes)


class Both(Sequence[str]):
    """The evaluation prompts' texts, then the corpus's own."""

    def __init__(self, first: Sequence[str], then: Sequence[str], rows: I64) -> None:
        self._first, self._then, self._rows = first, then, rows

    def __len__(self) -> int:
        return len(self._first) + len(self._rows)

    def __getitem__(self, at: Any) -> Any:
        return self._first[at] if at < len(self._first) else self._then[int(self._rows[at - len(self._first)])]


@dataclass
class Fates:
    """For each clean prompt: what becomes of it (an index into ``FATES``), and where it duplicates another, which and how alike.

    ``of`` is a prompt's index, or -2 - k for evaluation prompt k, or -1; ``group`` links near-duplicates.
    """

    fate: NDArray[np.int8]
    of: I64
    similarity: NDArray[np.float32]
    group: I64

    def leave(self, rows: NDArray[Any], fate: str) -> None:
        self.fate[rows] = FATES.index(fate)

    @property
    def kept(self) -> NDArray[np.bool_]:
        return self.fate == 0


def find_fates(corpus: Corpus, evaluation: Sequence[str], settings: CurateSettings) -> Fates:
    """Contaminated prompts, then duplicates of each other and of evaluation prompts (normalised texts)."""
    n, tests = len(corpus), len(evaluation)
    out = Fates(np.zeros(n, np.int8), np.full(n, -1, np.int64), np.zeros(n, np.float32), np.arange(n))
    shared = corpus.overlap >= 0
    out.leave(shared, EVALUATION)
    out.of[shared] = -2 - corpus.overlap[shared]
    rows = np.flatnonzero(~shared)
    marks = Marks.join([mark(evaluation, settings.duplicates), _take(corpus.marks, rows)])
    found = resolve(marks, Both(evaluation, corpus.texts, rows), settings.duplicates, protected=tests)
    _note(out, found, rows, tests)
    return out


def _note(out: Fates, found: Duplicates, rows: I64, tests: int) -> None:
    """Writes down the duplicates among ``tests`` evaluation prompts and the prompts ``rows``."""
    of, kind = found.of[tests:], found.kind[tests:]
    repeated = of >= 0
    out.similarity[rows[repeated]] = found.similarity[tests:][repeated]
    tested, other = repeated & (of < tests), repeated & (of >= tests)
    out.leave(rows[tested], EVALUATION)
    out.of[rows[tested]] = -2 - of[tested]
    out.fate[rows[other]] = 2 + kind[other]  # FATES: kept, evaluation, then the kinds of duplicates
    out.of[rows[other]] = rows[of[other] - tests]
    out.group[rows] = found.group[tests:]
    out.group[out.fate == FATES.index(EVALUATION)] = -1


def _take(marks: Marks, rows: I64) -> Marks:
    where = np.full(len(marks.exact), -1, np.int64)
    where[rows] = np.arange(len(rows))
    signed = where[marks.signed]
    return Marks(marks.exact[rows], marks.prefix[rows], signed[signed >= 0], marks.bands[signed >= 0])


def users_of_rows(corpus: Corpus, rows: NDArray[np.bool_]) -> tuple[NDArray[np.uint64], I64]:
    """The users of some prompts as ``caps`` and ``splits`` take them: all end to end, and where each prompt's begin."""
    counts = np.diff(corpus.user_starts)
    return corpus.users[np.repeat(rows, counts)], np.cumsum([0, *counts[rows]])


def apply_caps(corpus: Corpus, fates: Fates, settings: CurateSettings) -> JSON:
    """Leaves out what is too much of a user; returns counts of users."""
    rows = fates.kept
    users, starts = users_of_rows(corpus, rows)
    named = [corpus.sources.index(name) for name in settings.users.exempt if name in corpus.sources]
    exempt = np.isin(corpus.source[rows], named)
    order = draw_order(settings.seed, "cap", corpus.ids[rows])
    fates.leave(np.flatnonzero(rows)[~cap(users, starts, order, settings.users.most, exempt)], "cap")
    counts = np.unique(users, return_counts=True)[1]
    limited = np.unique(users[np.repeat(~exempt, np.diff(starts))], return_counts=True)[1]
    return {
        "users": len(counts), "most_of_a_user": int(counts.max(initial=0)),
        "over_the_limit": int((limited > settings.users.most).sum()) if settings.users.most else 0,
    }  # fmt: skip


def deal(corpus: Corpus, fates: Fates, settings: CurateSettings) -> tuple[Split, NDArray[np.int8]]:
    """The split of the prompts that are kept, and of every clean prompt (an index into ``SPLITS``, -1: left out)."""
    kept = fates.kept
    dealt = split(*users_of_rows(corpus, kept), fates.group[kept], [getattr(settings.split, name) for name in SPLITS], settings.seed)
    at = np.full(len(corpus), -1, np.int8)
    at[kept] = dealt.of
    return dealt, at


def new_names(corpus: Corpus, kept: NDArray[np.bool_]) -> dict[int, str]:
    """Another id for kept prompts whose id an earlier kept one has: ``ID~2``, ``ID~3``, ..., the first that nobody has."""
    rows = np.flatnonzero(kept)
    taken = set(corpus.ids[rows].tolist())
    order = rows[np.argsort(corpus.ids[rows], kind="stable")]
    out: dict[int, str] = {}
    seen, last = 1, None
    for row, key in zip(order.tolist(), corpus.ids[order].tolist(), strict=True):
        seen = seen + 1 if key == last else 1
        last = key
        if seen > 1:
            while hash64(name := f"{corpus.id_texts[row]}~{seen}") in taken:
                seen += 1
            out[row] = name
            taken.add(hash64(name))
    return out


def write_decisions(corpus: Corpus, fates: Fates, at: NDArray[np.int8], names: Mapping[int, str], evaluation: Sequence[str]) -> None:
    """Each shard's part of the decisions, for ``finish_shard``; ``evaluation`` are the evaluation prompts' ids.

    ``notes`` are fields to change, by row: of the record where a prompt is kept, of its left-out line otherwise.
    """
    for number, shard in enumerate(corpus.shards):
        begin, end = int(corpus.starts[number]), int(corpus.starts[number + 1])
        shard.save("decided", {"fate": fates.fate[begin:end], "split": at[begin:end]})
        notes: dict[str, JSON] = {str(row - begin): {"id": names[row]} for row in range(begin, end) if row in names}
        for row in (begin + np.flatnonzero(fates.of[begin:end] != -1)).tolist():
            of, alike = int(fates.of[row]), round(float(fates.similarity[row]), 3)
            other = names.get(of, corpus.id_texts[of]) if of >= 0 else evaluation[-2 - of]
            notes[str(row - begin)] = {"duplicate_of": other} | ({"similarity": alike} if alike else {})
        shard.write_lines("notes", [notes])
