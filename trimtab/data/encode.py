"""Records -> prompt trees, with an account of every record: kept, or left out and why.

Nothing is cut silently: a tree longer than ``max_length`` is left out and counted, or, with ``truncate=True``, its
completions are cut at the right and lose their end token. A prompt is never cut.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from trimtab.data.template import Renderer
from trimtab.records import Comparison, Completion, Demonstration, Message, Prompt
from trimtab.trees import PromptTree


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the records. read = kept + dropped_too_long + dropped_empty; a kept one is one tree, but for those taken apart."""

    read: int
    kept: int
    tokens: int  # of the kept trees, each prompt once
    dropped_too_long: int = 0  # longer than max_length
    dropped_empty: int = 0  # an answer that was cut by length before its first token
    truncated: int = 0  # kept trees with a completion that was cut to fit
    encoded_again: int = (
        0  # completions of kept trees whose token ids are another tokenizer's, so that the text was used
    )
    apart: int = 0  # kept conversations with a tree for each answer, because the chat template rewrites earlier turns

    def __str__(self) -> str:
        """``1,187 read, 1,180 kept, 310,044 tokens; 7 longer than max_length``; zero counts are not shown."""
        words = {
            "dropped_too_long": "dropped: longer than max_length", "dropped_empty": "dropped: an empty answer",
            "truncated": "cut to max_length", "encoded_again": "answers with another tokenizer's ids, encoded again",
            "apart": "conversations in a piece for each answer (the chat template rewrites earlier turns)",
        }  # fmt: skip
        rest = [
            f"{getattr(self, f.name):,} {words[f.name]}"
            for f in fields(self)
            if f.name in words and getattr(self, f.name)
        ]
        return "; ".join([f"{self.read:,} read, {self.kept:,} kept, {self.tokens:,} tokens", *rest])


@dataclass(frozen=True, slots=True)
class _Made:
    """A record's trees, none where an answer is empty, and how many of their completions were encoded again."""

    trees: list[PromptTree]
    encoded_again: int = 0


def prompt_trees(records: Iterable[Prompt], renderer: Renderer, max_length: int) -> tuple[list[PromptTree], Report]:
    """Trees without completions; ``key`` is the prompt's id. Leave room for the answer in ``max_length``.

    Raises:
        UserError: the chat template refuses a prompt.
    """
    made = (_Made([PromptTree(tuple(renderer.prompt(p)), (), key=p.id)]) for p in records)
    return _fit(made, max_length, truncate=False)


def demonstration_trees(
    records: Iterable[Demonstration], renderer: Renderer, max_length: int, *, truncate: bool = False
) -> tuple[list[PromptTree], Report]:
    """One completion each: from the first answer to a user on; every assistant turn is trained, nothing between them.

    Where the chat template rewrites earlier turns, a conversation is one tree for each answer, which share its id as their key; it is
    kept or left out as a whole, unless ``truncate`` keeps what fits.

    Raises:
        UserError: the chat template refuses a conversation, or its trained spans cannot be told.
    """

    def make(record: Demonstration) -> _Made:
        answer = Message("assistant", record.completion)
        return _Made([
            PromptTree(tuple(prompt), (tuple(ids),), None if all(trained) else (tuple(trained),), key=record.prompt.id)
            for prompt, ids, trained in renderer.turns((*record.prompt.messages, answer), record.prompt.id)
        ])  # fmt: skip

    return _fit(map(make, records), max_length, truncate)


def comparison_trees(
    records: Iterable[Comparison], renderer: Renderer, max_length: int, *, truncate: bool = False
) -> tuple[list[PromptTree], Report]:
    """K completions each, with their ranks.

    Sampled token ids are used as they are if they are this tokenizer's; other answers are encoded from their text. The
    end token is appended unless an answer was cut by length.

    Raises:
        UserError: the chat template refuses a prompt.
    """

    def make(record: Comparison) -> _Made:
        completions = [completion_ids(c, renderer, record.prompt) for c in record.completions]
        again = sum(c.token_ids is not None and c.tokenizer != renderer.sha for c in record.completions)
        if not all(completions):
            return _Made([])
        prompt = tuple(renderer.prompt(record.prompt))
        tree = PromptTree(prompt, tuple(completions), key=record.prompt.id, ranks=record.ranks, weight=record.weight or 1.0)
        return _Made([tree], again)

    return _fit(map(make, records), max_length, truncate)


def completion_ids(completion: Completion, renderer: Renderer, prompt: Prompt) -> tuple[int, ...]:
    """The ids of one answer to ``prompt``: those that were sampled if they are this tokenizer's, else its text's; empty only for an
    answer that was cut by length before its first token.

    Raises:
        UserError: the chat template changes the answer's words.
    """
    end = completion.stop != "length"
    if completion.token_ids is None or completion.tokenizer != renderer.sha:
        return tuple(renderer.completion(completion.text, end=end, after=prompt))
    ids = completion.token_ids
    return (*ids, renderer.end_id) if end and ids[-1:] != (renderer.end_id,) else ids


def _fit(made: Iterable[_Made], max_length: int, truncate: bool) -> tuple[list[PromptTree], Report]:
    kept: list[PromptTree] = []
    totals = dict.fromkeys(("kept", "dropped_too_long", "dropped_empty", "truncated", "encoded_again", "apart"), 0)
    for item in made:
        long = any(tree.longest > max_length for tree in item.trees)
        cut = [tree if tree.longest <= max_length else _cut(tree, max_length) for tree in item.trees if truncate or not long]
        fits = [tree for tree in cut if tree is not None]
        kept += fits
        if not fits:
            totals["dropped_too_long" if item.trees else "dropped_empty"] += 1
            continue
        totals["kept"] += 1
        totals["truncated"] += long
        totals["encoded_again"] += item.encoded_again
        totals["apart"] += len(item.trees) > 1
    read = totals["kept"] + totals["dropped_too_long"] + totals["dropped_empty"]
    return kept, Report(read=read, tokens=sum(tree.tokens for tree in kept), **totals)


def _cut(tree: PromptTree, max_length: int) -> PromptTree | None:
    """``tree`` with completions cut to fit; None if the prompt leaves no room, or nothing that is trained is left."""
    room = max_length - len(tree.prompt)
    trained = tuple(flags[:room] for flags in tree.trained) if tree.trained is not None else None
    if room < 1 or not tree.completions or (trained and not all(map(any, trained))):
        return None
    return replace(tree, completions=tuple(c[:room] for c in tree.completions), trained=trained)
