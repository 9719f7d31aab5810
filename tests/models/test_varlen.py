"""The GPU's bf16 path: its two calls and their merging are the definition, whatever computes the calls; on a GPU, the real kernel too."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from test_flex import SHAPES, inputs, segments_of
from torch import Tensor

from trimtab.models import varlen
from trimtab.models.attention import TreeLayout
from trimtab.models.rule import AttentionRule, math_attention
from trimtab.models.varlen import flash_trees


def pieces(query: Tensor, key: Tensor, q_bounds: Tensor, k_bounds: Tensor, causal: bool, scale: float) -> Any:
    """For each segment: its rows, its keys, scores (H, q, k) with what is hidden at -inf."""
    share = query.shape[1] // key.shape[1]
    for i in range(len(q_bounds) - 1):
        rows, columns = slice(int(q_bounds[i]), int(q_bounds[i + 1])), slice(int(k_bounds[i]), int(k_bounds[i + 1]))
        scores = torch.einsum("qhd,khd->hqk", query[rows], key[columns].repeat_interleave(share, 1)) * scale
        if causal:
            scores = scores.masked_fill(~torch.ones(scores.shape[1:], dtype=torch.bool).tril(), float("-inf"))
        yield rows, columns, scores, share


def plain_forward(
    query: Tensor, key: Tensor, value: Tensor, q_bounds: Tensor, k_bounds: Tensor, q_most: int, k_most: int, dropout: float, causal: bool,
    debug: bool, *, scale: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    """FlashAttention's forward as its paper defines it."""
    assert int(q_bounds.diff().max()) == q_most and int(k_bounds.diff().max()) == k_most
    assert q_bounds[-1] == len(query) and k_bounds[-1] == len(key)
    out, lse = torch.empty_like(query), torch.empty(query.shape[1], len(query))
    for rows, columns, scores, share in pieces(query, key, q_bounds, k_bounds, causal, scale):
        lse[:, rows] = scores.logsumexp(-1)
        out[rows] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[columns].repeat_interleave(share, 1))
    none = torch.zeros(0)
    return out, lse, none, none, none


def plain_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, q_bounds: Tensor, k_bounds: Tensor, q_most: int,
    k_most: int, dropout: float, causal: bool, state: Tensor, unused: Tensor, *, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Its backward (Dao et al. 2022, algorithm 4): weights from the log-sum-exp that it is given, whatever they sum to."""
    d_query, d_key, d_value = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
    for rows, columns, scores, share in pieces(query, key, q_bounds, k_bounds, causal, scale):
        weights = (scores - lse[:, rows].unsqueeze(-1)).exp()
        values = value[columns].repeat_interleave(share, 1)
        d_weights = torch.einsum("qhd,khd->hqk", grad[rows], values)
        d_scores = weights * (d_weights - (grad[rows] * out[rows]).sum(-1).T.unsqueeze(-1)) * scale
        d_query[rows] += torch.einsum("hqk,khd->qhd", d_scores, key[columns].repeat_interleave(share, 1))
        for into, of, to in ((d_key, d_scores, query[rows]), (d_value, weights, grad[rows])):
            into[columns] += torch.einsum("hqk,qhd->khd", of, to).unflatten(1, (-1, share)).sum(2)
    return d_query, d_key, d_value


def assert_the_definition(monkeypatch: pytest.MonkeyPatch, shapes: list[tuple[int, list[int]]], sunk: bool) -> None:
    """Output and every gradient, the sinks' included, are those of ``math_attention``."""
    monkeypatch.setattr(varlen, "_forward", plain_forward)
    monkeypatch.setattr(varlen, "_backward", plain_backward)
    found = []
    for attend in (math_attention, flash_trees):
        segments = segments_of(shapes)
        leaves = [t.requires_grad_() for t in inputs(segments.tokens)]
        sinks = torch.tensor([0.5, -1.0, 2.0, 0.0], requires_grad=True) if sunk else None
        out = attend(segments, *leaves, AttentionRule(0.4, None, None, sinks))
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        grads = [t.grad for t in (*leaves, *([sinks] if sinks is not None else []))]
        found.append([out.detach(), *(g for g in grads if g is not None)])
    assert len(found[0]) == len(found[1]) == 4 + sunk
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sunk", [False, True])
def test_values_and_gradients_are_the_definitions(monkeypatch: pytest.MonkeyPatch, sunk: bool) -> None:
    assert_the_definition(monkeypatch, [(7, [4, 9, 3]), (5, []), (1, [6]), (3, [2] * 5)], sunk)


@settings(deadline=None, max_examples=20)
@given(shapes=SHAPES, sunk=st.booleans())
def test_any_trees(shapes: list[tuple[int, list[int]]], sunk: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        assert_the_definition(patch, shapes, sunk)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: FlashAttention is not tested")
@pytest.mark.parametrize("shapes", [[(70, [40, 9, 33]), (5, []), (1, [90]), (33, [16] * 5)], [(40, [30]), (9, [200])]])
def test_on_a_gpu_it_is_taken_in_bf16_and_agrees(monkeypatch: pytest.MonkeyPatch, shapes: list[tuple[int, list[int]]]) -> None:
    taken: list[int] = []
    monkeypatch.setattr(varlen, "flash_trees", lambda *words: taken.append(1) or flash_trees(*words))
    found = []
    for precise in (False, True):
        segments = segments_of(shapes)
        leaves = [t.to("cuda", torch.bfloat16).to(torch.float32 if precise else torch.bfloat16) for t in inputs(segments.tokens, 8, 4, 64)]
        sinks = torch.linspace(-1, 2, 8, device="cuda", requires_grad=True)
        rule = AttentionRule(0.125, None, None, sinks)
        leaves = [leaf.requires_grad_() for leaf in leaves]
        out = math_attention(segments, *leaves, rule) if precise else TreeLayout(segments).attend(0, *leaves, rule)
        out.float().square().sum().backward()
        found.append([out.detach().float(), *(t.grad.float() for t in (*leaves, sinks) if t.grad is not None)])
    assert taken and len(found[0]) == 5
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=4e-2, atol=4e-2 * float(expected.abs().max()))
