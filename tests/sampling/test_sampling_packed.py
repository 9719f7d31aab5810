"""Packed weights compute what the plain layer computes in bf16, and leave the model as it was."""

import pytest
import torch
from torch import nn

from trimtab.sampling.packed import can_pack, packed_linears

pytestmark = pytest.mark.skipif(not can_pack(torch.device("cpu")), reason="no bf16 products in hardware here: nothing is packed")


class Scaled(nn.Linear):
    """A layer of a class of its own, as quantised ones are."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(inputs)


@pytest.mark.parametrize("rows", [8, 32, 1000])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_is_the_plain_one_in_bf16(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 200, bias=bias), Scaled(200, 40))
    inputs = torch.randn(1, rows, 96)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = model(inputs)
        with packed_linears(model, 32):
            packed = model(inputs)
            assert "forward" in vars(model[0]) and "forward" not in vars(model[1])
    assert packed.shape == plain.shape and packed.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(packed.float(), plain.float(), rtol=0.01, atol=0.01)


def test_afterwards_the_layers_are_plain_again_and_changed_weights_count() -> None:
    model = nn.Sequential(nn.Linear(64, 64, bias=False))
    inputs = torch.randn(8, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(RuntimeError, match="inside"), packed_linears(model, 8):
            raise RuntimeError("inside")
        assert "forward" not in vars(model[0])
        with packed_linears(model, 8):
            first = model(inputs)
        model[0].weight.neg_()
        with packed_linears(model, 8):
            assert torch.equal(model(inputs), -first)
