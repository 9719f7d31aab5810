"""What methods that learn from their own answers share: sampling them, scoring them, and what is logged about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.data.encode import prompt_trees
from trimtab.data.formats import read_prompts, refuse_shared_ids
from trimtab.data.template import Renderer
from trimtab.feedback.protocol import Feedback
from trimtab.feedback.reward_model import RewardModel
from trimtab.methods.build import (
    LR_SENTENCE,
    Rewards,
    StartSettings,
    announced,
    length_limit,
    start_pair,
)
from trimtab.models.load import max_positions
from trimtab.records import Completion, Prompt
from trimtab.sampling.choose import ENGINE_SENTENCE, EngineName, engine_for
from trimtab.sampling.protocol import Engine, Sample, SamplingOptions
from trimtab.training.method import Method
from trimtab.trees import PromptTree

# Answers of each iteration that go to samples.jsonl.
SAMPLE_ROWS = 8


class OnlineSettings(StartSettings):
    """Settings of every method that samples. ``batch_size`` counts prompts per iteration, ``steps`` iterations."""

    lr: float = Field(2e-6, gt=0, description=LR_SENTENCE)
    reference: str = Field("", description="reference model; empty = the start model")
    reward: str = Field("", description="what is maximised: reward:DIR, a reward-model folder, or a judge's name")
    gold: str = Field("", description="a judge that is only watched, never trained on, e.g. village, or another reward model")
    beta: float = Field(0.05, ge=0, description="strength of the KL penalty in the reward, per nat")
    num_completions: int = Field(1, ge=1, description="answers sampled for each prompt")
    max_tokens: int = Field(64, ge=1, description="longest answer, tokens")
    temperature: float = Field(
        1.0, gt=0, description="sampling temperature; logprobs are of logits / temperature throughout"
    )
    engine: EngineName = Field("native", description=ENGINE_SENTENCE)
    cut_penalty: float = Field(1.0, ge=0, description="taken off the score of an answer cut before its end token")


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

    prompts: Sequence[Prompt]
    trees: Sequence[PromptTree]  # with the sampled completions
    samples: Sequence[Sequence[Sample]]
    scores: Sequence[Sequence[float]]  # the reward's, minus ``cut_penalty`` where an answer was cut


class Online(Method):
    """Samples answers from the policy and scores them; a method says what is learnt from them."""

    shown = ("reward/proxy", "kl/reference")
    config: OnlineSettings

    def __init__(self, config: OnlineSettings, parts: Parts) -> None:
        self.config, self.parts = config, parts
        self.policy, self.reference = parts.policy, parts.reference.requires_grad_(False)
        self.logged: dict[str, float] = {}
        self._rows: list[dict[str, Any]] = []

    @property
    def frozen(self) -> dict[str, nn.Module]:
        judges = {"reward": self.parts.reward, "gold": self.parts.gold}
        return {"reference": self.reference, **{name: judge.model for name, judge in judges.items() if isinstance(judge, RewardModel)}}

    def answer(self, chosen: Sequence[int], iteration: int) -> Answers:
        """Answers to the chosen prompts: they depend on the seed, the iteration and the weights only."""
        config, parts = self.config, self.parts
        options = SamplingOptions(max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed)
        prompts = [parts.prompts[i] for i in chosen]
        keys = [f"{prompt.id}/{iteration}/{slot}" for slot, prompt in enumerate(prompts)]
        samples = parts.engine.sample([parts.trees[i].prompt for i in chosen], config.num_completions, options, keys)
        trees = [
            parts.trees[i].with_completions([s.token_ids for s in row]) for i, row in zip(chosen, samples, strict=True)
        ]
        completions = [[self._completion(s) for s in row] for row in samples]
        proxy = parts.reward.score(prompts, completions)
        gold = parts.gold.score(prompts, completions) if parts.gold else None
        self._log(prompts, completions, proxy, gold)
        scores = [
            [r - config.cut_penalty * (s.stop == "length") for r, s in zip(rewards, row, strict=True)]
            for rewards, row in zip(proxy, samples, strict=True)
        ]
        return Answers(prompts, trees, samples, scores)

    def _completion(self, sample: Sample) -> Completion:
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

    def samples(self) -> Sequence[Mapping[str, Any]]:
        return self._rows


def engine_logprobs(samples: Sequence[Sequence[Sample]]) -> Tensor:
    """(S,) what the engine says of the tokens it drew, of logits / temperature as the trainer's logprobs are."""
    return torch.tensor([x for row in samples for s in row for x in s.logprobs])


def tree_lengths(tree: PromptTree) -> Tensor:
    """(K,) tokens of each completion."""
    return torch.tensor([len(c) for c in tree.completions])


def load_parts(name: str, config: OnlineSettings, rewards: Rewards) -> tuple[Parts, PreTrainedTokenizerBase]:
    """Reads prompts, the start model, the reference and the reward.

    Raises:
        UserError: one of them cannot be read; policy and reference have different tokenizers.
    """
    policy, reference, tokenizer, renderer = start_pair(name, config, config.reference)
    reward = rewards(config.reward)
    longest = min(length_limit(config, policy), reward.longest if isinstance(reward, RewardModel) else max_positions(policy))
    read = read_prompts(config.data)
    refuse_shared_ids(read, config.data)
    trees = announced(name, config.data, prompt_trees(read, renderer, longest - config.max_tokens))
    by_id = {p.id: p for p in read}
    asked = max((len(t.prompt) for t in trees), default=0) + config.max_tokens
    engine = engine_for(config.engine, policy, tokenizer, renderer.end_id, dtype=config.dtype, longest=asked)
    gold = rewards(config.gold) if config.gold else None
    return Parts(policy, reference, engine, reward, gold, [by_id[t.key] for t in trees], trees, renderer), tokenizer
