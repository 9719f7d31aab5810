"""Every family that the tests know, small, with random weights, in float32: ``python bench/families.py [gpu]`` prints one line of JSON.

Trees against transformers' own forward on each prompt + completion: the largest difference of a token's logprob, and of a parameter's
gradient relative to its size (as in tests/models/test_attention.py). The engine: its logprobs against the trainer's on what it drew, and
whether its greedy answers are transformers' token for token.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

if "gpu" not in sys.argv:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import torch
from tiny_models import FAMILIES, gradient_error, gradients, pair, plain_logprobs, random_trees
from transformers import PreTrainedModel

from trimtab.common.device import here
from trimtab.models.score import score_tokens
from trimtab.sampling.engine import NativeEngine
from trimtab.sampling.protocol import SamplingOptions
from trimtab.trees import PromptTree, TreeBatch

SHAPES = [(12, [9, 14, 5]), (3, [6, 4]), (7, [11]), (1, [20]), (10, [4] * 6)]
LEAST_HEAD = 16  # of GPU kernels
NO_END = -1


def config_of(family: str, gpu: bool) -> Any:
    """The tests' configuration; on a GPU with heads as large as its kernels take them."""
    config = FAMILIES[family]()
    if gpu and config.hidden_size // config.num_attention_heads < LEAST_HEAD:
        config.hidden_size = LEAST_HEAD * config.num_attention_heads
        for name in ("head_dim", "word_embed_proj_dim"):
            if getattr(config, name, None):
                setattr(config, name, LEAST_HEAD if name == "head_dim" else config.hidden_size)
    return config


def greedy_agrees(ours: PreTrainedModel, eager: PreTrainedModel, prompts: list[tuple[int, ...]]) -> bool:
    """Whether 24 greedy tokens of each prompt are transformers'."""
    keys = [str(i) for i in range(len(prompts))]
    found = NativeEngine(ours, NO_END).sample(prompts, 1, SamplingOptions(max_tokens=24, greedy=True), keys)
    for prompt, (sample,) in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt], device=eager.device)
        whole = eager.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0, use_cache=False
        )
        if list(sample.token_ids) != whole[0, len(prompt) :].tolist():
            return False
    return True


def measured(family: str, gpu: bool) -> dict[str, Any]:
    ours, eager = (model.to(here()) for model in pair(config_of(family, gpu)))
    trees = random_trees(SHAPES)
    batch = TreeBatch.pack(trees).to(here())
    found = score_tokens(ours, batch).logprobs
    slopes = torch.randn(len(found), generator=torch.Generator().manual_seed(1)).to(here())
    (found @ slopes).backward()
    with here():
        plain = torch.cat([plain_logprobs(eager, tree.prompt, c) for tree in trees for c in tree.completions])
    (plain @ slopes).backward()
    engine = NativeEngine(ours, 1)
    drawn = engine.sample([t.prompt for t in trees], 3, SamplingOptions(max_tokens=24), [t.key for t in trees])
    said = torch.tensor([x for row in drawn for s in row for x in s.policy_logprobs])
    again = [PromptTree(t.prompt, tuple(s.token_ids for s in row)) for t, row in zip(trees, drawn, strict=True)]
    with torch.no_grad():
        scored = score_tokens(ours, TreeBatch.pack(again).to(here())).logprobs.cpu()
    return {
        "logprobs": float((found - plain).detach().abs().max()), "gradients": gradient_error(gradients(ours), gradients(eager)),
        "engine": float((said - scored).abs().max()), "greedy": greedy_agrees(ours, eager, [t.prompt for t in trees]),
    }  # fmt: skip


if __name__ == "__main__":
    print("FAMILIES " + json.dumps({family: measured(family, "gpu" in sys.argv) for family in FAMILIES}))
