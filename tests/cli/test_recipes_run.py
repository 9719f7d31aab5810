"""The shipped recipes, run for real in their smallest form."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from trimtab.cli import main
from trimtab.data.encode import comparison_trees
from trimtab.data.formats import read_comparisons
from trimtab.data.template import Renderer
from trimtab.feedback.reward_model import RewardModel
from trimtab.methods.offline import tournament_pairs
from trimtab.models.load import load_policy, load_scorer, load_tokenizer, save_model
from trimtab.models.score import score_tokens
from trimtab.trees import TreeBatch

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


def test_slic_hf_samples_ranks_and_trains_on_a_knock_out(workshop: Path, tmp_path: Path) -> None:
    """What is trained on are the candidates of the SFT model in the reward model's order; y_ref is the best of them, or a demonstration."""
    base = workshop / "base/model"
    save_model(load_scorer(base, seed=3), load_tokenizer(base), tmp_path / "reward")
    words = [f"sft={base}", f"prompts={workshop}/world/demonstrations.jsonl", f"rank_by=reward:{tmp_path}/reward", "limit=6"]
    words += ["candidates=5", "max_tokens=8", "lr=1e-3", "batch_size=6", "slic.steps=2", "slic.threads=1"]
    assert main(["run", "slic-hf", *words, "--out", str(tmp_path / "best")]) == 0
    ranked = read_comparisons(tmp_path / "best/ranked/rankings.jsonl")
    scores = RewardModel(tmp_path / "reward").score([r.prompt for r in ranked], [r.completions for r in ranked])
    for ranking, row in zip(ranked, scores, strict=True):
        assert len(row) == 5 and ranking.ranks == tuple(1 + sum(x > own for x in row) for own in row)
    first = metrics(tmp_path / "best", 1)
    renderer, policy = Renderer(load_tokenizer(base)), load_policy(base)
    trees, _ = comparison_trees(ranked, renderer, 256)
    expected, pairs = 0.0, 0
    for tree in trees:
        with torch.no_grad():
            each = [float(score_tokens(policy, TreeBatch.pack([tree.with_completions([c])])).logprobs.sum()) for c in tree.completions]
        for a, b in tournament_pairs(tree):
            expected += max(0.0, 1.0 - each[a] + each[b]) - 0.5 * each[tree.ranks.index(1)]
            pairs += 1
    assert pairs >= 6 * 3 and first["loss"] == pytest.approx(expected / pairs, rel=1e-2)  # bf16 where the processor has it
    demonstrated = [*words, f"slic.demonstrations={workshop}/world/demonstrations.jsonl"]
    assert main(["run", "slic-hf", *demonstrated, "--out", str(tmp_path / "demonstrated")]) == 0
    other = metrics(tmp_path / "demonstrated", 1)
    assert other["margin"] == pytest.approx(first["margin"], abs=0.5) and other["sft_loss"] != pytest.approx(first["sft_loss"], rel=1e-2)
    assert (tmp_path / "best/report.html").stat().st_size > 10_000


def metrics(recipe: Path, step: int) -> dict[str, float]:
    rows = [json.loads(line) for line in (recipe / "slic/metrics.jsonl").read_text().splitlines()]
    return {row["name"]: row["value"] for row in rows if row["step"] == step}


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
