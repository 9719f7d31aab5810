"""Every training method on the village, from the same SFT model, at the same tuning budget and the same compute; three seeds.

    python bench/village_proof.py run [--workers N] [--seeds 0 1 2] [METHOD ...]   what is not there yet; may be stopped and started again
    python bench/village_proof.py table                                            the results so far, as docs/proof.json's entry
    python bench/proof.py methods-village                                          runs what is missing, and writes the docs

Each method has three settings to choose from, stated below. All are trained on seed 0 and answer the validation prompts; the one whose
answers the gold judge prefers to SFT's most often is trained on the other seeds and answers the test prompts. A training takes about
``BUDGET`` seconds of one core; methods on fixed rankings read them once, which takes about as long. Every process has one thread, so that
seconds of processor time can be compared although several run at once.

It needs runs/proof/demo-0, -1 and -2 (``python bench/proof.py demo-0 demo-1 demo-2``).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from trimtab.common.stats import mean_interval, share_interval
from trimtab.evaluation.winrate import TIE
from trimtab.models.load import load_policy
from trimtab.models.nf4 import NF4Linear

ROOT = Path(__file__).resolve().parents[1]
DEMOS, RUNS = ROOT / "runs" / "proof", ROOT / "runs" / "methods"
BUDGET = 150.0
SPLITS = {"validation": ("prompts.validation.jsonl", 21), "test": ("prompts.test.jsonl", 22)}


@dataclass(frozen=True)
class Tried:
    """A method as it is run here: its verb, the settings that all trials share, and the three that are chosen from."""

    title: str
    verb: str
    shared: tuple[str, ...]
    trials: tuple[tuple[str, ...], ...]


def rates(*values: str) -> tuple[tuple[str, ...], ...]:
    """Trials that differ in their learning rate."""
    return tuple((f"lr={value}",) for value in values)


ONLINE = ("batch_size=64", "num_completions=4", "beta=0.15")
METHODS = {
    "dpo": Tried("DPO", "dpo", ("beta=0.05", "sft_weight=0.5"), rates("1e-4", "2e-4", "4e-4")),
    "ppo": Tried("PPO, clipped", "ppo", (*ONLINE, "steps=22", "minibatch_size=8", "epochs_per_batch=1"), rates("1.5e-4", "3e-4", "6e-4")),
    "ppo-penalty": Tried(
        "PPO, KL penalty", "ppo", (*ONLINE, "steps=22", "minibatch_size=8", "epochs_per_batch=1", "variant=penalty"),
        rates("1.5e-4", "3e-4", "6e-4"),
    ),
    "trpo": Tried(
        "TRPO", "trpo", ("batch_size=32", "num_completions=4", "beta=0.15", "steps=7", "trust.cg_iterations=6"),
        (("trust.delta=0.02",), ("trust.delta=0.05",), ("trust.delta=0.1",)),
    ),
    "scst": Tried("SCST", "scst", (*ONLINE, "steps=25"), rates("3e-4", "6e-4", "1.2e-3")),
    "rloo": Tried("RLOO", "rloo", (*ONLINE, "steps=26"), rates("3e-4", "6e-4", "1.2e-3")),
    "grpo": Tried("GRPO", "grpo", (*ONLINE, "steps=24", "minibatch_size=8"), rates("1.5e-4", "3e-4", "6e-4")),
    "bon": Tried(
        "iterated best of 8", "bon", ("batch_size=32", "num_completions=8", "minibatch_size=8", "steps=40"), rates("1e-4", "2e-4", "4e-4")
    ),
    "slic": Tried("SLiC, direct", "slic", ("sft_weight=0.5",), rates("1e-4", "2e-4", "4e-4")),
    "slic-sampled": Tried("SLiC-HF, sample and rank", "slic", ("pairs=tournament", "sft_weight=0.5"), rates("1e-4", "2e-4", "4e-4")),
    "triplet": Tried("triplet", "triplet", (), rates("5e-5", "1e-4", "2e-4")),
    "ipo": Tried("IPO", "dpo", ("loss=ipo", "beta=0.1", "sft_weight=0.5"), rates("1e-4", "2e-4", "4e-4")),
    "kto": Tried("KTO", "kto", ("beta=0.1",), rates("1e-4", "2e-4", "4e-4")),
    "orpo": Tried("ORPO", "orpo", (), (("lr=2e-4", "odds_weight=0.1"), ("lr=2e-4", "odds_weight=1"), ("lr=4e-4", "odds_weight=1"))),
    "simpo": Tried("SimPO", "simpo", (), rates("5e-5", "1e-4", "2e-4")),
    "dpo-lora": Tried(
        "DPO, LoRA", "dpo", ("beta=0.05", "sft_weight=0.5", "lora.rank=6", "lora.alpha=12"), rates("1e-3", "2e-3", "4e-3")
    ),
    "dpo-qlora": Tried(
        "DPO, QLoRA", "dpo", ("beta=0.05", "sft_weight=0.5", "lora.rank=6", "lora.alpha=12", "lora.quantize=nf4"),
        rates("1e-3", "2e-3", "4e-3"),
    ),
    "ppo-lora": Tried(
        "PPO, LoRA", "ppo", (*ONLINE, "steps=22", "minibatch_size=8", "epochs_per_batch=1", "lora.rank=6", "lora.alpha=12"),
        rates("1e-3", "2e-3", "4e-3"),
    ),
}  # fmt: skip


def words(tried: Tried, seed: int) -> list[str]:
    """What the verb is told besides the trial and the folder."""
    demo = DEMOS / f"demo-{seed}"
    out = [f"model={at(demo / 'sft/model')}", f"seed={seed}", "threads=1", *tried.shared]
    if "num_completions=4" in tried.shared or "num_completions=8" in tried.shared:
        return [*out, f"data={at(demo / 'world/prompts.train.jsonl')}", f"reward=reward:{at(demo / 'reward/model')}", "gold=village"]
    if "pairs=tournament" in tried.shared:
        return [*out, f"data={at(RUNS / 'candidates' / str(seed) / 'ranked.jsonl')}", "batch_size=16"]
    return [*out, f"data={at(demo / 'rankings/rankings.jsonl')}", "models=[sft]", "batch_size=16"]


def call(folder: Path, name: str, command: Sequence[str]) -> dict[str, Any]:
    """Runs ``trimtab`` unless ``folder`` says that it was done; returns the command, its processor seconds and its peak memory."""
    done = folder / f"{name}.json"
    if done.exists():
        return json.loads(done.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with open(folder / f"{name}.log", "w") as log:
        began = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "trimtab", *command], cwd=ROOT, env=environment, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{folder / name}.log: exit status {process.returncode} of trimtab {' '.join(command)}")
    out = {
        "command": "trimtab " + " ".join(command), "cpu_seconds": used.ru_utime + used.ru_stime,
        "wall_seconds": time.monotonic() - began, "peak_memory_bytes": used.ru_maxrss * 1024,
    }  # fmt: skip
    done.write_text(json.dumps(out, indent=1) + "\n")
    return out


def candidates(seed: int) -> None:
    """What SLiC-HF's sample-rank form learns from: eight answers of SFT to a prompt, drawn as in the paper, ranked by the reward model."""
    demo, folder = DEMOS / f"demo-{seed}", RUNS / "candidates" / str(seed)
    many, drawn = folder / "answers.jsonl", ["num_completions=8", "temperature=0.7", "top_k=40", "limit=2000"]
    prompts = at(demo / "world/prompts.train.jsonl")
    with LOCKS.setdefault(str(folder), threading.Lock()):
        call(folder, "answers", ["sample", at(demo / "sft/model"), prompts, *drawn, f"seed={seed}", f"out={at(many)}"])
        by = f"by=reward:{at(demo / 'reward/model')}"
        call(folder, "ranked", ["rank", at(many), by, f"seed={seed}", f"out={at(folder / 'ranked.jsonl')}"])


def train(method: str, trial: int, seed: int) -> Path:
    """The folder of a trial's run, trained."""
    tried, folder = METHODS[method], RUNS / method / f"trial-{trial}" / str(seed)
    if "pairs=tournament" in tried.shared:
        candidates(seed)
    if not (folder / "train.json").exists():
        shutil.rmtree(folder / "run", ignore_errors=True)  # begun and stopped: what the first part took was not noted
    call(folder, "train", [tried.verb, *words(tried, seed), *tried.trials[trial], f"out={at(folder / 'run')}"])
    return folder


def judged(folder: Path, seed: int, split: str, model: Path | None = None) -> None:
    """Samples ``folder``'s model on the prompts of ``split``, and has the gold judge compare them with SFT's."""
    demo, (file, stream) = DEMOS / f"demo-{seed}", SPLITS[split]
    prompts = demo / "world" / file
    sft = RUNS / "sft" / str(seed)
    for where, source, name, its_stream in ((sft, demo / "sft/model", "sft", 20), (folder, model or folder / "run/model", "model", stream)):
        with LOCKS.setdefault(str(where / split), threading.Lock()):
            asked = ["num_completions=4", f"seed={seed}", f"stream={its_stream}", f"name={name}", f"out={at(where / f'{split}.jsonl')}"]
            call(where, split, ["sample", at(source), at(prompts), *asked])
    pairs = f"answers={{sft: {at(sft / f'{split}.jsonl')}, model: {at(folder / f'{split}.jsonl')}}}"
    policies = [f"models={{model: {at(model or folder / 'run/model')}}}", f"reference={at(demo / 'sft/model')}"]
    reward = f"reward={at(demo / 'reward/model')}"
    call(folder, f"{split}-judged", ["eval", "winrate", pairs, *policies, reward, f"out={at(folder / f'{split}-judged')}"])


LOCKS: dict[str, threading.Lock] = {}


def results(folder: Path, split: str) -> dict[str, Any]:
    """Figures of the model in ``folder``."""
    found = json.loads((folder / f"{split}-judged" / "results.json").read_text())
    return next(model["figures"] for model in found["models"] if model["name"] == "model")


def chosen(method: str) -> int | None:
    """The trial whose answers to the validation prompts won most often; None while one is missing."""
    folders = [RUNS / method / f"trial-{trial}" / "0" for trial in range(len(METHODS[method].trials))]
    if not all((folder / "validation-judged.json").exists() for folder in folders):
        return None
    return int(np.argmax([results(folder, "validation")["win_rate"]["value"] for folder in folders]))


def tune(method: str, trial: int) -> None:
    judged(train(method, trial, 0), 0, "validation")


def measure(method: str, seed: int) -> None:
    trial = chosen(method)
    assert trial is not None, f"{method}: a trial failed"
    judged(train(method, trial, seed), seed, "test")


def run(methods: Sequence[str], seeds: Sequence[int], workers: int) -> None:
    """Trials first, method by method; then the chosen one on every seed."""
    trials = [(tune, method, trial) for method in methods for trial in range(3)]
    tests = [(measure, method, seed) for seed in seeds for method in methods]
    with ThreadPoolExecutor(workers) as pool:
        for phase in (trials, tests, [(without_training, seed) for seed in seeds]):
            began = time.monotonic()
            jobs = [pool.submit(*one) for one in phase]
            for i, job in enumerate(as_completed(jobs)):
                if job.exception():
                    pool.shutdown(cancel_futures=True)  # what runs already is finished first
                job.result()
                print(f"{i + 1} of {len(phase)}, {(time.monotonic() - began) / 60:.1f} minutes", flush=True)


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


def entry(seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:
    """What docs/proof.json holds of this comparison: the methods that have answered the test prompts on all ``seeds``."""
    rows, trials, prompts = {}, {}, {}
    for name, tried in METHODS.items():
        trial = chosen(name)
        if trial is None:
            continue
        won = [results(RUNS / name / f"trial-{t}" / "0", "validation")["win_rate"]["value"] for t in range(3)]
        trials[name] = {" ".join(words): rate for words, rate in zip(tried.trials, won, strict=True)}
        folders = [RUNS / name / f"trial-{trial}" / str(seed) for seed in seeds]
        if not all((folder / "test-judged.json").exists() for folder in folders):
            continue
        command = " ".join([f"trimtab {tried.verb}", *tried.shared, *tried.trials[trial]])
        rows[name] = {"title": tried.title, **measured(folders, command), **costs(folders)}
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


PAIRS = (
    ("ppo-penalty", "ppo"), ("trpo", "ppo"), ("scst", "ppo"), ("rloo", "ppo"), ("grpo", "ppo"), ("dpo", "ppo"), ("slic", "dpo"),
    ("dpo-lora", "dpo"), ("dpo-qlora", "dpo"), ("ppo-lora", "ppo"), ("slic-sampled", "slic"), ("ppo", "best-of-8"), ("dpo", "best-of-8"),
)  # fmt: skip


def difference(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, Any]:
    """The paired difference of two methods' win rates, prompt by prompt."""
    return mean_interval([a[prompt] - b[prompt] for prompt in sorted(a)]).to_json()


def costs(folders: Sequence[Path]) -> dict[str, Any]:
    """Processor seconds and peak memory of the trainings, and the share of the weights that has gradients and moments."""
    spent = [json.loads((folder / "train.json").read_text()) for folder in folders]
    run = folders[0] / "run"
    every = weights(run / "model")
    trained = weights(run / "adapter") if (run / "adapter").exists() else every
    return {
        "cpu_seconds": float(np.mean([s["cpu_seconds"] for s in spent])), "peak_memory_bytes": max(s["peak_memory_bytes"] for s in spent),
        "trained_share": trained / every,
    }  # fmt: skip


def weights(folder: Path) -> int:
    """How many numbers the safetensors files of ``folder`` hold."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            total += sum(int(np.prod(tensors.get_slice(key).get_shape())) for key in tensors.keys())
    return total


def without_training(seed: int) -> None:
    """The line to beat: of eight answers of SFT the one that the reward model prefers."""
    demo, folder = DEMOS / f"demo-{seed}", RUNS / "best-of-8" / str(seed)
    prompts, reward = at(demo / "world/prompts.test.jsonl"), f"reward:{at(demo / 'reward/model')}"
    many, best = folder / "eight.jsonl", folder / "test.jsonl"
    call(folder, "eight", ["sample", at(demo / "sft/model"), prompts, "num_completions=8", f"seed={seed}", "stream=23", f"out={at(many)}"])
    call(folder, "test", ["rank", at(many), f"by={reward}", f"out={at(best)}"])
    judged(folder, seed, "test", model=demo / "sft/model")


def part() -> dict[str, Any]:
    """Runs what is missing, and says what all runs gave."""
    run(list(METHODS), (0, 1, 2), os.cpu_count() or 1)
    made = entry()
    seconds = sum(json.loads(file.read_text())["wall_seconds"] for file in RUNS.rglob("*.json") if file.parent.name.isdigit())
    command = "python bench/village_proof.py run"
    return {"every method on the village": {"area": "village_proof", "command": command, "wall_seconds": seconds, **made}}


PARTS = {"methods-village": part}
ALIKE = ("ppo-penalty - ppo", "trpo - ppo", "scst - ppo")


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
        f"Three seeds; each training takes about {entry['budget_cpu_seconds']:.0f} s of one core or reads the rankings once. Of three "
        "settings the one that won most on validation prompts (seed 0) answers the test prompts.", "",
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


def at(path: Path) -> str:
    """As one writes it in the project's folder."""
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("methods", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    if asked.what == "table":
        print(json.dumps(entry(asked.seeds), indent=1))
    else:
        run(asked.methods or list(METHODS), asked.seeds, asked.workers)
