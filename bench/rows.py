"""Norms, rotations, gates and logits on this CPU, compiled and by torch's operators, in turn: ``python bench/rows.py [ROUNDS]`` prints a
table of docs/performance.md, "Compiled code"."""

import sys
from collections.abc import Callable

import torch
import work
from torch import Tensor
from work import Way

from trimtab.common.kernels import library
from trimtab.common.memory import keep_freed_memory
from trimtab.models import rows, score

# Of the 134M model: tokens of a step and rows of a decoding step; hidden size, the MLP's, the vocabulary and rows of a head's chunk.
TOKENS, ROWS, HIDDEN, INNER, VOCABULARY, CHUNK = 1600, 32, 576, 1536, 49152, 170
HEADS, GROUPS, SIZE = 9, 3, 64


def once(function: Callable[..., Tensor], *inputs: Tensor) -> Way:
    """What times a forward pass without gradients, as a decoding step has it."""

    def forward() -> tuple[float, ...]:
        with torch.no_grad():
            return (work.timed(lambda: function(*inputs))[0],)

    return forward


def twice(function: Callable[..., Tensor], *inputs: Tensor) -> Way:
    """What times a forward and a backward pass."""
    leaves = [t.clone().requires_grad_() for t in inputs]
    upstream = torch.randn_like(inputs[0])

    def both() -> tuple[float, ...]:
        forward, out = work.timed(lambda: function(*leaves))
        return forward, work.timed(lambda: torch.autograd.grad(out, leaves, upstream))[0]

    return both


def scored(compiled: bool, dtype: torch.dtype) -> Way:
    """The statistics of a chunk's logits, and their slopes."""
    raw, targets = torch.randn(CHUNK, VOCABULARY).to(dtype), torch.arange(CHUNK)
    exact, up = raw[targets, targets].float(), torch.randn(CHUNK)
    plain = score.Scaling(1.0, None, 1.0)

    def both() -> tuple[float, ...]:
        made = raw.clone()  # as a product makes it; slopes may be written in its place
        if compiled:
            forward, (lse, entropy, _) = work.timed(lambda: rows.row_statistics(made, None, targets, exact, 1.0))
            return forward, work.timed(lambda: rows.logit_slopes(made, None, targets, exact, lse, entropy, up, None, 1.0, dtype))[0]
        forward, (lse, entropy, _) = work.timed(lambda: score.row_statistics(made, None, targets, exact, plain))
        return forward, work.timed(lambda: score.logit_slopes(made, None, targets, exact, lse, entropy, up, None, plain).to(dtype))[0]

    return both


def norm(compiled: bool) -> Callable[..., Tensor]:
    """Of inputs and weight."""
    if not compiled:
        return lambda x, weight: rows.plain_norm(x, weight, 1e-6, 0.0)
    return lambda x, weight: rows._Norm.apply(x, weight, 1e-6, 0.0) if torch.is_grad_enabled() else rows.norm_rows(x, weight, 1e-6, 0.0)[0]


def gate(compiled: bool) -> Callable[..., Tensor]:
    """Of two tensors."""
    if not compiled:
        return lambda gate, up: rows.plain_gate(gate, up, False)
    return lambda gate, up: rows._Gate.apply(gate, up, False) if torch.is_grad_enabled() else rows.gated(gate, up, False)


def rotation(compiled: bool, count: int) -> Way:
    """Queries and keys in bf16, as products under autocast give them."""
    q, k = (torch.randn(1, count, heads, SIZE).bfloat16().transpose(1, 2).requires_grad_() for heads in (HEADS, GROUPS))
    cos, sin = torch.randn(2, 1, count, SIZE)

    def turned() -> tuple[Tensor, ...]:
        if not compiled:
            return rows.plain_rotation(q, cos, sin), rows.plain_rotation(k, cos, sin)
        return tuple(x.transpose(1, 2) for x in (rows._Rotation.apply if torch.is_grad_enabled() else rows.rotate)(q, k, cos, sin))

    def once() -> tuple[float, ...]:
        with torch.no_grad():
            return (work.timed(turned)[0],)

    def both() -> tuple[float, ...]:
        forward, out = work.timed(turned)
        return forward, work.timed(lambda: torch.autograd.grad(out, (q, k), [torch.ones_like(x) for x in out]))[0]

    return once if count == ROWS else both


def softmax(compiled: bool) -> Way:
    """A decoding step's, of logits in bf16."""
    raw = torch.randn(ROWS, VOCABULARY).bfloat16()
    return once(lambda raw: rows.row_shares(raw, 1.0) if compiled else torch.softmax(raw.float(), dim=-1), raw)


def slopes(at_once: bool) -> Way:
    """A chunk's slopes of the head's weight, added to those of another: as whole tables, or some rows at a time."""
    left, right, to = torch.randn(CHUNK, VOCABULARY).bfloat16().T, torch.randn(CHUNK, HIDDEN).bfloat16(), torch.zeros(VOCABULARY, HIDDEN)
    added = (lambda: to.add_(left @ right)) if at_once else (lambda: score.products_added(to, left, right, torch.float32))
    return lambda: (work.timed(added)[0],)


def ways() -> dict[str, list[Way]]:
    """Torch's and compiled, by what they compute."""
    found: dict[str, list[Way]] = {}
    for count, timing in ((TOKENS, twice), (ROWS, once)):
        given = torch.randn(count, HIDDEN), torch.randn(HIDDEN)
        found[f"norm, {count:,} x {HIDDEN}, float32"] = [timing(norm(compiled), *given) for compiled in (False, True)]
        found[f"rotation, {count:,} x {HEADS} and {GROUPS} of {SIZE}, bf16"] = [rotation(compiled, count) for compiled in (False, True)]
    found[f"softmax, {ROWS} x {VOCABULARY:,}, bf16"] = [softmax(compiled) for compiled in (False, True)]
    found[f"slopes of a head added up, {CHUNK} rows, bf16 (no compiled code)"] = [slopes(at_once) for at_once in (True, False)]
    for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bf16")):
        for count, timing in ((TOKENS, twice), (ROWS, once)):
            two = torch.randn(2, count, INNER).to(dtype)
            found[f"gate, {count:,} x {INNER:,}, {name}"] = [timing(gate(compiled), *two) for compiled in (False, True)]
        found[f"logits, {CHUNK} x {VOCABULARY:,}, {name}"] = [scored(compiled, dtype) for compiled in (False, True)]
    return found


def main(rounds: str = "30") -> None:
    keep_freed_memory()
    if library() is None:
        raise SystemExit("nothing can be compiled here")
    print("| what | torch, ms | compiled, ms | ratio |\n|---|---|---|---|")
    for what, both in ways().items():
        print(work.compared(what, *both, int(rounds)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
