"""Keys and values in pages, and the layouts that write and read them.

A page holds ``PAGE`` consecutive tokens of one prompt or of one sample. A prompt's pages exist once for all its samples.
Pages in use lie side by side, so one decoding step reads each of them once, in order, in one batched product; reading the used part
of longer rows instead was three times slower on CPU (51 against 15 us per row of 64 tokens), for gaps defeat the prefetcher. Queries are
spread to the pages that they read, scores come back to their rows for one softmax, weights go to the pages again.
(Kwon et al. 2023, PagedAttention, in plain tensor operations; torch's SDPA needs repeated heads and a mask here.)

A prompt's last token is not among its pages: each sample feeds it as its own column 0, so that the first token is drawn like
all others. Sample column c then has position prefix + c, prompt column c has position c.

Shape legend: n rows (samples being drawn), P pages, p pages of a row at most, W samples of a prompt at most, H heads, G
key-value heads, D head size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from trimtab.common.errors import UserError
from trimtab.models.attention import AttentionRule, Layout, softmax_with
from trimtab.sampling.schedule import moves_to_front

PAGE = 16
NOWHERE = 0  # the page that stays zero: what a shorter row reads where a longer one has another page
SCRATCH = 1  # where rows write that nobody reads
RESERVED = 2
# Pages move together when this share of those computed holds nothing.
HOLES = 1 / 8


@dataclass(frozen=True)
class Shape:
    """What one layer keeps per token: ``heads`` x (``key`` + ``value``) numbers of ``dtype``."""

    heads: int
    key: int
    value: int
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        return self.heads * (self.key + self.value) * self.dtype.itemsize


class Probe(Layout):
    """Learns each layer's ``Shape`` from a forward of one token."""

    def __init__(self) -> None:
        self.shapes: dict[int, Shape] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
        """See ``Layout.attend``; one token's attention is its value."""
        if layer in self.shapes:
            raise UserError(f"this architecture calls attention twice for layer {layer}: it cannot be sampled from with a cache")
        # On CPU float32 products are as fast as bf16 ones at one query a row, and nothing is rounded on the way to the softmax.
        dtype = torch.promote_types(key.dtype, torch.float32) if key.device.type == "cpu" else key.dtype
        self.shapes[layer] = Shape(key.shape[1], key.shape[2], value.shape[2], dtype)
        return value.repeat_interleave(query.shape[1] // key.shape[1], 1)


class Pool:
    """``pages`` pages of every layer's keys and values, (P, G, PAGE, D) each, and which of them are taken."""

    def __init__(self, shapes: Mapping[int, Shape], pages: int, device: torch.device) -> None:
        count = pages + RESERVED

        def zeros(shape: Shape, size: int) -> Tensor:
            # Zeros, for a hidden column has weight 0, and 0 x NaN would still be NaN.
            return torch.zeros(count, shape.heads, PAGE, size, dtype=shape.dtype, device=device)

        self.layers = {layer: (zeros(shape, shape.key), zeros(shape, shape.value)) for layer, shape in shapes.items()}
        self._taken = np.zeros(count, dtype=bool)
        self._taken[:RESERVED] = True

    @staticmethod
    def bytes_needed(shapes: Mapping[int, Shape], pages: int) -> int:
        """What the constructor allocates."""
        return (pages + RESERVED) * PAGE * sum(shape.bytes_per_token for shape in shapes.values())

    @property
    def used(self) -> int:
        """Pages up to the last one taken, the reserved ones included: those that a step computes."""
        return int(np.flatnonzero(self._taken)[-1]) + 1

    def take(self, count: int) -> np.ndarray:
        """(count,) free pages, the lowest ones."""
        pages = np.flatnonzero(~self._taken)[:count]
        assert len(pages) == count, f"{count} pages wanted, {len(pages)} free"
        self._taken[pages] = True
        return pages

    def give_back(self, pages: np.ndarray) -> None:
        """``pages`` are free again; reserved ones among them stay."""
        self._taken[pages] = False
        self._taken[:RESERVED] = True

    def close_ranks(self, table: np.ndarray) -> None:
        """Moves the last pages into the holes when there are many, and their numbers in ``table``."""
        used = self.used
        if used - int(self._taken.sum()) <= HOLES * used:
            return
        targets, sources = moves_to_front(self._taken)
        for pair in self.layers.values():
            for tensor in pair:
                tensor[torch.from_numpy(targets)] = tensor[torch.from_numpy(sources)]
        self._taken[targets], self._taken[sources] = True, False
        now_at = np.arange(len(self._taken))
        now_at[sources] = targets
        table[:] = now_at[table]


@dataclass(frozen=True)
class Capture(Layout):
    """Attends as ``inner`` and writes the keys and values of tokens ``tokens`` (t,) to ``pages`` (t,) and ``columns`` (t,)."""

    inner: Layout
    pool: Pool
    tokens: Tensor
    pages: Tensor
    columns: Tensor

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
        """See ``Layout.attend``."""
        for kept, new in zip(self.pool.layers[layer], (key, value), strict=True):
            kept[self.pages, :, self.columns] = new.index_select(0, self.tokens).to(kept.dtype)
        return self.inner.attend(layer, query, key, value, rule)


class Reading:
    """How n rows read a pool.

    ``pages`` (n, p) are each row's pages, ``NOWHERE`` where it has fewer; ``place`` (n,) below ``width`` tells rows that read
    the same pages apart; ``used`` pages are computed.
    """

    def __init__(self, pool: Pool, pages: np.ndarray, place: np.ndarray, width: int) -> None:
        self.layers, self.used, self.blocks = pool.layers, pool.used, pages.shape[1]
        self._width, self._pages, self._place = width, pages, place
        # Pages and places that no row reads compute row 0 and block 0 again.
        self._row_at = np.zeros((self.used, width), dtype=np.int64)
        self._block_of = np.zeros(self.used, dtype=np.int64)
        self._row_at[pages, place[:, None]] = np.arange(len(pages))[:, None]
        self._block_of[pages] = np.arange(self.blocks)

    def index(self, heads: int, groups: int, blocks: int, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Indices between head rows (n, H), their blocks (n, H, blocks) and the pages' rows (P, G, W, H / G).

        Returns: the head row of each page's row; the page's row of each head row's p blocks; the block of each page's row,
        where this pool's are blocks ``first`` to ``first + p`` of ``blocks``.
        """
        share = heads // groups
        group, member = np.arange(groups)[:, None, None], np.arange(share)
        head_row = self._row_at[:, None, :, None] * heads + group * share + member
        page_row = (self._pages[:, None, :] * groups + np.arange(groups)[:, None]) * self._width + self._place[:, None, None]
        page_rows = page_row[:, :, None, :] * share + member[:, None]
        block = head_row * blocks + first + self._block_of[:, None, None, None]
        return head_row.ravel(), page_rows.ravel(), block.ravel()


@dataclass(frozen=True)
class Part:
    """One pool's share of a step, for one number of heads: ``Reading.index`` as tensors."""

    reading: Reading
    head_row: Tensor
    page_rows: Tensor
    block: Tensor

    def scores(self, queries: Tensor, layer: int) -> Tensor:
        """Queries (n * H, D) -> their products with the keys (n * H * p, PAGE)."""
        keys = self.reading.layers[layer][0][: self.reading.used].flatten(0, 1)
        at_pages = queries.index_select(0, self.head_row).view(len(keys), -1, queries.shape[-1])
        return torch.bmm(at_pages, keys.transpose(1, 2)).view(-1, PAGE).index_select(0, self.page_rows)

    def values(self, weights: Tensor, layer: int) -> Tensor:
        """Weights (n * H * blocks, PAGE) -> sums of the values (n * H, D)."""
        values = self.reading.layers[layer][1][: self.reading.used].flatten(0, 1)
        at_pages = weights.index_select(0, self.block).view(len(values), -1, PAGE)
        sums = torch.bmm(at_pages, values).view(-1, values.shape[-1]).index_select(0, self.page_rows)
        return sum_pairs(sums.view(-1, self.reading.blocks, values.shape[-1]))


@dataclass(frozen=True)
class Readings:
    """What stays the same from step to step while no row and no page comes or goes."""

    prompts: Reading
    own: Reading
    device: torch.device
    made: dict[tuple[int, int], list[Part]] = field(default_factory=dict)

    def parts(self, heads: int, groups: int) -> list[Part]:
        """The prompts' part, where there are any, and the rows' own."""
        if (heads, groups) not in self.made:
            readings = [self.prompts, self.own] if self.prompts.blocks else [self.own]
            blocks, first, parts = sum(reading.blocks for reading in readings), 0, []
            for reading in readings:
                index = (torch.from_numpy(array).to(self.device) for array in reading.index(heads, groups, blocks, first))
                parts.append(Part(reading, *index))
                first += reading.blocks
            self.made[heads, groups] = parts
        return self.made[heads, groups]


@dataclass(frozen=True)
class Decode(Layout):
    """One new token in each of n rows: written to its page, attending to the row's prompt and to the row's tokens so far."""

    readings: Readings
    pages: Tensor  # (n,) the own page that the token is written to
    columns: Tensor  # (n,) how many of the row's own tokens come before it
    prefix: Tensor  # (n,) tokens in the row's prompt pages
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
        """See ``Layout.attend``."""
        count, heads, _ = query.shape
        places = self.columns % PAGE
        for kept, new in zip(self.readings.own.layers[layer], (key, value), strict=True):
            kept[self.pages, :, places] = new.to(kept.dtype)
        with torch.autocast(query.device.type, enabled=False):
            parts = self.readings.parts(heads, key.shape[1])
            queries = query.to(self.readings.own.layers[layer][0].dtype).mul(rule.scale).reshape(count * heads, -1)
            scores = torch.cat([part.scores(queries, layer).view(count, heads, -1) for part in parts], dim=-1)
            if rule.softcap is not None:
                scores = torch.tanh(scores / rule.softcap) * rule.softcap
            sinks = None if rule.sinks is None else rule.sinks.unsqueeze(-1)
            weights = softmax_with(scores.float() + self._mask(rule.window), sinks).to(queries.dtype).reshape(-1, PAGE)
            out = sum(part.values(weights, layer) for part in parts)
            assert isinstance(out, Tensor)
        return out.view(count, heads, -1).to(query.dtype)

    def _mask(self, window: int | None) -> Tensor:
        """(n, 1, columns) additive float32: 0 where the row's token may look, over the prompt's and then its own columns."""
        if window not in self.masks:
            device = self.columns.device
            prompt, own = (torch.arange(r.blocks * PAGE, device=device) for r in (self.readings.prompts, self.readings.own))
            prefix, columns = self.prefix.unsqueeze(-1), self.columns.unsqueeze(-1)
            see_prompt, see_own = prompt < prefix, own <= columns
            if window is not None:  # position p sees p - window + 1 .. p, and p = prefix + columns
                see_prompt &= prompt > prefix + columns - window
                see_own &= own > columns - window
            hide = ~torch.cat([see_prompt, see_own], dim=1)
            self.masks[window] = torch.zeros(hide.shape, device=device).masked_fill_(hide, float("-inf")).unsqueeze(1)
        return self.masks[window]


def sum_pairs(terms: Tensor) -> Tensor:
    """(N, p, D) -> (N, D), neighbours first, so that zeros at the end change no rounding."""
    while (count := terms.shape[1]) > 1:
        sums = terms[:, 0 : count - 1 : 2] + terms[:, 1::2]
        terms = torch.cat([sums, terms[:, -1:]], dim=1) if count % 2 else sums
    return terms.squeeze(1)


def pages_for(columns: int) -> int:
    """Pages that ``columns`` tokens take."""
    return -(-columns // PAGE)
