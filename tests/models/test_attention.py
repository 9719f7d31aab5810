"""Tree attention against transformers' own attention, on every family: token logprobs and every parameter's gradient.

The measure: logprobs to 1e-5, gradients to ||dg|| <= 1e-5 * max(||g||, 1e-3 * ||g||_all) for each tensor, float32. The plain
side is the family's eager forward on each prompt + completion alone; all its attention rules (windows of 8, soft caps,
layers without rotary positions) are shorter or smaller than the sequences.
"""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings, strategies as st
from tiny_models import FAMILIES, gradient_error, gradients, pair, plain_logprobs, random_trees
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.common.errors import UserError
from trimtab.models.attention import TreeLayout
from trimtab.models.rule import AttentionRule, math_attention
from trimtab.models.score import hidden_states, score_tokens, tail_of, token_logprobs
from trimtab.trees import PromptTree, Segments, TreeBatch, TreeSpan, pack_by_budget

# Siblings, siblings on a short prompt, an only child, a one-token prompt, many siblings of one length.
SHAPES = [(12, [9, 14, 5]), (3, [6, 4]), (7, [11]), (1, [20]), (10, [4] * 6)]
KERNELS = ("math", "torch", "auto")
TOLERANCE = 1e-5


def weights_for(count: int) -> Tensor:
    """One random weight for each token, so that no two tokens' gradients can cancel."""
    return torch.randn(count, generator=torch.Generator().manual_seed(1))


def plain_side(model: PreTrainedModel, trees: Sequence[PromptTree]) -> tuple[Tensor, dict[str, Tensor]]:
    logprobs = torch.cat([plain_logprobs(model, tree.prompt, c) for tree in trees for c in tree.completions])
    (logprobs @ weights_for(len(logprobs))).backward()
    return logprobs.detach(), gradients(model)


def tree_logprobs(model: PreTrainedModel, trees: Sequence[PromptTree], kernel: str) -> Tensor:
    batch = TreeBatch.pack(trees)
    states = hidden_states(model, batch.ids, batch.positions, TreeLayout(batch.layout, kernel))
    return token_logprobs(states.index_select(0, batch.sources), batch.targets, tail_of(model))[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_trees_equal_the_familys_own_forward(family: str) -> None:
    ours, eager = pair(FAMILIES[family]())
    trees = random_trees(SHAPES)
    expected, slopes = plain_side(eager, trees)
    assert float(expected.std()) > 0.3  # a model that says the same of every token would pass anything
    for kernel in KERNELS:
        logprobs = tree_logprobs(ours, trees, kernel)
        (logprobs @ weights_for(len(logprobs))).backward()
        assert float((logprobs.detach() - expected).abs().max()) <= TOLERANCE, kernel
        assert gradient_error(gradients(ours), slopes) <= TOLERANCE, kernel


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layout_travels_with_the_call_under_checkpointing(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two forwards with different layouts, then one backward that recomputes both: a global would hold the wrong one."""
    ours, eager = pair(FAMILIES[family]())
    first, second = random_trees(SHAPES[:2], seed=1), random_trees([(5, [8, 3, 7]), (2, [13])], seed=2)
    expected, slopes = plain_side(eager, [*first, *second])
    ours.train()
    ours.activation_checkpointing_enable({"use_reentrant": False})
    calls: list[int] = []
    attend = TreeLayout.attend
    monkeypatch.setattr(
        TreeLayout, "attend", lambda self, layer, *a, **k: calls.append(layer) or attend(self, layer, *a, **k)
    )
    logprobs = torch.cat([tree_logprobs(ours, first, "auto"), tree_logprobs(ours, second, "auto")])
    (logprobs @ weights_for(len(logprobs))).backward()
    assert sorted(calls) == [0] * 4 + [1] * 4  # two layers, two forwards, each computed again in the backward
    assert float((logprobs.detach() - expected).abs().max()) <= TOLERANCE
    assert gradient_error(gradients(ours), slopes) <= TOLERANCE


def by_key(trees: Sequence[PromptTree], logprobs: Tensor) -> dict[tuple[str, tuple[int, ...]], Tensor]:
    parts = logprobs.split([len(c) for tree in trees for c in tree.completions])
    names = [(tree.key, c) for tree in trees for c in tree.completions]
    return dict(zip(names, parts, strict=True))


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "stablelm"])
@pytest.mark.parametrize(
    "rearranged",
    [
        lambda trees: [list(reversed(trees))],
        lambda trees: pack_by_budget(trees, 40),
        lambda trees: [[tree] for tree in trees],
        lambda trees: [[PromptTree(t.prompt, (c,), key=t.key) for t in trees for c in t.completions]],
        lambda trees: [[PromptTree(t.prompt, tuple(reversed(t.completions)), key=t.key) for t in trees]],
    ],
    ids=["order", "micro-batches", "one by one", "without siblings", "siblings' order"],
)  # fmt: skip
def test_packing_changes_nothing(
    family: str, rearranged: Callable[[list[PromptTree]], list[list[PromptTree]]]
) -> None:  # fmt: skip
    """Order, micro-batch split, siblings: the same logprobs and the same accumulated gradient, each within 1e-5."""
    ours = pair(FAMILIES[family]())[0]
    trees = random_trees(SHAPES)
    logprobs = tree_logprobs(ours, trees, "auto")
    weight = by_key(trees, weights_for(len(logprobs)))
    (logprobs @ weights_for(len(logprobs))).backward()
    expected, slopes = by_key(trees, logprobs.detach()), gradients(ours)
    seen = 0
    for group in rearranged(trees):
        parts = by_key(group, tree_logprobs(ours, group, "auto"))
        torch.stack([(part @ weight[name]) for name, part in parts.items()]).sum().backward()
        for name, part in parts.items():
            assert float((part - expected[name]).detach().abs().max()) <= TOLERANCE
            seen += 1
    assert seen == len(expected) and gradient_error(gradients(ours), slopes) <= TOLERANCE


def test_a_sibling_is_not_seen() -> None:
    """Another first sibling changes not a bit of what is said of the second, though it lies between it and the prompt."""
    ours = pair(FAMILIES["llama"]())[0]
    prompt, first, other, second = (2, 3, 4), (5, 6, 7, 8), (15, 16, 17, 18), (9, 10, 11)
    for kernel in KERNELS:
        a = tree_logprobs(ours, [PromptTree(prompt, (first, second))], kernel)
        b = tree_logprobs(ours, [PromptTree(prompt, (other, second))], kernel)
        assert torch.equal(a[4:], b[4:]) and not torch.equal(a[:4], b[:4])


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_bf16_stays_within_its_rounding(family: str) -> None:
    """Autocast: bf16 has 8 bits, 4e-3 of a value; logits of up to 10 leave a few 1e-2 in a logprob, and no bias in the mean."""
    ours, eager = pair(FAMILIES[family]())
    trees = random_trees(SHAPES)
    with torch.no_grad():
        expected = torch.cat([plain_logprobs(eager, tree.prompt, c) for tree in trees for c in tree.completions])
        with torch.autocast("cpu", torch.bfloat16):
            off = tree_logprobs(ours, trees, "auto") - expected
    assert off.dtype == torch.float32
    assert 0 < float(off.abs().max()) < 0.15 and abs(float(off.mean())) < 0.01


spans = st.lists(st.tuples(st.integers(1, 40), st.lists(st.integers(1, 30), max_size=4)), min_size=1, max_size=5)


@settings(max_examples=40)
@given(spans, st.sampled_from([(4, 4), (4, 2), (4, 1)]), st.booleans(), st.integers(0, 2**16))
def test_the_cpu_kernels_equal_the_definition(
    shapes: list[tuple[int, list[int]]], heads: tuple[int, int], sinks: bool, seed: int
) -> None:
    """Any trees, any grouping of heads, with sinks and without: output, and the gradients of query, key, value and sinks."""
    placed, start = [], 0
    for prompt, completions in shapes:
        placed.append(TreeSpan(start, prompt, tuple(completions)))
        start += prompt + sum(completions)
    segments = Segments(tuple(placed), start)
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(start, count, 8, generator=generator) * 2 for count in (heads[0], heads[1], heads[1])]
    inputs.append(torch.randn(heads[0], generator=generator) * 2)
    upstream = torch.randn(start, heads[0], 8, generator=generator)
    results = []
    for kernel in KERNELS:
        leaves = [t.clone().requires_grad_() for t in inputs]
        out = TreeLayout(segments, kernel).attend(0, *leaves[:3], AttentionRule(0.4, sinks=leaves[3] if sinks else None))
        out.backward(upstream)
        results.append([out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)])
    assert len(results[0]) == (5 if sinks else 4)
    joint = float(torch.stack([slope.norm() for slope in results[0][1:]]).norm())
    for i, (b, *others) in enumerate(zip(*results, strict=True)):
        # Gradients are differences of terms (with one key a row they cancel to 0), and their rounding is as large as the terms:
        # against float64, over 400 random batches, at most 8e-7 of the joint norm, and 4e-7 of the output's.
        allowed = 2e-6 * (joint if i else float(b.norm())) + 1e-6
        assert all(float((a - b).norm()) <= allowed for a in others)


def test_attention_worked_by_hand() -> None:
    """Prompt p, siblings a and b, one head of size 1, all queries 0 but b's: softmax weights are means, b's are e^2 : e^0.

    p -> v_p = 1; a -> mean(1, 3) = 2; b, q = 1, k_p = 2, k_b = 0 -> (e^2 * 1 + 1 * 5) / (e^2 + 1).
    """
    segments = Segments((TreeSpan(0, 1, (1, 1)),), 3)
    query, key, value = (torch.tensor(x).view(3, 1, 1) for x in ([0.0, 0.0, 1.0], [2.0, 9.0, 0.0], [1.0, 3.0, 5.0]))
    weight = float(torch.tensor(2.0).exp())
    expected = torch.tensor([1.0, 2.0, (weight + 5.0) / (weight + 1.0)])
    for kernel in KERNELS:
        out = TreeLayout(segments, kernel).attend(0, query, key, value, AttentionRule(1.0))
        assert torch.allclose(out.flatten(), expected, atol=1e-6)


def test_a_window_counts_positions_of_the_branch_not_rows_of_the_batch() -> None:
    """Window 2: each token sees itself and the one before it on its own branch; a sibling's first token sees the prompt's last.

    Rows: prompt 0 1, first sibling 2 3, second 4 5. With equal scores the output is the mean of the two values seen.
    """
    segments = Segments((TreeSpan(0, 2, (2, 2)),), 6)
    zeros, value = torch.zeros(6, 1, 1), torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]).view(6, 1, 1)
    for kernel in KERNELS:
        out = TreeLayout(segments, kernel).attend(0, zeros, zeros, value, AttentionRule(1.0, window=2))
        assert out.flatten().tolist() == [1.0, 1.5, 3.0, 6.0, 9.0, 24.0]


def test_the_math_kernel_has_derivatives_of_any_order() -> None:
    segments = Segments((TreeSpan(0, 2, (2, 1)),), 5)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(5, 2, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return math_attention(segments, query, key, value, AttentionRule(0.5, window=3, softcap=1.5))

    assert torch.autograd.gradcheck(attend, inputs)
    assert torch.autograd.gradgradcheck(attend, inputs)


def test_a_forward_without_a_layout_is_refused() -> None:
    ours = pair(FAMILIES["llama"]())[0]
    with pytest.raises(AssertionError, match="layout"):
        ours(input_ids=torch.tensor([[1, 2, 3]]))


def test_dropout_is_refused() -> None:
    config = FAMILIES["llama"]()
    ours = pair(config)[0].train()
    for layer in ours.model.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(UserError, match="LlamaAttention: attention dropout"):
        score_tokens(ours, TreeBatch.pack(random_trees([(2, [3])])))


def test_sharp_attention_has_finite_and_right_gradients() -> None:
    """Scores that differ by hundreds within a row, and spans of unequal length in one kernel call: the rows that pad the
    shorter span must not overflow (a first row's log-sum-exp knows one key, a padded row sees all)."""
    generator = torch.Generator().manual_seed(0)
    lengths = (10, [9, 8, 10]), (9, [8, 8]), (40, [])
    spans, start = [], 0
    for prompt, completions in lengths:
        spans.append(TreeSpan(start, prompt, tuple(completions)))
        start += prompt + sum(completions)
    segments = Segments(tuple(spans), start)
    found = []
    for kernel in KERNELS:
        parts = [30 * torch.randn(start, 2, 16, generator=generator.manual_seed(i)) for i in range(3)]
        parts = [part.requires_grad_() for part in parts]
        out = TreeLayout(segments, kernel).attend(0, *parts, AttentionRule(0.25))
        (out * torch.randn(out.shape, generator=generator.manual_seed(9))).sum().backward()
        found.append([out.detach(), *(part.grad for part in parts)])
    for expected, *others in zip(*found, strict=True):
        for got in others:
            assert torch.isfinite(got).all()
            assert torch.allclose(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
