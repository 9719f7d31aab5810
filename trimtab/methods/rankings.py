"""What methods on rankings share: their settings, reading the file before any model is, and its rankings as trees."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field, field_validator

from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedModel
from trimtab.data.encode import comparison_trees
from trimtab.data.template import Renderer
from trimtab.methods.build import (
    DataSettings,
    Trained,
    adapt,
    fixed_data,
    length_limit,
    need,
    read_data,
    refuse_missing_models,
    start_tokenizer,
)
from trimtab.methods.offline import FixedData, tree_pairs
from trimtab.models.load import load_policy
from trimtab.records import Comparison
from trimtab.training.method import Method
from trimtab.trees import PromptTree

# Whether a tree's ranks say something that a method learns from.
Keep = Callable[[PromptTree], object]
Read = Callable[[str], list[Comparison]]


class RankingSettings(DataSettings):
    """Settings of every method on rankings."""

    models: list[str] = Field([], description="read only answers of these models, named as in the rankings; empty = all")
    labeler_weights: dict[str, float] = Field(
        {}, description="what each labeler's rankings count, {ann: 2, bob: 0.5}; others 1; times the ranking's own field weight"
    )

    @field_validator("labeler_weights", mode="before")
    @classmethod
    def _numbers(cls, weights: Any) -> Any:
        if isinstance(weights, dict) and None in weights.values():  # {ann:2} is a key without a value
            raise ValueError("write a blank behind each colon: {ann: 2, bob: 0.5}")
        return weights

    @field_validator("labeler_weights")
    @classmethod
    def _above_zero(cls, weights: dict[str, float]) -> dict[str, float]:
        if not all(weight > 0 for weight in weights.values()):
            raise ValueError("write numbers above 0 (rankings that are to count nothing are left out of the file)")
        return weights


@dataclass(frozen=True)
class Rankings:
    """What was read: rankings to train on, and held-out ones."""

    training: Sequence[Comparison]
    held_out: Sequence[Comparison] = ()


def read_rankings(name: str, config: RankingSettings, *, keep: Keep = tree_pairs, read: Read | None = None) -> Rankings:
    """``data`` and ``eval_data``, of the answers that ``config.models`` asks for, with their weights.

    Raises:
        UserError: there is no such model; a file cannot be read; no answer is by one of those models; a labeler with a weight ranked
            nothing; no ranking says which of two answers is better.
    """
    refuse_missing_models(config)
    read = read or (lambda path: read_data(name, config, path, "comparison"))
    training = _among(config, config.data, read(config.data))
    labelers = {r.labeler for r in training if r.labeler is not None}
    for labeler in config.labeler_weights:
        if labeler not in labelers:  # a weight that no ranking gets is a slip of the pen
            found = f"its labelers are {', '.join(sorted(labelers))}" if labelers else "it names no labelers"
            raise UserError(f"labeler_weights: {labeler} ranked nothing in {config.data}; {found}")
    if not any(keep(_shape(r)) for r in training):
        most = max((len(r.completions) for r in training), default=0)
        why = "no ranking has two answers" if most < 2 else "no ranking has two answers of different rank"
        if most > 1 and all(rank is None for r in training for rank in r.ranks):
            why = "its answers have no ranks, which trimtab rank or labelers give them"
        raise UserError(f"{config.data}: {why}; {name} needs at least one that has")
    held_out = _among(config, config.eval_data, read(config.eval_data)) if config.eval_data else []
    return Rankings(*(_weighted(found, config.labeler_weights) for found in (training, held_out)))


def ranked_data(
    name: str, config: RankingSettings, rankings: Rankings, renderer: Renderer, limit: int, *, keep: Keep = tree_pairs
) -> FixedData:  # fmt: skip
    """The rankings as trees of at most ``limit`` tokens, after one line about each file; only what ``keep`` keeps is trained on."""
    training = comparison_trees(rankings.training, renderer, limit)
    held_out = comparison_trees(rankings.held_out, renderer, limit) if config.eval_data else None
    return fixed_data(name, config, training, held_out, keep)


def on_pairs(
    name: str, config: RankingSettings, make: Callable[[PreTrainedModel, FixedData], Method], read: Read | None = None
) -> Trained:  # fmt: skip
    """What a method without a reference builds: reads rankings and the start model, and has ``make`` put them together."""
    need(config, "model", "data")
    rankings = read_rankings(name, config, read=read)
    policy = load_policy(config.model, quantize=config.lora.quantize)
    tokenizer, renderer = start_tokenizer(config.model, policy, grow=not config.lora.rank)
    adapt(name, config, policy)
    data = ranked_data(name, config, rankings, renderer, length_limit(config, policy))
    return Trained(make(policy, data), len(data.trees), {"model": (policy, tokenizer)})


def _among(config: RankingSettings, path: str, rankings: list[Comparison]) -> list[Comparison]:
    """The rankings of the answers of ``config.models``, if it names some."""
    if not config.models:
        return rankings
    named = {str(c.model) for ranking in rankings for c in ranking.completions if c.model}
    kept = [among for ranking in rankings if (among := ranking.among(config.models)).completions]
    if not kept:
        found = f"has answers by {', '.join(sorted(named))}" if named else "names no answer's model"
        raise UserError(f"{path}: no answer is by {' or '.join(config.models)}; it {found}")
    return kept


def _weighted(rankings: Sequence[Comparison], weights: Mapping[str, float]) -> list[Comparison]:
    """The rankings, those of a labeler in ``weights`` with its weight times their own."""
    return [
        replace(r, weight=(r.weight or 1.0) * weights[r.labeler]) if r.labeler is not None and r.labeler in weights else r for r in rankings
    ]


def _shape(ranking: Comparison) -> PromptTree:
    """A tree of the ranking's ranks, whose tokens say nothing."""
    return PromptTree((0,), ((0,),) * len(ranking.completions), ranks=ranking.ranks)
