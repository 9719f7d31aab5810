"""What a method gives the loop."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trimtab.trees import TreeBatch

# name -> (sum, count): the loop divides the sums of all micro-batches by their counts.
Metrics = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class MicroBatch:
    """Trees that are computed at once, and what the loss needs beside them.

    ``divisor`` is counted over the whole optimizer step (all micro-batches), so that the split changes nothing.
    """

    trees: TreeBatch
    divisor: float
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> "MicroBatch":
        """The same with its tensors on ``device``."""
        return MicroBatch(self.trees.to(device), self.divisor, {name: t.to(device) for name, t in self.extra.items()})


@dataclass
class State:
    """Where the loop stands: ``step`` of ``steps`` are done."""

    step: int
    steps: int


# The micro-batches of one optimizer step.
OptimizerStep = Sequence[MicroBatch]


def tree_names(batches: Iterable[MicroBatch], most: int = 20) -> str:
    """Which trees were computed, by their keys: ``'a', 'b' and 7 more``."""
    keys = list(dict.fromkeys(tree.key for batch in batches for tree in batch.trees.trees))
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(map(repr, keys[:most])) + more


class Learner(Protocol):
    """The loop's half of an update: it accumulates gradients, checks them, clips them and steps the optimizer."""

    def descend(self, optimizer_steps: Iterable[OptimizerStep], where: str) -> None: ...


class Method:
    """A training method: where batches come from and which loss they get.

    One loop step calls ``batches`` once, then ``update``. Offline methods return one optimizer step; PPO samples, and returns
    one for each of its epochs and minibatches. Checkpoints lie between loop steps.
    """

    name: str
    shown: tuple[str, ...] = ("loss",)  # the metrics beside the progress bar
    steps_by_lr = True  # False: ``update`` has no use for the optimizer, and no learning rate is logged

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The trained modules by name; their weights and optimizer states are checkpointed."""
        raise NotImplementedError

    @property
    def frozen(self) -> dict[str, nn.Module]:
        """Modules that are computed and not trained, by name: references, reward models."""
        return {}

    def batches(self, state: State) -> Iterable[OptimizerStep]:
        """The optimizer steps of loop step ``state.step``: a pure function of the step, the weights and ``state_dict``."""
        raise NotImplementedError

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        """The micro-batch's share of the step's loss (already divided by ``batch.divisor``), and its metrics."""
        raise NotImplementedError

    def update(self, optimizer_steps: Iterable[OptimizerStep], learner: Learner, where: str) -> None:
        """Moves the weights. TRPO replaces this; everybody else descends."""
        learner.descend(optimizer_steps, where)

    def before_step(self, metrics: Metrics) -> bool:
        """Called when the gradients of one optimizer step are known; False stops this loop step's remaining updates."""
        return True

    def after(self, state: State) -> dict[str, float]:
        """Called after each loop step: controllers move here. Returns metrics to log as they are."""
        return {}

    def evaluate(self, state: State) -> dict[str, float]:
        """Metrics on held-out data."""
        return {}

    def samples(self) -> Sequence[Mapping[str, Any]]:
        """Rows for samples.jsonl that this loop step produced."""
        return ()

    def state_dict(self) -> dict[str, Any]:
        """Everything JSON-able that the next step depends on beside the weights."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what ``state_dict`` gave."""
