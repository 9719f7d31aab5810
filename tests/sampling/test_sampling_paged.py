"""The GPU's kernel for a decoding step against the plain operations that the CPU runs.

Without a GPU it runs where Triton is installed and TRITON_INTERPRET=1 is set (its interpreter needs numpy < 2.4).
"""

import importlib.util
import os

import numpy as np
import pytest
import torch

from trimtab.models.rule import AttentionRule
from trimtab.sampling import cache
from trimtab.sampling.cache import NOWHERE, PAGE, Decode, Paged, Pool, Reading, Rows, Shape, pages_for, reading_tables

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CAN_RUN = importlib.util.find_spec("triton") is not None and (INTERPRETED or torch.cuda.is_available())
pytestmark = pytest.mark.skipif(not CAN_RUN, reason="no GPU here: the kernel is not tested")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LENGTHS, OF_ROW, COLUMNS = [PAGE + 5, 5, 0, 130, 64], [0, 1, 0, 2, 3, 4], [3, 33, 0, 65, 31, 32]


@pytest.mark.parametrize("window", [None, 3, 20, 70])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("sunk", [False, True])
@pytest.mark.parametrize(("heads", "groups", "size"), [(4, 4, 16), (4, 2, 24), (6, 1, 16), (8, 2, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_is_the_plain_operations(
    monkeypatch: pytest.MonkeyPatch, window: int | None, softcap: float | None, sunk: bool, heads: int, groups: int, size: int,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(DEVICE)

    shapes = {0: Shape(groups, size, size, dtype)}
    pool, own = Pool(shapes, 9, DEVICE), Rows(shapes, 8, DEVICE)
    table = np.full((len(LENGTHS), pages_for(max(LENGTHS))), NOWHERE)
    for i in (3, 1, 0, 4):  # pages in no particular order
        table[i, : pages_for(LENGTHS[i])] = pool.allocate(pages_for(LENGTHS[i]))
    own.reach(100)
    for tensor in (*pool.layers[0], *own.layers[0]):
        tensor[:] = random(*tensor.shape)
    for tensor in pool.layers[0]:
        tensor[NOWHERE] = 0
    query, key, value = random(6, heads, size), random(6, groups, size), random(6, groups, size)
    rule = AttentionRule(0.3, window, softcap, random(heads) if sunk else None)
    columns = torch.tensor(COLUMNS, device=DEVICE)
    for prompts in (OF_ROW, [2] * 6):  # and where no row has a prompt of more than one token
        pages, prefix = table[prompts], torch.tensor([LENGTHS[p] for p in prompts], device=DEVICE)
        tables = reading_tables(pages, np.array([0, 0, 1, 0, 0, 0]), 2, pool.used)
        none = prompts[0] == 2
        found = []
        for kernel in (False, True):
            monkeypatch.setattr(cache, "has_triton", lambda device, answer=kernel: answer)
            on_device = [torch.from_numpy(t).to(DEVICE) for t in tables]
            reading = None if none else Paged(pool, on_device[0]) if kernel else Reading(pool, *on_device)
            found.append(Decode(reading, own, columns, prefix).attend(0, query, key, value, rule))
        tolerance = 1e-5 if dtype == torch.float32 else 3e-2
        torch.testing.assert_close(found[1], found[0], rtol=tolerance, atol=tolerance)
