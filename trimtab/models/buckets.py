"""Tree attention on CPUs: calls to torch's flash attention over buckets of segments of similar length.

Completions attend to themselves (causal) and, where siblings share a prompt, to the prompt (unmasked); the two parts are merged by
log-sum-exp (Dao et al. 2022, FlashAttention, section 3.1), and the merged output and log-sum-exp go to both backward kernels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.models.rule import AttentionRule, merge, sink_slopes, with_sinks
from trimtab.trees import Segments

# Two segments share one kernel call, the shorter padded, when the shorter is at least this share of the longer or no more
# than so many tokens shorter ...
BUCKET_SHARE, BUCKET_SLACK = 0.5, 16
# ... and the longer is at most this long: above it a call's cost is its arithmetic, and padding only adds to that.
BUCKET_LONGEST = 256
# A log-sum-exp under which every weight is 0.
NEVER = 1e30

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def flash_buckets(segments: Segments, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
    """query (T, H, D), key and value (T, G, D) -> (T, H, D); no windows, no soft caps."""
    assert rule.window is None and rule.softcap is None
    return _FlashTrees.apply(query, key, value, rule.sinks, plan(segments), rule.scale)


@dataclass(frozen=True)
class Bucket:
    """Spans of similar length computed by one kernel call.

    ``queries`` (n, Lq) and ``keys`` (n, Lk) are rows of the flat batch; a padded entry repeats the span's first row, which is
    harmless: a padded query's output is dropped, and a padded key lies after every real causal query, or is hidden by ``hide``.
    """

    queries: Tensor
    keys: Tensor
    causal: bool
    hide: Tensor | None  # (n, 1, Lq, Lk) additive float mask, None where no key is padded
    whole: tuple[int, int] | None  # rows [start, stop) when queries and keys are one unpadded run: views, no copies


@dataclass(frozen=True)
class Plan:
    """Kernel calls of one batch. ``own``: every token with its own segment. ``shared``: siblings' queries with their prompt.

    ``own_back`` (T,), ``shared_back`` (Q,) and ``prompt_back`` (P,) pick the real rows, in the flat batch's order, from the
    buckets' concatenated outputs; ``shared_rows`` (Q,) and ``prompt_rows`` (P,) say which rows of the flat batch they are.
    """

    own: tuple[Bucket, ...]
    own_back: Tensor
    shared: tuple[Bucket, ...]
    shared_rows: Tensor
    shared_back: Tensor
    prompt_rows: Tensor
    prompt_back: Tensor


def plan(segments: Segments) -> Plan:
    """The kernel calls for ``segments``, made once per batch."""
    if "plan" not in segments.cache:
        own: list[tuple[int, int]] = []
        shared: list[tuple[int, int, int, int]] = []
        for span in segments.spans:
            end = span.start + span.prompt
            if len(span.completions) == 1:  # nobody shares this prompt: one causal segment, no merge needed
                own.append((span.start, span.prompt + span.completions[0]))
                continue
            own.append((span.start, span.prompt))
            if span.completions:
                shared.append((end, sum(span.completions), span.start, span.prompt))
            for length in span.completions:
                own.append((end, length))
                end += length
        own_buckets, own_rows = _own_buckets(own)
        shared_buckets, query_rows, key_rows = _shared_buckets(shared)
        rows, back = _real_rows(query_rows)
        prompts, prompt_back = _real_rows(key_rows)
        segments.cache["plan"] = Plan(
            own_buckets, _real_rows(own_rows)[1], shared_buckets, rows, back, prompts, prompt_back
        )
    found = segments.cache["plan"]
    assert isinstance(found, Plan)
    return found


def _group(lengths: Sequence[int]) -> list[list[int]]:
    """Indices grouped by similar length, longest first."""
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[groups[-1][0]] if groups else 0
        shortest = min(BUCKET_SHARE * longest, longest - BUCKET_SLACK) if longest <= BUCKET_LONGEST else longest
        if groups and lengths[i] >= shortest:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _rows(spans: Sequence[tuple[int, int]], width: int) -> tuple[Tensor, Tensor]:
    """(n, width) flat rows of each (start, length), padded with the span's first row; and the mask of real entries."""
    starts, lengths = torch.tensor([s for s, _ in spans]), torch.tensor([n for _, n in spans])
    offsets = torch.arange(width)
    real = offsets[None, :] < lengths[:, None]
    return starts[:, None] + torch.where(real, offsets[None, :], 0), real


def _own_buckets(spans: Sequence[tuple[int, int]]) -> tuple[tuple[Bucket, ...], list[tuple[Tensor, Tensor]]]:
    buckets, rows = [], []
    for group in _group([n for _, n in spans]):
        members = sorted(group)
        width = max(spans[i][1] for i in members)
        index, real = _rows([spans[i] for i in members], width)
        whole = (int(index[0, 0]), int(index[0, 0]) + width) if len(members) == 1 else None
        buckets.append(Bucket(index, index, True, None, whole))
        rows.append((index, real))
    return tuple(buckets), rows


def _shared_buckets(
    spans: Sequence[tuple[int, int, int, int]],
) -> tuple[tuple[Bucket, ...], list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    """Buckets of (query start, queries, key start, keys); grouped by keys, then by queries, so that little of either is padding."""
    buckets, query_rows, key_rows = [], [], []
    for outer in _group([k for _, _, _, k in spans]):
        for inner in _group([spans[i][1] for i in outer]):
            members = [spans[outer[i]] for i in inner]
            q_index, q_real = _rows([(s, n) for s, n, _, _ in members], max(n for _, n, _, _ in members))
            k_index, k_real = _rows([(s, n) for _, _, s, n in members], max(n for _, _, _, n in members))
            hide = None
            if not k_real.all():
                hide = torch.zeros(k_real.shape).masked_fill(~k_real, float("-inf"))[:, None, None, :]
                hide = hide.expand(-1, 1, q_index.shape[1], -1).contiguous()
            buckets.append(Bucket(q_index, k_index, False, hide, None))
            query_rows.append((q_index, q_real))
            key_rows.append((k_index, k_real))
    return tuple(buckets), query_rows, key_rows


def _real_rows(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Flat rows that are real, ascending, and where each lies in the concatenation of the parts."""
    if not parts:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    rows = torch.cat([index.flatten() for index, _ in parts])
    places = torch.cat([real.flatten() for _, real in parts]).nonzero().flatten()
    order = torch.argsort(rows[places])
    return rows[places][order], places[order]


def _take(tensor: Tensor, rows: Tensor) -> Tensor:
    """(T, H, D) and (n, L) -> (n, H, L, D)."""
    return tensor.index_select(0, rows.flatten()).view(*rows.shape, *tensor.shape[1:]).transpose(1, 2)


def _untake(parts: Sequence[Tensor], back: Tensor) -> Tensor:
    """Buckets' (n, H, L, D) outputs -> the real rows (R, H, D) in flat order."""
    flat = [p.transpose(1, 2).reshape(-1, p.shape[1], p.shape[3]) for p in parts]
    return (torch.cat(flat) if len(flat) > 1 else flat[0]).index_select(0, back)


def _operands(bucket: Bucket, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The bucket's query (n, H, Lq, D), key and value (n, G, Lk, D), in float32.

    The kernels are no slower in float32 than in bf16, and their backward is two to five times faster (8 x 150 tokens, 6 heads
    of 32, one core: 6.3 against 18.3 ms), besides being exact.
    """
    if bucket.whole is not None:
        start, stop = bucket.whole
        return tuple(t[start:stop].transpose(0, 1).unsqueeze(0).float() for t in (query, key, value))  # type: ignore[return-value]
    return _take(query, bucket.queries).float(), _take(key, bucket.keys).float(), _take(value, bucket.keys).float()


class _FlashTrees(torch.autograd.Function):
    """query (T, H, D), key and value (T, G, D), sinks (H,) or None -> (T, H, D); first derivatives only."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None, plan: Plan, scale: float
    ) -> Tensor:
        out, lse = _FlashTrees._part(plan.own, plan.own_back, query, key, value, scale)
        if plan.shared:
            seen = _FlashTrees._part(plan.shared, plan.shared_back, query, key, value, scale)
            rows = plan.shared_rows
            mixed, total = merge(out.index_select(0, rows), lse.index_select(1, rows), *seen)
            out.index_copy_(0, rows, mixed)
            lse.index_copy_(1, rows, total)
        if sinks is not None:
            out, lse = with_sinks(out, lse, sinks)
        ctx.save_for_backward(query, key, value, sinks, out, lse)
        ctx.plan, ctx.scale = plan, scale
        return out.to(query.dtype)

    @staticmethod
    def _part(
        buckets: Sequence[Bucket], back: Tensor, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Output (R, H, D) and log-sum-exp (H, R) of the real query rows."""
        outs, sums = [], []
        for bucket in buckets:
            q, k, v = _operands(bucket, query, key, value)
            out, lse = _flash(q, k, v, 0.0, bucket.causal, attn_mask=bucket.hide, scale=scale)
            outs.append(out)
            sums.append(lse.unsqueeze(-1))
        return _untake(outs, back), _untake(sums, back).squeeze(-1).T.contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, sinks, out, lse = ctx.saved_tensors
        plan, scale = ctx.plan, ctx.scale
        saved = (grads[0].contiguous(), query, key, value, out, lse)
        d_query, d_key, d_value = _FlashTrees._part_backward(plan.own, plan.own_back, plan.own_back, saved, scale)
        if plan.shared:
            d_shared = _FlashTrees._part_backward(plan.shared, plan.shared_back, plan.prompt_back, saved, scale)
            d_query.index_add_(0, plan.shared_rows, d_shared[0])
            d_key.index_add_(0, plan.prompt_rows, d_shared[1])
            d_value.index_add_(0, plan.prompt_rows, d_shared[2])
        d_sinks = None if sinks is None else sink_slopes(grads[0], out, lse, sinks)
        return d_query.to(query.dtype), d_key.to(key.dtype), d_value.to(value.dtype), d_sinks, None, None

    @staticmethod
    def _part_backward(
        buckets: Sequence[Bucket], query_back: Tensor, key_back: Tensor, saved: tuple[Tensor, ...], scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad, query, key, value, out, lse = saved
        parts: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for bucket in buckets:
            q, k, v = _operands(bucket, query, key, value)
            g, o = _take(grad, bucket.queries).float(), _take(out, bucket.queries)
            sums = lse.index_select(1, bucket.queries.flatten()).view(-1, *bucket.queries.shape).transpose(0, 1).contiguous()
            if bucket.whole is None:
                # A padded query repeats a span's first row. Its gradient must not count twice; and it sees keys that the first
                # row's log-sum-exp does not know, so that exp(score - lse) could overflow, and 0 times infinity is NaN.
                real = _real(bucket.queries)[:, None, :]
                g, sums = g * real.unsqueeze(-1), sums.masked_fill(~real, NEVER)
            results = _flash_backward(g, q, k, v, o, sums, 0.0, bucket.causal, attn_mask=bucket.hide, scale=scale)
            for kept, result in zip(parts, results, strict=True):
                kept.append(result)
        return _untake(parts[0], query_back), _untake(parts[1], key_back), _untake(parts[2], key_back)


def _real(rows: Tensor) -> Tensor:
    """(n, L) True where an entry is not padding: padding repeats the first row."""
    real = rows != rows[:, :1]
    real[:, 0] = True
    return real
