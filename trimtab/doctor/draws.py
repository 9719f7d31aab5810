"""Answers that an engine drew at temperature 1 with nothing cut off, and the trainer's word on the same tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trimtab.common.hf import PreTrainedModel
from trimtab.doctor.check import NotApplicable
from trimtab.models.load import max_positions
from trimtab.models.score import TokenScores, score_rows, tail_of, tree_states
from trimtab.sampling.protocol import Engine, Sample, SamplingOptions
from trimtab.trees import PromptTree, TreeBatch

ANSWERS, TOKENS = 8, 24

Values = NDArray[np.float64]


@dataclass
class Draws:
    """``ANSWERS`` answers of at most ``TOKENS`` tokens to each prompt. S scored tokens in all.

    Raises:
        NotApplicable: the model has no room for an answer.
    """

    policy: PreTrainedModel
    engine: Engine
    prompts: Sequence[Sequence[int]]
    seed: int

    @cached_property
    def samples(self) -> list[list[Sample]]:
        """Of each prompt."""
        room = max_positions(self.policy) - max(map(len, self.prompts))
        if room < 1:
            raise NotApplicable("the model has no room for an answer")
        options = SamplingOptions(max_tokens=min(TOKENS, room), seed=self.seed)
        return self.engine.sample(self.prompts, ANSWERS, options, [f"doctor {i}" for i in range(len(self.prompts))])

    @property
    def answers(self) -> list[Sample]:
        """Of all prompts."""
        return [answer for row in self.samples for answer in row]

    @cached_property
    def batch(self) -> TreeBatch:
        """What was drawn, packed for the trainer."""
        pairs = zip(self.prompts, self.samples, strict=True)
        return TreeBatch.pack([PromptTree(tuple(prompt), tuple(x.token_ids for x in row)) for prompt, row in pairs])

    @cached_property
    def rows(self) -> Tensor:
        """(S, H) the trainer's last hidden states."""
        with torch.no_grad():
            states = tree_states(self.policy, self.batch)
        return states.index_select(0, self.batch.sources.to(states.device))

    def trainer(self, temperature: float = 1.0) -> TokenScores:
        """The trainer's scores of the drawn tokens."""
        with torch.no_grad():
            return score_rows(self.rows, self.batch.targets.to(self.rows.device), tail_of(self.policy), temperature=temperature)

    def trainer_logprobs(self, temperature: float = 1.0) -> Values:
        """(S,) as an array."""
        return self.trainer(temperature).logprobs.double().cpu().numpy()

    @property
    def drawn_logprobs(self) -> Values:
        """(S,) the engine's, of the distribution that it drew from."""
        return np.array([x for answer in self.answers for x in answer.logprobs])

    @property
    def policy_logprobs(self) -> Values:
        """(S,) the engine's, of the policy itself."""
        return np.array([x for answer in self.answers for x in answer.policy_logprobs])
