"""SLiC-HF: the sequence triplet, and cross-entropy on a reference answer that holds the likelihood of good answers up.

L = mean over pairs of max(0, delta - log P(y+|x) + log P(y-|x)) - lambda * log P(y_ref|x), lambda = ``sft_weight``. Zhao et al. 2023. The
likelihoods are this policy's own, no reference model stands in the hinge. Its direct form: pairs that people ranked, whoever wrote the
answers. Its sample-rank form: candidates of the SFT model, ranked by a reward model or any other judge (``trimtab sample``, ``trimtab
rank``, then this with ``pairs=tournament``; ``recipes/slic-hf.yaml`` is the three). y_ref is the best-ranked answer of the pair's
ranking, or the demonstration of its prompt (``demonstrations``): a ranking whose prompt has none is refused. It stands in its ranking's
tree and counts once for each of the ranking's pairs.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field
from torch import Tensor

from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedModel
from trimtab.data.formats import read_demonstrations
from trimtab.losses.likelihood import slic_loss
from trimtab.methods.build import LR_SENTENCE, Rewards, Trained, need, read_data
from trimtab.methods.offline import (
    FixedData,
    OnPairs,
    Pairs,
    best_answer,
    good_answers,
    pair_metrics,
    ranked_pairs,
    total,
    tournament_pairs,
    tree_pairs,
)
from trimtab.methods.rankings import RankingSettings, on_pairs
from trimtab.methods.triplet import DELTA_SENTENCE, NORMALISED_SENTENCE
from trimtab.records import Comparison, Completion
from trimtab.training.method import Metrics, MicroBatch
from trimtab.trees import PromptTree

PAIRS: dict[str, Pairs] = {"all": tree_pairs, "tournament": tournament_pairs}


class Config(RankingSettings):
    """Settings of ``trimtab slic``."""

    lr: float = Field(1e-6, gt=0, description=LR_SENTENCE)
    delta: float = Field(1.0, ge=0, description=DELTA_SENTENCE)
    sft_weight: float = Field(0.5, ge=0, description="lambda: weight of the cross-entropy on the reference answer")
    length_normalised: bool = Field(False, description=NORMALISED_SENTENCE + "; the cross-entropy is then per token too")
    pairs: Literal["all", "tournament"] = Field(
        "all", description="which pairs of a ranking: all that are no ties, or a knock-out's K - 1 (neighbours meet, winners go on)"
    )
    demonstrations: str = Field(
        "", description="demonstrations of the rankings' prompts, the reference answers; empty = each ranking's best-ranked answer"
    )


class SLiC(OnPairs):
    """The hinge and the cross-entropy on the pairs of each tree."""

    name = "slic"

    def __init__(
        self, policy: PreTrainedModel, data: FixedData, *, delta: float, sft_weight: float, length_normalised: bool = False,
        demonstrated: bool = False, pairs: str = "all",
    ) -> None:  # fmt: skip
        super().__init__(policy, data)
        self.delta, self.sft_weight, self.length_normalised = delta, sft_weight, length_normalised
        self.reference_answer = last_answer if demonstrated else best_answer
        self.pairs = PAIRS[pairs]
        self.size = lambda tree: float(len(self.pairs(tree)))

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        sums, means = self.sequence_logprobs(batch.trees)
        scores = means if self.length_normalised else sums
        better, worse, ranking = ranked_pairs(batch.trees, self.pairs)
        weights = batch.trees.weights[ranking]
        answers, pairs, kept = good_answers(batch.trees, ranking, self.reference_answer)
        answer = scores[answers].repeat_interleave(pairs)  # pairs, too, lie tree by tree
        losses = slic_loss(scores[better], scores[worse], answer, delta=self.delta, sft_weight=self.sft_weight)
        metrics = {
            "loss": total(losses, weights), **pair_metrics(scores[better], scores[worse], weights),
            "active": total((scores[better] - scores[worse] < self.delta).float(), weights),
            "sft_loss": total(-means[answers], batch.trees.weights[kept]),
            "logprob_chosen": total(sums[better], weights), "logprob_rejected": total(sums[worse], weights),
        }  # fmt: skip
        return (weights * losses).sum() / batch.divisor, metrics


def last_answer(tree: PromptTree) -> int:
    """Where ``with_demonstrations`` puts a ranking's reference answer."""
    return len(tree.completions) - 1


def with_demonstrations(path: str, demonstrations: str, rankings: Sequence[Comparison]) -> list[Comparison]:
    """The rankings of the file ``path``, each with the demonstration of its prompt as a last, unranked answer: it is in no pair.

    Raises:
        UserError: a ranking's prompt has no demonstration.
    """
    written = {d.prompt.messages: d.completion for d in read_demonstrations(demonstrations)}
    without = [r.prompt.id for r in rankings if r.prompt.messages not in written]
    if without:
        raise UserError(
            f"{path}: {len(without)} of {len(rankings)} rankings (the first is {without[0]!r}) have no demonstration of their prompt in "
            f"{demonstrations}, so no reference answer; leave demonstrations= out to take each ranking's best answer"
        )
    return [
        replace(r, completions=(*r.completions, Completion(written[r.prompt.messages])), ranks=(*r.ranks, None), ratings=None, flags=None)
        for r in rankings
    ]


def build(config: Config, rewards: Rewards) -> Trained:
    """Reads rankings, reference answers and the start model."""
    need(config, "model", "data")
    options = config.model_dump(include={"delta", "sft_weight", "length_normalised", "pairs"})
    options["demonstrated"] = bool(config.demonstrations)
    if not config.sft_weight:
        raise UserError("sft_weight=0: without the cross-entropy this is the sequence triplet; write trimtab triplet, or a weight")
    if config.demonstrations and config.models:
        raise UserError("models= names whose answers to read, demonstrations= brings answers that have no model; give one of the two")

    def read(path: str) -> list[Comparison]:
        rankings = read_data("slic", config, path, "comparison")
        return with_demonstrations(path, config.demonstrations, rankings) if config.demonstrations else rankings

    return on_pairs("slic", config, lambda policy, data: SLiC(policy, data, **options), read)
