"""Tree attention: one function registered with transformers, so that any decoder-only model runs on trees unmodified.

The layout travels as the keyword ``layout`` of the model's forward, never as a global: with activation checkpointing and two
micro-batches alive a global gives silently wrong gradients. Some families' layers (StableLM, Nemotron) hand their attention
the position ids but no keyword they do not know; for them the position ids carry the layout as an attribute. No mask function
is registered under our name, so transformers builds no mask and cannot take position restarts for new sequences.

What it computes is defined in ``rule``; ``cpu`` computes it fast on CPUs, ``buckets`` where nothing can be compiled, ``varlen`` and
``flex`` on GPUs.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import transformers
from torch import Tensor, nn

from trimtab.common.errors import UserError
from trimtab.common.kernels import can_run
from trimtab.models.buckets import flash_buckets
from trimtab.models.cpu import cpu_trees
from trimtab.models.rule import AttentionRule, Layout, math_attention, tree_by_tree
from trimtab.trees import Segments

NAME = "trimtab"
CARRIED = "trimtab_layout"  # the attribute under which position ids carry the layout
# Tensors that layers hand on and that change nothing here.
HARMLESS = ("position_ids", "cache_position")
# FlexAttention's kernels begin at this head size.
FLEX_SMALLEST = 16


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *, layout: Layout | None = None,
    scaling: float | None = None, dropout: float = 0.0, sliding_window: int | None = None, softcap: float | None = None,
    s_aux: Tensor | None = None, **others: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """The function transformers calls in every layer: query (1, H, T, D), key and value (1, G, T, D) -> (1, T, H, D).

    Raises:
        UserError: the architecture asks for something this attention does not do.
    """
    layout = layout if layout is not None else getattr(others.get("position_ids"), CARRIED, None)
    assert layout is not None, "pass layout= to the model's forward"
    assert attention_mask is None, "transformers made a mask although none is registered"
    unknown = [name for name, value in others.items() if isinstance(value, Tensor) and name not in HARMLESS]
    if unknown:  # a position bias, say: leaving one out would be silently wrong
        raise UserError(f"{type(module).__name__}: tree attention does not know its {', '.join(unknown)}")
    if dropout:
        raise UserError(f"{type(module).__name__}: attention dropout is not supported by tree attention; set it to 0")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    layer = int(getattr(module, "layer_idx", 0))
    rule = AttentionRule(scale, sliding_window, softcap, s_aux)
    out = layout.attend(layer, query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1), rule)
    return out.unsqueeze(0), None


@functools.cache
def tree_attention() -> str:
    """What to give transformers as ``attn_implementation``: the name that ``attention`` is registered under.

    Once, for ``training/compile.py`` registers its own wrapper under the same name.
    """
    transformers.AttentionInterface.register(NAME, attention)
    return NAME


def carrying(positions: Tensor, layout: Layout) -> Tensor:
    """(T,) positions -> (1, T) position ids that carry ``layout``.

    They are an argument of each layer, so the layer's recomputation under activation checkpointing sees the same ones.
    """
    ids = positions.unsqueeze(0)
    setattr(ids, CARRIED, layout)
    return ids


@dataclass(eq=False)  # not frozen: torch.compile looks into frozen ones, and compiles again for other numbers of spans (torch 2.11)
class TreeLayout:
    """The layout of a packed ``TreeBatch``. ``kernel``: ``math``; ``trees``, the same tree by tree; ``torch``, the fastest of torch's
    operators; or ``auto`` for the fastest that can: on CPUs ``cpu`` or ``buckets``, on GPUs ``varlen`` or ``flex``."""

    segments: Segments
    kernel: str = "auto"

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
        """See ``Layout.attend``."""
        longest = max((s.prompt + max(s.completions, default=0) for s in self.segments.spans), default=0)
        if rule.window is not None and rule.window >= longest:
            rule = replace(rule, window=None)  # no token of this batch is far enough from another for the window to hide it
        plain = rule.window is None and rule.softcap is None and query.device.type == "cpu"
        if self.kernel == "math":
            return math_attention(self.segments, query, key, value, rule)
        if self.kernel == "trees":
            return tree_by_tree(self.segments, query, key, value, rule)
        if self.kernel == "auto" and can_run(query):
            return cpu_trees(self.segments, query, key, value, rule)
        if query.device.type == "cuda" and rule.window is None and rule.softcap is None:
            from trimtab.models.varlen import can_flash, flash_trees  # imports that a CPU never needs, here and below

            if can_flash(query, key, value):
                return flash_trees(self.segments, query, key, value, rule)
        if query.device.type == "cuda" and query.shape[-1] >= FLEX_SMALLEST:
            from trimtab.models.flex import flex_trees

            return flex_trees(self.segments, query, key, value, rule)
        if not plain:
            return tree_by_tree(self.segments, query, key, value, rule)
        return flash_buckets(self.segments, query, key, value, rule)
