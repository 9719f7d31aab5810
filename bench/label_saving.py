"""How many labels active choice saves, on the village's simulated labelers: ``python bench/label_saving.py [SEED ...]``.

A pool of prompts with answers of demo seed 0 (bench/proof.py demo-0). ``START`` tasks, chosen at random, are labelled; three reward models
are trained on them; the next ``START`` tasks are chosen at random, by the models' spread, or by one model's margin, with the functions
behind `trimtab label next`; a reward model is trained on all that is labelled and held against held-out rankings. The random curve goes
on, so that one can read off how many labels random choice needs for the same accuracy.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.common.rng import generator
from trimtab.data.files import write_records
from trimtab.data.formats import read_comparisons
from trimtab.feedback.ensemble import Ensemble
from trimtab.feedback.reward_model import RewardModel
from trimtab.records import Comparison
from trimtab.verbs.label_next import uncertainty
from trimtab.verbs.rank import together
from trimtab.verbs.winrate import reward_quality
from trimtab.village import Pool

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "proof"
START = 100
POOL = 500
CURVE = (100, 200, 300, 400)
MEMBERS = 3
SEEDS = (0, 1, 2)


def labelled(items: Sequence[Comparison], seed: int) -> list[Comparison]:
    """What the village's labelers say of these tasks, one of them each."""
    people = Pool(seed)
    return [people.rank(item.prompt, item.completions) for item in items]


def trained(items: Sequence[Comparison], folder: Path, seed: int) -> RewardModel:
    """A reward model of these rankings, by the verb."""
    data = folder.with_suffix(".jsonl")
    write_records(data, items)
    words = [f"model={RUNS / 'demo-0/sft/model'}", f"data={data}", f"out={folder}", "batch_size=4", "lr=8e-4", "epochs=1", f"seed={seed}"]
    subprocess.run([sys.executable, "-m", "trimtab", "reward", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return RewardModel(folder)


def accuracy(model: RewardModel) -> float:
    """The share of held-out pairs that it orders as the labelers did."""
    return float(reward_quality(model, str(RUNS / "demo-0/rankings-held-out/rankings.jsonl"), 0)["accuracy"]["value"])


def one_seed(seed: int) -> dict[str, float]:
    """Accuracy on held-out pairs after so many labels, chosen in each way."""
    folder = RUNS / "label-saving" / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    items = together(read_comparisons(RUNS / "demo-0/answers/answers.jsonl"), str(RUNS / "demo-0/answers-base/answers.jsonl"))
    order = generator(seed, "saving").permutation(len(items))
    items = [items[i] for i in order]
    start, pool = items[:START], items[START : START + POOL]
    members = [trained(labelled(start, seed), folder / f"start-{m}", seed * 100 + m) for m in range(MEMBERS)]
    out = {"random 100": accuracy(members[0])}
    for n in CURVE[1:]:
        out[f"random {n}"] = accuracy(trained(labelled(items[:n], seed), folder / f"random-{n}", seed * 100))
    unranked = [replace(c, ranks=(None,) * len(c.ranks)) for c in pool]
    judges = {"spread": Ensemble(members, "mean"), "margin": members[0]}
    for name, judge in judges.items():
        values = np.array(uncertainty(judge, unranked))
        chosen = [pool[i] for i in np.argsort(-values)[:START]]
        out[f"{name} 200"] = accuracy(trained(labelled([*start, *chosen], seed), folder / name, seed * 100))
    return out


def needed(curve: Sequence[float], reached: float) -> float:
    """How many labels random choice needs for an accuracy, read off the line between the measured points (the ends where it is outside)."""
    best = np.maximum.accumulate(np.array(curve))
    return float(np.interp(reached, best, np.array(CURVE, dtype=float)))


def saving(seeds: Sequence[int] = SEEDS) -> dict[str, Any]:
    """All seeds, as bench/proof.py keeps them. The saving is of mean accuracies; it may be negative."""
    found = [one_seed(seed) for seed in seeds]
    mean = {name: float(np.mean([f[name] for f in found])) for name in found[0]}
    curve = [mean[f"random {n}"] for n in CURVE]
    lines = [", ".join(f"{name} {100 * value:.1f} %" for name, value in mean.items()) + f" (mean of {len(found)} seeds)."]
    for way in ("spread", "margin"):
        labels = needed(curve, mean[f"{way} 200"])
        gain = [f[f"{way} 200"] - f["random 200"] for f in found]
        each = ", ".join(f"{100 * g:+.1f}" for g in gain)
        lines.append(
            f"By {way}, 200 labels are worth {labels:.0f} chosen at random: {100 * (1 - 200 / labels):.0f} % saved; "
            f"points over 200 at random, seed by seed: {each}."
        )
    return {"asked": [], "lines": lines, "means": mean}


if __name__ == "__main__":
    began = time.monotonic()
    print(json.dumps(saving([int(word) for word in sys.argv[1:]] or SEEDS), indent=1), time.monotonic() - began)
