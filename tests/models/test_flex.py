"""The GPU's kernel held against the definition, where it can run here: FlexAttention without compilation, forward only, on CPU."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from trimtab.models.attention import AttentionRule, TreeLayout, math_attention
from trimtab.models.flex import flex_trees
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


@given(shapes=SHAPES)
def test_columns_say_what_the_dense_mask_says(shapes: list[tuple[int, list[int]]]) -> None:
    segments = segments_of(shapes)
    tree, branch, position = segments.columns()
    order = torch.arange(segments.tokens)
    own = (branch[None, :] == 0) | (branch[None, :] == branch[:, None])
    sees = (tree[:, None] == tree[None, :]) & own & (order[None, :] <= order[:, None])
    assert torch.equal(sees, segments.dense_mask())
    for span in segments.spans:
        expected = [*range(span.prompt), *(span.prompt + t for n in span.completions for t in range(n))]
        assert position[span.start :][: len(expected)].tolist() == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: the compiled kernel and its backward are not tested")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_values_and_gradients_are_the_cpus(dtype: torch.dtype) -> None:
    segments = segments_of([(70, [40, 9, 33]), (5, []), (1, [90]), (33, [16] * 5)])
    found = []
    for device in ("cpu", "cuda"):
        leaves = [t.to(device, dtype if device == "cuda" else torch.float32).requires_grad_() for t in inputs(segments.tokens, 8, 4, 64)]
        out = TreeLayout(segments_of([(s.prompt, list(s.completions)) for s in segments.spans])).attend(0, *leaves, AttentionRule(0.125))
        out.float().square().sum().backward()
        found.append([out.detach().float().cpu(), *(leaf.grad.float().cpu() for leaf in leaves if leaf.grad is not None)])
    tolerance = 2e-5 if dtype == torch.float32 else 4e-2
    for cpu, gpu in zip(*found, strict=True):
        torch.testing.assert_close(gpu, cpu, rtol=tolerance, atol=tolerance * float(cpu.abs().max()))
