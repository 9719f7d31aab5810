"""Which number format matrix products run in: the option ``dtype`` of every verb that computes.

Weights, logprobs, losses and advantages are float32 in either case; bfloat16 is torch's autocast of the products. A processor
without bf16 instructions emulates them a hundred times slower than float32 (AVX2, 2 cores: 1 against 170 GFLOP/s), and one that
has them runs them four to eight times faster: so the default asks the machine.
"""

from typing import Literal

import torch

from trimtab.common.device import here

Dtype = Literal["auto", "float32", "bfloat16"]
DTYPE_SENTENCE = "number format of matrix products: float32, bfloat16 (autocast), or auto = bfloat16 where this machine is fast in it"


def fast_in_bf16(kind: str) -> bool:
    """Whether devices of ``kind`` (``cpu``, ``cuda``) multiply bf16 matrices in hardware."""
    if kind == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def in_bf16(dtype: str, kind: str = "") -> bool:
    """What ``dtype`` means on devices of ``kind``, by default those that models are loaded to: True for bf16 products."""
    kind = kind or here().type
    return dtype == "bfloat16" or (dtype == "auto" and fast_in_bf16(kind))


def products(dtype: str, kind: str = "") -> torch.autocast:
    """A context in which matrix products run as ``dtype`` says."""
    kind = kind or here().type
    return torch.autocast(kind, torch.bfloat16, enabled=in_bf16(dtype, kind))
