"""Tree attention: one function registered with transformers, so that any decoder-only model runs on trees unmodified.

The layout travels as the keyword ``layout`` of the model's forward, never as a global: with activation checkpointing and two
micro-batches alive a global gives silently wrong gradients. Some families' layers (StableLM, Nemotron) hand their attention
the position ids but no keyword they do not know; for them the position ids carry the layout as an attribute. No mask function
is registered under our name, so transformers builds no mask and cannot take position restarts for new sequences.

Two kernels compute the same thing. ``math`` is plain operations on the dense mask: the definition, any order of
derivatives, soft caps. ``cpu`` is made of calls to torch's flash attention for CPU: completions attend to themselves
(causal) and, where siblings share a prompt, to the prompt (unmasked); the two parts are merged by log-sum-exp
(Dao et al. 2022, FlashAttention, section 3.1), and the merged output and log-sum-exp go to both backward kernels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from trimtab.common.errors import UserError
from trimtab.trees import Segments, TreeSpan

NAME = "trimtab"
CARRIED = "trimtab_layout"  # the attribute under which position ids carry the layout
# Tensors that layers hand on and that change nothing here.
HARMLESS = ("position_ids", "cache_position")
# Two segments share one kernel call, the shorter padded, when the shorter is at least this share of the longer or no more
# than so many tokens shorter ...
BUCKET_SHARE, BUCKET_SLACK = 0.5, 16
# ... and the longer is at most this long: above it a call's cost is its arithmetic, and padding only adds to that.
BUCKET_LONGEST = 256
# FlexAttention's kernels begin at this head size.
FLEX_SMALLEST = 16
# A log-sum-exp under which every weight is 0.
NEVER = 1e30

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class AttentionRule:
    """How a layer turns products of queries and keys into weights: softmax over cap(``scale`` * product) and the sink.

    ``window`` w lets position p see positions p - w + 1 .. p of its own branch (Mistral); ``softcap`` c replaces a score s by
    c * tanh(s / c) (Gemma 2); ``sinks`` (H,) are one more score in each head's softmax, whose weight goes nowhere (gpt-oss).
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None


class Layout(Protocol):
    """Anything that says how the tokens of a flat batch attend: a packed tree batch here, a KV cache in ``sampling``."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
        """query (T, H, D), key and value (T, G, D) with G dividing H -> (T, H, D)."""


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *, layout: Layout | None = None,
    scaling: float | None = None, dropout: float = 0.0, sliding_window: int | None = None, softcap: float | None = None,
    s_aux: Tensor | None = None, **others: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """The function transformers calls in every layer: query (1, H, T, D), key and value (1, G, T, D) -> (1, T, H, D).

    Raises:
        UserError: the architecture asks for something this attention does not do.
    """
    layout = layout if layout is not None else getattr(others.get("position_ids"), CARRIED, None)
    assert layout is not None, "pass layout= to the model's forward"
    assert attention_mask is None, "transformers made a mask although none is registered"
    unknown = [name for name, value in others.items() if isinstance(value, Tensor) and name not in HARMLESS]
    if unknown:  # a position bias, say: leaving one out would be silently wrong
        raise UserError(f"{type(module).__name__}: tree attention does not know its {', '.join(unknown)}")
    if dropout:
        raise UserError(f"{type(module).__name__}: attention dropout is not supported by tree attention; set it to 0")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    layer = int(getattr(module, "layer_idx", 0))
    rule = AttentionRule(scale, sliding_window, softcap, s_aux)
    out = layout.attend(layer, query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1), rule)
    return out.unsqueeze(0), None


AttentionInterface.register(NAME, attention)


def carrying(positions: Tensor, layout: Layout) -> Tensor:
    """(T,) positions -> (1, T) position ids that carry ``layout``.

    They are an argument of each layer, so the layer's recomputation under activation checkpointing sees the same ones.
    """
    ids = positions.unsqueeze(0)
    setattr(ids, CARRIED, layout)
    return ids


@dataclass(eq=False)  # not frozen: torch.compile looks into frozen ones, and compiles again for other numbers of spans (torch 2.11)
class TreeLayout:
    """The layout of a packed ``TreeBatch``. ``kernel``: ``math``; ``trees``, the same tree by tree; or ``auto`` for the fastest that can:
    ``cpu``, on GPUs ``varlen`` or ``flex``."""

    segments: Segments
    kernel: str = "auto"

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
        """See ``Layout.attend``."""
        longest = max((s.prompt + max(s.completions, default=0) for s in self.segments.spans), default=0)
        if rule.window is not None and rule.window >= longest:
            rule = replace(rule, window=None)  # no token of this batch is far enough from another for the window to hide it
        plain = rule.window is None and rule.softcap is None and query.device.type == "cpu"
        if self.kernel == "math":
            return math_attention(self.segments, query, key, value, rule)
        if self.kernel == "trees":
            return tree_by_tree(self.segments, query, key, value, rule)
        if query.device.type == "cuda" and rule.window is None and rule.softcap is None:
            from trimtab.models.varlen import can_flash, flash_trees  # imports that a CPU never needs, here and below

            if can_flash(query, key, value):
                return flash_trees(self.segments, query, key, value, rule)
        if query.device.type == "cuda" and query.shape[-1] >= FLEX_SMALLEST:
            from trimtab.models.flex import flex_trees

            return flex_trees(self.segments, query, key, value, rule)
        if not plain:
            return tree_by_tree(self.segments, query, key, value, rule)
        return _FlashTrees.apply(query, key, value, rule.sinks, plan(self.segments), rule.scale)


def math_attention(segments: Segments, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
    """The definition: softmax over the dense mask, in float32 (float64 for float64 inputs). Shapes as in ``Layout.attend``."""
    mask = _allowed(segments, rule.window).to(query.device)
    wide = torch.promote_types(query.dtype, torch.float32)
    groups = query.shape[1] // key.shape[1]
    q, k, v = (
        t.transpose(0, 1).to(wide)
        for t in (query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1))
    )
    scores = (q @ k.transpose(1, 2)) * rule.scale
    if rule.softcap is not None:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    sinks = None if rule.sinks is None else rule.sinks.view(-1, 1, 1)
    weights = softmax_with(scores.masked_fill(~mask, float("-inf")), sinks)
    return (weights @ v).transpose(0, 1).to(query.dtype)


def tree_by_tree(segments: Segments, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
    """``math_attention`` of each tree alone: trees never see each other, so memory grows with the longest one squared, not the batch.

    Shapes as in ``Layout.attend``.
    """
    trees = each_alone(segments)
    sizes = [alone.tokens for alone in trees]
    parts = zip(trees, *(t.split(sizes) for t in (query, key, value)), strict=True)
    return torch.cat([math_attention(alone, q, k, v, rule) for alone, q, k, v in parts])


def each_alone(segments: Segments) -> list[Segments]:
    """The segments of each tree, as if it were the whole batch; made once per batch."""
    if "alone" not in segments.cache:
        segments.cache["alone"] = [
            Segments((TreeSpan(0, span.prompt, span.completions),), span.prompt + sum(span.completions)) for span in segments.spans
        ]
    found = segments.cache["alone"]
    assert isinstance(found, list)
    return found


def softmax_with(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Softmax over the last dimension of scores (..., K), beside one more score, ``sinks`` (broadcast to (..., 1)), if any."""
    if sinks is None:
        return torch.softmax(scores, dim=-1)
    column = sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)
    return torch.softmax(torch.cat([scores, column], dim=-1), dim=-1)[..., :-1]


def _allowed(segments: Segments, window: int | None) -> Tensor:
    """(T, T) bool mask, cached per window."""
    if ("mask", window) not in segments.cache:
        mask = segments.dense_mask()
        if window is not None:
            positions = segments.positions()
            mask &= positions[:, None] - positions[None, :] < window
        segments.cache["mask", window] = mask
    found = segments.cache["mask", window]
    assert isinstance(found, Tensor)
    return found


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


def merge(out1: Tensor, lse1: Tensor, out2: Tensor, lse2: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (Q, H, D) over two sets of keys and their log-sum-exps (H, Q) -> those over both sets."""
    total = torch.logaddexp(lse1, lse2)
    first, second = ((lse - total).exp().transpose(0, 1).unsqueeze(-1) for lse in (lse1, lse2))
    return (out1.float() * first + out2.float() * second).to(out1.dtype), total


def with_sinks(out: Tensor, lse: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
    """``merge`` with a key for each head whose score is the sink (H,) and whose value is 0: it takes its share of the weights and adds
    nothing. out (Q, H, D), lse (H, Q)."""
    total = torch.logaddexp(lse, sinks.float().unsqueeze(-1))
    return out * (lse - total).exp().transpose(0, 1).unsqueeze(-1).to(out.dtype), total


def sink_slopes(grad: Tensor, out: Tensor, lse: Tensor, sinks: Tensor) -> Tensor:
    """(H,) slopes of the sinks: d out / d sink = -(the sink's weight) * out. grad and out (Q, H, D), lse (H, Q) with the sinks in it."""
    weights = (sinks.float().unsqueeze(-1) - lse).exp()
    return -((grad.float() * out.float()).sum(-1).transpose(0, 1) * weights).sum(1).to(sinks.dtype)


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
