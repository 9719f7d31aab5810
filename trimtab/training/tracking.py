"""The option ``track``: the metrics of ``metrics.jsonl`` sent on to TensorBoard, trackio or Weights & Biases, step by step.

The files in the run folder stay what everything here reads. A run that is taken up again goes on in the same place: TensorBoard drops
what was written after the checkpoint, the other two are sent those steps once more.
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

    def close(self, failed: bool = False) -> None: ...


class Nothing:
    """No tracker."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def close(self, failed: bool = False) -> None:
        """Nothing."""


class TensorBoard:
    """Event files in the run folder: ``tensorboard --logdir runs``."""

    def __init__(self, folder: Path, step: int) -> None:
        self._writer = _imported("tensorboard").SummaryWriter(log_dir=str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A scalar for each value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, failed: bool = False) -> None:
        """Writes what is left."""
        self._writer.close()


class WandB:
    """wandb, or trackio, which speaks its language and keeps everything on this machine. ``run_id`` is the run's own, in ``run.json``: a
    folder that was deleted and begun again is another run."""

    def __init__(self, name: str, folder: Path, run_id: str, config: Mapping[str, Any]) -> None:
        self._client, self._wandb = _imported(name), name == "wandb"
        words = {"id": run_id, "dir": str(folder)} if self._wandb else {}
        self._client.init(project=PROJECT, name=run_id, config=dict(config), resume="allow", **words)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """All values of a step at once."""
        self._client.log(dict(values), step=step)

    def close(self, failed: bool = False) -> None:
        """Waits until everything is sent."""
        self._client.finish(**({"exit_code": 1} if failed and self._wandb else {}))


def require(name: TrackerName) -> None:
    """Refuses a tracker that is not installed, before anything is loaded.

    Raises:
        UserError: it is not.
    """
    if name != "none":
        _imported(name)


@contextmanager
def tracking(name: TrackerName, folder: Path, run_id: str, step: int, config: Mapping[str, Any]) -> Iterator[Tracker]:
    """The tracker called ``name`` for the run ``run_id`` in ``folder``, of which ``step`` steps are done.

    Raises:
        UserError: it is not installed.
    """
    tracker: Tracker
    if name == "none":
        tracker = Nothing()
    elif name == "tensorboard":
        tracker = TensorBoard(folder, step)
    else:
        tracker = WandB(name, folder, run_id, config)
    try:
        yield tracker
    except BaseException:
        tracker.close(failed=True)
        raise
    tracker.close()


def _imported(name: str) -> Any:
    try:
        return importlib.import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError as error:
        raise UserError(f"track={name} needs {name} ({error}): pip install 'trimtab[track]', or leave track= out") from None
