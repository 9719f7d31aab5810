"""The proof's part on data formats: real files, memory over size, what TRL reads of what is written, any records and any bytes.

    python bench/proof.py formats streaming trl-rows any-bytes

``formats`` needs the public files beside the repository, ``trl-rows`` the peers' interpreter (.venv-peers, or BENCH_PEERS).
"""

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from trimtab.common.errors import UserError
from trimtab.data.convert import ConvertSettings, convert_file
from trimtab.data.files import scan_rows
from trimtab.data.formats import Account, RankSettings, ReadSettings, only, stream

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
RUNS = ROOT / "runs" / "proof" / "formats"
FOLDERS = ("demonstrations", "preferences", "prompts", "evaluation")
# What the files do not say themselves.
SETTINGS = {
    "summary_rankings.json": ("ranks.best=high", ReadSettings(ranks=RankSettings(best="high"))),
    "community_prompts.csv": ("fields.users=contributor", ReadSettings(fields={"users": "contributor"})),
}
REFUSED = ("summary_ratings.jsonl", "mt_bench_reference_answer_gpt-4.jsonl")  # ratings without texts, answers without questions
KINDS = ("jsonl", "jsonl.gz", "json", "csv", "parquet")
SMALL, LARGE = 10_000_000, 1_000_000_000
EXAMPLES = 1000


def formats() -> dict[str, Any]:
    """Every file of the public data: its format, and what became of its rows."""
    began = time.monotonic()
    files = {str(path.relative_to(DATA)): account_of(path) for folder in FOLDERS for path in sorted((DATA / folder).rglob("*.*"))}
    command = "trimtab data check FILE [ranks.best=high | fields.users=contributor], for each file"
    return {"data formats": {"area": "formats_proof", "command": command, "wall_seconds": time.monotonic() - began, "files": files}}


def account_of(path: Path) -> dict[str, Any]:
    """Rows, formats, kept, skipped, records, and the line with which a file is refused."""
    words, settings = SETTINGS.get(path.name, ("", ReadSettings()))
    account, refused, texts = Account(path.name), "", set()
    try:
        for record in stream(path, settings, account, only(None)):
            said = record.to_json()
            texts.add(json.dumps({name: said.get(name) for name in ("messages", "completion", "completions")}))
    except UserError as error:
        refused = str(error).replace(f"{path.parent}/", "")
    return {
        "words": words, "rows": account.rows, "formats": dict(account.formats), "kept": account.kept, "skipped": dict(account.skipped),
        "records": dict(account.records), "distinct": len(texts), "refused": refused, "notes": dict(account.notes),
    }  # fmt: skip


def streaming() -> dict[str, Any]:
    """Peak memory of converting 10 MB and 1 GB of the same rows, by kind of file."""
    RUNS.mkdir(parents=True, exist_ok=True)
    began, memory = time.monotonic(), {}
    for kind in KINDS:
        for size in (SMALL, LARGE):
            path = RUNS / f"rows.{kind}"
            rows = generate(path, size)
            peak, seconds = converted(path, RUNS / "out.jsonl")
            told = {"bytes": size, "rows": rows, "peak_bytes": peak, "seconds": seconds}
            memory.setdefault(kind, []).append(told)
            path.unlink()
    (RUNS / "out.jsonl").unlink()
    command = "trimtab data convert FILE -o out.jsonl, on generated prompts and completions"
    return {"streaming": {"area": "formats_proof", "command": command, "wall_seconds": time.monotonic() - began, "memory": memory}}


def rows_of(size: int) -> Iterator[dict[str, str]]:
    """Prompts and completions of random words, ``size`` bytes of them as JSON lines."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(5000)]
    total = 0
    while total < size:
        row = {"prompt": " ".join(rng.choices(words, k=60)), "completion": " ".join(rng.choices(words, k=80)), "user": f"u{total % 1000}"}
        total += len(json.dumps(row)) + 1
        yield row


def generate(path: Path, size: int) -> int:
    """Writes the rows in the kind of file that ``path`` names; returns how many."""
    import csv
    import gzip

    count, kind = 0, path.name.partition(".")[2]
    if kind == "parquet":
        schema = pyarrow.schema([(name, pyarrow.string()) for name in ("prompt", "completion", "user")])
        with pyarrow.parquet.ParquetWriter(path, schema) as writer:
            group: list[dict[str, str]] = []
            for row in rows_of(size):
                count += 1
                group.append(row)
                if len(group) == 100_000:  # a row group as pandas and datasets write them, about 90 MB
                    writer.write_table(pyarrow.Table.from_pylist(group, schema))
                    group = []
            writer.write_table(pyarrow.Table.from_pylist(group, schema))
        return count
    with gzip.open(path, "wt", compresslevel=1) if kind.endswith("gz") else open(path, "w", newline="") as f:
        table = csv.DictWriter(f, ["prompt", "completion", "user"])  # type: ignore[arg-type]
        if kind == "csv":
            table.writeheader()
        for count, row in enumerate(rows_of(size), 1):
            if kind == "csv":
                table.writerow(row)
            elif kind == "json":
                f.write(("[" if count == 1 else ",\n") + json.dumps(row, indent=1))  # type: ignore[call-overload]
            else:
                f.write(json.dumps(row) + "\n")  # type: ignore[call-overload]
        f.write("]" if kind == "json" else "")  # type: ignore[call-overload]
    return count


# The command, then its own peak. What the system tells its parent has the parent's memory in it, from before the command was loaded.
COMMAND = """
import re, sys
from trimtab.cli import main
status = main(["data", "convert", *sys.argv[1:]])
print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
sys.exit(status)
"""


def converted(path: Path, out: Path) -> tuple[int, float]:
    """Peak memory (bytes) and seconds of the command."""
    began = time.monotonic()
    command = [sys.executable, "-c", COMMAND, str(path), "-o", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) * 1024, time.monotonic() - began


# file -> what is written of it
WRITTEN: dict[str, list[ConvertSettings]] = {
    "demonstrations/alpaca_5000.json": [
        ConvertSettings(to="trl-prompt-completion"), ConvertSettings(to="trl-prompt-completion", style="standard"),
    ],
    "demonstrations/tulu3_sft_sample.jsonl": [ConvertSettings(to="trl-language-modeling"), ConvertSettings(to="trl-prompt")],
    "preferences/hh_harmless.jsonl.gz": [ConvertSettings(to="trl-preference"), ConvertSettings(to="trl-unpaired")],
    "preferences/tulu3_pairs.jsonl": [ConvertSettings(to="trl-preference")],
    "preferences/oasst_trees.jsonl": [ConvertSettings(to="trl-preference"), ConvertSettings(to="trl-unpaired")],
    "preferences/llmbar/Processed__MT-Bench__dataset.json": [ConvertSettings(to="trl-preference", style="standard")],
    "preferences/taskmaster_rewards/reward_00.json": [ConvertSettings(to="trl-unpaired")],
    "evaluation/ifeval.jsonl": [ConvertSettings(to="trl-prompt", style="standard", keep=["instruction_id_list"])],
    "STEPS": [ConvertSettings(to="trl-stepwise")],
}  # fmt: skip


def trl_rows() -> dict[str, Any]:
    """What TRL's own functions make of what is written, and whether reading it back gives the same records."""
    began = time.monotonic()
    RUNS.mkdir(parents=True, exist_ok=True)
    steps = [{"prompt": f"{i} + 1?", "completions": [f"{i} + 1", f"is {i + 1}."], "labels": [True, i % 2 == 0]} for i in range(100)]
    (RUNS / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
    written = {}
    for name, each in WRITTEN.items():
        path = RUNS / "steps.jsonl" if name == "STEPS" else DATA / name
        for settings in each:
            out, again = RUNS / f"{path.stem}.{settings.to}.{settings.style}.jsonl", RUNS / "again.jsonl"
            convert_file(path, out, settings)
            convert_file(out, again, settings)
            written[out.name] = {"same_again": again.read_bytes() == out.read_bytes(), "rows": sum(1 for _ in scan_rows(out))}
    peer = os.environ.get("BENCH_PEERS", str(ROOT / ".venv-peers" / "bin" / "python"))
    done = subprocess.run([peer, str(ROOT / "bench" / "formats_peer.py"), str(RUNS), str(DATA), *written], capture_output=True, text=True)
    said = next((line for line in done.stdout.splitlines() if line.startswith("FOUND ")), None)
    if said is None:
        raise SystemExit(done.stderr[-3000:])
    found = json.loads(said.removeprefix("FOUND "))
    rows = {name: {**told, **found["files"][name]} for name, told in written.items()}
    entry = {"area": "formats_proof", "command": "python bench/proof.py trl-rows", "wall_seconds": time.monotonic() - began}
    return {"rows for TRL": {**entry, "versions": found["versions"], "written": rows, "against_trl": found["against"]}}


def any_bytes() -> dict[str, Any]:
    """The property tests with many more examples than the test suite takes."""
    began = time.monotonic()
    file = "tests/data/test_data_any.py"
    command = [sys.executable, "-m", "pytest", "-q", "--hypothesis-show-statistics", file]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "TRIMTAB_EXAMPLES": str(EXAMPLES)}, capture_output=True, text=True)
    tests: dict[str, int] = {}
    for part in done.stdout.split(f"\n{file}::")[1:]:
        counts = re.search(r"(\d+) passing, (\d+) failing", part)
        tests[part.partition(":\n")[0]] = int(counts[1]) if counts and counts[2] == "0" else 0
    shown = f"TRIMTAB_EXAMPLES={EXAMPLES} pytest {file}"
    entry = {"area": "formats_proof", "command": shown, "wall_seconds": time.monotonic() - began}
    return {"any records, any bytes": {**entry, "passed": done.returncode == 0, "examples": tests}}


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "formats": formats, "streaming": streaming, "trl-rows": trl_rows, "any-bytes": any_bytes
}  # fmt: skip


def asked(entry: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """(what is asked, what was measured, whether it is reached)."""
    if "files" in entry:
        files = entry["files"].values()
        good = [f for name, f in entry["files"].items() if bool(f["refused"]) == name.endswith(REFUSED) and "\n" not in f["refused"]]
        yield "every file read, or refused in one line where it holds no records", f"{len(good)} of {len(files)}", len(good) == len(files)
        rows, told = sum(f["rows"] for f in files), sum(f["kept"] + sum(f["skipped"].values()) for f in files)
        yield "every row accounted for", f"{told:,} of {rows:,}", told == rows
    if "memory" in entry:
        for kind, (small, large) in entry["memory"].items():
            times = large["peak_bytes"] / small["peak_bytes"]
            yield f"{kind}: 100 times the file, at most 1.5 times the memory", f"{times:.2f}", times <= 1.5
    if "written" in entry:
        rows = entry["written"].values()
        good = [f for f in rows if f["same_again"] and f["rows"] == f["read_by_datasets"] == f["rendered_by_trl"]]
        yield "files that TRL reads and renders, and that come back the same", f"{len(good)} of {len(rows)}", len(good) == len(rows)
        for what, (same, of) in entry["against_trl"].items():
            yield what, f"{same:,} of {of:,}", same == of
    if "examples" in entry:
        few = [name for name, count in entry["examples"].items() if count < EXAMPLES]
        total = sum(entry["examples"].values())
        yield "any records come back; any bytes give records or one line", f"{total:,} examples", entry["passed"] and not few


def render(entry: Mapping[str, Any]) -> list[str]:
    """Tables for docs/results.md."""
    if "files" in entry:
        lines = ["| file | format | rows | kept | records | distinct | left out or refused |", "|---|---|---|---|---|---|---|"]
        for name, f in entry["files"].items():
            records = ", ".join(f"{n:,} {kind}s" for kind, n in f["records"].items()) or "-"
            why = f["refused"].rpartition("the first: ")[2] or ", ".join(f"{reason} {n:,}" for reason, n in f["skipped"].items()) or "-"
            words = f" `{f['words']}`" if f["words"] else ""
            found = ", ".join(f["formats"]) or "-"
            lines.append(f"| {name}{words} | {found} | {f['rows']:,} | {f['kept']:,} | {records} | {f['distinct']:,} | {why} |")
        return [*lines, ""]
    if "memory" in entry:
        lines = ["| file | rows in 1 GB | peak at 10 MB | peak at 1 GB | MB/s |", "|---|---|---|---|---|"]
        for kind, (small, large) in entry["memory"].items():
            speed = large["bytes"] / large["seconds"] / 1e6
            peaks = " | ".join(f"{told['peak_bytes'] / 1e6:.0f} MB" for told in (small, large))
            lines.append(f"| {kind} | {large['rows']:,} | {peaks} | {speed:.0f} |")
        return [*lines, ""]
    if "written" in entry:
        versions = ", ".join(f"{name} {version}" for name, version in entry["versions"].items())
        lines = [f"Read with {versions}.", "", "| written | rows | read by datasets | rendered by TRL | the same again |"]
        lines.append("|---|---|---|---|---|")
        for name, f in entry["written"].items():
            again = "yes" if f["same_again"] else "**no**"
            lines.append(f"| {name} | {f['rows']:,} | {f['read_by_datasets']:,} | {f['rendered_by_trl']:,} | {again} |")
        return [*lines, ""]
    if "examples" in entry:
        said = {name.removeprefix("test_").replace("_", " ").replace("[]", "[no ending]"): n for name, n in entry["examples"].items()}
        return ["Examples that passed: " + "; ".join(f"{name} {count:,}" for name, count in said.items()) + ".", ""]
    return []
