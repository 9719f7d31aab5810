"""Reward model: a language model whose head gives one number, trained so that better-ranked answers score higher.

loss = -(1 / C(K,2)) * sum over pairs of log sigma(r(x, y_w) - r(x, y_l)); all pairs of one ranking in one element, ties left
out, the mean then taken over rankings. Ouyang et al. 2022, equation 1. A ranking of K answers is one tree, so its prompt is
computed once and its K answers once, not C(K,2) times. Scores are shifted afterwards so that demonstrations average 0, and a
temperature for their differences is fitted on the held-out rankings (``feedback/temperature.py``); both stand in ``reward.json``.

``ties=half`` keeps the pairs that a labeler ranked alike: each counts as half a win of either, so C(K,2) is all ranked pairs.
``loss=plackett_luce`` takes the whole ranking at once: every answer against all that stand below it, the mean over the answers that have
somebody below them. Of two answers all of these are the same loss.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from trimtab.common.errors import UserError
from trimtab.common.files import write_json
from trimtab.common.hf import PreTrainedModel, PreTrainedTokenizerBase
from trimtab.common.stats import share_interval
from trimtab.data.encode import demonstration_trees
from trimtab.data.formats import read_demonstrations
from trimtab.data.template import PAD
from trimtab.feedback.reward_model import score_in_budget
from trimtab.feedback.temperature import fit_temperature, pair_loss
from trimtab.losses.preference import bradley_terry_loss, plackett_luce_loss, tie_loss
from trimtab.methods.build import (
    LR_SENTENCE,
    Rewards,
    Trained,
    adapt,
    announced,
    length_limit,
    need,
    start_tokenizer,
)
from trimtab.methods.offline import FixedData, Offline, pair_metrics, ranked_pairs, tree_pairs, tree_ties
from trimtab.methods.rankings import RankingSettings, ranked_data, read_rankings
from trimtab.models.load import grow_vocabulary, load_scorer
from trimtab.models.score import score_rewards
from trimtab.training.method import Metrics, MicroBatch
from trimtab.trees import PromptTree

SCALE_RANKINGS = 400
"""Rankings whose scores give the unit of reward: their standard deviation is known to 1.5 % from 400 of six answers."""


class Config(RankingSettings):
    """Settings of ``trimtab reward``."""

    lr: float = Field(1e-5, gt=0, description=LR_SENTENCE)
    loss: Literal["pairs", "plackett_luce"] = Field(
        "pairs", description="what a ranking costs: the mean over its pairs, or over its answers against all those below (Plackett-Luce)"
    )
    ties: Literal["skip", "half"] = Field(
        "skip", description="pairs that were ranked alike: left out, or half a win of either (of loss=pairs)"
    )
    demonstrations: str = Field(
        "", description="demonstrations whose mean score becomes 0; empty = the answers of data"
    )


class Reward(Offline):
    """The K-wise loss on rankings."""

    name = "reward"
    shown = ("loss", "eval/accuracy")
    size = staticmethod(lambda tree: float(bool(tree_pairs(tree))))

    def __init__(self, scorer: PreTrainedModel, data: FixedData, *, loss: str = "pairs", ties: str = "skip") -> None:
        super().__init__(data)
        self.scorer, self.kind, self.ties = scorer, loss, ties
        if ties == "half":
            self.size = lambda tree: float(tells_something(tree))

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"scorer": self.scorer}

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        rewards = score_rewards(self.scorer, batch.trees)
        better, worse, ranking = ranked_pairs(batch.trees)
        weights = batch.trees.weights
        metrics = pair_metrics(rewards[better], rewards[worse], weights[ranking])
        if self.kind == "plackett_luce":
            stage = better.unique()
            losses = plackett_luce_loss(rewards[better], rewards[worse], better, len(rewards))[stage]
            ranking = batch.trees.tree_of[stage]
        else:
            losses = bradley_terry_loss(rewards[better], rewards[worse])
            if self.ties == "half":
                a, b, tied = ranked_pairs(batch.trees, tree_ties)
                losses, ranking = torch.cat([losses, tie_loss(rewards[a], rewards[b])]), torch.cat([ranking, tied])
        parts_of = torch.bincount(ranking, minlength=len(batch.trees.trees))
        loss = (weights[ranking] * losses / parts_of[ranking]).sum()
        return loss / batch.divisor, {"loss": (float(loss.detach()), float(weights[parts_of > 0].sum())), **metrics}


def tells_something(tree: PromptTree) -> bool:
    """Whether two answers of a tree were ranked, alike or not."""
    return bool(tree_pairs(tree) or tree_ties(tree))


def pair_margins(rewards: Sequence[Sequence[float]], trees: Sequence[PromptTree]) -> tuple[list[float], list[str]]:
    """The score of each pair's better-ranked answer minus that of the worse one, and the prompt the pair belongs to."""
    margins, prompts = [], []
    for row, tree in zip(rewards, trees, strict=True):
        for better, worse in tree_pairs(tree):
            margins.append(row[better] - row[worse])
            prompts.append(tree.key)
    return margins, prompts


def fitted(margins: Sequence[float]) -> float:
    """The temperature of held-out pairs' margins, 1 where none is best, after one line about it."""
    found = fit_temperature(margins)
    if found is None:
        why = "all pairs are ordered rightly" if min(margins, default=-1.0) >= 0 else "the margins say nothing of the pairs"
        print(f"reward: no temperature is best on {len(margins):,} held-out pairs ({why if margins else 'there are none'}); it stays 1")
        return 1.0
    before, after = pair_loss(margins), pair_loss(margins, found)
    print(f"reward: temperature {found:.3f} fitted on {len(margins):,} held-out pairs: their loss {before:.4f} -> {after:.4f} nats")
    return found


def add_pad_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end_id: int) -> None:
    """Gives the scorer a pad id that is neither the end token nor ``end_id``, with which the chat template ends an answer.

    Plain transformers finds a row's last token as the last one that is not padding: with pad = end it would read the score one
    token early.
    """
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id, end_id):
        tokenizer.add_special_tokens({"pad_token": PAD})
        grow_vocabulary(model, len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id


def build(config: Config, rewards: Rewards) -> Trained:
    """Reads rankings and the start model, a language model (the head is then new) or a reward model."""
    need(config, "model", "data")
    if config.ties == "half" and config.loss != "pairs":
        raise UserError(f"ties=half means nothing to loss={config.loss}, in which tied answers do not compete; leave one of the two out")
    keep = tells_something if config.ties == "half" else tree_pairs
    rankings = read_rankings("reward", config, keep=keep)
    demonstrations = read_demonstrations(config.demonstrations) if config.demonstrations else []
    scorer = load_scorer(config.model, seed=config.seed, quantize=config.lora.quantize)
    tokenizer, renderer = start_tokenizer(config.model, scorer, grow=not config.lora.rank)
    add_pad_token(scorer, tokenizer, renderer.end_id)  # a row that nothing reads, so none that would have to be trained
    adapt("reward", config, scorer)
    limit = length_limit(config, scorer)
    data = ranked_data("reward", config, rankings, renderer, limit, keep=keep)
    measured = zero = data.trees[:SCALE_RANKINGS]
    if config.demonstrations:
        zero = announced("reward", config.demonstrations, demonstration_trees(demonstrations, renderer, limit))
        if not zero:
            raise UserError(f"{config.demonstrations}: no demonstration is short enough to set the zero of the rewards; raise max_length")

    def finish(folder: Path) -> Mapping[str, Any]:
        # in float32, whatever the training ran in: what is kept with the model is what its readers will find, who read it so
        raw = score_in_budget(scorer, measured, config.micro_batch_tokens)
        zeros = score_in_budget(scorer, zero, config.micro_batch_tokens) if config.demonstrations else raw
        shift = float(np.mean([x for row in zeros for x in row]))
        scale = float(np.std([x for row in raw for x in row])) or 1.0
        held_out = score_in_budget(scorer, data.held_out, config.micro_batch_tokens)
        margins, prompts = pair_margins(held_out, data.held_out)
        temperature = fitted(margins) if data.held_out else 1.0
        calibration = {"shift": shift, "scale": scale, "temperature": temperature, "zero": config.demonstrations or config.data}
        for place in (folder / "model", folder / "adapter"):
            if place.exists():
                write_json(place / "reward.json", calibration)
        if not data.held_out:
            return {}
        hits = [0.5 + 0.5 * float(np.sign(margin)) for margin in margins]
        return {"accuracy": share_interval(hits, clusters=prompts, seed=config.seed).to_json()}

    return Trained(Reward(scorer, data, loss=config.loss, ties=config.ties), len(data.trees), {"model": (scorer, tokenizer)}, finish)
