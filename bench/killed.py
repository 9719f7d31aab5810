"""kill -9 at random moments, then the same command again: ``python bench/killed.py [VERB ...]`` prints one line of JSON.

Every command runs in a process of its own, as the command line runs it; processes are forked after the imports, which take longer than
these runs. One run of each verb is never killed, a second shows what the same seed gives twice, a third is killed again and again.
"""

import json
import os
import shutil
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process that is forked must have no threads yet
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import trimtab.village
from trimtab.cli import main, verbs
from trimtab.common.rng import generator
from trimtab.training import checkpoint
from trimtab.training.folder import content_hash

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "runs" / "proof" / "engine"
BASE = Path(trimtab.village.__file__).parent / "base"
KILLS = 4
LOOK_EVERY = 0.02  # seconds

WORLD, RANKINGS, REWARD = FOLDER / "world", FOLDER / "rankings.jsonl", FOLDER / "reward" / "whole"
SAMPLED = [f"model={BASE}", f"data={WORLD}/prompts.train.jsonl", f"reward=reward:{REWARD}", "gold=village", "max_tokens=24"]
SAMPLED += ["batch_size=8", "minibatch_size=4", "epochs_per_batch=2", "lr=3e-4", "steps=6"]
RANKED = [f"model={BASE}", f"data={RANKINGS}", f"eval_data={RANKINGS}", "eval_limit=8", "eval_every=4", "batch_size=8", "steps=16"]
COMMANDS = {
    "pretrain": [
        f"data={WORLD}/text.jsonl", "hidden=96", "layers=3", "vocabulary=1000", "held_out=16", "eval_every=4", "batch_size=16", "steps=32",
    ],
    "sft": [f"model={BASE}", f"data={WORLD}/demonstrations.jsonl", "lr=6e-5", "batch_size=8", "steps=24"],
    "reward": [*RANKED, "lr=4e-4"],
    "dpo": [*RANKED, "lr=1e-4"],
    "ppo": [*SAMPLED, "num_completions=2", "kl.target=0.5", "kl.horizon=100", "normalise=running", "dtype=float32"],
    "grpo": [*SAMPLED, "num_completions=4"],
}  # fmt: skip


def begin(words: list[str], log: Path) -> int:
    """Starts a command in a process of its own, which writes to ``log``; its number."""
    child = os.fork()
    if child:
        return child
    with open(log, "a") as f:
        for stream in (1, 2):
            os.dup2(f.fileno(), stream)
        status = 1
        try:
            status = main(words)
        finally:
            os._exit(status)


def done(words: list[str]) -> float:
    """Runs a command to its end; its seconds."""
    log, began = FOLDER / "log.txt", time.monotonic()
    _, status = os.waitpid(begin(words, log), 0)
    if status:
        raise SystemExit(f"trimtab {' '.join(words)} ended with {status}: {log}")
    return time.monotonic() - began


def prepare() -> None:
    """The files that the commands read."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    done(["village", f"out={WORLD}", "demonstrations=64", "documents=300"])
    if not RANKINGS.exists():
        answers = FOLDER / "answers.jsonl"
        sampled = ["sample", str(BASE), f"{WORLD}/prompts.train.jsonl", "template=plain", "limit=48", "max_tokens=32", "-k", "4"]
        done([*sampled, "-o", str(answers), "--overwrite"])
        done(["rank", str(answers), "--by", "village", "-o", str(RANKINGS)])


def command(verb: str, folder: Path) -> list[str]:
    """One verb's words, for a run in ``folder``."""
    return [verb, *COMMANDS[verb], "save_every=3", "seed=1", "threads=1", f"out={folder}"]


def reward_model() -> Path:
    """A reward model's run: what the online methods maximise."""
    prepare()
    done(command("reward", REWARD))  # nothing to do where it is there
    return REWARD


def killed(words: list[str], folder: Path, step: int, seconds: float) -> bool:
    """Starts the command and kills it so many seconds after step ``step`` was written down; whether it was still at work then."""
    child = begin(words, FOLDER / "log.txt")
    while last_step(folder) < step and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(LOOK_EVERY)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file, none where there is no such file."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def last_step(folder: Path) -> int:
    """The last step that a run has written down; 0 before the first."""
    found = rows(folder / "metrics.jsonl")
    return int(found[-1]["step"]) if found else 0


def outcome(folder: Path) -> dict[str, str]:
    """SHA-256 of all that must not depend on kills: the saved models, the last checkpoint's weights and optimizer, metrics, samples."""
    kept = checkpoint.latest(folder / "checkpoints")
    assert kept is not None
    paths = {"model": folder / "model", "weights": kept / "weights.safetensors", "optimizer": kept / "optimizer.safetensors"}
    paths |= {name: folder / f"{name}.jsonl" for name in ("metrics", "samples") if (folder / f"{name}.jsonl").exists()}
    return {name: content_hash(path) for name, path in paths.items()}


def measured(verb: str) -> dict[str, Any]:
    """A verb never killed, again, and killed ``KILLS`` times."""
    whole, again, torn = (FOLDER / verb / name for name in ("whole", "again", "killed"))
    seconds = done(command(verb, whole))
    done(command(verb, again))
    steps, draws, found = last_step(whole), generator(0, "kills", verb), []
    step_seconds = statistics.median(row["value"] for row in rows(whole / "timing.jsonl"))
    # each within the step after one that is drawn evenly, 0 is before the first
    for step in sorted(draws.integers(0, steps, size=KILLS).tolist()):
        if killed(command(verb, torn), torn, step, float(draws.uniform(0, step_seconds))):
            found.append(last_step(torn))
    began = time.monotonic()
    done(command(verb, torn))
    expected = outcome(whole)
    return {
        "products": json.loads((whole / "run.json").read_text())["products"], "steps": steps, "seconds": seconds,
        "kills": len(found), "killed at": found, "last seconds": time.monotonic() - began,
        "weights": expected["weights"], "killed run": outcome(torn) == expected, "second run": outcome(again) == expected,
        "engine differences": [row["value"] for row in rows(whole / "metrics.jsonl") if row["name"] == "engine/max_diff"],
    }  # fmt: skip


def measure(names: list[str]) -> dict[str, dict[str, Any]]:
    """The verbs named, or all; in folders that hold nothing yet."""
    verbs()  # imports what the commands will need
    names = names or list(COMMANDS)
    for name in names:
        shutil.rmtree(FOLDER / name, ignore_errors=True)
    prepare()
    if "reward" not in names:
        reward_model()
    return {name: measured(name) for name in names}


if __name__ == "__main__":
    print("KILLED " + json.dumps(measure(sys.argv[1:])))
