"""Products by oneDNN's own operators, where torch's ``@`` and ``linear`` would ask another library.

torch's CPU builds for x86 multiply float32 with MKL, which is slow at few rows times a large weight and slower still on processors that
are not Intel's: 32 rows with a head of 49,152 x 576 run at 33 GFLOP/s there, at 71 with oneDNN and at 87 with the weight packed for it
(AMD, AVX2, 2 cores; docs/log.md, "Float32 products"). bf16 products are oneDNN's anyway, but bring the weight into its own order in every
call. These are the operations that torch.compile's CPU backend uses for frozen weights; they have no gradient.
"""

import platform

import torch
from torch import Tensor

OPERATORS = ("_reorder_linear_weight", "_linear_pointwise")


def usable(device: torch.device) -> bool:
    """Whether the operators, which are torch's private ones, are there, and the processor is x86 (measured in float32 on AMD's with AVX2
    alone). ARM's builds have another library behind the same names."""
    there = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in OPERATORS)
    return device.type == "cpu" and there and platform.machine().lower() in ("x86_64", "amd64")


def pack(weight: Tensor, rows: int) -> Tensor:
    """A copy of ``weight`` (out, in), float32 or bf16, in the order that products with ``rows`` rows are best computed in."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Inputs (..., in) and a weight (out, in) of the same dtype, packed or plain -> (..., out)."""
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
