"""What NF4 costs a model, and what with the scales that bitsandbytes 0.50 takes on CPUs with AVX-512 (docs/log.md, "NF4 on a CPU").

    python bench/nf4_blocks.py MODEL DEMONSTRATIONS   nats per token of the answers in a file of demonstrations, three times
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from bitsandbytes.functional import dequantize_blockwise
from torch import Tensor

from trimtab.data.encode import demonstration_trees
from trimtab.data.formats import read_demonstrations
from trimtab.data.template import Renderer
from trimtab.models.load import load_policy, load_tokenizer
from trimtab.models.nf4 import BLOCK, NF4Linear
from trimtab.models.score import score_tokens
from trimtab.trees import PromptTree, TreeBatch, pack_by_budget


def of_rows(layer: NF4Linear) -> Tensor:
    """The weight (out, in), where a row's scales begin at row * (in // 64)."""
    state = layer.weight.quant_state
    scales = dequantize_blockwise(state.absmax, state.state2) + state.offset
    values = layer.dequantize().reshape(-1)
    unit = (values / scales.repeat_interleave(BLOCK)[: len(values)]).view(layer.out_features, layer.in_features)
    rows, columns = torch.arange(layer.out_features), torch.arange(layer.in_features)
    taken = rows[:, None] * (layer.in_features // BLOCK) + columns // BLOCK
    return unit * scales[taken.clamp(max=len(scales) - 1)]


@torch.no_grad()
def loss(model: Any, trees: Sequence[PromptTree]) -> float:
    """Nats per token of the answers."""
    found = [score_tokens(model, TreeBatch.pack(part)).logprobs for part in pack_by_budget(trees, 2048)]
    return -float(torch.cat(found).mean())


def main(model: str, file: str) -> None:
    whole, quantised = load_policy(model), load_policy(model, quantize="nf4")
    trees, _ = demonstration_trees(read_demonstrations(file), Renderer(load_tokenizer(model)), max_length=2048)
    print(f"float32 {loss(whole, trees):.4f}", flush=True)
    for name, weight in (("NF4", NF4Linear.dequantize), ("NF4, another block's scales", of_rows)):
        for place, layer in quantised.named_modules():
            if isinstance(layer, NF4Linear):
                whole.get_submodule(place).weight.data.copy_(weight(layer))
        print(f"{name} {loss(whole, trees):.4f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
