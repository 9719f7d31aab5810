"""How many samples at once: as many as the memory holds, down to one, whose need is known beforehand."""

import pytest
import torch
from tiny_models import tiny_policy

from trimtab.common.errors import UserError
from trimtab.sampling.cache import Shape
from trimtab.sampling.engine import NativeEngine
from trimtab.sampling.plan import Plan, bytes_of_one, plan
from trimtab.sampling.protocol import SamplingOptions, SamplingStats
from trimtab.sampling.schedule import Group, group_jobs

GIB = 1 << 30
LLAMA_7B = dict.fromkeys(range(32), Shape(32, 128, 128, torch.bfloat16))  # 2 x 32 layers x 32 heads x 128 x 2 bytes = 524,288 a token


def groups(count: int, prompt: int, k: int) -> list[Group]:
    return group_jobs([i // k for i in range(count * k)], [prompt - 1] * count, k)


def test_a_large_model_is_drawn_from_with_fewer_rows() -> None:
    """By hand, prompts of 200 tokens (4 pages of 64) and 256 new ones, in tokens: 8 rows and 10 prompts take 8 x 256 + (10 x 4 + 1) x 64
    = 4,672, which is 2.28 GiB; 6 rows and 8 prompts 6 x 256 + 33 x 64 = 3,648; one row and one prompt 256 + 5 x 64 = 576."""
    wide = plan(groups(40, 200, 1), LLAMA_7B, 256, rows=8, kv_bytes=3 * GIB)
    assert wide == Plan(rows=8, slots=10, pages=40, kv_bytes=4672 * 524_288) and round(wide.kv_bytes / GIB, 2) == 2.28
    assert plan(groups(40, 200, 1), LLAMA_7B, 256, rows=256, kv_bytes=2 * GIB) == Plan(6, 8, 32, 3648 * 524_288)
    assert plan(groups(40, 200, 1), LLAMA_7B, 256, rows=256, kv_bytes=576 * 524_288) == Plan(1, 1, 4, 576 * 524_288)
    assert plan(groups(40, 200, 1), LLAMA_7B, 256, rows=256, kv_bytes=0) == Plan(1, 1, 4, 576 * 524_288)  # as few as there are


@pytest.mark.parametrize("k", [1, 4, 20])
def test_memory_is_used_and_never_passed(k: int) -> None:
    before = 0
    for kv_bytes in range(GIB // 3, 40 * GIB, GIB):
        found = plan(groups(30, 100, k), LLAMA_7B, 64, rows=256, kv_bytes=kv_bytes)
        assert found.kv_bytes <= kv_bytes and before <= found.rows <= min(256, 30 * k)
        before = found.rows
    assert before == min(256, 30 * k)


@pytest.mark.parametrize("prompt", [1, 2, 64, 65, 66, 200])
@pytest.mark.parametrize("tokens", [1, 31, 32, 33, 256])
def test_what_one_sample_needs_is_known_from_its_length(prompt: int, tokens: int) -> None:
    least = plan(groups(3, prompt, 2), LLAMA_7B, tokens, rows=256, kv_bytes=0).kv_bytes
    most = bytes_of_one(LLAMA_7B, prompt + tokens)
    assert least <= most < least + 200 * 524_288


def test_an_engine_says_what_one_sample_needs() -> None:
    """And does with that, but not with less. 2 layers x 2 key-value heads x 8 numbers x (key + value) x 4 bytes a token."""
    model, options = tiny_policy("llama"), SamplingOptions(max_tokens=20)
    need = NativeEngine(model, 1).bytes_of_one(50 + 20)
    assert need == 256 * (70 + 32 + 2 * 64)
    engine = NativeEngine(model, 1, kv_bytes=need)
    assert len(engine.sample([[5] * 50] * 3, 2, options, ["a", "b", "c"])) == 3
    assert engine.stats is not None and engine.stats.kv_bytes <= need
    with pytest.raises(UserError, match=r"one sample of 50 \+ 20 tokens take 40,960 bytes, kv_bytes allows 40,959"):
        NativeEngine(model, 1, kv_bytes=40_959).sample([[5] * 50], 1, options, ["a"])


def test_what_several_calls_did_is_added_up_and_said_in_a_line() -> None:
    """Counts and seconds add up; of rows and memory the larger counts: calls come one after the other."""
    one = SamplingStats(samples=3, tokens=1500, prompt_tokens=40, steps=9, rows=8, kv_bytes=2_500_000, packed_bytes=0, seconds=1.0)
    two = SamplingStats(samples=1, tokens=500, prompt_tokens=60, steps=500, rows=1, kv_bytes=3_000_000_000, packed_bytes=900, seconds=3.0)
    assert one + two == two + one == SamplingStats(4, 2000, 100, 509, 8, 3_000_000_000, 900, 4.0)
    assert str(one) == "3 answers, 1,500 tokens at 1,500 tokens/s, 40 prompt tokens computed; 8 at once, 2.5 MB of keys and values"
    assert str(one + two).startswith("4 answers, 2,000 tokens at 500 tokens/s, 100 prompt tokens computed; 8 at once, 3.0 GB of keys")
    assert str(one + two).endswith(" and values, 0.9 kB of packed weights")
