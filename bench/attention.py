"""Attention on this CPU, compiled and by torch's operators, in turn: ``python bench/attention.py [ROUNDS]`` prints the table in
docs/performance.md, "Compiled code"."""

import sys
from collections.abc import Callable

import torch
import work

from trimtab.common.kernels import library
from trimtab.common.memory import keep_freed_memory
from trimtab.models.buckets import flash_buckets
from trimtab.models.cpu import cpu_trees
from trimtab.models.rule import AttentionRule
from trimtab.trees import PromptTree, TreeBatch

# Trees of a batch, prompt, completions; heads, key-value heads, size: of the village's rankings, HH-RLHF pairs, and long prompts.
SHAPES = (
    (60, 30, (14, 12, 16, 20), 5, 5, 32),
    (8, 129, (40, 51), 9, 3, 64),
    (2, 1024, (64, 64, 64, 64), 9, 3, 64),
    (1, 4096, (200, 200), 9, 3, 64),
)
KINDS = {"torch": flash_buckets, "compiled": cpu_trees}


def measured(kind: str, shape: tuple[int, int, tuple[int, ...], int, int, int]) -> Callable[[], tuple[float, float]]:
    """What times a forward and a backward pass."""
    trees, prompt, completions, heads, groups, size = shape
    layout = TreeBatch.pack([PromptTree((0,) * prompt, tuple((0,) * n for n in completions))] * trees).layout
    generator = torch.Generator().manual_seed(0)
    # As transformers hands them on: (1, H, T, D).
    inputs = [torch.randn(1, n, layout.tokens, size, generator=generator).requires_grad_() for n in (heads, groups, groups)]
    upstream = torch.randn(layout.tokens, heads, size, generator=generator)

    def once() -> tuple[float, float]:
        rows = [t[0].transpose(0, 1) for t in inputs]
        forward, out = work.timed(lambda: KINDS[kind](layout, *rows, AttentionRule(size**-0.5)))
        return forward, work.timed(lambda: out.backward(upstream))[0]

    return once


def main(rounds: str = "20") -> None:
    keep_freed_memory()
    if library() is None:
        raise SystemExit("nothing can be compiled here")
    print("| trees x (prompt + answers) | heads | torch, ms | compiled, ms | ratio |\n|---|---|---|---|---|")
    for shape in SHAPES:
        trees, prompt, completions, heads, groups, size = shape
        what = f"{trees} x ({prompt:,} + {' + '.join(map(str, completions))}) | {heads} ({groups}) of {size}"
        print(work.compared(what, measured("torch", shape), measured("compiled", shape), int(rounds)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
