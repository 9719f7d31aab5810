"""Products with the Fisher matrix against the matrix itself, built from its definition; the exact KL against the plain formula."""

from collections.abc import Sequence

import pytest
import torch
from tiny_models import FAMILIES, pair, random_trees
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.common.errors import UserError
from trimtab.models import score
from trimtab.models.fisher import exact_kl, fisher_vector, scored_rows, trained
from trimtab.models.score import tail_of, tree_states
from trimtab.trees import TreeBatch

TREES = random_trees([(3, (2, 3)), (4, (2,))], 1)


def smallest(family: str, **options: object) -> PreTrainedModel:
    """A model of one layer whose Fisher matrix fits in memory."""
    config = FAMILIES[family]()
    sizes = {"hidden_size": 8, "n_embd": 8, "intermediate_size": 8, "num_hidden_layers": 1, "n_layer": 1, "num_attention_heads": 2,
             "n_head": 2, "num_key_value_heads": 1, "head_dim": 4, "max_position_embeddings": 16, "n_positions": 16}  # fmt: skip
    for name, value in {**sizes, "layer_types": None, **options}.items():
        if hasattr(config, name):
            setattr(config, name, value)
    if getattr(config, "layer_types", 0) is None:
        config.layer_types = ["sliding_attention"]
    return pair(config)[0].double()


def all_logprobs(model: PreTrainedModel, batch: TreeBatch, temperature: float) -> Tensor:
    """(S, V) by the dense definition of attention and the model's own head."""
    rows = tree_states(model, batch, "math").index_select(0, batch.sources)
    tail = tail_of(model)
    logits = tail.scale * (rows @ tail.weight.T + (0 if tail.bias is None else tail.bias))
    if tail.softcap is not None:
        logits = tail.softcap * torch.tanh(logits / tail.softcap)
    return torch.log_softmax(logits / temperature, -1)


def dense_fisher(model: PreTrainedModel, batch: TreeBatch, temperature: float) -> Tensor:
    """(n, n) the sum over tokens of E_p[grad log p grad log p^T]: the definition, score by score."""
    weights, logprobs = list(trained(model).values()), all_logprobs(model, batch, temperature)
    out = torch.zeros(sum(p.numel() for p in weights), sum(p.numel() for p in weights), dtype=torch.float64)
    for row in logprobs:
        scores = []
        for log_p in row:
            found = torch.autograd.grad(log_p, weights, retain_graph=True, allow_unused=True)
            scores.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(weights, found, strict=True)]))
        table = torch.stack(scores) * row.detach().exp().sqrt()[:, None]
        out += table.T @ table
    return out


def named(model: PreTrainedModel, vector: Tensor) -> dict[str, Tensor]:
    parts = vector.split([p.numel() for p in trained(model).values()])
    return {name: part.view_as(p) for (name, p), part in zip(trained(model).items(), parts, strict=True)}


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "granite"])
def test_the_product_is_that_of_the_dense_matrix(family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tied heads (gpt2, gemma2), soft caps and a window (gemma2), a logit scale (granite), temperature 0.8; several chunks at the head.

    Norms and rotations are float32 in these models whatever their weights are, and so is the kernel of the backward pass: not 1e-12."""
    monkeypatch.setattr(score, "CHUNK_LOGITS", 3 * 60)
    model, batch = smallest(family), TreeBatch.pack(TREES)
    matrix = dense_fisher(model, batch, 0.8)
    assert torch.linalg.matrix_rank(matrix) > 100
    draw = torch.Generator().manual_seed(3)
    model = model.to(dtype)
    for _ in range(3):
        vector = torch.randn(len(matrix), generator=draw, dtype=torch.float64)
        found = fisher_vector(model, batch, named(model, vector.to(dtype)), temperature=0.8)
        expected = matrix @ vector
        assert float((flat(list(found.values())) - expected).norm() / expected.norm()) <= (1e-5 if dtype == torch.float64 else 1e-4)


def test_only_what_requires_gradients_is_in_the_matrix() -> None:
    """The matrix of a subset of the weights is the block of the whole one: the attention's alone, then the head's alone."""
    model, batch = smallest("llama", tie_word_embeddings=False), TreeBatch.pack(TREES)
    whole = dense_fisher(model, batch, 1.0)
    places = dict(zip(trained(model), torch.arange(len(whole)).split([p.numel() for p in trained(model).values()]), strict=True))
    for part in ("self_attn", "lm_head"):
        for name, p in model.named_parameters():
            p.requires_grad_(part in name)
        mine = torch.cat([place for name, place in places.items() if part in name])
        assert len(trained(model)) == (4 if part == "self_attn" else 1)
        vector = torch.linspace(-1, 1, len(mine), dtype=torch.float64)
        found = flat(list(fisher_vector(model, batch, named(model, vector)).values()))
        expected = whole[mine][:, mine] @ vector
        assert float((found - expected).norm() / expected.norm()) <= 1e-5


def test_the_product_is_the_curvature_of_the_exact_kl() -> None:
    """KL(old, old + e v) / (e^2 / 2) -> v^T F v."""
    model, batch = smallest("llama"), TreeBatch.pack(TREES)
    draw = torch.Generator().manual_seed(5)
    vector = {name: torch.randn(p.shape, generator=draw, dtype=torch.float64) for name, p in trained(model).items()}
    product = fisher_vector(model, batch, vector)
    expected = float(sum((product[name] * vector[name]).sum() for name in vector))
    old_rows, old_weight = scored_rows(model, batch).detach(), tail_of(model).weight.detach().clone()
    old = score.Tail(old_weight, None)
    with torch.no_grad():
        for name, p in trained(model).items():
            p += 3e-3 * vector[name]
    kl = float(exact_kl(old_rows, old, scored_rows(model, batch), tail_of(model)).sum())
    assert 2 * kl / 9e-6 == pytest.approx(expected, rel=2e-2)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "cohere"])
def test_the_exact_kl_is_the_plain_formula(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the whole vocabulary, at temperature 0.7, in chunks; of a policy with itself exactly 0."""
    monkeypatch.setattr(score, "CHUNK_LOGITS", 3 * 60)
    model, other = smallest(family), smallest(family)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.1)
    batch = TreeBatch.pack(TREES)
    before, after = all_logprobs(model, batch, 0.7), all_logprobs(other, batch, 0.7)
    expected = (before.exp() * (before - after)).sum(-1)
    rows, moved = scored_rows(model, batch), scored_rows(other, batch)
    found = exact_kl(rows, tail_of(model), moved, tail_of(other), temperature=0.7)
    assert float(expected.detach().min()) > 1e-4 and torch.allclose(found, expected, rtol=1e-5, atol=1e-8)
    assert not exact_kl(rows, tail_of(model), rows, tail_of(model)).any()


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"gpt_oss"}))
def test_every_family_has_a_product_and_it_is_symmetric(family: str) -> None:
    """v^T F w = w^T F v: the forward-mode pass and the backward pass, on two kernels, are of one Jacobian."""
    model, batch = pair(FAMILIES[family]())[0].double(), TreeBatch.pack(random_trees([(12, (10, 9)), (5, (4,))], 2))
    draw = torch.Generator().manual_seed(1)
    v, w = ({n: torch.randn(p.shape, generator=draw, dtype=torch.float64) for n, p in trained(model).items()} for _ in range(2))
    fv, fw = fisher_vector(model, batch, v), fisher_vector(model, batch, w)
    size = float(sum((fv[n] * v[n]).sum() for n in v))
    assert size > 0
    assert abs(float(sum((fv[n] * w[n] - fw[n] * v[n]).sum() for n in v))) <= 1e-5 * size


def test_a_model_without_forward_mode_is_refused() -> None:
    with pytest.raises(UserError, match=r"GptOssForCausalLM: the Fisher matrix needs forward-mode derivatives \(.*_grouped_mm"):
        model = pair(FAMILIES["gpt_oss"]())[0]
        fisher_vector(model, TreeBatch.pack(TREES), {name: p.detach() for name, p in trained(model).items()})
