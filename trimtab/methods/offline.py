"""What methods on fixed data share: which trees a step uses, how they are packed, held-out evaluation."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trimtab.training.method import Method, Metrics, MicroBatch, OptimizerStep, State
from trimtab.trees import PromptTree, TreeBatch, pack_by_budget, step_indices

# tree -> what it counts in the divisor: trained tokens (SFT), 1 (a ranking), its pairs (DPO)
Size = Callable[[PromptTree], float]


def trained_tokens(tree: PromptTree) -> float:
    """The tokens of ``tree`` that are scored."""
    return sum(map(len, tree.completions)) if tree.trained is None else sum(map(sum, tree.trained))


def micro_batches(trees: Sequence[PromptTree], budget: int, size: Size) -> list[MicroBatch]:
    """One optimizer step's micro-batches; the divisor is counted over all of them."""
    divisor = max(1.0, sum(map(size, trees)))
    return [MicroBatch(TreeBatch.pack(group), divisor) for group in pack_by_budget(trees, budget)]


class Offline(Method):
    """A method whose step is one optimizer step on ``batch_size`` trees of a fixed list, epoch after epoch."""

    size: Size = staticmethod(trained_tokens)

    def __init__(
        self, trees: Sequence[PromptTree], held_out: Sequence[PromptTree], *, batch_size: int, budget: int, seed: int
    ) -> None:
        self.trees, self.held_out = trees, held_out
        self.batch_size, self.budget, self.seed = batch_size, budget, seed

    def batches(self, state: State) -> Sequence[OptimizerStep]:
        chosen = step_indices(len(self.trees), self.batch_size, self.seed, state.step)
        return [micro_batches([self.trees[i] for i in chosen], self.budget, self.size)]

    @torch.no_grad()
    def evaluate(self, state: State) -> dict[str, float]:
        """``eval/NAME`` of every metric of the loss, over all held-out trees."""
        totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for batch in micro_batches(self.held_out, self.budget, self.size) if self.held_out else ():
            for name, (total, count) in self.loss(batch)[1].items():
                totals[name][0] += total
                totals[name][1] += count
        return {f"eval/{name}": total / count for name, (total, count) in totals.items() if count}


def ranked_pairs(batch: TreeBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Every comparable pair of every ranking: better (P,) and worse (P,) as indices into C, and the ranking (P,) into N."""
    better, worse, ranking = [], [], []
    first = 0
    for n, tree in enumerate(batch.trees):
        for a, b in tree_pairs(tree):
            better.append(first + a)
            worse.append(first + b)
            ranking.append(n)
        first += len(tree.completions)
    return (
        torch.tensor(better, dtype=torch.long),
        torch.tensor(worse, dtype=torch.long),
        torch.tensor(ranking, dtype=torch.long),
    )


def tree_pairs(tree: PromptTree) -> list[tuple[int, int]]:
    """(better, worse) for every pair of ranked completions of one tree that is not a tie."""
    ranks = tree.ranks or ()
    out = []
    for i, a in enumerate(ranks):
        for j in range(i + 1, len(ranks)):
            b = ranks[j]
            if a is not None and b is not None and a != b:
                out.append((i, j) if a < b else (j, i))
    return out


def total(values: Tensor, count: float | None = None) -> tuple[float, float]:
    """A metric's (sum, count) from one value per element."""
    return float(values.detach().sum()), float(values.numel() if count is None else count)


__all__ = ["Metrics", "Offline", "micro_batches", "ranked_pairs", "total", "trained_tokens", "tree_pairs"]
