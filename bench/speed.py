"""`make bench`: trimtab and its peers on the same weights and data, in one run, interleaved; bench/results*.json, docs/performance.md.

    python bench/speed.py [--repetitions N] [--steps N] [WORK ...]     measure (the works named, else all), then write both
                                                                       (WORK may be sweep, profile, numerics: trimtab alone)
    python bench/speed.py --render                                     only docs/performance.md, from bench/results*.json

Every measurement is a process of its own, so that memory and allocator belong to it. Peers run as their users run them, with glibc's
allocator told what trimtab tells it, and so with activation checkpointing off as well.

Where bf16 products are not fast both sides compute in float32, and the results go to bench/results-float32.json and to a table of their
own. Where torch sees a GPU the model has 1B parameters, a step is sixteen times as much, the results go to bench/results-gpu.json and to
a table of their own; peers run with activation checkpointing, as shipped, and without. BENCH_PEERS=PYTHON and BENCH_TRL_1_9=FOLDER name an
interpreter and a package folder for peers other than those of .venv-peers.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from commits import commit
from sides import GPU, OWN, PEERS, RECOMPUTED, TRAINED, TRL_1_9, measured_here, sides
from speed_page import MARKS, render
from work import ROOT, WORKS, fast_dtype

PAGE = ROOT / "docs" / "performance.md"
FILES = {kind: ROOT / "bench" / f"results{'' if kind == 'cpu' else '-' + kind}.json" for kind in MARKS}
RESULTS = FILES["gpu" if GPU else "cpu" if fast_dtype() == torch.bfloat16 else "float32"]
PROFILED = ("dpo", "ppo", "generate")
OURS = ("sweep", "numerics", "profile", "families")  # measured without a peer


def measure(side: str, work: str, steps: int, size: str) -> dict[str, Any]:
    """One process; what it printed.

    Raises:
        SystemExit: it failed; the last lines of what it said.
    """
    ours = side.startswith("trimtab")
    environment, words = OWN[side] if ours else sides(work)[side]
    python = sys.executable if ours else str(PEERS)
    script = ROOT / "bench" / ("ours.py" if ours else "peer.py")
    paths = os.pathsep.join([TRL_1_9, *filter(None, [os.environ.get("PYTHONPATH")])])
    extra = {"PYTHONPATH": paths} if work == "ppo" and not ours else {}
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
            own = OWN if work in TRAINED and not GPU else ["trimtab"]
            for side in (*own, *(s for s in measured_here(work) if not settings or s in settings)):
                print(f"repetition {repetition + 1} of {repetitions}: {work}, {side}", flush=True)
                made = measure(side, work, 1 if side == RECOMPUTED else steps, size)  # the same batches on both sides
                made["commit"] = commit([PAGE, *FILES.values()])
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
                RESULTS.write_text(json.dumps({"machine": machine(given.size), **kept, name: made}, indent=1) + "\n")
    write_page()


if __name__ == "__main__":
    main()
