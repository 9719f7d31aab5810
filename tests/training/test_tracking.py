"""Trackers are told what metrics.jsonl is told, under one name however often the run is taken up, and one that is missing is named."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from test_loop import SETTINGS, Killed, killing, metrics, run, sft

from trimtab.common.errors import UserError
from trimtab.training.tracking import require, tracking


def imitation(calls: list[tuple[str, Any, dict[str, Any]]]) -> Any:
    """A client of wandb's kind that notes its calls."""

    def note(name: str) -> Any:
        return lambda *args, **words: calls.append((name, args[0] if args else None, words))

    return SimpleNamespace(init=note("init"), log=note("log"), finish=note("finish"))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_every_step_is_sent_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    calls: list[tuple[str, Any, dict[str, Any]]] = []
    monkeypatch.setitem(sys.modules, name, imitation(calls))
    settings = SETTINGS.model_copy(update={"track": name})
    run(sft(), tmp_path / "run", settings)
    sent = {(words["step"], key): value for what, values, words in calls if what == "log" for key, value in values.items()}
    assert sent == metrics(tmp_path / "run")
    assert [c[0] for c in calls][0] == "init" and [c[0] for c in calls][-1] == "finish"
    assert calls[0][2]["name"].startswith("run-") and calls[0][2]["resume"] == "allow" and calls[0][2]["config"]["seed"] == 0

    first = calls[0][2]["name"]
    calls.clear()
    for at in (4, 9):  # before the first checkpoint, and after it
        with pytest.raises(Killed):
            run(killing(sft(), at), tmp_path / "killed", settings)
    run(sft(), tmp_path / "killed", settings)
    began = [words for what, _, words in calls if what == "init"]
    assert len(began) == 3 and len({words["name"] for words in began}) == 1 and began[0]["name"] != first
    finished = [words for what, _, words in calls if what == "finish"]
    assert finished == ([{"exit_code": 1}] * 2 + [{}] if name == "wandb" else [{}] * 3)
    sent = {(words["step"], key): value for what, values, words in calls if what == "log" for key, value in values.items()}
    assert sent == metrics(tmp_path / "killed")


def test_tensorboard_writes_beside_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrote: list[tuple[Any, ...]] = []

    class SummaryWriter:
        def __init__(self, log_dir: str, purge_step: int | None) -> None:
            wrote.append((log_dir, purge_step))

        def add_scalar(self, *words: Any) -> None:
            wrote.append(words)

        def close(self) -> None:
            wrote.append(("closed",))

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with tracking("tensorboard", tmp_path, "run-1", 4, {}) as tracker:
        tracker.log(5, {"loss": 0.5})
    assert wrote == [(str(tmp_path / "tensorboard"), 5), ("loss", 0.5, 5), ("closed",)]


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    require("none")
    with pytest.raises(UserError, match=r"track=wandb needs wandb .*pip install 'trimtab\[track\]'"):
        require("wandb")
