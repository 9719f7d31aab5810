"""What tree attention is: a layer's rule, the definition on the dense mask, and how parts of a softmax are put together.

``math_attention`` is plain operations: any order of derivatives, windows, soft caps, sinks. Every kernel is held against it.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trimtab.trees import Segments, TreeSpan


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

    def numbers(self) -> tuple[float, float, int]:
        """Scale, soft cap and window as compiled code takes them: 0 for none."""
        assert self.window != 0 and self.softcap != 0
        return float(self.scale), float(self.softcap or 0), int(self.window or 0)

    def float_sinks(self, heads: int) -> Tensor | None:
        """(H,) ``sinks`` without their graph, in float32 and in one piece."""
        assert self.sinks is None or self.sinks.shape == (heads,), f"{self.sinks.shape} sinks of {heads} heads"
        return None if self.sinks is None else self.sinks.detach().float().contiguous()


class Layout(Protocol):
    """Anything that says how the tokens of a flat batch attend: a packed tree batch here, a KV cache in ``sampling``."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
        """query (T, H, D), key and value (T, G, D) with G dividing H -> (T, H, D)."""


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
