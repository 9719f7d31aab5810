"""Prompts into pages: each distinct one is computed once, many at a time, on the packed flat layout of training."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from trimtab.models.attention import TreeLayout
from trimtab.models.load import max_positions
from trimtab.models.score import hidden_states, spare_tokens
from trimtab.sampling.cache import NOWHERE, PAGE, Capture, Pool, pages_for
from trimtab.sampling.schedule import Group
from trimtab.trees import PromptTree, TreeBatch

PREFILL_TOKENS = 2048
# Flash attention on CPU rounds a query differently in a short last block of queries; in multiples of 16 it does not.
PREFILL_MULTIPLE = 16


class PromptCache:
    """Keys and values of ``prompts`` (distinct ones, token ids) in the pages of ``pool``, and which pages each of ``slots`` has."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[tuple[int, ...]], pool: Pool, slots: int) -> None:
        self.model, self.prompts, self.pool = model, prompts, pool
        self.positions = max_positions(model)
        longest = max(len(ids) for ids in prompts) - 1
        self.table = np.full((slots, pages_for(longest)), NOWHERE)  # (slots, p)
        self.computed = 0  # tokens

    def fill(self, filled: Sequence[tuple[int, Group]]) -> None:
        """Computes the prompts of ``filled``, (slot, group), but for their last tokens, each distinct one once, into their slots."""
        prompts = [p for p in dict.fromkeys(group.prompt for _, group in filled) if len(self.prompts[p]) > 1]
        if not prompts:
            return
        device = self.model.device
        batch = TreeBatch.pack([PromptTree(_padded(self.prompts[p][:-1]), ()) for p in prompts]).to(device)
        starts = {p: span.start for p, span in zip(prompts, batch.layout.spans, strict=True)}
        pages, columns, tokens = [], [], []
        for slot, group in filled:
            count = pages_for(group.prefix)
            self.table[slot, :count] = self.pool.take(count)
            column = np.arange(group.prefix)
            pages.append(self.table[slot, column // PAGE])
            columns.append(column % PAGE)
            tokens.append(starts.get(group.prompt, 0) + column)
        places = (torch.from_numpy(np.concatenate(parts)).to(device) for parts in (tokens, pages, columns))
        spare = spare_tokens(batch.tokens, device) if device.type == "cuda" else 0
        layout = Capture(TreeLayout(batch.layout.filled(spare)), self.pool, *places)
        ids, positions = (nn.functional.pad(t, (0, spare)) for t in (batch.ids, batch.positions.clamp(max=self.positions - 1)))
        hidden_states(self.model, ids, positions, layout)
        self.computed += sum(len(self.prompts[p]) - 1 for p in prompts)

    def release(self, slots: np.ndarray) -> None:
        """Nobody needs the prompts of ``slots`` any more."""
        self.pool.give_back(self.table[slots])
        self.table[slots] = NOWHERE
        self.pool.close_ranks(self.table)


def _padded(ids: Sequence[int]) -> tuple[int, ...]:
    """``ids`` with the last one repeated up to a multiple of ``PREFILL_MULTIPLE``; what follows a token changes nothing for it."""
    return (*ids, *[ids[-1]] * (-len(ids) % PREFILL_MULTIPLE))
