"""Tree attention on CPUs by compiled code of our own (``common/attention.cpp``): every rule, each tree's head by itself."""

from typing import Any

from torch import Tensor
from torch.autograd import Function

from trimtab.common.native import call, numbers, rows
from trimtab.models.rule import AttentionRule, sink_slopes
from trimtab.trees import Segments


def native_trees(segments: Segments, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
    """query (T, H, D), key (T, G, D), value (T, G, V) -> (T, H, V), computed in float32; where ``common/native.py::can_run`` says so."""
    return _NativeTrees.apply(query, key, value, rule.sinks, segments, rule)


class _NativeTrees(Function):
    """Sinks (H,) or None; first derivatives only."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None, segments: Segments, rule: AttentionRule
    ) -> Tensor:
        q, q_strides, *others = rows(query, key, value)
        out, lse = q.new_empty(*query.shape[:2], value.shape[2]), q.new_empty(query.shape[:2])
        call("trimtab_trees", *_given(segments, query, value), q, q_strides, *others, *rule.numbers(), rule.float_sinks(), out, lse)
        ctx.save_for_backward(query, key, value, sinks, out, lse)
        ctx.segments, ctx.rule = segments, rule
        return out.to(query.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, sinks, out, lse = ctx.saved_tensors
        grad, grad_strides = rows(grads[0])
        by_head = [out.new_empty(*query.shape[:2], size) for size in (query.shape[2], key.shape[2], value.shape[2])]
        given = (*_given(ctx.segments, query, value), *rows(query, key, value), *ctx.rule.numbers())
        call("trimtab_trees_backward", *given, out, lse, grad, grad_strides, *by_head)
        slopes = [_by_group(found, like) for found, like in zip(by_head, (query, key, value), strict=True)]
        return *slopes, None if sinks is None else sink_slopes(grad, out, lse.T, sinks), None, None


def _given(segments: Segments, query: Tensor, value: Tensor) -> tuple[Tensor, int, Tensor]:
    """The trees, longest first so that threads end together: each one's start, prompt, number of completions and their lengths; how many
    trees; and heads, groups, D and V."""
    if "native" not in segments.cache:
        spans = sorted(segments.spans, key=lambda span: -(span.prompt + sum(span.completions)))
        segments.cache["native"] = numbers(*(n for s in spans for n in (s.start, s.prompt, len(s.completions), *s.completions)))
    trees = segments.cache["native"]
    assert isinstance(trees, Tensor)
    return trees, len(segments.spans), numbers(query.shape[1], value.shape[1], query.shape[2], value.shape[2])


def _by_group(slopes: Tensor, like: Tensor) -> Tensor:
    """Slopes (T, H, D) of each head -> of each of ``like``'s heads (T, G, D), which H / G of them share."""
    groups = like.shape[1]
    return (slopes if groups == slopes.shape[1] else slopes.unflatten(1, (groups, -1)).sum(2)).to(like.dtype)
