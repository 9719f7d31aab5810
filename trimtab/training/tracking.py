"""The option ``track``: the metrics of ``metrics.jsonl`` sent on to TensorBoard, trackio or Weights & Biases, step by step.

The files in the run folder stay what everything here reads. A run that is taken up again goes on in the same place: TensorBoard drops
what was written after the checkpoint, the other two are asked for the run by its name.
"""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from trimtab.common.errors import UserError

TrackerName = Literal["none", "tensorboard", "trackio", "wandb"]
PROJECT = "trimtab"


class Tracker(Protocol):
    """Where metrics go beside the run folder."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Nowhere:
    """No tracker."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class TensorBoard:
    """Event files in the run folder: ``tensorboard --logdir runs``."""

    def __init__(self, folder: Path, step: int) -> None:
        made = _imported("torch.utils.tensorboard", "tensorboard")
        self._writer = made.SummaryWriter(log_dir=str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A scalar for each value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


class WandB:
    """wandb, or trackio, which speaks its language and keeps everything on this machine."""

    def __init__(self, name: str, folder: Path, step: int, config: Mapping[str, Any]) -> None:
        self._client, called = _imported(name, name), "-".join(folder.resolve().parts[-2:])
        # one name for a folder: wandb knows runs by id, trackio by name
        words = {"id": called, "dir": str(folder)} if name == "wandb" else {}
        self._client.init(project=PROJECT, name=called, config=dict(config), resume="allow" if step else "never", **words)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """All values of a step at once."""
        self._client.log(dict(values), step=step)

    def close(self) -> None:
        """Waits until everything is sent."""
        self._client.finish()


@contextmanager
def tracking(name: TrackerName, folder: Path, step: int, config: Mapping[str, Any]) -> Iterator[Tracker]:
    """The tracker called ``name`` for the run in ``folder``, of which ``step`` steps are done.

    Raises:
        UserError: it is not installed.
    """
    tracker: Tracker
    if name == "none":
        tracker = Nowhere()
    elif name == "tensorboard":
        tracker = TensorBoard(folder, step)
    else:
        tracker = WandB(name, folder, step, config)
    try:
        yield tracker
    finally:
        tracker.close()


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"track={package} needs {package} ({error}): pip install 'trimtab[track]', or leave track= out") from None
