"""KTO: from answers that are each called desirable or not, without pairs; losses weigh unlike gains, as people's do.

L = mean over labelled answers of w_D * (1 - sigma(beta * (l - z))) where desirable, w_U * (1 - sigma(beta * (z - l))) where not, with
l = log pi(y|x)/pi_ref(y|x). Ethayarajh et al. 2024, equation 7. Of a ranking the best answers are desirable and the others not; a file of
single answers with ``label`` true or false is read too.

z, the point that gains are reckoned from, is the paper's estimate of KL(pi || pi_ref): max(0, mean of log pi(y'|x)/pi_ref(y'|x)), where y'
is an answer to another prompt. Here each prompt of an optimizer step is given one labelled answer of the next one that differs, in a
forward pass of its own before the step; z is the mean over the whole step, so how trees are packed changes nothing. (In a tree of one's
own prompt there is no mismatch: siblings answer the same question.)
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedModel
from trimtab.common.precision import products
from trimtab.losses.preference import kto_loss
from trimtab.methods.build import (
    LR_SENTENCE,
    Rewards,
    Trained,
    length_limit,
    need,
    read_data,
    start_pair,
)
from trimtab.methods.offline import FixedData, Offline, pair_metrics, ranked_pairs, total, tree_pairs
from trimtab.methods.rankings import RankingSettings, ranked_data, read_rankings
from trimtab.models.score import score_tokens
from trimtab.records import Comparison, Completion, Demonstration, Record, parse_weight
from trimtab.training.method import Metrics, MicroBatch
from trimtab.trees import PromptTree, TreeBatch, pack_by_budget


class Config(RankingSettings):
    """Settings of ``trimtab kto``."""

    lr: float = Field(1e-6, gt=0, description=LR_SENTENCE)
    reference: str = Field("", description="reference model; empty = the start model")
    beta: float = Field(0.1, gt=0, description="strength of the pull towards the reference")
    desirable_weight: float = Field(1.0, ge=0, description="weight of each desirable answer; the fewer there are, the larger")
    undesirable_weight: float = Field(1.0, ge=0, description="weight of each undesirable answer")


class KTO(Offline):
    """The KTO loss on all labelled answers of each tree. ``longest`` is the longest prompt and answer that the models can take."""

    name = "kto"
    shown = ("loss", "eval/accuracy")
    size = staticmethod(lambda tree: float(sum(label is not None for label in labels_of(tree))))

    def __init__(
        self, policy: PreTrainedModel, reference: PreTrainedModel, data: FixedData, *, beta: float, longest: int,
        desirable_weight: float = 1.0, undesirable_weight: float = 1.0, dtype: str = "float32",
    ) -> None:  # fmt: skip
        super().__init__(data)
        self.policy, self.reference, self.beta = policy, reference.requires_grad_(False), beta
        self.weights = {"desirable_weight": desirable_weight, "undesirable_weight": undesirable_weight}
        self.longest, self.dtype = longest, dtype

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"policy": self.policy}

    @property
    def frozen(self) -> dict[str, nn.Module]:
        return {"reference": self.reference}

    def split(self, trees: Sequence[PromptTree]) -> list[MicroBatch]:
        """The usual micro-batches, each with the step's baseline."""
        extra = {"baseline": torch.tensor(self.baseline(trees))}
        return [replace(batch, extra=extra) for batch in super().split(trees)]

    @torch.no_grad()
    def baseline(self, trees: Sequence[PromptTree]) -> float:
        """max(0, mean log-ratio of mismatched answers), nats per answer; 0 where no two prompts differ."""
        strangers = mismatched(trees, self.longest)
        found = 0.0
        with products(self.dtype):
            for group in pack_by_budget(strangers, self.data.budget):
                policy, reference = self.logprobs(TreeBatch.pack(group))
                found += float((policy - reference).sum())
        return max(0.0, found / max(1, len(strangers)))

    def logprobs(self, batch: TreeBatch) -> tuple[Tensor, Tensor]:
        """(C,) log P(y|x) of policy and reference, on one numeric path."""
        policy = batch.sum_by_completion(score_tokens(self.policy, batch).logprobs)
        with torch.no_grad():
            return policy, batch.sum_by_completion(score_tokens(self.reference, batch).logprobs)

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        policy, reference = self.logprobs(batch.trees)
        labels = [label for tree in batch.trees.trees for label in labels_of(tree)]
        known = torch.tensor([i for i, label in enumerate(labels) if label is not None], dtype=torch.long, device=policy.device)
        desirable = torch.tensor([label for label in labels if label is not None], dtype=torch.bool, device=policy.device)
        baseline = batch.extra["baseline"]
        losses, rewards = kto_loss(policy[known], reference[known], desirable, baseline, beta=self.beta, **self.weights)
        better, worse, ranking = ranked_pairs(batch.trees)
        of_tree = batch.trees.weights
        weights = of_tree[batch.trees.tree_of]
        everywhere = (self.beta * (policy - reference)).detach()
        good, bad = known[desirable], known[~desirable]
        metrics = {
            "loss": total(losses, weights[known]), **pair_metrics(everywhere[better], everywhere[worse], of_tree[ranking]),
            "kl/baseline": (float(baseline), 1.0),
            "reward_chosen": total(everywhere[good], weights[good]), "reward_rejected": total(everywhere[bad], weights[bad]),
            "logprob_chosen": total(policy[good], weights[good]), "logprob_rejected": total(policy[bad], weights[bad]),
        }  # fmt: skip
        return (weights[known] * losses).sum() / batch.divisor, metrics


def labels_of(tree: PromptTree) -> list[bool | None]:
    """Of each completion whether it is desirable: ranked best; None if it is unranked, as all are of a ranking that prefers none. An
    answer on its own is desirable with rank 1."""
    ranks = tree.ranks or (None,) * len(tree.completions)
    if len(ranks) > 1 and not tree_pairs(tree):
        return [None] * len(ranks)
    best = min((rank for rank in ranks if rank is not None), default=1) if len(ranks) > 1 else 1
    return [None if rank is None else rank == best for rank in ranks]


def is_labelled(tree: PromptTree) -> bool:
    """Whether one of the completions is known to be desirable or not."""
    return any(label is not None for label in labels_of(tree))


def mismatched(trees: Sequence[PromptTree], longest: int) -> list[PromptTree]:
    """Each tree's prompt with one labelled answer of the next tree (around the end) whose prompt is another, where one is short enough.

    The i-th tree is given the i-th of those answers, around the end, so that good and bad ones take turns.
    """
    answers = [[c for c, label in zip(t.completions, labels_of(t), strict=True) if label is not None] for t in trees]
    out = []
    for i, tree in enumerate(trees):
        for step in range(1, len(trees)):
            j = (i + step) % len(trees)
            turned = [answers[j][(i + k) % len(answers[j])] for k in range(len(answers[j]))]
            fits = [answer for answer in turned if len(tree.prompt) + len(answer) <= longest]
            if trees[j].prompt != tree.prompt and fits:
                out.append(tree.with_completions(fits[:1]))
                break
    return out


def judged(records: Iterable[Record], path: str, models: Sequence[str] = ()) -> list[Comparison]:
    """Rankings, and single answers with a label as rankings of one: rank 1 if it is good, 2 if not. ``path`` is their file.

    Raises:
        UserError: a record is neither.
    """
    return [_judged(record, path, models) for record in records]


def _judged(record: Record, path: str, models: Sequence[str]) -> Comparison:
    if isinstance(record, Comparison):
        # one that prefers none of the answers says nothing, also where a single one is left of it: that is no label
        prefers = (record.among(models) if models else record).pairs()
        return record if prefers else replace(record, ranks=(None,) * len(record.ranks))
    label = record.prompt.extra.get("label") if isinstance(record, Demonstration) else None
    if not isinstance(record, Demonstration) or not isinstance(label, bool):
        prompt = record.prompt if isinstance(record, Demonstration) else record
        raise UserError(f"{path}: record {prompt.id!r} has neither 'completions' with 'ranks' nor 'completion' with 'label' true or false")
    weight = parse_weight(record.prompt.extra, f"{path}: record {record.prompt.id!r}")
    return Comparison(record.prompt, (Completion(record.completion),), (1 if label else 2,), weight=weight)


def balance(trees: Iterable[PromptTree], config: Config) -> str:
    """How many answers are desirable and how many are not, and where the weights leave one side far the heavier, what would not.

    The paper has desirable_weight times the ones over undesirable_weight times the others between 1 and 4/3 (section 4.2, equation 8);
    where the others outweigh, pushing them down is most of the loss, and all answers' likelihoods fall.
    """
    labels = Counter(label for tree in trees for label in labels_of(tree))
    good, bad = labels[True], labels[False]
    said = f"{good:,} desirable and {bad:,} undesirable answers"
    good_weight, bad_weight = good * config.desirable_weight, bad * config.undesirable_weight
    if not good_weight or not bad_weight or 0.5 <= good_weight / bad_weight <= 2:
        return said
    heavier, mend = ("desirable", f"undesirable_weight={good_weight / bad:.2g}")
    if bad_weight > good_weight:
        heavier, mend = "undesirable", f"desirable_weight={bad_weight / good:.2g}"
    return f"{said}; by their weights the {heavier} ones are most of the loss, {mend} would balance them"


def build(config: Config, rewards: Rewards) -> Trained:
    """Reads rankings or labelled answers, the start model and the reference."""
    need(config, "model", "data")
    if config.batch_size < 2:
        raise UserError("batch_size=1: KTO measures its baseline on answers to another prompt of the same step; write 2 or more")
    if not config.desirable_weight and not config.undesirable_weight:
        raise UserError("desirable_weight=0 undesirable_weight=0: nothing is left to learn from; write a weight above 0 for one of them")

    def read(path: str) -> list[Comparison]:
        return judged(read_data("kto", config, path, None), path, config.models)

    rankings = read_rankings("kto", config, keep=is_labelled, read=read)
    policy, reference, tokenizer, renderer = start_pair("kto", config, config.reference)
    limit = length_limit(config, policy)
    data = ranked_data("kto", config, rankings, renderer, limit, keep=is_labelled)
    print(f"kto: {balance(data.trees, config)}")
    options = config.model_dump(include={"beta", "desirable_weight", "undesirable_weight", "dtype"})
    return Trained(KTO(policy, reference, data, longest=limit, **options), len(data.trees), {"model": (policy, tokenizer)})
