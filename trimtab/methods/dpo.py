"""Direct preference optimisation: the policy is its own reward model, trained on the same rankings.

L = -E log sigma(beta * log pi(y_w|x)/pi_ref(y_w|x) - beta * log pi(y_l|x)/pi_ref(y_l|x)), the mean over all pairs of answers
that a labeler did not tie. Rafailov et al. 2023, equation 7. ``loss`` names other losses of the same margin
(``losses/preference.py::dpo_loss`` has each with its equation and its paper). The K answers of a ranking are one tree: each is scored
once and stands in every pair. ``sft_weight`` adds the negative log-likelihood per token of each ranking's best answer, so that the chosen
does not fall with the rejected (Pang et al. 2024, section 2; Dubey et al. 2024, section 4.1.4).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedModel
from trimtab.losses.preference import SMOOTHED, dpo_loss
from trimtab.methods.build import (
    LR_SENTENCE,
    Rewards,
    Trained,
    length_limit,
    need,
    start_pair,
    steps_of,
)
from trimtab.methods.offline import FixedData, Offline, good_answers, pair_metrics, ranked_pairs, total, tree_pairs
from trimtab.methods.rankings import RankingSettings, ranked_data, read_rankings
from trimtab.methods.reference import KeptLogprobs, kept_logprobs
from trimtab.models.score import score_tokens
from trimtab.training.method import Metrics, MicroBatch
from trimtab.trees import PromptTree


class Config(RankingSettings):
    """Settings of ``trimtab dpo``."""

    lr: float = Field(1e-6, gt=0, description=LR_SENTENCE)
    reference: str = Field("", description="reference model; empty = the start model")
    reference_cache: str = Field(
        "", description="folder where the reference's logprobs are kept once computed: no forward pass and no copy of it in training"
    )
    beta: float = Field(0.1, gt=0, description="strength of the pull towards the reference")
    loss: Literal["sigmoid", "ipo", "cdpo", "robust", "hinge"] = Field(
        "sigmoid", description="loss of the margin of implicit rewards; ipo is of log-ratios per token and asks for a gap of 1 / (2 beta)"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of the pairs that are taken to be labelled the wrong way round; of loss=cdpo and loss=robust"
    )
    sft_weight: float = Field(0.0, ge=0, description="weight of the SFT loss on each ranking's best answer")


class DPO(Offline):
    """The DPO loss on all comparable pairs of each tree."""

    name = "dpo"
    shown = ("loss", "accuracy", "eval/accuracy")
    size = staticmethod(lambda tree: float(len(tree_pairs(tree))))

    def __init__(
        self, policy: PreTrainedModel, reference: PreTrainedModel | KeptLogprobs, data: FixedData, *, beta: float, sft_weight: float = 0.0,
        loss: str = "sigmoid", label_smoothing: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(data)
        self.policy, self.beta, self.sft_weight = policy, beta, sft_weight
        self.reference = reference if isinstance(reference, KeptLogprobs) else reference.requires_grad_(False)
        self.kind, self.label_smoothing = loss, label_smoothing

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"policy": self.policy}

    @property
    def frozen(self) -> dict[str, nn.Module]:
        return {} if isinstance(self.reference, KeptLogprobs) else {"reference": self.reference}

    def split(self, trees: Sequence[PromptTree]) -> list[MicroBatch]:
        """The usual micro-batches, each with what was kept of the reference."""
        batches, kept = super().split(trees), self.reference
        return [replace(b, extra={"reference": kept.of(b.trees)}) for b in batches] if isinstance(kept, KeptLogprobs) else batches

    def reference_logprobs(self, batch: MicroBatch) -> Tensor:
        """(C,) log P(y|x) by the reference."""
        if isinstance(self.reference, KeptLogprobs):
            return batch.extra["reference"]
        with torch.no_grad():  # the same batch on the same numeric path: with equal weights every log-ratio is exactly 0
            return batch.trees.sum_by_completion(score_tokens(self.reference, batch.trees).logprobs)

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        trees = batch.trees
        policy = trees.sum_by_completion(score_tokens(self.policy, trees).logprobs)
        reference = self.reference_logprobs(batch)
        better, worse, ranking = ranked_pairs(trees)
        weights = trees.weights[ranking]
        losses, chosen, rejected = dpo_loss(
            policy[better], policy[worse], reference[better], reference[worse], beta=self.beta, loss=self.kind,
            label_smoothing=self.label_smoothing, lengths=(trees.lengths[better], trees.lengths[worse]),
        )  # fmt: skip
        metrics = {
            "loss": total(losses, weights), **pair_metrics(chosen, rejected, weights),
            "reward_chosen": total(chosen, weights), "reward_rejected": total(rejected, weights),
            "logprob_chosen": total(policy[better], weights), "logprob_rejected": total(policy[worse], weights),
        }  # fmt: skip
        loss = (weights * losses).sum()
        if self.sft_weight:
            # per pair like the loss beside it: a ranking's best answer counts once for each of its ranking's pairs
            best, pairs, kept = good_answers(trees, ranking)
            nll, of_each = -policy[best] / trees.lengths[best], trees.weights[kept]
            metrics["sft_loss"] = total(nll, of_each)
            loss = loss + self.sft_weight * (of_each * nll * pairs).sum()
        return loss / batch.divisor, metrics


def build(config: Config, rewards: Rewards) -> Trained:
    """Reads rankings, the start model and the reference."""
    need(config, "model", "data")
    if config.label_smoothing and config.loss not in SMOOTHED:
        raise UserError(f"label_smoothing={config.label_smoothing:g} means nothing to loss={config.loss}; write loss=cdpo or loss=robust")
    if config.loss in SMOOTHED and not config.label_smoothing:
        raise UserError(f"loss={config.loss} without label_smoothing is loss=sigmoid; write label_smoothing=0.1, or leave loss out")
    rankings = read_rankings("dpo", config)
    policy, model, tokenizer, renderer = start_pair("dpo", config, config.reference, asked_first=bool(config.reference_cache))
    data = ranked_data("dpo", config, rankings, renderer, length_limit(config, policy))
    reference: PreTrainedModel | KeptLogprobs = model
    if config.reference_cache and data.trees:
        reference = kept_logprobs("dpo", config.reference_cache, model, data, steps_of(config, len(data.trees)), config.dtype)
    options = config.model_dump(include={"beta", "sft_weight", "loss", "label_smoothing"})
    method = DPO(policy, reference, data, **options)
    return Trained(method, len(data.trees), {"model": (policy, tokenizer)})
