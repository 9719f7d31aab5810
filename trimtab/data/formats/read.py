"""Files in any format -> native records: detected row by row, every row accounted for."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from trimtab.common.errors import RowError, UserError
from trimtab.common.progress import Progress
from trimtab.data.files.hub import is_hub
from trimtab.data.files.opening import suffix_of
from trimtab.data.files.rows import scan_rows
from trimtab.data.formats.account import HOPELESS, Account, LeftOut
from trimtab.data.formats.base import DEFAULT, ReadSettings
from trimtab.data.formats.convert import converted, renamed
from trimtab.data.formats.table import detect, nearly, refuse_unknown, suggestion
from trimtab.data.formats.tidy import from_cells, noticed
from trimtab.records import JSON, Comparison, Completion, Demonstration, Prompt, Record

NEEDS = {
    "prompt": "a prompt: 'messages' [{role, content}], or 'prompt'",
    "demonstration": "a demonstration: a prompt and 'completion', or 'messages' that end with the assistant",
    "comparison": "a comparison: a prompt, 'completions' [{text}] and 'ranks' [1 = best], or 'chosen' and 'rejected'",
}

# (kind found, kind needed) -> what makes the one of the other.
OTHER_WAYS: dict[tuple[str, str], str] = {
    ("comparison", "demonstration"): "; trimtab data convert FILE to=trl-prompt-completion makes them of the best answers",
}

# Fields by which a demonstration or a comparison is told from a prompt.
TELLING_FIELDS = ("completion", "completions", "ranks", "messages", "chosen", "rejected")

Kind = Literal["prompt", "demonstration", "comparison"]
R = TypeVar("R", Prompt, Demonstration, Comparison)
T = TypeVar("T")


class Skipped(Exception):
    """A row that can be read and gives nothing; the message says why."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one row of a file holds: records of a ``format``, or the error that says why not; ``row`` is what stood there."""

    where: str
    format: str = ""
    records: tuple[Record, ...] = ()
    error: RowError | None = None
    notes: tuple[str, ...] = ()
    row: Any = None


@dataclass(frozen=True, slots=True)
class Reading(Generic[R]):
    """Records of one kind, and an account of every row of their file."""

    records: list[R]
    account: Account

    @property
    def rows(self) -> int:
        return self.account.rows

    @property
    def formats(self) -> Mapping[str, int]:
        return self.account.formats

    @property
    def skipped(self) -> Mapping[str, int]:
        return self.account.skipped


def read_prompts(path: Path | str, settings: ReadSettings = DEFAULT) -> list[Prompt]:
    """Prompts; those of demonstrations and comparisons too. One that several labelers ranked is read once.

    Raises:
        UserError: the file is missing, or a row cannot be read.
    """
    return read(path, "prompt", settings).records


def read_demonstrations(path: Path | str, settings: ReadSettings = DEFAULT) -> list[Demonstration]:
    """Demonstrations; a row that is labelled as bad is none.

    Raises:
        UserError: the file is missing, or a row cannot be read or holds something else.
    """
    return read(path, "demonstration", settings).records


def read_comparisons(path: Path | str, settings: ReadSettings = DEFAULT) -> list[Comparison]:
    """Comparisons.

    Raises:
        UserError: the file is missing, or a row cannot be read or holds something else.
    """
    return read(path, "comparison", settings).records


def read_answers(path: Path | str, settings: ReadSettings = DEFAULT) -> list[Comparison]:
    """Every answer that a file of comparisons or demonstrations holds: a demonstration is a comparison of one answer, unranked.

    Raises:
        UserError: the file is missing, or a row cannot be read or is a prompt alone.
    """
    account = Account(path)
    answers = list(stream(path, settings, account, _answers))
    if not answers and not account.bad:
        raise UserError(f"{path}: holds no answers; needed {NEEDS['demonstration']}, or {NEEDS['comparison']}")
    if account.bad and not account.kept:
        account.raise_errors()
    return answers


def read_any(path: Path | str, settings: ReadSettings = DEFAULT) -> list[Record]:
    """Whatever records there are, in the order of the file.

    Raises:
        UserError: the file is missing, or a row cannot be read.
    """
    return read(path, None, settings).records


def read(path: Path | str, kind: Kind | None, settings: ReadSettings = DEFAULT) -> Reading[Any]:
    """Records of one kind (None: of any) with an account of the rows.

    Raises:
        UserError: the file is missing, a row cannot be read or holds something else, or there are no rows.
    """
    account = Account(path)
    records = list(stream(path, settings, account, only(kind)))
    if not account.rows and kind is not None:
        raise UserError(f"{path}: holds no rows; needed {NEEDS[kind]}")
    if account.bad and not account.kept:
        account.raise_errors()
    return Reading(records, account)


def stream(path: Path | str, settings: ReadSettings, account: Account, take: Callable[[Record, Found], Iterable[T]]) -> Iterator[T]:
    """What ``take`` makes of every record, one after another, while ``account`` is kept of the rows.

    ``take`` may raise ``Skipped`` or ``RowError``. Bad rows are counted to the file's end, which then raises; with
    ``settings.skip_bad`` they are written to a file of their own instead (see ``left_out_file``).

    Raises:
        UserError: the file is missing, or has bad rows and ``skip_bad`` is off, or nothing but bad rows for a long while.
    """
    with LeftOut(left_out_file(path, settings) if settings.skip_bad else None) as left_out, reading(path) as bar:
        for found in _to_the_end(path, settings, account):
            account.rows += 1
            bar.advance()
            try:
                items = _taken(found, account, take)
            except (RowError, Skipped) as error:
                row = error.row if isinstance(error, RowError) and error.row is not None else found.row
                reason = error.reason if isinstance(error, RowError) else str(error)
                left_out.add(found.where, reason, str(error), row)
                if isinstance(error, RowError):
                    account.refuse(error)
                    if account.bad >= HOPELESS and not account.kept:
                        account.raise_errors(ended=False)
                else:
                    account.skip(reason, found.where)
            else:
                account.kept += 1
                if settings.skip_bad or not account.bad:
                    yield from items
    if not settings.skip_bad:
        account.raise_errors()


def reading(path: Path | str) -> Progress:
    """The progress of a file's rows, for whoever waits."""
    return Progress(f"reading {path}", None, "rows", after=2.0)


def _to_the_end(path: Path | str, settings: ReadSettings, account: Account) -> Iterator[Found]:
    """``scan``, where a file that breaks off after some rows ends with the error as its last row."""
    try:
        yield from scan(path, settings)
    except UserError as error:
        if not account.rows:
            raise
        where, text = (error.where, error.text) if isinstance(error, RowError) else (str(path), str(error).removeprefix(f"{path}: "))
        yield Found(where, error=RowError(where, text, reason="the file cannot be read to its end"))


def _taken(found: Found, account: Account, take: Callable[[Record, Found], Iterable[T]]) -> list[T]:
    """What is taken of a row's records, and the counts of it."""
    if found.error is not None:
        raise found.error
    account.formats[found.format] += 1
    items: list[T] = []
    kinds: Counter[str] = Counter()
    reasons: list[str] = []
    notes = set(found.notes)
    for record in found.records:
        try:
            items += take(record, found)
        except Skipped as skipped:
            reasons.append(str(skipped))
        else:
            kinds[kind_of(record)] += 1
            notes.update(noticed(record))
            if isinstance(record, Prompt) and (hint := misspelt(record)):
                notes.add(f"read as a prompt alone{hint}")
    if not kinds:
        raise Skipped(reasons[0] if reasons else "no ranked answers")
    account.records += kinds
    account.note(sorted(notes), found.where)
    return items


def left_out_file(path: Path | str, settings: ReadSettings) -> Path:
    """Where the rows of ``path`` that were left out are written: ``NAME.left-out.jsonl`` in ``settings.left_out`` or beside it."""
    name = Path(str(path).removeprefix("hub:").replace("/", "-").replace(":", "-") if is_hub(path) else path).name
    folder = Path(settings.left_out) if settings.left_out else Path() if is_hub(path) else Path(path).parent
    return folder / f"{name}.left-out.jsonl"


def only(kind: Kind | None) -> Callable[[Record, Found], list[Any]]:
    """What takes records of one kind, for ``stream``. A prompt is taken once, whoever answered or ranked it."""
    seen: set[bytes] = set()  # digests: this alone grows with the file

    def take(record: Record, found: Found) -> list[Any]:
        if kind is None:
            return [record]
        wanted = as_kind(record, kind, found)
        if kind == "demonstration" and wanted.prompt.extra.get("label") is False:
            raise Skipped("labelled as bad")
        if kind == "prompt":
            key = hashlib.blake2b(repr((wanted.id, wanted.messages)).encode(), digest_size=16).digest()
            if key in seen:
                raise Skipped("repeated prompt")
            seen.add(key)
        return [wanted]

    return take


def _answers(record: Record, found: Found) -> list[Comparison]:
    """What takes answers, for ``stream``."""
    if isinstance(record, Prompt):
        said = f"found a prompt ({found.format} format), needed an answer too, 'completion' or 'completions'{misspelt(record)}"
        raise RowError(found.where, said, reason="a prompt without an answer")
    if isinstance(record, Demonstration):
        return [Comparison(record.prompt, (Completion(record.completion),), (None,))]
    return [record]


def as_kind(record: Record, kind: Kind, found: Found) -> Any:
    """``record`` as a prompt, demonstration or comparison: the same, or the prompt of a richer one.

    Raises:
        RowError: it is not that kind.
    """
    if kind == "prompt":
        return record if isinstance(record, Prompt) else record.prompt
    if (is_kind := kind_of(record)) != kind:
        hint = misspelt(record) or OTHER_WAYS.get((is_kind, kind), "")
        said = f"found a {is_kind} ({found.format} format), needed {NEEDS[kind]}{hint}"
        raise RowError(found.where, said, reason=f"a {is_kind}, not a {kind}")
    return record


def misspelt(record: Record) -> str:
    """``; did you mean 'chosen' by 'chosn'?`` where a field that nobody knows is nearly one that would have made another record,
    or a mapping where it is another word for one."""
    extra = record.extra if isinstance(record, Prompt | Comparison) else record.prompt.extra
    for name in extra:
        if close := nearly(name, TELLING_FIELDS):
            return f"; did you mean '{close}' by '{name}'?"
    return suggestion(extra, ("completion", "chosen", "rejected"), exact=True)


def refuse_half_a_pair(row: JSON, where: str) -> None:
    """A row with one answer of a pair is not meant as a prompt.

    Raises:
        RowError: there is ``chosen`` without ``rejected``, or the other way round.
    """
    there = [name for name in ("chosen", "rejected") if row.get(name) and isinstance(row[name], str | list)]
    if len(there) != 1:
        return
    missing = "rejected" if there == ["chosen"] else "chosen"
    other = next((name for name in row if name not in there and nearly(name, (missing,))), None)
    alone = "write both, or fields.completion=chosen where it is an answer to learn from" if missing == "rejected" else "write both"
    advice = f"did you mean '{missing}' by '{other}'?" if other else alone
    raise RowError(where, f"field '{there[0]}' stands without '{missing}'; {advice}", reason=f"no '{missing}'", field=missing)


def kind_of(record: Record) -> Kind:
    """Which of the three a record is."""
    if isinstance(record, Prompt):
        return "prompt"
    return "demonstration" if isinstance(record, Demonstration) else "comparison"


def scan(path: Path | str, settings: ReadSettings = DEFAULT) -> Iterator[Found]:
    """Every row of a file as records or as its error, one after another.

    Raises:
        UserError: the file as a whole cannot be read, or ``settings`` name a format or field that nobody knows.
    """
    refuse_unknown(settings.format, settings.fields)
    cells = suffix_of(path) in (".csv", ".tsv")
    for where, row in scan_rows(path):
        if isinstance(row, RowError):
            yield Found(where, error=row, row=row.row)
            continue
        name = ""
        try:
            fields = renamed(row, settings.fields, where)
            fields = from_cells(fields) if cells else fields
            name = settings.format or detect(fields, where)
            records, notes = converted(fields, name, where, settings)
            if all(isinstance(record, Prompt) for record in records):
                refuse_half_a_pair(fields, where)
            yield Found(where, name, tuple(records), notes=tuple(notes), row=row)
        except UserError as error:
            yield Found(where, name, error=_as_row_error(error, where), row=row)


def refuse_shared_ids(prompts: Iterable[Prompt], where: Path | str) -> None:
    """Work that finds a prompt again by its id needs one prompt for each id.

    Raises:
        UserError: two prompts with different messages have one id.
    """
    seen: dict[str, Prompt] = {}
    for prompt in prompts:
        if seen.setdefault(prompt.id, prompt).messages != prompt.messages:
            raise UserError(f"{where}: two different prompts have the id {prompt.id!r}; give each its own")


def _as_row_error(error: UserError, where: str) -> RowError:
    return error if isinstance(error, RowError) else RowError(where, str(error).removeprefix(f"{where}: "))
