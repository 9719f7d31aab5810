"""docs/doctor.md lists every check in its own words, and what is proven there is measured on the faults that the tests know."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import faults_of_data
import faults_of_models

from trimtab.doctor.examine import GROUPS

ROOT = Path(__file__).resolve().parents[2]


def listed() -> str:
    """Every check as docs/doctor.md has it; to write it anew: print(listed())."""
    lines: list[str] = []
    for group in GROUPS:
        lines += [f"### {group.title}", "", "| check | what a finding means | what to do |", "|---|---|---|"]
        lines += [f"| {c.name} | {plain(c.means)} | {plain(c.do)} |" for c in group.checks]
        lines.append("")
    return "\n".join(lines).rstrip()


def plain(text: str) -> str:
    """For a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def proof_of_the_doctor() -> ModuleType:
    spec = importlib.util.spec_from_file_location("doctor_proof", ROOT / "bench" / "doctor_proof.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entry(**changes: Any) -> dict[str, Any]:
    """What was measured, as if all were well, but for ``changes`` of the first fault."""
    fault = {"name": "f", "check": "c", "asked": "fail", "status": "fail", "caught": True, "exit_status": 1, "also": []}
    faults = [{**fault, "point": point} for point in (9, 3, 10, 11, 12, 13, 14, 20, 21, 22, 0)]
    faults[0] |= changes
    healthy = [{"name": "h", "checks": 30, "alarms": [], "exit_status": 0}]
    large = {"weights": 10**8, "records": 20, "seconds": 31.2, "threads": 2, "slowest": [[3.0, "c"]]}
    files = [{"name": "g", "records": "all 3 records", "said": [["empty answers", "warning", 2]]}]
    return {"faults": faults, "healthy": healthy, "files": files, "large": large}


def test_every_check_is_in_the_documentation() -> None:
    assert listed() in (ROOT / "docs" / "doctor.md").read_text()


def test_a_missed_fault_is_said() -> None:
    proof = proof_of_the_doctor()
    assert all(reached for _, _, reached in proof.asked(entry()))
    missed = entry(caught=False, status="ok", exit_status=0)
    assert [reached for _, _, reached in proof.asked(missed)] == [False, False, False, True, True]
    page = "\n".join(proof.render(missed))
    assert "**missed:** f" in page and "| g | all 3 records | warning: empty answers (2) |" in page


def test_what_is_proven_is_what_the_tests_know() -> None:
    measured = json.loads((ROOT / "docs" / "proof.json").read_text())["doctor"]
    known = [(f.name, f.check) for f in (*faults_of_models.FAULTS, *faults_of_data.FAULTS)]
    assert [(row["name"], row["check"]) for row in measured["faults"]] == known, "run: python bench/proof.py doctor"
