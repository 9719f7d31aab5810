"""The method that docs/architecture.md writes outside the package: copied out as it stands there, and run by a stranger's python."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import read_lines, save_tiny_policy, write_lines
from transformers import AutoModelForCausalLM

from trimtab.common.files import read_json
from trimtab.report import write_report

REPOSITORY = Path(__file__).resolve().parents[1]


def mine() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8"), re.DOTALL)
    return code


def python(place: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([sys.executable, "mine.py"], cwd=place, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine")
    save_tiny_policy(folder / "sft")
    answers = {"completions": [{"text": "the cat saw"}, {"text": "near the mill ."}, {"text": "a dog"}], "ranks": [2, 1, 1]}
    asked = [{"id": f"c{i}", "messages": [{"role": "user", "content": f"the dog {i}"}]} for i in range(8)]
    write_lines(folder / "rankings.jsonl", [{**row, **answers} for row in asked])
    (folder / "mine.py").write_text(mine())
    return folder


def test_it_trains_what_it_says_and_leaves_what_every_run_leaves(place: Path) -> None:
    """The loss falls, the mean margin goes to 1 nat and stays there; the folder, the model and the report are those of any method."""
    done = python(place)
    assert done.returncode == 0, done.stderr
    rows = {(row["step"], row["name"]): row["value"] for row in read_lines(place / "squared/metrics.jsonl")}
    assert rows[30, "loss"] < 0.1 * rows[1, "loss"] and rows[30, "margin"] == pytest.approx(1.0, abs=0.3)
    assert abs(rows[1, "margin"] - 1.0) > 1.0
    info = read_json(place / "squared/run.json")
    assert (info["verb"], info["status"], info["config"]["margin"]) == ("squared", "done", 1.0)
    AutoModelForCausalLM.from_pretrained(place / "squared/model")
    page = write_report(place / "squared").read_text(encoding="utf-8")
    assert "squared" in page and "Margin" in page
    assert "already done" in python(place).stdout


def test_a_mistake_is_told_as_the_command_line_tells_it(place: Path) -> None:
    (place / "rankings.jsonl").rename(place / "other.jsonl")
    (place / "mine.py").write_text(mine().replace('out="squared"', 'out="again"'))
    assert "UserError: rankings.jsonl: no such file" in python(place).stderr and not (place / "again").exists()
