"""Model x TreeBatch -> logprobs, entropy, values, rewards. Always float32, whatever the model's dtype, and on the model's device.

The head and the softmax run on the scored positions only, in chunks whose logits stay in cache and are computed again in the
backward pass, so that a [tokens x vocabulary] tensor never exists.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trimtab.common import onednn
from trimtab.common.device import fused
from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedModel
from trimtab.models import rows as rowwise
from trimtab.models.attention import TreeLayout, carrying
from trimtab.models.rule import Layout
from trimtab.trees import TreeBatch

# Logits of one chunk: 32 MB in float32 on CPU, where half as many take a tenth more time (the weight's slopes are added up once a chunk)
# and twice as many no less; a GPU is given enough rows to be busy (2,048 of a vocabulary of 128k, half a gigabyte in bf16).
CHUNK_LOGITS, CHUNK_LOGITS_GPU = 1 << 23, 1 << 28
# In float32 the products of a head of so many weights are oneDNN's: twice as fast as MKL's with 49,152 x 576, no faster with 3,072 x 160.
LARGE_HEAD = 1 << 22
# Matrix products have a multiple of so many rows. oneDNN, which does the bf16 ones on CPU, keeps memory for every shape that it has
# met (5 MB a training step when each batch has a length of its own), and what it keeps lies scattered among freed activations: the demo
# grew to 4.7 GB and its later stages became a third slower (docs/log.md, "A process that grew to 4 GB"). A large head's chunks are
# oneDNN's in float32 too; the last one may have any number of rows, but a large head's are few. On GPUs the attention kernel computes
# blocks of so many tokens.
ROWS, ROWS_GPU = 64, 128
SLICE = 1 << 11  # rows of a table of slopes that are computed and added at once on CPUs


@dataclass(frozen=True)
class Tail:
    """What a model does between its last hidden state and its logits: logits = cap(scale * (h W^T + b))."""

    weight: Tensor  # (V, H)
    bias: Tensor | None  # (V,)
    scale: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True)
class TokenScores:
    """Per scored token, in the batch's order, differentiable."""

    logprobs: Tensor  # (S,) float32 log P(token | prompt, earlier tokens of its completion), nats
    entropy: Tensor  # (S,) float32 entropy of the full distribution the token was drawn from, nats
    rank: Tensor  # (S,) int64, no gradient: how many tokens are likelier; below k, it is among the k likeliest


def tail_of(model: PreTrainedModel) -> Tail:
    """The model's own tail: soft cap (Gemma 2), logit scale (Cohere), logit divisor (Granite), bias."""
    head = model.get_output_embeddings()
    config = model.config
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return Tail(head.weight, getattr(head, "bias", None), scale, getattr(config, "final_logit_softcapping", None))


def hidden_states(model: PreTrainedModel, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
    """(T,) ids and positions -> (T, H) last hidden states, under ``layout``."""
    body = model.base_model
    out = body(input_ids=ids.unsqueeze(0), position_ids=carrying(positions, layout), use_cache=False, layout=layout)
    return out.last_hidden_state.squeeze(0)


def tree_states(model: PreTrainedModel, batch: TreeBatch, kernel: str = "auto") -> Tensor:
    """(T or a few more, H) last hidden states of a packed batch; those of the tokens that fill up ``ROWS`` come last. ``kernel`` is
    ``TreeLayout``'s.

    Raises:
        UserError: a token id that the model has no row for (ids travel in files, and files can be wrong).
    """
    known = model.get_input_embeddings().num_embeddings
    if batch.tokens and not (0 <= batch.id_range[0] and batch.id_range[1] < known):
        for tree in batch.trees:
            used = [*tree.prompt, *(i for completion in tree.completions for i in completion)]
            refuse_unknown_ids(f"{tree.key!r}:", (min(used), max(used)), known, "leave token_ids out")
    spare = spare_tokens(batch.tokens, model.device)
    ids, positions = (nn.functional.pad(t, (0, spare)).to(model.device) for t in (batch.ids, batch.positions))
    return hidden_states(model, ids, positions, TreeLayout(batch.layout.filled(spare), kernel))


def refuse_unknown_ids(whose: str, id_range: tuple[int, int], known: int, advice: str) -> None:
    """Ids whose least and largest are ``id_range`` must have rows in a model's ``known`` embeddings.

    Raises:
        UserError: one has none; the line begins with ``whose`` and ends with ``advice``.
    """
    if not (0 <= id_range[0] and id_range[1] < known):
        raise UserError(f"{whose} has token ids that the model does not know, it knows 0 to {known - 1}; {advice}")


def score_tokens(model: PreTrainedModel, batch: TreeBatch, *, temperature: float = 1.0) -> TokenScores:
    """Log-probability, entropy and rank of every scored token, of logits / ``temperature``."""
    rows = tree_states(model, batch).index_select(0, batch.sources.to(model.device))
    return score_rows(rows, batch.targets.to(model.device), tail_of(model), temperature=temperature)


def score_rewards(model: PreTrainedModel, batch: TreeBatch) -> Tensor:
    """(C,) float32: a sequence-classification model's single output at each completion's last token."""
    return scalar_outputs(model, tree_states(model, batch).index_select(0, batch.last.to(model.device)))


def score_values(model: PreTrainedModel, batch: TreeBatch) -> Tensor:
    """(S,) float32: the value of the state in which each scored token was chosen (the token before it)."""
    return scalar_outputs(model, tree_states(model, batch).index_select(0, batch.sources.to(model.device)))


def scalar_outputs(model: "PreTrainedModel | ValueHead", rows: Tensor) -> Tensor:
    """Last hidden states (R, H) -> (R,) float32 outputs of a scorer's head."""
    # The head is float32 even under bf16 autocast: a reward of 3 has steps of 0.016 in bf16, coarser than many margins.
    with torch.autocast(rows.device.type, enabled=False):
        return nn.functional.linear(rows.float(), model.score.weight.float()).squeeze(-1)


class ValueHead(nn.Module):
    """A scalar head on the last hidden states of a model that is something else beside: (R, H) -> (R,). It starts at 0."""

    bare_head = True  # there are no layers in it to compile or to compute again

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.score = nn.Linear(tail_of(model).weight.shape[1], 1, bias=False, device=model.device)
        nn.init.zeros_(self.score.weight)


def score_tokens_and_values(
    model: PreTrainedModel, head: ValueHead, batch: TreeBatch, *, temperature: float = 1.0
) -> tuple[TokenScores, Tensor]:
    """``score_tokens``, and (S,) float32 values by ``head`` from the same pass."""
    rows = tree_states(model, batch).index_select(0, batch.sources.to(model.device))
    return score_rows(rows, batch.targets.to(model.device), tail_of(model), temperature=temperature), scalar_outputs(head, rows)


def token_logprobs(rows: Tensor, targets: Tensor, tail: Tail, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """``score_rows`` without the ranks."""
    scores = score_rows(rows, targets, tail, temperature=temperature)
    return scores.logprobs, scores.entropy


def score_rows(rows: Tensor, targets: Tensor, tail: Tail, *, temperature: float = 1.0) -> TokenScores:
    """Hidden rows (S, H) and targets (S,) -> their scores; logprobs and entropy are differentiable in rows, weight and bias.

    The matrix products run in the autocast dtype, and everything after them is float32. The target's own logit is computed again in
    float32 and takes its place among the others before the log-sum-exp: a sure token's rounding then cancels (an exact logit against a
    log-sum-exp of rounded ones is off by the whole rounding of the largest logit: ten times as much; docs/performance.md).
    """
    kind = rows.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else rows.dtype
    scale = tail.scale / temperature
    count, spare = len(rows), -len(rows) % _multiple(rows.device)
    rows, targets = nn.functional.pad(rows, (0, 0, 0, spare)), nn.functional.pad(targets, (0, spare))
    found = _ChunkedLogprobs.apply(rows, tail.weight, tail.bias, targets, scale, tail.softcap, tail.scale, dtype)
    return TokenScores(*(t[:count] for t in found))


class _ChunkedLogprobs(torch.autograd.Function):
    """logits = cap(tail_scale * (rows W^T + b)) * scale / tail_scale; then the targets' log softmax and ranks, and the entropy."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: float, softcap: float | None,
        tail_scale: float, dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        count = len(rows)
        wide = torch.promote_types(rows.dtype, torch.float32)
        logprobs = torch.empty(count, dtype=wide, device=rows.device)
        entropy = torch.empty_like(logprobs)
        lse, exact = torch.empty_like(logprobs), torch.empty_like(logprobs)
        rank = torch.empty(count, dtype=torch.long, device=rows.device)
        options = ctx.options = Scaling(scale, softcap, tail_scale)
        ctx.dtype = dtype
        with torch.autocast(rows.device.type, enabled=False):
            narrow, narrow_weight = rows.to(dtype), weight.to(dtype)
            for part in chunks(count, weight):
                raw = (rows[part].to(wide) * weight[targets[part]].to(wide)).sum(-1)
                if bias is not None:
                    raw = raw + bias[targets[part]].to(wide)
                exact[part] = finish(raw, options)[0]
                raw = head_products(narrow[part], narrow_weight)
                lse[part], entropy[part], rank[part] = statistics_of(raw, bias, targets[part], exact[part], options)
                logprobs[part] = exact[part] - lse[part]
        ctx.save_for_backward(rows, weight, bias, targets, lse, entropy, exact)
        ctx.mark_non_differentiable(rank)
        return logprobs, entropy, rank

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # what forward kept would count as constants, in silence
            raise RuntimeError("score_tokens has no second derivative: call autograd without create_graph")
        rows, weight, bias, targets, lse, entropy, exact = ctx.saved_tensors
        d_logprobs, d_entropy, _ = grads
        options, dtype = ctx.options, ctx.dtype
        wide = lse.dtype
        d_rows = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
        # a head that is not trained (LoRA) costs neither the product nor a table of its size
        d_weight = None
        d_bias = torch.zeros(bias.shape, dtype=wide, device=bias.device) if ctx.needs_input_grad[2] and bias is not None else None
        if d_entropy is not None and not bool(d_entropy.any()):
            d_entropy = None
        format_of_slopes = dtype if d_bias is None else wide  # a bias's slopes are summed before they are rounded
        with torch.autocast(rows.device.type, enabled=False):
            narrow, narrow_weight = rows.to(dtype), weight.to(dtype)
            for part in chunks(len(rows), weight):
                above = [None if d is None else d[part] for d in (d_logprobs, d_entropy)]
                raw = head_products(narrow[part], narrow_weight)
                known = raw, bias, targets[part], exact[part], lse[part], entropy[part]
                d_logits = slopes_of(*known, above[0], above[1], options, format_of_slopes)
                if d_bias is not None:
                    d_bias += d_logits.sum(0)
                d_narrow = d_logits.to(dtype)
                d_rows[part] = (d_narrow @ narrow_weight).to(rows.dtype)
                if ctx.needs_input_grad[1]:
                    d_weight = products_added(d_weight, d_narrow.T, narrow[part], wide)
            if not len(rows) and ctx.needs_input_grad[1]:
                d_weight = torch.zeros_like(weight, dtype=wide)
        d_weight, d_bias = (None if d is None else d.to(of.dtype) for d, of in ((d_weight, weight), (d_bias, bias)))
        return d_rows, d_weight, d_bias, None, None, None, None, None


def head_products(rows: Tensor, weight: Tensor) -> Tensor:
    """Rows (s, H) and a head's weight (V, H) of the same dtype -> (s, V)."""
    if weight.dtype == torch.float32 and weight.numel() >= LARGE_HEAD and onednn.usable(weight.device):
        return onednn.linear(rows, weight)
    return rows @ weight.T


def products_added(to: Tensor | None, left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """``to`` (V, H) + left (V, s) right (s, H) in place, or the product where there is none yet, in ``dtype``."""
    if left.dtype == dtype:
        return left @ right if to is None else to.addmm_(left, right)
    if left.device.type != "cpu":
        return (left @ right).to(dtype) if to is None else to.add_(left @ right)
    # A few rows at a time, which stay in the caches: a table of products and another of the same in ``dtype`` would be memory to find anew.
    found = left.new_empty(len(left), right.shape[1], dtype=dtype) if to is None else to
    for rows in map(slice, range(0, len(left), SLICE), range(SLICE, len(left) + SLICE, SLICE)):
        products = left[rows] @ right
        found[rows].copy_(products) if to is None else found[rows].add_(products)
    return found


class Scaling(NamedTuple):
    """logits = cap(``tail`` * raw) * ``whole`` / ``tail``: a model's own scale and cap, then the temperature."""

    whole: float
    softcap: float | None
    tail: float


def statistics_of(raw: Tensor, bias: Tensor | None, targets: Tensor, exact: Tensor, options: Scaling) -> tuple[Tensor, Tensor, Tensor]:
    """``row_statistics``, by what is fastest."""
    if rowwise.can_score(raw, exact, options.softcap):
        return rowwise.row_statistics(raw, bias, targets, exact, options.whole)
    return fused(row_statistics, raw.device)(raw, bias, targets, exact, options)


def slopes_of(
    raw: Tensor, bias: Tensor | None, targets: Tensor, exact: Tensor, lse: Tensor, entropy: Tensor, d_logprobs: Tensor | None,
    d_entropy: Tensor | None, options: Scaling, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """``logit_slopes`` in ``dtype``, by what is fastest; ``raw`` may be overwritten."""
    given = (raw, bias, targets, exact, lse, entropy, d_logprobs, d_entropy)
    if rowwise.can_score(raw, exact, options.softcap):
        return rowwise.logit_slopes(*given, options.whole, dtype)
    return fused(logit_slopes, raw.device)(*given, options).to(dtype)


def row_statistics(
    raw: Tensor, bias: Tensor | None, targets: Tensor, exact: Tensor, options: Scaling
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Raw products (s, V) in any format, and the targets' exact logits (s,), whose format is computed in -> log-sum-exp, entropy and the
    targets' ranks (s,)."""
    logits, _ = _logits(raw, bias, targets, exact, options)
    rank = (logits > exact.unsqueeze(-1)).sum(-1)
    top = logits.amax(-1, keepdim=True)
    shifted = logits - top
    weights = shifted.exp()
    total = weights.sum(-1)
    # entropy = lse - sum p * logit; both relative to the row's maximum
    return total.log() + top.squeeze(-1), total.log() - (weights.mul_(shifted).sum(-1) / total), rank


def logit_slopes(
    raw: Tensor, bias: Tensor | None, targets: Tensor, exact: Tensor, lse: Tensor, entropy: Tensor, d_logprobs: Tensor | None,
    d_entropy: Tensor | None, options: Scaling,
) -> Tensor:  # fmt: skip
    """What ``row_statistics`` was given and gave, and slopes of the loss (s,) -> slopes of the loss by raw + bias (s, V)."""
    logits, slope = _logits(raw, bias, targets, exact, options)
    log_p = logits.sub_(lse.unsqueeze(-1))
    p = log_p.exp()
    d_logits = torch.zeros_like(p) if d_logprobs is None else p * -d_logprobs.unsqueeze(-1)
    if d_logprobs is not None:
        d_logits = _changed(d_logits, targets, d_logprobs, add=True)
    if d_entropy is not None:
        d_logits = d_logits.sub_(d_entropy.unsqueeze(-1) * p * (log_p + entropy.unsqueeze(-1)))
    return d_logits.mul_(slope)


def _logits(raw: Tensor, bias: Tensor | None, targets: Tensor, exact: Tensor, options: Scaling) -> tuple[Tensor, Tensor | float]:
    """Logits (s, V) in the format of ``exact``, the targets' own among them, and their slope with respect to raw + bias."""
    raw = raw.to(exact.dtype)
    if bias is not None:
        raw = raw + bias.to(exact.dtype)
    logits, slope = finish(raw, options)
    return _changed(logits, targets, exact), slope


def _changed(values: Tensor, columns: Tensor, new: Tensor, *, add: bool = False) -> Tensor:
    """(s, V) with ``new`` (s,) at ``columns`` (s,), or added there; may be in place."""
    if values.device.type == "cpu":
        return (values.scatter_add_ if add else values.scatter_)(1, columns.unsqueeze(-1), new.unsqueeze(-1))
    # In a compiled kernel a comparison costs nothing, and a scatter would be a pass over memory of its own.
    here = torch.arange(values.shape[1], device=values.device) == columns.unsqueeze(-1)
    return torch.where(here, values + new.unsqueeze(-1) if add else new.unsqueeze(-1), values)


def finish(raw: Tensor, options: Scaling) -> tuple[Tensor, Tensor | float]:
    """Raw products + bias of any shape -> logits, and their slope with respect to them."""
    scale, softcap, tail_scale = options
    if softcap is None:
        return (raw if scale == 1.0 else raw * scale), scale
    capped = torch.tanh(raw * (tail_scale / softcap))
    rest = scale / tail_scale
    return capped * (softcap * rest), (1 - capped * capped) * scale


def spare_tokens(tokens: int, device: torch.device) -> int:
    """How many tokens to add to a batch of ``tokens``."""
    if device.type == "cuda":  # at least two blocks: a kernel for one block would be another kernel
        return max(-tokens % ROWS_GPU, 2 * ROWS_GPU - tokens)
    return -tokens % ROWS


def _multiple(device: torch.device) -> int:
    return ROWS_GPU if device.type == "cuda" else ROWS


def chunks(count: int, weight: Tensor) -> list[slice]:
    """``count`` rows in parts whose logits under a head's ``weight`` (V, H) are ``CHUNK_LOGITS`` at most."""
    if weight.device.type == "cuda":  # whole multiples: a compiled kernel for other row counts is another kernel
        size = max(1, CHUNK_LOGITS_GPU // len(weight) // ROWS_GPU) * ROWS_GPU
    else:
        size = max(1, CHUNK_LOGITS // len(weight))
    return [slice(i, min(i + size, count)) for i in range(0, count, size)]
