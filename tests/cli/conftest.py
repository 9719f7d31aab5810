"""A tiny base model with its own tokenizer and the first files of the village, made once for all tests of the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trimtab.cli import main
from trimtab.data.files import write_records
from trimtab.village.demonstrations import demonstrations
from trimtab.village.prompts import prompts
from trimtab.village.text import documents

TINY = "hidden=32 layers=1 heads=2 context=256 vocabulary=700 batch_size=8 threads=1"


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``base/model``, ``world/*.jsonl`` (a few rows each) and ``text.txt``."""
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "world").mkdir()
    for split in ("train", "validation", "test"):
        write_records(folder / f"world/prompts.{split}.jsonl", prompts(split)[:6])
    write_records(folder / "world/demonstrations.jsonl", demonstrations("train", 24))
    (folder / "text.txt").write_text("\n\n".join(documents(0, 60)), encoding="utf-8")
    words = [f"data={folder}/text.txt", f"out={folder}/base", "steps=3", "held_out=2", *TINY.split()]
    assert main(["pretrain", *words]) == 0
    return folder


def trimtab(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "trimtab", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
