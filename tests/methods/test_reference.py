"""Reference logprobs that are kept on disk: the same losses to the bit, found again by content only, and no reference model in training."""

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, pair, random_trees, randomise, read_lines, save_tiny_policy, write_lines

from trimtab.common.errors import UserError
from trimtab.common.files import read_json
from trimtab.methods import build, dpo, reference
from trimtab.methods.build import run
from trimtab.methods.dpo import DPO, Config
from trimtab.methods.offline import FixedData
from trimtab.methods.reference import groups_of, kept_logprobs, weights_digest
from trimtab.models.load import load_policy, load_tokenizer, save_model
from trimtab.models.lora import Lora
from trimtab.models.score import score_tokens
from trimtab.trees import TreeBatch

WORDS = ["the cat", "near the mill .", "the old dog saw the cat", "a red dog near the far mill saw the sad cat ."]


def comparison(i: int) -> dict[str, Any]:
    order = [(i + k) % 4 for k in range(2 + i % 3)]
    return {
        "id": f"c{i}", "messages": [{"role": "user", "content": f"the dog {'near ' * (i % 4)}{i}"}],
        "completions": [{"text": WORDS[k]} for k in order], "ranks": [1 + k for k in order],
    }  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    start = save_tiny_policy(folder / "policy")
    other = load_policy(start)
    randomise(other, seed=5)
    save_model(other, load_tokenizer(start), folder / "other")
    write_lines(folder / "rankings.jsonl", [comparison(i) for i in range(11)])
    write_lines(folder / "held_out.jsonl", [comparison(i) for i in range(11, 16)])
    return folder


def train(place: Path, out: Path, **words: Any) -> dict[tuple[int, str], float]:
    """The metrics of seven steps of four rankings: two passes and a half over eleven, in micro-batches of 60 tokens."""
    given = {"steps": 7, "batch_size": 4, "micro_batch_tokens": 60, "lr": 1e-2, "eval_every": 2, "seed": 3, "dtype": "float32", **words}
    config = Config(
        model=str(place / "policy"), data=str(place / "rankings.jsonl"), eval_data=str(place / "held_out.jsonl"), out=str(out), **given
    )
    run("dpo", config, lambda name: None)  # type: ignore[arg-type,return-value]
    return {(row["step"], row["name"]): row["value"] for row in read_lines(out / "metrics.jsonl")}


CASES: dict[str, dict[str, Any]] = {
    "plain": {}, "bf16": {"dtype": "bfloat16"}, "ipo and sft": {"loss": "ipo", "sft_weight": 0.5}, "LoRA": {"lora": Lora(rank=3)},
    "QLoRA": {"lora": Lora(rank=3, quantize="nf4")}, "another reference": {"reference": "other"},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_first_pass_and_every_evaluation_of_it_are_bit_equal(name: str, place: Path, tmp_path: Path) -> None:
    """Steps 1 and 2 are of the first pass (8 of 11 rankings); step 3 is half of the second. Later ones differ by rounding at most."""
    words = {**CASES[name], **({"reference": str(place / "other")} if "reference" in CASES[name] else {})}
    live = train(place, tmp_path / "live", **words)
    kept = train(place, tmp_path / "kept", reference_cache=str(tmp_path / "cache"), **words)
    again = train(place, tmp_path / "again", reference_cache=str(tmp_path / "cache"), **words)
    assert kept == again and kept.keys() == live.keys()
    first = {key for key in live if key[0] <= 2}
    assert len(first) > 20 and all(kept[key] == live[key] for key in first)
    if name == "plain":
        assert kept[1, "loss"] == pytest.approx(math.log(2), abs=1e-6) and kept[1, "margin"] == 0.0
    assert kept[7, "loss"] == pytest.approx(live[7, "loss"], rel=5e-2 if name == "bf16" else 1e-3)
    assert kept[7, "margin"] != kept[2, "margin"]


def test_a_run_on_one_pass_is_bit_equal_in_every_number(place: Path, tmp_path: Path) -> None:
    words: dict[str, Any] = {"steps": 0, "epochs": 1.0, "batch_size": 11, "micro_batch_tokens": 80, "sft_weight": 0.3}
    live, kept = (train(place, tmp_path / name, **words, **cache) for name, cache in (("a", {}), ("b", {"reference_cache": str(tmp_path)})))
    assert live == kept


def test_no_reference_is_loaded_nor_kept_and_the_second_run_computes_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded, made = [], []
    real = load_policy
    monkeypatch.setattr(build, "load_policy", lambda *a, **k: loaded.append(a) or real(*a, **k))
    monkeypatch.setattr(dpo, "DPO", lambda *a, **k: made.append(DPO(*a, **k)) or made[-1])
    train(place, tmp_path / "one", reference_cache=str(tmp_path / "cache"))
    assert len(loaded) == 1 and made[0].frozen == {} and set(made[0].modules) == {"policy"}
    assert all(p.requires_grad for p in made[0].policy.parameters())
    said = capsys.readouterr().out
    assert f"dpo: reference logprobs of {sum(2 + i % 3 for i in range(16))} answers, kept in {tmp_path}/cache/reference-" in said
    monkeypatch.setattr(reference, "computed", lambda *a: pytest.fail("computed again"))
    for out, words in (("lr", {"lr": 1e-3}), ("beta", {"beta": 0.5}), ("loss", {"loss": "hinge"}), ("longer", {"steps": 9})):
        train(place, tmp_path / out, reference_cache=str(tmp_path / "cache"), **words)
        assert "answers, read from " in capsys.readouterr().out
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_what_the_numbers_depend_on_makes_another_file(place: Path, tmp_path: Path) -> None:
    base = {"reference_cache": str(tmp_path / "cache"), "steps": 3}
    changes: list[dict[str, Any]] = [
        {}, {"seed": 4}, {"batch_size": 3}, {"micro_batch_tokens": 90}, {"dtype": "bfloat16"}, {"max_length": 30},
        {"reference": str(place / "other")}, {"lora": Lora(rank=3, quantize="nf4")},
    ]  # fmt: skip
    for i, change in enumerate(changes):
        train(place, tmp_path / f"run{i}", **{**base, **change})
        assert len(list((tmp_path / "cache").glob("*.safetensors"))) == i + 1, change
    train(place, tmp_path / "lora", **base, lora=Lora(rank=3))  # the same base, so the same file
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == len(changes)


def test_whose_attention_runs_is_noted_and_makes_another_file(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, whose in enumerate(("torch", "compiled a")):
        for module in (build, reference):
            monkeypatch.setattr(module, "attention", lambda device, whose=whose: whose)
        train(place, tmp_path / f"run{i}", reference_cache=str(tmp_path / "cache"), steps=3)
        assert read_json(tmp_path / f"run{i}" / "run.json")["attention"] == whose
        assert len(list((tmp_path / "cache").glob("*.safetensors"))) == i + 1


@pytest.mark.parametrize("option", ["reference_cache", "left_out"])
def test_what_would_lie_in_the_folder_of_the_trained_model_is_refused(option: str, place: Path, tmp_path: Path) -> None:
    """It is replaced whole at the end of the run. Nothing is begun."""
    with pytest.raises(UserError, match=rf"^{option}=.*run/model: the run replaces"):
        train(place, tmp_path / "run", **{option: str(tmp_path / "run" / "model")})
    assert not (tmp_path / "run").exists()


def test_a_digest_sees_a_weight_a_buffer_and_the_configuration(place: Path) -> None:
    model = load_policy(place / "policy")
    seen = {weights_digest(model)}
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1e-3
    seen.add(weights_digest(model))
    model.model.rotary_emb.inv_freq[0] *= 1.1
    seen.add(weights_digest(model))
    model.config.rms_norm_eps *= 2
    seen.add(weights_digest(model))
    model.config._name_or_path = "elsewhere"
    assert len(seen) == 4 and weights_digest(model) in seen


def fixed(budget: int = 40) -> FixedData:
    trees = random_trees([(4 + i % 3, [1 + (3 * i + k) % 6 for k in range(2 + i % 2)]) for i in range(7)])
    return FixedData(trees, random_trees([(5, [3, 2]), (4, [6])], seed=1), batch_size=2, budget=budget, seed=1)


def test_the_numbers_are_the_answers_logprobs_each_from_its_first_micro_batch(tmp_path: Path) -> None:
    """Also of two equal trees, which are two entries; with fewer steps than a pass only what they use."""
    model = pair(FAMILIES["llama"]())[0]
    data = fixed()
    data = FixedData([*data.trees, data.trees[0].with_completions(data.trees[0].completions)], data.held_out, 2, 40, 1)
    assert len([tree for group in groups_of(data, 9) for tree in group]) == 8 + 2
    found = kept_logprobs("x", str(tmp_path), model, data, 9, "float32")
    for tree in (*data.trees, *data.held_out):
        batch = TreeBatch.pack([tree])
        with torch.no_grad():
            expected = batch.sum_by_completion(score_tokens(model, batch).logprobs)
        torch.testing.assert_close(found.of(batch), expected, rtol=1e-5, atol=1e-5)
    few = kept_logprobs("x", str(tmp_path), model, data, 2, "float32")
    assert len(few.trees) == 4 + 2 and len(list(tmp_path.glob("*.json"))) == 2


def test_a_tree_that_comes_again_keeps_its_first_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven trees in steps of two: the fourth step ends with a tree of the second pass. Here the n-th micro-batch says n of every token."""
    data, said = fixed(budget=1000), itertools.count()

    def counted(model: Any, batch: TreeBatch) -> Any:
        number = float(next(said))
        return SimpleNamespace(logprobs=torch.full((len(batch.targets),), number))

    monkeypatch.setattr(reference, "score_tokens", counted)
    groups = list(groups_of(data, 9))
    assert [len(group) for group in groups] == [2, 2, 2, 2, 2] and groups[3][1] in [tree for group in groups[:3] for tree in group]
    found = reference.computed("x", pair(FAMILIES["llama"]())[0], groups, "float32").tolist()
    expected = []
    for number, group in enumerate(groups):
        for tree in group:
            if not any(tree is other for earlier in groups[:number] for other in earlier):
                expected += [float(number) * len(c) for c in tree.completions]
    assert found == expected


@pytest.mark.parametrize("how", ["torn", "flipped", "other numbers", "another model's", "no JSON", "JSON alone", "not JSON"])
def test_a_file_that_cannot_be_used_is_said_and_made_again(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = pair(FAMILIES["llama"]())[0], fixed()
    good = kept_logprobs("x", str(tmp_path), model, data, 9, "float32")
    (file,), (about,) = tmp_path.glob("*.safetensors"), tmp_path.glob("*.json")
    said, data_bytes = json.loads(about.read_text()), bytearray(file.read_bytes())
    if how == "torn":
        file.write_bytes(data_bytes[:-20])
    elif how == "flipped":
        data_bytes[-3] ^= 1
        file.write_bytes(data_bytes)
    elif how == "other numbers":
        reference.write(file, said["key"], torch.zeros(3))
    elif how == "another model's":
        reference.write(file, "0" * 64, torch.zeros(said["answers"]))
    elif how == "no JSON":
        about.unlink()
    elif how == "JSON alone":
        file.unlink()
    else:
        about.write_text("{")
    capsys.readouterr()
    found = kept_logprobs("x", str(tmp_path), model, data, 9, "float32")
    printed = capsys.readouterr().out
    assert f"x: {file}: is " in printed and "; computed again" in printed
    assert ("of another model" if how == "another model's" else "damaged") in printed
    for mine, theirs in zip(found.by_tree.values(), good.by_tree.values(), strict=True):
        assert torch.equal(mine, theirs)
    kept_logprobs("x", str(tmp_path), model, data, 9, "float32")
    assert "read from" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(reference, "computed", lambda *a: pytest.fail("worked first"))
    with pytest.raises(UserError, match="cannot write"):
        kept_logprobs("x", str(tmp_path / "file" / "cache"), pair(FAMILIES["llama"]())[0], fixed(), 9, "float32")
