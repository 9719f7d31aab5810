"""Compiled tree attention: the definition, at sizes that vectors and blocks divide badly; what threads and neighbours change: nothing."""

import itertools
from collections.abc import Callable

import pytest
import torch
from kernel_widths import WIDTHS
from torch import Tensor

from trimtab.common import kernels
from trimtab.models.cpu import cpu_trees
from trimtab.models.rule import AttentionRule, math_attention
from trimtab.trees import Segments, TreeSpan

pytestmark = pytest.mark.skipif(not kernels.compilers(), reason="nothing can be compiled here: attention is torch's")
# Blocks have 24 queries: lengths below, at and above one and two blocks, no prompt, no completion, many completions.
SHAPES = ((5, (3, 24, 25)), (0, (7, 1)), (49, ()), (24, (48,)), (70, (1, 2, 3, 50)), (1, (1,)))


def placed(shapes: tuple[tuple[int, tuple[int, ...]], ...]) -> Segments:
    sizes = [prompt + sum(completions) for prompt, completions in shapes]
    starts = [0, *itertools.accumulate(sizes)]
    return Segments(tuple(TreeSpan(start, *shape) for start, shape in zip(starts, shapes, strict=False)), starts[-1])


def random(segments: Segments, heads: int, groups: int, size: int, value: int, seed: int = 0) -> list[Tensor]:
    """Query, key, value and the output's slopes."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((heads, size), (groups, size), (groups, value), (heads, value))
    return [torch.randn(segments.tokens, *shape, generator=generator) for shape in shapes]


def run(segments: Segments, inputs: list[Tensor], rule: AttentionRule, attend: object = cpu_trees) -> list[Tensor]:
    """Output and slopes of query, key, value and of sinks, if any."""
    leaves = [t.detach().requires_grad_() for t in inputs[:3]]
    sinks = None if rule.sinks is None else rule.sinks.detach().requires_grad_()
    out = attend(segments, *leaves, AttentionRule(rule.scale, rule.window, rule.softcap, sinks))  # type: ignore[operator]
    out.backward(inputs[3].to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in (*leaves, sinks) if leaf is not None and leaf.grad is not None)]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("window", [None, 1, 7, 26, 60])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("sunk", [False, True])
@pytest.mark.parametrize(("heads", "groups", "size", "value"), [(4, 4, 8, 8), (6, 2, 17, 33), (3, 1, 64, 16), (2, 2, 1, 5)])
def test_it_is_the_definition(
    width: int | None, window: int | None, softcap: float | None, sunk: bool, heads: int, groups: int, size: int, value: int,
    of_width: Callable[[int | None], None],
) -> None:  # fmt: skip
    of_width(width)
    segments = placed(SHAPES)
    inputs = random(segments, heads, groups, size, value)
    sinks = torch.randn(heads, generator=torch.Generator().manual_seed(1)) if sunk else None
    rule = AttentionRule(size**-0.5, window, softcap, sinks)
    found, expected = run(segments, inputs, rule), run(segments, inputs, rule, math_attention)
    assert len(found) == len(expected) == 4 + sunk
    largest = max(float(right.abs().max()) for right in expected)  # slopes are differences of terms that are as large
    assert all(float((got - right).abs().max()) <= 2e-6 * largest for got, right in zip(found, expected, strict=True))


def test_neither_threads_nor_neighbours_change_a_bit() -> None:
    segments = placed(SHAPES)
    inputs, rule = random(segments, 6, 2, 24, 24), AttentionRule(0.2)
    together, threads = run(segments, inputs, rule), torch.get_num_threads()
    try:
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            assert all(torch.equal(a, b) for a, b in zip(run(segments, inputs, rule), together, strict=True))
    finally:
        torch.set_num_threads(threads)
    for span, shape in zip(segments.spans, SHAPES, strict=True):
        rows = slice(span.start, span.start + span.prompt + sum(span.completions))
        alone = run(placed((shape,)), [t[rows] for t in inputs], rule)
        assert all(torch.equal(a, b[rows]) for a, b in zip(alone, together, strict=True))


def test_tensors_may_lie_in_any_order() -> None:
    """transformers hands on (1, H, T, D); a fused projection's parts (Phi-3) are narrower than their rows."""
    segments = placed(SHAPES)
    inputs, rule = random(segments, 4, 2, 16, 16), AttentionRule(0.25)
    expected = run(segments, inputs, rule)
    heads_first = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in inputs]
    narrow = [torch.cat([t, torch.full_like(t, float("nan"))], dim=-1)[..., :16] for t in inputs]
    backwards = [t.transpose(0, 2).contiguous().transpose(0, 2) for t in inputs]
    for other in (heads_first, narrow, backwards):
        assert not all(t.is_contiguous() for t in other)
        assert all(torch.equal(a, b) for a, b in zip(run(segments, other, rule), expected, strict=True))


def test_bf16_goes_in_and_comes_out_and_is_float32_between() -> None:
    segments = placed(SHAPES)
    inputs, rule = [t.bfloat16() for t in random(segments, 4, 2, 16, 16)], AttentionRule(0.25)
    found, expected = run(segments, inputs, rule), run(segments, [t.float() for t in inputs], rule)
    assert all(got.dtype == torch.bfloat16 for got in found)
    assert torch.equal(found[0], expected[0].bfloat16())
    for got, right in zip(found[1:], expected[1:], strict=True):
        assert torch.equal(got, right.bfloat16())


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_tree_and_is_seen_there(number: float) -> None:
    """A step is refused because of it: an attention that hid it would train on."""
    shapes = ((30, (8, 9)), (12, (20,)))
    segments, rule = placed(shapes), AttentionRule(0.25)
    for which in range(3):
        inputs = random(segments, 2, 2, 8, 8)
        inputs[which][2, 0, 0] = number
        out, *slopes = run(segments, inputs, rule)
        assert not torch.isfinite(out[:47, 0]).all() and torch.isfinite(out[47:]).all() and torch.isfinite(out[:, 1]).all()
        assert all(torch.isfinite(slope[47:]).all() for slope in slopes)


def test_a_second_derivative_is_refused() -> None:
    """What the forward pass kept would count as constant in it: a gradient penalty would be wrong in silence."""
    segments = placed(SHAPES)
    leaves = [t.requires_grad_() for t in random(segments, 2, 2, 8, 8)[:3]]
    out = cpu_trees(segments, *leaves, AttentionRule(0.5))
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(out.sum(), leaves[0], create_graph=True)


def test_what_does_not_fit_is_refused_before_its_address_is_taken() -> None:
    segments, rule = placed(SHAPES), AttentionRule(0.5)
    query, key, value, _ = random(segments, 4, 2, 8, 8)
    expected = cpu_trees(segments, query, key, value, rule)
    segments.cache.clear()
    with torch.device("meta"):  # whatever new tensors would be made on
        assert torch.equal(cpu_trees(segments, query, key, value, rule), expected)
    for wrong in ((query, key[:-1], value), (query, key, value[:-1]), (query[:, :3], key, value), (query, key[..., :7], value)):
        with pytest.raises(AssertionError):
            cpu_trees(segments, *wrong, rule)
    with pytest.raises(AssertionError):
        cpu_trees(segments, *(t[1:] for t in (query, key, value)), rule)
    moved = (TreeSpan(4, 2, ()), *segments.spans[1:])  # as many tokens, elsewhere
    for spans in (segments.spans[1:], moved):
        with pytest.raises(AssertionError):
            cpu_trees(Segments(spans, segments.tokens), query, key, value, rule)
    for broken in (AttentionRule(0.5, window=0), AttentionRule(0.5, sinks=torch.zeros(1))):
        with pytest.raises(AssertionError):
            cpu_trees(segments, query, key, value, broken)


def test_scores_far_apart_are_neither_lost_nor_overflow() -> None:
    """Two keys, scores 0 and -100: weights 1 and e^-100, which is 0 in the sum; and 1,000 each: halves."""
    segments, value = placed(((2, ()),)), torch.tensor([3.0, 5.0]).view(2, 1, 1)
    query = torch.tensor([0.0, 1.0]).view(2, 1, 1)
    for keys, expected in (((-100.0, 0.0), 5.0), ((0.0, -100.0), 3.0), ((1000.0, 1000.0), 4.0), ((-1000.0, -1000.0), 4.0)):
        out = cpu_trees(segments, query, torch.tensor(keys).view(2, 1, 1), value, AttentionRule(1.0))
        assert out.flatten().tolist() == [3.0, expected]


def test_the_exponential_is_that_of_float64_to_two_units_in_the_last_place() -> None:
    """A first key of score 0 and value 0, a second of score x and value 1: the output is e^x / (1 + e^x)."""
    x = torch.linspace(-80, 0, 4001)
    segments = placed(tuple((2, ()) for _ in x))
    query = torch.tensor([0.0, 1.0]).repeat(len(x)).view(-1, 1, 1)
    key, value = torch.stack([torch.zeros_like(x), x], 1).view(-1, 1, 1), torch.tensor([0.0, 1.0]).repeat(len(x)).view(-1, 1, 1)
    found = cpu_trees(segments, query, key, value, AttentionRule(1.0)).view(-1, 2)[:, 1].double()
    expected = torch.sigmoid(x.double())  # the sum and the division round as well
    assert float((found / expected - 1).abs().max()) < 4 * 2**-23
