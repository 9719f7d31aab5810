"""torch.compile, layer by layer: all layers of a model share one compiled program, and attention stays as it is.

Whole-model compilation would follow the tree layout, which is another for every batch. A layer's own arithmetic (norms, projections,
rotations, the MLP) is the same for any number of tokens.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from torch import nn
from torch.utils.checkpoint import checkpoint

from trimtab.common.device import allow_programs, has_triton
from trimtab.common.errors import UserError

# Attention functions that compiled programs leave and come back from.
_outside: set[str] = set()


def compiles(setting: str, device: torch.device) -> bool:
    """What ``compile=`` means on ``device``: ``auto`` is for GPUs that kernels can be compiled for."""
    return setting == "true" or (setting == "auto" and has_triton(device))


def compile_layers(modules: Mapping[str, nn.Module], *, must: bool = True, checkpointing: bool = False) -> None:
    """Compiles the layers of Hugging Face models in place; the first step then takes up to a minute longer. A model that does not say
    what its layers are is left as it is unless it ``must`` be compiled.

    ``checkpointing``: a layer keeps its input alone (Chen et al. 2016), around its compiled program. Transformers' own checkpointing lies
    inside, where the program could not be left for attention, and torch then compiles nothing, in silence.

    Raises:
        UserError: there is no C++ compiler (CPU), or a model does not say which of its modules are layers.
    """
    if any(p.device.type == "cpu" for module in modules.values() for p in module.parameters()):
        from torch._inductor import cpp_builder, exc

        try:
            cpp_builder.get_cpp_compiler()
        except exc.InvalidCxxCompiler:
            raise UserError("compile=true needs a C++ compiler on CPU: install g++ or set CXX to another one, or leave it out") from None
    allow_programs()
    for name, module in modules.items():
        kinds = set(getattr(module, "_no_split_modules", None) or ())
        layers = [inner for inner in module.modules() if type(inner).__name__ in kinds]
        if not layers and (not must or getattr(module, "bare_head", False)):
            continue
        if not layers:
            raise UserError(f"compile=true: {type(module).__name__} ({name}) does not say what its layers are; leave it out")
        how = str(module.config._attn_implementation)  # type: ignore[union-attr]
        if how not in _outside:
            transformers.AttentionInterface.register(how, torch.compiler.disable(transformers.AttentionInterface()[how]))
            _outside.add(how)
        for layer in layers:
            layer.compile(dynamic=True)
            program = layer._compiled_call_impl
            if checkpointing and program is not None:
                layer._compiled_call_impl = functools.partial(_recomputed, program)


def _recomputed(program: Callable[..., Any], *args: Any, **words: Any) -> Any:
    """``program``'s outputs, whose gradients run it again."""
    if not torch.is_grad_enabled():
        return program(*args, **words)
    return checkpoint(program, *args, use_reentrant=False, **words)
