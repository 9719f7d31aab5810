"""Best-of-n finetuning: sample n answers to a prompt, keep the one with the best reward, train on it as SFT does, and again.

L = -(1 / #tokens) * sum log pi(y_t | x, y_<t) over the best answer of each prompt. Stiennon et al. 2020, Nakano et al. 2021 (best of n, a
way to sample); Dong et al. 2023 (RAFT), Touvron et al. 2023 (Llama 2, section 3.2.3) train on it. What an iteration aims at, best of n
from the policy that sampled, is at most log n - (n - 1) / n nats from it (Beirami et al. 2024); no reference holds the policy, so that
iterations add up, and ``kl/reference`` says to what. Of equally good answers the first is kept.

Answers are drawn at ``temperature``, and learnt by the plain model, at temperature 1, as SFT learns anybody's (Dong et al. 2023, algorithm
1; Llama 2 drew at 1.2 to 1.3). Entropy, KL and its bound are those of what was drawn from, of logits / temperature.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from trimtab.common.best_of import best_of_n, kl_bound
from trimtab.losses.likelihood import cross_entropy
from trimtab.methods.build import Rewards, Trained, need
from trimtab.methods.offline import micro_batches, total, trained_tokens
from trimtab.methods.online import (
    Answers,
    EpochSettings,
    Online,
    SampledSettings,
    by_token,
    load_parts,
    shuffled_epochs,
)
from trimtab.models.score import score_tokens
from trimtab.sampling.protocol import LEAST_TEMPERATURE
from trimtab.training.method import Metrics, MicroBatch, OptimizerStep, State
from trimtab.trees import PromptTree, step_indices


class Config(EpochSettings, SampledSettings):
    """Settings of ``trimtab bon``."""

    num_completions: int = Field(8, ge=2, description="answers sampled for each prompt, of which the best is kept: n")
    temperature: float = Field(
        1.0,
        ge=LEAST_TEMPERATURE,
        description="sampling temperature; entropy and KL are of logits / temperature, but answers are learnt at 1, as by sft",
    )
    epochs_per_batch: int = Field(1, ge=1, description="passes over an iteration's best answers")


class BestOfN(Online):
    """SFT on the best of the policy's own answers."""

    name = "bon"
    config: Config

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"policy": self.policy}

    def batches(self, state: State) -> Iterator[OptimizerStep]:
        """Samples, keeps the best, and then gives ``epochs_per_batch`` epochs of minibatches over them."""
        config = self.config
        chosen = step_indices(len(self.parts.trees), config.batch_size, config.seed, state.step)
        answers = self.answer(chosen, state.step)
        self._log_best(answers)
        kept = best(answers)
        for members in shuffled_epochs(config, len(kept), config.seed, state.step):
            yield micro_batches([kept[i] for i in members], config.micro_batch_tokens, trained_tokens)

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        logprobs, weights = score_tokens(self.policy, batch.trees).logprobs, batch.trees.token_weights
        return cross_entropy(logprobs, weights, tokens=batch.divisor), {"loss": total(-logprobs, weights)}

    def after(self, state: State) -> dict[str, float]:
        return self.logged

    def _log_best(self, answers: Answers) -> None:
        """The iteration's metrics; docs/metrics.md has each one's formula."""
        said = by_token(answers.trees, self.config.micro_batch_tokens, self.said)
        self.log_tokens(answers.samples, *(torch.cat(column) for column in zip(*said, strict=True)))
        halves = [best_of_n(row, row, -(-len(row) // 2)) for row in answers.scores]
        self.logged |= {
            "reward/best": float(np.mean([max(row) for row in answers.scores])),
            "reward/best_of_half": float(np.mean(halves)),
            "kl/bound": kl_bound(self.config.num_completions),
        }


def best(answers: Answers) -> Sequence[PromptTree]:
    """Each prompt with the answer of the highest score, the first of equals."""
    kept = [int(np.argmax(row)) for row in answers.scores]
    return [tree.with_completions([tree.completions[k]]) for tree, k in zip(answers.trees, kept, strict=True)]


def build(config: Config, rewards: Rewards) -> Trained:
    """Reads prompts, the start model, the reference (against which the policy is measured) and the reward."""
    need(config, "model", "data", "reward")
    parts, tokenizer = load_parts("bon", config, rewards)
    return Trained(BestOfN(config, parts), len(parts.trees), {"model": (parts.policy, tokenizer)})
