"""Every training method on the village, from the same SFT model, at the same tuning budget and the same compute, over seeds.

    python bench/village_runs.py [--workers N] [--seeds 0 1 2] [METHOD ...]   what is not there yet; may be stopped and started again
    python bench/village_runs.py --tuned --seeds 3 4 [METHOD ...]             no trials: settings that docs/proof.json says were best
    python bench/proof.py methods-village methods-village-more               runs what is missing of both, and writes the docs

Each method has three settings to choose from, stated below; six where the best of three lay at their edge or lost to SFT, and nine where
the best of six did so again (``AGAIN``). All are trained on one seed and answer the validation prompts; the one whose answers the gold
judge prefers to SFT's most often is trained on the other seeds and answers the test prompts. More seeds need no trials. A training
takes about ``BUDGET`` seconds of one core where bf16 products are fast; methods on fixed rankings read them once, which takes about as
long. Every process has one thread, so that seconds of processor time can be compared although several run at once.

It needs runs/proof/demo-SEED of every seed (``trimtab demo --seed 3 --out runs/proof/demo-3``), up to its reward model.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DEMOS, RUNS = ROOT / "runs" / "proof", ROOT / "runs" / "methods"
RECORDED, TITLE = ROOT / "docs" / "proof.json", "every method on the village"
BUDGET, SEEDS = 150.0, (0, 1, 2)
SPLITS = {"validation": ("prompts.validation.jsonl", 21), "test": ("prompts.test.jsonl", 22)}


@dataclass(frozen=True)
class Tried:
    """A method as it is run here: its verb, the settings that all trials share, and those that are chosen from."""

    title: str
    verb: str
    shared: tuple[str, ...]
    trials: tuple[tuple[str, ...], ...]

    @property
    def online(self) -> bool:
        """Whether it learns from answers of its own."""
        return any(word.startswith("num_completions=") for word in self.shared)

    @property
    def ranked(self) -> bool:
        """Whether it learns from the start model's answers, which the reward model has ranked."""
        return "pairs=tournament" in self.shared


def rates(*values: str) -> tuple[tuple[str, ...], ...]:
    """Trials that differ in their learning rate."""
    return tuple((f"lr={value}",) for value in values)


ONLINE = ("batch_size=64", "num_completions=4", "beta=0.15")
TRPO = ("num_completions=4", "beta=0.15", "trust.cg_iterations=5", "trust.fisher_prompts=8")
METHODS = {
    "dpo": Tried("DPO", "dpo", ("beta=0.05", "sft_weight=0.5"), rates("1e-4", "2e-4", "4e-4")),
    "ppo": Tried("PPO, clipped", "ppo", (*ONLINE, "steps=22", "minibatch_size=8", "epochs_per_batch=1"), rates("1.5e-4", "3e-4", "6e-4")),
    "ppo-penalty": Tried(
        "PPO, KL penalty", "ppo", (*ONLINE, "steps=22", "minibatch_size=8", "epochs_per_batch=1", "variant=penalty"),
        rates("1.5e-4", "3e-4", "6e-4"),
    ),
    "trpo": Tried(
        "TRPO", "trpo", TRPO,
        (("batch_size=64", "steps=10", "trust.delta=0.02"), ("batch_size=64", "steps=10", "trust.delta=0.04"),
         ("batch_size=64", "steps=10", "trust.delta=0.02", "trust.damping=1"), ("batch_size=32", "steps=16", "trust.delta=0.02")),
    ),
    "trpo-constant": Tried(
        "TRPO, constant delta", "trpo", ("batch_size=64", *TRPO, "steps=10", "trust.final_step=1"),
        (("trust.delta=0.005",), ("trust.delta=0.01",), ("trust.delta=0.02",)),
    ),
    "trpo-22": Tried(
        "TRPO, as many iterations as PPO", "trpo", ("batch_size=64", *TRPO, "steps=22"), (("trust.delta=0.02", "trust.damping=1"),)
    ),
    "trpo-40": Tried("TRPO, 40 iterations", "trpo", ("batch_size=64", *TRPO, "steps=40"), (("trust.delta=0.02", "trust.damping=1"),)),
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


# What three settings said of each: lower rates for those whose least was best and too much; per token for hinges on whole answers, which
# ask for length; KTO's weights balanced as its paper asks (a ranking has one best answer and several others).
BALANCED, NORMALISED = "desirable_weight=4", "length_normalised=true"
AGAIN: dict[str, tuple[tuple[str, ...], ...]] = {
    "bon": rates("1.2e-5", "2.5e-5", "5e-5"),
    "grpo": (("lr=7.5e-5",), *((rate, "divide_by_std=false", "length=constant") for rate in ("lr=1.5e-4", "lr=3e-4"))),
    "trpo-constant": (("trust.delta=0.03",), ("trust.delta=0.04",), ("trust.delta=0.08",)),
    "slic": tuple((rate, "delta=0.2", NORMALISED) for rate in ("lr=5e-5", "lr=1e-4", "lr=2e-4")),
    "slic-sampled": tuple((rate, "delta=0.2", NORMALISED) for rate in ("lr=5e-5", "lr=1e-4", "lr=2e-4")),
    "triplet": tuple(
        (f"lr={rate}", f"delta={delta}", NORMALISED)
        for rate, delta in (("2e-5", 0.2), ("5e-5", 0.2), ("1e-4", 0.2), ("2e-4", 0.2), ("4e-4", 0.2), ("2e-4", 0.5))
    ),
    "ipo": (("lr=5e-5",), ("lr=1e-4", "beta=0.3"), ("lr=1e-4", "beta=1")),
    "kto": tuple((rate, BALANCED) for rate in ("lr=2e-5", "lr=5e-5", "lr=1e-4")),
}  # fmt: skip
METHODS |= {name: replace(METHODS[name], trials=(*METHODS[name].trials, *more)) for name, more in AGAIN.items()}
# The seed of a method's trials, 0 if none is said. QLoRA's first ones had wrong weights, TRPO's a constant delta (docs/log.md).
TUNED_ON = {"dpo-qlora": 3, "trpo": 3}
# More seeds, and who is trained on them: those of which five seeds, or a comparison with others, asked for more.
MORE: dict[int, Sequence[str]] = {
    3: tuple(METHODS), 4: tuple(METHODS), 5: ("dpo", "ppo", "trpo", "trpo-22", "trpo-40", "dpo-lora", "dpo-qlora"),
    **dict.fromkeys((6, 7), ("ppo", "ppo-penalty", "trpo", "trpo-40", "scst")),
}  # fmt: skip


def words(tried: Tried, seed: int) -> list[str]:
    """What the verb is told besides the trial and the folder."""
    demo = DEMOS / f"demo-{seed}"
    out = [f"model={at(demo / 'sft/model')}", f"seed={seed}", "threads=1", *tried.shared]
    if tried.online:
        return [*out, f"data={at(demo / 'world/prompts.train.jsonl')}", f"reward=reward:{at(demo / 'reward/model')}", "gold=village"]
    if tried.ranked:
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
    if tried.ranked:
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


def trials_of(method: str) -> list[Path]:
    """The folders of a method's trials, on the seed that it is tuned on."""
    return [RUNS / method / f"trial-{trial}" / str(TUNED_ON.get(method, 0)) for trial in range(len(METHODS[method].trials))]


def chosen(method: str) -> int | None:
    """The trial whose answers to the validation prompts won most often; None while one is missing here and none is recorded."""
    trials = METHODS[method].trials
    if len(trials) == 1:
        return 0
    folders = trials_of(method)
    if all((folder / "validation-judged.json").exists() for folder in folders):
        return int(np.argmax([results(folder, "validation")["win_rate"]["value"] for folder in folders]))
    for group in json.loads(RECORDED.read_text()).get(TITLE, {}).get("groups", []) if RECORDED.exists() else []:
        won = group["trials"].get(method, {})
        if all(" ".join(words) in won for words in trials):
            return int(np.argmax([won[" ".join(words)] for words in trials]))
    return None


def tune(method: str, trial: int) -> None:
    seed = TUNED_ON.get(method, 0)
    judged(train(method, trial, seed), seed, "validation")


def measure(method: str, seed: int) -> None:
    trial = chosen(method)
    assert trial is not None, f"{method}: a trial failed"
    judged(train(method, trial, seed), seed, "test")


def run(methods: Sequence[str], seeds: Sequence[int], workers: int, *, tuned: bool = False) -> None:
    """Trials first, method by method, unless they are ``tuned``; then the chosen one on every seed."""
    trials = [(tune, method, trial) for method in methods if not tuned for trial in range(len(METHODS[method].trials))]
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


def without_training(seed: int) -> None:
    """The line to beat: of eight answers of SFT the one that the reward model prefers."""
    demo, folder = DEMOS / f"demo-{seed}", RUNS / "best-of-8" / str(seed)
    prompts, reward = at(demo / "world/prompts.test.jsonl"), f"reward:{at(demo / 'reward/model')}"
    many, best = folder / "eight.jsonl", folder / "test.jsonl"
    call(folder, "eight", ["sample", at(demo / "sft/model"), prompts, "num_completions=8", f"seed={seed}", "stream=23", f"out={at(many)}"])
    call(folder, "test", ["rank", at(many), f"by={reward}", f"out={at(best)}"])
    judged(folder, seed, "test", model=demo / "sft/model")


def at(path: Path) -> str:
    """As one writes it in the project's folder."""
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tuned", action="store_true", help="no trials: the settings that docs/proof.json says were best")
    asked = parser.parse_args()
    run(asked.methods or list(METHODS), asked.seeds, asked.workers, tuned=asked.tuned)
