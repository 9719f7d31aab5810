"""The temperature of a reward model's margins: what a direct optimiser finds, what it does to calibration, and that it travels."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from tiny_models import read_lines, save_tiny_policy, write_lines

from trimtab.common.files import read_json
from trimtab.data.formats import read_comparisons
from trimtab.evaluation.reward_quality import calibration
from trimtab.feedback.reward_model import Calibration, RewardModel
from trimtab.feedback.temperature import fit_temperature, pair_loss
from trimtab.methods.build import methods, run
from trimtab.records import Comparison, Completion, Message, Prompt
from trimtab.verbs.winrate import reward_quality


def pairs(boast: float, count: int = 4000, seed: int = 0) -> list[float]:
    """Margins of a judge that says ``boast`` times the true log odds; the better answer is drawn by the true ones."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 1.5, count)
    right = rng.random(count) < 1 / (1 + np.exp(-odds))
    return [float(boast * x) for x in np.where(right, odds, -odds)]


@pytest.mark.parametrize("boast", [0.05, 1.0, 3.0, 200.0])
def test_it_is_what_a_direct_optimiser_finds_and_undoes_the_boasting(boast: float) -> None:
    """The least mean loss over log T by Brent's method on the loss itself; and within 6 % of the factor that was put in."""
    margins = pairs(boast)
    found = fit_temperature(margins)
    assert found is not None
    words: dict[str, Any] = {"bounds": (-12, 12), "method": "bounded", "options": {"xatol": 1e-10}}
    direct = minimize_scalar(lambda log_t: pair_loss(margins, math.exp(log_t)), **words)
    assert found == pytest.approx(math.exp(direct.x), rel=1e-4) and found == pytest.approx(boast, rel=0.06)
    assert all(pair_loss(margins, found) < pair_loss(margins, found * factor) for factor in (0.5, 0.99, 1.01, 2.0))


def test_worked_by_hand() -> None:
    """Margins 2, 2, -2: two of three are right, so sigma(2 / T) = 2 / 3 and T = 2 / log 2. One of 1 and one of -1 say nothing."""
    assert fit_temperature([2.0, 2.0, -2.0]) == pytest.approx(2 / math.log(2))
    assert pair_loss([2.0, -2.0]) == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(2))) / 2)
    assert fit_temperature([1.0, -1.0]) is None and fit_temperature([1.0, -3.0]) is None
    assert fit_temperature([]) is None and fit_temperature([0.0, 0.0]) is None
    assert fit_temperature([3.0, 0.0, 5.0]) is None  # the surer the better


def items(margins: list[float]) -> tuple[list[list[float]], list[Comparison]]:
    prompt = Prompt("p", (Message("user", "?"),))
    return [[m, 0.0] for m in margins], [Comparison(prompt, (Completion("a"), Completion("b")), (1, 2))] * len(margins)


@pytest.mark.parametrize("boast", [0.3, 1.0, 4.0])
def test_the_calibration_error_falls_or_stays_also_on_pairs_it_was_not_fitted_on(boast: float) -> None:
    found = fit_temperature(pairs(boast))
    scores, rankings = items(pairs(boast, seed=1))
    assert found is not None
    before, after = (calibration(scores, rankings, scale=scale).error for scale in (1.0, 1 / found))
    assert after < 0.03 and (after <= before + 0.01 if boast == 1.0 else after < 0.35 * before)


def comparison(i: int) -> dict[str, Any]:
    """Three answers; longer is better, but every third labeler says the opposite."""
    texts = ["the cat", "the cat saw the dog", "the cat saw the dog near the mill ."]
    ranks = [3, 2, 1] if i % 3 else [1, 2, 3]
    asked = [{"role": "user", "content": f"the {'old red sad big'.split()[i % 4]} dog {i}"}]
    return {"id": f"c{i}", "messages": asked, "completions": [{"text": t} for t in texts], "ranks": ranks}


def test_it_is_fitted_kept_and_used_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A reward model that learnt its rankings by heart is too sure of new ones: T > 1, in reward.json and in what evaluation says."""
    data = write_lines(tmp_path / "rankings.jsonl", [comparison(i) for i in range(1, 12) if i % 3])
    held_out = write_lines(tmp_path / "held_out.jsonl", [comparison(i) for i in range(12, 36)])
    words: dict[str, Any] = {"epochs": 12, "batch_size": 4, "lr": 1e-2, "dtype": "float32", "data": str(data)}
    kind = methods()["reward"].Config
    start = save_tiny_policy(tmp_path / "policy")
    run("reward", kind(model=str(start), eval_data=str(held_out), out=str(tmp_path / "run"), **words), lambda _: None)  # type: ignore[arg-type,return-value]
    said = capsys.readouterr().out
    kept = read_json(tmp_path / "run/model/reward.json")
    assert kept["temperature"] > 1.2
    model = RewardModel(tmp_path / "run")
    assert model.calibration == Calibration(kept["shift"], kept["scale"], kept["temperature"])
    rankings = read_comparisons(held_out)
    scores = model.score([c.prompt for c in rankings], [c.completions for c in rankings])
    margins = [(row[a] - row[b]) * kept["scale"] for row, c in zip(scores, rankings, strict=True) for a, b in c.pairs()]
    assert fit_temperature(margins) == pytest.approx(kept["temperature"], rel=1e-3)
    losses = f"their loss {pair_loss(margins):.4f} -> {pair_loss(margins, kept['temperature']):.4f} nats"
    assert f"reward: temperature {kept['temperature']:.3f} fitted on {24 * 3} held-out pairs: {losses}" in said
    rows = {(row["step"], row["name"]): row["value"] for row in read_lines(tmp_path / "run/metrics.jsonl")}
    assert rows[max(step for step, _ in rows), "eval/loss"] == pytest.approx(pair_loss(margins), rel=1e-3)
    quality = reward_quality(model, str(held_out), 0)
    assert quality["temperature"] == kept["temperature"]
    assert quality["calibration"]["error"] < quality["calibration_error_at_1"]
    assert quality["calibration"]["error"] == calibration(scores, rankings, scale=kept["scale"] / kept["temperature"]).error
    assert sum(row["accuracy"]["n"] for row in quality["calibration"]["bins"]) == 24 * 3


def test_it_is_that_of_the_float32_judge_whatever_the_training_ran_in(tmp_path: Path) -> None:
    """A run of bf16 products: what is kept was measured as the judge is read, so that its own float32 scores give it again."""
    data = write_lines(tmp_path / "rankings.jsonl", [comparison(i) for i in range(1, 12) if i % 3])
    held_out = write_lines(tmp_path / "held_out.jsonl", [comparison(i) for i in range(12, 24)])
    words: dict[str, Any] = {"steps": 24, "batch_size": 4, "lr": 1e-2, "dtype": "bfloat16", "data": str(data)}
    start = save_tiny_policy(tmp_path / "policy")
    config = methods()["reward"].Config(model=str(start), eval_data=str(held_out), out=str(tmp_path / "run"), **words)
    run("reward", config, lambda _: None)  # type: ignore[arg-type,return-value]
    model, rankings = RewardModel(tmp_path / "run"), read_comparisons(held_out)
    scores = model.score([c.prompt for c in rankings], [c.completions for c in rankings])
    margins = [(row[a] - row[b]) * model.calibration.scale for row, c in zip(scores, rankings, strict=True) for a, b in c.pairs()]
    assert model.calibration.temperature == pytest.approx(fit_temperature(margins), rel=1e-5) != 1.0


def test_without_held_out_rankings_or_where_none_is_best_it_stays_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_lines(tmp_path / "rankings.jsonl", [comparison(i) for i in range(1, 8) if i % 3])
    kind, start = methods()["reward"].Config, save_tiny_policy(tmp_path / "policy")
    words: dict[str, Any] = {"model": str(start), "data": str(data), "epochs": 12, "batch_size": 4, "lr": 1e-2, "dtype": "float32"}
    run("reward", kind(out=str(tmp_path / "none"), **words), lambda _: None)  # type: ignore[arg-type,return-value]
    assert "temperature" not in capsys.readouterr().out
    run("reward", kind(out=str(tmp_path / "same"), eval_data=str(data), **words), lambda _: None)  # type: ignore[arg-type,return-value]
    assert "no temperature is best on 15 held-out pairs (all pairs are ordered rightly); it stays 1" in capsys.readouterr().out
    for name in ("none", "same"):
        assert read_json(tmp_path / name / "model/reward.json")["temperature"] == 1.0
