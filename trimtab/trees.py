"""What models see: a prompt once, then its K completions, end to end with other trees, with no padding.

Each completion attends to its prompt and to itself, never to its siblings or to another tree; position ids restart at the
prompt's end for each sibling. A ``TreeBatch`` is the one batch type of the project: SFT is K = 1, DPO is K = 2, a labeler's
ranking is K = 4..9, PPO is K samples per prompt, and text for pretraining is a one-token prompt with one completion.

Shape legend, here and wherever trees go: T tokens of the batch, N trees, C completions, S scored (trained) tokens.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from trimtab.common.rng import generator


@dataclass(frozen=True, slots=True)
class PromptTree:
    """A prompt's token ids and its completions' (each with its end token, unless it was cut by length).

    ``trained[k][t]`` says whether token t of completion k is scored; None means every one. A multi-turn demonstration is a
    tree whose only completion starts at the first answer and whose trained tokens are the assistant's turns.
    ``ranks`` are those of the comparison (1 = best, None = unranked); ``key`` names where the tree came from.
    ``weight`` is what it counts in the loss and its divisor: a tree of weight 2 is the same tree twice. Prompts that
    are sampled for have none: what their policy-gradient losses average over is answers or tokens.
    """

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    trained: tuple[tuple[bool, ...], ...] | None = None
    key: str = ""
    ranks: tuple[int | None, ...] | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        assert self.prompt, f"tree {self.key!r}: the first completion token has nothing to be predicted from"
        assert all(self.completions), f"tree {self.key!r}: an empty completion"

    @property
    def tokens(self) -> int:
        """How many tokens the model computes: the prompt counts once."""
        return len(self.prompt) + sum(map(len, self.completions))

    @property
    def longest(self) -> int:
        """The longest prompt + completion, which must fit the model's positions."""
        return len(self.prompt) + max(map(len, self.completions), default=0)

    def with_completions(self, completions: Sequence[Sequence[int]]) -> "PromptTree":
        """The same prompt with other completions, all tokens scored, unranked."""
        return replace(self, completions=tuple(map(tuple, completions)), trained=None, ranks=None)


@dataclass(frozen=True)
class TreeBatch:
    """Trees laid end to end. Order of tokens: tree by tree, the prompt, then its completions in order."""

    trees: tuple[PromptTree, ...]
    ids: Tensor  # (T,) int64 token ids
    positions: Tensor  # (T,) int64, restarting at each tree and, after the prompt, at each sibling
    sources: Tensor  # (S,) int64 index into T: the token from whose hidden state a scored token is predicted
    targets: Tensor  # (S,) int64 token id of each scored token
    completion_of: Tensor  # (S,) int64 index into C
    last: Tensor  # (C,) int64 index into T of each completion's last token
    prompt_last: Tensor  # (N,) int64 index into T of each prompt's last token
    tree_of: Tensor  # (C,) int64 index into N
    layout: "Segments"

    @classmethod
    def pack(cls, trees: Sequence[PromptTree]) -> "TreeBatch":
        """Lays ``trees`` end to end, in the order given."""
        ids: list[int] = []
        positions, sources, targets, completion_of = [], [], [], []
        last: list[int] = []
        prompt_last: list[int] = []
        tree_of: list[int] = []
        spans: list[TreeSpan] = []
        for n, tree in enumerate(trees):
            start, length = len(ids), len(tree.prompt)
            ids.extend(tree.prompt)
            positions.append(np.arange(length))
            prompt_last.append(len(ids) - 1)
            lengths = []
            for k, completion in enumerate(tree.completions):
                begin, size = len(ids), len(completion)
                ids.extend(completion)
                lengths.append(size)
                positions.append(np.arange(length, length + size))
                source = np.arange(begin - 1, begin + size - 1)
                source[0] = prompt_last[-1]
                target = np.asarray(completion)
                if tree.trained is not None:
                    scored = np.asarray(tree.trained[k], dtype=bool)
                    source, target = source[scored], target[scored]
                sources.append(source)
                targets.append(target)
                completion_of.append(np.full(len(target), len(last)))
                last.append(len(ids) - 1)
                tree_of.append(n)
            spans.append(TreeSpan(start, length, tuple(lengths)))
        return cls(
            trees=tuple(trees), ids=_tensor(ids), positions=_flat(positions), sources=_flat(sources), targets=_flat(targets),
            completion_of=_flat(completion_of), last=_tensor(last), prompt_last=_tensor(prompt_last), tree_of=_tensor(tree_of),
            layout=Segments(tuple(spans), len(ids)),
        )  # fmt: skip

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @property
    def completions(self) -> int:
        return len(self.last)

    @cached_property
    def lengths(self) -> Tensor:
        """(C,) number of scored tokens of each completion."""
        return torch.bincount(self.completion_of, minlength=self.completions)

    @cached_property
    def weights(self) -> Tensor:
        """(N,) float32 what each tree counts."""
        return torch.tensor([tree.weight for tree in self.trees], device=self.ids.device)

    @cached_property
    def token_weights(self) -> Tensor:
        """(S,) float32 what each scored token counts: its tree's weight."""
        return self.weights[self.tree_of[self.completion_of]]

    @property
    def id_range(self) -> tuple[int, int]:
        """The smallest and the largest token id of a batch that has tokens; asked of the tensor once, before it goes to a GPU."""
        found = self.layout.cache.get("ids")
        if found is None:
            found = self.layout.cache["ids"] = (int(self.ids.min()), int(self.ids.max()))
        assert isinstance(found, tuple)
        return found

    def sum_by_completion(self, values: Tensor) -> Tensor:
        """(S,) per-token values -> (C,) sums; differentiable."""
        return torch.zeros(self.completions, dtype=values.dtype, device=values.device).index_add(
            0, self.completion_of.to(values.device), values
        )

    def to(self, device: torch.device | str) -> "TreeBatch":
        """The same batch with its tensors on ``device``."""
        if self.tokens:
            _ = self.id_range  # noted where asking costs nothing: on a GPU it would wait for all that is under way
        names = ("ids", "positions", "sources", "targets", "completion_of", "last", "prompt_last", "tree_of")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@dataclass(frozen=True, slots=True)
class TreeSpan:
    """Where one tree lies in the flat batch: ``start``, the prompt's length, each completion's length."""

    start: int
    prompt: int
    completions: tuple[int, ...]


@dataclass(frozen=True)
class Segments:
    """Who may attend to whom, as spans. the kernels of ``models/`` turn it into calls and keep their plans in ``cache``."""

    spans: tuple[TreeSpan, ...]
    tokens: int

    @cached_property
    def cache(self) -> dict[object, object]:
        """Plans derived from the spans, made once per batch and shared by all layers."""
        return {}

    def filled(self, spare: int) -> "Segments":
        """With ``spare`` more tokens at the end, a prompt without completions: no other token sees them."""
        if not spare:
            return self
        found = self.cache.setdefault(("filled", spare), Segments((*self.spans, TreeSpan(self.tokens, spare, ())), self.tokens + spare))
        assert isinstance(found, Segments)
        return found

    def positions(self) -> Tensor:
        """(T,) int64 of each token."""
        position = []
        for span in self.spans:
            sizes = (span.prompt, *span.completions)
            position += [np.arange(size) + (span.prompt if k else 0) for k, size in enumerate(sizes)]
        return _flat(position)

    def bounds(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each token (T,) int64, as places in the batch: where its own segment begins, where its tree begins, where its tree's prompt
        ends; and its position. Token q sees k <= q that lies in its own segment (from its beginning on) or in its tree's prompt."""
        parts: list[list[np.ndarray]] = [[], [], []]
        for span in self.spans:
            sizes, trunk = (span.prompt, *span.completions), span.start + span.prompt
            starts = [span.start, *(trunk + sum(span.completions[:k]) for k in range(len(span.completions)))]
            for part, values in zip(parts, (starts, [span.start] * len(sizes), [trunk] * len(sizes)), strict=True):
                part.append(np.repeat(values, sizes))
        return _flat(parts[0]), _flat(parts[1]), _flat(parts[2]), self.positions()

    def dense_mask(self) -> Tensor:
        """(T, T) bool: True where the row's token may attend to the column's. The definition; quadratic, for small batches."""
        mask = torch.zeros(self.tokens, self.tokens, dtype=torch.bool)
        for span in self.spans:
            end = span.start + span.prompt
            mask[span.start : end, span.start : end] = _causal(span.prompt)
            for length in span.completions:
                mask[end : end + length, span.start : span.start + span.prompt] = True
                mask[end : end + length, end : end + length] = _causal(length)
                end += length
        return mask


def pack_by_budget(trees: Sequence[PromptTree], budget: int) -> list[list[PromptTree]]:
    """``pack_indices`` as the trees themselves."""
    return [[trees[i] for i in members] for members in pack_indices(trees, budget)]


def pack_indices(trees: Sequence[PromptTree], budget: int) -> list[list[int]]:
    """Splits ``trees`` into few, evenly filled micro-batches of at most ``budget`` tokens each; a larger tree goes alone.

    As many as tokens / budget asks for, if the trees fit when each goes into the emptiest, the largest first; else one more, and so on up
    to what best-fit decreasing needs: with the largest tree at ``l`` tokens at most 1 + tokens / (budget - l + 1), on preference pairs in
    practice at most ceil(tokens / budget) + 1. Even micro-batches need the least memory, and ranks that take one each end together. Trees
    are never split. The result depends on the trees only: equal sizes keep their order.
    """
    sizes = [tree.tokens for tree in trees]
    order = sorted(range(len(trees)), key=lambda i: -sizes[i])
    alone = [[i] for i in order if sizes[i] > budget]
    rest = order[len(alone) :]
    groups = _best_fit(rest, sizes, budget)
    for count in range(-(-sum(sizes[i] for i in rest) // budget), len(groups) + 1):
        even = _even(rest, sizes, count)
        if all(sum(sizes[i] for i in members) <= budget for members in even):
            groups = even
            break
    return [sorted(members) for members in (*alone, *groups)]


def _best_fit(order: Sequence[int], sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Each item of ``order`` into the fullest bin that has room for it."""
    bins: list[list[int]] = []
    room: list[int] = []
    for i in order:
        fits = [b for b, free in enumerate(room) if free >= sizes[i]]
        if fits:
            best = min(fits, key=lambda b: room[b])
            bins[best].append(i)
            room[best] -= sizes[i]
        else:
            bins.append([i])
            room.append(budget - sizes[i])
    return bins


def _even(order: Sequence[int], sizes: Sequence[int], count: int) -> list[list[int]]:
    """Each item of ``order`` into the emptiest of ``count`` bins."""
    bins: list[list[int]] = [[] for _ in range(count)]
    filled = [(0, b) for b in range(count)]  # a heap
    for i in order:
        held, b = filled[0]
        bins[b].append(i)
        heapq.heapreplace(filled, (held + sizes[i], b))
    return bins


def by_completion(trees: Sequence[PromptTree], budget: int, score: Callable[[TreeBatch], Tensor]) -> list[list[float]]:
    """``score`` (a batch -> (C,)) of every completion of every tree, in the trees' order, ``budget`` tokens at a time."""
    out: list[list[float]] = [[] for _ in trees]
    for members in pack_indices(trees, budget):
        values = score(TreeBatch.pack([trees[i] for i in members])).tolist()
        for i in members:
            out[i], values = values[: len(trees[i].completions)], values[len(trees[i].completions) :]
    return out


@lru_cache(maxsize=2)  # steps of one epoch ask for it again and again
def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """(count,) a permutation that depends on (seed, epoch) only; not to be written to."""
    order = generator(seed, "epoch", epoch).permutation(count)
    order.flags.writeable = False
    return order


def step_indices(count: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Which of ``count`` items optimizer step ``step`` (from 0) uses, ``batch_size`` of them, epoch after epoch without gaps.

    A pure function of its arguments: resuming at a step needs no state.
    """
    out: list[int] = []
    position = step * batch_size
    while len(out) < batch_size:
        epoch, offset = divmod(position + len(out), count)
        out.extend(epoch_order(count, seed, epoch)[offset : offset + batch_size - len(out)].tolist())
    return out


def _causal(size: int) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool).tril()


def _tensor(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.long)


def _flat(parts: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64)) if parts else torch.zeros(0, dtype=torch.long)
