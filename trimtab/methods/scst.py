"""Self-critical sequence training: a sampled answer counts for what it is better than the policy's own greedy answer.

R(x, y) = r(x, y) - beta * log(pi(y|x) / pi_ref(y|x)); the gradient is the mean over sampled completions of (R(y) - R(y_greedy)) * grad
log pi(y|x). Rennie et al. 2017, section 3. y_greedy is what the policy would answer at temperature 0, so what is learnt is whatever
beats the policy as it is used. The greedy answer is one more completion of its prompt's tree: its advantage against itself is 0, and
its log-ratio comes out of the same forward pass. A greedy answer that was cut loses ``cut_penalty`` as samples do; with
``cut=left_out``, where being cut costs nothing, samples are measured against its plain score. ``baseline=none`` takes nothing off:
REINFORCE (Williams 1992).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from trimtab.losses.policy import self_critical
from trimtab.methods.build import Rewards, Trained, need
from trimtab.methods.online import OnlineSettings, load_parts
from trimtab.methods.reinforce import Reinforce
from trimtab.training.method import MicroBatch, OptimizerStep, State
from trimtab.trees import step_indices


class Config(OnlineSettings):
    """Settings of ``trimtab scst``."""

    baseline: Literal["greedy", "none"] = Field(
        "greedy", description="what a sample is measured against: the policy's greedy answer, or none = plain REINFORCE"
    )


class SCST(Reinforce):
    """SCST on trees."""

    name = "scst"
    config: Config

    def advantages(self, returns: Tensor, batch: MicroBatch) -> Tensor:
        if self.config.baseline == "none":
            return returns
        return self_critical(returns, batch.trees.tree_of, ~batch.extra["learnt"])

    def batches(self, state: State) -> Iterator[OptimizerStep]:
        """Samples, lets the policy answer greedily, scores both, and gives one optimizer step."""
        if self.config.baseline == "none":
            yield from super().batches(state)
            return
        chosen = step_indices(len(self.parts.trees), self.config.batch_size, self.config.seed, state.step)
        answers = self.answer(chosen, state.step)
        prompts, greedy = self.sample(answers.chosen, 1, state.step, greedy=True)
        scores = self.parts.reward.score(prompts, [[self.completion(s) for s in row] for row in greedy])
        self.logged["reward/greedy"] = float(np.mean(scores))
        trees = [
            tree.with_completions([*tree.completions, row[0].token_ids])
            for tree, row in zip(answers.trees, greedy, strict=True)
        ]
        yield self.step(replace(answers, trees=trees), [row[0] for row in self.penalised(scores, greedy)])


def build(config: Config, rewards: Rewards) -> Trained:
    """Reads prompts, the start model, the reference and the reward."""
    need(config, "model", "data", "reward")
    parts, tokenizer = load_parts("scst", config, rewards)
    return Trained(SCST(config, parts), len(parts.trees), {"model": (parts.policy, tokenizer)})
