"""Supervised finetuning: pretraining's cross-entropy, on the tokens that a demonstration's assistant wrote.

L = -(1 / #trained tokens) * sum log pi(y_t | x, y_<t), the end token included. Ouyang et al. 2022, step 1. With ``text_weight`` the tokens
that somebody else wrote, the prompt's, are learnt too, as text: L_task + lambda * L_text, GPT-1's objective (Radford et al. 2018, equation
5), which keeps the language model while it learns a task.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from trimtab.common.hf import PreTrainedModel
from trimtab.common.rng import seed_for
from trimtab.data.encode import demonstration_trees
from trimtab.losses.likelihood import cross_entropy, task_and_text_loss
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
from trimtab.trees import PromptTree, TreeBatch, pack_by_budget


class Config(DataSettings):
    """Settings of ``trimtab sft``."""

    lr: float = Field(2e-5, gt=0, description=LR_SENTENCE)
    dropout: float = Field(0.0, ge=0, lt=1, description=DROPOUT_SENTENCE)
    text_weight: float = Field(0.0, ge=0, description="lambda of GPT-1's objective: weight of the loss on the prompt's tokens; 0 = none")
    chat_template: str = Field(
        "", description="file with a chat template (Jinja) for the model; empty = its own, or ChatML where it has none"
    )


class SFT(Offline):
    """Next-token cross-entropy on trees; also what pretraining is."""

    name = "sft"
    shown = ("loss", "eval/loss")

    def __init__(self, policy: PreTrainedModel, data: FixedData, *, dropout: float = 0.0, text_weight: float = 0.0) -> None:
        super().__init__(data)
        self.text_weight = text_weight
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

    def split(self, trees: Sequence[PromptTree]) -> list[MicroBatch]:
        """The usual micro-batches; with ``text_weight`` all tokens but a tree's first are scored, and ``task`` (S,) says whose they are."""
        if not self.text_weight:
            return super().split(trees)
        batches = []
        for group in pack_by_budget(trees, self.data.budget):
            opened = [whole(tree) for tree in group]
            task = torch.tensor([flag for _, flags in opened for flag in flags])
            batches.append(MicroBatch(TreeBatch.pack([tree for tree, _ in opened]), 1.0, {"task": task}))
        of_task, of_text = (sum(float(b.trees.token_weights[b.extra["task"] == kind].sum()) for b in batches) for kind in (True, False))
        counts = {"task_tokens": torch.tensor(of_task), "text_tokens": torch.tensor(of_text)}
        return [replace(batch, extra={**batch.extra, **counts}) for batch in batches]

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        tokens, weights = score_tokens(self.policy, batch.trees), batch.trees.token_weights
        if batch.extra:
            task = batch.extra["task"]
            counts = {name: float(batch.extra[name]) for name in ("task_tokens", "text_tokens")}
            losses = task_and_text_loss(tokens.logprobs, task, text_weight=self.text_weight, **counts)
            likeliest = {f"top{k}": total((tokens.rank[task] < k).float(), weights[task]) for k in (1, 5)}
            of_text = total(-tokens.logprobs[~task], weights[~task])
            return (weights * losses).sum(), {"loss": total(-tokens.logprobs[task], weights[task]), "text_loss": of_text, **likeliest}
        likeliest = {f"top{k}": total((tokens.rank < k).float(), weights) for k in (1, 5)}
        loss = cross_entropy(tokens.logprobs, weights, tokens=batch.divisor)
        return loss, {"loss": total(-tokens.logprobs, weights), **likeliest}


def whole(tree: PromptTree) -> tuple[PromptTree, list[bool]]:
    """A demonstration's tree whose completion begins behind the first token, all of it scored, and which of its tokens are the task's."""
    (answer,) = tree.completions
    trained = tree.trained[0] if tree.trained is not None else (True,) * len(answer)
    opened = PromptTree(tree.prompt[:1], ((*tree.prompt[1:], *answer),), key=tree.key, weight=tree.weight)
    return opened, [False] * (len(tree.prompt) - 1) + list(trained)


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
    method = SFT(policy, data, dropout=config.dropout, text_weight=config.text_weight)
    return Trained(method, len(data.trees), {"model": (policy, tokenizer)})
