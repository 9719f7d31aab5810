"""The GPU's kernel held against the definition, where it can run here: FlexAttention without compilation, forward only, on CPU."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from trimtab.models.flex import flex_trees, seen_blocks
from trimtab.models.rule import AttentionRule, math_attention
from trimtab.trees import Segments, TreeSpan

SHAPES = st.lists(st.tuples(st.integers(1, 12), st.lists(st.integers(1, 9), max_size=4)), min_size=1, max_size=4)


def segments_of(shapes: list[tuple[int, list[int]]]) -> Segments:
    spans, start = [], 0
    for prompt, completions in shapes:
        spans.append(TreeSpan(start, prompt, tuple(completions)))
        start += prompt + sum(completions)
    return Segments(tuple(spans), start)


def inputs(tokens: int, heads: int = 4, groups: int = 2, size: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    return [torch.randn(tokens, n, size, generator=generator) for n in (heads, groups, groups)]


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("softcap", [None, 0.8])
@pytest.mark.parametrize("sunk", [False, True])
@torch.no_grad()
def test_flex_is_the_definition(window: int | None, softcap: float | None, sunk: bool) -> None:
    segments = segments_of([(70, [40, 9, 33]), (5, []), (1, [90]), (33, [16] * 5)])
    sinks = torch.tensor([0.5, -1.0, 2.0, 0.0]) if sunk else None
    rule = AttentionRule(0.4, window, softcap, sinks)
    given_ = inputs(segments.tokens)
    torch.testing.assert_close(flex_trees(segments, *given_, rule), math_attention(segments, *given_, rule), rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(shapes=SHAPES)
@torch.no_grad()
def test_any_trees(shapes: list[tuple[int, list[int]]]) -> None:
    segments, rule = segments_of(shapes), AttentionRule(0.3)
    given_ = inputs(segments.tokens)
    torch.testing.assert_close(flex_trees(segments, *given_, rule), math_attention(segments, *given_, rule), rtol=1e-5, atol=1e-6)


@given(shapes=SHAPES, size=st.integers(1, 6))
def test_blocks_are_those_of_the_dense_mask(shapes: list[tuple[int, list[int]]], size: int) -> None:
    segments = segments_of(shapes)
    count = -(-segments.tokens // size)
    mask = torch.zeros(count * size, count * size, dtype=torch.bool)
    mask[: segments.tokens, : segments.tokens] = segments.dense_mask()
    pairs = mask.unflatten(0, (count, size)).unflatten(2, (count, size)).transpose(1, 2).flatten(2)
    some, whole = seen_blocks(segments, size)
    assert ((some | whole) == pairs.any(-1).numpy()).all()
    assert not (whole & ~pairs.all(-1).numpy()).any() and not (some & whole).any()


def test_most_blocks_of_a_long_prompt_are_seen_whole() -> None:
    """Prompt 0-511 and two answers of 64: queries of blocks 1-3 see the blocks before theirs whole, the answers' block (4) sees 0-3."""
    some, whole = seen_blocks(segments_of([(512, [64, 64])]), 128)
    assert whole.astype(int).tolist() == [[0] * 5, [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]
    assert some.diagonal().all() and some.sum() == 5


@given(shapes=SHAPES)
def test_bounds_say_what_the_dense_mask_says(shapes: list[tuple[int, list[int]]]) -> None:
    segments = segments_of(shapes)
    start, root, trunk, _ = (column[:, None] for column in segments.bounds())
    order = torch.arange(segments.tokens)
    sees = (order <= order[:, None]) & ((order >= start) | ((order >= root) & (order < trunk)))
    assert torch.equal(sees, segments.dense_mask())


@given(shapes=SHAPES)
def test_positions_restart_at_each_tree_and_go_on_from_its_prompt(shapes: list[tuple[int, list[int]]]) -> None:
    segments = segments_of(shapes)
    positions = segments.positions()
    for span in segments.spans:
        expected = [*range(span.prompt), *(span.prompt + t for n in span.completions for t in range(n))]
        assert positions[span.start :][: len(expected)].tolist() == expected


RULES = {
    "plain": AttentionRule(0.125), "window": AttentionRule(0.125, window=20), "softcap": AttentionRule(0.125, softcap=2.0),
    "sinks": AttentionRule(0.125, sinks=torch.linspace(-1, 2, 8)), "all": AttentionRule(0.125, 20, 2.0, torch.linspace(-1, 2, 8)),
}  # fmt: skip


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: the compiled kernel and its backward are not tested")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_values_and_gradients_are_the_cpus(rule: str, dtype: torch.dtype) -> None:
    found = []
    for device in ("cpu", "cuda"):
        segments = segments_of([(70, [40, 9, 33]), (5, []), (1, [90]), (33, [16] * 5)])
        leaves = [t.to(device, dtype if device == "cuda" else torch.float32).requires_grad_() for t in inputs(segments.tokens, 8, 4, 64)]
        sinks = RULES[rule].sinks
        there = replace(RULES[rule], sinks=None if sinks is None else sinks.to(device))
        out = (flex_trees if device == "cuda" else math_attention)(segments, *leaves, there)
        out.float().square().sum().backward()
        found.append([out.detach().float().cpu(), *(leaf.grad.float().cpu() for leaf in leaves if leaf.grad is not None)])
    tolerance = 2e-5 if dtype == torch.float32 else 4e-2
    for cpu, gpu in zip(*found, strict=True):
        torch.testing.assert_close(gpu, cpu, rtol=tolerance, atol=tolerance * float(cpu.abs().max()))
