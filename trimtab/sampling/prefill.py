"""Prompts into pages: computed many at a time, on the packed flat layout of training."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from trimtab.common.hf import PreTrainedModel
from trimtab.models.attention import TreeLayout
from trimtab.models.load import max_positions
from trimtab.models.score import hidden_states, spare_tokens
from trimtab.sampling.cache import NOWHERE, PAGE, Capture, Pool, pages_for
from trimtab.sampling.schedule import Group
from trimtab.trees import PromptTree, TreeBatch

PREFILL_TOKENS = 2048
# Flash attention on CPU rounds a query differently in a short last block of queries; in multiples of 16 it does not.
PREFILL_MULTIPLE = 16
NOTHING = -1


class PromptCache:
    """Keys and values of ``prompts`` (distinct ones, token ids) in the pages of ``pool``, and which pages each of ``slots`` has."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[tuple[int, ...]], pool: Pool, slots: int) -> None:
        self.model, self.prompts, self.pool = model, prompts, pool
        self.positions = max_positions(model)
        longest = max(len(ids) for ids in prompts) - 1
        self.table = np.full((slots, pages_for(longest)), NOWHERE)  # (slots, p)
        self.computed = 0  # tokens
        self._holds = np.full(slots, NOTHING)  # which prompt each slot's pages hold

    def fill(self, filled: Sequence[tuple[int, Group]]) -> None:
        """Brings the prompts of ``filled``, (slot, group), but for their last tokens, into their slots: copied from a slot that holds the
        prompt, else computed, each distinct one once."""
        missing: list[tuple[int, Group]] = []
        for slot, group in filled:
            if self._holds[slot] == group.prompt or not group.prefix:
                continue
            count = pages_for(group.prefix)
            self.table[slot, :count] = self.pool.allocate(count)
            held = np.flatnonzero(self._holds == group.prompt)
            if len(held):
                self.pool.copy(self.table[held[0], :count], self.table[slot, :count])
                self._holds[slot] = group.prompt
            else:
                missing.append((slot, group))
        if missing:
            self._compute(missing)

    def _compute(self, missing: Sequence[tuple[int, Group]]) -> None:
        """Prompts into the pages of their slots."""
        prompts, device = list(dict.fromkeys(group.prompt for _, group in missing)), self.model.device
        batch = TreeBatch.pack([PromptTree(_padded(self.prompts[p][:-1]), ()) for p in prompts]).to(device)
        starts = {p: span.start for p, span in zip(prompts, batch.layout.spans, strict=True)}
        pages, columns, tokens = [], [], []
        for slot, group in missing:
            column = np.arange(group.prefix)
            pages.append(self.table[slot, column // PAGE])
            columns.append(column % PAGE)
            tokens.append(starts[group.prompt] + column)
        places = (torch.from_numpy(np.concatenate(parts)).to(device) for parts in (tokens, pages, columns))
        spare = spare_tokens(batch.tokens, device) if device.type == "cuda" else 0
        layout = Capture(TreeLayout(batch.layout.filled(spare)), self.pool, *places)
        ids, positions = (nn.functional.pad(t, (0, spare)) for t in (batch.ids, batch.positions.clamp(max=self.positions - 1)))
        hidden_states(self.model, ids, positions, layout)
        self.computed += sum(len(self.prompts[p]) - 1 for p in prompts)
        self._holds[[slot for slot, _ in missing]] = [group.prompt for _, group in missing]

    def release(self, slots: np.ndarray) -> None:
        """Nobody needs the prompts of ``slots`` any more."""
        self._holds[slots] = NOTHING
        self.pool.free(self.table[slots])
        self.table[slots] = NOWHERE
        self.pool.compact(self.table)


def _padded(ids: Sequence[int]) -> tuple[int, ...]:
    """``ids`` with the last one repeated up to a multiple of ``PREFILL_MULTIPLE``; what follows a token changes nothing for it."""
    return (*ids, *[ids[-1]] * (-len(ids) % PREFILL_MULTIPLE))
