"""What methods on fixed data share: which trees a step uses, how they are packed, held-out evaluation."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.common.hf import PreTrainedModel
from trimtab.models.score import score_tokens
from trimtab.records import pairs_of
from trimtab.training.method import Method, Metrics, MicroBatch, OptimizerStep, State
from trimtab.trees import PromptTree, TreeBatch, pack_by_budget, step_indices

# tree -> what it counts in the divisor beside its weight: trained tokens (SFT), 1 (a ranking), its pairs (DPO)
Size = Callable[[PromptTree], float]
# tree -> pairs of its completions
Pairs = Callable[[PromptTree], list[tuple[int, int]]]


def trained_tokens(tree: PromptTree) -> float:
    """The tokens of ``tree`` that are scored."""
    return sum(map(len, tree.completions)) if tree.trained is None else sum(map(sum, tree.trained))


def micro_batches(trees: Sequence[PromptTree], budget: int, size: Size) -> list[MicroBatch]:
    """One optimizer step's micro-batches; the divisor is the sum of weight * size over all of their trees."""
    divisor = sum(tree.weight * size(tree) for tree in trees) or 1.0
    return [MicroBatch(TreeBatch.pack(group), divisor) for group in pack_by_budget(trees, budget)]


@dataclass(frozen=True)
class FixedData:
    """What a method on fixed data is trained on, ``batch_size`` trees per optimizer step and ``budget`` tokens at once, and
    which trees are held out, the first ``eval_limit`` of them (0 = all) to be measured while training."""

    trees: Sequence[PromptTree]
    held_out: Sequence[PromptTree] = ()
    batch_size: int = 1
    budget: int = 8192
    seed: int = 0
    eval_limit: int = 0


class Offline(Method):
    """A method whose step is one optimizer step on ``batch_size`` trees of a fixed list, epoch after epoch."""

    size: Size = staticmethod(trained_tokens)

    def __init__(self, data: FixedData) -> None:
        self.data = data

    def batches(self, state: State) -> Sequence[OptimizerStep]:
        data = self.data
        chosen = step_indices(len(data.trees), data.batch_size, data.seed, state.step)
        return [self.split([data.trees[i] for i in chosen])]

    def split(self, trees: Sequence[PromptTree]) -> list[MicroBatch]:
        """One optimizer step's micro-batches (or all held-out trees')."""
        return micro_batches(trees, self.data.budget, self.size)

    @torch.no_grad()
    def evaluate(self, state: State) -> dict[str, float]:
        """``eval/NAME`` of every metric of the loss, over all held-out trees."""
        totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        device = next(p for module in self.modules.values() for p in module.parameters()).device
        held_out = self.data.held_out[: self.data.eval_limit or None]
        for batch in self.split(held_out) if held_out else ():
            for name, (total, count) in self.loss(batch.to(device))[1].items():
                totals[name][0] += total
                totals[name][1] += count
        return {f"eval/{name}": total / count for name, (total, count) in totals.items() if count}


class OnPairs(Offline):
    """A policy trained on all comparable pairs of each tree by its own log-probabilities, without a reference."""

    shown = ("loss", "accuracy", "eval/accuracy")
    size: Size = staticmethod(lambda tree: float(len(tree_pairs(tree))))

    def __init__(self, policy: PreTrainedModel, data: FixedData) -> None:
        super().__init__(data)
        self.policy = policy

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"policy": self.policy}

    def sequence_logprobs(self, batch: TreeBatch) -> tuple[Tensor, Tensor]:
        """(C,) log P(y|x) summed over each completion's tokens, and the same divided by their number."""
        logprobs = batch.sum_by_completion(score_tokens(self.policy, batch).logprobs)
        return logprobs, logprobs / batch.lengths


def pair_metrics(chosen: Tensor, rejected: Tensor, weights: Tensor) -> Metrics:
    """From the two scores of each pair how often the better answer's is higher (equal ones count half) and by how much. Three of (P,)."""
    right = (torch.sign(chosen - rejected) + 1) / 2
    return {"accuracy": total(right, weights), "margin": total(chosen - rejected, weights)}


def ranked_pairs(batch: TreeBatch, pairs: Pairs | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Every comparable pair of every ranking (or those that ``pairs`` finds), tree by tree: better (P,) and worse (P,) as indices into
    C, and the ranking (P,) into N."""
    better, worse, ranking = [], [], []
    first = 0
    for n, tree in enumerate(batch.trees):
        for a, b in (pairs or tree_pairs)(tree):
            better.append(first + a)
            worse.append(first + b)
            ranking.append(n)
        first += len(tree.completions)
    where = batch.ids.device
    return (
        torch.tensor(better, dtype=torch.long, device=where),
        torch.tensor(worse, dtype=torch.long, device=where),
        torch.tensor(ranking, dtype=torch.long, device=where),
    )


def tree_pairs(tree: PromptTree) -> list[tuple[int, int]]:
    """(better, worse) for every pair of ranked completions of one tree that is not a tie."""
    return pairs_of(tree.ranks or ())


def tournament_pairs(tree: PromptTree) -> list[tuple[int, int]]:
    """(winner, loser) of each match of a knock-out among the ranked completions: neighbours meet, winners meet, one without a neighbour
    waits. At most K - 1 pairs, and every completion but the winner loses once; where two were ranked alike there is no pair, and the
    first goes on.
    """
    ranks, pairs = tree.ranks or (), []
    left = [i for i, rank in enumerate(ranks) if rank is not None]
    while len(left) > 1:
        matches = [sorted(match, key=lambda i: ranks[i] or 0) for match in zip(left[::2], left[1::2], strict=False)]
        pairs += [(a, b) for a, b in matches if ranks[a] != ranks[b]]
        left = [winner for winner, _ in matches] + left[2 * len(matches) :]
    return pairs


def tree_ties(tree: PromptTree) -> list[tuple[int, int]]:
    """Every pair of completions of one tree that were ranked alike."""
    ranks = tree.ranks or ()
    return [(i, j) for i, rank in enumerate(ranks) for j in range(i + 1, len(ranks)) if rank is not None and rank == ranks[j]]


def best_answer(tree: PromptTree) -> int:
    """The first of the best-ranked completions of a tree that has ranks."""
    ranks = [rank for rank in tree.ranks or () if rank is not None]
    return (tree.ranks or ()).index(min(ranks))


def good_answers(
    batch: TreeBatch, ranking: Tensor, which: Callable[[PromptTree], int] = best_answer
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Of each ranking that has a pair (``ranking`` (P,) is ``ranked_pairs``'s), tree by tree: the answer that ``which`` names (B,) as index
    into C, the ranking's number of pairs (B,), and the ranking (B,) into N."""
    kept, pairs = ranking.unique_consecutive(return_counts=True)
    firsts = np.cumsum([0, *(len(tree.completions) for tree in batch.trees)])
    found = [int(firsts[n]) + which(batch.trees[n]) for n in kept.cpu().tolist()]
    return torch.tensor(found, dtype=torch.long, device=batch.ids.device), pairs, kept


def total(values: Tensor, weights: Tensor | None = None, *, count: float | None = None) -> tuple[float, float]:
    """A metric's (sum, count) from one value per element; with ``weights`` of their shape both are weighted."""
    if weights is not None:
        return float((weights * values.detach()).sum()), float(weights.sum())
    return float(values.detach().sum()), float(values.numel() if count is None else count)
