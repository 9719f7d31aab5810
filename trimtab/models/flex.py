"""Tree attention on GPUs: torch's FlexAttention (Dong et al. 2024), with the tree as its mask.

A block of queries is compared only with blocks of keys in which its trees have something to see, so the kernel's cost grows with what
is attended to. Soft caps and windows are part of the kernel; a sink is merged through the log-sum-exp, as in the CPU kernel.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from trimtab.common.device import allow_programs
from trimtab.models.rule import AttentionRule
from trimtab.trees import Segments

# Tokens of a block of the mask.
BLOCK = 128


def flex_trees(segments: Segments, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
    """query (T, H, D), key and value (T, G, D) -> (T, H, D), in the values' dtype until the end."""
    q, k, v = (t.to(value.dtype).transpose(0, 1).unsqueeze(0) for t in (query, key, value))
    kernel = _compiled() if query.device.type == "cuda" else flex_attention
    options: dict[str, Any] = {} if rule.sinks is None else {"return_aux": AuxRequest(lse=True)}
    mask, cap = tree_mask(segments, rule.window, query.device), None if rule.softcap is None else _capped(rule.softcap, query.device)
    found = kernel(q, k, v, score_mod=cap, block_mask=mask, scale=rule.scale, enable_gqa=True, **options)
    if rule.sinks is None:
        out = found
    else:
        out, lse = found[0], found[1].lse
        out = out * (lse - torch.logaddexp(lse, rule.sinks.float().view(1, -1, 1))).exp().unsqueeze(-1).to(out.dtype)
    return out[0].transpose(0, 1).to(query.dtype)


def tree_mask(segments: Segments, window: int | None, device: torch.device) -> BlockMask:
    """Which blocks of tokens see which, and inside them which token sees which; made once per batch, window and device."""
    cached = ("flex", window, device)
    if cached not in segments.cache:
        # Bounds of each query, compared with the key's place: a mask that looks up something of each key costs ten times as much.
        start, root, trunk, position = (column.to(device, torch.int32) for column in segments.bounds())

        def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            own = k >= start[q]
            seen = (k <= q) & (own | ((k >= root[q]) & (k < trunk[q])))
            return seen if window is None else seen & (torch.where(own, q - k, position[q] - (k - root[q])) < window)

        some, whole = seen_blocks(segments, BLOCK)
        if window is not None:  # no block is seen whole for certain
            some, whole = some | whole, np.zeros_like(whole)
        segments.cache[cached] = BlockMask.from_kv_blocks(
            *_listed(some, device), *_listed(whole, device), BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(segments.tokens, segments.tokens)
        )
    found = segments.cache[cached]
    assert isinstance(found, BlockMask)
    return found


def seen_blocks(segments: Segments, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(B, B) bool, over blocks of ``size`` queries and blocks of ``size`` keys: pairs in which some query may see some key, and pairs in
    which every query sees every key; the second are not among the first.

    By rectangles, so that the work grows with segments and blocks: comparing every token with every other one took more memory than
    the layers' activations.
    """
    count = -(-segments.tokens // size)
    some, whole = (np.zeros((count, count), dtype=bool) for _ in range(2))

    def mark(queries: tuple[int, int], keys: tuple[int, int]) -> None:
        """Each query sees those of the keys that do not come after it."""
        touched = [(start // size, -(-stop // size)) for start, stop in (queries, keys)]
        inside = [(-(-start // size), stop // size) for start, stop in (queries, keys)]
        for table, ((q0, q1), (k0, k1)), diagonal in ((some, touched, 0), (whole, inside, -1)):
            if q0 < q1 and k0 < k1:
                table[q0:q1, k0:k1] |= np.tri(q1 - q0, k1 - k0, q0 - k0 + diagonal, dtype=bool)

    for span in segments.spans:
        end = span.start + span.prompt
        mark((span.start, end + sum(span.completions)), (span.start, end))
        for length in span.completions:
            mark((end, end + length), (end, end + length))
            end += length
    return some & ~whole, whole


def _listed(table: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """(B, B) bool -> how many are true in each row (1, 1, B), and which, ascending, before the others (1, 1, B, B)."""
    counts, order = table.sum(1), np.argsort(~table, axis=1, kind="stable")
    return tuple(torch.from_numpy(a.astype(np.int32)).to(device)[None, None] for a in (counts, order))  # type: ignore[return-value]


@functools.cache
def _capped(softcap: float, device: torch.device) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    limit = torch.tensor(softcap, device=device)  # a plain number would become a symbol of the compiled kernel, and those it does not take

    def cap(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return limit * torch.tanh(score / limit)

    return cap


@functools.cache
def _compiled() -> Any:
    allow_programs()  # and beyond them refuses (``fullgraph``): memory of the plain form grows with tokens squared
    return torch.compile(flex_attention, dynamic=True, fullgraph=True)
