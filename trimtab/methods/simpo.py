"""SimPO: DPO without a reference, on the mean log-probability of an answer's tokens, with a margin that has to be passed.

L = mean over pairs of -log sigma(beta * log P(y_w|x) / |y_w| - beta * log P(y_l|x) / |y_l| - gamma). Meng et al. 2024, equation 6. The
reward is what sampling goes by, and a long answer has no more of it than a short one. ``beta`` is the paper's: the scale of that reward,
not a pull towards a reference, of which there is none.
"""

from pydantic import Field
from torch import Tensor

from trimtab.common.hf import PreTrainedModel
from trimtab.losses.likelihood import simpo_loss
from trimtab.methods.build import LR_SENTENCE, Rewards, Trained
from trimtab.methods.offline import FixedData, OnPairs, pair_metrics, ranked_pairs, total
from trimtab.methods.rankings import RankingSettings, on_pairs
from trimtab.training.method import Metrics, MicroBatch


class Config(RankingSettings):
    """Settings of ``trimtab simpo``."""

    lr: float = Field(6e-7, gt=0, description=LR_SENTENCE)
    beta: float = Field(2.0, gt=0, description="scale of the reward, the mean logprob per token (there is no reference to be near)")
    gamma: float = Field(1.0, ge=0, description="margin of rewards that is asked for (TRL's simpo_gamma)")


class SimPO(OnPairs):
    """The SimPO loss on all comparable pairs of each tree."""

    name = "simpo"

    def __init__(self, policy: PreTrainedModel, data: FixedData, *, beta: float, gamma: float) -> None:
        super().__init__(policy, data)
        self.beta, self.gamma = beta, gamma

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        sums, means = self.sequence_logprobs(batch.trees)
        better, worse, ranking = ranked_pairs(batch.trees)
        weights = batch.trees.weights[ranking]
        losses = simpo_loss(means[better], means[worse], beta=self.beta, gamma=self.gamma)
        rewards = self.beta * means.detach()
        metrics = {
            "loss": total(losses, weights), **pair_metrics(rewards[better], rewards[worse], weights),
            "reward_chosen": total(rewards[better], weights), "reward_rejected": total(rewards[worse], weights),
            "logprob_chosen": total(sums[better], weights), "logprob_rejected": total(sums[worse], weights),
        }  # fmt: skip
        return (weights * losses).sum() / batch.divisor, metrics


def build(config: Config, rewards: Rewards) -> Trained:
    """Reads rankings and the start model."""
    return on_pairs("simpo", config, lambda policy, data: SimPO(policy, data, beta=config.beta, gamma=config.gamma))
