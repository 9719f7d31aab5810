"""Group relative policy optimisation: PPO's clipped surrogate without a value model, each answer measured against its prompt's others.

A_i = (R_i - mean of the group's R) / standard deviation of the group's R, the same for all tokens of answer i; the loss is the mean
over completions of 1/|y_i| * sum over tokens of -min(ratio * A, clip(ratio, 1 - eps, 1 + eps) * A) + beta * KL(pi, pi_ref), the KL by
k3. Shao et al. 2024, equations 3 and 4, outcome supervision (section 4.1.2).

Dr. GRPO (Liu et al. 2025, section 3.2) is ``divide_by_std=false length=constant``: the division by the standard deviation favours
prompts whose answers hardly differ, 1/|y_i| favours long answers where they are bad. With ``kl_in=reward`` beta * log(pi / pi_ref) is
taken off the reward as in PPO; all three together, in one epoch of one minibatch, are RLOO times (K - 1) / K / max_tokens. The gradient
of k3 of a token that the policy sampled, (1 - ref / pi) grad log pi, is not that of the KL; times the ratio (``kl_corrected``, DeepSeek-AI
2025, V3.2) it is: log(pi / ref) grad log pi.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trimtab.losses.policy import clipped_surrogate, group_normalised, kl_estimate
from trimtab.methods.build import Rewards, Trained, need, refuse_idle
from trimtab.methods.offline import total
from trimtab.methods.online import (
    Answers,
    OnRatios,
    RatioSettings,
    by_token,
    load_parts,
    packed,
    ratio_metrics,
    shuffled_epochs,
    tree_lengths,
)
from trimtab.models.score import score_tokens
from trimtab.training.method import Metrics, MicroBatch, OptimizerStep, State
from trimtab.trees import PromptTree, step_indices


class Config(RatioSettings):
    """Settings of ``trimtab grpo``."""

    beta: float = Field(0.05, ge=0, description="strength of the KL to the reference, per nat")
    num_completions: int = Field(4, ge=2, description="answers sampled for each prompt: a group")
    epochs_per_batch: int = Field(1, ge=1, description="passes over an iteration's answers")
    clip: float = Field(0.2, gt=0, description="eps of the clipped surrogate; felt from the second optimizer step of an iteration on")
    divide_by_std: bool = Field(True, description="divide advantages by the group's standard deviation; false = Dr. GRPO")
    length: Literal["own", "constant"] = Field(
        "own", description="an answer's token losses are divided by its own length, or (Dr. GRPO) by max_tokens"
    )
    kl_in: Literal["loss", "reward"] = Field("loss", description="where the KL to the reference is: in the loss (k3), or in the reward")
    kl_corrected: bool = Field(False, description="multiply k3 by the ratio: its gradient is then that of the KL (TRL does so)")


# One iteration's answers to one prompt: the tree, and by name what the loss needs of each of its tokens, (S,) float32.
Group = tuple[PromptTree, Mapping[str, Tensor]]


class GRPO(OnRatios):
    """GRPO on trees."""

    name = "grpo"
    config: Config

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"policy": self.policy}

    def batches(self, state: State) -> Iterator[OptimizerStep]:
        """Samples, scores, and then gives ``epochs_per_batch`` epochs of minibatches over the answers."""
        config = self.config
        chosen = step_indices(len(self.parts.trees), config.batch_size, config.seed, state.step)
        groups = self.groups(self.answer(chosen, state.step))
        for members in shuffled_epochs(config, len(groups), config.seed, state.step):
            yield self.minibatch([groups[i] for i in members])

    def groups(self, answers: Answers) -> list[Group]:
        """The answers with their advantages, and what policy and reference say of their tokens before the first update."""
        config = self.config
        said = by_token(answers.trees, config.micro_batch_tokens, self.said)
        old, reference, entropy = (torch.cat(column) for column in zip(*said, strict=True))
        self.log_tokens(answers.samples, old, reference, entropy)
        lengths = torch.cat([tree_lengths(tree) for tree in answers.trees])
        returns = torch.tensor([x for row in answers.scores for x in row])
        kl = torch.stack([part.sum() for part in (old - reference).split(lengths.tolist())])
        self.logged["return"] = float((returns - self.beta * kl).mean())
        if config.kl_in == "reward":
            returns = returns - self.beta * kl
        group = torch.arange(len(answers.trees)).repeat_interleave(torch.tensor([len(row) for row in answers.scores]))
        advantages = group_normalised(returns, group, divide_by_std=config.divide_by_std)
        self.logged["advantage_abs"] = float(advantages.abs().mean())
        shares = 1 / lengths.float() if config.length == "own" else torch.full_like(returns, 1 / config.max_tokens)
        columns = {
            "old_logprobs": old, "reference_logprobs": reference,
            "advantages": advantages.repeat_interleave(lengths), "shares": shares.repeat_interleave(lengths),
        }  # fmt: skip
        sizes = [int(tree_lengths(tree).sum()) for tree in answers.trees]
        rows = zip(*(column.split(sizes) for column in columns.values()), strict=True)
        return [(tree, dict(zip(columns, row, strict=True))) for tree, row in zip(answers.trees, rows, strict=True)]

    def minibatch(self, groups: Sequence[Group]) -> OptimizerStep:
        """Packs groups; the divisor is the completions of the whole minibatch."""
        divisor = float(sum(len(tree.completions) for tree, _ in groups))
        return packed([tree for tree, _ in groups], [extra for _, extra in groups], self.config.micro_batch_tokens, divisor)

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        config, extra, trees = self.config, batch.extra, batch.trees
        logprobs = score_tokens(self.policy, trees, temperature=config.temperature).logprobs
        losses, ratio = clipped_surrogate(logprobs, extra["old_logprobs"], extra["advantages"], clip=config.clip)
        if config.kl_in == "loss":
            kl = kl_estimate(logprobs - extra["reference_logprobs"], "k3")
            if config.kl_corrected:
                kl = kl * torch.exp(logprobs - extra["old_logprobs"])
            losses = losses + self.beta * kl
        losses = losses * extra["shares"]
        moved = ratio_metrics(logprobs, extra["old_logprobs"], ratio, config.clip)
        return losses.sum() / batch.divisor, {"policy_loss": total(losses, count=trees.completions), **moved}


def build(config: Config, rewards: Rewards) -> Trained:
    """Reads prompts, the start model, the reference and the reward."""
    need(config, "model", "data", "reward")
    if config.kl_in == "reward":
        refuse_idle(config, "to kl_in=reward, which has no KL in the loss; leave one of the two out", "kl_corrected")
    if not config.beta:
        of_kl = ("kl_corrected", "kl_in")
        refuse_idle(config, "to beta=0, at which there is no KL to correct or to place; write a beta, or leave it out", *of_kl)
    parts, tokenizer = load_parts("grpo", config, rewards)
    return Trained(GRPO(config, parts), len(parts.trees), {"model": (parts.policy, tokenizer)})
