"""Packed weights compute what the plain layer computes, and leave the model as it was."""

from collections.abc import Callable

import pytest
import torch
from tiny_models import FAMILIES, tiny_policy
from torch import nn

from trimtab.common import onednn
from trimtab.models.score import score_tokens
from trimtab.sampling import packed as packed_module
from trimtab.sampling.engine import NativeEngine
from trimtab.sampling.packed import Cast, can_pack, layers_to_pack, packed_linears
from trimtab.sampling.protocol import Sample, SamplingOptions
from trimtab.trees import PromptTree, TreeBatch

CPU = torch.device("cpu")
NO_BF16 = "no bf16 products in hardware here: nothing is packed"
BF16 = pytest.param(torch.bfloat16, marks=pytest.mark.skipif(not can_pack(CPU, torch.bfloat16), reason=NO_BF16))
FLOAT32 = pytest.param(torch.float32, marks=pytest.mark.skipif(not can_pack(CPU, torch.float32), reason="oneDNN is not used here"))
both = pytest.mark.parametrize("dtype", [BF16, FLOAT32])
Everything = Callable[[], None]


class Scaled(nn.Linear):
    """A layer of a class of its own, as quantised ones are."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(inputs)


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> Everything:
    """Small models and layers are packed as large ones are, once it is called."""

    def pack() -> None:
        monkeypatch.setattr(packed_module, "MODEL_WEIGHTS", 0)
        monkeypatch.setattr(packed_module, "LAYER_WEIGHTS", 0)

    return pack


@both
@pytest.mark.parametrize("rows", [8, 32, 1000])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_is_the_plain_one(rows: int, bias: bool, dtype: torch.dtype, everything: Everything) -> None:
    everything()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 200, bias=bias), Scaled(200, 40))
    inputs = torch.randn(1, rows, 96)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        plain = model(inputs)
        with packed_linears(model, 32, dtype) as copied:
            assert copied == dtype.itemsize * (96 * 200 + 200 * bias)  # bytes; the other layer is left alone
            packed = model(inputs)
            assert "forward" in vars(model[0]) and "forward" not in vars(model[1])
    assert packed.shape == plain.shape and packed.dtype == plain.dtype == dtype
    near = 0.01 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(packed.float(), plain.float(), rtol=near, atol=near)


def test_inputs_are_cast_once_for_as_long_as_they_are_the_same() -> None:
    cast, x = Cast(torch.bfloat16), torch.ones(3)
    once = cast(x)
    assert once.dtype == torch.bfloat16 and cast(x) is once and cast(once) is once
    assert cast(x.clone()) is not once
    narrow = cast(x)
    x += 1
    assert torch.equal(cast(x), torch.full((3,), 2.0, dtype=torch.bfloat16)) and torch.equal(narrow, once)
    with torch.inference_mode():  # whose tensors have no version
        other = torch.ones(3)
        first = cast(other)
        other += 1
        assert float(first.sum()) == 3 and float(cast(other).sum()) == 6


@both
def test_afterwards_the_layers_are_plain_again_and_changed_weights_count(dtype: torch.dtype, everything: Everything) -> None:
    everything()
    model = nn.Sequential(nn.Linear(64, 64, bias=False))
    inputs = torch.randn(8, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        with pytest.raises(RuntimeError, match="inside"), packed_linears(model, 8, dtype):
            raise RuntimeError("inside")
        assert "forward" not in vars(model[0])
        with packed_linears(model, 8, dtype):
            first = model(inputs)
        model[0].weight.neg_()
        with packed_linears(model, 8, dtype):
            assert torch.equal(model(inputs), -first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_in_float32_large_layers_of_large_models_are_packed(dtype: torch.dtype) -> None:
    """1,024 x 256 weights are a large layer, 32 of them a large model; in bf16 all are packed."""
    with torch.device("meta"):
        large, small = (lambda: nn.Linear(1024, 256)), nn.Linear(1023, 256)
        model = nn.Sequential(*(large() for _ in range(32)), small)
        short = nn.Sequential(*(large() for _ in range(30)), small)
        other = nn.Sequential(*(large() for _ in range(33)), small).double()
    picked = [len(layers_to_pack(m, dtype)) for m in (model, short, other)]
    assert picked == ([33, 31, 34] if dtype == torch.bfloat16 else [32, 0, 0])


@both
def test_an_engine_says_how_much_it_copied(dtype: torch.dtype, everything: Everything) -> None:
    """Two layers (32 x 32 and 32 x 16 twice each in attention, 32 x 48 three times behind it), a head of 60 tokens."""
    model, options = tiny_policy("llama"), SamplingOptions(max_tokens=2)
    engine = NativeEngine(model, 1, autocast=dtype == torch.bfloat16)
    copied = dtype.itemsize * (2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48) + 60 * 32)
    engine.sample([[5, 9]], 1, options, ["a"])
    assert engine.stats is not None and engine.stats.packed_bytes == (copied if dtype == torch.bfloat16 else 0)  # it is a small model
    everything()
    engine.sample([[5, 9]], 1, options, ["a"])
    assert engine.stats.packed_bytes == copied
    assert f"{copied / 1e3:.1f} kB of packed weights" in str(engine.stats)


def flat(samples: list[list[Sample]]) -> tuple[list[int], list[float]]:
    return [i for row in samples for s in row for i in s.token_ids], [x for row in samples for s in row for x in s.logprobs]


@pytest.mark.skipif(not can_pack(CPU, torch.float32), reason="oneDNN is not used here")
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 60), (96, 3000), (576, 576), (1536, 576)])
def test_in_float32_a_row_rounds_alike_beside_any_others(inputs: int, outputs: int) -> None:
    """However many rows the weights were packed for, and however many are multiplied."""
    torch.manual_seed(0)
    weight, rows = torch.randn(outputs, inputs), torch.randn(256, inputs)
    whole = onednn.linear(rows, onednn.pack(weight, 256))
    for count in (8, 24, 64, 200):
        for packed_for in (8, count, 256):
            assert torch.equal(onednn.linear(rows[:count], onednn.pack(weight, packed_for)), whole[:count])


@pytest.mark.skipif(not can_pack(CPU, torch.float32), reason="oneDNN is not used here")
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_float32_samples_are_the_plain_ones_at_any_batch(family: str, everything: Everything) -> None:
    """The same ids with and without and whatever waits beside them; logprobs the scorer's."""
    model, options = tiny_policy(family), SamplingOptions(max_tokens=24)
    prompts, keys = [[5, 9, 11], [7], [8, 3, 4, 40, 22], [12, 13]], list("abcd")

    def sample(count: int, rows: int) -> list[list[Sample]]:
        return NativeEngine(model, -1, rows=rows).sample(prompts[:count], 4, options, keys[:count])

    plain = flat(sample(4, 256))
    everything()
    full = sample(4, 256)
    (ids, logprobs), few, alone = flat(full), flat(sample(4, 8)), flat(sample(1, 256))
    assert ids == plain[0] == few[0] and alone[0] == ids[: len(alone[0])]
    assert logprobs == pytest.approx(few[1], abs=2e-6) and alone[1] == pytest.approx(logprobs[: len(alone[1])], abs=2e-6)
    batch = TreeBatch.pack([PromptTree(tuple(p), tuple(s.token_ids for s in row)) for p, row in zip(prompts, full, strict=True)])
    with torch.no_grad():
        scored = score_tokens(model, batch).logprobs
    torch.testing.assert_close(torch.tensor(logprobs), scored, rtol=1e-5, atol=1e-5)


def test_elsewhere_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_module, "fast_in_bf16", lambda kind: True)
    monkeypatch.setattr(onednn.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    formats = (torch.float32, torch.bfloat16)
    assert all(can_pack(CPU, dtype) for dtype in formats) and not can_pack(torch.device("cuda"), torch.float32)
    with monkeypatch.context() as without:
        without.setattr(onednn, "OPERATORS", ("_linear_pointwise", "_of_another_torch"))
        assert not any(can_pack(CPU, dtype) for dtype in formats)
    monkeypatch.setattr(onednn.platform, "machine", lambda: "aarch64")
    assert not any(can_pack(CPU, dtype) for dtype in formats)


@both
def test_packing_that_is_interrupted_leaves_every_layer_plain(
    dtype: torch.dtype, everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything()
    model, made, pack = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), [], onednn.pack

    def second_fails(weight: torch.Tensor, rows: int) -> torch.Tensor:
        made.append(rows)
        if len(made) == 2:
            raise KeyboardInterrupt
        return pack(weight, rows)

    monkeypatch.setattr(onednn, "pack", second_fails)
    with pytest.raises(KeyboardInterrupt), packed_linears(model, 8, dtype):
        pytest.fail("nothing is run")
    assert len(made) == 2 and not any("forward" in vars(layer) for layer in model)
