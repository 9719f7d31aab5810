"""Small runs for the tests of the loop: an SFT of ten trees, killed or interrupted where one wants it."""

import signal
from pathlib import Path
from typing import Any

from tiny_models import FAMILIES, pair, random_trees, read_lines
from torch import Tensor

from trimtab.methods.offline import FixedData, Offline
from trimtab.methods.sft import SFT
from trimtab.training.folder import RunFolder
from trimtab.training.loop import train
from trimtab.training.method import Method, Metrics, MicroBatch, State
from trimtab.training.settings import TrainingSettings
from trimtab.trees import PromptTree

STEPS = 6
SETTINGS = TrainingSettings(
    lr=1e-2, save_every=2, eval_every=3, micro_batch_tokens=60, weight_decay=0.1, max_grad_norm=0.5, dtype="float32"
)


class Killed(BaseException):
    """What kill -9 is to the code: no handler of ours runs."""


def ranked(tree: PromptTree) -> PromptTree:
    ranks = tuple(1 + (i * 2) % 3 for i in range(len(tree.completions)))  # 1 3 2: every pair counts
    return PromptTree(tree.prompt, tree.completions, key=tree.key, ranks=ranks)


def trees(count: int, seed: int) -> list[PromptTree]:
    return [ranked(t) for t in random_trees([(4 + i % 5, (3 + i % 4, 6, 2 + i % 3)) for i in range(count)], seed)]


def offline(kind: Any, *models: Any, budget: int = SETTINGS.micro_batch_tokens, **options: Any) -> Offline:
    data = FixedData(trees(10, 0), trees(4, 1), batch_size=4, budget=budget, seed=5)
    made: Offline = kind(*models, data, **options)
    return made


def sft(budget: int = SETTINGS.micro_batch_tokens) -> Method:
    return offline(SFT, pair(FAMILIES["llama"]())[0], budget=budget)


def run(method: Method, path: Path, settings: TrainingSettings = SETTINGS, steps: int = STEPS) -> dict[str, bytes]:
    """Trains in ``path`` and gives everything that must not depend on stops: final weights, metrics, samples."""
    folder = RunFolder(path)
    folder.begin(method.name, settings.model_dump())
    try:
        train(method, settings, folder, steps)
    finally:
        folder.let_go()  # as the system does for a process that ends
    return outcome(method, path)


def outcome(method: Method, path: Path) -> dict[str, bytes]:
    weights = {
        f"{m}.{n}": p.detach().numpy().tobytes()
        for m, module in method.modules.items()
        for n, p in module.named_parameters()
    }
    files = {name: (path / name).read_bytes() for name in ("metrics.jsonl", "samples.jsonl") if (path / name).exists()}
    return {**weights, **files}


def metrics(path: Path) -> dict[tuple[int, str], float]:
    return {(row["step"], row["name"]): row["value"] for row in read_lines(path / "metrics.jsonl")}


def killing(method: Method, at: int) -> Method:
    """``method`` whose ``at``-th loss call (from 0) is the process's last."""
    calls = iter(range(10_000))
    loss = method.loss

    def once(batch: MicroBatch) -> tuple[Tensor, Metrics]:
        if next(calls) == at:
            raise Killed
        return loss(batch)

    method.loss = once  # type: ignore[method-assign]
    return method


def counting(method: Method, calls: list[int]) -> Method:
    """``method`` that notes the trees of each loss call."""
    loss = method.loss

    def counted(batch: MicroBatch) -> tuple[Tensor, Metrics]:
        calls.append(len(batch.trees.trees))
        return loss(batch)

    method.loss = counted  # type: ignore[method-assign]
    return method


def pressing(method: Method, step: int, times: int = 1) -> Method:
    """``method`` in whose loop step ``step`` (from 0) Ctrl-C is pressed."""
    batches = method.batches

    def press(state: State) -> Any:
        if state.step == step:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return batches(state)

    method.batches = press  # type: ignore[method-assign]
    return method
