"""torch.compile, layer by layer: all layers of a model share one compiled program, and attention stays as it is.

Whole-model compilation would follow the tree layout, which is another for every batch. A layer's own arithmetic (norms, projections,
rotations, the MLP) is the same for any number of tokens.
"""

from collections.abc import Mapping

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from trimtab.common.errors import UserError


def compile_layers(modules: Mapping[str, nn.Module]) -> None:
    """Compiles the layers of Hugging Face models in place; the first step then takes half a minute longer.

    Raises:
        UserError: there is no C++ compiler (CPU), or a model does not say which of its modules are layers.
    """
    if any(p.device.type == "cpu" for module in modules.values() for p in module.parameters()):
        from torch._inductor import cpp_builder, exc

        try:
            cpp_builder.get_cpp_compiler()
        except exc.InvalidCxxCompiler:
            raise UserError("compile=true needs a C++ compiler on CPU: install g++ or set CXX to another one, or leave it out") from None
    for name, module in modules.items():
        kinds = set(getattr(module, "_no_split_modules", None) or ())
        layers = [inner for inner in module.modules() if type(inner).__name__ in kinds]
        if not layers:
            raise UserError(f"compile=true: {type(module).__name__} ({name}) does not say what its layers are; leave it out")
        how = module.config._attn_implementation  # type: ignore[union-attr]
        AttentionInterface.register(how, torch.compiler.disable(ALL_ATTENTION_FUNCTIONS[how]))
        for layer in layers:
            layer.compile(dynamic=True)
