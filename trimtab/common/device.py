"""Where models live: on the first GPU that torch sees, otherwise on the CPU. ``CUDA_VISIBLE_DEVICES=`` (empty) hides all GPUs."""

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch

from trimtab.common.memory import available_bytes


def here() -> torch.device:
    """The device that models are loaded to and batches are moved to."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def free_bytes(device: torch.device) -> int:
    """Memory that new tensors on ``device`` can take: of a GPU also what torch holds of it and does not use."""
    if device.type != "cuda":
        return available_bytes()
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


@functools.cache
def has_triton(device: torch.device) -> bool:
    """Whether kernels can be compiled for ``device``: a GPU, Triton, and the C compiler that Triton starts them with."""
    compilers = filter(None, (os.environ.get("CC"), "gcc", "clang", "cc"))
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None and any(map(shutil.which, compilers))


def fused(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """``function`` as it is on CPU, where its passes stay in cache; on GPUs compiled to one or two kernels, each a pass over memory."""
    return compiled(function) if has_triton(device) else function


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """One program for all sizes."""
    allow_programs()
    return torch.compile(function, dynamic=True)


def allow_programs(count: int = 64) -> None:
    """Lets one function have so many compiled programs: another for each number format, with and without gradients, for training, prompts
    and decoding. Beyond the eight that are usual, torch goes on without compiling, in silence."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, count)
