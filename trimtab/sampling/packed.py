"""Linear layers with their weights in the order that oneDNN computes in, for as long as the engine samples.

A decoding step multiplies a few rows, one per sample, with every weight. Under bf16 autocast oneDNN then spends a quarter (32 rows) to half
(8 rows) of its time on bringing the weight into its own order, in every step again; done once a call, it is paid back within two steps
(docs/performance.md). In float32 torch asks MKL, which takes two to three times as long for the largest layers (``common/onednn.py``).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trimtab.common import onednn
from trimtab.common.precision import fast_in_bf16

# In float32 only what does not stay in the processor's caches from step to step is worth a copy: models of so many weights in linear
# layers, and of those the layers of so many (a smaller one's product takes less time than the call).
MODEL_WEIGHTS, LAYER_WEIGHTS = 1 << 23, 1 << 18


class Packed:
    """What takes a linear layer's place as its ``forward``: inputs (..., in) of any float dtype -> (..., out) of ``dtype``."""

    def __init__(self, layer: nn.Linear, rows: int, cast: "Cast") -> None:
        self.cast, self.weight = cast, onednn.pack(layer.weight.detach().to(cast.dtype), rows)
        self.bias = None if layer.bias is None else layer.bias.detach().to(cast.dtype)

    def __call__(self, inputs: Tensor) -> Tensor:
        return onednn.linear(self.cast(inputs), self.weight, self.bias)


class Cast:
    """Inputs in ``dtype``, cast once where the next layers get the same ones: queries, keys and values of one norm. It holds the last ones,
    and would not see a write that torch does not count; compiled code writes to new tensors only."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._wide: Tensor | None = None
        self._version, self._narrow = 0, torch.empty(0)

    def __call__(self, inputs: Tensor) -> Tensor:
        if inputs.dtype == self.dtype or inputs.is_inference():  # those have no version
            return inputs.to(self.dtype)
        if self._wide is not inputs or self._version != inputs._version:
            self._wide, self._version, self._narrow = inputs, inputs._version, inputs.to(self.dtype)
        return self._narrow


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether weights of ``dtype`` can be packed on ``device`` to some gain; which ones, ``layers_to_pack`` says."""
    return onednn.usable(device) and (dtype == torch.float32 or (dtype == torch.bfloat16 and fast_in_bf16("cpu")))


def layers_to_pack(model: nn.Module, dtype: torch.dtype) -> list[nn.Linear]:
    """The model's linear layers whose products in ``dtype`` are worth packed weights. Layers of a class of their own (quantised ones,
    say) are left alone."""
    layers = [module for module in model.modules() if type(module) is nn.Linear and "forward" not in vars(module)]
    if dtype != torch.float32:
        return layers
    layers = [layer for layer in layers if layer.weight.dtype == dtype]  # a model in float64 or bf16 computes in that
    if sum(layer.weight.numel() for layer in layers) < MODEL_WEIGHTS:
        return []
    return [layer for layer in layers if layer.weight.numel() >= LAYER_WEIGHTS]


@contextmanager
def packed_linears(model: nn.Module, rows: int, dtype: torch.dtype) -> Iterator[int]:
    """Inside, the model's linear layers compute in ``dtype`` with packed weights, best for ``rows`` rows at a time, where that is worth it;
    no gradients, and changes of the weights are not seen. Gives the bytes of the packed copies, which lie beside the model's own weights
    meanwhile."""
    layers, cast = layers_to_pack(model, dtype), Cast(dtype)
    try:
        for layer in layers:
            layer.forward = Packed(layer, rows, cast)  # type: ignore[method-assign, assignment]
        yield sum(parameter.numel() * dtype.itemsize for layer in layers for parameter in layer.parameters())
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)  # not all have one where packing was interrupted
