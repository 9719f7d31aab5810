"""``attention.cpp`` and ``rows.cpp``, compiled for this processor where they are first needed, and how their functions are called.

torch's flash attention for CPUs takes segments of one length, 32 queries at a time, and knows neither trees nor pages: segments are
gathered into buckets, padded and put together again (``models/buckets.py``), pages are read by batched products and index tables
(``sampling/cache.py``). And what layers and heads compute row by row takes torch an operator a step, each a pass over memory. That is what
runs where nothing can be compiled: without a C++ compiler, on systems other than Linux, or with ``TRIMTAB_KERNELS=0`` in the environment.
What compiling gains is in docs/performance.md, "Compiled code".
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler import record_function

from trimtab.common.files import sync

OPT_OUT = "TRIMTAB_KERNELS"  # 0 leaves everything to torch's own operators
SOURCES = tuple(map(Path(__file__).with_name, ("attention.cpp", "rows.cpp")))
HEADERS = (Path(__file__).with_name("vectors.h"),)
# What they take, a letter each: the address of a tensor or nothing, a whole number, a number; the last is the number of threads.
TYPES = {"t": ctypes.c_void_p, "n": ctypes.c_long, "f": ctypes.c_float}
FUNCTIONS = {
    "trimtab_trees": "tntttttttffntttn", "trimtab_trees_backward": "tntttttttffntttttttn", "trimtab_step": "nttttttttttnnttnnttffnttn",
    "trimtab_norm": "ttnnffttn", "trimtab_norm_backward": "ttttnnfttn", "trimtab_gate": "tttnnnn", "trimtab_gate_backward": "tttttnnnn",
    "trimtab_statistics": "ttttnnftttnn", "trimtab_shares": "tnnftnn", "trimtab_slopes": "ttttttttnnftnnn",
    "trimtab_rotate": "ttntttntttnnnnn",
}  # fmt: skip
FLAGS = ("-O3", "-march=native", "-std=gnu++17", "-fopenmp", "-fPIC", "-shared")
# What -march=native looks at, by /proc/cpuinfo's names: folders of a user's are shared between unlike machines.
PROCESSOR = ("vendor_id", "model name", "flags", "CPU implementer", "CPU part", "Features")
Numbers = ctypes.Array[ctypes.c_int64]
DIGEST = hashlib.sha256().digest_size


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None where there are none. Compiling takes some seconds, once for a user, a compiler and a processor."""
    failed = ""
    for compiler in compilers():
        try:
            return _of(compiler)
        except (OSError, AttributeError, subprocess.CalledProcessError) as error:
            lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines() or ["no reason given"]
            why = next((line for word in ("No space", "error") for line in lines if word in line), lines[0])
            done = "compile" if isinstance(error, subprocess.CalledProcessError) else "load"
            failed = failed or f"could not {done} kernels with {compiler}: {why}"
    if failed:
        print(f"CPUs are left to torch's operators, which are slower ({failed})", file=sys.stderr)
    return None


def compilers() -> list[str]:
    """Programs that may compile (``CXX`` may name one), in the order in which they are tried; none where torch's operators are to run."""
    if os.environ.get(OPT_OUT) == "0" or not sys.platform.startswith("linux"):
        return []
    found = filter(None, map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++"))))
    return list({os.path.realpath(path): path for path in reversed(list(found))}.values())[::-1]


def attention(device: torch.device) -> str | None:
    """Whose attention runs (and norms, gates, logits), where ``device`` leaves a choice: results are bit-equal under one only."""
    if device.type != "cpu":
        return None
    found = library()
    return "torch" if found is None else f"compiled {Path(found._name).stem.rpartition('-')[2]}"


def _of(compiler: str) -> ctypes.CDLL:
    """The library of this source, compiler and processor: from the user's cache, or made now and kept there. Where it cannot be kept its
    file is gone afterwards; what is loaded stays loaded.

    Raises:
        OSError, AttributeError, subprocess.CalledProcessError: it could not be made, or not be loaded.
    """
    version = _run(compiler, "--version")
    texts = [source.read_text(encoding="utf-8") for source in (*SOURCES, *HEADERS)]
    text = "\0".join([*texts, *FLAGS, version, _processor()])
    name = f"kernels-{hashlib.sha256(text.encode()).hexdigest()[:20]}.so"
    folder = _folder()
    if folder is not None and _whole(folder / name):
        with suppress(OSError, AttributeError):  # another libc, say: it is made again
            return _loaded(folder / name)
    try:
        return _made(compiler, name, folder)
    except (OSError, subprocess.CalledProcessError):  # a full disk, say, or a cache that cannot be written
        if folder is None:
            raise
        return _made(compiler, name, None)


def _made(compiler: str, name: str, folder: Path | None) -> ctypes.CDLL:
    """A new library, kept as ``name`` in ``folder`` once it is loaded."""
    with _place(folder) as place:
        made = place / name
        _run(compiler, *FLAGS, *map(str, SOURCES), "-o", str(made))
        with made.open("ab") as file:  # what lies behind a library's end is not looked at when it is loaded
            file.write(hashlib.sha256(made.read_bytes()).digest())
        made.chmod(0o700)
        found = _loaded(made)
        if folder is not None:
            sync(made)
            made.replace(folder / name)  # whole or not at all, for another process may look
        return found


def _run(*command: str) -> str:
    given = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=True, env=given).stdout


def _folder() -> Path | None:
    """The user's cache; None where nothing can be kept, or where others could put something in: what is kept there is run."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trimtab"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder if folder.is_dir() and _private(folder) else None
    except (OSError, RuntimeError):  # no home at all
        return None


def _private(path: Path) -> bool:
    info = path.lstat()
    return info.st_uid == os.geteuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not path.is_symlink()


def _whole(path: Path) -> bool:
    """Whether a library that nobody else can have written is there, with the digest of its contents at its end: half a library would end
    the process that loads it."""
    if not path.is_file() or not _private(path):
        return False
    data = path.read_bytes()
    return hashlib.sha256(data[:-DIGEST]).digest() == data[-DIGEST:]


@contextmanager
def _place(folder: Path | None) -> Iterator[Path]:
    """A new folder inside ``folder``, or where the system keeps what is temporary; gone afterwards."""
    place = tempfile.mkdtemp(prefix="trimtab-", dir=folder)
    try:
        yield Path(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _loaded(path: Path) -> ctypes.CDLL:
    found = ctypes.CDLL(str(path))
    for name, given in FUNCTIONS.items():
        function = getattr(found, name)
        function.restype, function.argtypes = None, [TYPES[letter] for letter in given]
    return found


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    told = {line.split(":")[0].strip(): line for line in reversed(lines)}
    return "\n".join([platform.machine(), *(told.get(key, "") for key in PROCESSOR)])


def can_run(tensor: Tensor) -> bool:
    """Whether the functions are there and compute what ``tensor`` is part of: in float32, so not float64."""
    return tensor.device.type == "cpu" and tensor.dtype != torch.float64 and library() is not None


def call(name: str, *given: Tensor | Numbers | float | None) -> None:
    """Calls a function of the library on as many threads as torch has. Tensors must be what it expects, contiguous but where it takes
    their strides: it looks at addresses alone. Memory that it cannot have ends the process."""
    found = library()
    assert found is not None
    words = [_address(one) if isinstance(one, Tensor) else one for one in given]
    with record_function(name) if torch.autograd._profiler_enabled() else nullcontext():  # a tenth of a small call's time
        getattr(found, name)(*words, torch.get_num_threads())


def _address(tensor: Tensor) -> int:
    found = tensor.data_ptr()
    assert found or not tensor.numel(), f"a {type(tensor).__name__} without memory"
    return found


def strided(*tensors: Tensor) -> list[Any]:
    """Tensors (T, heads, D) in float32, each token's head in one piece, and behind each its strides over tokens and heads."""
    found: list[Any] = []
    for tensor in tensors:
        wide = tensor.detach().float()
        wide = wide if wide.stride(-1) == 1 else wide.contiguous()
        found += [wide, numbers(*wide.stride()[:2])]
    return found


def numbers(*given: int) -> Numbers:
    """Whole numbers as the functions take them: a tensor of them would take as long to make as a small function runs."""
    return (ctypes.c_int64 * len(given))(*given)


def shape(query: Tensor, key: Tensor, value: Tensor) -> Numbers:
    """Heads, groups, D and V of query (n, H, D), key (n, G, D) and value (n, G, V), after a look at whether they fit."""
    (count, heads, size), (groups, values) = query.shape, value.shape[1:]
    assert key.shape == (count, groups, size) and len(value) == count and heads % groups == 0, (query.shape, key.shape, value.shape)
    return numbers(heads, groups, size, values)
