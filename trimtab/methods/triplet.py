"""Sequence triplet: the better answer of each pair is to be likelier than the worse by a margin, by the policy's own likelihoods.

L = mean over pairs of max(0, delta - log P(y+|x) + log P(y-|x)). Zhao et al. 2022 (SLiC's rank loss; the triplet loss of Schroff et al.
2015 with log P(y|x) in place of distances). All pairs of a ranking that are not ties. There is no reference model and nothing that holds
likelihoods up: both of a pair may fall as long as the worse falls further. ``methods/slic.py`` adds what holds them.
"""

from pydantic import Field
from torch import Tensor

from trimtab.common.hf import PreTrainedModel
from trimtab.losses.likelihood import triplet_loss
from trimtab.methods.build import LR_SENTENCE, Rewards, Trained
from trimtab.methods.offline import FixedData, OnPairs, pair_metrics, ranked_pairs, total
from trimtab.methods.rankings import RankingSettings, on_pairs
from trimtab.training.method import Metrics, MicroBatch

DELTA_SENTENCE = "margin that is asked for, in nats per answer (with length_normalised in nats per token)"
NORMALISED_SENTENCE = "compare log P(y|x) per token: long answers then lose nothing by their length"


class Config(RankingSettings):
    """Settings of ``trimtab triplet``."""

    lr: float = Field(1e-6, gt=0, description=LR_SENTENCE)
    delta: float = Field(1.0, ge=0, description=DELTA_SENTENCE)
    length_normalised: bool = Field(False, description=NORMALISED_SENTENCE)


class Triplet(OnPairs):
    """The hinge on all comparable pairs of each tree."""

    name = "triplet"

    def __init__(self, policy: PreTrainedModel, data: FixedData, *, delta: float, length_normalised: bool = False) -> None:
        super().__init__(policy, data)
        self.delta, self.length_normalised = delta, length_normalised

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        sums, means = self.sequence_logprobs(batch.trees)
        scores = means if self.length_normalised else sums
        better, worse, ranking = ranked_pairs(batch.trees)
        weights = batch.trees.weights[ranking]
        losses = triplet_loss(scores[better], scores[worse], delta=self.delta)
        metrics = {
            "loss": total(losses, weights), **pair_metrics(scores[better], scores[worse], weights),
            "active": total((losses > 0).float(), weights),
            "logprob_chosen": total(sums[better], weights), "logprob_rejected": total(sums[worse], weights),
        }  # fmt: skip
        return (weights * losses).sum() / batch.divisor, metrics


def build(config: Config, rewards: Rewards) -> Trained:
    """Reads rankings and the start model."""
    options = config.model_dump(include={"delta", "length_normalised"})
    return on_pairs("triplet", config, lambda policy, data: Triplet(policy, data, **options))
