"""Tree attention on GPUs in half precision: torch's FlashAttention-2 (Dao 2023) over segments of any length.

The two parts of the CPU's kernel: every segment attends to itself (causal; a completion without siblings is one segment with its prompt),
and siblings attend to their prompt. They are merged by log-sum-exp, and the merged output and log-sum-exp go to both backward kernels.
FlexAttention (``flex``) computes the same for windows and soft caps; for trees of a few hundred tokens it takes several times as long.
"""

import functools
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from trimtab.common.device import fused
from trimtab.models.rule import AttentionRule, merge, sink_slopes, with_sinks
from trimtab.trees import Segments

LARGEST_HEAD = 256

_forward = torch.ops.aten._flash_attention_forward
_backward = torch.ops.aten._flash_attention_backward


@dataclass(frozen=True)
class Ranges:
    """Segments as the kernel takes them: where each begins and the last ends (n + 1,) int32, and the longest.

    ``rows`` (Q,) are the siblings' tokens, whose segments are ``queries``; ``prompt_rows`` (P,) those of their prompts, ``keys``.
    """

    own: Tensor
    own_longest: int
    rows: Tensor
    queries: Tensor
    queries_longest: int
    prompt_rows: Tensor
    keys: Tensor
    keys_longest: int


def can_flash(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the kernel takes these; the values' format is the one that is computed in."""
    size = query.shape[-1]
    sizes = size % 8 == 0 and size <= LARGEST_HEAD and value.shape[-1] == key.shape[-1] == size
    return sizes and value.dtype in (torch.bfloat16, torch.float16) and has_flash(query.device)


@functools.cache
def has_flash(device: torch.device) -> bool:
    """Whether this build of torch has the kernel, and the card can run it (Ampere and later)."""
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability(device) >= (8, 0)


def flash_trees(segments: Segments, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
    """query (T, H, D), key and value (T, G, D) -> (T, H, D), in the values' format until the end."""
    q, k = query.to(value.dtype), key.to(value.dtype)
    out = _FlashTrees.apply(q, k, value, rule.sinks, ranges(segments, query.device), rule.scale)
    return out.to(query.dtype)


def ranges(segments: Segments, device: torch.device) -> Ranges:
    """The kernel's view of ``segments``, made once per batch and device."""
    cached = ("ranges", device)
    if cached not in segments.cache:
        own: list[int] = []
        queries: list[int] = []
        keys: list[int] = []
        rows: list[Tensor] = []
        prompts: list[Tensor] = []
        for span in segments.spans:
            if len(span.completions) == 1:  # nobody shares this prompt
                own.append(span.prompt + span.completions[0])
                continue
            own += [span.prompt, *span.completions]
            if span.completions:
                end, size = span.start + span.prompt, sum(span.completions)
                queries.append(size)
                keys.append(span.prompt)
                rows.append(torch.arange(end, end + size))
                prompts.append(torch.arange(span.start, end))
        none = torch.zeros(0, dtype=torch.long)
        segments.cache[cached] = Ranges(
            _bounds(own, device), max(own, default=0),
            torch.cat([none, *rows]).to(device), _bounds(queries, device), max(queries, default=0),
            torch.cat([none, *prompts]).to(device), _bounds(keys, device), max(keys, default=0),
        )  # fmt: skip
    found = segments.cache[cached]
    assert isinstance(found, Ranges)
    return found


def _bounds(lengths: list[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device)


class _FlashTrees(torch.autograd.Function):
    """query (T, H, D), key and value (T, G, D), sinks (H,) or None -> (T, H, D); first derivatives only."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None, ranges: Ranges, scale: float
    ) -> Tensor:  # fmt: skip
        own, longest, rows = ranges.own, ranges.own_longest, ranges.rows
        out, lse, *ctx.random = _forward(query, key, value, own, own, longest, longest, 0.0, True, False, scale=scale)[:4]
        assert lse.shape == (query.shape[1], len(query)), f"torch's FlashAttention gives log-sum-exps of shape {tuple(lse.shape)}"
        if len(rows):
            q, k, v = query.index_select(0, rows), *(t.index_select(0, ranges.prompt_rows) for t in (key, value))
            seen = _forward(
                q, k, v, ranges.queries, ranges.keys, ranges.queries_longest, ranges.keys_longest, 0.0, False, False, scale=scale
            )  # fmt: skip
            mixed, total = fused(merge, query.device)(out.index_select(0, rows), lse.index_select(1, rows), seen[0], seen[1])
            out.index_copy_(0, rows, mixed)
            lse.index_copy_(1, rows, total)
        if sinks is not None:
            out, lse = with_sinks(out, lse, sinks)
        ctx.save_for_backward(query, key, value, sinks, out, lse)
        ctx.ranges, ctx.scale = ranges, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, sinks, out, lse = ctx.saved_tensors
        ranges, scale, grad = ctx.ranges, ctx.scale, grads[0].contiguous()
        own, longest, rows, prompts = ranges.own, ranges.own_longest, ranges.rows, ranges.prompt_rows
        d_query, d_key, d_value = _backward(
            grad, query, key, value, out, lse, own, own, longest, longest, 0.0, True, *ctx.random, scale=scale
        )  # fmt: skip
        if len(rows):
            g, q, o = (t.index_select(0, rows) for t in (grad, query, out))
            k, v = (t.index_select(0, prompts) for t in (key, value))
            d_shared = _backward(
                g, q, k, v, o, lse.index_select(1, rows), ranges.queries, ranges.keys, ranges.queries_longest, ranges.keys_longest, 0.0,
                False, *ctx.random, scale=scale,
            )  # fmt: skip
            for whole, part, where in zip((d_query, d_key, d_value), d_shared, (rows, prompts, prompts), strict=True):
                whole.index_add_(0, where, part)
        d_sinks = None if sinks is None else sink_slopes(grad, out, lse, sinks)
        return d_query, d_key, d_value, d_sinks, None, None
