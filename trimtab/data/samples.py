"""How one record looks to who prepares data: what is context, what is trained, where turns end; with colours and without."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from trimtab.common.errors import UserError
from trimtab.data.formats import kind_of
from trimtab.records import Comparison, Completion, Demonstration, Message, Prompt, Record

if TYPE_CHECKING:  # seconds, which a page without a model need not wait for
    from trimtab.data.template import Encoded, Renderer

HEAD, TAIL = 560, 140  # characters shown of a longer text: its beginning and its end
CONTEXT, TRAINED, LABEL, NOTE = "dim", "green", "bold", "italic"
CONTROL, CONTROL_TRAINED = "cyan", "bold green reverse"
LABEL_WIDTH = 22  # a model's name is cut there
# white space at a run's ends would not be seen
VISIBLE = str.maketrans({" ": "·", "\n": "↵\n", "\t": "⇥", "\u00a0": "⍽"})
CONTROL_CHARACTERS = {c: 0x2400 + c for c in range(32) if chr(c) not in "\n\t"} | {127: 0x2421}  # they would steer the terminal


class Legend:
    """How to read samples of tokens."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.color_system and not console.no_color:
            yield Text.assemble(
                ("context is dim", CONTEXT), ", ", ("what is trained is green", TRAINED), "; ", ("control tokens", CONTROL), " stand out, ",
                ("also trained ones", CONTROL_TRAINED),
            )  # fmt: skip
        yield Text("the numbers are tokens; at a run's ends · is a space and ↵ a newline", NOTE)


@dataclass(frozen=True)
class Run:
    """A stretch of text under one label; ``parts`` are (text, style)."""

    label: str
    parts: list[tuple[str, str]]
    tokens: int | None = None

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.parts)


@dataclass(frozen=True)
class Sample:
    """One record, ready to be shown."""

    title: str
    runs: list[Run]
    notes: list[str] = field(default_factory=list)

    def __rich__(self) -> RenderableType:
        table = Table(box=box.MINIMAL, show_header=False, show_edge=False, pad_edge=False)
        table.add_column(justify="right", no_wrap=True, overflow="ellipsis", max_width=LABEL_WIDTH)
        counted = any(run.tokens is not None for run in self.runs)
        if counted:
            table.add_column(justify="right", no_wrap=True)
        table.add_column(overflow="fold")
        for run in self.runs:
            count = [f"{run.tokens:,}" if run.tokens is not None else ""] if counted else []
            table.add_row(run.label, *count, Text.assemble(*_shown(run.parts)))
        return Group(Text(self.title, LABEL), table, *(Text(note, NOTE) for note in self.notes), Text())


def sample_of(record: Record, renderer: Renderer | None, number: int) -> Sample:
    """A record as it is written, or with a ``renderer`` as the model sees it, token for token."""
    prompt = record if isinstance(record, Prompt) else record.prompt
    title = f"sample {number}: {kind_of(record)} {prompt.id}"
    if renderer is None:
        return Sample(title, _written(record, prompt))
    try:
        runs, said = _encoded(record, prompt, renderer)
    except UserError as error:
        return Sample(f"{title}, which cannot be trained on", _written(record, prompt), [str(error)])
    return Sample(f"{title}: {said}", runs, _notes(record, prompt, renderer))


def _written(record: Record, prompt: Prompt) -> list[Run]:
    runs = [Run(m.role, [(m.content, "")]) for m in prompt.messages]
    if isinstance(record, Demonstration):
        runs.append(Run("completion", [(record.completion, "")]))
    elif isinstance(record, Comparison):
        runs += [Run(label, [(c.text, "")]) for label, c in _best_first(record)]
    return runs


def _encoded(record: Record, prompt: Prompt, renderer: Renderer) -> tuple[list[Run], str]:
    """Runs of tokens in the order in which the model sees them, and how many there are."""
    if isinstance(record, Demonstration):
        pieces = renderer.turns((*prompt.messages, Message("assistant", record.completion)), prompt.id)
        runs = [run for piece in pieces for run in _piece(piece, renderer)]
        trained, all_tokens = sum(sum(p.trained) for p in pieces), sum(len(p.prompt) + len(p.trained) for p in pieces)
        apart = f", in {len(pieces)} pieces, for the chat template rewrites earlier turns" if len(pieces) > 1 else ""
        return runs, f"{all_tokens:,} tokens, {trained:,} trained{apart}"
    from trimtab.data.encode import completion_ids

    ids = renderer.prompt(prompt)
    runs, said = [Run("context", _parts(ids, renderer, trained=False), len(ids))], f"{len(ids):,} tokens"
    if isinstance(record, Comparison):
        for label, completion in _best_first(record):
            answer = completion_ids(completion, renderer, prompt)
            runs.append(Run(label, _parts(answer, renderer, trained=True), len(answer)))
        said = f"{said} and {len(record.completions)} answers"
    return runs, said


def _piece(piece: Encoded, renderer: Renderer) -> Iterator[Run]:
    marked = [*((token, False) for token in piece.prompt), *zip(piece.completion, piece.trained, strict=True)]
    for trained, tokens in groupby(marked, key=lambda pair: pair[1]):
        ids = [token for token, _ in tokens]
        yield Run("trained" if trained else "context", _parts(ids, renderer, trained=trained), len(ids))


def _parts(ids: Sequence[int], renderer: Renderer, *, trained: bool) -> list[tuple[str, str]]:
    styles = (TRAINED, CONTROL_TRAINED) if trained else (CONTEXT, CONTROL)
    return [(text, styles[i % 2]) for i, text in enumerate(renderer.parts(ids)) if text]


def _notes(record: Record, prompt: Prompt, renderer: Renderer) -> list[str]:
    answers = record.completions if isinstance(record, Comparison) else ()
    texts = [*(m.content for m in prompt.messages), *(c.text for c in answers)]
    texts += [record.completion] if isinstance(record, Demonstration) else []
    typed = sorted({token for text in texts for token in renderer.typed(text)})
    cut = sum(c.stop == "length" for c in answers)
    return [
        *([f"typed in a text, so text and no control tokens: {', '.join(typed)}"] if typed else []),
        *([f"cut by length, so without an end token: {cut} of {len(answers)} answers"] if cut else []),
    ]


def _best_first(record: Comparison) -> Iterator[tuple[str, Completion]]:
    order = sorted(range(len(record.ranks)), key=lambda k: (record.ranks[k] is None, record.ranks[k] or 0))
    for k in order:
        rank, completion = record.ranks[k], record.completions[k]
        label = "unranked" if rank is None else f"rank {rank}"
        yield (f"{label}, {completion.model}" if completion.model else label), completion


def _shown(parts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """``parts`` with a long text's middle left out and the white space at the ends visible."""
    whole = _without_middle([(text.translate(CONTROL_CHARACTERS), style) for text, style in parts])
    if whole:
        text, style = whole[0]
        body = text.lstrip()
        whole[0] = (text[: len(text) - len(body)].translate(VISIBLE) + body, style)
        text, style = whole[-1]
        body = text.rstrip()
        whole[-1] = (body + re.sub(r"\n$", "", text[len(body) :].translate(VISIBLE)), style)
    return whole


def _without_middle(parts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    length = sum(len(text) for text, _ in parts)
    left_out = length - HEAD - TAIL
    if left_out <= 0:
        return parts
    begin = _window(parts, 0, HEAD)
    return [*begin, (f"\n[... {left_out:,} more characters ...]\n", NOTE), *_window(parts, length - TAIL, length)]


def _window(parts: Sequence[tuple[str, str]], start: int, end: int) -> list[tuple[str, str]]:
    """What of ``parts`` lies between two characters."""
    out, at = [], 0
    for text, style in parts:
        kept = text[max(0, start - at) : max(0, end - at)]
        out += [(kept, style)] if kept else []
        at += len(text)
    return out
