"""Supervised finetuning: pretraining's cross-entropy, on the tokens that a demonstration's assistant wrote.

L = -(1 / #trained tokens) * sum log pi(y_t | x, y_<t), the end token included. Ouyang et al. 2022, step 1.
"""

from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.common.rng import seed_for
from trimtab.data.encode import demonstration_trees
from trimtab.methods.build import (
    DROPOUT_SENTENCE,
    LR_SENTENCE,
    DataSettings,
    Rewards,
    Trained,
    adapt,
    fixed_data,
    length_limit,
    need,
    read_data,
    refuse_missing_models,
    start_tokenizer,
)
from trimtab.methods.offline import FixedData, Offline, total
from trimtab.models.dropout import add_dropout
from trimtab.models.load import load_policy
from trimtab.models.lora import drops
from trimtab.models.score import score_tokens
from trimtab.training.method import Learner, Metrics, MicroBatch, OptimizerStep


class Config(DataSettings):
    """Settings of ``trimtab sft``."""

    lr: float = Field(2e-5, gt=0, description=LR_SENTENCE)
    dropout: float = Field(0.0, ge=0, lt=1, description=DROPOUT_SENTENCE)
    chat_template: str = Field(
        "", description="file with a chat template (Jinja) for the model; empty = its own, or ChatML where it has none"
    )


class SFT(Offline):
    """Next-token cross-entropy on trees; also what pretraining is."""

    name = "sft"
    shown = ("loss", "eval/loss")

    def __init__(self, policy: PreTrainedModel, data: FixedData, *, dropout: float = 0.0) -> None:
        super().__init__(data)
        self.policy, self.drops = policy, bool(dropout) or drops(policy)
        if dropout:
            add_dropout(policy, dropout)

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"policy": self.policy}

    def update(self, optimizer_steps: Iterable[OptimizerStep], learner: Learner, where: str) -> None:
        """The usual one; what it drops depends on the seed and ``where`` alone, so that a resumed run drops the same."""
        if self.drops:
            torch.manual_seed(seed_for(self.data.seed, "dropout", where))
        super().update(optimizer_steps, learner, where)

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        tokens = score_tokens(self.policy, batch.trees)
        likeliest = {f"top{k}": total((tokens.rank < k).float()) for k in (1, 5)}
        return -tokens.logprobs.sum() / batch.divisor, {"loss": total(-tokens.logprobs), **likeliest}


def build(config: Config, rewards: Rewards) -> Trained:
    """Reads demonstrations and the start model."""
    need(config, "model", "data")
    refuse_missing_models(config)
    read = [read_data("sft", config, path, "demonstration") for path in (config.data, config.eval_data) if path]
    policy = load_policy(config.model, quantize=config.lora.quantize)
    tokenizer, renderer = start_tokenizer(config.model, policy, chat_template=config.chat_template, grow=not config.lora.rank)
    adapt("sft", config, policy)
    limit = length_limit(config, policy)
    made = [demonstration_trees(records, renderer, limit) for records in read]
    data = fixed_data("sft", config, made[0], made[1] if config.eval_data else None)
    return Trained(SFT(policy, data, dropout=config.dropout), len(data.trees), {"model": (policy, tokenizer)})
