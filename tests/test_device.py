"""Nothing stays on the CPU when models are elsewhere: the whole loop on a device that refuses to mix (away.py), in its own process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trimtab.common.device import here

TESTS = Path(__file__).resolve().parent


def test_every_method_runs_on_another_device_and_gives_the_same_numbers(tmp_path: Path) -> None:
    path = os.pathsep.join([str(TESTS), str(TESTS / "training"), str(TESTS.parent)])
    done = subprocess.run(
        [sys.executable, str(TESTS / "away_run.py"), str(tmp_path)], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    online = ["ppo", "ppo-penalty", "ppo-trunk", "rloo", "scst", "grpo", "bon", "trpo"]
    assert done.stdout.split() == ["sampling", "sft", "dpo", "reward", "kto", "slic", *online, "adapters"]


def test_models_go_to_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert here().type == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert here() == torch.device("cuda", 1)
