"""Puts a finished run of recipes/village-base.yaml into the package as the village's base model, with what a test holds it to.

    trimtab run village-base && python bench/ship_base.py runs/village-base
"""

import json
import shutil
import sys
from pathlib import Path

import trimtab.village
from trimtab.common.files import read_json, write_json
from trimtab.village.summary import text_fingerprint

BASE = Path(trimtab.village.__file__).parent / "base"
FIRST_LOSSES = 5


def main(run: Path) -> None:
    """Copies ``run/base/model`` and writes ``made.json`` beside it."""
    info = read_json(run / "base/run.json")
    assert info["status"] == "done", f"{run}: the run is {info['status']}"
    rows = [json.loads(line) for line in (run / "base/metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(BASE, ignore_errors=True)
    shutil.copytree(run / "base/model", BASE)
    made = {
        "recipe": "village-base",
        "text": text_fingerprint(),
        "steps": info["config"]["steps"],
        "products": info["products"],
        "eval_loss": [row["value"] for row in rows if row["name"] == "eval/loss"][-1],
        "first_losses": [row["value"] for row in rows if row["name"] == "loss"][:FIRST_LOSSES],
    }
    write_json(BASE / "made.json", made)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
