"""Linear layers with weights in NF4: 4 bits a weight, one of 16 quantiles of a normal distribution times the largest of its block of 64
(QLoRA, Dettmers et al. 2023, sections 2 and 3; the blocks' scales are quantised again). Through bitsandbytes, on CPUs too.

The products are our own: a weight is made float32 when its layer is computed, and again in the backward pass, so that training, scoring
and sampling multiply the same numbers (bitsandbytes multiplies other ones on some CPUs while no gradient is recorded). And a weight is
kept as rows of one block each, whatever its own rows: they are what bitsandbytes 0.50 takes blocks for on CPUs with AVX-512, where a
weight whose rows are no whole number of blocks, 160 wide say, comes back with the scales of other blocks (docs/log.md).
"""

from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Params4bit
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trimtab.common.hf import PreTrainedModel
from trimtab.models.lora import as_conv1d, linear_layers

BLOCK = 64  # weights with one scale


class NF4Linear(nn.Linear):
    """What takes a linear layer's place: inputs (..., in) -> (..., out). Its weight is never trained."""

    quant_type = "nf4"
    weight: Any  # Params4bit
    bias: Any

    def __init__(self, layer: nn.Linear | Conv1D, device: torch.device) -> None:
        nn.Module.__init__(self)
        self.transposed = isinstance(layer, Conv1D)  # GPT-2 keeps its weights as (in, out)
        weight = layer.weight.detach().T if self.transposed else layer.weight.detach()
        self.out_features, self.in_features = weight.shape
        blocks = weight.reshape(-1, BLOCK) if weight.numel() % BLOCK == 0 else weight.reshape(1, -1)
        whole: Any = Params4bit(blocks.contiguous(), requires_grad=False, quant_type="nf4", blocksize=BLOCK)
        self.weight = whole.to(device)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().to(device), requires_grad=False)

    def dequantize(self) -> Tensor:
        """(out, in) float32."""
        return dequantize_4bit(self.weight.data, self.weight.quant_state).view(self.out_features, self.in_features)

    @property
    def W_q(self) -> Any:
        """The weight once more: of a layer that has this peft's DoRA asks ``dequantize``, and does not read the weight by its rows."""
        return self.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return _Product.apply(inputs, self)

    def plain(self, *, transposed: bool | None = None) -> nn.Linear | Conv1D:
        """A layer of the kind that this one was, with the dequantised weight; ``transposed=False``: an ``nn.Linear`` in any case."""
        new = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        new.weight = nn.Parameter(self.dequantize(), requires_grad=False)
        new.bias = self.bias
        return as_conv1d(new) if (self.transposed if transposed is None else transposed) else new


class _Product(torch.autograd.Function):
    """inputs W^T + b, of which the backward pass remembers the 4 bits alone."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, layer: NF4Linear) -> Tensor:
        ctx.layer, ctx.dtype = layer, inputs.dtype
        return nn.functional.linear(inputs, layer.dequantize(), layer.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return (grad @ ctx.layer.dequantize().to(grad.dtype)).to(ctx.dtype), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        """Forward mode, which TRPO's Fisher-vector products need."""
        return nn.functional.linear(tangents[0], ctx.layer.dequantize())


def quantise(model: PreTrainedModel, device: torch.device) -> None:
    """Puts the weights of all linear layers of the trunk into NF4, on ``device``, one after the other; the rest of the model stays."""
    for name, layer in linear_layers(model).items():
        parent, _, leaf = name.rpartition(".")
        assert isinstance(layer, (nn.Linear, Conv1D))
        setattr(model.get_submodule(parent), leaf, NF4Linear(layer, device))
