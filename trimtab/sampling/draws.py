"""Random draws that depend on names, not on order: a counter-based generator, and picking a token with one uniform.

Row legend: R rows, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trimtab.models import rows as rowwise
from trimtab.models.score import Tail
from trimtab.sampling.protocol import SamplingOptions

GAMMA = np.uint64(0x9E3779B97F4A7C15)
# x * BELOW_ONE < x in float32 for every normal x > 0: the largest target that still lies inside a cumulative sum.
BELOW_ONE = 1 - 2.0**-24
# The cumulative sum runs over blocks of this many tokens, then inside one block: sums are vectorised, running sums are not.
BLOCK = 64
# The nucleus is looked for among this many likeliest tokens before the whole vocabulary is sorted.
NUCLEUS_FIRST = 256


def uniforms(states: Sequence[int], count: int) -> np.ndarray:
    """(len(states), count) float32 in [0, 1): number t of stream ``states[i]``, by SplitMix64 (Steele, Lea and Flood 2014).

    A pure function of (state, t): 24 bits each, so that 1 itself never occurs.
    """
    with np.errstate(over="ignore"):
        counters = np.arange(1, count + 1, dtype=np.uint64) * GAMMA
        x = np.asarray(states, dtype=np.uint64)[:, None] + counters[None, :]
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def truncate(weights: Tensor, top_k: int, top_p: float) -> Tensor:
    """(R, V) probabilities -> the same with those outside top-k and then outside the top-p nucleus set to 0.

    The nucleus is the smallest set of likeliest tokens whose share is at least ``top_p`` (Holtzman et al. 2020). Not
    renormalised; ties with the last token kept are kept.
    """
    if 0 < top_k < weights.shape[-1]:
        least = torch.topk(weights, top_k, dim=-1).values[:, -1:]
        weights = weights.masked_fill(weights < least, 0.0)
    if top_p < 1:
        target = top_p * weights.sum(-1, keepdim=True)
        weights = weights.masked_fill(weights < _nucleus_least(weights, target), 0.0)
    return weights


def _nucleus_least(weights: Tensor, target: Tensor) -> Tensor:
    """(R, 1) the smallest weight inside the nucleus whose sum is ``target`` (R, 1)."""
    vocabulary = weights.shape[-1]
    # On a GPU looking whether the first ones were enough would wait for all that is under way, and cannot be recorded.
    few = vocabulary if weights.device.type == "cuda" else min(NUCLEUS_FIRST, vocabulary)
    for first in (few, vocabulary):
        ordered = torch.topk(weights, first, dim=-1).values
        below = ordered.cumsum(-1) < target
        if first == vocabulary or not bool(below[:, -1].any()):
            break
    return ordered.gather(-1, below.sum(-1, keepdim=True).clamp_(max=ordered.shape[-1] - 1))


def pick(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse-CDF draw: weights (R, V) >= 0, not all 0 in a row, and uniforms (R,) in [0, 1) -> tokens (R,), row sums (R,).

    A token of weight 0 is never picked. Each row's result depends on that row only.
    """
    rows, vocabulary = weights.shape
    whole = vocabulary // BLOCK * BLOCK
    sums = weights[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1)
    if whole < vocabulary:
        sums = torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True)], dim=1)
    running = sums.cumsum(-1)
    total = running[:, -1]
    target = uniform * total
    block = (running <= target.unsqueeze(-1)).sum(-1, keepdim=True)
    before = torch.where(block > 0, running.gather(1, (block - 1).clamp_(min=0)), 0.0)

    columns = block * BLOCK + torch.arange(BLOCK, device=weights.device)
    inside = weights.gather(1, columns.clamp(max=vocabulary - 1)).masked_fill_(columns >= vocabulary, 0.0).cumsum(-1)
    # The block's own running sum may end a rounding below the target; the last token with weight is then the answer.
    target = torch.minimum(target.unsqueeze(-1) - before, inside[:, -1:] * BELOW_ONE)
    return (block * BLOCK + (inside <= target).sum(-1, keepdim=True)).squeeze(-1), total


def draw(hidden: Tensor, raw: Tensor, tail: Tail, options: SamplingOptions, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (R, H), the head's output for them (R, V) and uniforms (R,) -> tokens (R,), their logprobs as drawn and under the
    policy (R,) float32.

    The drawn token's own logit is computed again in float32, as in ``score_tokens``, so that under autocast too
    the two agree.
    """
    policy_weights = _softmax(raw, tail, 1.0) if options.temperature == 1 or options.greedy else None
    if options.greedy:
        tokens = _cap(raw.float(), tail).argmax(-1)
    else:
        weights = policy_weights if policy_weights is not None else _softmax(raw, tail, options.temperature)
        kept = truncate(weights, options.top_k, options.top_p)
        tokens, total = pick(kept, uniform)
    with torch.autocast(hidden.device.type, enabled=False):
        exact = (hidden.float() * tail.weight[tokens].float()).sum(-1)
        if tail.bias is not None:
            exact = exact + tail.bias[tokens].float()
        exact = _cap(exact, tail)
    apart = exact - _cap(raw.gather(1, tokens.unsqueeze(-1)).squeeze(-1).float(), tail)

    def logprob(of: Tensor, scale: float, total: Tensor) -> Tensor:
        """log of the drawn token's share of the weights ``of``, which sum to ``total`` (R,), with its logit replaced by the exact one."""
        weight = of.gather(1, tokens.unsqueeze(-1)).squeeze(-1)
        mine, others = weight.log() + apart * scale, (total - weight).clamp_min(0).log()
        return mine - torch.logaddexp(others, mine)

    if policy_weights is not None:
        policy = logprob(policy_weights, 1.0, torch.ones_like(exact))
    else:
        policy = exact - torch.logsumexp(_cap(raw.float(), tail).scatter(1, tokens.unsqueeze(-1), exact.unsqueeze(-1)), dim=-1)
    if options.greedy:
        return tokens, torch.zeros_like(policy), policy
    if weights is policy_weights and kept is weights:
        return tokens, policy, policy
    return tokens, logprob(weights, 1 / options.temperature, total), policy


def _softmax(raw: Tensor, tail: Tail, temperature: float) -> Tensor:
    """The head's output (R, V) -> probabilities (R, V) float32 of logits / temperature."""
    if rowwise.can_share(raw, tail.softcap):
        return rowwise.row_shares(raw, tail.scale / temperature)
    return torch.softmax(_cap(raw.float(), tail) / temperature, dim=-1)


def _cap(raw: Tensor, tail: Tail) -> Tensor:
    """Raw products -> the model's logits."""
    scaled = raw if tail.scale == 1.0 else raw * tail.scale
    return scaled if tail.softcap is None else tail.softcap * torch.tanh(scaled / tail.softcap)
