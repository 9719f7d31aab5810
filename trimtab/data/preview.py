"""What is in a file of records or text: counts, lengths, ties, samples; with a tokenizer, what is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trimtab.common.errors import UserError
from trimtab.common.stats import proportion_interval
from trimtab.data.files import is_text, read_text
from trimtab.data.formats import DEFAULT, ReadSettings, kind_of, reading, scan
from trimtab.data.formats.account import many
from trimtab.data.samples import LABEL, Legend, Run, Sample, sample_of
from trimtab.records import Comparison, Demonstration, Prompt, Record

if TYPE_CHECKING:  # seconds, which a page without a model need not wait for
    from trimtab.data.template import Renderer
    from trimtab.trees import PromptTree

ANY_LENGTH = 1 << 60
MOST_NAMES = 20


def show(
    path: Path | str, renderer: Renderer | None = None, limit: int = 3, settings: ReadSettings = DEFAULT, max_length: int = 0
) -> Group:
    """A page about a file: what it holds, lengths in words (in tokens with a ``renderer``), and ``limit`` samples.

    With a ``renderer``, every record is made ready for training and verified, those that cannot be are counted, and samples show what the
    model sees: what is context, what is trained. ``max_length``: how many tokens a record may have to be trained on (0: any number).

    Raises:
        UserError: there is no such file, or it holds neither records nor text.
    """
    if is_text(path) and not settings.fields:
        return _show_text(path, renderer, limit)
    tally = _Tally(renderer, max_length)
    samples: list[Record] = []
    with reading(path) as bar:
        for found in scan(path, settings):
            tally.rows += 1
            bar.advance()
            if found.error is not None:
                tally.bad += 1
                tally.error = tally.error or str(found.error)
                continue
            tally.formats[found.format] += 1
            for record in found.records:
                tally.add(record)
                if len(samples) < limit:
                    samples.append(record)
    if not tally.kinds:
        raise UserError(f"{path}: {tally.nothing()}")
    legend: list[RenderableType] = [Text(), Legend()] if renderer is not None and samples else []
    shown = [sample_of(record, renderer, number) for number, record in enumerate(samples, 1)]
    return Group(_figures(path, tally.lines()), *legend, Text(), *shown)


@dataclass
class _Tally:
    """Counts over the records of one file."""

    renderer: Renderer | None
    max_length: int = 0
    rows: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    bad: int = 0  # rows
    error: str = ""  # the first
    refused: int = 0  # records
    refusal: str = ""  # the first
    kinds: Counter[str] = field(default_factory=Counter)
    use_cases: Counter[str] = field(default_factory=Counter)
    users: set[str] = field(default_factory=set)
    turns: list[int] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    tokens: int = 0
    trained: int = 0
    apart: int = 0  # records
    too_long: int = 0  # records
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
        sizes = self.in_words(record, prompt) if self.renderer is None else self.in_tokens(record, self.renderer)
        if isinstance(record, Comparison):
            self.compare(record, sizes)

    def in_words(self, record: Record, prompt: Prompt) -> list[int]:
        """Notes the sizes of prompt and answers, and returns the latter's."""
        self.prompts.append(sum(len(m.content.split()) for m in prompt.messages))
        texts = [c.text for c in record.completions] if isinstance(record, Comparison) else []
        texts += [record.completion] if isinstance(record, Demonstration) else []
        sizes = [len(text.split()) for text in texts]
        self.answers += sizes
        return sizes

    def in_tokens(self, record: Record, renderer: Renderer) -> list[int]:
        """The same, as they are trained on; none where they cannot be."""
        try:
            trees = _trees(record, renderer)
        except UserError as error:
            self.refused += 1
            self.refusal = self.refusal or str(error)
            return []
        if not trees:
            return []
        last = trees[-1]
        sizes = [len(c) for c in last.completions]
        if isinstance(record, Demonstration):
            sizes = [_last_run(last)]
            self.trained += sum(sum(tree.trained[0]) if tree.trained else len(tree.completions[0]) for tree in trees)
        self.prompts.append(last.longest - max(sizes, default=0))
        self.answers += sizes
        self.tokens += sum(tree.tokens for tree in trees)
        self.apart += len(trees) > 1
        self.too_long += bool(self.max_length) and any(tree.longest > self.max_length for tree in trees)
        return sizes

    def compare(self, record: Comparison, sizes: Sequence[int]) -> None:
        self.ks[len(record.completions)] += 1
        ranked = sum(rank is not None for rank in record.ranks)
        decided = record.pairs()
        self.decided += len(decided)
        self.tied += ranked * (ranked - 1) // 2 - len(decided)
        self.unranked += len(record.completions) - ranked
        differ = [sizes[better] > sizes[worse] for better, worse in decided if sizes and sizes[better] != sizes[worse]]
        self.longer += [sum(differ) / len(differ)] if differ else []

    def nothing(self) -> str:
        """Why there is no record."""
        if not self.rows:
            return "holds no rows"
        return f"no record in {many(self.rows, 'row')}" + (f", the first error: {self.error}" if self.error else "")

    def lines(self) -> Iterator[tuple[str, str]]:
        """(label, value) of every figure that the file has."""
        unit = "words" if self.renderer is None else "tokens"
        yield "rows", f"{self.rows:,}"
        yield "formats", _counts(self.formats) or "none"
        if self.bad:
            yield "cannot be read", f"{self.bad:,}, the first: {self.error}"
        yield "records", _counts(self.kinds) or "none"
        if self.users:
            yield "users", f"{len(self.users):,}"
        if self.use_cases:
            yield "use cases", _counts(self.use_cases)
        if self.turns:
            yield "messages in a prompt", _spread(self.turns)
        if self.prompts:
            yield f"{unit} in a prompt", _spread(self.prompts)
        if self.answers:
            yield f"{unit} in an answer", _spread(self.answers)
        if self.trained:
            yield "trained tokens", f"{self.trained:,} of {self.tokens:,} ({100 * self.trained / self.tokens:.1f} %)"
        elif self.tokens:
            yield "tokens in all", f"{self.tokens:,}, each prompt once"
        if self.apart:
            yield "answers in pieces", f"of {self.apart:,} conversations: the chat template rewrites earlier turns"
        if self.max_length and self.tokens:
            fit = len(self.prompts) - self.too_long
            rest = "; the others are left out" if self.too_long else ""
            yield f"at most {self.max_length:,} tokens", f"{fit:,} of {len(self.prompts):,}{rest}"
        if self.refused:
            yield "cannot be trained on", f"{self.refused:,}, the first: {self.refusal}"
        if self.ks:
            yield "answers compared (K)", ", ".join(f"{k}: {n:,}" for k, n in sorted(self.ks.items()))
            yield "pairs", f"{self.decided:,} decided, {self.tied:,} tied; {self.unranked:,} answers unranked"
        if self.longer:
            longer = proportion_interval(sum(self.longer), len(self.longer))
            yield "longer one preferred", f"{longer.percent()} (mean over rankings, by {unit})"


def _trees(record: Record, renderer: Renderer) -> list[PromptTree]:
    """What is trained on, whatever its length."""
    from trimtab.data.encode import comparison_trees, demonstration_trees, prompt_trees

    if isinstance(record, Demonstration):
        return demonstration_trees([record], renderer, ANY_LENGTH)[0]
    if isinstance(record, Comparison):
        return comparison_trees([record], renderer, ANY_LENGTH)[0]
    return prompt_trees([record], renderer, ANY_LENGTH)[0]


def _last_run(tree: PromptTree) -> int:
    """How many tokens the last answer has."""
    if tree.trained is None:
        return len(tree.completions[0])
    return next((n for n, flag in enumerate(reversed(tree.trained[0])) if not flag), len(tree.trained[0]))


def _show_text(path: Path | str, renderer: Renderer | None, limit: int) -> Group:
    """Text is counted in words, with a renderer in tokens, end tokens not included."""
    sizes: list[int] = []
    samples: list[str] = []
    try:
        for document in read_text(path):
            sizes.append(len(document.split()) if renderer is None else renderer.count(document))
            samples += [document] if len(samples) < limit else []
    except UserError as error:
        if not Path(path).is_dir():
            raise
        raise UserError(f"{path}: is a folder and not of text ({error}); for records, give one of the files in it") from None
    if not sizes:
        raise UserError(f"{path}: holds no text")
    unit = "words" if renderer is None else "tokens"
    lines = [("documents", f"{len(sizes):,} with {sum(sizes):,} {unit}"), (f"{unit} in a document", _spread(sizes))]
    shown = [Sample(f"sample {number}", [Run("text", [(text, "")])]) for number, text in enumerate(samples, 1)]
    return Group(_figures(path, lines), Text(), *shown)


def _figures(path: Path | str, lines: Iterable[tuple[str, str]]) -> Group:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in lines:
        table.add_row(label, value)
    return Group(Text(str(path), LABEL), Padding(table, (0, 0, 0, 2)))


def _counts(counter: Counter[str]) -> str:
    """The most frequent first; of very many names the first ``MOST_NAMES``."""
    shown = ", ".join(f"{name} {n:,}" for name, n in counter.most_common(MOST_NAMES))
    return shown + (f" and {len(counter) - MOST_NAMES:,} others" if len(counter) > MOST_NAMES else "")


def _spread(values: Sequence[int]) -> str:
    return f"mean {np.mean(values):,.1f}, p95 {np.percentile(values, 95):,.0f}, max {max(values):,}"
