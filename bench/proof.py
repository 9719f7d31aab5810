"""Makes the acceptance measurements and writes docs/proof.json and docs/results.md; `make proof`.

Each measurement is a command anyone can run; what it measured stands beside it with the commit. docs/results.md is made from
docs/proof.json alone, and a test fails when the two differ, so no figure there can be typed by hand.

    python bench/proof.py [demo-0 base english ...]   run these parts (all when none is named), then write both files
    python bench/proof.py --render                    only docs/results.md, from docs/proof.json
"""

import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.data.formats import read_prompts
from trimtab.records import Prompt
from trimtab.village import compose
from trimtab.village.draw import draw
from trimtab.village.judge import judge
from trimtab.village.world import world

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
PROOF, RESULTS = ROOT / "docs" / "proof.json", ROOT / "docs" / "results.md"
RUNS = ROOT / "runs" / "proof"
SEEDS = (0, 1, 2)


def trimtab(*words: str) -> tuple[str, float]:
    """Runs the command; returns it as one writes it, and its seconds."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "trimtab", *words], cwd=ROOT, check=True)
    return "trimtab " + " ".join(words), time.monotonic() - began


def demo(seed: int) -> dict[str, Any]:
    """The village demo for one seed."""
    folder = RUNS / f"demo-{seed}"
    command, _ = trimtab("demo", "--seed", str(seed), "--out", str(folder.relative_to(ROOT)))
    recipe = json.loads((folder / "recipe.json").read_text())
    seconds = {"wall_seconds": recipe["wall_seconds"], "peak_memory_bytes": recipe["peak_memory_bytes"]}
    return {f"demo seed {seed}": {"command": command, **seconds, "results": json.loads((folder / "results.json").read_text())}}


def base() -> dict[str, Any]:
    """The shipped base model, made again: how far the two are apart on held-out text."""
    folder = RUNS / "base"
    command, seconds = trimtab("run", "village-base", "--out", str(folder.relative_to(ROOT)))
    made = final_loss(folder / "base" / "metrics.jsonl")
    shipped = json.loads((ROOT / "trimtab/village/base/made.json").read_text())["eval_loss"]
    return {"base": {"command": command, "wall_seconds": seconds, "eval_loss": made, "shipped_eval_loss": shipped}}


def english() -> dict[str, Any]:
    """The English recipe on real files, at full scale; pairs and instructions are split by position into 90 and 10 %."""
    import gzip

    folder = RUNS / "english-data"
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(DATA / "preferences/hh_harmless.jsonl.gz", "rt", encoding="utf-8") as lines:
        pairs = list(lines)
    for name, part in (("train", [p for i, p in enumerate(pairs) if i % 10]), ("held_out", pairs[::10])):
        (folder / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")
    tasks = json.loads((DATA / "demonstrations/short_instructions.json").read_text(encoding="utf-8"))
    for name, rows in (("tasks", [t for i, t in enumerate(tasks) if i % 10]), ("test_tasks", tasks[::10])):
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    words = [
        f"text={DATA}/text/novels", f"demonstrations={folder}/tasks.json", f"prompts={folder}/tasks.json",
        f"test_prompts={folder}/test_tasks.json", f"comparisons={folder}/train.jsonl", f"held_out={folder}/held_out.jsonl",
    ]  # fmt: skip
    out = RUNS / "english"
    _, seconds = trimtab("run", "english", *words, "--out", str(out.relative_to(ROOT)))
    shown = "trimtab run english text=novels demonstrations=short_instructions (90 %) prompts=the same test_prompts=the other 10 % "
    shown += "comparisons=hh_harmless (90 %) held_out=hh_harmless (10 %)"
    return {"english": {"command": shown, "wall_seconds": seconds, "results": json.loads((out / "results.json").read_text())}}


CARELESS = ("always refuse", "longest of 8", "copy of the prompt", "all facts")


def checks() -> dict[str, Any]:
    """On demo seed 0: how much room SFT leaves, that careless policies lose, and that an unheld PPO games its reward."""
    demo_0, folder = RUNS / "demo-0", RUNS / "checks"
    prompts = read_prompts(str(demo_0 / "world/prompts.test.jsonl"))
    many, eight = folder / "sft-64.jsonl", demo_0 / "test-sft-8/answers.jsonl"
    command, sampled = trimtab("sample", at(demo_0 / "sft/model"), at(demo_0 / "world/prompts.test.jsonl"), "-k", "64", "-o", at(many))
    scores = [[judge(p, text).score for text in answers] for p, answers in zip(prompts, texts(many), strict=True)]
    longest = [max(answers, key=lambda text: len(text.split())) for answers in texts(eight)]
    refusals = ["I am sorry, but I can not share that."] * len(prompts)
    policies = [refusals, longest, [p.text for p in prompts], [all_facts(p) for p in prompts]]
    gold = {"SFT, mean of 64": float(np.mean(scores)), "best of 64 by gold": float(np.mean([max(row) for row in scores]))}
    for name, answers in zip(CARELESS, policies, strict=True):
        gold[name] = float(np.mean([judge(p, text).score for p, text in zip(prompts, answers, strict=True)]))
    config = json.loads((demo_0 / "ppo/run.json").read_text())["config"]
    kept = ("model", "data", "reward", "gold", "batch_size", "num_completions", "minibatch_size", "epochs_per_batch", "lr", "seed")
    words = [*(f"{name}={config[name]}" for name in kept), f"steps={5 * config['steps']}", "beta=0"]
    unheld, seconds = trimtab("ppo", *words, f"out={at(folder / 'ppo-unheld')}")
    curves = {name: block_means(series(folder / "ppo-unheld/metrics.jsonl", name)) for name in ("reward/proxy", "reward/gold")}
    proxy, said = curves["reward/proxy"], curves["reward/gold"]
    gamed = {"proxy first": proxy[0], "proxy last": proxy[-1], "gold first": said[0], "gold peak": max(said), "gold last": said[-1]}
    return {
        "careless policies and best of 64": {"command": command, "wall_seconds": sampled, "gold": gold},
        "PPO without a KL penalty, five times longer": {"command": unheld, "wall_seconds": seconds, "means of ten iterations": gamed},
    }


def at(path: Path) -> str:
    """As one writes it in the project's folder."""
    return str(path.relative_to(ROOT))


def texts(path: Path) -> list[list[str]]:
    """The answers of each line of a file of `trimtab sample`."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [[c["text"] for c in row["completions"]] for row in rows]


def all_facts(prompt: Prompt) -> str:
    """Everything public of whom the prompt is about (of one person, if it is about nobody)."""
    subject = prompt.extra["task"].get("subject")
    entity = world().entities[subject] if subject in world().entities else world().of("person", "test")[0]
    return compose.description(draw(0, "all facts", prompt.id), entity, compose.public_relations(entity))


def series(metrics: Path, name: str) -> list[float]:
    """A metric's values, step after step."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [row["value"] for row in rows if row["name"] == name]


def block_means(values: list[float], width: int = 10) -> list[float]:
    """Means of every ``width`` values in turn; a shorter rest is left out."""
    return [float(np.mean(values[i : i + width])) for i in range(0, len(values) - width + 1, width)]


def final_loss(metrics: Path) -> float:
    """The last eval/loss of a run."""
    return series(metrics, "eval/loss")[-1]


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    **{f"demo-{seed}": functools.partial(demo, seed) for seed in SEEDS}, "checks": checks, "base": base, "english": english,
}  # fmt: skip


def render(proof: Mapping[str, Any]) -> str:
    """docs/results.md from docs/proof.json."""
    lines = ["# Results", "", "Made from `docs/proof.json` by `bench/proof.py`; not edited by hand. Intervals are 95 %.", ""]
    for name, entry in proof.items():
        lines += [f"## {name}", "", f"`{entry['command']}`, commit {entry['commit']}, {entry['wall_seconds'] / 60:.1f} minutes"]
        lines[-1] += f", peak memory {entry['peak_memory_bytes'] / 1e9:.1f} GB." if "peak_memory_bytes" in entry else "."
        lines.append("")
        if "eval_loss" in entry:
            shipped = f"of the shipped weights {entry['shipped_eval_loss']:.4f}"
            lines += [f"Held-out loss {entry['eval_loss']:.4f}; {shipped} nats per token.", ""]
        for title in ("gold", "means of ten iterations"):
            if title in entry:
                lines += [f"{title.capitalize()}: " + ", ".join(f"{k} {v:.2f}" for k, v in entry[title].items()) + ".", ""]
        if "results" in entry:
            lines += table(entry["results"])
    return "\n".join(lines).rstrip() + "\n"


def table(results: Mapping[str, Any]) -> list[str]:
    """One evaluation's results as a table and a sentence."""
    columns = [("gold", "score", 1), ("win_rate", "win rate %", 100), ("invented", "invented %", 100)]
    columns += [("told_secret", "secrets told %", 100), ("words", "words", 1), ("kl", "KL", 1), ("reward", "reward", 1)]
    lines = ["| model | " + " | ".join(title for _, title, _ in columns) + " |", "|" + "---|" * (len(columns) + 1)]
    for model in results["models"]:
        lines.append(f"| {model['title']} | " + " | ".join(cell(model["figures"].get(k), f) for k, _, f in columns) + " |")
    for pair, figures in results.get("paired", {}).items():
        if pair.startswith(("dpo-", "ppo-")):
            changes = [f"{k} {cell(figures.get(k), f)}" for k, _, f in columns if figures.get(k)]
            lines += ["", f"Paired difference {pair}: {'; '.join(changes)}."]
    quality = results.get("reward_model")
    if quality:
        said = [f"accuracy {cell(quality['accuracy'], 100)} % on {quality['pairs']} held-out pairs"]
        said.append(f"longest answer {cell(quality['longest'], 100)} %")
        if quality.get("labeler_agreement"):
            said.append(f"two labelers agree on {cell(quality['labeler_agreement'], 100)} %")
        lines += ["", f"Reward model: {'; '.join(said)}."]
    return [*lines, ""]


def cell(figure: Mapping[str, Any] | None, factor: int) -> str:
    """``62.1 [57.0, 67.2]``."""
    if not figure or figure.get("value") is None:
        return "-"
    digits = 1 if factor == 100 else 2
    value = f"{figure['value'] * factor:.{digits}f}"
    return value if figure.get("low") is None else f"{value} [{figure['low'] * factor:.{digits}f}, {figure['high'] * factor:.{digits}f}]"


def main(words: list[str]) -> None:
    """Runs the named parts and writes both files."""
    proof = json.loads(PROOF.read_text()) if PROOF.exists() else {}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    for name in [] if words == ["--render"] else words or list(PARTS):
        for title, entry in PARTS[name]().items():
            proof[title] = {"commit": commit, **entry}
            PROOF.write_text(json.dumps(proof, indent=1) + "\n")
    RESULTS.write_text(render(proof))


if __name__ == "__main__":
    main(sys.argv[1:])
