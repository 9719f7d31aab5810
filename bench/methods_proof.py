"""The parts of bench/proof.py that are about training methods: TRL beside them, what holds a policy near its reference, the kept reference.

A part returns entries of docs/proof.json; ``asked`` says what is asked of an entry, ``render`` how docs/results.md shows it.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-4
COMPARED = {
    "loss": "losses", "gradient": "norms of gradients", "tensors": "gradients, tensor by tensor,",
    "advantages": "advantages of RLOO and GRPO",
}  # fmt: skip
TARGET = 1.2  # nats per answer


def run(*words: str) -> tuple[str, float]:
    """Runs python on ``words`` in the project's folder; what it printed, and its seconds."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout, time.monotonic() - began


def against_trl() -> dict[str, Any]:
    """Losses, gradients and advantages beside TRL's own."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "figures.json"
        _, seconds = run("bench/against_trl.py", str(file))
        figures = json.loads(file.read_text())
    entry = {"command": "python bench/against_trl.py", "wall_seconds": seconds, "against TRL": figures}
    return {"methods against TRL 1.16": {"area": "methods_proof", **entry}}


def kept_reference() -> dict[str, Any]:
    """A DPO step with a live reference and with its logprobs kept on disk."""
    sides, seconds = {}, 0.0
    for side in ("live", "kept"):
        said, took = run("bench/reference.py", side)
        (line,) = [line for line in said.splitlines() if line.startswith("MEASURED ")]
        sides[side], seconds = json.loads(line.removeprefix("MEASURED ")), seconds + took
    command = "python bench/reference.py live; python bench/reference.py kept"
    entry = {"command": command, "wall_seconds": seconds, "reference": sides}
    return {"DPO with its reference's logprobs kept": {"area": "methods_proof", **entry}}


def held() -> dict[str, Any]:
    """What keeps a policy near its reference, on the demos' SFT and reward models, in small iterations (16 prompts): PPO without a price
    on the KL; with Ziegler's controller, which begins with the demo's beta and is told another KL than that beta leads to here; and, its
    control, with that beta and no controller."""
    shared = ["batch_size=16", "num_completions=4", "minibatch_size=2", "epochs_per_batch=1", "lr=3e-4", "gold=village", "threads=1"]
    fixed = ["beta=0.15", "steps=50"]
    kinds = {
        "PPO held at a KL": ("", [*fixed, f"kl.target={TARGET}", "kl.horizon=128"]), "PPO with its beta fixed": ("fixed-", fixed),
    }  # fmt: skip
    out = {}
    for name, inner, seed, words in (
        ("PPO without a KL penalty, 30 small iterations", "free", 0, ["beta=0", "steps=30"]),
        *((f"{kind}, seed {s}", f"{prefix}{s}", s, words) for kind, (prefix, words) in kinds.items() for s in (0, 1, 2)),
    ):
        demo, folder = f"runs/proof/demo-{seed}", f"runs/proof/held/{inner}"
        given = [f"model={demo}/sft/model", f"data={demo}/world/prompts.train.jsonl", f"reward=reward:{demo}/reward/model", f"seed={seed}"]
        command = ["ppo", *given, *shared, *words, f"out={folder}"]
        _, seconds = run("-m", "trimtab", *command)
        metrics = ROOT / folder / "metrics.jsonl"
        curves = {m: series(metrics, m) for m in ("kl/reference", "beta", "reward/proxy", "reward/gold")}
        tens = {m: [statistics.fmean(values[i : i + 10]) for i in range(0, len(values), 10)] for m, values in curves.items()}
        out[name] = {"area": "methods_proof", "command": "trimtab " + " ".join(command), "wall_seconds": seconds, "held": tens}
    return out


PARTS: dict[str, Callable[[], dict[str, Any]]] = {"against-trl": against_trl, "kept-reference": kept_reference, "held": held}


def asked(entry: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """What is asked of an entry, what was measured, and whether it is reached; nothing of entries that are not these parts'."""
    out = []
    if figures := entry.get("against TRL"):
        for quantity, words in COMPARED.items():
            apart = [row[quantity]["apart"] for row in figures.values() if quantity in row]
            reached = all(x <= TOLERANCE for x in apart)  # what is no number is not
            out.append((f"{words} equal to TRL's to 1e-4, {len(apart)} methods", f"{max(apart):.0e}", reached))
    if curves := entry.get("held"):
        kl, gold = curves["kl/reference"], curves["reward/gold"]
        if curves["beta"][0] == 0:
            rise = curves["reward/proxy"][-1] - curves["reward/proxy"][0]
            out.append(("the policy leaves its reference: KL past 10 nats", f"{kl[-1]:.1f}", kl[-1] > 10))
            out.append(("the proxy outruns gold: it rises, gold falls by a tenth", f"{rise:+.2f}, {gold[-1] / max(gold) - 1:+.0%}",
                        rise > 0 and gold[-1] <= 0.9 * max(gold)))  # fmt: skip
        else:
            off, last = kl[-1] / TARGET - 1, f"mean KL of iterations {10 * len(kl) - 9} to {10 * len(kl)}"
            moved = len(set(curves["beta"])) > 1
            words, reached = (f"{last} within 20 % of {TARGET}", abs(off) <= 0.2) if moved else (
                f"without the controller: {last} more than 20 % from {TARGET}", abs(off) > 0.2)  # fmt: skip
            out.append((words, f"{kl[-1]:.2f}, {off:+.0%}", reached))
    if sides := entry.get("reference"):
        live, kept = sides["live"], sides["kept"]
        operations, saved = kept["operations"] / live["operations"], live["peak_bytes"] - kept["peak_bytes"]
        out.append(("a step without the reference's forward pass: fewer operations", f"{100 * (1 - operations):.0f} %", operations < 1))
        less = f"{saved / 1e9:.2f} GB less; the reference's weights are {4 * live['parameters'] / 1e9:.2f}"
        out.append(("a lower peak of memory", less, saved > 0))
    return out


def render(entry: Mapping[str, Any]) -> list[str]:
    """An entry's figures as Markdown."""
    out = []
    if figures := entry.get("against TRL"):
        columns = ["method", "loss", "TRL", "norm of the gradient", "TRL", "advantages, of answers of", "apart", "furthest tensor, apart"]
        out += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        for name, row in figures.items():
            cells = [f"{row[q][side]:.6f}" if q in row else "-" for q in ("loss", "gradient") for side in ("ours", "TRL")]
            if answers := row.get("advantages"):
                lengths = answers["lengths"]
                cells.append(f"{len(lengths)}, {min(lengths)} to {max(lengths)} tokens")
            else:
                cells.append("-")
            cells.append(f"{max(row[q]['apart'] for q in COMPARED if q in row and q != 'tensors'):.0e}")
            cells.append(f"{row['tensors']['worst']} of {row['tensors']['count']}, {row['tensors']['apart']:.0e}")
            out.append(f"| {name} | {' | '.join(cells)} |")
        out.append("")
    if curves := entry.get("held"):
        count = len(curves["beta"])
        out += ["| means of ten iterations | " + " | ".join(f"{10 * i + 1} to {10 * i + 10}" for i in range(count)) + " |"]
        out += ["|" + "---|" * (count + 1)]
        for name, values in curves.items():
            out.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
        out.append("")
    if sides := entry.get("reference"):
        out += ["| reference | operations of a step | seconds of a step | peak memory |", "|---|---|---|---|"]
        for side, said in sides.items():
            out.append(f"| {side} | {said['operations']:.3g} | {said['seconds']:.1f} | {said['peak_bytes'] / 1e9:.2f} GB |")
        out.append("")
    return out


def series(metrics: Path, name: str) -> list[float]:
    """A metric's values, step after step."""
    return [row["value"] for row in map(json.loads, metrics.read_text().splitlines()) if row["name"] == name]
