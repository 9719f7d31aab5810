"""The one loop. It knows no method: a method gives batches and a loss, and may replace the update."""

import contextlib
import math
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType

import torch
from torch import nn

from trimtab.common.errors import Interrupted, RunFailed, UserError
from trimtab.common.precision import products
from trimtab.common.progress import Progress
from trimtab.training import checkpoint
from trimtab.training.compile import compile_layers, compiles
from trimtab.training.folder import RunFolder
from trimtab.training.method import Method, Metrics, MicroBatch, OptimizerStep, State, tree_names
from trimtab.training.optimizer import adamw, learning_rate, trained_parameters
from trimtab.training.settings import TrainingSettings
from trimtab.training.tracking import tracking

LOWER = "nothing was stepped on it; start again with a lower lr and another out=DIR"


class Learner:
    """The method's parameters and their optimizer. ``descend`` is the update of every method that does not bring its own."""

    def __init__(self, method: Method, settings: TrainingSettings) -> None:
        self.method, self.settings = method, settings
        self.parameters = trained_parameters(method.modules)
        self.device = next(iter(self.parameters.values())).device
        if compiles(settings.compile, self.device):
            must = settings.compile == "true"
            compile_layers(method.modules, must=must, checkpointing=settings.checkpointing)
            compile_layers(method.frozen, must=must)
        elif settings.checkpointing:
            keep_few_activations(method.modules)
        self.optimizer = adamw(self.parameters.values(), settings)
        self.meter: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def descend(self, optimizer_steps: Iterable[OptimizerStep], where: str) -> None:
        """For each optimizer step: accumulate its micro-batches' gradients, check, clip, step."""
        for micro_batches in optimizer_steps:
            seen: Metrics = {}
            for batch in micro_batches:
                loss, metrics = self.backward(batch)
                if not math.isfinite(loss):
                    raise RunFailed(f"{where}: the loss is {loss} on trees {tree_names([batch])}; {LOWER}")
                _add(seen, metrics)
            norm = self.clip()
            if not math.isfinite(norm):
                raise RunFailed(f"{where}: the gradient is {norm} on trees {tree_names(micro_batches)}; {LOWER}")
            self.count({**seen, "grad_norm": (norm, 1.0)})
            if not self.method.before_step(seen):
                self.optimizer.zero_grad()
                break
            self.optimizer.step()
            self.optimizer.zero_grad()

    def clip(self) -> float:
        """Scales gradients down to ``max_grad_norm`` where they are longer (otherwise a pass over all of them is saved); returns how long
        they were."""
        found = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(found)
        length = float(norm)
        if length > self.settings.max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.settings.max_grad_norm, norm)
        return length

    def backward(self, batch: MicroBatch) -> tuple[float, Metrics]:
        """Adds one micro-batch's gradients; returns its loss and metrics."""
        with products(self.settings.dtype):
            loss, metrics = self.method.loss(batch.to(self.device))
        loss.backward()
        return float(loss.detach()), metrics

    def count(self, metrics: Metrics) -> None:
        for name, (total, count) in metrics.items():
            self.meter[name][0] += total
            self.meter[name][1] += count

    def evaluate(self, state: State) -> dict[str, float]:
        """The method's held-out metrics, on the numeric path of its training."""
        with products(self.settings.dtype):
            return self.method.evaluate(state)

    def read_meter(self) -> dict[str, float]:
        """Means since the last call."""
        out = {name: total / count for name, (total, count) in self.meter.items() if count}
        self.meter.clear()
        return out


def train(method: Method, settings: TrainingSettings, folder: RunFolder, steps: int) -> None:
    """Runs ``method`` for ``steps`` loop steps, or takes it up at the newest checkpoint in ``folder``.

    Raises:
        RunFailed: a loss or gradient is not finite. The newest checkpoint is left.
        UserError: Ctrl-C; a full disk.
    """
    learner = Learner(method, settings)
    state = State(0, steps)
    checkpoints = folder.path / "checkpoints"
    save_every = settings.save_every or max(1, math.ceil(steps / 5))
    eval_every = settings.eval_every or max(1, math.ceil(steps / 5))
    first: dict[str, float] = {}
    found = checkpoint.latest(checkpoints)
    if found is not None:
        kept = checkpoint.load(found, learner.parameters, learner.optimizer)
        state.step = kept["step"]
        method.load_state_dict(kept["method"])
        folder.truncate(kept["offsets"])
    else:
        folder.truncate({})
        first = learner.evaluate(state)
        folder.log(0, first)

    def save() -> None:
        kept = {"method": method.state_dict(), "offsets": folder.offsets()}
        checkpoint.save(checkpoints, state.step, learner.parameters, learner.optimizer, kept)

    tracked = tracking(settings.track, folder.path, folder.run_id, state.step, settings.model_dump())
    with tracked as tracker, interruptible() as ctrl_c, Progress(method.name, steps, done=state.step) as bar:
        if first:
            tracker.log(0, first)
        while state.step < steps:
            began = time.monotonic()
            lr = learning_rate(settings, state.step, steps)
            learner.set_lr(lr)
            method.update(method.batches(state), learner, f"step {state.step + 1}")
            state.step += 1
            values = learner.read_meter() | ({"lr": lr} if method.steps_by_lr else {}) | method.after(state)
            if state.step % eval_every == 0 or state.step == steps:
                values |= learner.evaluate(state)
            folder.log(state.step, values)
            tracker.log(state.step, values)
            folder.log_samples(state.step, method.samples())
            folder.log(state.step, {"seconds": time.monotonic() - began}, "timing.jsonl")
            bar.advance(1, **{name: values[name] for name in method.shown if name in values})
            if ctrl_c.pressed or state.step % save_every == 0 or state.step == steps:
                save()
            if ctrl_c.pressed:
                raise Interrupted(
                    f"{folder.path}: interrupted after step {state.step} of {steps}; the same command goes on from there"
                )


def keep_few_activations(modules: Mapping[str, nn.Module]) -> None:
    """Switches activation checkpointing on in Hugging Face models (Chen et al. 2016): a layer keeps its input alone.

    Raises:
        UserError: a module cannot do it.
    """
    for name, module in modules.items():
        if getattr(module, "bare_head", False):  # it keeps nothing
            continue
        if not getattr(module, "supports_gradient_checkpointing", False):
            raise UserError(f"checkpointing=true: {type(module).__name__} ({name}) cannot compute its activations again; leave it out")
        module.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        module.train()  # layers recompute in training mode only; every dropout is 0 from the start


class CtrlC:
    """Whether Ctrl-C was pressed: the first lets the current step finish, a second one stops at once."""

    def __init__(self) -> None:
        self.pressed = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        print("\nthis step is finished and saved first; Ctrl-C again stops at once, back to the last checkpoint", file=sys.stderr)


@contextlib.contextmanager
def interruptible() -> Iterator[CtrlC]:
    """Handles Ctrl-C inside the block; off the main thread, where nobody presses it, nothing is handled."""
    ctrl_c = CtrlC()
    if threading.current_thread() is not threading.main_thread():
        yield ctrl_c
        return
    before = signal.signal(signal.SIGINT, ctrl_c)
    try:
        yield ctrl_c
    finally:
        signal.signal(signal.SIGINT, before)


def _add(into: Metrics, metrics: Metrics) -> None:
    for name, (total, count) in metrics.items():
        before = into.get(name, (0.0, 0.0))
        into[name] = (before[0] + total, before[1] + count)
