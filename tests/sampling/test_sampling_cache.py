"""Pages: taken, given back and moved without losing a key; one decoding step is attention written out by hand."""

import numpy as np
import pytest
import torch

from trimtab.models.attention import AttentionRule
from trimtab.sampling.cache import (
    NOWHERE,
    PAGE,
    RESERVED,
    SCRATCH,
    Decode,
    Pool,
    Reading,
    Readings,
    Shape,
    pages_for,
    sum_pairs,
)

CPU = torch.device("cpu")


def shapes(groups: int = 2, size: int = 4) -> dict[int, Shape]:
    return {0: Shape(groups, size, size, torch.float32)}


def test_pages_are_the_lowest_free_ones_and_the_reserved_stay() -> None:
    pool = Pool(shapes(), 6, CPU)
    assert pool.used == RESERVED
    first = pool.take(4)
    assert first.tolist() == [2, 3, 4, 5] and pool.used == 6
    pool.give_back(np.array([[3, NOWHERE], [SCRATCH, 4]]))
    assert pool.take(3).tolist() == [3, 4, 6] and pool.used == 7


def test_memory_is_what_was_said() -> None:
    pool = Pool(shapes(), 6, CPU)
    assert sum(t.nbytes for pair in pool.layers.values() for t in pair) == Pool.bytes_needed(shapes(), 6)


def test_moving_pages_keeps_what_each_row_reads() -> None:
    pool = Pool(shapes(), 20, CPU)
    table = np.full((5, 4), NOWHERE)
    for row in range(5):
        table[row] = pool.take(4)
    for pair in pool.layers.values():
        for tensor in pair:
            tensor[2:22] = torch.arange(2, 22).float()[:, None, None, None]
    before = table.copy()
    pool.give_back(table[[0, 3]])
    table[[0, 3]] = NOWHERE
    pool.close_ranks(table)
    assert pool.used == RESERVED + 12 == len(np.unique(table)) - 1 + RESERVED
    for row in (1, 2, 4):
        for tensor in pool.layers[0]:
            assert tensor[torch.from_numpy(table[row]), 0, 0, 0].tolist() == before[row].tolist()
    assert (table[[0, 3]] == NOWHERE).all()


def test_few_holes_are_left_alone() -> None:
    pool = Pool(shapes(), 20, CPU)
    table = pool.take(20)[:, None]
    pool.give_back(table[[3, 9]])
    before = table.copy()
    pool.close_ranks(table)
    assert (table == before).all() and pool.used == 22


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
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 1)])
def test_a_step_is_attention_written_out(
    window: int | None, softcap: float | None, sunk: bool, heads: int, groups: int
) -> None:
    size, generator = 4, torch.Generator().manual_seed(0)
    prompt_lengths, of_row, own_lengths = [20, 5, 0], [0, 1, 0, 2, 0], [3, 17, 1, 33, 16]  # own lengths count the new token
    width = 3
    places = np.array([0, 0, 1, 0, 2])

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    prompts, own = Pool(shapes(groups, size), 9, CPU), Pool(shapes(groups, size), 20, CPU)
    contents = {}
    tables = []
    for pool, lengths in ((prompts, prompt_lengths), (own, own_lengths)):
        table = np.full((len(lengths), pages_for(max(lengths))), NOWHERE)
        for i in reversed(range(len(lengths))):  # pages in no particular order
            table[i, : pages_for(lengths[i])] = pool.take(pages_for(lengths[i]))
            for kind in (0, 1):
                kept = contents[pool, i, kind] = random(lengths[i], groups, size)
                for t in range(lengths[i]):
                    pool.layers[0][kind][table[i, t // PAGE], :, t % PAGE] = kept[t]
        tables.append(table)
    columns = np.array(own_lengths) - 1
    prefix = np.array([prompt_lengths[p] for p in of_row])
    readings = Readings(Reading(prompts, tables[0][of_row], places, width), Reading(own, tables[1], places * 0, 1), CPU)
    layout = Decode(
        readings, torch.from_numpy(tables[1][np.arange(5), columns // PAGE]), torch.from_numpy(columns), torch.from_numpy(prefix)
    )
    query, key, value = random(5, heads, size), random(5, groups, size), random(5, groups, size)
    sinks = random(heads) if sunk else None
    found = layout.attend(0, query, key, value, AttentionRule(0.6, window, softcap, sinks))
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
