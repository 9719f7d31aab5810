"""Tree attention on GPUs: torch's FlexAttention (Dong et al. 2024), with the tree as its mask.

A block of queries is compared only with blocks of keys in which its trees have something to see, so the kernel's cost grows with what
is attended to; making the mask takes a moment's memory that grows with the batch squared, a few bytes for each pair of tokens. Soft
caps and windows are part of the kernel; a sink is merged through the log-sum-exp, as in the CPU kernel.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

from trimtab.models.attention import AttentionRule
from trimtab.trees import Segments


def flex_trees(segments: Segments, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
    """query (T, H, D), key and value (T, G, D) -> (T, H, D), in the values' dtype until the end."""
    q, k, v = (t.to(value.dtype).transpose(0, 1).unsqueeze(0) for t in (query, key, value))
    kernel = _compiled() if query.device.type == "cuda" else flex_attention
    options: dict[str, Any] = {} if rule.sinks is None else {"return_aux": AuxRequest(lse=True)}
    mask, cap = tree_mask(segments, rule.window, query.device), None if rule.softcap is None else _capped(rule.softcap)
    found = kernel(q, k, v, score_mod=cap, block_mask=mask, scale=rule.scale, enable_gqa=True, **options)
    if rule.sinks is None:
        out = found
    else:
        out, lse = found[0], found[1].lse
        out = out * (lse - torch.logaddexp(lse, rule.sinks.float().view(1, -1, 1))).exp().unsqueeze(-1).to(out.dtype)
    return out[0].transpose(0, 1).to(query.dtype)


def tree_mask(segments: Segments, window: int | None, device: torch.device) -> BlockMask:
    """Which blocks of tokens see which, and inside them which token sees which; made once per batch and window."""
    cached = ("flex", window)
    if cached not in segments.cache:
        tree, branch, position = (column.to(device) for column in segments.columns())

        def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            own = (branch[k] == 0) | (branch[k] == branch[q])
            seen = (tree[q] == tree[k]) & own & (k <= q)
            return seen if window is None else seen & (position[q] - position[k] < window)

        segments.cache[cached] = create_block_mask(sees, None, None, segments.tokens, segments.tokens, device=str(device))
    found = segments.cache[cached]
    assert isinstance(found, BlockMask)
    return found


def _capped(softcap: float) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    def cap(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return cap


@functools.cache
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=True)
