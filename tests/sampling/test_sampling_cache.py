"""Pages: taken, given back and moved without losing a key; one decoding step is attention written out by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from kernel_widths import WIDTHS

from trimtab.common import kernels
from trimtab.models.rule import AttentionRule
from trimtab.sampling import cache
from trimtab.sampling.cache import (
    BLOCK,
    NOWHERE,
    PAGE,
    RESERVED,
    Decode,
    Paged,
    Pool,
    Reading,
    Rows,
    Shape,
    pages_for,
    reading_tables,
    sum_pairs,
)
from trimtab.sampling.cpu import cpu_step

CPU = torch.device("cpu")
COMPILED = pytest.mark.skipif(not kernels.compilers(), reason="nothing can be compiled here: attention is torch's")


def shapes(groups: int = 2, size: int = 4) -> dict[int, Shape]:
    return {0: Shape(groups, size, size, torch.float32)}


def test_pages_are_the_lowest_free_ones_and_the_reserved_stay() -> None:
    pool = Pool(shapes(), 6, CPU)
    assert pool.used == RESERVED
    first = pool.allocate(4)
    assert first.tolist() == [1, 2, 3, 4] and pool.used == 5
    pool.free(np.array([[2, NOWHERE], [NOWHERE, 3]]))
    assert pool.allocate(3).tolist() == [2, 3, 5] and pool.used == 6


def test_memory_is_what_was_said() -> None:
    pool = Pool(shapes(), 6, CPU)
    assert sum(t.nbytes for pair in pool.layers.values() for t in pair) == Pool.bytes_needed(shapes(), 6)
    rows = Rows(shapes(), 3, CPU)
    rows.reach(BLOCK + 1)
    assert sum(t.nbytes for pair in rows.layers.values() for t in pair) == Rows.bytes_needed(shapes(), 3, BLOCK + 1)


def test_rows_that_grow_or_move_keep_what_they_hold() -> None:
    rows = Rows(shapes(), 4, CPU)
    rows.reach(1)
    for pair in rows.layers.values():
        for tensor in pair:
            tensor[:] = torch.arange(4).float()[:, None, None, None, None] + 1
    rows.reach(BLOCK)  # it has that many already
    assert rows.blocks == 1
    rows.reach(2 * BLOCK + 1)
    rows.move(np.array([0, 1]), np.array([3, 2]))
    for tensor in rows.layers[0]:
        assert tensor.shape == (4, 3, 2, BLOCK, 4)
        assert tensor[:, 0].flatten(1).unique(dim=1).flatten().tolist() == [4, 3, 3, 4] and not tensor[:, 1:].any()


def test_moving_pages_keeps_what_each_row_reads() -> None:
    pool = Pool(shapes(), 20, CPU)
    table = np.full((5, 4), NOWHERE)
    for row in range(5):
        table[row] = pool.allocate(4)
    for pair in pool.layers.values():
        for tensor in pair:
            tensor[RESERVED:][:20] = torch.arange(RESERVED, RESERVED + 20).float()[:, None, None, None]
    before = table.copy()
    pool.free(table[[0, 3]])
    table[[0, 3]] = NOWHERE
    pool.compact(table)
    assert pool.used == RESERVED + 12 == len(np.unique(table)) - 1 + RESERVED
    for row in (1, 2, 4):
        for tensor in pool.layers[0]:
            assert tensor[torch.from_numpy(table[row]), 0, 0, 0].tolist() == before[row].tolist()
    assert (table[[0, 3]] == NOWHERE).all()


def test_few_holes_are_left_alone() -> None:
    pool = Pool(shapes(), 20, CPU)
    table = pool.allocate(20)[:, None]
    pool.free(table[[3, 9]])
    before = table.copy()
    pool.compact(table)
    assert (table == before).all() and pool.used == 20 + RESERVED


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 11])
def test_zeros_at_the_end_of_a_sum_change_no_bit(count: int) -> None:
    terms = torch.randn(50, count, 3, generator=torch.Generator().manual_seed(count))
    plain = sum_pairs(terms)
    torch.testing.assert_close(plain, terms.sum(1))
    for more in (1, 2, 5, 9):
        assert torch.equal(sum_pairs(torch.cat([terms, torch.zeros(50, more, 3)], dim=1)), plain)


@pytest.mark.parametrize("window", [None, 3, 20])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("sunk", [False, True])
@pytest.mark.parametrize(("heads", "groups", "size", "value_size"), [(4, 4, 4, 4), (4, 2, 21, 12), (7, 1, 24, 70), (5, 5, 32, 32)])
@pytest.mark.parametrize("kernel", ["torch", *(pytest.param(width, marks=COMPILED) for width in WIDTHS)])
def test_a_step_is_attention_written_out(
    window: int | None, softcap: float | None, sunk: bool, heads: int, groups: int, size: int, value_size: int, kernel: str | int | None,
    of_width: Callable[[int | None], None],
) -> None:  # fmt: skip
    """Five rows; a sixth is idle, and what it read before is no longer its own; two more tokens fill a product up."""
    generator, sizes = torch.Generator().manual_seed(0), (size, value_size)
    if kernel != "torch":
        of_width(kernel)  # type: ignore[arg-type]
    prompt_lengths, of_row = [PAGE + 5, 5, 0], [0, 1, 0, 2, 0]
    own_lengths = [3, BLOCK + 1, 1, 2 * BLOCK + 1, BLOCK]  # they count the new token
    width = 3
    places = np.array([0, 0, 1, 0, 2, 0])

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    of_layer = {0: Shape(groups, *sizes, torch.float32)}
    prompts, own = Pool(of_layer, 3, CPU), Rows(of_layer, 7, CPU)
    contents = {}
    table = np.full((len(prompt_lengths), pages_for(max(prompt_lengths))), NOWHERE)
    own.reach(max(own_lengths))
    for kind in (0, 1):
        own.layers[0][kind][:] = random(*own.layers[0][kind].shape)  # what earlier samples left
    for i in reversed(range(len(prompt_lengths))):  # pages in no particular order
        table[i, : pages_for(prompt_lengths[i])] = prompts.allocate(pages_for(prompt_lengths[i]))
        for kind in (0, 1):
            kept = contents[prompts, i, kind] = random(prompt_lengths[i], groups, sizes[kind])
            for t in range(prompt_lengths[i]):
                prompts.layers[0][kind][table[i, t // PAGE], :, t % PAGE] = kept[t]
    for i in range(len(own_lengths)):
        for kind in (0, 1):
            kept = contents[own, i, kind] = random(own_lengths[i], groups, sizes[kind])
            for t in range(own_lengths[i] - 1):
                own.layers[0][kind][i, t // BLOCK, :, t % BLOCK] = kept[t]
    columns = np.array([*own_lengths, 1]) - 1
    prefix = np.array([*(prompt_lengths[p] for p in of_row), 700])
    tables = reading_tables(np.concatenate([table[of_row], np.full_like(table[:1], NOWHERE)]), places, width, prompts.used)
    reading = Reading(prompts, *map(torch.from_numpy, tables)) if kernel == "torch" else Paged(prompts, torch.from_numpy(tables[0]))
    layout = Decode(reading, own, torch.from_numpy(columns), torch.from_numpy(prefix))
    query, key, value = random(heads, 8, size).transpose(0, 1), random(8, groups, size), random(8, groups, value_size)
    sinks = random(heads) if sunk else None
    before = [tensor.clone() for tensor in own.layers[0]]
    found = layout.attend(0, query, key, value, AttentionRule(0.6, window, softcap, sinks))
    assert found.shape == (8, heads, value_size) and torch.isfinite(found[:6]).all() and not found[6:].any()
    for kept, old, new in zip(own.layers[0], before, (key, value), strict=True):  # one column of each row, and no other
        for row, column in enumerate(columns):
            old[row, column // BLOCK, :, column % BLOCK] = new[row]
        assert torch.equal(kept, old)
    for row in range(5):
        keys, values = (
            torch.cat([contents[prompts, of_row[row], kind], contents[own, row, kind][:-1], new[row : row + 1]])
            for kind, new in ((0, key), (1, value))
        )
        for head in range(heads):
            scores = keys[:, head * groups // heads] @ query[row, head] * 0.6
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            if window is not None:
                scores[: max(0, len(scores) - window)] = float("-inf")
            if sinks is not None:
                scores = torch.cat([scores, sinks[head : head + 1]])
            expected = scores.softmax(0)[: len(values)] @ values[:, head * groups // heads]
            torch.testing.assert_close(found[row, head], expected, rtol=1e-5, atol=1e-6)


@COMPILED
@pytest.mark.parametrize(("heads", "groups"), [(1, 1), (4, 2), (3, 3)])
def test_without_prompts_the_kernel_is_the_plain_operations(heads: int, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of one token, which is a row's own first column."""
    generator, found = torch.Generator().manual_seed(0), []
    query, key, value = (torch.randn(4, count, 8, generator=generator) for count in (heads, groups, groups))
    columns = torch.tensor([0, 1, BLOCK, 40])
    for compiled in (True, False):
        own = Rows(shapes(groups, 8), 4, CPU)
        own.reach(BLOCK + 20)
        for tensor in own.layers[0]:
            tensor[:] = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
        monkeypatch.setattr(cache, "can_run", lambda tensor, answer=compiled: answer)
        found.append(Decode(None, own, columns, torch.zeros(4, dtype=torch.int64)).attend(0, query, key, value, AttentionRule(0.5)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@COMPILED
@pytest.mark.parametrize(
    "wrong",
    [
        {"own keys": (4, 1, 2, BLOCK, 7)}, {"own values": (4, 1, 2, BLOCK, 7)}, {"own keys": (3, 1, 2, BLOCK, 8)}, {"columns": BLOCK},
        {"prompt keys": (3, 2, PAGE, 7)}, {"prompt values": (3, 1, PAGE, 8)}, {"pages": 3}, {"pages": -1}, {"pages": None},
        {"dtype": torch.float64},
    ],
)  # fmt: skip
def test_what_a_step_is_given_fits_or_is_refused_before_its_address_is_taken(wrong: dict[str, Any]) -> None:
    def tensor(name: str, *right: int) -> torch.Tensor:
        return torch.zeros(wrong.get(name, right), dtype=wrong.get("dtype", torch.float32))

    def step() -> torch.Tensor:
        own = tensor("own keys", 4, 1, 2, BLOCK, 8), tensor("own values", 4, 1, 2, BLOCK, 8)
        prompt = tensor("prompt keys", 3, 2, PAGE, 8), tensor("prompt values", 3, 2, PAGE, 8)
        number = wrong.get("pages", 2)
        pages = None if number is None else torch.full((4, 1), number)
        new = (torch.ones(4, 2, 8), torch.ones(4, 2, 8), torch.ones(4, 2, 8))
        return cpu_step(new, prompt, own, pages, torch.full((4,), 9), torch.full((4,), wrong.get("columns", 3)), AttentionRule(0.5))

    with pytest.raises(AssertionError):
        step()
    wrong = {}
    assert torch.isfinite(step()).all()
