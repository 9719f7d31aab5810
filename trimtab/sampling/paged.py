"""One decoding step's attention on GPUs, as one Triton kernel: each program reads the keys and values of one row's one key-value head,
page by page, with the running softmax of FlashAttention (Dao et al. 2022, algorithm 1). What it reads is ``Pool`` and ``Rows`` as they lie,
so a prompt's pages come to all its samples from the cache of the GPU; how long rows are it learns from the GPU, so that a recorded step
(``graphs``) serves every length.

Where Triton is not installed, ``cache.Decode`` computes the same in plain tensor operations, as it does on CPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trimtab.models.rule import AttentionRule

# tl.dot takes no fewer rows.
LEAST_ROWS = 16
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _seen(
    queries, highest, total, sums, keys, values, columns, visible, scale, softcap,
    SIZE: tl.constexpr, WIDE: tl.constexpr, VALUE: tl.constexpr, VALUE_WIDE: tl.constexpr, CAP: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """One block of keys and values, at pointers ``keys`` and ``values``, joins the running softmax."""
    d, dv = tl.arange(0, WIDE), tl.arange(0, VALUE_WIDE)
    k = tl.load(keys + columns[:, None] * SIZE + d[None, :], mask=(d < SIZE)[None, :], other=0.0)
    v = tl.load(values + columns[:, None] * VALUE + dv[None, :], mask=(dv < VALUE)[None, :], other=0.0)
    scores = tl.dot(queries, tl.trans(k), input_precision="ieee" if EXACT else "tf32") * scale
    if CAP:
        scores = softcap * (2 * tl.sigmoid(2 * scores / softcap) - 1)  # tanh
    scores = tl.where(visible[None, :], scores, float("-inf"))
    top = tl.maximum(highest, tl.max(scores, 1))
    weights = tl.exp2((scores - top[:, None]) * LOG2E)
    shrink = tl.exp2((highest - top) * LOG2E)
    sums = sums * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee" if EXACT else "tf32")
    return top, total * shrink + tl.sum(weights, 1), sums


@triton.jit
def _attend(
    query, prompt_keys, prompt_values, own_keys, own_values, pages, prefix, columns, sinks, out, scale, softcap, window, page_count, blocks,
    GROUPS: tl.constexpr, SHARE: tl.constexpr, SHARE_WIDE: tl.constexpr, SIZE: tl.constexpr, WIDE: tl.constexpr, VALUE: tl.constexpr,
    VALUE_WIDE: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr, CAP: tl.constexpr, WINDOW: tl.constexpr, SINKS: tl.constexpr,
    PROMPTS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    row, group = tl.program_id(0), tl.program_id(1)
    m, d, dv = tl.arange(0, SHARE_WIDE), tl.arange(0, WIDE), tl.arange(0, VALUE_WIDE)
    heads = group * SHARE + m
    at = (row * GROUPS * SHARE + heads)[:, None]
    real = (m < SHARE)[:, None]
    queries = tl.load(query + at * SIZE + d[None, :], mask=real & (d < SIZE)[None, :], other=0.0).to(own_keys.dtype.element_ty)
    if SINKS:  # one more score, whose weight goes nowhere
        highest = tl.load(sinks + heads, mask=m < SHARE, other=0.0).to(tl.float32)
        total = tl.full((SHARE_WIDE,), 1.0, tl.float32)
    else:
        highest, total = tl.full((SHARE_WIDE,), -1e30, tl.float32), tl.zeros((SHARE_WIDE,), tl.float32)
    sums = tl.zeros((SHARE_WIDE, VALUE_WIDE), tl.float32)
    known, length = tl.load(prefix + row), tl.load(columns + row)
    if PROMPTS:
        n = tl.arange(0, PAGE)
        first = 0
        if WINDOW:
            first = tl.maximum(known + length - window + 1, 0) // PAGE
        for i in range(first, (known + PAGE - 1) // PAGE):
            place = (tl.load(pages + row * page_count + i) * GROUPS + group) * PAGE
            column = i * PAGE + n
            visible = column < known
            if WINDOW:
                visible = visible & (column > known + length - window)
            highest, total, sums = _seen(
                queries, highest, total, sums, prompt_keys + place * SIZE, prompt_values + place * VALUE, n, visible, scale, softcap,
                SIZE, WIDE, VALUE, VALUE_WIDE, CAP, EXACT,
            )  # fmt: skip
    n = tl.arange(0, BLOCK)
    first = 0
    if WINDOW:
        first = tl.maximum(length - window + 1, 0) // BLOCK
    for i in range(first, length // BLOCK + 1):
        place = ((row.to(tl.int64) * blocks + i) * GROUPS + group) * BLOCK
        column = i * BLOCK + n
        visible = column <= length
        if WINDOW:
            visible = visible & (column > length - window)
        highest, total, sums = _seen(
            queries, highest, total, sums, own_keys + place * SIZE, own_values + place * VALUE, n, visible, scale, softcap,
            SIZE, WIDE, VALUE, VALUE_WIDE, CAP, EXACT,
        )  # fmt: skip
    sums = sums / total[:, None]
    tl.store(out + at * VALUE + dv[None, :], sums.to(out.dtype.element_ty), mask=real & (dv < VALUE)[None, :])


def paged_attention(
    query: Tensor, prompt: tuple[Tensor, Tensor] | None, own: tuple[Tensor, Tensor], pages: Tensor | None, prefix: Tensor, columns: Tensor,
    rule: AttentionRule,
) -> Tensor:  # fmt: skip
    """query (n, H, D) of one new token in each row -> (n, H, D).

    ``prompt``: keys and values (P, G, PAGE, D) of the pool, and ``pages`` (n, p) which of them hold a row's prompt of ``prefix`` (n,)
    tokens; ``own``: (rows, b, G, BLOCK, D), a row's own tokens 0 .. ``columns`` (n,), the new one the last.
    """
    (count, heads, size), (_, blocks, groups, block, _) = query.shape, own[0].shape
    value, share = own[1].shape[-1], heads // groups
    out = torch.empty(count, heads, value, dtype=query.dtype, device=query.device)
    first = own if prompt is None else prompt
    _attend[(count, groups)](
        query.contiguous(), *first, *own, columns if pages is None else pages, prefix, columns,
        columns if rule.sinks is None else rule.sinks.contiguous(), out, rule.scale, rule.softcap or 1.0, rule.window or 0,
        0 if pages is None else pages.shape[1], blocks,
        GROUPS=groups, SHARE=share, SHARE_WIDE=max(LEAST_ROWS, triton.next_power_of_2(share)), SIZE=size,
        WIDE=max(16, triton.next_power_of_2(size)), VALUE=value, VALUE_WIDE=max(16, triton.next_power_of_2(value)),
        PAGE=16 if prompt is None else prompt[0].shape[2], BLOCK=block, CAP=rule.softcap is not None, WINDOW=rule.window is not None,
        SINKS=rule.sinks is not None, PROMPTS=prompt is not None, EXACT=own[0].dtype == torch.float32, num_warps=4,
    )  # fmt: skip
    return out
