"""docs/results.md says what docs/proof.json holds, and nothing else."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def proof_module() -> ModuleType:
    if str(ROOT / "bench") not in sys.path:
        sys.path.append(str(ROOT / "bench"))  # the files that measure one area each
    spec = importlib.util.spec_from_file_location("proof", ROOT / "bench" / "proof.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["proof"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_figure_beyond_its_bound_is_said() -> None:
    gold = {"SFT, mean of 64": 3.0, "best of 64 by gold": 3.9}
    gold |= {"always refuse": 2.0, "longest of 8": 3.1, "copy of the prompt": 1.0, "all facts": 2.0}
    gamed = {"proxy first": 0.0, "proxy last": 1.0, "gold first": 3.0, "gold peak": 4.0, "gold last": 3.0}
    found = proof_module().asked_of({
        "policies": {"gold": gold}, "unheld": {"means of ten iterations": gamed}, "base": {"eval_loss": 0.7, "shipped_eval_loss": 0.72},
    })  # fmt: skip
    assert [a.what for a in found if not a.reached] == [
        "best of 64 at least a point above SFT", "longest of 8 below SFT", "made again within 0.01 nats of the shipped base",
    ]  # fmt: skip
    assert len(found) == 8 and found[6].measured == "25 %"


def test_results_are_made_from_the_proof() -> None:
    module = proof_module()
    proof = json.loads((ROOT / "docs/proof.json").read_text())
    assert (ROOT / "docs/results.md").read_text() == module.render(proof), "run: python bench/proof.py --render"
