"""What methods on fixed data share: which trees a step uses, how they are packed, held-out evaluation."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.records import pairs_of
from trimtab.training.method import Method, MicroBatch, OptimizerStep, State
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
        return [micro_batches([data.trees[i] for i in chosen], data.budget, self.size)]

    @torch.no_grad()
    def evaluate(self, state: State) -> dict[str, float]:
        """``eval/NAME`` of every metric of the loss, over all held-out trees."""
        totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        device = next(p for module in self.modules.values() for p in module.parameters()).device
        held_out = self.data.held_out[: self.data.eval_limit or None]
        for batch in micro_batches(held_out, self.data.budget, self.size) if held_out else ():
            for name, (total, count) in self.loss(batch.to(device))[1].items():
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
    where = batch.ids.device
    return (
        torch.tensor(better, dtype=torch.long, device=where),
        torch.tensor(worse, dtype=torch.long, device=where),
        torch.tensor(ranking, dtype=torch.long, device=where),
    )


def tree_pairs(tree: PromptTree) -> list[tuple[int, int]]:
    """(better, worse) for every pair of ranked completions of one tree that is not a tie."""
    return pairs_of(tree.ranks or ())


def total(values: Tensor, count: float | None = None) -> tuple[float, float]:
    """A metric's (sum, count) from one value per element."""
    return float(values.detach().sum()), float(values.numel() if count is None else count)
