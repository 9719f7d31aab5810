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

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.common.config import Settings
from trimtab.common.errors import UserError
from trimtab.common.precision import in_bf16, products
from trimtab.common.rng import generator
from trimtab.data.encode import prompt_trees
from trimtab.data.formats import read_prompts, refuse_shared_ids
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
from trimtab.methods.build import (
    Rewards,
    StartSettings,
    Trained,
    announced,
    length_limit,
    need,
    refuse_other_tokenizer,
    start_tokenizer,
)
from trimtab.methods.offline import total
from trimtab.models.load import grow_vocabulary, load_policy, load_scorer, max_positions
from trimtab.models.score import score_tokens, score_values
from trimtab.records import Completion, Prompt
from trimtab.sampling.engine import NativeEngine
from trimtab.sampling.protocol import Engine, Sample, SamplingOptions
from trimtab.training.method import Method, Metrics, MicroBatch, OptimizerStep, State
from trimtab.trees import PromptTree, TreeBatch, pack_indices, step_indices


class KLControl(Settings):
    """Ziegler et al. 2019, equation 3: beta grows while KL is above the target and shrinks below it."""

    target: float = Field(
        0.0, ge=0, description="KL to the reference to hold, nats per completion; 0 = beta stays fixed"
    )
    horizon: int = Field(2000, ge=1, description="completions over which an error of 20 % or more moves beta by 20 %")


class Config(StartSettings):
    """Settings of ``trimtab ppo``. ``batch_size`` counts prompts per iteration, ``steps`` iterations."""

    reference: str = Field("", description="reference model; empty = the start model")
    reward: str = Field("", description="what is maximised: reward:DIR, a reward-model folder, or a judge's name")
    gold: str = Field("", description="a judge that is only watched, never trained on, e.g. village")
    beta: float = Field(0.05, ge=0, description="strength of the KL penalty in the reward, per nat")
    kl: KLControl = Field(KLControl(), description="control of beta")
    num_completions: int = Field(1, ge=1, description="answers sampled for each prompt")
    max_tokens: int = Field(64, ge=1, description="longest answer, tokens")
    temperature: float = Field(
        1.0, gt=0, description="sampling temperature; logprobs are of logits / temperature throughout"
    )
    epochs_per_batch: int = Field(2, ge=1, description="passes over an iteration's answers")
    minibatch_size: int = Field(64, ge=1, description="prompts per optimizer step within an iteration")
    clip: float = Field(0.2, gt=0, description="eps of the clipped surrogate")
    value_clip: float = Field(0.2, ge=0, description="how far a value may move in one iteration; 0 = no limit")
    value_coef: float = Field(0.5, ge=0, description="weight of the value loss")
    gamma: float = Field(1.0, gt=0, le=1, description="discount per token")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="lambda of GAE: 0 trusts the value model, 1 the returns")
    cut_penalty: float = Field(1.0, ge=0, description="taken off the score of an answer cut before its end token")
    stop_kl: float = Field(
        0.1, gt=0, description="an iteration's updates end once approx_kl (nats per token) passes this"
    )


# Answers of each iteration that go to samples.jsonl.
SAMPLE_ROWS = 8
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


class PPO(Method):
    """PPO on trees. ``policy`` and ``value`` are trained; ``reference`` and the reward are not."""

    name = "ppo"
    shown = ("reward/proxy", "kl/reference")

    def __init__(
        self, config: Config, *, policy: PreTrainedModel, value: PreTrainedModel, reference: PreTrainedModel, engine: Engine,
        reward: Feedback, gold: Feedback | None, prompts: Sequence[Prompt], trees: Sequence[PromptTree], renderer: Renderer,
        value_offset: float = 0.0,
    ) -> None:  # fmt: skip
        self.config, self.engine, self.reward, self.gold, self.renderer = config, engine, reward, gold, renderer
        self.policy, self.value, self.reference = policy, value, reference.requires_grad_(False)
        self.value_offset = value_offset
        self.prompts, self.trees = prompts, trees
        self.beta = config.beta
        self._logged: dict[str, float] = {}
        self._rows: list[dict[str, Any]] = []
        self._kl = 0.0

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"policy": self.policy, "value": self.value}

    def batches(self, state: State) -> Iterator[OptimizerStep]:
        """Samples, scores, and then gives ``epochs_per_batch`` epochs of minibatches over the answers."""
        chosen = step_indices(len(self.trees), self.config.batch_size, self.config.seed, state.step)
        rollouts = self.rollouts(chosen, state.step)
        for epoch in range(self.config.epochs_per_batch):
            order = generator(self.config.seed, "minibatches", state.step, epoch).permutation(len(rollouts))
            for start in range(0, len(order), self.config.minibatch_size):
                yield self.minibatch([rollouts[i] for i in order[start : start + self.config.minibatch_size]])

    def rollouts(self, chosen: Sequence[int], iteration: int) -> list[Rollout]:
        """Answers of the current policy to the chosen prompts, with rewards, advantages and returns."""
        config = self.config
        options = SamplingOptions(max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed)
        prompts = [self.prompts[i] for i in chosen]
        keys = [f"{prompt.id}/{iteration}/{slot}" for slot, prompt in enumerate(prompts)]
        samples = self.engine.sample([self.trees[i].prompt for i in chosen], config.num_completions, options, keys)
        trees = [
            self.trees[i].with_completions([s.token_ids for s in answers])
            for i, answers in zip(chosen, samples, strict=True)
        ]
        answers = [[self._completion(s) for s in row] for row in samples]
        proxy = self.reward.score(prompts, answers)
        tokens = self.score_rollouts(trees)
        rewards = [
            shaped_rewards(
                torch.tensor([r - config.cut_penalty * (a.stop == "length") for r, a in zip(scores, row, strict=True)]),
                t.logprobs, t.reference_logprobs, tree_lengths(tree).cumsum(0) - 1, self.beta,
            )
            for tree, row, scores, t in zip(trees, answers, proxy, tokens, strict=True)
        ]  # fmt: skip
        estimates = [
            gae(r, t.values, tree_lengths(tree), gamma=config.gamma, gae_lambda=config.gae_lambda)
            for tree, r, t in zip(trees, rewards, tokens, strict=True)
        ]
        advantages = whiten(torch.cat([a for a, _ in estimates])).split([len(a) for a, _ in estimates])
        self._log(prompts, answers, proxy, trees, tokens, torch.cat([r for _, r in estimates]), samples)
        return [
            Rollout(tree, t.logprobs, a, returns, t.values)
            for tree, t, a, (_, returns) in zip(trees, tokens, advantages, estimates, strict=True)
        ]

    def _completion(self, sample: Sample) -> Completion:
        return Completion(
            self.renderer.decode(sample.token_ids), None, sample.token_ids, self.renderer.sha, sample.stop
        )

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
            parts = zip(*(x.split(sizes) for x in (policy.logprobs, reference, values, policy.entropy)), strict=True)
            out.update({i: TokensOf(*part) for i, part in zip(members, parts, strict=True)})
        return [out[i] for i in range(len(trees))]

    def _log(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[Completion]], proxy: Sequence[Sequence[float]],
        trees: Sequence[PromptTree], tokens: Sequence[TokensOf], returns: Tensor, samples: Sequence[Sequence[Sample]],
    ) -> None:  # fmt: skip
        """The iteration's metrics and sample rows; docs/metrics.md has each one's formula."""
        log_ratio = torch.cat([t.logprobs - t.reference_logprobs for t in tokens])
        lengths = torch.cat([tree_lengths(tree) for tree in trees])
        said = torch.tensor([x for row in samples for s in row for x in s.policy_logprobs])
        differences = (
            (said - torch.cat([t.logprobs for t in tokens])).abs() if self.config.temperature == 1 else torch.zeros(1)
        )
        self._kl = float(log_ratio.sum() / len(lengths))
        self._logged = {
            f"reward/{self.reward.source}": float(np.mean([x for row in proxy for x in row])),
            "kl/reference": self._kl,
            "kl/per_token": float(log_ratio.mean()),
            "entropy": float(torch.cat([t.entropy for t in tokens]).mean()),
            "length": float(lengths.float().mean()),
            "stopped": float(np.mean([a.stop == "end" for row in answers for a in row])),
            "explained_variance": float(explained_variance(torch.cat([t.values for t in tokens]), returns)),
            "engine/max_diff": float(differences.max()),
            "engine/mean_diff": float(differences.mean()),
        }
        gold = self.gold.score(prompts, answers) if self.gold else None
        if gold is not None:
            self._logged["reward/gold"] = float(np.mean([x for row in gold for x in row]))
        self._rows = [
            {
                "id": p.id,
                "prompt": p.text,
                "completion": row[0].text,
                "reward": proxy[i][0],
                **({"gold": gold[i][0]} if gold else {}),
            }
            for i, (p, row) in enumerate(zip(prompts[:SAMPLE_ROWS], answers, strict=False))
        ]

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
        self._logged["beta"] = self.beta
        if kl.target:
            error = min(0.2, max(-0.2, self._kl / kl.target - 1))
            completions = self.config.batch_size * self.config.num_completions
            self.beta *= max(LEAST_FACTOR, 1 + error * completions / kl.horizon)
        return self._logged

    def samples(self) -> Sequence[Mapping[str, Any]]:
        return self._rows

    def state_dict(self) -> dict[str, Any]:
        return {"beta": self.beta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.beta = state["beta"]


def tree_lengths(tree: PromptTree) -> Tensor:
    """(K,) tokens of each completion."""
    return torch.tensor([len(c) for c in tree.completions])


def start_value(model: str, reward: Feedback, renderer: Renderer) -> tuple[PreTrainedModel, float]:
    """The value model and the constant that is added to its output.

    It starts from the reward model's weights where that reads the policy's tokens, and then predicts calibrated rewards, (plain
    score - shift) / scale, from the first step: the head has no bias, so the shift stays outside. Otherwise it starts from the
    start model with a head of 0.
    """
    if isinstance(reward, RewardModel) and reward.renderer.sha == renderer.sha:
        calibration = reward.calibration
        value, factor, offset = load_scorer(reward.folder), 1 / calibration.scale, -calibration.shift / calibration.scale
    else:
        value, factor, offset = load_scorer(model), 0.0, 0.0
        grow_vocabulary(value, len(renderer.tokenizer))
    with torch.no_grad():
        value.score.weight *= factor
    return value, offset


def build(config: Config, rewards: Rewards) -> Trained:
    """Reads prompts, the start model, the reference and the reward; the value model starts from the reward model."""
    need(config, "model", "data", "reward")
    if config.kl.target and not config.beta:
        raise UserError(f"kl.target={config.kl.target} multiplies beta, and beta is 0; write a beta to start from")
    policy = load_policy(config.model)
    reference = load_policy(config.reference or config.model)
    reward = rewards(config.reward)
    refuse_other_tokenizer(config.model, config.reference)
    tokenizer, renderer = start_tokenizer(config.model, policy, reference)
    value, value_offset = start_value(config.model, reward, renderer)
    longest = min(length_limit(config, policy), max_positions(value), reward.longest if isinstance(reward, RewardModel) else 1 << 30)
    limit = longest - config.max_tokens
    read = read_prompts(config.data)
    refuse_shared_ids(read, config.data)
    trees = announced("ppo", config.data, prompt_trees(read, renderer, limit))
    by_id = {p.id: p for p in read}
    engine = NativeEngine(policy, renderer.end_id, autocast=in_bf16(config.dtype))
    gold = rewards(config.gold) if config.gold else None
    method = PPO(
        config, policy=policy, value=value, value_offset=value_offset, reference=reference, engine=engine, reward=reward, gold=gold,
        prompts=[by_id[t.key] for t in trees], trees=trees, renderer=renderer,
    )  # fmt: skip
    return Trained(method, len(trees), {"model": (policy, tokenizer), "value": (value, tokenizer)})
