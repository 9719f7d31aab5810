"""The engine's promises as figures: ``python bench/engine_proof.py [distribution batches trainer killed rewards memory refused]`` prints
what was measured, a line of JSON each; ``python bench/proof.py engine`` writes all of it down.

Small models and the shipped base, on one core, six minutes in all. What is compared with what stands beside each table.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Entry = dict[str, Any]

DRAWS = 50_000
SETTINGS: tuple[dict[str, float], ...] = (
    {}, {"temperature": 0.7}, {"top_p": 0.8}, {"top_k": 10}, {"temperature": 0.7, "top_p": 0.9, "top_k": 20},
)  # fmt: skip
PROMPTS, ANSWERS, TOKENS = 24, 4, 48
BUDGETS, ORDERS = (1, 512, 2048, 16384), 3
VOCABULARIES, POSITIONS, WIDTH = (8_000, 32_000, 150_000), (512, 2048, 4096), 64
PLAIN_MOST = 6e9  # bytes of three tables of logits: more are not asked of the machine


# ---- measuring: imports stand inside, so that a page is rendered without them -----------------------------------------------------


def distribution() -> Entry:
    """First tokens and pairs of tokens that the engine draws, against transformers' own probabilities."""
    import numpy as np
    from fit import goodness_of_fit, next_tokens
    from tiny_models import FAMILIES, VOCABULARY, pair

    from trimtab.sampling.engine import NativeEngine
    from trimtab.sampling.protocol import SamplingOptions

    rows = []
    prompt = [5, 9, 2, 33, 17]
    ours, plain = pair(FAMILIES["gpt2"]())
    for setting in SETTINGS:
        options = SamplingOptions(max_tokens=1, seed=1, **setting)  # type: ignore[arg-type]
        drawn = NativeEngine(ours, -1).sample([prompt], DRAWS, options, ["x"])[0]
        counts = np.bincount([s.token_ids[0] for s in drawn], minlength=VOCABULARY)
        rows.append({"drawn": "one token", **setting, **vars(goodness_of_fit(counts, next_tokens(plain, prompt, options)))})
    ours, plain = pair(FAMILIES["llama"]())
    options = SamplingOptions(max_tokens=2, seed=1, temperature=0.4)
    drawn = NativeEngine(ours, -1).sample([prompt], DRAWS, options, ["x"])[0]
    counts = np.zeros((VOCABULARY, VOCABULARY), dtype=np.int64)
    np.add.at(counts, tuple(np.array([s.token_ids for s in drawn]).T), 1)
    first = next_tokens(plain, prompt, options)
    joint = np.stack([first[token] * next_tokens(plain, [*prompt, token], options) for token in range(VOCABULARY)])
    rows.append({"drawn": "two tokens", "temperature": 0.4, **vars(goodness_of_fit(counts, joint))})
    return {"vocabulary": VOCABULARY, "rows": rows}


def sampled(setting: Mapping[str, float], rows: int = 256, at_once: int = 1 << 30) -> tuple[Any, list[Any], list[Any]]:
    """The shipped base, and what it answers the village's test prompts: the model, prompts in tokens, and each prompt's samples."""
    from killed import BASE

    from trimtab.data.encode import prompt_trees
    from trimtab.data.template import Renderer
    from trimtab.models.load import load_policy, load_tokenizer
    from trimtab.sampling.engine import NativeEngine
    from trimtab.sampling.protocol import SamplingOptions
    from trimtab.village import prompts

    policy, renderer = load_policy(BASE), Renderer(load_tokenizer(BASE), template="plain")
    trees, _ = prompt_trees(prompts("test")[:PROMPTS], renderer, 512)
    engine, options = NativeEngine(policy, renderer.end_id, rows=rows), SamplingOptions(max_tokens=TOKENS, seed=1, **setting)  # type: ignore[arg-type]
    found = []
    for i in range(0, len(trees), at_once):
        part = trees[i : i + at_once]
        found += engine.sample([t.prompt for t in part], ANSWERS, options, [t.key for t in part])
    return policy, trees, found


def batches() -> Entry:
    """The same prompts by one, three, eight and all at once, in few rows and in many."""
    texts = {}
    for at_once, rows in ((PROMPTS, 256), (1, 8), (3, 8), (8, 32), (PROMPTS, 24)):
        found = sampled({"temperature": 1.1, "top_p": 0.95}, rows, at_once)[2]
        texts[f"{at_once} prompts, {rows} rows"] = [s.token_ids for row in found for s in row]
    first, *others = texts.values()
    tokens = sum(map(len, first))
    return {"settings": list(texts), "answers": len(first), "tokens": tokens, "equal": all(other == first for other in others)}


def trainer() -> Entry:
    """The engine's logprobs of what it drew against the scoring pass's, in float32: of the distribution drawn from, and of the policy."""
    import torch

    from trimtab.models.score import score_tokens
    from trimtab.trees import TreeBatch

    out = []
    for setting in ({}, {"temperature": 0.7}, {"temperature": 1.3, "top_k": 50, "top_p": 0.9}):
        policy, trees, found = sampled(setting)
        batch = TreeBatch.pack([t.with_completions([s.token_ids for s in row]) for t, row in zip(trees, found, strict=True)])
        drawn = [s for row in found for s in row]
        row: Entry = {**setting, "tokens": sum(len(s.token_ids) for s in drawn)}
        with torch.no_grad():
            said = torch.tensor([x for s in drawn for x in s.policy_logprobs])
            row["policy"] = float((said - score_tokens(policy, batch).logprobs).abs().max())
            if "top_k" not in setting:  # truncated weights have no counterpart in training
                said = torch.tensor([x for s in drawn for x in s.logprobs])
                scores = score_tokens(policy, batch, temperature=setting.get("temperature", 1.0))
                row["drawn"] = float((said - scores.logprobs).abs().max())
        out.append(row)
    return {"rows": out}


def killed() -> Entry:
    """``bench/killed.py``."""
    from killed import measure

    return {"verbs": measure([])}


def rewards() -> Entry:
    """A reward model's scores of its rankings, packed in many ways, and by plain transformers on padded batches; float32."""
    import numpy as np
    import torch
    from killed import RANKINGS, reward_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from trimtab.data.formats import read_comparisons
    from trimtab.feedback.reward_model import RewardModel

    reward, rng = RewardModel(reward_model()), np.random.default_rng(0)
    trees = [reward.tree(c.prompt, c.completions) for c in read_comparisons(RANKINGS)]
    expected = np.array(reward.score_trees(trees))
    apart: dict[str, float] = dict.fromkeys(("other budgets and orders", "each answer alone", "padded left", "padded right"), 0.0)
    for budget in BUDGETS:
        reward.budget = budget
        for _ in range(ORDERS):
            order, siblings = rng.permutation(len(trees)), rng.permutation(ANSWERS)
            mixed = [trees[i].with_completions([trees[i].completions[k] for k in siblings]) for i in order]
            apart["other budgets and orders"] = max(
                apart["other budgets and orders"], float(np.abs(np.array(reward.score_trees(mixed)) - expected[order][:, siblings]).max())
            )
    alone = [tree.with_completions([c]) for tree in trees for c in tree.completions]
    apart["each answer alone"] = float(np.abs(np.array(reward.score_trees(alone)).ravel() - expected.ravel()).max())
    plain = AutoModelForSequenceClassification.from_pretrained(reward.folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(reward.folder)
    sequences = [[*tree.prompt, *c] for tree in trees for c in tree.completions]
    for side in ("left", "right"):
        tokenizer.padding_side = side
        said = []
        for i in range(0, len(sequences), 8):
            padded = tokenizer.pad({"input_ids": sequences[i : i + 8]}, return_tensors="pt")
            with torch.no_grad():
                said += plain(**padded).logits.flatten().tolist()
        scores = (np.array(said) - reward.calibration.shift) / reward.calibration.scale
        apart[f"padded {side}"] = float(np.abs(scores - expected.ravel()).max())
    return {"answers": expected.size, "spread": float(expected.std()), "budgets": list(BUDGETS), "orders": ORDERS, "differences": apart}


def memory() -> Entry:
    """Bytes that one forward and backward of the head take at their peak, the weight's gradient included; each in a process of its own."""
    import trimtab.models.score  # noqa: F401 - once, for all that are forked

    cells = []
    for vocabulary in VOCABULARIES:
        for positions in POSITIONS:
            cell = {"vocabulary": vocabulary, "tokens": positions}
            for side in ("ours", "plain") if 3 * 4 * vocabulary * positions <= PLAIN_MOST else ("ours",):
                cell[side] = in_a_child(functools.partial(head_bytes, side, vocabulary, positions))
            cells.append(cell)
    return {"width": WIDTH, "cells": cells}


def head_bytes(side: str, vocabulary: int, positions: int) -> int:
    """Peak memory above what the inputs take. Freed tensors go back to the system at once, so that it is what was alive at one time."""
    import ctypes

    import torch

    from trimtab.common.memory import peak_bytes
    from trimtab.models.score import Tail, score_rows

    m_mmap_threshold = -3
    assert ctypes.CDLL(None).mallopt(m_mmap_threshold, 1 << 20)
    rows, weight = (torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in (positions, vocabulary))
    targets = torch.arange(positions) % vocabulary
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if side == "ours":
        logprobs = score_rows(rows, targets, Tail(weight, None)).logprobs
    else:
        logprobs = torch.log_softmax(rows @ weight.T, -1).gather(1, targets[:, None])
    logprobs.sum().backward()
    return peak_bytes() - before


def in_a_child(work: Callable[[], int]) -> int:
    """What ``work`` says, in a process forked for it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, str(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as f:
        said = f.read()
    os.waitpid(child, 0)
    return int(said)


def refused() -> Entry:
    """The line that a user of each family gets, from a folder with its configuration, as ``trimtab: ...``."""
    import transformers
    from tiny_models import REFUSED
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from trimtab.common.errors import UserError
    from trimtab.models.load import load_policy

    transformers.logging.set_verbosity_error()
    lines = {}
    for family, (make, _) in REFUSED.items():
        config = make()
        config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            try:
                load_policy(folder)
                lines[family] = ""
            except UserError as error:
                lines[family] = f"trimtab: {error}"
    return {"lines": lines}


MEASURED: dict[str, tuple[str, Callable[[], Entry]]] = {
    "distribution": ("samples are from the right distribution", distribution),
    "batches": ("samples do not depend on the batch", batches),
    "trainer": ("engine and trainer agree", trainer),
    "killed": ("killed runs go on, and the same seed gives the same run", killed),
    "rewards": ("rewards do not depend on packing", rewards),
    "memory": ("memory of the head", memory),
    "refused": ("families that are refused", refused),
}  # fmt: skip


def measure(names: Sequence[str]) -> Iterator[tuple[str, Entry]]:
    """The parts named, or all, with their titles."""
    os.environ.update(CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")  # read by torch, which is not loaded yet: processes are forked below
    sys.path.insert(0, str(ROOT / "tests"))
    for name in names or MEASURED:
        title, part = MEASURED[name]
        began = time.monotonic()
        found = part()
        spent = {"command": f"python bench/engine_proof.py {name}", "wall_seconds": time.monotonic() - began}
        yield f"engine: {title}", {"area": "engine_proof", **spent, "engine": name, **found}


def engine() -> dict[str, Any]:
    """Everything, in a process of its own, which forks others and so may have no threads."""
    said = subprocess.run([sys.executable, __file__], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    lines = [line.removeprefix("ENGINE ") for line in said if line.startswith("ENGINE ")]
    return {title: entry for line in lines for title, entry in json.loads(line).items()}


PARTS = {"engine": engine}


# ---- rendering -----------------------------------------------------------------------------------------------------------------------


def asked(entry: Entry) -> list[tuple[str, str, bool]]:
    """What is asked of a part, what was measured, and whether that is reached."""
    kind = entry["engine"]
    if kind == "distribution":
        least = min(row["p"] for row in entry["rows"])
        impossible = sum(row["impossible"] for row in entry["rows"])
        return [
            ("chi-square tests all have p above 0.001", f"least {least:.3f}", least > 0.001),
            ("no draw outside top-k and top-p", str(impossible), not impossible),
        ]
    if kind == "batches":
        return [("the same tokens at every batch size", "yes" if entry["equal"] else "no", entry["equal"])]
    if kind == "trainer":
        most = max(row[name] for row in entry["rows"] for name in ("policy", "drawn") if name in row)
        return [("logprobs within 1e-4 in float32", f"{most:.1e}", most <= 1e-4)]
    if kind == "killed":
        verbs = entry["verbs"]
        on = all(v["killed run"] for v in verbs.values())
        twice = all(v["second run"] for v in verbs.values())
        kills = sum(v["kills"] for v in verbs.values())
        exact = [x for v in verbs.values() if v["products"] == "float32" for x in v["engine differences"]]
        return [
            ("after kill -9 the same command ends in the same bytes", f"{len(verbs)} verbs, {kills} kills", on and kills >= 3 * len(verbs)),
            ("the same seed twice: the same bytes", "yes" if twice else "no", twice),
            ("an RL run in float32 logs a difference of at most 1e-4 in every iteration", f"{max(exact):.1e}", max(exact) <= 1e-4),
        ]
    if kind == "rewards":
        most = max(entry["differences"].values())
        return [("rewards within 1e-5 at any packing, and in plain transformers", f"{most:.1e}", most <= 1e-5)]
    if kind == "memory":
        ours, plain = (growth(entry, side) for side in ("ours", "plain"))
        return [("memory does not grow with vocabulary x tokens", f"{ours:.1%} of a table of logits (plain {plain:.0%})", ours <= 0.05)]
    lines = entry["lines"].values()
    return [("every family on which trees would be wrong is refused in one line", str(len(lines)), all(lines))]


def growth(entry: Entry, side: str) -> float:
    """By how much more than for the fewest tokens the peak is for the most, at the largest vocabulary, as a share of the float32 logits
    that were added."""
    cells = [cell for cell in entry["cells"] if side in cell and cell["vocabulary"] == max(VOCABULARIES)]
    few, many = (pick(cells, key=lambda cell: cell["tokens"]) for pick in (min, max))
    return (many[side] - few[side]) / (4 * many["vocabulary"] * (many["tokens"] - few["tokens"]))


def render(entry: Entry) -> list[str]:
    """A part's tables."""
    said, head, rows = TABLES[entry["engine"]](entry)
    return [said, "", *table(head, rows), ""]


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    return [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]


Table = tuple[str, Sequence[str], list[Sequence[Any]]]


def setting_text(row: Mapping[str, Any]) -> str:
    """``temperature 0.7, top_p 0.9``."""
    given = [f"{name} {row[name]:g}" for name in ("temperature", "top_p", "top_k") if name in row]
    return ", ".join(given) or "temperature 1"


def distribution_table(entry: Entry) -> Table:
    rows = [
        (r["drawn"], setting_text(r), f"{r['draws']:,}", f"{r['statistic']:.1f}", r["freedom"], f"{r['p']:.3f}", r["impossible"])
        for r in entry["rows"]
    ]
    said = f"Tiny models with {entry['vocabulary']} tokens; expected are transformers' own probabilities, truncated by sorting."
    said += " Cells in which fewer than 5 draws are expected are joined."
    return said, ("drawn", "setting", "draws", "chi-square", "degrees of freedom", "p", "draws of probability 0"), rows


def batches_table(entry: Entry) -> Table:
    said = f"The shipped base, float32, temperature 1.1, top_p 0.95: {entry['answers']} answers of {entry['tokens']:,} tokens in all."
    return said, ("at once", "tokens"), [(s, "the same" if entry["equal"] else "compared") for s in entry["settings"]]


def trainer_table(entry: Entry) -> Table:
    said = "The shipped base, float32; the largest difference of a token's logprob, nats: the engine's against the scoring pass's."
    rows = [(setting_text(r), r["tokens"], f"{r['drawn']:.1e}" if "drawn" in r else "-", f"{r['policy']:.1e}") for r in entry["rows"]]
    return said, ("setting", "tokens", "as drawn", "under the policy"), rows


def killed_table(entry: Entry) -> Table:
    said = "Real processes, killed by SIGKILL at random moments; then the same command goes on, from the last checkpoint, of which there "
    said += "is one in three steps. Compared are the saved models, the last checkpoint's weights and optimizer, metrics.jsonl and "
    said += "samples.jsonl (times are in a file of their own), byte for byte."
    head = ("verb", "products", "steps", "seconds", "killed after step", "after the kills", "the same seed again", "SHA-256 of the weights")
    equal = {True: "equal", False: "**different**"}
    rows = [
        (verb, v["products"], v["steps"], f"{v['seconds']:.0f}", ", ".join(map(str, v["killed at"])), equal[v["killed run"]],
         equal[v["second run"]], f"`{v['weights'][:16]}`")
        for verb, v in entry["verbs"].items()
    ]  # fmt: skip
    return said, head, rows


def rewards_table(entry: Entry) -> Table:
    said = f"{entry['answers']} rewards with a standard deviation of {entry['spread']:.2f}, float32: the largest difference from packing "
    budgets = ", ".join(f"{budget:,}" for budget in entry["budgets"])
    said += f"8,192 tokens at once. Budgets of {budgets} tokens, {entry['orders']} orders of trees and siblings each."
    return said, ("against", "largest difference"), [(name, f"{apart:.1e}") for name, apart in entry["differences"].items()]


def memory_table(entry: Entry) -> Table:
    said = f"Hidden states of {entry['width']}, float32, forward and backward, MB above the inputs; the weight's gradient is in it: "
    said += "vocabulary x width, whatever the tokens. Plain: `log_softmax(rows @ weight.T)`."
    rows = [
        (f"{c['vocabulary']:,}", f"{c['tokens']:,}", f"{c['ours'] / 1e6:.0f}", f"{c['plain'] / 1e6:.0f}" if "plain" in c else "not run")
        for c in entry["cells"]
    ]
    return said, ("vocabulary", "tokens", "trimtab", "plain"), rows


def refused_table(entry: Entry) -> Table:
    return "What a user of each gets:", ("family", "line"), [(family, f"`{line}`") for family, line in entry["lines"].items()]


TABLES: dict[str, Callable[[Entry], Table]] = {
    "distribution": distribution_table, "batches": batches_table, "trainer": trainer_table, "killed": killed_table,
    "rewards": rewards_table, "memory": memory_table, "refused": refused_table,
}  # fmt: skip


if __name__ == "__main__":
    for title, entry in measure(sys.argv[1:]):
        print("ENGINE " + json.dumps({title: entry}), flush=True)
