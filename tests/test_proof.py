"""docs/results.md says what docs/proof.json holds, and nothing else."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_results_are_made_from_the_proof() -> None:
    spec = importlib.util.spec_from_file_location("proof", ROOT / "bench" / "proof.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    proof = json.loads((ROOT / "docs/proof.json").read_text())
    assert (ROOT / "docs/results.md").read_text() == module.render(proof), "run: python bench/proof.py --render"
