"""Draws: the generator's published values, exact inverse CDFs, truncation by hand, goodness of fit."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from trimtab.common.errors import UserError
from trimtab.sampling.draws import BLOCK, pick, truncate, uniforms
from trimtab.sampling.protocol import SamplingOptions


def test_uniforms_are_splitmix64() -> None:
    # The first three outputs of SplitMix64 from state 0, as its authors' C code prints them.
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    expected = [(value >> 40) * 2.0**-24 for value in published]
    assert uniforms([0], 3)[0].tolist() == expected


def test_uniforms_depend_on_state_and_counter_only() -> None:
    alone, together = uniforms([7], 50), uniforms([3, 7, 2**63 - 1], 20)
    np.testing.assert_array_equal(alone[0, :20], together[1])
    assert together.dtype == np.float32 and together.min() >= 0 and together.max() < 1


def test_uniforms_are_uniform_over_streams_and_counters() -> None:
    values = uniforms(range(2000), 10)
    for sample in (values[:, 0], values[:, 9], values[0:200].ravel()):
        assert stats.kstest(sample, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(values[:, 0], values[:, 1])[0, 1]) < 0.08


def test_pick_inverts_the_cdf() -> None:
    weights = torch.tensor([[0.0, 0.25, 0.5, 0.0, 0.25, 0.0]]).expand(5, -1)
    tokens, total = pick(weights, torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75]))
    assert tokens.tolist() == [1, 1, 2, 2, 4]
    assert total.tolist() == [1.0] * 5


@pytest.mark.parametrize("vocabulary", [1, 5, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK + 17])
def test_pick_agrees_with_a_float64_cdf_and_never_takes_weight_zero(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    weights = torch.rand(4000, vocabulary, generator=generator) ** 8
    weights[:, 1::3] = 0
    uniform = torch.rand(4000, generator=generator)
    uniform[:10], uniform[10:20] = 0.0, 1 - 2.0**-24
    tokens, total = pick(weights, uniform)
    assert weights.gather(1, tokens[:, None]).min() > 0
    cdf = weights.double().cumsum(-1)
    torch.testing.assert_close(total.double(), cdf[:, -1], rtol=1e-5, atol=0)
    target = uniform.double() * cdf[:, -1]
    above = cdf.gather(1, tokens[:, None]).squeeze(1)
    below = above - weights.double().gather(1, tokens[:, None]).squeeze(1)
    slack = 1e-6 * cdf[:, -1]
    assert bool(((below - slack <= target) & (target <= above + slack)).all())


def test_pick_gives_the_last_token_of_a_block_whose_sum_rounds_up() -> None:
    # Tiny weights behind a 1: the block's vectorised sum and its running sum round differently.
    weights = torch.full((64, BLOCK), 2.0**-25)
    weights[:, 0], weights[:, -1] = 1.0, 0.0
    tokens, _ = pick(weights, torch.full((64,), 1 - 2.0**-24))
    assert bool((tokens < BLOCK - 1).all())


def test_truncate_by_hand() -> None:
    weights = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    assert truncate(weights, 2, 1.0).tolist() == torch.tensor([[0.0, 0.4, 0.0, 0.3]]).tolist()
    assert truncate(weights, 0, 0.65).tolist() == torch.tensor([[0.0, 0.4, 0.0, 0.3]]).tolist()
    assert truncate(weights, 0, 0.75).tolist() == torch.tensor([[0.0, 0.4, 0.2, 0.3]]).tolist()
    assert truncate(weights, 0, 1e-6).tolist() == torch.tensor([[0.0, 0.4, 0.0, 0.0]]).tolist()
    # top-k first: of the two left, 0.4 / 0.7 = 0.571 is the share of the first
    assert truncate(weights, 2, 0.55).tolist() == torch.tensor([[0.0, 0.4, 0.0, 0.0]]).tolist()
    assert truncate(weights, 0, 1.0) is weights
    ties = torch.tensor([[0.25, 0.25, 0.25, 0.25]])
    assert truncate(ties, 2, 1.0).tolist() == ties.tolist()


def test_a_nucleus_wider_than_the_first_look_is_found() -> None:
    weights = torch.cat([torch.full((1, 1000), 1e-3), torch.zeros(1, 200)], dim=1)
    weights[0, :1000] += torch.linspace(0, 1e-4, 1000)
    kept = truncate(weights, 0, 0.9)
    shares = weights / weights.sum()
    assert float(shares[kept > 0].sum()) == pytest.approx(0.9, abs=2e-3)
    assert float(shares[kept > 0].min()) > float(shares[(kept == 0) & (weights > 0)].max())


@pytest.mark.parametrize(
    ("wrong", "word"),
    [({"max_tokens": 0}, "max_tokens"), ({"temperature": 0.0}, "temperature is 0.0: give 0.001 or more, or greedy=true"),
     ({"temperature": 1e-40}, "temperature is 1e-40"), ({"temperature": math.nan}, "temperature"),
     ({"top_p": 0.0}, "top_p"), ({"top_p": 1.5}, "top_p"), ({"top_k": -1}, "top_k"), ({"stop": ("x", "")}, "stop")],
)  # fmt: skip
def test_options_out_of_range_are_refused(wrong: dict, word: str) -> None:
    with pytest.raises(UserError, match=word):
        SamplingOptions(**{"max_tokens": 4, **wrong})
