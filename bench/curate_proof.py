"""Measurements of curation: what it finds and what it leaves alone, and how long it takes. Called by ``bench/proof.py``.

    python bench/proof.py curation                personal data, near-duplicates, use cases: a few minutes
    python bench/proof.py curation-100k ...       curation-300k, curation-1m: time and memory on made-up prompts
    python bench/proof.py curation-ray            the same bytes under Ray (needs the extra scale)

The prompts are made by ``bench/curate_data.py``, which writes down what it planted. Similarity is computed here once more, from the raw
texts, so that what the curation says of its own finds is not believed.
"""

import csv
import hashlib
import importlib.util
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import curate_data

from trimtab.common.rng import generator
from trimtab.common.stats import Estimate, proportion_interval

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
RUNS = ROOT / "runs" / "proof" / "curation"
Entry = dict[str, Any]
OF_EACH_TYPE = 2000
CLEAN = 20_000
SMALL = 100_000
# What presidio-research's labels are called here. Its ages, dates, titles and addresses are not looked for.
LABELS = {
    "EMAIL_ADDRESS": "EMAIL", "PHONE_NUMBER": "PHONE", "CREDIT_CARD": "CARD", "IBAN_CODE": "IBAN", "US_SSN": "SSN", "IP_ADDRESS": "IP",
    "DOMAIN_NAME": "URL", "US_DRIVER_LICENSE": "DRIVER_LICENSE",
}  # fmt: skip


# ---- what is found -------------------------------------------------------------------------------------------------


def curation() -> dict[str, Entry]:
    """Recall and false alarms of personal data, near-duplicates of a run on 100,000 prompts, the classifier on three sets."""
    began = time.monotonic()
    found = {
        "planted": planted_personal_data(), "clean": clean_prompts(), "labelled": labelled_files(), "near": near_duplicates(),
        "use_cases": classifiers(),
    }  # fmt: skip
    command = "python bench/proof.py curation"
    return {"curation": {"area": "curate_proof", "command": command, "wall_seconds": time.monotonic() - began, "curation": found}}


def planted_personal_data() -> dict[str, Entry]:
    """Type -> share of planted values that are covered whole."""
    from trimtab.data.curate.personal import find

    maker, out = curate_data.Maker(1), {}
    for kind in curate_data.PERSONAL:
        rng, hits = generator(1, "planted", kind), 0
        for _ in range(OF_EACH_TYPE):
            value, sentence = curate_data.planted(rng, kind)
            before, after = maker.fresh()[0], maker.fresh()[0]
            text = f"{before} {sentence} {after}"
            start = len(before) + 1 + sentence.index(value)
            hits += any(f.start <= start and f.end >= start + len(value) for f in find(text))
        out[kind] = proportion_interval(hits, OF_EACH_TYPE).to_json()
    return out


def clean_prompts() -> dict[str, Entry]:
    """Set -> share of prompts without personal data that would be changed: made up, the village's, and public ones where they lie here."""
    from trimtab.data.curate.personal import find
    from trimtab.village import prompts

    maker = curate_data.Maker(2)
    sets: dict[str, list[str]] = {"made up": [maker.fresh()[0] for _ in range(CLEAN)], "village": [p.text for p in prompts("train")]}
    if DATA.is_dir():
        with open(DATA / "dialogue/banking77_train.csv", encoding="utf-8") as f:
            sets["banking77"] = [row["text"] for row in csv.DictReader(f)]
        tasks = json.loads((DATA / "demonstrations/short_instructions.json").read_text(encoding="utf-8"))
        sets["short_instructions"] = [f"{task['instruction']}\n{task.get('input', '')}" for task in tasks]
        with open(DATA / "evaluation/truthfulqa.csv", encoding="utf-8-sig") as f:
            sets["truthfulqa"] = [row["Question"] for row in csv.DictReader(f)]
        alpaca = json.loads((DATA / "demonstrations/alpaca_5000.json").read_text(encoding="utf-8"))
        sets["alpaca, which holds web addresses"] = [f"{task['instruction']}\n{task.get('input', '')}" for task in alpaca]
    return {name: proportion_interval(sum(bool(find(text)) for text in texts), len(texts)).to_json() for name, texts in sets.items()}


def labelled_files() -> dict[str, Entry]:
    """Type -> recall (spans that are covered whole) and precision (finds that meet a span of their type) on presidio-research's files."""
    from trimtab.data.curate.personal import find

    if not DATA.is_dir():
        return {}
    spans, covered, found, right = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for name in ("synth_dataset_v2.json", "generated_small.json"):
        for row in json.loads((DATA / "pii" / name).read_text(encoding="utf-8")):
            finds = find(row["full_text"])
            known = [(LABELS[s["entity_type"]], s["start_position"], s["end_position"]) for s in row["spans"] if s["entity_type"] in LABELS]
            for kind, start, end in known:
                spans[kind] += 1
                covered[kind] += any(f.start <= start and f.end >= end for f in finds)
            for f in finds:
                found[f.type] += 1
                right[f.type] += any(kind == f.type and start < f.end and f.start < end for kind, start, end in known)
    return {
        kind: {
            "recall": proportion_interval(covered[kind], spans[kind]).to_json(),
            "precision": proportion_interval(right[kind], found[kind]).to_json(),
        } for kind in sorted({*spans, *found})
    }  # fmt: skip


def near_duplicates() -> Entry:
    """A whole run on 100,000 prompts: planted edits that were found, and pairs that were flagged although they are not alike."""
    folder = RUNS / "near"
    prompts, out = folder / "prompts.jsonl", folder / "out"
    truth_path = curate_data.write(SMALL, prompts, seed=3)
    shutil.rmtree(out, ignore_errors=True)
    trimtab("curate", str(prompts), "-o", str(out), "users.most=0")
    texts = {row["id"]: row["messages"][0]["content"] for row in lines(prompts)}
    left = {row["id"]: row for row in lines(out / "left_out.jsonl")}
    gone = {name: row for name, row in left.items() if row["step"] in ("exact", "prefix", "near")}
    edits = [(row["id"], f"p{row['near']:07d}") for row in lines(truth_path) if "near" in row]
    # an edit is found when it is left out, or when its original is, as a duplicate of some prompt
    found = sum(edit in gone or original in gone for edit, original in edits)
    flagged = [row for row in gone.values() if row["step"] == "near"]
    alike = [similarity(texts[row["id"]], texts[row["duplicate_of"]]) for row in flagged]
    values = [row["value"] for row in lines(truth_path) if "value" in row]
    written = "".join((out / f"{name}.jsonl").read_text(encoding="utf-8") for name in ("train", "validation", "test", "left_out"))
    return {
        "prompts": SMALL, "edits": proportion_interval(found, len(edits)).to_json(),
        "false": proportion_interval(sum(s < 0.5 for s in alike), len(alike)).to_json(), "least_similar": min(alike),
        "values_planted": len(values), "values_left_in_any_output": sum(value in written for value in values),
        "card": {step["step"]: step["left_out"] for step in json.loads((out / "card.json").read_text())["steps"]},
    }  # fmt: skip


def similarity(a: str, b: str) -> float:
    """Jaccard similarity of words and word pairs, from the raw texts."""
    sets = []
    for text in (a, b):
        split = re.findall(r"\w+", text.lower())
        sets.append({*split, *(" ".join(pair) for pair in zip(split, split[1:], strict=False))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def classifiers() -> dict[str, Entry]:
    """Set -> cross-validated accuracy of the use-case classifier, trained on that set's own labels."""
    from trimtab.data.curate.use_cases import train
    from trimtab.village import prompts

    village = prompts("train")
    sets = {"the village's ten use cases": ([p.text for p in village], [str(p.use_case) for p in village])}
    if DATA.is_dir():
        texts, labels = [], []
        for path in sorted((DATA / "dialogue/snips").glob("train_*.json")):
            for name, rows in json.loads(path.read_text(encoding="latin-1")).items():
                texts += ["".join(part["text"] for part in row["data"]) for row in rows]
                labels += [name] * len(rows)
        sets["snips, 7 intents"] = texts, labels
        with open(DATA / "dialogue/banking77_train.csv", encoding="utf-8") as f:
            rows = list(csv.DictReader(f))
        sets["banking77, 77 intents"] = [row["text"] for row in rows], [row["category"] for row in rows]
    out = {}
    for name, (texts, labels) in sets.items():
        quality = train(texts, labels)[1]
        out[name] = {"accuracy": quality.accuracy.to_json(), "most_frequent": quality.most_frequent.to_json()}
    return out


# ---- how long it takes ---------------------------------------------------------------------------------------------


def at_scale(count: int) -> dict[str, Entry]:
    """One run of the command line on ``count`` made-up prompts: seconds, processor seconds and memory of all its processes."""
    folder = RUNS / f"{count}"
    prompts, out = folder / "prompts.jsonl", folder / "out"
    curate_data.write(count, prompts, seed=4)
    shutil.rmtree(out, ignore_errors=True)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = ["curate", str(prompts.relative_to(ROOT)), "-o", str(out.relative_to(ROOT)), "workers=2"]
    with Memory() as memory:
        memory.watch(subprocess.Popen([sys.executable, "-m", "trimtab", *command], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}))
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    card = json.loads((out / "card.json").read_text())
    seconds = time.monotonic() - began
    shutil.rmtree(folder)
    return {
        f"curation of {count:,} prompts": {
            "area": "curate_proof", "command": "trimtab " + " ".join(command), "wall_seconds": seconds, "peak_memory_bytes": memory.peak,
            "curated": count, "cpu_seconds": spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime,
            "load": os.getloadavg()[1], "steps": {step["step"]: step["left_out"] for step in card["steps"]}, "kept": card["kept"],
        }
    }  # fmt: skip


def under_ray(count: int = 30_000) -> dict[str, Entry]:
    """The same prompts by one process and by two workers of Ray Data (needs the extra ``scale``): are the bytes the same?"""
    if importlib.util.find_spec("ray") is None:
        print("curation-ray: left out, as ray is not installed (pip install 'trimtab[scale]')")
        return {}
    folder, began = RUNS / "ray", time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    prompts = folder / "prompts.jsonl"
    curate_data.write(count, prompts, seed=4)
    command, seconds, hashes = ["curate", str(prompts.relative_to(ROOT)), "workers=2"], {}, {}
    for runner, words in (("one process", ["workers=1"]), ("ray", ["workers=2", "runner=ray"])):
        out, started = folder / words[-1].replace("=", "-"), time.monotonic()
        trimtab(*command[:2], "-o", str(out.relative_to(ROOT)), *words)
        seconds[runner] = time.monotonic() - started
        files = (out / name for name in ("train.jsonl", "validation.jsonl", "test.jsonl", "left_out.jsonl", "card.json", "card.md"))
        hashes[runner] = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    shutil.rmtree(folder)
    return {
        "curation under Ray": {
            "area": "curate_proof", "command": "trimtab " + " ".join([*command, "runner=ray"]), "wall_seconds": time.monotonic() - began,
            "under_ray": {"prompts": count, "seconds": seconds, "hashes": hashes},
        }
    }  # fmt: skip


class Memory:
    """The most memory that a process and its children had at one time: proportional set size, looked at twice a second."""

    def __init__(self) -> None:
        self.peak = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Memory":
        return self

    def watch(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        thread = threading.Thread(target=self._look, daemon=True)
        thread.start()
        if process.wait():
            raise SystemExit(f"the command ended with status {process.returncode}")
        thread.join()

    def __exit__(self, *error: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def _look(self) -> None:
        import psutil

        assert self._process is not None
        while self._process.poll() is None:
            total = 0
            try:
                root = psutil.Process(self._process.pid)
                for process in (root, *root.children(recursive=True)):
                    try:
                        total += process.memory_full_info().pss
                    except psutil.Error:
                        continue
            except psutil.Error:
                return
            self.peak = max(self.peak, total)
            time.sleep(0.5)


def trimtab(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "trimtab", *words], cwd=ROOT, check=True)


def lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as f:
        yield from map(json.loads, f)


PARTS = {
    "curation": curation, "curation-ray": under_ray,
    "curation-100k": lambda: at_scale(100_000), "curation-300k": lambda: at_scale(300_000), "curation-1m": lambda: at_scale(1_000_000),
}  # fmt: skip


# ---- what is asked of it, and the page -----------------------------------------------------------------------------

Asked = tuple[str, str, bool]
MILLION = 1_000_000


def asked(entry: Mapping[str, Any]) -> list[Asked]:
    """(what is asked, what was measured, whether it is reached) of one entry; nothing of an entry that is none of these."""
    if "curated" in entry:
        return asked_of_scale(entry)
    if "under_ray" in entry:
        one, ray = entry["under_ray"]["hashes"].values()
        return [("the same bytes under Ray with two workers as in one process", f"{len(one)} files", one == ray)]
    if "curation" not in entry:
        return []
    found = entry["curation"]
    least = min(found["planted"].items(), key=lambda item: item[1]["value"])
    most = max((item for item in found["clean"].items() if "which holds" not in item[0]), key=lambda item: item[1]["value"])
    near, planted, clean = found["near"], least[1], most[1]
    values, written = near["values_planted"], near["values_left_in_any_output"]
    return [
        ("planted personal data: at least 99 % of every pattern type found", f"{percent(planted)} ({least[0]})", planted["value"] >= 0.99),
        ("at most 1 % of clean prompts changed", f"{percent(clean)} ({most[0]})", clean["value"] <= 0.01),
        ("at most 1 % of planted values in any output", f"{written} of {values:,}", written <= 0.01 * values),
        ("at least 98 % of planted edits of one to three words found", percent(near["edits"]), near["edits"]["value"] >= 0.98),
        ("at most 0.5 % of flagged pairs below a similarity of 0.5", percent(near["false"]), near["false"]["value"] <= 0.005),
    ]


def asked_of_scale(entry: Mapping[str, Any]) -> list[Asked]:
    """Minutes and memory, which are asked of a million; smaller runs are asked for their part of the minutes."""
    minutes, part = entry["wall_seconds"] / 60, entry["curated"] / MILLION
    processors = f"{minutes:.1f} ({entry['cpu_seconds'] / 60:.1f} processor minutes; load of the machine {entry['load']:.1f})"
    memory = entry["peak_memory_bytes"] / 1e9
    return [
        (f"at most {20 * part:g} minutes on 2 cores", processors, minutes <= 20 * part),
        ("at most 4 GB", f"{memory:.2f}", memory <= 4),
    ]


def render(entry: Mapping[str, Any]) -> list[str]:
    """The entry's tables."""
    if "curated" in entry:
        each = 1e6 * entry["cpu_seconds"] / entry["curated"]
        said = ", ".join(f"{step} {n:,}" for step, n in entry["steps"].items() if n)
        return [f"{each:.0f} processor microseconds a prompt. Kept {entry['kept']:,}; left out: {said}.", ""]
    if "under_ray" in entry:
        said = ", ".join(f"{runner} {seconds:.0f} s" for runner, seconds in entry["under_ray"]["seconds"].items())
        return [f"{entry['under_ray']['prompts']:,} made-up prompts: {said}.", ""]
    found = entry["curation"]
    out = [*_table(["planted type", "found"], [[kind, percent(e)] for kind, e in found["planted"].items()])]
    out += _table(["clean prompts", "changed"], [[name, percent(e)] for name, e in found["clean"].items()])
    if found["labelled"]:
        rows = [[kind, percent(e["recall"]), percent(e["precision"])] for kind, e in found["labelled"].items()]
        out += _table(["presidio-research's labelled files", "recall", "precision"], rows)
    near = found["near"]
    written = f"Planted values that stand in an output file: {near['values_left_in_any_output']:,} of {near['values_planted']:,}."
    out += [f"A run on {near['prompts']:,} made-up prompts. Planted edits that were found: {percent(near['edits'])}."]
    least = f"(the least: {near['least_similar']:.2f})"
    out += [f"Flagged pairs with a Jaccard similarity below 0.5: {percent(near['false'])} {least}."]
    out += [written, ""]
    rows = [[name, percent(e["accuracy"]), percent(e["most_frequent"])] for name, e in found["use_cases"].items()]
    return out + _table(["use cases predicted for", "right (cross-validated)", "always the most frequent"], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows), ""]


def percent(figure: Mapping[str, Any]) -> str:
    """``99.61 % [99.32, 99.80] n=480``; a share of nothing is a dash."""
    return "-" if figure["value"] is None else Estimate.from_json(figure).percent(2)


