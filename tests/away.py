"""A second device that is strict, for machines without one: tensors of device ``away`` live in CPU memory, but an operation that mixes them
with tensors of the CPU is an error, as it is on a GPU (indices and single numbers excepted).

The autograd engine counts devices when it first runs: enter ``away`` in a process that has not gone backward yet.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from trimtab.common.device import here

NAME = "away"
# Copies between devices; and operations whose indices may be the CPU's where what they index is not.
CROSSING = ("aten::_to_copy", "aten::copy_")
INDEXING = ("aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_")


class Module:
    """``torch.away``, as far as autocast and random seeds ask."""

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16]

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None: ...

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0


class Away(Tensor):
    """A tensor of the strict device; ``inner`` has its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Away":
        made: Away = Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, device=torch.device(NAME, 0), strides=inner.stride(),
            storage_offset=inner.storage_offset(), requires_grad=False,
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(function, args, kwargs or {})


class Strict(TorchDispatchMode):
    """Sees operations that make tensors of the device out of nothing."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(function, args, kwargs or {})


def computed(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
    away = [t for t in tensors if isinstance(t, Away)]
    name = function._schema.name
    if away:
        strangers = [t for t in tensors if not isinstance(t, Away) and t.ndim]
        index = name in INDEXING and isinstance(args[0], Away) and all(isinstance(t, Away) or not t.ndim for t in args[2:3])
        if strangers and name not in CROSSING and not index:
            raise RuntimeError(f"{function}: tensors of {NAME} and of the CPU ({[tuple(t.shape) for t in strangers]})")
    wanted = kwargs.get("device")
    to = torch.device(wanted).type if wanted is not None else NAME if away and name != "aten::copy_" else "cpu"
    if name == "aten::copy_":
        to = NAME if isinstance(args[0], Away) else "cpu"
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    inner = tree_map_only(Away, lambda t: t.inner, (args, kwargs))
    with _disable_current_modes():
        out = function(*inner[0], **inner[1])
    given = {id(t.inner): t for t in away}

    def back(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, Away):
            return value
        if id(value) in given:
            return given[id(value)]  # in place
        return Away(value) if to == NAME else value

    if name == "aten::_local_scalar_dense":
        return out
    return tree_map(back, out)


def registered() -> torch.library.Library:
    """The device, and what ``torch.tensor(..., device=...)`` asks of it behind all dispatch modes' backs."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    library = torch.library.Library("aten", "IMPL")

    def empty_strided(size: Any, stride: Any, **options: Any) -> Tensor:
        return Away(torch.empty_strided(size, stride, dtype=options.get("dtype")))

    def copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
        inner = [t.inner if isinstance(t, Away) else t for t in (source, target)]
        inner[1].copy_(inner[0])
        return target

    library.impl("empty_strided", empty_strided, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
    return library


LIBRARIES: list[torch.library.Library] = []


@contextmanager
def away() -> Iterator[torch.device]:
    """Inside, the device exists and models are loaded to it."""
    if not LIBRARIES:
        LIBRARIES.append(registered())
    device = torch.device(NAME, 0)
    patch = pytest.MonkeyPatch()
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        everywhere = [module for module in list(sys.modules.values()) if getattr(module, "here", None) is here]
        for module in everywhere:
            patch.setattr(module, "here", lambda: device)
        with Strict():
            yield device
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
        patch.undo()
