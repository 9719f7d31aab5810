"""docs/results.md says what docs/proof.json holds, and nothing else."""

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def proof_module() -> ModuleType:
    if str(ROOT / "bench") not in sys.path:
        sys.path.append(str(ROOT / "bench"))  # the files that measure one area each
    spec = importlib.util.spec_from_file_location("proof", ROOT / "bench" / "proof.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["proof"] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "bench"))
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


def test_what_the_methods_measured_is_held_against_what_is_asked() -> None:
    """A gradient whose norm is off by 3e-4, a tensor that is no number, a controller a quarter above its target, a beta that leads to that
    KL without one, a kept reference that takes more memory."""
    same = {"count": 20, "worst": "lm_head.weight", "apart": 1e-6}
    row = {"loss": {"ours": 1.0, "TRL": 1.0, "apart": 1e-6}, "gradient": {"ours": 1.0, "TRL": 1.0003, "apart": 3e-4}, "tensors": same}
    advantages = {"ours": [1.0, 2.0], "TRL": [1.0, 2.0], "apart": 0.0, "lengths": [3, 12]}
    rloo = {"gradient": {"ours": 2.0, "TRL": 2.0, "apart": 0.0}, "advantages": advantages, "tensors": {**same, "apart": math.nan}}
    curves = {"kl/reference": [1.0, 1.5], "beta": [0.1, 0.2], "reward/proxy": [0.0, 0.2], "reward/gold": [4.0, 4.5]}
    fixed = {**curves, "beta": [0.15, 0.15]}
    free = {"kl/reference": [4.0, 25.0], "beta": [0.0, 0.0], "reward/proxy": [0.0, 0.7], "reward/gold": [4.0, 2.0]}
    sides = {
        "live": {"operations": 4.0, "seconds": 1.0, "peak_bytes": 9e8, "parameters": 1e8},
        "kept": {"operations": 3.0, "seconds": 0.8, "peak_bytes": 9.1e8, "parameters": 1e8},
    }
    told = {**fixed, "kl/reference": [1.0, 1.4]}
    entries = {"trl": {"against TRL": {"dpo": row, "rloo": rloo}}, "kept": {"reference": sides}}
    entries |= {name: {"held": means} for name, means in (("held", curves), ("fixed", fixed), ("free", free), ("as told", told))}
    found = proof_module().asked_of({name: {"area": "methods_proof", **entry} for name, entry in entries.items()})
    assert [(a.of, a.reached) for a in found] == [
        ("trl", True), ("trl", False), ("trl", False), ("trl", True), ("kept", True), ("kept", False), ("held", False), ("fixed", True),
        ("free", True), ("free", True), ("as told", False),
    ]  # fmt: skip
    assert found[4].measured == "25 %" and found[6].measured == "1.50, +25%" and found[9].measured == "+0.70, -50%"
    assert found[6].what == "mean KL of iterations 11 to 20 within 20 % of 1.2"
    assert found[7].what == "without the controller: mean KL of iterations 11 to 20 more than 20 % from 1.2"
    rloo["tensors"] = same
    page = proof_module().render({"trl": {"area": "methods_proof", **entries["trl"], "command": "c", "commit": "x", "wall_seconds": 60}})
    assert "| rloo | - | - | 2.000000 | 2.000000 | 2, 3 to 12 tokens | 0e+00 | lm_head.weight of 20, 1e-06 |" in page


def test_beside_every_controlled_run_is_one_without_the_controller_and_nothing_else_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The commands are those that would be run; what they would have logged is written by hand: ten iterations at 2 nats, ten at 3."""
    module, given = proof_module().area("methods_proof"), []

    def run(*words: str) -> tuple[str, float]:
        given.append(words)
        folder = tmp_path / words[-1].removeprefix("out=")
        folder.mkdir(parents=True)
        names = ("kl/reference", "beta", "reward/proxy", "reward/gold")
        rows = [{"name": name, "value": 2.0 + (i >= 10)} for name in names for i in range(20)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return "", 1.0

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    entries = module.held()
    assert [entry["held"]["kl/reference"] for entry in entries.values()] == [[2.0, 3.0]] * 7 and len(set(given)) == 7
    for seed in (0, 1, 2):
        held, fixed = (entries[f"{name}, seed {seed}"]["command"].split() for name in ("PPO held at a KL", "PPO with its beta fixed"))
        assert [w for w in held if w not in fixed] == ["kl.target=1.2", "kl.horizon=128", f"out=runs/proof/held/{seed}"]
        assert [w for w in fixed if w not in held] == [f"out=runs/proof/held/fixed-{seed}"]


def test_results_are_made_from_the_proof() -> None:
    module = proof_module()
    proof = json.loads((ROOT / "docs/proof.json").read_text())
    assert (ROOT / "docs/results.md").read_text() == module.render(proof), "run: python bench/proof.py --render"


def test_what_formats_are_asked() -> None:
    """A file refused that should be read, a row without an account, memory that grows, a row TRL cannot render, an example that fails."""
    module = proof_module().area("formats_proof")
    fine = {"rows": 3, "kept": 2, "skipped": {"not JSON": 1}, "refused": ""}
    peaks = [{"peak_bytes": 100}, {"peak_bytes": 140}]
    written = {"same_again": True, "rows": 2, "read_by_datasets": 2, "rendered_by_trl": 2}
    good = {
        "files": {"a.jsonl": fine, "x/summary_ratings.jsonl": {**fine, "refused": "no texts"}}, "memory": {"csv": peaks},
        "written": {"a": written}, "against_trl": {"pairs": [3, 3]}, "passed": True, "examples": {"test": module.EXAMPLES},
    }  # fmt: skip
    assert [reached for *_, reached in module.asked(good)] == [True] * 6
    bad = {
        "files": {"a.jsonl": {**fine, "refused": "no"}, "b": {**fine, "kept": 1}}, "memory": {"csv": [peaks[0], {"peak_bytes": 160}]},
        "written": {"a": {**written, "rendered_by_trl": 1}}, "against_trl": {"pairs": [2, 3]}, "passed": True, "examples": {"test": 0},
    }  # fmt: skip
    assert [(measured, reached) for _, measured, reached in module.asked(bad)] == [
        ("1 of 2", False), ("5 of 6", False), ("1.60", False), ("0 of 1", False), ("2 of 3", False), ("0 examples", False),
    ]  # fmt: skip


def test_what_the_village_table_is_asked() -> None:
    """A method below SFT, a variant that differs from PPO, adapters three points below all weights and with a tenth of their memory, a
    method that takes twice the time of the others."""
    module = proof_module().area("village_proof")

    def row(title: str, share: float, **more: object) -> dict[str, object]:
        figures = {"kl": 1.0, "reward": 0.1, "gold": 4.0, "words": 20.0, "win_rate_by_seed": [share], "command": "trimtab x"}
        return {"title": title, "win_rate": {"value": share, "low": share - 0.02, "high": share + 0.02, "n": 480}, **figures, **more}

    def apart(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 480}

    time = {"peak_memory_bytes": 1.5e9, "trained_share": 1.0}
    rows = {"dpo": row("DPO", 0.6), "ppo": row("PPO", 0.61, cpu_seconds=100.0, **time)}
    rows |= {"scst": row("SCST", 0.61, cpu_seconds=120.0, **time), "dpo-lora": row("DPO, LoRA", 0.59, trained_share=0.04)}
    paired = {"scst - ppo": apart(0.0), "dpo-lora - dpo": apart(-0.01)}
    only = {"methods": rows, "paired": paired, "quantised_share": 0.28, "trials": {}, "seeds": [0], "machine": "a machine", "commit": "c"}
    assert [reached for *_, reached in module.asked({"groups": [only]})] == [True] * 6
    worse = {**rows, "scst": row("SCST", 0.49, cpu_seconds=300.0, **time), "dpo-lora": row("DPO, LoRA", 0.57, trained_share=0.1)}
    paired = {"scst - ppo": apart(-0.12), "dpo-lora - dpo": apart(-0.03)}
    found = module.asked({"groups": [{**only, "methods": worse, "paired": paired, "quantised_share": 0.4}]})
    assert [reached for *_, reached in found] == [False] * 6 and found[0][1] == "4 methods; least 49.0 [47.0, 51.0] (SCST)"
    assert found[4][1] == "50 to 150 % of 200 s"
    for longer, reached in ((0.0, True), (-0.02, False)):
        some = {"ppo": rows["ppo"], "trpo": row("TRPO", 0.58, cpu_seconds=100.0, **time)}
        some["trpo-40"] = row("longer", 0.61 + longer, cpu_seconds=300.0, **time)
        paired = {"trpo - ppo": apart(-0.03), "trpo-40 - ppo": apart(longer)}
        found = module.asked({"groups": [{**only, "methods": some, "paired": paired}]})
        (said,) = [(measured, ok) for asked, measured, ok in found if asked.startswith("TRPO less")]
        low, high = 100 * longer - 1, 100 * longer + 1
        assert said == (f"-3.0 [-4.0, -2.0]; longer less PPO {100 * longer:.1f} [{low:.1f}, {high:.1f}]", reached)
        assert [measured for asked, measured, _ in found if asked.startswith("methods that sample")] == ["100 to 100 % of 100 s"]
    wide = {"value": 0.0, "low": -0.031, "high": 0.031, "n": 480}  # may be none, may be three points
    found = module.asked({"groups": [{**only, "paired": {"scst - ppo": wide}}]})
    assert [reached for asked, _, reached in found if asked.startswith("SCST less PPO: less than 3")] == [False]
    spans = ((-0.03, 0.03), (-0.031, 0.01), (-0.01, 0.031), (0.001, 0.02), (-0.02, -0.001))
    assert [module.none({"low": low, "high": high}) for low, high in spans] == [True, False, False, False, False]
    page = module.render({"groups": [only]})
    assert page[4].startswith("| PPO | 61.0 [59.0, 63.0] | 61 | 1.00 | 0.10 | 4.00 | 20.0 | 100 | 1.50 GB | `trimtab x` |")


def test_groups_of_seeds_are_pooled() -> None:
    """Shares 0.55, 0.6 | 0.65: mean 0.6, sd 0.05, so +- 4.303 * 0.05 / sqrt(3) = 0.1242 over seeds; over prompts (2 * 0.01 + 0.04) / 3 =
    0.02; together sqrt(0.1242^2 + 0.02^2) = 0.1258. A method that a group lacks, and its pairs, are of the other's seeds; costs are the
    first's."""
    module = proof_module().area("village_proof")

    def row(shares: list[float], half: float, kl: float | None, seconds: float) -> dict[str, object]:
        mean = sum(shares) / len(shares)
        won = {"value": mean, "low": mean - half, "high": mean + half, "n": 480}
        figures = {"kl": kl, "reward": 0.1, "gold": 4.0, "words": 20.0, "cpu_seconds": seconds, "peak_memory_bytes": seconds}
        return {"title": "x", "win_rate": won, "win_rate_by_seed": shares, "command": "trimtab x", **figures}

    same = {"value": 0.0, "low": -0.03, "high": 0.03, "n": 480}
    first = {"seeds": [0, 1], "trials": {"ppo": {"lr=1": 0.6}}, "quantised_share": 0.2, "paired": {"scst - ppo": same, "dpo - ppo": same}}
    rows = {"ppo": row([0.55, 0.6], 0.01, 1.0, 100), "dpo": row([0.5, 0.5], 0.01, 1.0, 100), "scst": row([0.55, 0.6], 0.01, None, 100)}
    second = {"seeds": [7], "trials": {"ppo": {"lr=2": 0.7}}, "quantised_share": 0.3, "paired": {"scst - ppo": same}}
    second["methods"] = {"ppo": row([0.65], 0.04, 4.0, 300), "scst": row([0.65], 0.04, None, 300)}
    first["methods"] = rows
    found = module.pooled([first, second])
    assert list(found["methods"]) == ["ppo", "dpo", "scst"] and list(found["paired"]) == ["scst - ppo", "dpo - ppo"]
    a, b = found["methods"]["ppo"], found["methods"]["dpo"]
    assert b["win_rate_by_seed"] == [0.5, 0.5] and b["win_rate"]["high"] == pytest.approx(0.51) and b["kl"] == 1.0
    assert a["win_rate"]["value"] == pytest.approx(0.6)
    assert a["win_rate"]["high"] - a["win_rate"]["value"] == pytest.approx(0.1258, abs=1e-4)
    assert (a["kl"], a["cpu_seconds"], a["peak_memory_bytes"]) == (2.0, 100, 300) and found["methods"]["scst"]["kl"] is None
    assert found["paired"]["scst - ppo"]["high"] == pytest.approx(0.03)  # the same on every seed: prompts alone
    assert found["trials"] == {"ppo": {"lr=1": 0.6}} and found["quantised_share"] == 0.3
