"""docs/performance.md's tables from what ``speed.py`` measured."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sides import ASKED, MEMORY, RECOMPUTED, TRAINED, sides
from work import SCALE, WORKS, works

Runs = Sequence[Mapping[str, Any]]
MARKS = {
    "cpu": ("<!-- measured: made from bench/results.json by bench/speed.py -->", "<!-- end of what is measured -->"),
    "float32": (
        "<!-- measured without bf16 products: made from bench/results-float32.json by bench/speed.py -->",
        "<!-- end of what is measured without bf16 products -->",
    ),
    "gpu": ("<!-- measured on a GPU: made from bench/results-gpu.json by bench/speed.py -->", "<!-- end of what is measured on a GPU -->"),
}


def seconds(runs: Runs) -> float:
    """The median step over all repetitions, each one's first left out."""
    return statistics.median(s for run in runs for s in run["seconds"][1:])


def spread(ours: Runs, peer: Runs) -> tuple[float, float]:
    """The least and the largest ratio of single steps, which are of the same batches."""
    runs = zip(ours, peer, strict=False)
    ratios = [b / a for mine, theirs in runs for a, b in zip(mine["seconds"][1:], theirs["seconds"][1:], strict=False)]
    return min(ratios), max(ratios)


def steps(runs: Runs) -> int:
    """How many steps a median is of."""
    return sum(len(run["seconds"]) - 1 for run in runs)


def gigabytes(runs: Runs) -> float:
    return max(run["peak_bytes"] for run in runs) / 1e9


def activations(runs: Runs, work: str) -> float:
    """Peak memory without what any training needs: 16 bytes a trained parameter, 4 for each one of a frozen model."""
    parameters = max(run["parameters"] for run in runs)
    frozen = {"dpo": 1, "rloo": 2, "ppo": 1}.get(work, 0)  # PPO's parameters are those of two trained models, beside two frozen ones
    return gigabytes(runs) - (16 + 4 * frozen) * parameters / 1e9


def render(kept: Mapping[str, Any]) -> str:
    """The tables."""
    where = kept["machine"]
    kind = "gpu" if "gpu" in where else "cpu" if where["products"] == "bfloat16" else "float32"
    machine = f"{where['processor']}, {where['threads']} threads"
    if kind == "gpu":
        machine = f"one {where['gpu']} with a model of {where['size']} parameters"
    lines = [
        MARKS[kind][0], "",
        f"Measured by `make bench` on {machine}, torch {where['torch']}, products in "
        f"{where['products']}{commits(kept)}. Medians of so many steps of trimtab and of the peer as stand beside them, each process's "
        "first left out; ratios are of two sides in one run, in brackets the least and the largest of single steps on the same prompts.",
        "", "| work | trimtab | peer | peer's setting | steps | ratio | asked | peak memory |", "|---|---|---|---|---|---|---|---|",
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
            ratio, asked = theirs / mine, ASKED[work].get(side) if kind == "cpu" else None
            mark = "-" if asked is None else f"{asked:g} {'reached' if ratio >= asked else '**missed**'}"
            share = f"{gigabytes(ours):.1f} of {gigabytes(peer):.1f} GB ({100 * gigabytes(ours) / gigabytes(peer):.0f} %)"
            if work in TRAINED:
                cells = f"{mine:.2f} s | {theirs:.2f} s"
            else:
                tokens = statistics.median(t for run in ours for t in run["tokens"])
                cells = f"{tokens / mine:.0f} tokens/s | {tokens / theirs:.0f} tokens/s"
            least, most = spread(ours, peer)
            ratios = f"{steps(ours)}, {steps(peer)} | {ratio:.1f} ({least:.1f} to {most:.1f})"
            lines.append(f"| {what.what} | {cells} | {side} | {ratios} | {mark} | {share} |")
    lines += ["", *(memory(kept, asked=kind == "cpu") if kind != "gpu" else ()), *shares(kept), *losses(kept)]
    lines += [*profiles(kept), *swept(kept), *numerics(kept), *families(kept), MARKS[kind][1]]
    return "\n".join(lines)


def commits(kept: Mapping[str, Any]) -> str:
    """The commits that were measured, where they were noted."""
    found = {run["commit"]: None for work in WORKS for runs in kept.get(work, {}).values() for run in runs if "commit" in run}
    return f", commit {', '.join(found)}" if found else ""


def memory(kept: Mapping[str, Any], *, asked: bool = True) -> list[str]:
    """What a step needs beyond weights, gradients and moments, checkpointing alike on both sides."""
    alike = (("no", "trimtab", "tuned, no checkpointing"), ("yes", RECOMPUTED, "as shipped"))
    lines = [
        "Memory beside weights, gradients and AdamW's moments (the peak less 16 bytes a trained parameter and 4 a frozen one), activations "
        f"kept or computed again alike{f'; asked: at most {100 * MEMORY:.0f} % of what TRL needs' if asked else ''}:", "",
        "| work | activations computed again | trimtab | TRL | of TRL's |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for work in (work for work in TRAINED if work in kept):
        for again, ours, peer in alike:
            if ours in kept[work] and peer in kept[work]:
                mine, theirs = (activations(kept[work][side], work) for side in (ours, peer))
                mark = "" if not asked else " reached" if mine <= MEMORY * theirs else " **missed**"
                lines.append(f"| {work} | {again} | {mine:.1f} GB | {theirs:.1f} GB | {100 * mine / theirs:.0f} %{mark} |")
    return [*lines, ""]


def shares(kept: Mapping[str, Any]) -> list[str]:
    """Useful operations over what the machine's best product does, step by step, in the same process."""
    lines = [
        "Share of the matrix peak, useful operations only (no padding, no recomputation, no attention):", "",
        "| work | useful tokens a step | tokens/s | peer's, as shipped | best product, GFLOP/s | share |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for work in WORKS:
        if work in kept:
            runs = kept[work]["trimtab"]
            rate = statistics.median(f / s for run in runs for f, s in zip(run["flops"][1:], run["seconds"][1:], strict=True))
            speed = statistics.median(t / s for run in runs for t, s in zip(run["tokens"][1:], run["seconds"][1:], strict=True))
            tokens = statistics.median(t for run in runs for t in run["tokens"][1:])
            peak = max(run["matrix_peak"] for run in runs)
            peer = next((kept[work][side] for side in ("as shipped", "bf16", "float32") if side in kept[work]), None)
            theirs = f"{tokens / seconds(peer):.0f}" if peer else "-"
            lines.append(f"| {work} | {tokens:.0f} | {speed:.0f} | {theirs} | {peak / 1e9:.0f} | {100 * rate / peak:.0f} % |")
    return [*lines, ""]


def losses(kept: Mapping[str, Any]) -> list[str]:
    """The two sides' losses of the first steps, side by side: it is the same work."""
    lines = ["Losses of the first steps; where answers are sampled, which then differ, their mean score and KL in nats:", ""]
    lines += ["| work | trimtab | peer |", "|---|---|---|"]
    for work in ("sft", "reward", "rankings", "dpo"):
        if work in kept and "as shipped" in kept[work]:
            both = [kept[work][side][0]["losses"][:3] for side in ("trimtab", "as shipped")]
            lines.append(f"| {work} | " + " | ".join(", ".join(f"{x:.4f}" for x in row) for row in both) + " |")
    for work, what in (("rloo", "scores"), ("rloo", "kl"), ("ppo", "scores"), ("ppo", "kl")):
        both = [kept.get(work, {}).get(side, [{}])[0].get(what, [])[:3] for side in ("trimtab", "as shipped")]
        if all(both):
            lines.append(f"| {work}, {what} | " + " | ".join(", ".join(f"{x:.4f}" for x in row) for row in both) + " |")
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
        "", "Packing an epoch of the pairs: the most micro-batches that a step has beyond ceil(tokens / budget), and by how much a step's",
        "micro-batches fall short of its largest on average (asked: 1 at most; less than 5 %):", "",
        "| budget, tokens | pairs a step | steps | micro-batches a step | beyond | imbalance |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in kept["numerics"]["packing"]:
        counts = f"{row['steps']} | {row['micro_batches']:.1f} | {row['extra']}"
        lines.append(f"| {row['budget']} | {row['batch_size']} | {counts} | {100 * row['imbalance']:.1f} % |")
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
