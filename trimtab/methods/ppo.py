"""Proximal policy optimisation with a clipped surrogate, a value model, GAE and a reward shaped against the reference.

One iteration: sample answers from the policy; score them with the reward model; R(x, y) = r(x, y) - beta * log(pi(y|x) /
pi_ref(y|x)) (Stiennon et al. 2020), the score on the last token and the penalty on every token; advantages by GAE (Schulman et
al. 2016); then a few epochs of minibatches on -min(ratio * A, clip(ratio, 1 - eps, 1 + eps) * A) (Schulman et al. 2017,
equation 7) + value_coef * value loss. The value model starts from the reward model, as InstructGPT's did (Ouyang et al. 2022,
appendix C.4). beta is fixed, or controlled to a target KL (Ziegler et al. 2019, section 2.2).

Two choices where implementations differ (Huang et al. 2024): rewards are not whitened, the reward model's own scale is 1
already; a completion that was cut before its end token is scored like any other, minus ``cut_penalty``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.common.config import Settings
from trimtab.common.errors import UserError
from trimtab.common.precision import products
from trimtab.common.rng import generator
from trimtab.data.template import Renderer
from trimtab.feedback.protocol import Feedback
from trimtab.feedback.reward_model import RewardModel
from trimtab.losses.policy import (
    clipped_surrogate,
    clipped_value_loss,
    explained_variance,
    gae,
    kl_estimate,
    shaped_rewards,
    whiten,
)  # fmt: skip
from trimtab.methods.build import Rewards, Trained, adapt, need
from trimtab.methods.offline import total
from trimtab.methods.online import Answers, Online, OnlineSettings, Parts, engine_logprobs, load_parts, tree_lengths
from trimtab.models.load import grow_vocabulary, load_scorer
from trimtab.models.lora import Quantize
from trimtab.models.score import score_tokens, score_values
from trimtab.training.method import Metrics, MicroBatch, OptimizerStep, State
from trimtab.trees import PromptTree, TreeBatch, pack_indices, step_indices


class KLControl(Settings):
    """Ziegler et al. 2019, equation 3: beta grows while KL is above the target and shrinks below it."""

    target: float = Field(
        0.0, ge=0, description="KL to the reference to hold, nats per completion; 0 = beta stays fixed"
    )
    horizon: int = Field(2000, ge=1, description="completions over which an error of 20 % or more moves beta by 20 %")


class Config(OnlineSettings):
    """Settings of ``trimtab ppo``."""

    kl: KLControl = Field(KLControl(), description="control of beta")
    epochs_per_batch: int = Field(2, ge=1, description="passes over an iteration's answers")
    minibatch_size: int = Field(64, ge=1, description="prompts per optimizer step within an iteration")
    clip: float = Field(0.2, gt=0, description="eps of the clipped surrogate")
    value_clip: float = Field(0.2, ge=0, description="how far a value may move in one iteration; 0 = no limit")
    value_coef: float = Field(0.5, ge=0, description="weight of the value loss")
    gamma: float = Field(1.0, gt=0, le=1, description="discount per token")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="lambda of GAE: 0 trusts the value model, 1 the returns")
    stop_kl: float = Field(
        0.1, gt=0, description="an iteration's updates end once approx_kl (nats per token) passes this"
    )


# A horizon shorter than an iteration could turn the penalty into a reward.
LEAST_FACTOR = 0.5


@dataclass(frozen=True)
class TokensOf:
    """What the models say of one tree's sampled tokens, each (S,) float32."""

    logprobs: Tensor
    reference_logprobs: Tensor
    values: Tensor
    entropy: Tensor


@dataclass(frozen=True)
class Rollout:
    """One iteration's answers to one prompt, all float32, tokens completion after completion."""

    tree: PromptTree
    old_logprobs: Tensor  # (S,)
    advantages: Tensor  # (S,)
    returns: Tensor  # (S,)
    old_values: Tensor  # (S,)


class PPO(Online):
    """PPO on trees. ``policy`` and ``value`` are trained; ``reference`` and the reward are not."""

    name = "ppo"
    config: Config

    def __init__(self, config: Config, parts: Parts, value: PreTrainedModel, value_offset: float = 0.0) -> None:
        super().__init__(config, parts)
        self.value, self.value_offset = value, value_offset
        self.beta = config.beta
        self._kl = 0.0

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"policy": self.policy, "value": self.value}

    def batches(self, state: State) -> Iterator[OptimizerStep]:
        """Samples, scores, and then gives ``epochs_per_batch`` epochs of minibatches over the answers."""
        chosen = step_indices(len(self.parts.trees), self.config.batch_size, self.config.seed, state.step)
        rollouts = self.rollouts(chosen, state.step)
        for epoch in range(self.config.epochs_per_batch):
            order = generator(self.config.seed, "minibatches", state.step, epoch).permutation(len(rollouts))
            for start in range(0, len(order), self.config.minibatch_size):
                yield self.minibatch([rollouts[i] for i in order[start : start + self.config.minibatch_size]])

    def rollouts(self, chosen: Sequence[int], iteration: int) -> list[Rollout]:
        """Answers of the current policy to the chosen prompts, with rewards, advantages and returns."""
        config, answers = self.config, self.answer(chosen, iteration)
        tokens = self.score_rollouts(answers.trees)
        rewards = [
            shaped_rewards(
                torch.tensor(scores), t.logprobs, t.reference_logprobs, tree_lengths(tree).cumsum(0) - 1, self.beta
            )
            for tree, scores, t in zip(answers.trees, answers.scores, tokens, strict=True)
        ]  # fmt: skip
        estimates = [
            gae(r, t.values, tree_lengths(tree), gamma=config.gamma, gae_lambda=config.gae_lambda)
            for tree, r, t in zip(answers.trees, rewards, tokens, strict=True)
        ]
        advantages = whiten(torch.cat([a for a, _ in estimates])).split([len(a) for a, _ in estimates])
        self._log_tokens(answers, tokens, torch.cat([r for _, r in estimates]))
        return [
            Rollout(tree, t.logprobs, a, returns, t.values)
            for tree, t, a, (_, returns) in zip(answers.trees, tokens, advantages, estimates, strict=True)
        ]

    @torch.no_grad()
    def score_rollouts(self, trees: Sequence[PromptTree]) -> list[TokensOf]:
        """What policy, reference and value model say of each tree's answers, in the trees' order."""
        out: dict[int, TokensOf] = {}
        for members in pack_indices(trees, self.config.micro_batch_tokens):
            batch = TreeBatch.pack([trees[i] for i in members])
            with products(self.config.dtype):
                policy = score_tokens(self.policy, batch, temperature=self.config.temperature)
                reference = score_tokens(self.reference, batch, temperature=self.config.temperature).logprobs
                values = score_values(self.value, batch) + self.value_offset
            sizes = [int(tree_lengths(trees[i]).sum()) for i in members]
            parts = zip(*(x.cpu().split(sizes) for x in (policy.logprobs, reference, values, policy.entropy)), strict=True)
            out.update({i: TokensOf(*part) for i, part in zip(members, parts, strict=True)})
        return [out[i] for i in range(len(trees))]

    def _log_tokens(self, answers: Answers, tokens: Sequence[TokensOf], returns: Tensor) -> None:
        """The iteration's metrics of tokens; docs/metrics.md has each one's formula."""
        log_ratio = torch.cat([t.logprobs - t.reference_logprobs for t in tokens])
        differences = (engine_logprobs(answers.samples) - torch.cat([t.logprobs for t in tokens])).abs()
        self._kl = float(log_ratio.sum()) / sum(map(len, answers.samples))
        self.logged |= {
            "kl/reference": self._kl,
            "kl/per_token": float(log_ratio.mean()),
            "entropy": float(torch.cat([t.entropy for t in tokens]).mean()),
            "explained_variance": float(explained_variance(torch.cat([t.values for t in tokens]), returns)),
            "engine/max_diff": float(differences.max()),
            "engine/mean_diff": float(differences.mean()),
        }

    def minibatch(self, rollouts: Sequence[Rollout]) -> OptimizerStep:
        """Packs rollouts; the divisor is the completion tokens of the whole minibatch."""
        divisor = float(sum(len(r.advantages) for r in rollouts))
        step = []
        for members in pack_indices([r.tree for r in rollouts], self.config.micro_batch_tokens):
            chosen = [rollouts[i] for i in members]
            extra = {
                name: torch.cat([getattr(r, name) for r in chosen])
                for name in ("old_logprobs", "advantages", "returns", "old_values")
            }
            step.append(MicroBatch(TreeBatch.pack([r.tree for r in chosen]), divisor, extra))
        return step

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        config, extra = self.config, batch.extra
        tokens = score_tokens(self.policy, batch.trees, temperature=config.temperature)
        policy_loss, ratio = clipped_surrogate(
            tokens.logprobs, extra["old_logprobs"], extra["advantages"], clip=config.clip
        )
        values = score_values(self.value, batch.trees) + self.value_offset
        value_loss = clipped_value_loss(values, extra["old_values"], extra["returns"], clip=config.value_clip or None)
        approx_kl = kl_estimate((extra["old_logprobs"] - tokens.logprobs).detach(), "k3")
        metrics = {
            "policy_loss": total(policy_loss), "value_loss": total(value_loss), "approx_kl": total(approx_kl),
            "clipfrac": total(((ratio - 1).abs() > config.clip).float()), "ratio_mean": total(ratio),
        }  # fmt: skip
        return (policy_loss.sum() + config.value_coef * value_loss.sum()) / batch.divisor, metrics

    def before_step(self, metrics: Metrics) -> bool:
        """Ends the iteration's updates once the policy has moved too far from the one that sampled."""
        kl, count = metrics["approx_kl"]
        return kl / count <= self.config.stop_kl

    def after(self, state: State) -> dict[str, float]:
        """Moves beta (Ziegler et al. 2019: proportional error clipped to 20 %) and gives the iteration's metrics."""
        kl = self.config.kl
        self.logged["beta"] = self.beta
        if kl.target:
            error = min(0.2, max(-0.2, self._kl / kl.target - 1))
            completions = self.config.batch_size * self.config.num_completions
            self.beta *= max(LEAST_FACTOR, 1 + error * completions / kl.horizon)
        return self.logged

    def state_dict(self) -> dict[str, Any]:
        return {"beta": self.beta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.beta = state["beta"]


def start_value(model: str, reward: Feedback, renderer: Renderer, quantize: Quantize = "none") -> tuple[PreTrainedModel, float]:
    """The value model and the constant that is added to its output.

    It starts from the reward model's weights where that reads the policy's tokens, and then predicts calibrated rewards, (plain
    score - shift) / scale, from the first step: the head has no bias, so the shift stays outside. Otherwise it starts from the
    start model with a head of 0.
    """
    if isinstance(reward, RewardModel) and reward.renderer.sha == renderer.sha:
        calibration = reward.calibration
        value, factor, offset = load_scorer(reward.folder, quantize=quantize), 1 / calibration.scale, -calibration.shift / calibration.scale
    else:
        value, factor, offset = load_scorer(model, quantize=quantize), 0.0, 0.0
        grow_vocabulary(value, len(renderer.tokenizer))
    with torch.no_grad():
        value.score.weight *= factor
    return value, offset


def build(config: Config, rewards: Rewards) -> Trained:
    """Reads prompts, the start model, the reference and the reward; the value model starts from the reward model."""
    need(config, "model", "data", "reward")
    if config.kl.target and not config.beta:
        raise UserError(f"kl.target={config.kl.target} multiplies beta, and beta is 0; write a beta to start from")
    parts, tokenizer = load_parts("ppo", config, rewards)
    value, value_offset = start_value(config.model, parts.reward, parts.renderer, config.lora.quantize)
    adapt("ppo", config, value)
    outputs = {"model": (parts.policy, tokenizer), "value": (value, tokenizer)}
    return Trained(PPO(config, parts, value, value_offset), len(parts.trees), outputs)
