"""The table of every training method on the village, from what ``village_runs.py`` has run; parts of ``bench/proof.py``.

``methods-village`` chooses each method's setting and measures three seeds; ``methods-village-more`` adds more, on any machine, with the
settings that docs/proof.json says were best. What was measured together is a group: times are compared within one, win rates over all.
"""

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from commits import commit
from safetensors import safe_open
from village_runs import (
    BUDGET,
    DEMOS,
    METHODS,
    MORE,
    RECORDED,
    RUNS,
    SEEDS,
    TITLE,
    chosen,
    results,
    run,
    trials_of,
)

from trimtab.common.precision import in_bf16
from trimtab.common.stats import mean_interval, share_interval
from trimtab.evaluation.winrate import TIE
from trimtab.models.load import load_policy
from trimtab.models.nf4 import NF4Linear

PAIRS = (
    ("ppo-penalty", "ppo"), ("trpo", "ppo"), ("scst", "ppo"), ("trpo", "ppo-penalty"), ("scst", "ppo-penalty"), ("scst", "trpo"),
    ("rloo", "ppo"), ("grpo", "ppo"), ("dpo", "ppo"), ("slic", "dpo"), ("dpo-lora", "dpo"), ("dpo-qlora", "dpo"), ("ppo-lora", "ppo"),
    ("slic-sampled", "slic"), ("ppo", "best-of-8"), ("dpo", "best-of-8"), ("trpo", "trpo-constant"), ("trpo-constant", "ppo"),
    ("trpo-22", "ppo"), ("trpo-22", "ppo-penalty"), ("scst", "trpo-22"),
    ("trpo-40", "ppo"), ("trpo-40", "ppo-penalty"), ("scst", "trpo-40"), ("trpo-40", "trpo"),
)  # fmt: skip
ALIKE = ("ppo-penalty - ppo", "trpo - ppo", "scst - ppo", "trpo - ppo-penalty", "scst - ppo-penalty", "scst - trpo")
# What explains a difference: TRPO's iterations are few in the same time. It does if there is none where they are enough to end at PPO's
# reward. At PPO's number of iterations, 22, TRPO has made 22 updates and PPO 176.
EXPLAINED = {"trpo - ppo": "trpo-40 - ppo", "trpo - ppo-penalty": "trpo-40 - ppo-penalty", "scst - trpo": "scst - trpo-40"}
KNOWN = 0.03  # what is smaller counts as no difference, where an interval says that it is
LONGER = ("trpo-22", "trpo-40")  # take more time than the others, and are to


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


def group(seeds: Sequence[int]) -> dict[str, Any]:
    """What was measured together on ``seeds``: the methods that have answered the test prompts on all of them."""
    rows, trials, prompts = {}, {}, {}
    for name, tried in METHODS.items():
        trial = chosen(name)
        if trial is None:
            continue
        if all((folder / "validation-judged.json").exists() for folder in trials_of(name)):
            won = [results(folder, "validation")["win_rate"]["value"] for folder in trials_of(name)]
            trials[name] = {" ".join(words): rate for words, rate in zip(tried.trials, won, strict=True)}
        folders = [RUNS / name / f"trial-{trial}" / str(seed) for seed in seeds]
        if not all((folder / "test-judged.json").exists() for folder in folders):
            continue
        command = " ".join([f"trimtab {tried.verb}", *tried.shared, *tried.trials[trial]])
        drawn = [RUNS / "candidates" / str(seed) for seed in seeds] if tried.ranked else []
        rows[name] = {"title": tried.title, **measured(folders, command), **costs(folders, drawn)}
        prompts[name] = rows[name].pop("prompts")
    best_of = [RUNS / "best-of-8" / str(seed) for seed in seeds]
    if all((folder / "test-judged.json").exists() for folder in best_of):
        row = {"title": "best of 8, no training", **measured(best_of, "trimtab sample -k 8, trimtab rank by=reward:...")}
        prompts["best-of-8"] = row.pop("prompts")
        rows["best-of-8"] = row
    pairs = {f"{a} - {b}": difference(prompts[a], prompts[b]) for a, b in PAIRS if a in prompts and b in prompts}
    seconds = sum(json.loads(file.read_text())["wall_seconds"] for file in RUNS.rglob("*.json") if file.parent.name in map(str, seeds))
    return {
        "seeds": list(seeds), "machine": machine(), "commit": commit([RECORDED, RECORDED.with_name("results.md")]),
        "wall_seconds": seconds, "methods": rows, "trials": trials, "paired": pairs,
        "quantised_share": nf4_share(DEMOS / f"demo-{seeds[0]}" / "sft" / "model"),
    }  # fmt: skip


def machine() -> str:
    """What the seconds of a group are of."""
    found = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{found[0] if found else platform.processor()}, products in {'bfloat16' if in_bf16('auto', 'cpu') else 'float32'}"


def pooled(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The groups' figures as of one comparison: a method's and a pair's are means over the seeds of all groups that have it."""
    rows: dict[str, Any] = {}
    for name in dict.fromkeys(name for g in groups for name in g["methods"]):
        having = [g for g in groups if name in g["methods"]]
        found, counts = [g["methods"][name] for g in having], [len(g["seeds"]) for g in having]
        rows[name] = dict(found[0])
        for key in ("kl", "reward", "gold", "words"):
            values = [row[key] for row in found]
            rows[name][key] = None if None in values else float(np.average(values, weights=counts))
        by_seed = [share for row in found for share in row["win_rate_by_seed"]]
        rows[name] |= {"win_rate_by_seed": by_seed, "win_rate": over_both(by_seed, [row["win_rate"] for row in found], counts)}
        if "peak_memory_bytes" in found[0]:
            rows[name]["peak_memory_bytes"] = max(row["peak_memory_bytes"] for row in found)
    paired = {}
    for pair in [f"{a} - {b}" for a, b in PAIRS]:
        having = [g for g in groups if pair in g["paired"]]
        if having:
            a, b = pair.split(" - ")
            both = [(g["methods"][a]["win_rate_by_seed"], g["methods"][b]["win_rate_by_seed"]) for g in having]
            by_seed = [x - y for of_a, of_b in both for x, y in zip(of_a, of_b, strict=True)]
            paired[pair] = over_both(by_seed, [g["paired"][pair] for g in having], [len(g["seeds"]) for g in having])
    return {
        "methods": rows, "paired": paired, "trials": {name: won for g in reversed(groups) for name, won in g["trials"].items()},
        "quantised_share": max(g["quantised_share"] for g in groups),
    }  # fmt: skip


def over_both(by_seed: Sequence[float], parts: Sequence[Mapping[str, Any]], counts: Sequence[int]) -> dict[str, Any]:
    """The mean over seeds, with an interval for other prompts *and* other seeds.

    The half widths of Student's t over the seeds and of the groups' intervals over prompts are added as variances are. Both hold the
    noise of single answers, so this is wider than it need be, never narrower (in a two-way layout Var = Var_seeds + Var_prompts -
    Var_cells; Cameron, Gelbach & Miller 2011, without the last term). Intervals of two groups are taken as wholly correlated,
    for the prompts are the same.
    """
    seeds = mean_interval(by_seed)
    over_seeds = (seeds.high - seeds.low) / 2 if len(by_seed) > 1 else 0.0
    over_prompts = float(np.average([(part["high"] - part["low"]) / 2 for part in parts], weights=counts))
    half = math.hypot(over_seeds, over_prompts)
    return {"value": seeds.value, "low": seeds.value - half, "high": seeds.value + half, "n": parts[0]["n"], "seeds": len(by_seed)}


def nf4_share(folder: Path) -> float:
    """Bytes of the model's quantised layers, scales and all, as a share of their bytes in bf16."""
    layers = [layer for layer in load_policy(folder, quantize="nf4").modules() if isinstance(layer, NF4Linear)]
    held = 0
    for layer in layers:
        state = layer.weight.quant_state
        scales = (state.absmax, state.code, state.state2.absmax, state.state2.code)
        held += layer.weight.data.nbytes + sum(tensor.nbytes for tensor in scales)
    return held / sum(2 * layer.in_features * layer.out_features for layer in layers)


def difference(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, Any]:
    """The paired difference of two methods' win rates, prompt by prompt."""
    return mean_interval([a[prompt] - b[prompt] for prompt in sorted(a)]).to_json()


def costs(folders: Sequence[Path], drawn: Sequence[Path]) -> dict[str, Any]:
    """Processor seconds (those of sampling and ranking candidates in ``drawn`` too) and peak memory of the trainings, and the share of the
    weights that has gradients and moments."""
    spent = [json.loads((folder / "train.json").read_text()) for folder in folders]
    before = [json.loads((folder / f"{name}.json").read_text())["cpu_seconds"] for folder in drawn for name in ("answers", "ranked")]
    run = folders[0] / "run"
    every = weights(run / "model")
    trained = weights(run / "adapter") if (run / "adapter").exists() else every
    return {
        "cpu_seconds": (sum(s["cpu_seconds"] for s in spent) + sum(before)) / len(folders),
        "peak_memory_bytes": max(s["peak_memory_bytes"] for s in spent),
        "trained_share": trained / every,
    }  # fmt: skip


def weights(folder: Path) -> int:
    """How many numbers the safetensors files of ``folder`` hold."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            total += sum(int(np.prod(tensors.get_slice(key).get_shape())) for key in tensors.keys())
    return total


def asked(entry: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """(what is asked, what was measured, whether it is reached)."""
    found = pooled(entry["groups"])
    rows, paired = found["methods"], found["paired"]
    trained = {name: row for name, row in rows.items() if name in METHODS}
    worst = min(trained, key=lambda name: trained[name]["win_rate"]["value"])
    out = [("none worse than SFT", f"{len(trained)} methods; least {span(rows[worst]['win_rate'])} ({rows[worst]['title']})",
            trained[worst]["win_rate"]["value"] >= 0.5)]  # fmt: skip
    for pair in (pair for pair in ALIKE if pair in paired):
        titles = " less ".join(rows[name]["title"] for name in pair.split(" - "))
        measured, reached = span(paired[pair]), none(paired[pair])
        if EXPLAINED.get(pair) in paired:
            again, who = paired[EXPLAINED[pair]], " less ".join(rows[name]["title"] for name in EXPLAINED[pair].split(" - "))
            measured, reached = f"{measured}; {who} {span(again)}", reached or none(again)
        out.append((f"{titles}: less than {100 * KNOWN:.0f} points apart, perhaps not at all, or explained", measured, reached))
    for name, full in (("dpo-lora", "dpo"), ("ppo-lora", "ppo")):
        if f"{name} - {full}" in paired:
            said, share = paired[f"{name} - {full}"], rows[name]["trained_share"]
            out.append((f"{rows[name]['title']} within 2 points of all weights", span(said), said["value"] >= -0.02))
            out.append((f"{rows[name]['title']}: at most 5 % of their gradients and moments", f"{100 * share:.1f} %", share <= 0.05))
    if spent := spent_online(entry["groups"][0]):  # on the machine that the numbers of steps were set on
        even = all(0.75 <= seconds / float(np.median(spent)) <= 1.25 for seconds in spent)
        out.append(("methods that sample: within 25 % of the same processor seconds", apart(spent), even))
    share = found["quantised_share"]
    out.append(("QLoRA: quantised layers at most 30 % of their bytes in bf16", f"{100 * share:.0f} %", share <= 0.3))
    return out


def none(difference: Mapping[str, float]) -> bool:
    """Whether a difference may be none, and is known to be less than ``KNOWN``: two seeds leave room for anything."""
    return -KNOWN <= difference["low"] <= 0 <= difference["high"] <= KNOWN


def spent_online(group: Mapping[str, Any]) -> list[float]:
    """Processor seconds of a training, of each method that samples and is to take as long as the others."""
    online = [name for name, tried in METHODS.items() if tried.online and name not in LONGER]
    return [row["cpu_seconds"] for name, row in group["methods"].items() if name in online]


def apart(spent: Sequence[float]) -> str:
    """The least and the most, against the median."""
    middle = float(np.median(spent))
    return f"{100 * min(spent) / middle:.0f} to {100 * max(spent) / middle:.0f} % of {middle:.0f} s"


def span(figure: Mapping[str, float]) -> str:
    """A share or a difference of shares in percent, with its interval."""
    value, low, high = (100 * figure[key] for key in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def render(entry: Mapping[str, Any]) -> list[str]:
    """The table, the paired differences, what was tried, as Markdown."""
    found = pooled(entry["groups"])
    made: dict[str, list[int]] = {}  # where, and of which commit -> the seeds
    for g in entry["groups"]:
        made.setdefault(f"{g['machine']}, collected at commit {g['commit']}", []).extend(g["seeds"])
    where = "; ".join(f"{many_seeds(seeds)} on {how}" for how, seeds in made.items())
    later = [(g, spent) for g in entry["groups"][1:] if len(spent := spent_online(g)) > 1]
    spans = [f"{apart(spent)} with {many_seeds(g['seeds'])}" for g, spent in later]
    elsewhere = f" The same steps took {'; '.join(spans)}." if spans else ""
    out = [
        f"{where[0].upper()}{where[1:]}. Each training takes about {BUDGET:.0f} s of one core of the first machine or reads the rankings "
        "once, but TRPO with 22 and 40 iterations, which is to take longer. Rows have different seeds, some of them easier: compare by the "
        "paired differences. Of three settings (more where the best of three lost to SFT or lay at their edge; all are listed below) the "
        "one that won most on validation prompts (seed 0; QLoRA and TRPO: seed 3) answers the test prompts on every seed. Intervals are "
        "for other prompts and other seeds: the variances of both, added. Core seconds are of the first group that a method is in, with a "
        f"star where that is not the first of all.{elsewhere}", "",
        "| method | preferred to SFT, % | by seed | KL | reward | gold | words | core seconds | peak memory | chosen setting |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    rows = found["methods"]
    for name in sorted(rows, key=lambda name: -rows[name]["win_rate"]["value"]):
        row = rows[name]
        figures = ["-" if row[key] is None else f"{row[key]:.2f}" for key in ("kl", "reward", "gold")]
        star = "" if name in entry["groups"][0]["methods"] else "\\*"
        costs = [f"{row['cpu_seconds']:.0f}{star}", f"{row['peak_memory_bytes'] / 1e9:.2f} GB"] if "cpu_seconds" in row else ["-", "-"]
        seeds = ", ".join(f"{100 * share:.0f}" for share in row["win_rate_by_seed"])
        cells = [row["title"], span(row["win_rate"]), seeds, *figures, f"{row['words']:.1f}", *costs, f"`{row['command']}`"]
        out.append(f"| {' | '.join(cells)} |")
    out += ["", "| difference of win rates, on the same prompts and seeds | points |", "|---|---|"]
    for pair, said in found["paired"].items():
        out.append(f"| {' less '.join(rows[name]['title'] for name in pair.split(' - '))} | {span(said)} |")
    out += ["", "| tried | preferred to SFT on validation prompts, % |", "|---|---|"]
    for name, trials in found["trials"].items():
        out += [f"| {METHODS[name].title}: `{words}` | {100 * rate:.1f} |" for words, rate in trials.items()]
    return [*out, ""]


def many_seeds(seeds: Sequence[int]) -> str:
    """``seed 3``, ``seeds 0, 1, 2``."""
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"


def part() -> dict[str, Any]:
    """Runs what is missing of the trials and of three seeds, and says what all runs gave."""
    run(list(METHODS), SEEDS, os.cpu_count() or 1)
    return told([group(SEEDS)])


def more() -> dict[str, Any]:
    """More seeds, with the settings that were chosen before."""
    for seed, methods in MORE.items():
        run(methods, [seed], os.cpu_count() or 1, tuned=True)
    before = [g for g in json.loads(RECORDED.read_text())[TITLE]["groups"] if not set(g["seeds"]) & set(MORE)]
    return told([*before, *(group([seed]) for seed in MORE)])


def told(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entry of docs/proof.json."""
    seconds = sum(g["wall_seconds"] for g in groups)
    return {TITLE: {"area": "village_proof", "command": "python bench/village_runs.py", "wall_seconds": seconds, "groups": list(groups)}}


PARTS = {"methods-village": part, "methods-village-more": more}
