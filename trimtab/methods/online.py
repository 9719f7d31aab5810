"""What methods that learn from their own answers share: sampling them, scoring them, and what is logged about them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from trimtab.common.config import Settings
from trimtab.common.errors import RunFailed, UserError
from trimtab.common.hf import PreTrainedModel, PreTrainedTokenizerBase
from trimtab.common.precision import products
from trimtab.common.rng import generator
from trimtab.data.encode import prompt_trees
from trimtab.data.formats import refuse_shared_ids
from trimtab.data.template import Renderer
from trimtab.feedback.ensemble import of_samples, reward_models
from trimtab.feedback.protocol import Feedback
from trimtab.losses.policy import kl_estimate
from trimtab.methods.build import (
    LR_SENTENCE,
    Rewards,
    StartSettings,
    announced,
    length_limit,
    read_data,
    refuse_idle,
    refuse_missing_models,
    start_pair,
)
from trimtab.methods.control import KLControl, proportional
from trimtab.methods.offline import total
from trimtab.models.load import position_limit
from trimtab.models.score import score_tokens
from trimtab.records import Completion, Prompt
from trimtab.sampling.choose import ENGINE_SENTENCE, KV_SENTENCE, EngineName, engine_for
from trimtab.sampling.protocol import LEAST_TEMPERATURE, Engine, Sample, SamplingOptions
from trimtab.training.method import Method, Metrics, MicroBatch, OptimizerStep, State
from trimtab.trees import PromptTree, TreeBatch, pack_indices

# Answers of each iteration that go to samples.jsonl.
SAMPLE_ROWS = 8
REWARD_SENTENCE = (
    "what is maximised: reward:DIR, a judge's name, module:function or FILE.py of (prompt, text), or several: mean:A,B min:A,B mean-std:A,B"
)


class SampledSettings(StartSettings):
    """Settings of every method that samples. ``batch_size`` counts prompts per iteration, ``steps`` iterations."""

    lr: float = Field(2e-6, gt=0, description=LR_SENTENCE)
    reference: str = Field("", description="reference model; empty = the start model")
    reward: str = Field("", description=REWARD_SENTENCE)
    gold: str = Field("", description="a judge that is only watched, never trained on, e.g. village, or another reward model")
    num_completions: int = Field(1, ge=1, description="answers sampled for each prompt")
    max_tokens: int = Field(64, ge=1, description="longest answer, tokens")
    temperature: float = Field(
        1.0, ge=LEAST_TEMPERATURE, description="sampling temperature; logprobs are of logits / temperature throughout"
    )
    engine: EngineName = Field("native", description=ENGINE_SENTENCE)
    kv_gb: float = Field(0.0, ge=0, description=KV_SENTENCE)
    cut_penalty: float = Field(1.0, ge=0, description="taken off the score of an answer cut before its end token")
    cut: Literal["penalised", "left_out"] = Field(
        "penalised", description="an answer cut before its end token loses cut_penalty, or nothing is learnt from it"
    )


class OnlineSettings(SampledSettings):
    """The same with the reference's hold on the policy."""

    beta: float = Field(0.05, ge=0, description="strength of the KL penalty in the reward, per nat")
    kl: KLControl = Field(KLControl(), description="control of beta")


class EpochSettings(Settings):
    """Beside these, of methods that may go over an iteration's answers more than once."""

    epochs_per_batch: int = Field(2, ge=1, description="passes over an iteration's answers")
    minibatch_size: int = Field(64, ge=1, description="prompts per optimizer step within an iteration")


class RatioSettings(EpochSettings, OnlineSettings):
    """Of methods whose loss has the ratio of the policy to the one that sampled (PPO, GRPO)."""

    stop_kl: float = Field(
        0.1, gt=0, description="an iteration's updates end once approx_kl (nats per token) passes this"
    )


@dataclass(frozen=True)
class Parts:
    """Everything an online method works with beside what it trains of its own. ``trees`` are ``prompts`` in tokens."""

    policy: PreTrainedModel
    reference: PreTrainedModel
    engine: Engine
    reward: Feedback
    gold: Feedback | None
    prompts: Sequence[Prompt]
    trees: Sequence[PromptTree]
    renderer: Renderer


@dataclass(frozen=True)
class Answers:
    """One iteration's answers of the current policy, prompt by prompt."""

    chosen: Sequence[int]  # which of all prompts these are
    prompts: Sequence[Prompt]
    trees: Sequence[PromptTree]  # with the sampled completions
    samples: Sequence[Sequence[Sample]]
    scores: Sequence[Sequence[float]]  # the reward's, minus ``cut_penalty`` where an answer was cut and is not left out


class Online(Method):
    """Samples answers from the policy and scores them; a method says what is learnt from them."""

    shown: tuple[str, ...] = ("reward/proxy", "reward/rule", "kl/reference")
    config: SampledSettings

    def __init__(self, config: SampledSettings, parts: Parts) -> None:
        self.config, self.parts = config, parts
        self.policy, self.reference = parts.policy, parts.reference.requires_grad_(False)
        self.logged: dict[str, float] = {}
        self.kl = 0.0  # to the reference, nats per completion, of the iteration's answers
        self.counted = config.batch_size * config.num_completions  # those answers; fewer where cut ones are left out
        self._rows: list[dict[str, Any]] = []

    @property
    def frozen(self) -> dict[str, nn.Module]:
        judges = {"reward": self.parts.reward, "gold": self.parts.gold}
        models = {f"{name}.{i}": m.model for name, judge in judges.items() if judge for i, m in enumerate(reward_models(judge))}
        return {"reference": self.reference, **models}

    def answer(self, chosen: Sequence[int], iteration: int) -> Answers:
        """Answers to the chosen prompts: they depend on the seed, the iteration and the weights only.

        Raises:
            RunFailed: every answer was cut, and such answers are left out.
        """
        prompts, samples = self.sample(chosen, self.config.num_completions, iteration)
        completions = [[self.completion(s) for s in row] for row in samples]
        proxy = self.parts.reward.score(prompts, completions)
        gold = self.parts.gold.score(prompts, completions) if self.parts.gold else None
        self._log(prompts, completions, proxy, gold)
        self.logged |= self.cut_share(sum(map(len, completions)))
        trees = [self.parts.trees[i] for i in chosen]
        answers = Answers(chosen, prompts, answered(trees, samples), samples, self.penalised(proxy, samples))
        if self.config.cut == "left_out":
            answers = self.finished(answers, iteration)
        self.counted = sum(map(len, answers.scores))
        return answers

    def sample(
        self, chosen: Sequence[int], k: int, iteration: int, *, greedy: bool = False
    ) -> tuple[list[Prompt], list[list[Sample]]]:
        """The chosen prompts and ``k`` completions of each."""
        config, parts = self.config, self.parts
        options = SamplingOptions(max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed, greedy=greedy)
        prompts = [parts.prompts[i] for i in chosen]
        keys = [f"{prompt.id}/{iteration}/{slot}" for slot, prompt in enumerate(prompts)]
        return prompts, parts.engine.sample([parts.trees[i].prompt for i in chosen], k, options, keys)

    def penalised(self, proxy: Sequence[Sequence[float]], samples: Sequence[Sequence[Sample]]) -> list[list[float]]:
        """The reward's scores, minus ``cut_penalty`` where an answer was cut; as they are where cut answers are left out."""
        penalty = self.config.cut_penalty if self.config.cut == "penalised" else 0.0
        return [
            [r - penalty * (s.stop == "length") for r, s in zip(rewards, row, strict=True)]
            for rewards, row in zip(proxy, samples, strict=True)
        ]

    def finished(self, answers: Answers, iteration: int) -> Answers:
        """Without the answers that were cut, and without the prompts that then have none.

        Raises:
            RunFailed: nothing is left.
        """
        kept = [[k for k, s in enumerate(row) if s.stop != "length"] for row in answers.samples]
        left = [i for i, ks in enumerate(kept) if ks]
        if not left:
            limit = self.config.max_tokens
            raise RunFailed(
                f"iteration {iteration + 1}: every answer was cut at max_tokens={limit}, and cut=left_out leaves nothing; raise max_tokens"
            )
        samples = [[answers.samples[i][k] for k in kept[i]] for i in left]
        scores = [[answers.scores[i][k] for k in kept[i]] for i in left]
        chosen, prompts = [answers.chosen[i] for i in left], [answers.prompts[i] for i in left]
        return Answers(chosen, prompts, answered([answers.trees[i] for i in left], samples), samples, scores)

    def completion(self, sample: Sample) -> Completion:
        """A sample as what judges read."""
        renderer = self.parts.renderer
        return Completion(renderer.decode(sample.token_ids), None, sample.token_ids, renderer.sha, sample.stop)

    def _log(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]], proxy: Sequence[Sequence[float]],
        gold: Sequence[Sequence[float]] | None,
    ) -> None:  # fmt: skip
        """The metrics and sample rows that need no model; docs/metrics.md has each one's formula."""
        flat = [c for row in completions for c in row]
        self.logged = {
            f"reward/{self.parts.reward.source}": float(np.mean([x for row in proxy for x in row])),
            "length": float(np.mean([len(c.token_ids or ()) for c in flat])),
            "stopped": float(np.mean([c.stop == "end" for c in flat])),
        }
        if stats := self.parts.engine.stats:
            self.logged["engine/kv_gb"] = stats.kv_bytes / 1e9
        if gold is not None and self.parts.gold is not None:
            # a reward model that is only watched is no gold judge, and may not take the name of the one that is maximised
            watched = "watched" if self.parts.gold.source == "proxy" else "gold"
            self.logged[f"reward/{watched}"] = float(np.mean([x for row in gold for x in row]))
        self._rows = [
            {
                "id": p.id,
                "prompt": p.text,
                "completion": row[0].text,
                "reward": proxy[i][0],
                **({"gold": gold[i][0]} if gold else {}),
            }
            for i, (p, row) in enumerate(zip(prompts[:SAMPLE_ROWS], completions, strict=False))
        ]

    def cut_share(self, answers: int) -> dict[str, float]:
        """``reward/cut``: the share of so many answers that a reward model just read without their prompt's beginning (of several models,
        the one that did so most); nothing where all read the policy's own tokens, for which ``load_parts`` leaves room."""
        models = reward_models(self.parts.reward, self.parts.gold)
        cut = max((model.cut for model in models), default=0)
        strange = any(model.renderer.sha != self.parts.renderer.sha for model in models)
        return {"reward/cut": cut / answers} if cut or strange else {}

    def said(self, batch: TreeBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Of every answer token: its logprob by the policy and by the reference, and the policy's entropy. Three of (S,)."""
        with products(self.config.dtype):
            policy = score_tokens(self.policy, batch, temperature=self.config.temperature)
            reference = score_tokens(self.reference, batch, temperature=self.config.temperature)
        return policy.logprobs, reference.logprobs, policy.entropy

    def log_tokens(
        self, samples: Sequence[Sequence[Sample]], logprobs: Tensor, reference: Tensor, entropy: Tensor, **more: float
    ) -> None:  # fmt: skip
        """Logs what the models say of the samples' tokens, each (S,), and ``more``."""
        apart = (engine_logprobs(samples) - logprobs).abs()
        log_ratio = logprobs - reference
        self.kl = float(log_ratio.sum()) / sum(map(len, samples))
        self.logged |= {
            "kl/reference": self.kl, "kl/per_token": float(log_ratio.mean()), "entropy": float(entropy.mean()), **more,
            "engine/max_diff": float(apart.max()), "engine/mean_diff": float(apart.mean()),
        }  # fmt: skip

    def samples(self) -> Sequence[Mapping[str, Any]]:
        return self._rows


class Held(Online):
    """A method in whose reward or loss the KL to the reference has a price: beta, fixed or controlled to ``kl.target``."""

    config: OnlineSettings

    def __init__(self, config: OnlineSettings, parts: Parts) -> None:
        super().__init__(config, parts)
        self.beta = config.beta

    def after(self, state: State) -> dict[str, float]:
        """The iteration's metrics, beta as it was in them; then beta moves."""
        control, used = self.config.kl, self.beta
        if control.target:
            self.beta = proportional(used, self.kl, control, self.counted)
        return {**self.logged, "beta": used}

    def state_dict(self) -> dict[str, Any]:
        return {"beta": self.beta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.beta = state.get("beta", self.beta)  # runs begun before it was kept have none


class OnRatios(Held):
    """A method whose loss has the ratio of the policy to the one that sampled."""

    shown = (*Held.shown, "updates")
    config: RatioSettings
    updates = 0  # optimizer steps of the iteration that were made

    def before_step(self, metrics: Metrics) -> bool:
        """Ends the iteration's updates once the policy has moved too far from the one that sampled."""
        kl, count = metrics["approx_kl"]
        goes_on = kl / count <= self.config.stop_kl
        self.updates += goes_on
        return goes_on

    def after(self, state: State) -> dict[str, float]:
        """The iteration's metrics, with how many updates it had: fewer than others where ``stop_kl`` ended them."""
        made, self.updates = float(self.updates), 0
        return {**super().after(state), "updates": made}


def ratio_metrics(logprobs: Tensor, old_logprobs: Tensor, ratio: Tensor, clip: float | None) -> Metrics:
    """How far the policy is from the one that sampled, by (S,) tokens; ``clipfrac`` where the loss clips."""
    clipped = {"clipfrac": total(((ratio - 1).abs() > clip).float())} if clip is not None else {}
    return {"approx_kl": total(kl_estimate((old_logprobs - logprobs).detach(), "k3")), **clipped, "ratio_mean": total(ratio)}


def answered(trees: Sequence[PromptTree], samples: Sequence[Sequence[Sample]]) -> list[PromptTree]:
    """The trees with what was sampled as their completions."""
    return [tree.with_completions([s.token_ids for s in row]) for tree, row in zip(trees, samples, strict=True)]


def shuffled_epochs(config: EpochSettings, count: int, seed: int, iteration: int) -> Iterator[list[int]]:
    """Which of an iteration's ``count`` trees each optimizer step takes: all of them in every epoch, in another order."""
    for epoch in range(config.epochs_per_batch):
        order = generator(seed, "minibatches", iteration, epoch).permutation(count)
        for start in range(0, len(order), config.minibatch_size):
            yield order[start : start + config.minibatch_size].tolist()


def packed(
    trees: Sequence[PromptTree], extras: Sequence[Mapping[str, Tensor]], budget: int, divisor: float
) -> OptimizerStep:
    """One optimizer step: the trees in micro-batches of ``budget`` tokens, with what the loss needs of each tree, end to end."""
    step = []
    for members in pack_indices(trees, budget):
        extra = {name: torch.cat([extras[i][name] for i in members]) for name in extras[members[0]]}
        step.append(MicroBatch(TreeBatch.pack([trees[i] for i in members]), divisor, extra))
    return step


@torch.no_grad()
def by_token(
    trees: Sequence[PromptTree], budget: int, score: Callable[[TreeBatch], tuple[Tensor, ...]]
) -> list[tuple[Tensor, ...]]:
    """What ``score`` (a batch -> some of (S,)) says of each tree's answer tokens, in the trees' order and on the CPU."""
    out: dict[int, tuple[Tensor, ...]] = {}
    for members in pack_indices(trees, budget):
        sizes = [int(tree_lengths(trees[i]).sum()) for i in members]
        parts = zip(*(x.cpu().split(sizes) for x in score(TreeBatch.pack([trees[i] for i in members]))), strict=True)
        out.update(zip(members, parts, strict=True))
    return [out[i] for i in range(len(trees))]


def engine_logprobs(samples: Sequence[Sequence[Sample]]) -> Tensor:
    """(S,) what the engine says of the tokens it drew, of logits / temperature as the trainer's logprobs are."""
    return torch.tensor([x for row in samples for s in row for x in s.logprobs])


def tree_lengths(tree: PromptTree) -> Tensor:
    """(K,) tokens of each completion."""
    return torch.tensor([len(c) for c in tree.completions])


def refuse_no_room(config: SampledSettings, positions: int, what: str = "the model takes") -> None:
    """Refuses answers as long as all that is read.

    Raises:
        UserError: ``max_tokens`` leaves a prompt nothing of ``positions`` or of ``max_length``.
    """
    limit, whose = (config.max_length, "max_length is") if 0 < config.max_length < positions else (positions, what)
    if config.max_tokens >= limit:
        raise UserError(f"max_tokens={config.max_tokens} leaves no room for a prompt: {whose} {limit:,} tokens; lower it")


def load_parts(name: str, config: SampledSettings, rewards: Rewards) -> tuple[Parts, PreTrainedTokenizerBase]:
    """Reads prompts, the start model, the reference and the reward.

    Raises:
        UserError: one of them cannot be read; policy and reference have different tokenizers; beta is controlled and 0; no prompt is short
            enough for ``max_tokens`` behind it; ``kv_gb`` does not hold one answer to the longest prompt.
    """
    if isinstance(config, OnlineSettings) and config.kl.target and not config.beta:
        raise UserError(f"kl.target={config.kl.target:g} multiplies beta, and beta is 0; write a beta to start from")
    if isinstance(config, OnlineSettings) and not config.kl.target:
        refuse_idle(config, "without kl.target: beta stays fixed; write a target, or leave it out", "kl.horizon")
    refuse_idle(config, f"to {name}, whose metrics are of its own answers, in every iteration; leave it out", "eval_every")
    if config.cut == "left_out":
        refuse_idle(config, "to cut=left_out, where nothing is learnt from cut answers; leave one of the two out", "cut_penalty")
    refuse_missing_models(config)
    refuse_no_room(config, position_limit(config.model))
    read = read_data(name, config, config.data, "prompt")
    refuse_shared_ids(read, config.data)
    reward = of_samples(rewards(config.reward), config.micro_batch_tokens)  # a mistyped one is told before the models are read
    gold = of_samples(rewards(config.gold), config.micro_batch_tokens) if config.gold else None
    policy, reference, tokenizer, renderer = start_pair(name, config, config.reference)
    longest = length_limit(config, policy)
    for model in reward_models(reward, gold):
        if model.renderer.sha == renderer.sha:  # to others the same text has another length
            refuse_no_room(config, model.longest, f"{model.folder} takes")
            longest = min(longest, model.longest)
    trees = announced(name, config.data, prompt_trees(read, renderer, longest - config.max_tokens))
    if read and not trees:
        least = min(len(renderer.prompt(prompt)) for prompt in read)
        raise UserError(f"max_tokens={config.max_tokens} leaves no room: the shortest prompt has {least:,} of {longest:,} tokens; lower it")
    by_id = {p.id: p for p in read}
    asked = max((len(t.prompt) for t in trees), default=0) + config.max_tokens
    engine = engine_for(
        config.engine, policy, tokenizer, renderer.end_id, dtype=config.dtype, longest=asked, kv_gb=config.kv_gb
    )
    return Parts(policy, reference, engine, reward, gold, [by_id[t.key] for t in trees], trees, renderer), tokenizer
