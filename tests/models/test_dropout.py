"""Dropout: what the branches of each layer add is dropped in training, scaled so that its mean stays, and nothing else ever is."""

import pytest
import torch
from tiny_models import FAMILIES, pair, random_trees

from trimtab.common.errors import UserError
from trimtab.models.dropout import add_dropout
from trimtab.models.score import score_tokens
from trimtab.trees import TreeBatch

REFUSED = ("opt",)  # its MLP is two matrices of the layer itself


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in REFUSED])
def test_branches_are_dropped_in_training_only(family: str) -> None:
    model = pair(FAMILIES[family]())[0]
    batch = TreeBatch.pack(random_trees([(5, [4, 6])]))
    with torch.no_grad():
        plain = score_tokens(model, batch).logprobs
    layers = [m for m in model.modules() if type(m).__name__ in model._no_split_modules]
    add_dropout(model, 0.25)
    with torch.no_grad():
        assert torch.equal(score_tokens(model, batch).logprobs, plain)
    torch.manual_seed(0)
    first = score_tokens(model, batch).logprobs
    assert not torch.equal(first, plain)
    torch.manual_seed(0)
    assert torch.equal(score_tokens(model, batch).logprobs, first)
    assert all(sum(len(child._forward_hooks) for child in layer.children()) == 2 for layer in layers)


def test_three_quarters_stay_and_are_a_third_larger() -> None:
    """Of ones, with a share of 0.25 dropped: 0 or 4/3, and the mean stays 1 (40,000 values: to 0.02)."""
    model = pair(FAMILIES["llama"]())[0]
    add_dropout(model, 0.25)
    mlp = model.model.layers[0].mlp
    mlp.forward = torch.ones_like
    out = mlp(torch.zeros(1, 1000, 40))
    assert out.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert float(out.mean()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("family", REFUSED)
def test_layers_of_another_build_are_refused(family: str) -> None:
    with pytest.raises(UserError, match=r"dropout=0.1: OPTDecoderLayer is not made of one attention and one MLP"):
        add_dropout(pair(FAMILIES[family]())[0], 0.1)
