"""What the doctor finds: each of the tests' faults by the check that is named for it, and nothing on healthy models and data.

A part of bench/proof.py: ``python bench/proof.py doctor``. The faults are those of tests/doctor, here with every check running.
"""

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "runs" / "proof" / "demo-0"
# Llama with a hundred million weights, and comparisons of a usual size, for the time that it takes.
SIZES = {
    "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 12,
    "vocab_size": 20_000, "max_position_embeddings": 1024, "tie_word_embeddings": True,
}  # fmt: skip
ROWS = 20_000
ENGLISH = ROOT / "runs" / "proof" / "english" / "sft"
DATA = ROOT.parent / "shared" / "data"
DATA_GROUPS = "data, comparisons, data in the model's tokens"
REAL: dict[str, dict[str, Any]] = {
    "preferences/hh_harmless.jsonl.gz": {}, "preferences/oasst_trees.jsonl": {}, "preferences/short_preferences.json": {},
    "preferences/sharegpt_pairs.json": {}, "preferences/summary_rankings.json": {"ranks": {"best": "high"}},
    "demonstrations/alpaca_5000.json": {}, "demonstrations/short_instructions.json": {}, "prompts/community_prompts.csv": {},
}  # fmt: skip
Row = dict[str, Any]
# Where users reported what a fault reproduces, by its ``point``.
REPORTED = {
    3: "trl #1857", 9: "trl #1623, open-r1 #663, transformers #48016", 10: "trl #5988, slime #514", 11: "trl #4879, marin #7237",
    12: "OpenRLHF #973, torchtitan #4504", 13: "trl #5224, verl #6719", 14: "trl #6789, trl #4159, AReaL #1290", 20: "trl #2578, trl #2164",
    21: "trl #1230", 22: "reward-bench #137, trl #422",
}  # fmt: skip


def measure() -> dict[str, Any]:
    """Faults, healthy models, and the seconds of a large one."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "doctor")]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        entry = {"faults": list(faults(place)), "healthy": list(healthy(place)), "files": list(files()), "large": large(place)}
    command = "python bench/proof.py doctor"
    return {"doctor": {"area": "doctor_proof", "command": command, "wall_seconds": time.monotonic() - began, **entry}}


def faults(place: Path) -> Iterator[Row]:
    """Each fault: what the check that must find it says, and what else is said."""
    import faults_of_data
    import faults_of_models

    from trimtab.doctor.examine import examine

    for number, fault in enumerate((*faults_of_models.FAULTS, *faults_of_data.FAULTS)):
        folder = place / f"fault-{number}"
        folder.mkdir()
        case = fault.make(folder)
        with case.during:
            found = examine(case.config, case.engine)
        finding = found.named(fault.check)
        alarms = [f.check.name for f in found.findings if f.result.status in ("warning", "fail")]
        yield {
            "name": fault.name, "point": fault.point, "check": fault.check, "asked": fault.status, "status": finding.result.status,
            "caught": finding.result.status == fault.status and fault.says in finding.result.found,
            "found": finding.result.found.replace(f"{folder}/", ""),
            "exit_status": found.exit_status, "also": [name for name in alarms if name != fault.check],
        }  # fmt: skip


def healthy(place: Path) -> Iterator[Row]:
    """Healthy models and data: how many checks looked at them, and which alarms they raised."""
    from doctor_cases import HEALTHY_TEMPLATES, healthy_comparisons, healthy_demonstrations, save
    from tiny_models import FAMILIES, write_lines

    from trimtab.doctor.examine import examine
    from trimtab.doctor.settings import Config

    def looked(name: str, **settings: Any) -> Row:
        found = examine(Config(**settings))
        alarms = [f"{f.check.name}: {f.result.found}" for f in found.findings if f.result.status in ("warning", "fail")]
        return {"name": name, "checks": len(found.findings) - found.counts["n/a"], "alarms": alarms, "exit_status": found.exit_status}

    for family in FAMILIES:
        yield looked(f"{family}, random weights", model=str(save(place / family, family=family)))
    for family in ("llama", "gpt2", "qwen3", "opt"):
        yield looked(f"{family}, reward model", model=str(save(place / f"{family}-reward", family=family, scorer=True)))
    for name, tokenizer in HEALTHY_TEMPLATES.items():
        yield looked(f"chat template: {name}", model=str(save(place / name, tokenizer())))
    for name, rows in (("comparisons", healthy_comparisons(400)), ("demonstrations", healthy_demonstrations(400))):
        data = write_lines(place / f"{name}.jsonl", rows)
        yield looked(name, model=str(place / "llama"), data=str(data))
    base = str(ROOT / "trimtab" / "village" / "base")
    yield looked("the village's base and demonstrations", model=base, data=str(DEMO / "world" / "demonstrations.jsonl"))
    yield looked("the village's SFT model and demonstrations", model=str(DEMO / "sft"), data=str(DEMO / "world" / "demonstrations.jsonl"))
    yield looked("the village's reward model", model=str(DEMO / "reward"))


def files() -> Iterator[Row]:
    """What is said of data as people and models left them, by name of the check alone: texts of these files are not for this page."""
    from trimtab.doctor.examine import examine
    from trimtab.doctor.settings import Config

    rankings = DEMO / "rankings" / "rankings.jsonl"
    asked: list[tuple[str, Path, Path, Row]] = [
        ("the village's rankings", DEMO / "sft", rankings, {}), ("the same, with its reward model", DEMO / "reward", rankings, {}),
        *((name, ENGLISH, DATA / name, more) for name, more in REAL.items() if (DATA / name).exists()),
    ]  # fmt: skip
    for name, model, data, more in asked:
        found = examine(Config(model=str(model), data=str(data), only=DATA_GROUPS, **more))
        alarms = [f for f in found.findings if f.result.status in ("warning", "fail")]
        said = [(f.check.name, f.result.status, f.result.numbers.get("count")) for f in alarms]
        yield {"name": name, "records": found.about["data"].partition(": ")[2], "said": said}


def large(place: Path) -> Row:
    """Seconds of a model of a hundred million weights and a file of comparisons."""
    import torch
    from doctor_cases import healthy_comparisons
    from tiny_models import tiny_tokenizer, write_lines
    from transformers import LlamaConfig

    from trimtab.doctor.examine import examine
    from trimtab.doctor.settings import Config
    from trimtab.models.load import new_policy, save_model

    tokenizer = tiny_tokenizer()
    model = new_policy(LlamaConfig(**SIZES, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id), seed=0)
    save_model(model, tokenizer, place / "large")
    weights = sum(p.numel() for p in model.parameters())
    data = write_lines(place / "large.jsonl", healthy_comparisons(ROWS))
    began = time.monotonic()
    found = examine(Config(model=str(place / "large"), data=str(data)))
    seconds = time.monotonic() - began
    slowest = sorted(((f.seconds, f.check.name) for f in found.findings), reverse=True)[:3]
    return {"weights": weights, "records": ROWS, "seconds": seconds, "threads": torch.get_num_threads(), "slowest": slowest}


def asked(entry: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """(what is asked, what was measured, whether it is reached)."""
    caught = [row for row in entry["faults"] if row["caught"]]
    alarms = sum(len(row["alarms"]) for row in entry["healthy"])
    checks = sum(row["checks"] for row in entry["healthy"])
    large = entry["large"]
    failed = [row for row in entry["faults"] if row["asked"] == "fail"]
    ended = sum(row["exit_status"] == 1 for row in failed)
    kinds = set(REPORTED) & {row["point"] for row in caught}
    return [
        ("every fault is found by the check named for it", f"{len(caught)} of {len(entry['faults'])}", len(caught) == len(entry["faults"])),
        ("what other trainers' users reported is found", f"{len(kinds)} of {len(REPORTED)} kinds", len(kinds) == len(REPORTED)),
        ("exit status 1 where a check fails", f"{ended} of {len(failed)}", ended == len(failed)),
        ("no alarm on healthy models and data", f"{alarms} in {checks:,} checks of {len(entry['healthy'])}", alarms == 0),
        (
            f"a model of {large['weights'] / 1e6:.0f} million weights and {large['records']:,} comparisons in a minute",
            f"{large['seconds']:.0f} s, {large['threads']} threads", large["seconds"] <= 60,
        ),
    ]  # fmt: skip


def render(entry: Mapping[str, Any]) -> list[str]:
    """What was found, in Markdown."""
    words = {"fail": "FAIL", "warning": "warning", "n/a": "n/a", "ok": "ok"}
    lines = ["| fault | reported in | check | says | exit status | other checks that say something |", "|---|---|---|---|---|---|"]
    for row in entry["faults"]:
        also = ", ".join(row["also"]) or "-"
        name = row["name"] if row["caught"] else f"**missed:** {row['name']}"
        said = f"{row['check']} | {words[row['status']]} | {row['exit_status']}"
        lines.append(f"| {name} | {REPORTED.get(row['point'], '-')} | {said} | {also} |")
    lines += ["", "| healthy | checks that apply | alarms |", "|---|---|---|"]
    for row in entry["healthy"]:
        lines.append(f"| {row['name']} | {row['checks']} | {'; '.join(row['alarms']) or 'none'} |")
    lines += ["", "| file | records | said |", "|---|---|---|"]
    for row in entry["files"]:
        said = [f"{words[status]}: {check}{f' ({count:,})' if count is not None else ''}" for check, status, count in row["said"]]
        lines.append(f"| {row['name']} | {row['records']} | {'; '.join(said) or 'nothing'} |")
    slowest = ", ".join(f"{name} {seconds:.1f} s" for seconds, name in entry["large"]["slowest"])
    return [*lines, "", f"Of the large model's time the most: {slowest}.", ""]


PARTS = {"doctor": measure}
