"""`make bench`: trimtab and its peers on the same weights and data, in one run, interleaved; `bench/results.json`, `docs/performance.md`.

    python bench/speed.py [--repetitions N] [--steps N] [WORK ...]     measure (the works named, else all), then write both
                                                                       (WORK may be sweep, profile, numerics: trimtab alone)
    python bench/speed.py --render                                     only docs/performance.md, from bench/results.json

Every measurement is a process of its own, so that memory and allocator belong to it. Peers run as their users run them, with glibc's
allocator told what trimtab tells it, and so with activation checkpointing off as well.

Where torch sees a GPU the model has 1B parameters, a step is sixteen times as much, the results go to bench/results-gpu.json and to a table
of their own; peers run with activation checkpointing, as shipped, and without. BENCH_PEERS=PYTHON and BENCH_TRL_1_9=FOLDER name an
interpreter and a package folder for peers other than those of .venv-peers.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from work import ROOT, SCALE, WORKS, fast_dtype, works

GPU = torch.cuda.is_available()
PAGE = ROOT / "docs" / "performance.md"
FILES = {"cpu": ROOT / "bench" / "results.json", "gpu": ROOT / "bench" / "results-gpu.json"}
RESULTS = FILES["gpu" if GPU else "cpu"]
PEERS = Path(os.environ.get("BENCH_PEERS", ROOT / ".venv-peers" / "bin" / "python"))
TRL_1_9 = os.environ.get("BENCH_TRL_1_9", str(ROOT / ".venv-peers" / "trl-1.9"))
MARKS = {
    "cpu": ("<!-- measured: made from bench/results.json by bench/speed.py -->", "<!-- end of what is measured -->"),
    "gpu": ("<!-- measured on a GPU: made from bench/results-gpu.json by bench/speed.py -->", "<!-- end of what is measured on a GPU -->"),
}
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_TOP_PAD_": str(64 << 20)}
PROFILED = ("dpo", "ppo", "generate")
OURS = ("sweep", "numerics", "profile", "families")  # measured without a peer
TRAINED = ("sft", "reward", "rankings", "dpo", "rloo", "ppo")
# name of a side -> (environment, words for peer.py); trimtab's own is none of them
SIDES: dict[str, tuple[Mapping[str, str], Sequence[str]]] = {
    "as shipped": ({}, ()), "tuned allocator": (TUNED, ()), "tuned, no checkpointing": (TUNED, ("checkpointing=off",)),
}  # fmt: skip
SAMPLERS: dict[str, tuple[Mapping[str, str], Sequence[str]]] = {
    "bf16": ({}, ()), "float32": ({}, ("float32",)), "bf16, tuned allocator": (TUNED, ()),
    "float32, tuned allocator": (TUNED, ("float32",)),
}  # fmt: skip
GPU_SIDES: dict[str, tuple[Mapping[str, str], Sequence[str]]] = {"as shipped": ({}, ()), "no checkpointing": ({}, ("checkpointing=off",))}
# work -> side -> the ratio of speeds that is asked for
ASKED: dict[str, dict[str, float]] = {
    "sft": {"as shipped": 4, "tuned allocator": 3, "tuned, no checkpointing": 2.5},
    "reward": {"as shipped": 4, "tuned allocator": 4, "tuned, no checkpointing": 3},
    "rankings": {"as shipped": 12},
    "dpo": {"as shipped": 8, "tuned allocator": 5, "tuned, no checkpointing": 5},
    "rloo": {"as shipped": 10, "tuned allocator": 5, "tuned, no checkpointing": 5},
    "ppo": {"as shipped": 10, "tuned allocator": 8, "tuned, no checkpointing": 8},
    "generate": {"bf16": 4, "float32": 8, "bf16, tuned allocator": 3, "float32, tuned allocator": 6},
    "generate32": {"bf16": 4, "float32": 8, "bf16, tuned allocator": 3, "float32, tuned allocator": 6},
}


def sides(work: str, gpu: bool = GPU) -> dict[str, tuple[Mapping[str, str], Sequence[str]]]:
    """The peer's settings for one work."""
    if gpu:
        return GPU_SIDES if work in TRAINED else {"bf16": SAMPLERS["bf16"]}
    if work == "rankings":  # TRL takes three minutes for its 48 pairs: the one setting that is asked about
        return {"as shipped": SIDES["as shipped"]}
    return SIDES if work in TRAINED else SAMPLERS


def measured_here(work: str) -> list[str]:
    """Those that this machine can measure in finite time: where bf16 is emulated, none that computes in it."""
    return [side for side in sides(work) if work in TRAINED or side.startswith("float32") or fast_dtype() == torch.bfloat16]


def measure(side: str, work: str, steps: int, size: str) -> dict[str, Any]:
    """One process; what it printed.

    Raises:
        SystemExit: it failed; the last lines of what it said.
    """
    environment, words = ({}, ()) if side == "trimtab" else sides(work)[side]
    python = sys.executable if side == "trimtab" else str(PEERS)
    script = ROOT / "bench" / ("ours.py" if side == "trimtab" else "peer.py")
    paths = os.pathsep.join([TRL_1_9, *filter(None, [os.environ.get("PYTHONPATH")])])
    extra = {"PYTHONPATH": paths} if work == "ppo" and side != "trimtab" else {}
    command = [python, str(script), work, str(steps), size, *words]
    return printed(command, "MEASURED", {"TRL_EXPERIMENTAL_SILENCE": "1", **environment, **extra})


def printed(command: Sequence[str], mark: str, environment: Mapping[str, str]) -> Any:
    """What a command prints after ``mark``, as JSON.

    Raises:
        SystemExit: it failed; the last lines of what it said.
    """
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    found = re.findall(rf"^{mark} (.*)$", done.stdout, re.MULTILINE)
    if done.returncode or not found:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(found[-1])


def run(names: Sequence[str], repetitions: int, steps: int, size: str, settings: Sequence[str]) -> None:
    """All sides of each work in turn, repetition after repetition; everything measured so far is on disk at any time."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for work in names:
        kept.pop(work, None)
    for repetition in range(repetitions):
        for work in names:
            for side in ("trimtab", *(s for s in measured_here(work) if not settings or s in settings)):
                print(f"repetition {repetition + 1} of {repetitions}: {work}, {side}", flush=True)
                made = measure(side, work, steps, size)  # the same batches on both sides
                kept.setdefault(work, {}).setdefault(side, []).append(made)
                kept["machine"] = machine(size)
                RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


def measure_alone(name: str, steps: int, size: str) -> Any:
    """One of ``OURS``."""

    def ours(script: str, mark: str, *words: str) -> Any:
        return printed([sys.executable, str(ROOT / "bench" / script), *words], mark, {})

    if name == "sweep":
        return ours("ours.py", "SWEEP", "sweep", str(steps), size)
    if name == "numerics":
        return ours("numerics.py", "NUMERICS", *(["gpu"] if GPU else []))
    if name == "families":
        return ours("families.py", "FAMILIES", *(["gpu"] if GPU else []))
    return [ours("spent.py", "PROFILE", work, str(steps), size) for work in PROFILED]


def machine(size: str) -> dict[str, Any]:
    """What the figures were measured on, and with."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    return {
        "processor": cpu.group(1) if cpu else platform.processor(), "threads": str(torch.get_num_threads()), "torch": torch.__version__,
        "products": str(fast_dtype()).removeprefix("torch."), "size": size, **({"gpu": torch.cuda.get_device_name()} if GPU else {}),
    }  # fmt: skip


def seconds(runs: Sequence[Mapping[str, Any]]) -> float:
    """The median step over all repetitions, each one's first left out."""
    return statistics.median(s for run in runs for s in run["seconds"][1:])


def spread(ours: Sequence[Mapping[str, Any]], peer: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The least and the largest ratio of single steps, which are of the same batches."""
    runs = zip(ours, peer, strict=False)
    ratios = [b / a for mine, theirs in runs for a, b in zip(mine["seconds"][1:], theirs["seconds"][1:], strict=False)]
    return min(ratios), max(ratios)


def gigabytes(runs: Sequence[Mapping[str, Any]]) -> float:
    return max(run["peak_bytes"] for run in runs) / 1e9


def activations(runs: Sequence[Mapping[str, Any]], work: str) -> float:
    """Peak memory without what any training needs: 16 bytes a trained parameter, 4 for each one of a frozen model."""
    parameters = max(run["parameters"] for run in runs)
    frozen = {"dpo": 1, "rloo": 2, "ppo": 1}.get(work, 0)  # PPO's parameters are those of two trained models, beside two frozen ones
    return gigabytes(runs) - (16 + 4 * frozen) * parameters / 1e9


def render(kept: Mapping[str, Any]) -> str:
    """The tables."""
    where = kept["machine"]
    kind = "gpu" if "gpu" in where else "cpu"
    machine = f"{where['processor']}, {where['threads']} threads"
    if kind == "gpu":
        machine = f"one {where['gpu']} with a model of {where['size']} parameters"
    lines = [
        MARKS[kind][0], "",
        f"Measured by `make bench` on {machine}, torch {where['torch']}, products in "
        f"{where['products']}. Medians of steps, the first of each process left out; ratios are of two sides in one run, "
        "in brackets the least and the largest of single steps.",
        "", "| work | trimtab | peer | peer's setting | ratio | asked | peak memory | of the peer's |", "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for work, what in works(SCALE.get(where.get("size", ""), 1)).items():
        if work not in kept:
            continue
        ours = kept[work]["trimtab"]
        for side in sides(work, kind == "gpu"):
            if side not in kept[work]:
                continue
            peer = kept[work][side]
            mine, theirs = seconds(ours), seconds(peer)
            ratio, asked = theirs / mine, None if kind == "gpu" else ASKED[work].get(side)
            mark = "-" if asked is None else f"{asked:g} {'reached' if ratio >= asked else '**missed**'}"
            share = f"{gigabytes(ours):.1f} of {gigabytes(peer):.1f} GB"
            if work in TRAINED:
                cells = f"{mine:.2f} s | {theirs:.2f} s"
                # on a GPU ours takes a step's tokens at once, peers a sixteenth of them: there the whole of both is compared
                share_of = gigabytes(ours) / gigabytes(peer) if kind == "gpu" else activations(ours, work) / activations(peer, work)
                over = f"{100 * share_of:.0f} %"
            else:
                tokens = statistics.median(t for run in ours for t in run["tokens"])
                cells, over = f"{tokens / mine:.0f} tokens/s | {tokens / theirs:.0f} tokens/s", "-"
            least, most = spread(ours, peer)
            ratios = f"{ratio:.1f} ({least:.1f} to {most:.1f})"
            lines.append(f"| {what.what} | {cells} | {side} | {ratios} | {mark} | {share} | {over} |")
    lines += ["", *shares(kept), *losses(kept), *profiles(kept), *swept(kept), *numerics(kept), *families(kept), MARKS[kind][1]]
    return "\n".join(lines)


def shares(kept: Mapping[str, Any]) -> list[str]:
    """Useful operations over what the machine's best product does, step by step, in the same process."""
    lines = [
        "Share of the matrix peak, useful operations only (no padding, no recomputation, no attention):", "",
        "| work | useful tokens a step | tokens/s | best product, GFLOP/s | share |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for work in WORKS:
        if work in kept:
            runs = kept[work]["trimtab"]
            rate = statistics.median(f / s for run in runs for f, s in zip(run["flops"][1:], run["seconds"][1:], strict=True))
            speed = statistics.median(t / s for run in runs for t, s in zip(run["tokens"][1:], run["seconds"][1:], strict=True))
            tokens = statistics.median(t for run in runs for t in run["tokens"][1:])
            peak = max(run["matrix_peak"] for run in runs)
            lines.append(f"| {work} | {tokens:.0f} | {speed:.0f} | {peak / 1e9:.0f} | {100 * rate / peak:.0f} % |")
    return [*lines, ""]


def losses(kept: Mapping[str, Any]) -> list[str]:
    """The two sides' losses of the first steps, side by side: it is the same work."""
    lines = ["Losses of the first steps:", "", "| work | trimtab | peer |", "|---|---|---|"]
    for work in ("sft", "reward", "rankings", "dpo"):
        if work in kept and "as shipped" in kept[work]:
            both = [kept[work][side][0]["losses"][:3] for side in ("trimtab", "as shipped")]
            lines.append(f"| {work} | " + " | ".join(", ".join(f"{x:.4f}" for x in row) for row in both) + " |")
    return [*lines, ""]


def swept(kept: Mapping[str, Any]) -> list[str]:
    """How a step's cost grows."""
    if "sweep" not in kept:
        return []
    lines = [
        "A training step on trees whose answers have 64 tokens, over the length of prompts, answers to each, and trees in a batch:", "",
        "| prompt | answers | trees | tokens | seconds | tokens/s |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in kept["sweep"]:
        cells = f"| {row['prompt']} | {row['answers']} | {row['trees']} | {row['tokens']} | {row['seconds']:.2f} "
        lines.append(f"{cells}| {row['tokens'] / row['seconds']:.0f} |")
    return [*lines, ""]


def profiles(kept: Mapping[str, Any]) -> list[str]:
    """Where the time of a step goes."""
    if "profile" not in kept:
        return []
    found = kept["profile"]
    lines = [
        "Where a step's time goes, % (`python bench/spent.py WORK`; the profiler's own time is in the rest):", "",
        "| | " + " | ".join(row["work"] for row in found) + " |", "|---" * (len(found) + 1) + "|",
    ]  # fmt: skip
    for kind in found[0]["spent"]:
        lines.append(f"| {kind} | " + " | ".join(f"{100 * row['spent'][kind] / sum(row['spent'].values()):.0f}" for row in found) + " |")
    return [*lines, ""]


def numerics(kept: Mapping[str, Any]) -> list[str]:
    """How exact the fast paths are, and how full micro-batches."""
    if "numerics" not in kept:
        return []
    lines = [
        "Exactness: absolute differences of token logprobs, nats, on the shipped base model (`python bench/numerics.py`):", "",
        "| | mean | largest |", "|---|---|---|",
    ]  # fmt: skip
    lines += [f"| {what} | {apart['mean']:.1e} | {apart['max']:.1e} |" for what, apart in kept["numerics"]["exactness"].items()]
    if "packing" not in kept["numerics"]:
        return [*lines, ""]
    lines += [
        "", "Packing an epoch of the pairs in batches of 32: the most micro-batches that a step has beyond ceil(tokens / budget), and the",
        "empty share of all micro-batches but each step's last:", "",
        "| budget, tokens | pairs | steps | beyond | empty |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in kept["numerics"]["packing"]:
        lines.append(f"| {row['budget']} | {row['pairs']} | {row['steps']} | {row['extra']} | {100 * row['empty']:.1f} % |")
    return [*lines, ""]


def families(kept: Mapping[str, Any]) -> list[str]:
    """How exact each family is on trees and in the engine."""
    if "families" not in kept:
        return []
    lines = [
        "Families, small, random weights, float32 (`python bench/families.py`): the largest difference between a token's logprob on trees",
        "and in the family's own forward, and of a parameter's gradient relative to its size; the engine's logprobs against the trainer's;",
        "whether its greedy answers are transformers':", "",
        "| family | logprobs, nats | gradients | engine, nats | greedy |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for family, found in kept["families"].items():
        same = "the same tokens" if found["greedy"] else "**other tokens**"
        lines.append(f"| {family} | {found['logprobs']:.1e} | {found['gradients']:.1e} | {found['engine']:.1e} | {same} |")
    return [*lines, ""]


def write_page() -> None:
    """Puts the tables between the marks of docs/performance.md."""
    page = PAGE.read_text(encoding="utf-8")
    for kind, (begin, end) in MARKS.items():
        if FILES[kind].exists() and begin in page:
            before, after = page.index(begin), page.index(end) + len(end)
            page = page[:before] + render(json.loads(FILES[kind].read_text())) + page[after:]
    PAGE.write_text(page, encoding="utf-8")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("works", nargs="*", choices=[[], *WORKS, *OURS], metavar="WORK")
    words.add_argument("--repetitions", type=int, default=2)
    words.add_argument("--steps", type=int, default=3)
    words.add_argument("--size", default="1B" if GPU else "134M")
    words.add_argument("--setting", action="append", default=[], help="only these settings of the peers, e.g. 'as shipped'")
    words.add_argument("--render", action="store_true")
    given = words.parse_args()
    if not given.render:
        run([w for w in given.works or WORKS if w not in OURS], given.repetitions, given.steps, given.size, given.setting)
        for name in given.works or OURS:
            if name in OURS:
                made = measure_alone(name, given.steps, given.size)
                kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
                RESULTS.write_text(json.dumps({**kept, name: made, "machine": machine(given.size)}, indent=1) + "\n")
    write_page()


if __name__ == "__main__":
    main()
