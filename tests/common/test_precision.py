"""The option dtype: what it means on a machine with and without bf16 products."""

import pytest
import torch

from trimtab.common import precision


@pytest.mark.parametrize("fast", [True, False])
def test_auto_asks_the_machine_and_the_others_do_not(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "fast_in_bf16", lambda kind: fast)
    assert [precision.in_bf16(name) for name in ("auto", "float32", "bfloat16")] == [fast, False, True]


def test_products_run_in_what_was_asked_for() -> None:
    x = torch.ones(2, 2)
    for name, expected in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with precision.products(name):
            assert (x @ x).dtype == expected


def test_this_machine_has_bf16_where_the_kernels_say_so() -> None:
    said = torch.backends.cpu.get_cpu_capability()
    assert not (precision.fast_in_bf16("cpu") and said in ("DEFAULT", "AVX2")), said
