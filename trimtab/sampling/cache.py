"""Keys and values of prompts in pages and of samples in rows, and the layouts that write and read them.

A prompt's keys and values exist once for all its samples, in pages of ``PAGE`` consecutive tokens (Kwon et al. 2023, PagedAttention), which
compiled kernels read as they lie (``cpu``, ``paged``). Where there is none, plain operations do: pages in use lie side by side, so one
decoding step reads each of them once, in order, in one batched product; reading the used part of longer rows instead was three times
slower on CPU (51 against 15 us per row of 64 tokens), for gaps defeat the prefetcher. Queries are spread to the pages that they read,
scores come back to their rows for one softmax, weights go to the pages again (torch's SDPA needs repeated heads and a mask here).

A sample's own keys and values have a row of blocks of ``BLOCK`` tokens, as many as the longest sample so far has needed: what each
query reads lies where the query is, so nothing is spread or fetched. Blocks and pages have fixed sizes, because a product of 64
columns rounds differently from one of 80: what is drawn beside a sample then changes its logprobs by a rounding at most
(``NativeEngine.sample`` has what is promised).

A prompt's last token is not among its pages: each sample feeds it as its own column 0, so that the first token is drawn like
all others. Sample column c then has position prefix + c, prompt column c has position c.

Shape legend: n rows (samples being drawn), P pages, p pages of a row at most, b blocks of a row, W samples of a prompt at most, H heads, G
key-value heads, D head size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.common.device import has_triton
from trimtab.common.errors import UserError
from trimtab.common.kernels import can_run
from trimtab.models.rule import AttentionRule, Layout, softmax_with
from trimtab.sampling.cpu import cpu_step
from trimtab.sampling.schedule import compaction

PAGE = 64
BLOCK = 32
NOWHERE = 0  # the page that stays zero: what a shorter prompt reads where a longer one has another page
RESERVED = 1
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
        # On CPU float32 products are as fast as bf16 ones at one query a row, and nothing is rounded on the way to the softmax. On GPUs
        # autocast's values tell the format: rotation has made the keys float32, and FlexAttention makes them as narrow again.
        dtype = torch.promote_types(key.dtype, torch.float32) if key.device.type == "cpu" else value.dtype
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

    @property
    def size(self) -> int:
        """Pages in all, the reserved ones included."""
        return len(self._taken)

    @staticmethod
    def bytes_needed(shapes: Mapping[int, Shape], pages: int) -> int:
        """What the constructor allocates."""
        return (pages + RESERVED) * PAGE * sum(shape.bytes_per_token for shape in shapes.values())

    @property
    def used(self) -> int:
        """Pages up to the last one taken, the reserved ones included: those that a step computes."""
        return int(np.flatnonzero(self._taken)[-1]) + 1

    def allocate(self, count: int) -> np.ndarray:
        """(count,) free pages, the lowest ones."""
        pages = np.flatnonzero(~self._taken)[:count]
        assert len(pages) == count, f"{count} pages wanted, {len(pages)} free"
        self._taken[pages] = True
        return pages

    def free(self, pages: np.ndarray) -> None:
        """``pages`` are free again; reserved ones among them stay."""
        self._taken[pages] = False
        self._taken[:RESERVED] = True

    def copy(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """Pages ``targets`` become what pages ``sources`` are."""
        of, to = torch.from_numpy(sources), torch.from_numpy(targets)
        for pair in self.layers.values():
            for tensor in pair:
                tensor[to] = tensor[of]

    def compact(self, table: np.ndarray) -> None:
        """Moves the last pages into the holes when there are many, and their numbers in ``table``."""
        used = self.used
        if used - int(self._taken.sum()) <= HOLES * used:
            return
        targets, sources = compaction(self._taken)
        self.copy(sources, targets)
        self._taken[targets], self._taken[sources] = True, False
        now_at = np.arange(len(self._taken))
        now_at[sources] = targets
        table[:] = now_at[table]


@dataclass(eq=False)  # not frozen: see TreeLayout
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


class Rows:
    """Every layer's keys and values of ``rows`` samples, (rows, b, G, BLOCK, D) each; ``blocks`` grows with the longest sample."""

    def __init__(self, shapes: Mapping[int, Shape], rows: int, device: torch.device) -> None:
        self.rows, self.blocks = rows, 0

        def nothing(shape: Shape, size: int) -> Tensor:
            return torch.zeros(rows, 0, shape.heads, BLOCK, size, dtype=shape.dtype, device=device)

        self.layers = {layer: (nothing(shape, shape.key), nothing(shape, shape.value)) for layer, shape in shapes.items()}

    @staticmethod
    def bytes_needed(shapes: Mapping[int, Shape], rows: int, columns: int) -> int:
        """What samples of ``columns`` tokens take."""
        return rows * blocks_for(columns) * BLOCK * sum(shape.bytes_per_token for shape in shapes.values())

    def reach(self, columns: int) -> None:
        """Makes room for ``columns`` tokens in each row."""
        more = blocks_for(columns) - self.blocks
        if more > 0:
            self.blocks += more
            for layer, pair in self.layers.items():
                self.layers[layer] = tuple(nn.functional.pad(t, (0, 0, 0, 0, 0, 0, 0, more)) for t in pair)  # type: ignore[assignment]

    def move(self, targets: np.ndarray, sources: np.ndarray) -> None:
        """Copies rows ``sources`` to rows ``targets``."""
        if len(targets):
            to, of = torch.from_numpy(targets), torch.from_numpy(sources)
            for pair in self.layers.values():
                for tensor in pair:
                    tensor[to] = tensor[of]


class Reading:
    """How n rows read the prompts' pool; see ``reading_tables`` for the tables, here as tensors on the pool's device."""

    def __init__(self, pool: Pool, pages: Tensor, place: Tensor, row_at: Tensor, block_of: Tensor) -> None:
        self.pool, self.used, self.blocks = pool, len(row_at), pages.shape[1]
        self._pages, self._place, self._row_at, self._block_of = pages, place, row_at, block_of
        self._indices: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}

    def scores(self, queries: Tensor, layer: int) -> Tensor:
        """Queries (n, H, D) -> their products with the keys (n, H, p * PAGE)."""
        keys = self.pool.layers[layer][0][: self.used]
        head_row, page_rows, _ = self._index(queries.shape[1], keys.shape[1], queries.device)
        at_pages = queries.flatten(0, 1).index_select(0, head_row).view(keys.shape[0] * keys.shape[1], -1, queries.shape[-1])
        products = torch.bmm(at_pages, keys.flatten(0, 1).transpose(1, 2))
        return products.view(-1, PAGE).index_select(0, page_rows).view(*queries.shape[:2], -1)

    def values(self, weights: Tensor, layer: int) -> Tensor:
        """Weights (n, H, p * PAGE) -> sums of the values (n, H, D)."""
        values = self.pool.layers[layer][1][: self.used]
        _, page_rows, block = self._index(weights.shape[1], values.shape[1], weights.device)
        at_pages = weights.reshape(-1, PAGE).index_select(0, block).view(values.shape[0] * values.shape[1], -1, PAGE)
        sums = torch.bmm(at_pages, values.flatten(0, 1)).view(-1, values.shape[-1])
        which = page_rows.view(-1, self.blocks)
        if sums.device.type == "cuda":  # summed in float32
            added = sums.index_select(0, page_rows).view(*which.shape, -1).sum(1)
        else:  # each head row's pages, fetched and added one after the other; zeros of NOWHERE at the end change no rounding
            added = nn.functional.embedding_bag(which, sums, mode="sum")
        return added.view(*weights.shape[:2], -1)

    def _index(self, heads: int, groups: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Indices between head rows (n, H), their blocks (n, H, p) and the pages' rows (P, G, W, H / G), made once.

        Returns: the head row of each page's row; the page's row of each head row's p blocks; the block of each page's row.
        """
        if (heads, groups) not in self._indices:
            share, width = heads // groups, self._row_at.shape[1]
            group, member = torch.arange(groups, device=device), torch.arange(share, device=device)
            head_row = self._row_at[:, None, :, None] * heads + group[:, None, None] * share + member
            page_row = (self._pages[:, None, :] * groups + group[:, None]) * width + self._place[:, None, None]
            page_rows = page_row[:, :, None, :] * share + member[:, None]
            block = head_row * self.blocks + self._block_of[:, None, None, None]
            self._indices[heads, groups] = (head_row.flatten(), page_rows.flatten(), block.flatten())
        return self._indices[heads, groups]


def reads_pages(pool: Pool) -> bool:
    """Whether a kernel reads the pages of ``pool`` as they lie (``Paged``), or plain operations do (``Reading``)."""
    keys, _ = next(iter(pool.layers.values()))
    return has_triton(keys.device) or can_run(keys)


def reading_tables(pages: np.ndarray, place: np.ndarray, width: int, used: int) -> tuple[np.ndarray, ...]:
    """Rows' pages (n, p), ``NOWHERE`` where a row has fewer, and ``place`` (n,) below ``width``, which tells rows that read the same pages
    apart -> these two, which row reads each of the ``used`` pages at each place (P, W), and as which of its blocks (P,).

    Pages and places that no row reads compute row 0 and block 0 again.
    """
    row_at, block_of = np.zeros((used, width), dtype=np.int64), np.zeros(used, dtype=np.int64)
    row_at[pages, place[:, None]] = np.arange(len(pages))[:, None]
    block_of[pages] = np.arange(pages.shape[1])
    return pages, place.copy(), row_at, block_of


@dataclass(frozen=True)
class Paged:
    """What kernels need to know instead: ``pages`` (n, p) are each row's pages."""

    pool: Pool
    pages: Tensor


@dataclass(eq=False)  # not frozen: see TreeLayout
class Decode(Layout):
    """One new token in each of n rows: written to its row, attending to the row's prompt and to the row's tokens so far. Tokens behind
    these fill a product up: they see nothing, and nothing of them is kept."""

    prompts: Reading | Paged | None  # None where no row has a prompt of more than one token
    own: Rows
    columns: Tensor  # (n,) how many of the row's own tokens come before it
    prefix: Tensor  # (n,) tokens in the row's prompt pages
    masks: dict[int | None, Tensor] = field(default_factory=dict)
    places: dict[int, Tensor] = field(default_factory=dict)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
        """See ``Layout.attend``."""
        n = len(self.columns)
        if len(query) == n:
            return self._attend(layer, query, key, value, rule)
        return nn.functional.pad(self._attend(layer, query[:n], key[:n], value[:n], rule), (0, 0, 0, 0, 0, len(query) - n))

    def _attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
        own, prompts = self.own.layers[layer], self.prompts
        paged = (None, None) if not isinstance(prompts, Paged) else (prompts.pool.layers[layer], prompts.pages)
        if not isinstance(prompts, Reading) and can_run(own[0]):
            return cpu_step((query, key, value), paged[0], own, paged[1], self.prefix, self.columns, rule).to(query.dtype)
        keys, values = (self._written(kept, new) for kept, new in zip(own, (key, value), strict=True))
        if has_triton(query.device):
            from trimtab.sampling.paged import paged_attention  # Triton is not there without a GPU

            return paged_attention(query, paged[0], (keys, values), paged[1], self.prefix, self.columns, rule)
        assert not isinstance(prompts, Paged)
        with torch.autocast(query.device.type, enabled=False):
            queries = query.to(keys.dtype).mul(rule.scale)
            scores = own_scores(queries, keys)
            if prompts is not None:
                scores = torch.cat([prompts.scores(queries, layer), scores], dim=-1)
            if rule.softcap is not None:
                scores = torch.tanh(scores / rule.softcap) * rule.softcap
            sinks = None if rule.sinks is None else rule.sinks.unsqueeze(-1)
            weights = softmax_with(scores.float() + self._mask(rule.window, prompts), sinks).to(queries.dtype)
            out = own_values(weights[..., -self.own.blocks * BLOCK :], values)
            if prompts is not None:
                out = prompts.values(weights[..., : prompts.blocks * PAGE], layer) + out
        return out.to(query.dtype)

    def _written(self, kept: Tensor, new: Tensor) -> Tensor:
        """The n rows of ``kept`` (rows, b, G, BLOCK, D), after ``new`` (n, G, D) took its place among them."""
        groups = kept.shape[2]
        if groups not in self.places:
            row = torch.arange(len(self.columns), device=self.columns.device)
            block = (row * self.own.blocks + self.columns // BLOCK).unsqueeze(-1) * groups
            group = torch.arange(groups, device=self.columns.device)
            self.places[groups] = ((block + group) * BLOCK + self.columns.unsqueeze(-1) % BLOCK).flatten()
        kept.view(-1, kept.shape[-1]).index_copy_(0, self.places[groups], new.reshape(-1, new.shape[-1]).to(kept.dtype))
        return kept[: len(self.columns)]

    def _mask(self, window: int | None, prompts: Reading | None) -> Tensor:
        """(n, 1, columns) additive float32: 0 where the row's token may look, over the prompt's and then its own columns."""
        if window not in self.masks:
            device = self.columns.device
            pages = prompts.blocks if prompts is not None else 0
            prompt, own = (torch.arange(size, device=device) for size in (pages * PAGE, self.own.blocks * BLOCK))
            prefix, columns = self.prefix.unsqueeze(-1), self.columns.unsqueeze(-1)
            see_prompt, see_own = prompt < prefix, own <= columns
            if window is not None:  # position p sees p - window + 1 .. p, and p = prefix + columns
                see_prompt &= prompt > prefix + columns - window
                see_own &= own > columns - window
            hide = ~torch.cat([see_prompt, see_own], dim=1)
            self.masks[window] = torch.zeros(hide.shape, device=device).masked_fill_(hide, float("-inf")).unsqueeze(1)
        return self.masks[window]


def own_scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Queries (n, H, D) and keys (n, b, G, BLOCK, D) -> (n, H, b * BLOCK)."""
    count, blocks, groups, _, size = keys.shape
    share = queries.shape[1] // groups
    at_blocks = queries.view(count, 1, groups, share, size).expand(-1, blocks, -1, -1, -1).reshape(-1, share, size)
    products = torch.bmm(at_blocks, keys.flatten(0, 2).transpose(1, 2))
    return products.view(count, blocks, groups, share, BLOCK).permute(0, 2, 3, 1, 4).reshape(count, groups * share, blocks * BLOCK)


def own_values(weights: Tensor, values: Tensor) -> Tensor:
    """Weights (n, H, b * BLOCK) and values (n, b, G, BLOCK, D) -> (n, H, D)."""
    count, blocks, groups, _, size = values.shape
    share = weights.shape[1] // groups
    at_blocks = weights.reshape(count, groups, share, blocks, BLOCK).permute(0, 3, 1, 2, 4).reshape(-1, share, BLOCK)
    return sum_pairs(torch.bmm(at_blocks, values.flatten(0, 2)).view(count, blocks, groups * share, size))


def sum_pairs(terms: Tensor) -> Tensor:
    """(N, p, ...) -> (N, ...), neighbours first, so that zeros at the end change no rounding."""
    while (count := terms.shape[1]) > 1:
        sums = terms[:, 0 : count - 1 : 2] + terms[:, 1::2]
        terms = torch.cat([sums, terms[:, -1:]], dim=1) if count % 2 else sums
    return terms.squeeze(1)


def pages_for(columns: int) -> int:
    """Pages that a prompt of ``columns`` tokens takes."""
    return -(-columns // PAGE)


def blocks_for(columns: int) -> int:
    """Blocks that ``columns`` tokens of a sample take."""
    return -(-columns // BLOCK)
