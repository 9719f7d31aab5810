"""Tree attention on CPUs by compiled code of our own (``common/attention.cpp``): every rule, each tree's head by itself."""

from ctypes import Array
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from trimtab.common.kernels import Numbers, call, numbers, shape, strided
from trimtab.models.rule import AttentionRule, sink_slopes
from trimtab.trees import Segments


def cpu_trees(segments: Segments, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
    """query (T, H, D), key (T, G, D), value (T, G, V) -> (T, H, V), computed in float32; where ``common/kernels.py::can_run`` says so.

    The backward pass computes the weights again (Dao et al. 2022, FlashAttention, algorithm 4).

    Raises:
        RuntimeError: in the backward pass, when a second derivative is asked for.
    """
    return _CpuTrees.apply(query, key, value, rule.sinks, segments, rule)


class _CpuTrees(Function):
    """Sinks (H,) or None; first derivatives only."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None, segments: Segments, rule: AttentionRule
    ) -> Tensor:
        q, q_strides, *others = strided(query, key, value)
        out, lse = q.new_empty(*query.shape[:2], value.shape[2]), q.new_empty(query.shape[:2])
        trees = _trees(segments, len(query))
        given = (*trees, shape(query, key, value), q, q_strides, *others, *rule.numbers(), rule.float_sinks(query.shape[1]))
        call("trimtab_trees", *given, out, lse)
        ctx.save_for_backward(query, key, value, sinks, out, lse)
        ctx.trees, ctx.rule = trees, rule
        return out.to(query.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # what forward kept would count as constants, in silence
            raise RuntimeError("tree attention has no second derivative here: call autograd without create_graph, or take kernel='math'")
        query, key, value, sinks, out, lse = ctx.saved_tensors
        grad, grad_strides = strided(grads[0])
        by_head = [out.new_empty(*query.shape[:2], size) for size in (query.shape[2], key.shape[2], value.shape[2])]
        given = (*ctx.trees, shape(query, key, value), *strided(query, key, value), *ctx.rule.numbers())
        call("trimtab_trees_backward", *given, out, lse, grad, grad_strides, *by_head)
        slopes = [_by_group(found, like) for found, like in zip(by_head, (query, key, value), strict=True)]
        return *slopes, None if sinks is None else sink_slopes(grad, out, lse.T, sinks), None, None


def _trees(segments: Segments, tokens: int) -> tuple[Numbers, int]:
    """Each tree's start, prompt, number of completions and their lengths, longest first so that threads end together; how many trees."""
    if "compiled" not in segments.cache:
        spans = sorted(segments.spans, key=lambda span: -(span.prompt + sum(span.completions)))
        ends = [0]
        for span in sorted(segments.spans, key=lambda span: span.start):
            assert span.start == ends[-1], f"a span begins at {span.start}, the one before ends at {ends[-1]}"
            ends.append(span.start + span.prompt + sum(span.completions))
        assert ends[-1] == segments.tokens, f"spans of {ends[-1]} tokens, {segments.tokens} in all"
        segments.cache["compiled"] = numbers(*(n for s in spans for n in (s.start, s.prompt, len(s.completions), *s.completions)))
    trees = segments.cache["compiled"]
    assert isinstance(trees, Array) and segments.tokens == tokens, f"{segments.tokens} tokens in spans, {tokens} given"
    return trees, len(segments.spans)


def _by_group(slopes: Tensor, like: Tensor) -> Tensor:
    """Slopes (T, H, D) of each head -> of each of ``like``'s heads (T, G, D), which H / G of them share."""
    groups = like.shape[1]
    return (slopes if groups == slopes.shape[1] else slopes.unflatten(1, (groups, -1)).sum(2)).to(like.dtype)
