"""Packed weights compute what the plain layer computes in bf16, and leave the model as it was."""

import pytest
import torch
from tiny_models import tiny_policy
from torch import nn

from trimtab.sampling.engine import NativeEngine
from trimtab.sampling.packed import can_pack, packed_linears
from trimtab.sampling.protocol import SamplingOptions

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
        with packed_linears(model, 32) as copied:
            assert copied == 2 * (96 * 200 + 200 * bias)  # bytes; the other layer is left alone
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


def test_an_engine_says_how_much_it_copied() -> None:
    """Two layers (32 x 32 and 32 x 16 twice each in attention, 32 x 48 three times behind it), a head of 60 tokens; 2 bytes a weight."""
    model, options = tiny_policy("llama"), SamplingOptions(max_tokens=2)
    for autocast in (False, True):
        engine = NativeEngine(model, 1, autocast=autocast)
        engine.sample([[5, 9]], 1, options, ["a"])
        assert engine.stats is not None
        weights = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48) + 60 * 32
        assert engine.stats.packed_bytes == (2 * weights if autocast else 0)
    assert f"{2 * weights / 1e3:.1f} kB of packed weights" in str(engine.stats)
