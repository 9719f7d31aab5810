"""REINFORCE with a leave-one-out baseline: K answers to a prompt, each measured against the mean of the others.

R(x, y) = r(x, y) - beta * log(pi(y|x) / pi_ref(y|x)); the gradient is the mean over completions of (R_i - mean of R_j, j != i)
* grad log pi(y_i|x). Ahmadian et al. 2024, equation 7 (Kool et al. 2019). No value model, no ratio: one optimizer step on each iteration's
answers, so they are always the current policy's own. All answers to a prompt are one tree, so the forward pass of the update gives
the log-ratio that their advantages need, and no pass is made for it alone.
"""

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor, nn

from trimtab.losses.policy import leave_one_out
from trimtab.methods.build import Rewards, Trained, need
from trimtab.methods.offline import total
from trimtab.methods.online import Answers, Online, OnlineSettings, Parts, engine_logprobs, load_parts
from trimtab.models.score import score_tokens
from trimtab.training.method import Metrics, MicroBatch, OptimizerStep, State
from trimtab.trees import TreeBatch, pack_indices, step_indices


class Config(OnlineSettings):
    """Settings of ``trimtab rloo``."""

    num_completions: int = Field(4, ge=2, description="answers sampled for each prompt; each is measured against the others")


class RLOO(Online):
    """RLOO on trees."""

    name = "rloo"
    config: Config

    def __init__(self, config: Config, parts: Parts) -> None:
        super().__init__(config, parts)
        self._largest = 0.0

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"policy": self.policy}

    def batches(self, state: State) -> Iterator[OptimizerStep]:
        """Samples, scores, and gives one optimizer step."""
        chosen = step_indices(len(self.parts.trees), self.config.batch_size, self.config.seed, state.step)
        yield self.step(self.answer(chosen, state.step))

    def step(self, answers: Answers) -> OptimizerStep:
        """Packs the answers; the divisor is the number of completions."""
        self._largest = 0.0
        divisor = float(sum(len(row) for row in answers.scores))
        made = []
        for members in pack_indices(answers.trees, self.config.micro_batch_tokens):
            scores = torch.tensor([x for i in members for x in answers.scores[i]])
            extra = {"scores": scores, "said": engine_logprobs([answers.samples[i] for i in members])}
            made.append(MicroBatch(TreeBatch.pack([answers.trees[i] for i in members]), divisor, extra))
        return made

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        trees, config = batch.trees, self.config
        tokens = score_tokens(self.policy, trees, temperature=config.temperature)
        with torch.no_grad():  # the same batch on the same numeric path: with equal weights every log-ratio is exactly 0
            reference = score_tokens(self.reference, trees, temperature=config.temperature).logprobs
        log_ratio = tokens.logprobs.detach() - reference
        kl = trees.sum_by_completion(log_ratio)
        returns = batch.extra["scores"] - config.beta * kl
        advantages = leave_one_out(returns, trees.tree_of)
        losses = -advantages * trees.sum_by_completion(tokens.logprobs)
        apart = (batch.extra["said"] - tokens.logprobs.detach()).abs()
        self._largest = max(self._largest, float(apart.max()))
        metrics = {
            "policy_loss": total(losses), "kl/reference": total(kl), "kl/per_token": total(log_ratio), "return": total(returns),
            "advantage_abs": total(advantages.abs()), "entropy": total(tokens.entropy), "engine/mean_diff": total(apart),
        }  # fmt: skip
        return losses.sum() / batch.divisor, metrics

    def after(self, state: State) -> dict[str, float]:
        return {**self.logged, "engine/max_diff": self._largest, "beta": self.config.beta}


def build(config: Config, rewards: Rewards) -> Trained:
    """Reads prompts, the start model, the reference and the reward."""
    need(config, "model", "data", "reward")
    parts, tokenizer = load_parts("rloo", config, rewards)
    return Trained(RLOO(config, parts), len(parts.trees), {"model": (parts.policy, tokenizer)})
