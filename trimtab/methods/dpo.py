"""Direct preference optimisation: the policy is its own reward model, trained on the same rankings.

L = -E log sigma(beta * log pi(y_w|x)/pi_ref(y_w|x) - beta * log pi(y_l|x)/pi_ref(y_l|x)), the mean over all pairs of answers
that a labeler did not tie. Rafailov et al. 2023, equation 7. The K answers of a ranking are one tree: each is scored once and
stands in every pair. ``sft_weight`` adds the negative log-likelihood per token of each ranking's best answer, so that the chosen does not
fall with the rejected (Pang et al. 2024, section 2; Dubey et al. 2024, section 4.1.4).
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.losses.preference import dpo_loss
from trimtab.methods.build import (
    LR_SENTENCE,
    RankingSettings,
    Rewards,
    Trained,
    length_limit,
    need,
    ranked_data,
    start_pair,
)
from trimtab.methods.offline import FixedData, Offline, ranked_pairs, total, tree_pairs
from trimtab.models.score import score_tokens
from trimtab.training.method import Metrics, MicroBatch
from trimtab.trees import TreeBatch


class Config(RankingSettings):
    """Settings of ``trimtab dpo``."""

    lr: float = Field(1e-6, gt=0, description=LR_SENTENCE)
    reference: str = Field("", description="reference model; empty = the start model")
    beta: float = Field(0.1, gt=0, description="strength of the pull towards the reference")
    sft_weight: float = Field(0.0, ge=0, description="weight of the SFT loss on each ranking's best answer")


class DPO(Offline):
    """The DPO loss on all comparable pairs of each tree."""

    name = "dpo"
    shown = ("loss", "eval/accuracy")
    size = staticmethod(lambda tree: float(len(tree_pairs(tree))))

    def __init__(
        self, policy: PreTrainedModel, reference: PreTrainedModel, data: FixedData, *, beta: float, sft_weight: float = 0.0
    ) -> None:
        super().__init__(data)
        self.policy, self.reference, self.beta, self.sft_weight = policy, reference.requires_grad_(False), beta, sft_weight

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"policy": self.policy}

    @property
    def frozen(self) -> dict[str, nn.Module]:
        return {"reference": self.reference}

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        trees = batch.trees
        policy = trees.sum_by_completion(score_tokens(self.policy, trees).logprobs)
        with torch.no_grad():  # the same batch on the same numeric path: with equal weights every log-ratio is exactly 0
            reference = trees.sum_by_completion(score_tokens(self.reference, trees).logprobs)
        better, worse, _ = ranked_pairs(trees)
        losses, chosen, rejected = dpo_loss(
            policy[better], policy[worse], reference[better], reference[worse], beta=self.beta
        )
        metrics = {
            "loss": total(losses), "accuracy": total((chosen > rejected).float()), "margin": total(chosen - rejected),
            "reward_chosen": total(chosen), "reward_rejected": total(rejected),
            "logprob_chosen": total(policy[better]), "logprob_rejected": total(policy[worse]),
        }  # fmt: skip
        loss = losses.sum()
        if self.sft_weight:
            # per pair like the loss beside it: a ranking's best answer counts once for each of its ranking's pairs
            best, pairs = best_answers(trees)
            nll = -policy[best] / trees.lengths[best]
            metrics["sft_loss"] = total(nll)
            loss = loss + self.sft_weight * (nll * pairs).sum()
        return loss / batch.divisor, metrics


def best_answers(batch: TreeBatch) -> tuple[Tensor, Tensor]:
    """The best-ranked answer (B,) of each ranking that has a pair, as index into C, and the ranking's number of pairs (B,)."""
    best, pairs, first = [], [], 0
    for tree in batch.trees:
        if count := len(tree_pairs(tree)):
            ranks = [len(tree.completions) + 1 if r is None else r for r in tree.ranks or ()]
            best.append(first + ranks.index(min(ranks)))
            pairs.append(count)
        first += len(tree.completions)
    device = batch.ids.device
    return torch.tensor(best, dtype=torch.long, device=device), torch.tensor(pairs, device=device)


def build(config: Config, rewards: Rewards) -> Trained:
    """Reads rankings, the start model and the reference."""
    need(config, "model", "data")
    policy, reference, tokenizer, renderer = start_pair("dpo", config, config.reference)
    limit = length_limit(config, policy)
    data = ranked_data("dpo", config, renderer, limit)
    method = DPO(policy, reference, data, beta=config.beta, sft_weight=config.sft_weight)
    return Trained(method, len(data.trees), {"model": (policy, tokenizer)})
