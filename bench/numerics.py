"""How exact the fast paths are, and how full micro-batches: ``python bench/numerics.py [gpu]`` prints one line of JSON.

On the shipped base model, which says something (the benchmark's own model has random weights): 48 test prompts of the village with four
sampled answers each, as trees, against transformers' own forward on every prompt + answer alone. Packing on the workload's pairs.
"""

import copy
import json
import math
import os
import sys
from pathlib import Path

if "gpu" not in sys.argv:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the table is of the CPU's paths

import numpy as np
import torch
import work
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

import trimtab
from trimtab.data.encode import comparison_trees, prompt_trees
from trimtab.data.formats import read_comparisons
from trimtab.data.template import Renderer
from trimtab.models.load import load_policy, load_tokenizer
from trimtab.models.score import score_tokens, tail_of, token_logprobs, tree_states
from trimtab.sampling.engine import NativeEngine
from trimtab.sampling.protocol import SamplingOptions
from trimtab.trees import PromptTree, TreeBatch, pack_by_budget, step_indices
from trimtab.village import prompts

BASE = Path(trimtab.__file__).parent / "village" / "base"
PROMPTS, ANSWERS, TOKENS = 48, 4, 48


def differences(found: Tensor, expected: Tensor) -> dict[str, float]:
    """Absolute differences of token logprobs, nats."""
    apart = (found - expected).abs()
    return {"mean": float(apart.mean()), "max": float(apart.max())}


@torch.no_grad()
def plain(model: PreTrainedModel, trees: list[PromptTree]) -> Tensor:
    """(S,) by the family's own attention, each prompt + answer alone."""
    out = []
    for tree in trees:
        for completion in tree.completions:
            logits = model(torch.tensor([[*tree.prompt, *completion]]), use_cache=False).logits[0, len(tree.prompt) - 1 : -1].float()
            out.append(logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0])
    return torch.cat(out)


@torch.no_grad()
def exactness() -> dict[str, dict[str, float]]:
    """The table's rows."""
    policy, renderer = load_policy(BASE), Renderer(load_tokenizer(BASE), template="plain")
    asked, _ = prompt_trees(prompts("test")[:PROMPTS], renderer, 512)
    options = SamplingOptions(max_tokens=TOKENS)
    made = {}
    for name, autocast in (("float32", False), ("bfloat16", True)):
        engine = NativeEngine(policy, renderer.end_id, autocast=autocast)
        samples = engine.sample([t.prompt for t in asked], ANSWERS, options, [t.key for t in asked])
        trees = [t.with_completions([s.token_ids for s in row]) for t, row in zip(asked, samples, strict=True)]
        batch = TreeBatch.pack(trees)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            made[name] = score_tokens(policy, batch).logprobs
        said = torch.tensor([x for row in samples for s in row for x in s.logprobs])
        made[f"{name} engine"], made[f"{name} batch"], made[f"{name} trees"] = said, batch, trees
    trees, batch = made["float32 trees"], made["float32 batch"]
    eager = AutoModelForCausalLM.from_pretrained(BASE, attn_implementation="eager").eval()
    with torch.autocast("cpu", torch.bfloat16):
        narrow = score_tokens(policy, batch).logprobs
    rows, tail = tree_states(policy, batch).index_select(0, batch.sources), tail_of(policy)
    with torch.autocast("cpu", torch.bfloat16):
        head = token_logprobs(rows, batch.targets, tail)[0]
    logits = (rows.bfloat16() @ tail.weight.bfloat16().T).float()
    rounded = logits.log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]
    double = plain(copy.deepcopy(eager).double(), trees)
    return {
        "tree, float32, against the plain forward in float32": differences(made["float32"], plain(eager, trees)),
        "the plain forward in float32 against itself in float64": differences(plain(eager, trees), double),
        "tree, bf16 products, against the tree in float32": differences(narrow, made["float32"]),
        "the head alone with bf16 products (ours: the target's logit in float32)": differences(head, made["float32"]),
        "the head alone with bf16 logits throughout": differences(rounded, made["float32"]),
        "engine against trainer, float32": differences(made["float32 engine"], made["float32"]),
        "engine against trainer, bf16 products": differences(made["bfloat16 engine"], made["bfloat16"]),
    }


@torch.no_grad()
def gpu_exactness() -> dict[str, dict[str, float]]:
    """The same of the GPU's paths, against the CPU's in float32."""
    policy, renderer = load_policy(BASE), Renderer(load_tokenizer(BASE), template="plain")
    here, there = policy.device, copy.deepcopy(policy).cpu()
    asked, _ = prompt_trees(prompts("test")[:PROMPTS], renderer, 512)
    made = {}
    for name, autocast in (("float32", False), ("bf16 products", True)):
        engine = NativeEngine(policy, renderer.end_id, autocast=autocast)
        samples = engine.sample([t.prompt for t in asked], ANSWERS, SamplingOptions(max_tokens=TOKENS), [t.key for t in asked])
        batch = TreeBatch.pack([t.with_completions([s.token_ids for s in row]) for t, row in zip(asked, samples, strict=True)])
        with torch.autocast(here.type, torch.bfloat16, enabled=autocast):
            found = score_tokens(policy, batch.to(here)).logprobs.cpu()
        said = torch.tensor([x for row in samples for s in row for x in s.logprobs])
        made[f"tree, {name}, on the GPU, against the tree in float32 on the CPU"] = differences(found, score_tokens(there, batch).logprobs)
        made[f"engine against trainer, {name}, on the GPU"] = differences(said, found)
    return made


def packing() -> list[dict[str, float]]:
    """One epoch of the workload's pairs, for batches and budgets."""
    folder = work.prepare("tiny")
    trees, _ = comparison_trees(read_comparisons(str(folder / "native-pairs.jsonl")), Renderer(load_tokenizer(folder / "model")), 1024)
    out = []
    for batch_size, budget in ((32, 2048), (32, 4096), (32, 8192), (128, 4096), (128, 8192)):
        filled = []
        for step in range(len(trees) // batch_size):
            chosen = [trees[i] for i in step_indices(len(trees), batch_size, 0, step)]
            filled.append([sum(t.tokens for t in group) for group in pack_by_budget(chosen, budget)])
        out.append({
            "budget": budget, "batch_size": batch_size, "steps": len(filled), "micro_batches": float(np.mean([len(f) for f in filled])),
            "extra": max(len(f) - math.ceil(sum(f) / budget) for f in filled),
            "imbalance": float(np.mean([1 - np.mean(f) / max(f) for f in filled])),
        })  # fmt: skip
    return out


if __name__ == "__main__":
    gpu = "gpu" in sys.argv
    print("NUMERICS " + json.dumps({"exactness": gpu_exactness()} if gpu else {"exactness": exactness(), "packing": packing()}))
