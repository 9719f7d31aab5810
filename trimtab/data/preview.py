"""What is in a file of records or text: counts, lengths, ties, samples; with a tokenizer, what is trained on."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.text import Text

from trimtab.common.errors import UserError
from trimtab.common.stats import mean_interval
from trimtab.data.encode import completion_ids
from trimtab.data.files import read_text
from trimtab.data.formats import DEFAULT, ReadSettings, kind_of, scan
from trimtab.data.template import Renderer
from trimtab.records import Comparison, Completion, Demonstration, Message, Prompt, Record

FIRST_ERRORS = 20
SHOWN_CHARACTERS = 700
CONTEXT, TRAINED, LABEL = "dim", "green", "bold"


@dataclass(frozen=True, slots=True)
class Problems:
    """The rows of a file that cannot be read: how many, and the first of them, one line each."""

    rows: int
    count: int
    first: tuple[str, ...]

    def __str__(self) -> str:
        more = [f"... and {self.count - len(self.first):,} more"] if self.count > len(self.first) else []
        return "\n".join([*self.first, *more, f"{self.rows:,} rows, {self.count:,} cannot be read"])


def check(path: Path | str, settings: ReadSettings = DEFAULT, first: int = FIRST_ERRORS) -> Problems:
    """Reads every row and collects what is wrong, the first ``first`` in words.

    Raises:
        UserError: ``settings`` name an unknown format.
    """
    errors: list[str] = []
    rows = count = 0
    try:
        for found in scan(path, settings):
            rows += 1
            if found.error is not None:
                count += 1
                errors += [str(found.error)] if len(errors) < first else []
    except UserError as error:  # the file breaks off: what was read before it still counts
        if not rows:
            raise
        count += 1
        errors += [str(error)] if len(errors) < first else []
    return Problems(rows, count, tuple(errors))


def show(path: Path | str, renderer: Renderer | None = None, limit: int = 3, settings: ReadSettings = DEFAULT) -> Text:
    """A page about a file: what it holds, lengths in words (in tokens with a ``renderer``), and ``limit`` samples.

    With a ``renderer``, samples show what the model sees: what is trained in green, what is context dimmed.

    Raises:
        UserError: there is no such file, or it holds neither records nor text.
    """
    if is_text(path):
        return _show_text(path, renderer, limit)
    tally = _Tally(renderer)
    samples: list[Record] = []
    for found in scan(path, settings):
        tally.rows += 1
        if found.error is not None:
            tally.errors.append(str(found.error))
            continue
        tally.formats[found.format] += 1
        for record in found.records:
            tally.add(record)
            if len(samples) < limit:
                samples.append(record)
    page = Text()
    page.append(f"{path}\n", LABEL)
    for label, value in tally.lines():
        page.append(f"  {label:<22}").append(f"{value}\n")
    for number, record in enumerate(samples, 1):
        page.append(f"\nsample {number}: {kind_of(record)} {_id(record)}\n", LABEL)
        page.append_text(_sample(record, renderer))
    return page


def is_text(path: Path | str) -> bool:
    """Whether a path is plain text for pretraining, by its name: a folder, ``.txt``, ``.zip`` (or these + ``.gz``)."""
    return Path(path).is_dir() or Path(str(path).lower().removesuffix(".gz")).suffix in (".txt", ".zip")


@dataclass
class _Tally:
    """Counts over the records of one file."""

    renderer: Renderer | None
    rows: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    use_cases: Counter[str] = field(default_factory=Counter)
    users: set[str] = field(default_factory=set)
    turns: list[int] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    ks: Counter[int] = field(default_factory=Counter)
    decided: int = 0  # pairs
    tied: int = 0  # pairs
    unranked: int = 0  # answers
    longer: list[float] = field(default_factory=list)  # of each ranking's pairs of unequal length: the longer preferred

    def add(self, record: Record) -> None:
        prompt = record if isinstance(record, Prompt) else record.prompt
        self.kinds[kind_of(record)] += 1
        self.turns.append(len(prompt.messages))
        if prompt.use_case is not None:
            self.use_cases[prompt.use_case] += 1
        if prompt.user is not None:
            self.users.add(prompt.user)
        if self.renderer is None:
            self.prompts.append(sum(len(m.content.split()) for m in prompt.messages))
        else:
            self.prompts.append(len(self.renderer.prompt(prompt)))
        if isinstance(record, Demonstration):
            self.answers.append(self.size(record.completion))
        elif isinstance(record, Comparison):
            self.compare(record)

    def compare(self, record: Comparison) -> None:
        sizes = [self.size(c.text) for c in record.completions]
        self.answers += sizes
        self.ks[len(sizes)] += 1
        ranked = sum(rank is not None for rank in record.ranks)
        decided = record.pairs()
        self.decided += len(decided)
        self.tied += ranked * (ranked - 1) // 2 - len(decided)
        self.unranked += len(sizes) - ranked
        differ = [sizes[better] > sizes[worse] for better, worse in decided if sizes[better] != sizes[worse]]
        self.longer += [sum(differ) / len(differ)] if differ else []

    def size(self, text: str) -> int:
        return len(text.split()) if self.renderer is None else len(self.renderer.completion(text))

    def lines(self) -> Iterator[tuple[str, str]]:
        """(label, value) of every figure that the file has."""
        unit = "words" if self.renderer is None else "tokens"
        yield "rows", f"{self.rows:,}"
        yield "formats", _counts(self.formats) or "none"
        if self.errors:
            yield "cannot be read", f"{len(self.errors):,}, the first: {self.errors[0]}"
        yield "records", _counts(self.kinds) or "none"
        if self.users:
            yield "users", f"{len(self.users):,}"
        if self.use_cases:
            yield "use cases", _counts(self.use_cases)
        if self.turns:
            yield "messages in a prompt", _spread(self.turns)
            yield f"{unit} in a prompt", _spread(self.prompts)
        if self.answers:
            yield f"{unit} in an answer", _spread(self.answers)
        if self.ks:
            yield "answers compared (K)", ", ".join(f"{k}: {n:,}" for k, n in sorted(self.ks.items()))
            yield "pairs", f"{self.decided:,} decided, {self.tied:,} tied; {self.unranked:,} answers unranked"
        if self.longer:
            yield "longer one preferred", f"{mean_interval(self.longer).percent()} (mean over rankings, by {unit})"


def _show_text(path: Path | str, renderer: Renderer | None, limit: int) -> Text:
    """Text is counted in words, with a renderer in tokens, end tokens not included."""
    sizes: list[int] = []
    samples: list[str] = []
    for document in read_text(path):
        sizes.append(len(document.split()) if renderer is None else renderer.count(document))
        samples += [document] if len(samples) < limit else []
    unit = "words" if renderer is None else "tokens"
    page = Text()
    page.append(f"{path}\n", LABEL)
    if sizes:
        page.append(f"  {'documents':<22}{len(sizes):,} with {sum(sizes):,} {unit}\n")
        page.append(f"  {f'{unit} in a document':<22}{_spread(sizes)}\n")
    else:
        page.append("  no text\n")
    for number, document in enumerate(samples, 1):
        page.append(f"\nsample {number}\n", LABEL).append(f"{_short(document)}\n")
    return page


def _sample(record: Record, renderer: Renderer | None) -> Text:
    return _sample_text(record) if renderer is None else _sample_tokens(record, renderer)


def _sample_text(record: Record) -> Text:
    prompt = record if isinstance(record, Prompt) else record.prompt
    out = Text()
    for message in prompt.messages:
        out.append(f"{message.role}: ", LABEL).append(f"{_short(message.content)}\n")
    if isinstance(record, Demonstration):
        out.append("completion: ", LABEL).append(f"{_short(record.completion)}\n")
    elif isinstance(record, Comparison):
        for rank, completion in _best_first(record):
            out.append(f"{rank}: ", LABEL).append(f"{_short(completion.text)}\n")
    return out


def _sample_tokens(record: Record, renderer: Renderer) -> Text:
    """The tokens that the model sees, special ones included, in the order in which it sees them."""
    prompt = record if isinstance(record, Prompt) else record.prompt
    if isinstance(record, Demonstration):
        answer = Message("assistant", record.completion)
        context, ids, trained = renderer.conversation((*prompt.messages, answer), prompt.id)
        out = _spans(context, [False] * len(context), renderer)
        out.append_text(_spans(ids, trained, renderer))
        return out.append("\n")
    context = renderer.prompt(prompt)
    out = _spans(context, [False] * len(context), renderer).append("\n")
    if isinstance(record, Comparison):
        for rank, completion in _best_first(record):
            ids = list(completion_ids(completion, renderer, prompt))
            out.append(f"{rank}: ", LABEL).append_text(_spans(ids, [True] * len(ids), renderer)).append("\n")
    return out


def _spans(ids: Sequence[int], trained: Sequence[bool], renderer: Renderer) -> Text:
    """The text of each run of equal ``trained`` in its colour."""
    out, start = Text(), 0
    for i in range(1, len(ids) + 1):
        if i == len(ids) or trained[i] != trained[start]:
            out.append(_short(renderer.raw(ids[start:i])), TRAINED if trained[start] else CONTEXT)
            start = i
    return out


def _best_first(record: Comparison) -> Iterator[tuple[str, Completion]]:
    order = sorted(range(len(record.ranks)), key=lambda k: (record.ranks[k] is None, record.ranks[k] or 0))
    return ((str(record.ranks[k]) if record.ranks[k] is not None else "unranked", record.completions[k]) for k in order)


def _id(record: Record) -> str:
    return record.id if isinstance(record, Prompt) else record.prompt.id


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counter.most_common())


def _spread(values: Sequence[int]) -> str:
    return f"mean {np.mean(values):.1f}, p95 {np.percentile(values, 95):.0f}, max {max(values):,}"


def _short(text: str) -> str:
    left = len(text) - SHOWN_CHARACTERS
    return text if left <= 0 else f"{text[:SHOWN_CHARACTERS]} [{left:,} more characters]"
