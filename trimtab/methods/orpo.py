"""ORPO: finetuning on the good answer and, in the same step, odds that the good answer is given rather than the bad one.

L = mean over pairs of -log P(y_w|x) / |y_w| + lambda * -log sigma(log odds(y_w|x) - log odds(y_l|x)), lambda = ``odds_weight`` (TRL's
``beta``), with odds = p / (1 - p) and p the geometric mean of the answer's token probabilities. Hong et al. 2024, equations 6 and 7. No
reference model and no SFT before it. Of a ranking of more than two answers only the best is finetuned on, once for each pair.
"""

from pydantic import Field
from torch import Tensor

from trimtab.common.hf import PreTrainedModel
from trimtab.losses.likelihood import log_odds, orpo_loss
from trimtab.methods.build import LR_SENTENCE, Rewards, Trained
from trimtab.methods.offline import FixedData, OnPairs, good_answers, pair_metrics, ranked_pairs, total
from trimtab.methods.rankings import RankingSettings, on_pairs
from trimtab.training.method import Metrics, MicroBatch


class Config(RankingSettings):
    """Settings of ``trimtab orpo``."""

    lr: float = Field(8e-6, gt=0, description=LR_SENTENCE)
    odds_weight: float = Field(0.1, ge=0, description="lambda: weight of the odds-ratio loss beside the SFT loss on the best answer")


class ORPO(OnPairs):
    """The SFT loss on the best answer and the odds-ratio loss on all comparable pairs of each tree."""

    name = "orpo"

    def __init__(self, policy: PreTrainedModel, data: FixedData, *, odds_weight: float) -> None:
        super().__init__(policy, data)
        self.odds_weight = odds_weight

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        sums, means = self.sequence_logprobs(batch.trees)
        better, worse, ranking = ranked_pairs(batch.trees)
        weights = batch.trees.weights[ranking]
        best, pairs, kept = good_answers(batch.trees, ranking)
        answer = means[best].repeat_interleave(pairs)  # pairs, too, lie tree by tree
        losses = orpo_loss(means[better], means[worse], answer, odds_weight=self.odds_weight)
        odds = log_odds(means.detach())
        metrics = {
            "loss": total(losses, weights), **pair_metrics(odds[better], odds[worse], weights),
            "sft_loss": total(-means[best], batch.trees.weights[kept]),
            "logprob_chosen": total(sums[better], weights), "logprob_rejected": total(sums[worse], weights),
        }  # fmt: skip
        return (weights * losses).sum() / batch.divisor, metrics


def build(config: Config, rewards: Rewards) -> Trained:
    """Reads rankings and the start model."""
    return on_pairs("orpo", config, lambda policy, data: ORPO(policy, data, odds_weight=config.odds_weight))
