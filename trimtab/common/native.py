"""``attention.cpp``, compiled for this processor where it is first needed, and how its functions are called.

torch's flash attention for CPUs takes segments of one length, 32 queries at a time, and knows neither trees nor pages: segments are
gathered into buckets, padded and put together again (``models/buckets.py``), pages are read by batched products and index tables
(``sampling/cache.py``). That is what runs where nothing can be compiled: without a C++ compiler, on systems other than Linux, or with
``TRIMTAB_NATIVE=0`` in the environment. What compiling gains is in docs/performance.md.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler import record_function

OPT_OUT = "TRIMTAB_NATIVE"  # 0 leaves everything to torch's own operators
SOURCE = Path(__file__).with_name("attention.cpp")
FLAGS = ("-O3", "-march=native", "-std=gnu++17", "-fopenmp", "-fPIC", "-shared")
# What -march=native looks at, by /proc/cpuinfo's names: folders of a user's are shared between unlike machines.
PROCESSOR = ("vendor_id", "model name", "flags", "CPU implementer", "CPU part", "Features")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None where there are none. Compiling takes some seconds, once for a user and a processor."""
    compilers = filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++"))
    compiler = next(filter(None, map(shutil.which, compilers)), None)
    if os.environ.get(OPT_OUT) == "0" or not sys.platform.startswith("linux") or compiler is None:
        return None
    try:
        return ctypes.CDLL(str(_built(compiler)))
    except (OSError, subprocess.CalledProcessError) as error:
        lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines() or ["no reason given"]
        why = next((line for line in lines if "error" in line), lines[0])
        said = f"attention runs on torch's operators, which are slower: {compiler} could not compile {SOURCE.name} ({why})"
        print(said, file=sys.stderr)
        return None


def _built(compiler: str) -> Path:
    """The library of this source, compiler and processor: from the user's cache, or made now.

    Raises:
        OSError, subprocess.CalledProcessError: it could not be made.
    """
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    name = hashlib.sha256("\0".join([SOURCE.read_text(), *FLAGS, version, _processor()]).encode()).hexdigest()[:20]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trimtab"
    kept = folder / f"attention-{name}.so"
    if kept.exists():
        return kept
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = tempfile.mkdtemp(dir=folder)
    except OSError:  # a home that cannot be written: for this process alone
        return _compile(compiler, Path(tempfile.mkdtemp(prefix="trimtab-")) / kept.name)
    try:
        return _compile(compiler, Path(place) / kept.name).replace(kept)  # whole or not at all, for another process may look
    finally:
        shutil.rmtree(place)


def _compile(compiler: str, path: Path) -> Path:
    subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(path)], capture_output=True, text=True, check=True)
    return path


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    told = {line.split(":")[0].strip(): line for line in reversed(lines)}
    return "\n".join([platform.machine(), *(told.get(key, "") for key in PROCESSOR)])


def can_run(tensor: Tensor) -> bool:
    """Whether the functions are there and compute what ``tensor`` is part of: in float32, so not float64."""
    return tensor.device.type == "cpu" and tensor.dtype != torch.float64 and library() is not None


def call(name: str, *given: Tensor | float | int | None) -> None:
    """Calls a function of the library on as many threads as torch has. Tensors must be what it expects, contiguous but where it takes
    their strides."""
    found = library()
    assert found is not None
    words: list[Any] = []
    for one in (*given, torch.get_num_threads()):
        if isinstance(one, Tensor) or one is None:
            words.append(ctypes.c_void_p(None if one is None else one.data_ptr()))
        else:
            words.append(ctypes.c_float(one) if isinstance(one, float) else ctypes.c_long(one))
    with record_function(name):
        getattr(found, name)(*words)


def rows(*tensors: Tensor) -> list[Tensor]:
    """Tensors (T, heads, D) in float32, each token's head in one piece, and behind each its strides over tokens and heads."""
    found = []
    for tensor in tensors:
        wide = tensor.detach().float()
        wide = wide if wide.stride(-1) == 1 else wide.contiguous()
        found += [wide, numbers(*wide.stride()[:2])]
    return found


def numbers(*given: int) -> Tensor:
    """Whole numbers as the functions take them."""
    return torch.tensor(given, dtype=torch.int64)
