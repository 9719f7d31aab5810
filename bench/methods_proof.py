"""The parts of bench/proof.py that are about training methods: TRL beside them, what holds a policy near its reference, the kept reference.

A part returns entries of docs/proof.json; ``asked`` says what is asked of an entry, ``lines`` how docs/results.md shows it.
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
RUNS = ROOT / "runs" / "proof"
TOLERANCE = 1e-4


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
    return {"methods against TRL 1.16": {"command": "python bench/against_trl.py", "wall_seconds": seconds, "against TRL": figures}}


def kept_reference() -> dict[str, Any]:
    """A DPO step with a live reference and with its logprobs kept on disk."""
    sides, seconds = {}, 0.0
    for side in ("live", "kept"):
        said, took = run("bench/reference.py", side)
        (line,) = [line for line in said.splitlines() if line.startswith("MEASURED ")]
        sides[side], seconds = json.loads(line.removeprefix("MEASURED ")), seconds + took
    command = "python bench/reference.py live; python bench/reference.py kept"
    return {"DPO with its reference's logprobs kept": {"command": command, "wall_seconds": seconds, "reference": sides}}


PARTS: dict[str, Callable[[], dict[str, Any]]] = {"against-trl": against_trl, "kept-reference": kept_reference}


def asked(entry: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """What is asked of an entry, what was measured, and whether it is reached; nothing of entries that are not these parts'."""
    out = []
    if figures := entry.get("against TRL"):
        for quantity, words in (("loss", "losses"), ("gradient", "norms of gradients"), ("advantages", "advantages of RLOO and GRPO")):
            apart = [row[quantity]["apart"] for row in figures.values() if quantity in row]
            out.append((f"{words} equal to TRL's to 1e-4, {len(apart)} methods", f"{max(apart):.0e}", max(apart) <= TOLERANCE))
    if sides := entry.get("reference"):
        live, kept = sides["live"], sides["kept"]
        operations, saved = kept["operations"] / live["operations"], live["peak_bytes"] - kept["peak_bytes"]
        out.append(("a step without the reference's forward pass: fewer operations", f"{100 * (1 - operations):.0f} %", operations < 1))
        weights = 4 * live["parameters"]
        less = f"{saved / 1e9:.2f} of {weights / 1e9:.2f} GB"
        out.append(("memory: nine tenths of the reference's weights less", less, saved >= 0.9 * weights))
    return out


def lines(entry: Mapping[str, Any]) -> list[str]:
    """An entry's figures as Markdown."""
    out = []
    if figures := entry.get("against TRL"):
        out += ["| method | loss | TRL | gradient | TRL | advantages compared | apart |", "|---|---|---|---|---|---|---|"]
        for name, row in figures.items():
            cells = [f"{row[q][side]:.6f}" if q in row else "-" for q in ("loss", "gradient") for side in ("ours", "TRL")]
            count = str(len(row["advantages"]["ours"])) if "advantages" in row else "-"
            out.append(f"| {name} | {' | '.join(cells)} | {count} | {max(q['apart'] for q in row.values()):.0e} |")
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


def last(values: list[float], count: int = 10) -> float:
    """The mean of the last ``count`` values."""
    return statistics.fmean(values[-count:])
