"""``trimtab score`` and ``trimtab logprobs``: one number for each completion, in the order of the file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from trimtab.common.files import write_text
from trimtab.data.encode import comparison_trees
from trimtab.data.formats import read_comparisons
from trimtab.data.template import Renderer, ensure_template
from trimtab.feedback.reward_model import RewardModel
from trimtab.models.load import load_policy, load_tokenizer, max_positions
from trimtab.models.score import score_tokens
from trimtab.trees import PromptTree, TreeBatch, pack_by_budget


def run_score(model: str, data: str, out: str) -> Path:
    """Rewards of every completion: (plain score - shift) / scale of ``reward.json``."""
    items = read_comparisons(data)
    rewards = RewardModel(model).score([c.prompt for c in items], [c.completions for c in items])
    rows = [{"id": c.prompt.id, "rewards": row} for c, row in zip(items, rewards, strict=True)]
    return _write(out, rows)


@torch.no_grad()
def run_logprobs(model: str, data: str, out: str, *, budget: int = 8192) -> Path:
    """Sum of token logprobs (float32, end token included) and number of tokens of every completion."""
    policy, tokenizer = load_policy(model), load_tokenizer(model)
    ensure_template(tokenizer)
    trees, report = comparison_trees(read_comparisons(data), Renderer(tokenizer), max_positions(policy))
    print(f"logprobs: {data} {report}")
    rows = [
        {"id": t.key, "logprobs": lp, "tokens": [len(c) for c in t.completions]}
        for t, lp in zip(trees, sums(policy, trees, budget), strict=True)
    ]
    return _write(out, rows)


@torch.no_grad()
def sums(policy: torch.nn.Module, trees: list[PromptTree], budget: int) -> list[list[float]]:
    """log P(y|x) of every completion of every tree."""
    numbered = [PromptTree(t.prompt, t.completions, t.trained, str(i)) for i, t in enumerate(trees)]
    out: list[list[float]] = [[] for _ in trees]
    for group in pack_by_budget(numbered, budget):
        batch = TreeBatch.pack(group)
        flat = batch.sum_by_completion(score_tokens(policy, batch).logprobs).tolist()
        for tree in group:
            out[int(tree.key)], flat = flat[: len(tree.completions)], flat[len(tree.completions) :]
    return out


def _write(out: str, rows: Sequence[Mapping[str, object]]) -> Path:
    write_text(out, "".join(json.dumps(row) + "\n" for row in rows))
    return Path(out)
