"""The table of every training method on the village, from what ``village_runs.py`` has run; a part of ``bench/proof.py``."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from village_runs import BUDGET, DEMOS, METHODS, RUNS, SEEDS, chosen, results, run

from trimtab.common.stats import mean_interval, share_interval
from trimtab.evaluation.winrate import TIE
from trimtab.models.load import load_policy
from trimtab.models.nf4 import NF4Linear

PAIRS = (
    ("ppo-penalty", "ppo"), ("trpo", "ppo"), ("scst", "ppo"), ("trpo", "ppo-penalty"), ("scst", "ppo-penalty"), ("scst", "trpo"),
    ("rloo", "ppo"), ("grpo", "ppo"), ("dpo", "ppo"), ("slic", "dpo"), ("dpo-lora", "dpo"), ("dpo-qlora", "dpo"), ("ppo-lora", "ppo"),
    ("slic-sampled", "slic"), ("ppo", "best-of-8"), ("dpo", "best-of-8"),
)  # fmt: skip
ALIKE = ("ppo-penalty - ppo", "trpo - ppo", "scst - ppo", "trpo - ppo-penalty", "scst - ppo-penalty", "scst - trpo")


def shares(folder: Path) -> dict[str, float]:
    """Prompt -> how often its answers by the model are scored above SFT's, ties a half; every answer against every other."""
    scores: dict[str, dict[str, list[float]]] = {"sft": {}, "model": {}}
    for line in (folder / "test-judged" / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        scores[row["model"]].setdefault(row["id"], []).append(row["gold"])
    wins = {}
    for prompt, own in scores["model"].items():
        gaps = np.subtract.outer(own, scores["sft"][prompt])
        wins[prompt] = float(np.mean(np.where(np.abs(gaps) <= TIE, 0.5, gaps > 0)))
    return wins


def measured(folders: Sequence[Path], command: str) -> dict[str, Any]:
    """A method's figures over seeds. Seeds share their prompts, so the interval is over prompts, each a mean over the seeds."""
    by_seed = [shares(folder) for folder in folders]
    prompts = sorted(by_seed[0])
    means = [float(np.mean([wins[prompt] for wins in by_seed])) for prompt in prompts]
    figures = [results(folder, "test") for folder in folders]
    out: dict[str, Any] = {
        "command": command, "win_rate": share_interval(means).to_json(),
        "win_rate_by_seed": [float(np.mean(list(wins.values()))) for wins in by_seed], "prompts": dict(zip(prompts, means, strict=True)),
    }  # fmt: skip
    for name in ("gold", "invented", "told_secret", "words", "kl", "reward"):
        values = [f[name]["value"] for f in figures if f[name] is not None]
        out[name] = float(np.mean(values)) if values else None
    return out


def entry(seeds: Sequence[int] = SEEDS) -> dict[str, Any]:
    """What docs/proof.json holds of this comparison: the methods that have answered the test prompts on all ``seeds``."""
    rows, trials, prompts = {}, {}, {}
    for name, tried in METHODS.items():
        trial = chosen(name)
        if trial is None:
            continue
        won = [results(RUNS / name / f"trial-{t}" / "0", "validation")["win_rate"]["value"] for t in range(len(tried.trials))]
        trials[name] = {" ".join(words): rate for words, rate in zip(tried.trials, won, strict=True)}
        folders = [RUNS / name / f"trial-{trial}" / str(seed) for seed in seeds]
        if not all((folder / "test-judged.json").exists() for folder in folders):
            continue
        command = " ".join([f"trimtab {tried.verb}", *tried.shared, *tried.trials[trial]])
        drawn = [RUNS / "candidates" / str(seed) for seed in seeds] if tried.ranked else []
        rows[name] = {"title": tried.title, **measured(folders, command), **costs(folders, drawn)}
        prompts[name] = rows[name].pop("prompts")
    best_of = [RUNS / "best-of-8" / str(seed) for seed in seeds]
    if all((folder / "test-judged.json").exists() for folder in best_of):
        row = {"title": "best of 8, no training", **measured(best_of, "trimtab sample -k 8, trimtab rank by=reward:...")}
        prompts["best-of-8"] = row.pop("prompts")
        rows["best-of-8"] = row
    pairs = {f"{a} - {b}": difference(prompts[a], prompts[b]) for a, b in PAIRS if a in prompts and b in prompts}
    return {
        "budget_cpu_seconds": BUDGET, "seeds": list(seeds), "methods": rows, "trials": trials, "paired": pairs,
        "quantised_share": nf4_share(DEMOS / "demo-0" / "sft" / "model"),
    }  # fmt: skip


def nf4_share(folder: Path) -> float:
    """Bytes of the model's quantised layers, scales and all, as a share of their bytes in bf16."""
    layers = [layer for layer in load_policy(folder, quantize="nf4").modules() if isinstance(layer, NF4Linear)]
    held = 0
    for layer in layers:
        state = layer.weight.quant_state
        scales = (state.absmax, state.code, state.state2.absmax, state.state2.code)
        held += layer.weight.data.nbytes + sum(tensor.nbytes for tensor in scales)
    return held / sum(2 * layer.in_features * layer.out_features for layer in layers)


def difference(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, Any]:
    """The paired difference of two methods' win rates, prompt by prompt."""
    return mean_interval([a[prompt] - b[prompt] for prompt in sorted(a)]).to_json()


def costs(folders: Sequence[Path], drawn: Sequence[Path]) -> dict[str, Any]:
    """Processor seconds (those of sampling and ranking candidates in ``drawn`` too) and peak memory of the trainings, and the share of the
    weights that has gradients and moments."""
    spent = [json.loads((folder / "train.json").read_text()) for folder in folders]
    before = [json.loads((folder / f"{name}.json").read_text())["cpu_seconds"] for folder in drawn for name in ("answers", "ranked")]
    run = folders[0] / "run"
    every = weights(run / "model")
    trained = weights(run / "adapter") if (run / "adapter").exists() else every
    return {
        "cpu_seconds": (sum(s["cpu_seconds"] for s in spent) + sum(before)) / len(folders),
        "peak_memory_bytes": max(s["peak_memory_bytes"] for s in spent),
        "trained_share": trained / every,
    }  # fmt: skip


def weights(folder: Path) -> int:
    """How many numbers the safetensors files of ``folder`` hold."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            total += sum(int(np.prod(tensors.get_slice(key).get_shape())) for key in tensors.keys())
    return total


def asked(entry: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """(what is asked, what was measured, whether it is reached)."""
    rows, paired = entry["methods"], entry["paired"]
    trained = {name: row for name, row in rows.items() if name in METHODS}
    worst = min(trained, key=lambda name: trained[name]["win_rate"]["value"])
    out = [("none worse than SFT", f"{len(trained)} methods; least {span(rows[worst]['win_rate'])} ({rows[worst]['title']})",
            trained[worst]["win_rate"]["value"] >= 0.5)]  # fmt: skip
    for pair in (pair for pair in ALIKE if pair in paired):
        said = paired[pair]
        titles = " less ".join(rows[name]["title"] for name in pair.split(" - "))
        out.append((f"{titles}: no difference, or an explained one", span(said), said["low"] <= 0 <= said["high"]))
    for name, full in (("dpo-lora", "dpo"), ("ppo-lora", "ppo")):
        if f"{name} - {full}" in paired:
            said, share = paired[f"{name} - {full}"], rows[name]["trained_share"]
            out.append((f"{rows[name]['title']} within 2 points of all weights", span(said), said["value"] >= -0.02))
            out.append((f"{rows[name]['title']}: at most 5 % of their gradients and moments", f"{100 * share:.1f} %", share <= 0.05))
    spent = {name: row["cpu_seconds"] / BUDGET for name, row in trained.items() if "cpu_seconds" in row and METHODS[name].online}
    if spent:
        apart = f"{100 * min(spent.values()):.0f} to {100 * max(spent.values()):.0f} % of {BUDGET:.0f} s"
        even = all(0.75 <= share <= 1.25 for share in spent.values())
        out.append(("methods that sample: within 25 % of the same processor seconds", apart, even))
    share = entry["quantised_share"]
    out.append(("QLoRA: quantised layers at most 30 % of their bytes in bf16", f"{100 * share:.0f} %", share <= 0.3))
    return out


def span(figure: Mapping[str, float]) -> str:
    """A share or a difference of shares in percent, with its interval."""
    value, low, high = (100 * figure[key] for key in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def render(entry: Mapping[str, Any]) -> list[str]:
    """The table, the paired differences, what was tried, as Markdown."""
    out = [
        f"Seeds {', '.join(map(str, entry['seeds']))}; each training takes about {entry['budget_cpu_seconds']:.0f} s of one core or reads "
        "the rankings once. Of three settings (more where the best of three lost to SFT or lay at their edge: all are listed below) the "
        "one that won most on validation prompts (seed 0) answers the test prompts. Intervals are "
        "over prompts, each a mean over the seeds; what another seed of training gives is seen in the column by seed.", "",
        "| method | preferred to SFT, % | by seed | KL | reward | gold | words | core seconds | peak memory | chosen setting |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    rows = entry["methods"]
    for name in sorted(rows, key=lambda name: -rows[name]["win_rate"]["value"]):
        row = rows[name]
        figures = ["-" if row[key] is None else f"{row[key]:.2f}" for key in ("kl", "reward", "gold")]
        costs = [f"{row['cpu_seconds']:.0f}", f"{row['peak_memory_bytes'] / 1e9:.2f} GB"] if "cpu_seconds" in row else ["-", "-"]
        seeds = ", ".join(f"{100 * share:.0f}" for share in row["win_rate_by_seed"])
        cells = [row["title"], span(row["win_rate"]), seeds, *figures, f"{row['words']:.1f}", *costs, f"`{row['command']}`"]
        out.append(f"| {' | '.join(cells)} |")
    out += ["", "| difference of win rates, on the same prompts | points |", "|---|---|"]
    for pair, said in entry["paired"].items():
        out.append(f"| {' less '.join(rows[name]['title'] for name in pair.split(' - '))} | {span(said)} |")
    out += ["", "| tried | preferred to SFT on validation prompts, % |", "|---|---|"]
    for name, trials in entry["trials"].items():
        out += [f"| {METHODS[name].title}: `{words}` | {100 * rate:.1f} |" for words, rate in trials.items()]
    return [*out, ""]


def part() -> dict[str, Any]:
    """Runs what is missing, and says what all runs gave."""
    run(list(METHODS), SEEDS, os.cpu_count() or 1)
    made = entry()
    seconds = sum(json.loads(file.read_text())["wall_seconds"] for file in RUNS.rglob("*.json") if file.parent.name.isdigit())
    command = "python bench/village_runs.py"
    return {"every method on the village": {"area": "village_proof", "command": command, "wall_seconds": seconds, **made}}


PARTS = {"methods-village": part}
