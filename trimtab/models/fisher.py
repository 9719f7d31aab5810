"""The Fisher matrix of a policy's next-token distributions as a product with a vector, and the exact KL whose curvature it is.

F = mean over scored tokens of J^T (diag(p) - p p^T) J, where J is the Jacobian of a token's logits by the trained weights and p its
distribution: the Gauss-Newton form of the KL's Hessian, which at the old weights is the Hessian itself (Schulman et al. 2015, appendix
C.1). F v takes three passes and no matrix: J v by forward-mode differentiation, which keeps no graph; the middle factor at the head, in
chunks, so that a [tokens x vocabulary] tensor never exists; J^T of the result by an ordinary backward pass. J v needs attention made
of plain operations, since flash attention has no forward mode; the backward pass runs on the kernels of training.

Functions return sums over tokens; what to divide by is the method's business.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedModel
from trimtab.models.score import Scaling, Tail, chunks, finish, tail_of, tree_states
from trimtab.trees import TreeBatch


class HeadInputs(NamedTuple):
    """What the logits of the scored tokens are made of, or how that changes, or the slope of something by it; None = not at all."""

    rows: Tensor | None  # (S, H) hidden states
    weight: Tensor | None  # (V, H)
    bias: Tensor | None  # (V,)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that require gradients, by name, tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def scored_rows(model: PreTrainedModel, batch: TreeBatch, kernel: str = "auto") -> Tensor:
    """(S, H) the hidden states from which scored tokens are predicted."""
    return tree_states(model, batch, kernel).index_select(0, batch.sources.to(model.device))


def fisher_vector(model: PreTrainedModel, batch: TreeBatch, vector: Mapping[str, Tensor], *, temperature: float = 1.0) -> dict[str, Tensor]:
    """``vector`` by trained weight -> the sum over the batch's scored tokens of their Fisher matrices, times ``vector``."""
    inputs, moved = _forward_mode(model, batch, vector)
    slopes = head_fisher(inputs, moved, tail_of(model), temperature)
    weights = trained(model)
    tail = tail_of(model)
    outputs = (scored_rows(model, batch), tail.weight, tail.bias)
    pairs = [(x, slope) for x, slope in zip(outputs, slopes, strict=True) if x is not None and slope is not None and x.requires_grad]
    found = torch.autograd.grad([x for x, _ in pairs], list(weights.values()), [slope for _, slope in pairs], allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(weights.items(), found, strict=True)}


class _Forward(nn.Module):
    """A model as a function of its weights with ``HeadInputs`` as its value, for ``functional_call``."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: TreeBatch) -> HeadInputs:
        tail = tail_of(self.model)
        return HeadInputs(scored_rows(self.model, batch, "trees"), tail.weight, tail.bias)


@torch.no_grad()
def _forward_mode(model: PreTrainedModel, batch: TreeBatch, vector: Mapping[str, Tensor]) -> tuple[HeadInputs, HeadInputs]:
    """The inputs of the head, and how they change along ``vector``: a Jacobian-vector product.

    Raises:
        UserError: the model has an operation without forward-mode derivatives (grouped experts, say).
    """
    # Compiled layers have no forward mode; this pass leaves them aside.
    with torch.compiler.set_stance("force_eager"), forward_ad.dual_level():
        duals = {f"model.{name}": forward_ad.make_dual(p.detach(), vector[name].detach()) for name, p in trained(model).items()}
        try:
            found = functional_call(_Forward(model), duals, (batch,))
        except NotImplementedError as error:
            what = str(error).splitlines()[0].removesuffix(" because it has not been implemented yet.")
            raise UserError(f"{type(model).__name__}: the Fisher matrix needs forward-mode derivatives ({what})") from None
        parts = [(None, None) if x is None else forward_ad.unpack_dual(x) for x in found]
        return HeadInputs(*(p for p, _ in parts)), HeadInputs(*(t for _, t in parts))


@torch.no_grad()
def head_fisher(inputs: HeadInputs, moved: HeadInputs, tail: Tail, temperature: float) -> HeadInputs:
    """How the inputs of the head move -> J^T (diag(p) - p p^T) J of that, J the Jacobian of the logits by those inputs."""
    rows, weight, bias = inputs
    assert rows is not None and weight is not None
    options = Scaling(tail.scale / temperature, tail.softcap, tail.scale)
    d_rows = torch.empty_like(rows)
    d_weight = None if moved.weight is None else torch.zeros_like(weight)
    d_bias = None if moved.bias is None or bias is None else torch.zeros_like(bias)
    for part in chunks(len(rows), weight):
        logits, slope = _logits(rows[part], weight, bias, options)
        p = torch.softmax(logits, -1)
        change = torch.zeros_like(p)
        if moved.rows is not None:
            change += moved.rows[part] @ weight.T
        if moved.weight is not None:
            change += rows[part] @ moved.weight.T
        if moved.bias is not None:
            change += moved.bias
        change *= slope
        middle = p * (change - (p * change).sum(-1, keepdim=True)) * slope
        d_rows[part] = middle @ weight
        if d_weight is not None:
            d_weight += middle.T @ rows[part]
        if d_bias is not None:
            d_bias += middle.sum(0)
    return HeadInputs(d_rows, d_weight, d_bias)


@torch.no_grad()
def exact_kl(old_rows: Tensor, old: Tail, rows: Tensor, new: Tail, *, temperature: float = 1.0) -> Tensor:
    """KL(old || new) of each token's whole distribution, nats: rows (S, H) under two tails -> (S,). Equal inputs give exactly 0."""
    out = torch.empty(len(rows), dtype=rows.dtype, device=rows.device)
    for part in chunks(len(rows), new.weight):
        before, after = (
            torch.log_softmax(_logits(r[part], tail.weight, tail.bias, Scaling(tail.scale / temperature, tail.softcap, tail.scale))[0], -1)
            for r, tail in ((old_rows, old), (rows, new))
        )
        out[part] = (before.exp() * (before - after)).sum(-1)
    return out


def _logits(rows: Tensor, weight: Tensor, bias: Tensor | None, options: Scaling) -> tuple[Tensor, Tensor | float]:
    raw = rows @ weight.T
    return finish(raw if bias is None else raw + bias, options)
