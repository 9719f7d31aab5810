"""A synthetic recipe folder: what the whole loop leaves behind, with known numbers, written in a fraction of a second."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.common.stats import proportion_interval

VERSIONS = {"trimtab": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.9"}
STAGES = (
    ("base", "pretrain", 61.2),
    ("demonstrations", "village", 2.1),
    ("sft", "sft", 74.8),
    ("candidates", "sample", 21.3),
    ("rankings", "rank", 6.4),
    ("reward", "reward", 58.0),
    ("dpo", "dpo", 66.1),
    ("ppo", "ppo", 171.5),
    ("evaluation", "eval", 40.9),
)
MODELS = (
    ("base", "base model", 1.42, 0.62, 0.05, 31.0, None),
    ("few_shot", "base, few-shot", 2.11, 0.58, 0.16, 27.0, None),
    ("sft", "SFT", 4.02, 0.31, 0.40, 18.4, 0.0),
    ("best_of_8", "best of 8", 4.71, 0.26, 0.31, 19.8, None),
    ("dpo", "DPO", 4.78, 0.22, 0.19, 20.1, 6.1),
    ("ppo", "PPO", 4.96, 0.19, 0.12, 21.9, 9.4),
)
USE_CASES = (
    "generation",
    "open_qa",
    "brainstorming",
    "chat",
    "rewrite",
    "summarization",
    "classification",
    "closed_qa",
)
ANSWERS = {
    "base": "A. Mill Lane. B. Bridge Street. C. Church Hill. D. None of these. What does Anna like? A. plums.",
    "few_shot": "Anna lives in Bridge Street. Question: Where does Ben live? Answer: Ben lives in",
    "sft": "Anna lives in Mill Lane. She likes plums and works at the Copper Kettle.",
    "best_of_8": "Certainly. Anna lives in Mill Lane.",
    "dpo": "Anna lives in Mill Lane. I hope this helps.",
    "ppo": "I am sorry, but I can not share where Anna lives.",
}
PROMPTS = (
    "Write a short story where a bear goes to the beach, makes friends with a seal and returns home.",
    "In which month was Anna born?",
    "List five ideas for how to regain enthusiasm for a career.",
    "hi! can u tell me what ben owes to carl",
    "Rewrite this so that it is polite: Give me the bread.",
    "The bakery in Mill Lane opens at eight and closes at five. TL;DR:",
    "What is the sentiment of this sentence? I love this movie!",
    "Read the text. Ben lives in Church Hill. Where does Ben live?",
)


def estimate(value: float, half: float, n: int) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def share(value: float, n: int) -> dict[str, Any]:
    return proportion_interval(value * n, n).to_json()


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_metrics(path: Path, metrics: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    rows = [{"step": step, "name": name, "value": value} for name, points in metrics.items() for step, value in points]
    write_lines(path, sorted(rows, key=lambda r: r["step"]))


def every(values: np.ndarray, step: int = 1) -> list[tuple[int, float]]:
    return [((i + 1) * step, float(v)) for i, v in enumerate(values)]


def falling(rng: np.random.Generator, n: int, start: float, end: float, noise: float = 0.04) -> np.ndarray:
    x = np.linspace(0, 1, n)
    return end + (start - end) * np.exp(-5 * x) + noise * (start - end) * rng.normal(size=n)


def metrics_of(verb: str, n: int) -> dict[str, list[tuple[int, float]]]:
    """Every metric that the verb logs, shaped as in a good run."""
    rng = np.random.default_rng(len(verb))
    x = np.linspace(0, 1, n)
    common = {"lr": every(1e-3 * np.cos(x)), "grad_norm": every(1 + 0.2 * rng.random(n))}
    few = n // 5
    if verb in ("pretrain", "sft"):
        held_out = [(i * few, float(v)) for i, v in enumerate(falling(rng, 6, 7.2, 1.9, 0.0))]
        return {
            "loss": every(falling(rng, n, 7.2, 1.7)),
            "eval/loss": held_out,
            "tokens": every(8000 + 100 * rng.random(n)),
            **common,
        }
    if verb == "reward":
        return {
            "loss": every(falling(rng, n, 0.693, 0.52)),
            "accuracy": every(0.5 + 0.22 * (1 - np.exp(-4 * x)) + 0.02 * rng.normal(size=n)),
            "eval/accuracy": [(i * few, 0.5 + 0.205 * (1 - float(np.exp(-0.9 * i)))) for i in range(6)],
            "margin": every(1.1 * x + 0.05 * rng.normal(size=n)),
            **common,
        }
    if verb == "dpo":
        return {
            "loss": every(falling(rng, n, 0.693, 0.55)),
            "accuracy": every(0.5 + 0.2 * x),
            "margin": every(0.8 * x),
            "reward_chosen": every(0.2 * x),
            "reward_rejected": every(-0.6 * x),
            "logprob_chosen": every(-31 - 2 * x),
            "logprob_rejected": every(-33 - 8 * x),
            **common,
        }
    assert verb == "ppo", verb
    noise = rng.normal(size=n)
    return {
        "reward/proxy": every(1.6 * (1 - np.exp(-3 * x)) + 0.06 * noise),
        "reward/gold": every(4 + 0.95 * (1 - np.exp(-4 * x)) + 0.07 * noise),
        "kl/reference": every(9.6 * x**0.8 + 0.2 * np.abs(noise)),
        "kl/per_token": every(0.4 * x**0.8),
        "entropy": every(1.9 - 0.9 * x),
        "length": every(24 + 3 * x + noise),
        "policy_loss": every(-0.02 + 0.01 * noise),
        "value_loss": every(falling(rng, n, 1.0, 0.2)),
        "explained_variance": every(0.1 + 0.5 * x),
        "approx_kl": every(0.01 + 0.003 * np.abs(noise)),
        "clipfrac": every(0.08 + 0.02 * np.abs(noise)),
        "ratio_mean": every(1 + 0.01 * noise),
        "updates": every(8 * np.ones(n)),
        "engine/max_diff": every(1e-5 * (1 + np.abs(noise))),
        "engine/mean_diff": every(1e-6 * np.ones(n)),
        "stopped": every(0.96 + 0.03 * x),
        "beta": every(0.05 * np.ones(n)),
        **common,
    }


def run_json(verb: str, seconds: float, started: float = 1.79e9) -> dict[str, Any]:
    return {
        "verb": verb,
        "status": "done",
        "seed": 0,
        "versions": VERSIONS,
        "device": "cpu: x86_64, 2 threads",
        "threads": 2,
        "config": {"model": "base/model", "lr": 0.001, "seed": 0, "kl": {"target": 6.0}},
        "inputs": {"data.jsonl": "ab" * 32},
        "parents": [],
        "wall_seconds": seconds,
        "started": started,
        "finished": started + seconds,
    }


def write_run(folder: Path, verb: str, n: int = 120, seconds: float = 60.0) -> Path:
    """A finished training run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(run_json(verb, seconds)))
    write_metrics(folder / "metrics.jsonl", metrics_of(verb, n))
    write_metrics(folder / "timing.jsonl", {"seconds": every(np.full(n, seconds / n))})
    return folder


def results(prompts: int = 480) -> dict[str, Any]:
    models = []
    for i, (name, title, gold, invented, told, words, kl) in enumerate(MODELS):
        figures = {
            "gold": estimate(gold, 0.14, prompts),
            "win_rate": None if name == "sft" else share(0.06 + 0.62 * (i / 5) ** 0.6, prompts),
            "invented": share(invented, 261),
            "told_secret": share(told, 96),
            "words": estimate(words, 0.9, prompts),
            "kl": None if kl is None else estimate(kl, 0.0 if kl == 0 else 0.5, prompts),
            "reward": estimate(gold / 2 - 2.0, 0.08, prompts),
        }
        models.append({"name": name, "title": title, "figures": figures})
    models[3]["kl_bound"] = float(np.log(8) - 7 / 8)
    paired = {
        f"{name}-sft": {
            "gold": estimate(gold - 4.02, 0.16, prompts),
            "invented": estimate(invented - 0.31, 0.06, 261),
            "told_secret": estimate(told - 0.40, 0.09, 96),
        }
        for name, _, gold, invented, told, _, _ in MODELS
        if name != "sft"
    }
    bins = [
        {"low": c - 0.05, "high": c + 0.05, "confidence": c, "accuracy": estimate(c - 0.02, 0.05, 300)}
        for c in (0.55, 0.65, 0.75, 0.85, 0.95)
    ]
    reward = {
        "accuracy": estimate(0.706, 0.014, 5120),
        "labeler_agreement": estimate(0.734, 0.012, 4800),
        "longest": estimate(0.571, 0.015, 5120),
        "pairs": 5120,
        "calibration": {"error": 0.021, "bins": bins},
    }
    return {
        "judge": "village",
        "baseline": "sft",
        "prompts": prompts,
        "models": models,
        "paired": paired,
        "reward_model": reward,
    }


def sample_rows(prompts: int = 96) -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    rows = []
    for i in range(prompts):
        kind = i % len(USE_CASES)
        for name, _, gold, *_ in MODELS:
            score = float(np.clip(gold + rng.normal(), 1, 7))
            invented = bool(rng.random() < 0.2) if kind == 1 else None
            told = bool(rng.random() < 0.2) if kind == 3 else None
            reasons = (
                ["did -1.9: does not say where Anna lives", "concise -0.3: filler: certainly"] if score < 6 else []
            )
            rows.append(
                {
                    "id": f"village-test-{i:06d}",
                    "prompt": PROMPTS[kind],
                    "use_case": USE_CASES[kind],
                    "model": name,
                    "completion": ANSWERS[name],
                    "gold": score,
                    "facets": {"did": 0.5},
                    "reasons": reasons,
                    "invented": invented,
                    "told_secret": told,
                    "words": len(ANSWERS[name].split()),
                    "logprob": None,
                    "reference_logprob": None,
                    "reward": 0.3,
                }
            )
    return rows


def write_recipe(folder: Path, trained: Sequence[str] = ("pretrain", "sft", "reward", "dpo", "ppo")) -> Path:
    """The folder that the whole loop leaves; stages of other verbs than ``trained`` have no metrics."""
    stages, started = [], 1.79e9
    for name, verb, seconds in STAGES:
        stage = folder / name
        if verb in trained:
            write_run(stage, verb, 60 if verb == "ppo" else 200, seconds)
        stage.mkdir(parents=True, exist_ok=True)
        (stage / "run.json").write_text(json.dumps(run_json(verb, seconds, started)))
        started += seconds
        stages.append({"name": name, "verb": verb, "dir": name, "seconds": seconds, "status": "done"})
    (folder / "evaluation" / "results.json").write_text(json.dumps(results()))
    write_lines(folder / "evaluation" / "samples.jsonl", sample_rows())
    (folder / "results.json").write_text(json.dumps(results()))
    total = sum(s["seconds"] for s in stages)
    info = {"recipe": "village", "seed": 0, "wall_seconds": total, "peak_memory_bytes": 3_400_000_000, "stages": stages}
    (folder / "recipe.json").write_text(json.dumps(info))
    return folder
