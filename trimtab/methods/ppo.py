"""Proximal policy optimisation with a surrogate that is clipped or penalised, a value model, GAE and a reward shaped against the reference.

One iteration: sample answers from the policy; score them with the reward model; R(x, y) = r(x, y) - beta * log(pi(y|x) /
pi_ref(y|x)) (Stiennon et al. 2020), the score on the last token and the penalty on every token; advantages by GAE (Schulman et
al. 2016); then a few epochs of minibatches on -surrogate + value_coef * value loss (Schulman et al. 2017), where the surrogate is
min(ratio * A, clip(ratio, 1 - eps, 1 + eps) * A) (variant=clip, equation 7) or ratio * A - penalty.beta * (KL(pi_old, pi) -
penalty.target) (variant=penalty, equation 8), its price found by dual descent after every iteration. The value model starts from the
reward model, as InstructGPT's did (Ouyang et al. 2022, appendix C.4), or is a head on the policy's own trunk (``value=trunk``, Schulman
et al. 2017, section 5): one model and one pass, whose gradient is the value's in the share that value_coef says. beta is fixed, or
controlled to a target KL (Ziegler et al. 2019, section 2.2). With one epoch, one minibatch and no clip or penalty the ratio is 1, and
this is REINFORCE with a learnt baseline.

Off unless asked for: an entropy bonus (equation 9), rewards in another scale, and PPO-ptx (Ouyang et al. 2022, equation 2).
docs/papers.md says of each implementation detail of Huang et al. 2024 where it is, or why it is not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trimtab.common.hf import PreTrainedModel
from trimtab.common.precision import products
from trimtab.data.template import Renderer
from trimtab.feedback.ensemble import reward_models
from trimtab.feedback.protocol import Feedback
from trimtab.losses.policy import (
    clipped_surrogate,
    clipped_value_loss,
    explained_variance,
    gae,
    kl_estimate,
    penalised_surrogate,
    shaped_rewards,
    whiten,
)  # fmt: skip
from trimtab.methods.build import Rewards, Trained, adapt, length_limit, need, refuse_idle
from trimtab.methods.control import Penalty, RunningScale, dual_descent
from trimtab.methods.mix import Mix, Ptx, check_mix, mix_loss, mix_step, read_mix
from trimtab.methods.offline import total
from trimtab.methods.online import (
    Answers,
    OnRatios,
    Parts,
    RatioSettings,
    by_token,
    load_parts,
    packed,
    ratio_metrics,
    shuffled_epochs,
    tree_lengths,
)
from trimtab.models.load import grow_vocabulary, load_scorer, load_tokenizer
from trimtab.models.lora import Quantize
from trimtab.models.score import TokenScores, ValueHead, score_tokens, score_tokens_and_values, score_values
from trimtab.training.method import Metrics, MicroBatch, OptimizerStep, State
from trimtab.trees import PromptTree, TreeBatch, step_indices


class Config(RatioSettings):
    """Settings of ``trimtab ppo``."""

    variant: Literal["clip", "penalty"] = Field("clip", description="what keeps the policy near the one that sampled")
    clip: float = Field(0.2, gt=0, description="variant=clip: eps of the clipped surrogate")
    penalty: Penalty = Field(Penalty(), description="variant=penalty")
    value: Literal["reward", "start", "trunk"] = Field(
        "reward", description="value model: begun as the reward model, or as the start model, or a head on the policy's trunk (one pass)"
    )
    value_clip: float = Field(0.2, ge=0, description="how far a value may move in one iteration; 0 = no limit")
    value_coef: float = Field(0.5, ge=0, description="weight of the value loss")
    entropy_coef: float = Field(0.0, ge=0, description="weight of the entropy bonus, per nat; 0 = none")
    gamma: float = Field(1.0, gt=0, le=1, description="discount per token")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="lambda of GAE: 0 trusts the value model, 1 the returns")
    normalise: Literal["none", "whiten", "running"] = Field(
        "none",
        description="whiten: an iteration's token rewards to variance 1; running: scores less their mean so far, over their deviation",
    )
    ptx: Ptx = Field(Ptx(), description="cross-entropy mixed into every update (PPO-ptx)")


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


class PPO(OnRatios):
    """PPO on trees. ``policy`` and ``value`` are trained; ``reference`` and the reward are not."""

    name = "ppo"
    config: Config

    def __init__(
        self, config: Config, parts: Parts, value: PreTrainedModel | ValueHead, value_offset: float = 0.0, mix: Mix | None = None
    ) -> None:  # fmt: skip
        super().__init__(config, parts)
        self.value, self.value_offset, self.mix = value, value_offset, mix
        self.price, self.scale = config.penalty.beta, RunningScale()
        self._rollouts: Sequence[Rollout] = ()

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"policy": self.policy, "value": self.value}

    def batches(self, state: State) -> Iterator[OptimizerStep]:
        """Samples, scores, and then gives ``epochs_per_batch`` epochs of minibatches over the answers."""
        config = self.config
        chosen = step_indices(len(self.parts.trees), config.batch_size, config.seed, state.step)
        rollouts = self._rollouts = self.rollouts(chosen, state.step)
        updates = config.epochs_per_batch * -(-config.batch_size // config.minibatch_size)
        for i, members in enumerate(shuffled_epochs(config, len(rollouts), config.seed, state.step)):
            mixed = mix_step(self.mix, state.step * updates + i) if self.mix else ()
            yield [*self.minibatch([rollouts[j] for j in members]), *mixed]

    def rollouts(self, chosen: Sequence[int], iteration: int) -> list[Rollout]:
        """Answers of the current policy to the chosen prompts, with rewards, advantages and returns."""
        config, answers = self.config, self.answer(chosen, iteration)
        tokens = self.score_rollouts(answers.trees)
        rewards = self.rewards(answers, tokens)
        estimates = [
            gae(r, t.values, tree_lengths(tree), gamma=config.gamma, gae_lambda=config.gae_lambda)
            for tree, r, t in zip(answers.trees, rewards, tokens, strict=True)
        ]
        advantages = whiten(torch.cat([a for a, _ in estimates])).split([len(a) for a, _ in estimates])
        logprobs, reference, values, entropy = (
            torch.cat([getattr(t, name) for t in tokens]) for name in ("logprobs", "reference_logprobs", "values", "entropy")
        )
        explained = float(explained_variance(values, torch.cat([r for _, r in estimates])))
        self.log_tokens(answers.samples, logprobs, reference, entropy, explained_variance=explained)
        return [
            Rollout(tree, t.logprobs, a, returns, t.values)
            for tree, t, a, (_, returns) in zip(answers.trees, tokens, advantages, estimates, strict=True)
        ]

    def rewards(self, answers: Answers, tokens: Sequence[TokensOf]) -> list[Tensor]:
        """(S,) of each tree: the shaped reward of every token, in the scale that ``normalise`` asks for."""
        scores = answers.scores
        if self.config.normalise == "running":
            self.scale.add([x for row in scores for x in row])
            scores = [[self.scale.normalised(x) for x in row] for row in scores]
        rewards = [
            shaped_rewards(
                torch.tensor(row), t.logprobs, t.reference_logprobs, tree_lengths(tree).cumsum(0) - 1, self.beta
            )
            for tree, row, t in zip(answers.trees, scores, tokens, strict=True)
        ]  # fmt: skip
        if self.config.normalise == "whiten":
            return list(whiten(torch.cat(rewards), keep_mean=True).split([len(r) for r in rewards]))
        return rewards

    def score_rollouts(self, trees: Sequence[PromptTree]) -> list[TokensOf]:
        """What policy, reference and value model say of each tree's answers, in the trees' order."""

        def score(batch: TreeBatch) -> tuple[Tensor, ...]:
            with products(self.config.dtype):
                tokens, values = self.scored(batch)
                reference = score_tokens(self.reference, batch, temperature=self.config.temperature)
                return tokens.logprobs, reference.logprobs, values, tokens.entropy

        return [TokensOf(*said) for said in by_token(trees, self.config.micro_batch_tokens, score)]

    def scored(self, batch: TreeBatch) -> tuple[TokenScores, Tensor]:
        """What the policy says of every answer token, and its (S,) value, by a model of its own or from the same pass."""
        temperature = self.config.temperature
        if isinstance(self.value, ValueHead):
            return score_tokens_and_values(self.policy, self.value, batch, temperature=temperature)
        return score_tokens(self.policy, batch, temperature=temperature), score_values(self.value, batch) + self.value_offset

    def minibatch(self, rollouts: Sequence[Rollout]) -> OptimizerStep:
        """Packs rollouts; the divisor is the completion tokens of the whole minibatch."""
        divisor = float(sum(len(r.advantages) for r in rollouts))
        extras = [{name: x for name, x in vars(r).items() if name != "tree"} for r in rollouts]
        return packed([r.tree for r in rollouts], extras, self.config.micro_batch_tokens, divisor)

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        config, extra = self.config, batch.extra
        if not extra:  # of the mix: answers come with what was said of them
            return mix_loss(self.policy, batch, config.ptx.weight)
        tokens, values = self.scored(batch.trees)
        given = tokens.logprobs, extra["old_logprobs"], extra["advantages"]
        clip = config.clip if config.variant == "clip" else None
        if clip is not None:
            policy_loss, ratio = clipped_surrogate(*given, clip=clip)
        else:
            policy_loss, ratio = penalised_surrogate(*given, beta=self.price)
        value_loss = clipped_value_loss(values, extra["old_values"], extra["returns"], clip=config.value_clip or None)
        metrics = {
            "policy_loss": total(policy_loss), "value_loss": total(value_loss),
            **ratio_metrics(tokens.logprobs, extra["old_logprobs"], ratio, clip),
        }  # fmt: skip
        loss = policy_loss.sum() + config.value_coef * value_loss.sum()
        if config.entropy_coef:
            loss = loss - config.entropy_coef * tokens.entropy.sum()
        return loss / batch.divisor, metrics

    def after(self, state: State) -> dict[str, float]:
        """Moves beta and the penalty's price, and gives the iteration's metrics."""
        if self.config.variant == "penalty":
            moved = self.moved()
            self.logged |= {"penalty/beta": self.price, "penalty/kl": moved}
            self.price = dual_descent(self.price, moved, self.config.penalty)
        return super().after(state)

    def moved(self) -> float:
        """KL(pi_old, pi) once the iteration's updates are done: k3 on its own answers, nats per token."""

        def score(batch: TreeBatch) -> tuple[Tensor, ...]:
            with products(self.config.dtype):
                return (score_tokens(self.policy, batch, temperature=self.config.temperature).logprobs,)

        now = by_token([r.tree for r in self._rollouts], self.config.micro_batch_tokens, score)
        log_ratio = torch.cat([r.old_logprobs - new for r, (new,) in zip(self._rollouts, now, strict=True)])
        return float(kl_estimate(log_ratio, "k3").mean())

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "price": self.price, "scale": self.scale.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.price = state.get("price", self.price)  # runs begun before it was kept have neither
        self.scale = RunningScale(**state.get("scale", {}))


def start_value(
    model: str, reward: Feedback | None, renderer: Renderer, quantize: Quantize = "none"
) -> tuple[PreTrainedModel, float]:  # fmt: skip
    """The value model and the constant that is added to its output.

    It starts from the reward model's weights (of an ensemble, the first's) where there is one that reads the policy's tokens, and then
    predicts calibrated rewards, (plain score - shift) / scale, from the first step: the head has no bias, so the shift stays outside.
    Otherwise it starts from the start model with a head of 0.
    """
    judge = next((found for found in reward_models(reward) if found.renderer.sha == renderer.sha), None)
    if judge is not None:
        calibration = judge.calibration
        value, factor, offset = load_scorer(judge.folder, quantize=quantize), 1 / calibration.scale, -calibration.shift / calibration.scale
    else:
        value, factor, offset = load_scorer(model, quantize=quantize), 0.0, 0.0
        grow_vocabulary(value, len(renderer.tokenizer), len(load_tokenizer(model)))
    with torch.no_grad():
        value.score.weight *= factor
    return value, offset


def build(config: Config, rewards: Rewards) -> Trained:
    """Reads prompts, the start model, the reference and the reward; the value model starts from the reward model."""
    need(config, "model", "data", "reward")
    check_mix(config.ptx)
    if config.variant == "clip":
        of_penalty = ("penalty.beta", "penalty.target", "penalty.rate")
        refuse_idle(config, "to variant=clip; write variant=penalty, or leave it out", *of_penalty)
    else:
        refuse_idle(config, "to variant=penalty, which clips no ratio; leave it out, or write variant=clip", "clip")
        if not config.penalty.rate:
            refuse_idle(config, "to penalty.rate=0, at which penalty.beta stays as it is; leave one of the two out", "penalty.target")
    parts, tokenizer = load_parts("ppo", config, rewards)
    limit = length_limit(config, parts.policy)
    mix = read_mix("ppo", config.ptx, tokenizer, parts.renderer, limit, config.micro_batch_tokens, config.seed)
    outputs = {"model": (parts.policy, tokenizer)}
    if config.value == "trunk":  # kept in checkpoints alone: without the policy it is nothing
        return Trained(PPO(config, parts, ValueHead(parts.policy), 0.0, mix), len(parts.trees), outputs)
    judge = parts.reward if config.value == "reward" else None
    value, value_offset = start_value(config.model, judge, parts.renderer, config.lora.quantize)
    adapt("ppo", config, value)
    return Trained(PPO(config, parts, value, value_offset, mix), len(parts.trees), {**outputs, "value": (value, tokenizer)})
