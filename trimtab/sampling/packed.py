"""Linear layers with their bf16 weights in the order that oneDNN computes in, for as long as the engine samples.

A decoding step multiplies a few rows, one per sample, with every weight. Under autocast oneDNN then spends a quarter (32 rows) to half
(8 rows) of its time on bringing the weight into its own order, in every step again; done once a call, it is paid back within two steps
(docs/performance.md). These are the operations that torch.compile's CPU backend uses for frozen weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trimtab.common.precision import fast_in_bf16


class Packed:
    """What takes a linear layer's place as its ``forward``: inputs (..., in) of any float dtype -> (..., out) bf16."""

    def __init__(self, layer: nn.Linear, rows: int) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(torch.bfloat16), rows)
        self.bias = None if layer.bias is None else layer.bias.detach().to(torch.bfloat16)

    def __call__(self, inputs: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(inputs.to(torch.bfloat16), self.weight, self.bias, "none", [], "")


def can_pack(device: torch.device) -> bool:
    """Whether this machine multiplies packed bf16 weights in hardware."""
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and fast_in_bf16("cpu")


@contextmanager
def packed_linears(model: nn.Module, rows: int) -> Iterator[int]:
    """Inside, the model's linear layers compute with packed weights, best for ``rows`` rows at a time; no gradients, and changes of the
    weights are not seen. Layers of a class of their own (quantised ones, say) are left alone. Gives the bytes of the packed copies, 2 a
    weight, which lie beside the model's own meanwhile."""
    layers = [module for module in model.modules() if type(module) is nn.Linear and "forward" not in vars(module)]
    for layer in layers:
        layer.forward = Packed(layer, rows)  # type: ignore[method-assign, assignment]
    try:
        yield sum(parameter.numel() * torch.bfloat16.itemsize for layer in layers for parameter in layer.parameters())
    finally:
        for layer in layers:
            del layer.forward
