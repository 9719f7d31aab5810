"""Makes the acceptance measurements and writes docs/proof.json and docs/results.md; `make proof`.

Each measurement is a command anyone can run; what it measured stands beside it with the commit. docs/results.md is made from
docs/proof.json alone, and a test fails when the two differ, so no figure there can be typed by hand.

    python bench/proof.py [demo-0 checks base english formats ...]   run these parts (all when none is named), then write both files
        (the parts of docs/proof.json took 3.2 hours in all, on two cores; the two methods-village parts eleven hours more)
    python bench/proof.py --render                                   only docs/results.md, from docs/proof.json
"""

import functools
import hashlib
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from trimtab.data.formats import read_prompts
from trimtab.feedback.reward_model import RewardModel
from trimtab.records import Prompt
from trimtab.verbs.winrate import reward_quality
from trimtab.village import compose
from trimtab.village.draw import draw
from trimtab.village.judge import judge
from trimtab.village.world import world

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
PROOF, RESULTS = ROOT / "docs" / "proof.json", ROOT / "docs" / "results.md"
RUNS = ROOT / "runs" / "proof"
SEEDS = (0, 1, 2)
T = TypeVar("T")


def trimtab(*words: str) -> tuple[str, float]:
    """Runs the command; returns it as one writes it, and its seconds."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "trimtab", *words], cwd=ROOT, check=True)
    return "trimtab " + " ".join(words), time.monotonic() - began


def area(name: str) -> Any:
    """A file of this folder, wherever this one was started from."""
    if str(ROOT / "bench") not in sys.path:
        sys.path.append(str(ROOT / "bench"))
    return importlib.import_module(name)


def demo(seed: int) -> dict[str, Any]:
    """The village demo for one seed."""
    folder = RUNS / f"demo-{seed}"
    command, seconds = trimtab("demo", "--seed", str(seed), "--out", str(folder.relative_to(ROOT)))
    # the whole command, unless an earlier call did a part of it: then the stages' own seconds are more
    whole = spent(folder)
    whole["wall_seconds"] = max(whole["wall_seconds"], seconds)
    run = json.loads((folder / "ppo" / "run.json").read_text())
    where = {"device": run["device"], "threads": run["threads"], "products": run["products"]}
    return {f"demo seed {seed}": {"command": command, **whole, **where, "results": json.loads((folder / "results.json").read_text())}}


def fresh() -> dict[str, Any]:
    """The demos' models on test prompts that nobody had seen when their settings were chosen; the same people, places and judge."""
    out = {}
    for seed in SEEDS:
        demo_folder, folder = RUNS / f"demo-{seed}", RUNS / "fresh" / str(seed)
        began = time.monotonic()
        trimtab("village", f"out={at(folder / 'world')}", "demonstrations=1", "test_draw=1")
        words = []
        models = {"base": ROOT / "trimtab/village/base", **{name: demo_folder / name / "model" for name in ("sft", "dpo", "ppo")}}
        for stream, (name, model) in enumerate(models.items(), start=1):
            answers = folder / f"{name}.jsonl"
            options = ["template=plain", "num_completions=2"] if name == "base" else ["num_completions=4"]
            options += [f"name={name}", f"seed={seed}", f"stream={stream}"]
            trimtab("sample", at(model), at(folder / "world/prompts.test.jsonl"), *options, "-o", at(answers), "--overwrite")
            words.append(f"{name}: {at(answers)}")
        command, _ = trimtab("eval", "winrate", f"answers={{{', '.join(words)}}}", "judge=village", f"out={at(folder / 'evaluation')}")
        results = json.loads((folder / "evaluation/results.json").read_text())
        out[f"other test prompts, seed {seed}"] = {"command": command, "wall_seconds": time.monotonic() - began, "results": results}
    return out


def spent(folder: Path) -> dict[str, float]:
    """Seconds and memory of a recipe, whatever part of it ran in this call."""
    recipe = json.loads((folder / "recipe.json").read_text())
    return {name: recipe[name] for name in ("wall_seconds", "peak_memory_bytes")}


def base() -> dict[str, Any]:
    """The shipped base model, made again: how far the two are apart on held-out text."""
    folder = RUNS / "base"
    command, _ = trimtab("run", "village-base", "--out", str(folder.relative_to(ROOT)))
    made = final_loss(folder / "base" / "metrics.jsonl")
    shipped = json.loads((ROOT / "trimtab/village/base/made.json").read_text())["eval_loss"]
    return {"base": {"command": command, **spent(folder), "eval_loss": made, "shipped_eval_loss": shipped}}


def english() -> dict[str, Any]:
    """The English recipe on real files, at full scale: 80 % of the pairs and 90 % of the instructions to train on, the others held out.

    Pairs of one first question and instructions of one text are in the same part.
    """
    import gzip

    folder = RUNS / "english-data"
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(DATA / "preferences/hh_harmless.jsonl.gz", "rt", encoding="utf-8") as lines:
        pairs = list(lines)
    for name, part in zip(("held_out", "train"), split(pairs, first_question, 5), strict=True):
        (folder / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")
    tasks = json.loads((DATA / "demonstrations/short_instructions.json").read_text(encoding="utf-8"))
    for name, rows in zip(("test_tasks", "tasks"), split(tasks, lambda t: t["instruction"] + t.get("input", ""), 10), strict=True):
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    words = [
        f"text={DATA}/text/novels", f"demonstrations={folder}/tasks.json", f"prompts={folder}/tasks.json",
        f"test_prompts={folder}/test_tasks.json", f"comparisons={folder}/train.jsonl", f"held_out={folder}/held_out.jsonl",
    ]  # fmt: skip
    out = RUNS / "english"
    trimtab("run", "english", *words, "--out", str(out.relative_to(ROOT)))
    shown = "trimtab run english text=novels demonstrations=short_instructions (90 %) prompts=the same test_prompts=the other 10 % "
    shown += "comparisons=hh_harmless (80 %) held_out=hh_harmless (20 %)"
    return {"english": {"command": shown, **spent(out), "results": json.loads((out / "results.json").read_text())}}


def split(rows: Sequence[T], key: Callable[[T], str], parts: int) -> tuple[list[T], list[T]]:
    """Every ``parts``-th group of rows of one key, by a hash of the key; and the others."""
    held_out = [int(hashlib.sha256(key(row).strip().lower().encode()).hexdigest(), 16) % parts == 0 for row in rows]
    return [r for r, out in zip(rows, held_out, strict=True) if out], [r for r, out in zip(rows, held_out, strict=True) if not out]


def first_question(line: str) -> str:
    """What a transcript of HH-RLHF begins with."""
    return str(json.loads(line)["chosen"]).split("\n\nAssistant:")[0]


def first_message(line: str) -> str:
    """What the conversation of a native record begins with."""
    return str(json.loads(line)["messages"][0]["content"])


def rankings() -> dict[str, Any]:
    """Reward models on rankings of K answers by people, from the English SFT model, 80 and 20 %; conversations of one first message are in
    one part (the summaries came without their articles: all of them have the same)."""
    out = {}
    files = (("oasst_trees.jsonl", [], first_message), ("summary_rankings.json", ["ranks.best=high"], lambda line: line))
    for name, words, key in files:
        folder = RUNS / "rankings" / Path(name).stem
        folder.mkdir(parents=True, exist_ok=True)
        trimtab("data", "convert", str(DATA / "preferences" / name), *words, "-o", at(folder / "all.jsonl"), "--overwrite")
        lines = (folder / "all.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        for part, rows in zip(("held_out", "train"), split(lines, key, 5), strict=True):
            (folder / f"{part}.jsonl").write_text("".join(rows), encoding="utf-8")
        files = [f"data={at(folder / 'train.jsonl')}", f"eval_data={at(folder / 'held_out.jsonl')}"]
        settings = ["lr=2e-4", "batch_size=16", "max_length=512", f"out={at(folder / 'reward')}"]
        command, _ = trimtab("reward", f"model={at(RUNS / 'english/sft')}", *files, *settings)
        seconds = json.loads((folder / "reward/run.json").read_text())["wall_seconds"]
        quality = reward_quality(RewardModel(folder / "reward"), str(folder / "held_out.jsonl"), 0)  # both on rankings that fit its context
        figures = {name: quality[name] for name in ("accuracy", "longest")}
        out[f"reward model on {Path(name).stem}"] = {"command": command, "wall_seconds": seconds, **figures}
    return out


CARELESS = ("always refuse", "longest of 8", "copy of the prompt", "all facts")


def checks() -> dict[str, Any]:
    """On demo seed 0: how much room SFT leaves, that careless policies lose, and that an unheld PPO games its reward."""
    demo_0, folder = RUNS / "demo-0", RUNS / "checks"
    prompts = read_prompts(str(demo_0 / "world/prompts.test.jsonl"))
    many, eight = folder / "sft-64.jsonl", demo_0 / "test-sft-8/answers.jsonl"
    words = [at(demo_0 / "sft/model"), at(demo_0 / "world/prompts.test.jsonl"), "-k", "64", "-o", at(many), "--overwrite"]
    command, sampled = trimtab("sample", *words)
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


# Areas with parts, questions and tables of their own: files of this folder with PARTS, asked(entry) and render(entry); their entries
# have the file's name in "area".
AREAS = {
    f"{name}_proof": area(f"{name}_proof") for name in ("engine", "methods", "village", "formats", "masks", "curate", "doctor", "label")
}
PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    **{f"demo-{seed}": functools.partial(demo, seed) for seed in SEEDS}, "fresh": fresh, "checks": checks, "base": base,
    "english": english, "rankings": rankings, **{name: part for module in AREAS.values() for name, part in module.PARTS.items()},
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """One thing that is asked of the project: of which measurement, in words, what was measured, and whether it is reached."""

    of: str
    what: str
    measured: str
    reached: bool


def asked_of_demo(name: str, entry: Mapping[str, Any]) -> list[Asked]:
    """What is asked of the demo, and of the village that it runs on."""
    results = entry["results"]
    sft = next(m["figures"] for m in results["models"] if m["name"] == "sft")
    minutes, memory = entry["wall_seconds"] / 60, entry["peak_memory_bytes"] / 1e9
    out = [
        Asked(name, "at most 10 minutes", f"{minutes:.1f}", minutes <= 10),
        Asked(name, "at most 6 GB", f"{memory:.1f}", memory <= 6),
        Asked(name, "at least 400 test prompts", str(results["prompts"]), results["prompts"] >= 400),
        *asked_of_preferences(name, results),
    ]
    for field, words in (("invented", "inventions"), ("told_secret", "secrets told")):
        change = results["paired"]["ppo-sft"][field]
        out.append(Asked(name, f"fewer {words} after PPO than after SFT, points", cell(change, 100), change["high"] < 0))
    accuracy, agreement = results["reward_model"]["accuracy"], results["reward_model"]["labeler_agreement"]
    invented, told = sft["invented"]["value"], sft["told_secret"]["value"]
    return [
        *out,
        Asked(name, "reward model right on at least 68 % of held-out pairs", cell(accuracy, 100), accuracy["value"] >= 0.68),
        Asked(name, "two labelers agree on 73 +- 3 % of pairs", cell(agreement, 100), abs(agreement["value"] - 0.73) <= 0.03),
        Asked(name, "SFT's mean gold score between 3 and 5", cell(sft["gold"], 1), 3 <= sft["gold"]["value"] <= 5),
        Asked(name, "SFT invents in at least 15 %", f"{100 * invented:.1f}", invented >= 0.15),
        Asked(name, "SFT tells secrets in at least 10 %", f"{100 * told:.1f}", told >= 0.1),
    ]


def asked_of_preferences(name: str, results: Mapping[str, Any]) -> list[Asked]:
    """Which model is preferred to which."""
    figures = {m["name"]: m["figures"] for m in results["models"]}
    over_base = 1 - figures["base"]["win_rate"]["value"]
    out = [Asked(name, "SFT preferred to the base on at least 90 %", f"{100 * over_base:.1f}", over_base >= 0.9)]
    for model in ("dpo", "ppo"):
        rate = figures[model]["win_rate"]
        good = rate["value"] >= 0.6 and rate["low"] > 0.5
        out.append(Asked(name, f"{model.upper()} preferred to SFT on at least 60 %, lower end above 50 %", cell(rate, 100), good))
    return out


def asked_of(proof: Mapping[str, Any]) -> list[Asked]:
    """Everything that is asked of the measurements that ``proof`` holds."""
    out = []
    for name, entry in by_area(proof).items():
        if "area" in entry:
            out += [Asked(name, *told) for told in AREAS[entry["area"]].asked(entry)]
        elif name.startswith("demo seed"):
            out += asked_of_demo(name, entry)
        elif name.startswith("other test prompts"):
            out += asked_of_preferences(name, entry["results"])
        elif "shipped_eval_loss" in entry:
            apart = abs(entry["eval_loss"] - entry["shipped_eval_loss"])
            out.append(Asked(name, "made again within 0.01 nats of the shipped base", f"{apart:.4f}", apart <= 0.01))
        elif "gold" in entry:
            gold = entry["gold"]
            sft, best = gold["SFT, mean of 64"], gold["best of 64 by gold"]
            out.append(Asked(name, "best of 64 at least a point above SFT", f"{best - sft:.2f}", best - sft >= 1))
            out += [Asked(name, f"{policy} below SFT", f"{gold[policy] - sft:.2f}", gold[policy] < sft) for policy in CARELESS]
        elif "means of ten iterations" in entry:
            gamed = entry["means of ten iterations"]
            rise, fall = gamed["proxy last"] - gamed["proxy first"], 1 - gamed["gold last"] / gamed["gold peak"]
            out.append(Asked(name, "the proxy rises", f"{rise:.2f}", rise > 0))
            out.append(Asked(name, "gold falls at least 10 % below its peak", f"{100 * fall:.0f} %", fall >= 0.1))
    return out


def by_area(proof: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of an area behind each other, in the order of ``AREAS``, those of the whole loop first."""
    places = {"": -1} | {name: place for place, name in enumerate(AREAS)}
    return dict(sorted(proof.items(), key=lambda item: places[item[1].get("area", "")]))


def render(proof: Mapping[str, Any]) -> str:
    """docs/results.md from docs/proof.json."""
    proof = by_area(proof)
    lines = ["# Results", "", "Made from `docs/proof.json` by `bench/proof.py`; not edited by hand. Intervals are 95 %.", ""]
    if found := asked_of(proof):
        lines += ["## What is asked, and what was measured", "", "| of | asked | measured | reached |", "|---|---|---|---|"]
        lines += [f"| {a.of} | {a.what} | {a.measured} | {'yes' if a.reached else '**no**'} |" for a in found]
        lines.append("")
    for name, entry in proof.items():
        lines += [f"## {name}", "", f"`{entry['command']}`, commit {entry['commit']}, {entry['wall_seconds'] / 60:.1f} minutes"]
        lines[-1] += f", peak memory {entry['peak_memory_bytes'] / 1e9:.1f} GB." if "peak_memory_bytes" in entry else "."
        if "device" in entry:
            lines[-1] += f" On {entry['device']}, {entry['threads']} threads, matrix products in {entry['products']}."
        lines.append("")
        if "area" in entry:
            lines += AREAS[entry["area"]].render(entry)
        if "eval_loss" in entry:
            shipped = f"of the shipped weights {entry['shipped_eval_loss']:.4f}"
            lines += [f"Held-out loss {entry['eval_loss']:.4f}; {shipped} nats per token.", ""]
        if "accuracy" in entry:
            right, longest = cell(entry["accuracy"], 100), cell(entry["longest"], 100)
            lines += [f"Right on {right} % of held-out pairs, the longest answer on {longest} %.", ""]
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


def read_proof() -> dict[str, Any]:
    """What was measured so far."""
    return json.loads(PROOF.read_text()) if PROOF.exists() else {}


def main(words: list[str]) -> None:
    """Runs the named parts and writes both files."""
    measured = area("commits").commit([PROOF, RESULTS])
    for name in [] if words == ["--render"] else words or list(PARTS):
        for title, entry in PARTS[name]().items():
            proof = {**read_proof(), title: {"commit": measured, **entry}}  # read again: another part may have ended since
            PROOF.write_text(json.dumps(proof, indent=1) + "\n")
    proof = read_proof()
    RESULTS.write_text(render(proof))
    for a in asked_of(proof):
        print(f"{'reached    ' if a.reached else 'NOT REACHED'}  {a.of}: {a.what}: {a.measured}")


if __name__ == "__main__":
    main(sys.argv[1:])
