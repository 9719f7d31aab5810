"""The shipped recipes, run for real in their smallest form."""

import gzip
import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from trimtab.cli import main

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"real data is not at {SHARED}")
def test_english_runs_on_real_files(tmp_path: Path) -> None:
    with gzip.open(SHARED / "preferences/hh_harmless.jsonl.gz", "rt", encoding="utf-8") as lines:
        pairs = [line for _, line in zip(range(80), lines, strict=False)]
    (tmp_path / "train.jsonl").write_text("".join(pairs[:60]), encoding="utf-8")
    (tmp_path / "held_out.jsonl").write_text("".join(pairs[60:]), encoding="utf-8")
    words = [
        f"text={SHARED}/text/tinyshakespeare.txt", f"demonstrations={SHARED}/demonstrations/short_instructions.json",
        f"comparisons={tmp_path}/train.jsonl", f"held_out={tmp_path}/held_out.jsonl",
        f"prompts={SHARED}/demonstrations/short_instructions.json", "size=test",
    ]  # fmt: skip
    assert main(["run", "english", *words, "--out", str(tmp_path / "english")]) == 0
    for name in ("base", "sft", "dpo", "ppo"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "english" / name / "model")
    scorer = AutoModelForSequenceClassification.from_pretrained(tmp_path / "english/reward/model")
    assert scorer.num_labels == 1
    results = json.loads((tmp_path / "english/results.json").read_text())
    assert results["reward_model"]["accuracy"]["n"] == results["reward_model"]["pairs"]
    assert (tmp_path / "english/report.html").stat().st_size > 10_000


def test_village_runs_and_a_second_call_has_nothing_to_do(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "village"
    words = [
        "size=quick", "demonstrations=32", "rankings=8", "ppo_iterations=2", "ppo_prompts=8", "test_prompts=6",
        f"base={workshop}/base/model", "sft.batch_size=8", "reward.batch_size=4", "dpo.batch_size=4", "ppo.minibatch_size=4",
    ]  # fmt: skip
    command = ["run", "village", *words, "--out", str(out)]
    assert main(command) == 0
    results = json.loads((out / "results.json").read_text())
    assert [m["name"] for m in results["models"]] == ["base", "fewshot", "workbook", "sft", "bon", "dpo", "ppo"]
    assert all(m["figures"]["gold"]["n"] == 6 for m in results["models"])
    assert "PPO" in (out / "report.html").read_text(encoding="utf-8")
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("*/run.json")}
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.count("done already") == len(stamps)
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
