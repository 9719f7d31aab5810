"""Every training verb with adapters: what it trains and leaves behind, and what its reference is."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_models import TEXT, read_lines, save_tiny_policy, write_lines
from transformers import AutoModelForCausalLM

from trimtab.common.errors import UserError
from trimtab.common.files import read_json
from trimtab.feedback.protocol import Rule
from trimtab.methods import build
from trimtab.methods.build import methods, run, start_pair
from trimtab.models.load import is_scorer, load_policy
from trimtab.models.lora import Lora
from trimtab.models.nf4 import NF4Linear

RULE = Rule(lambda prompt, text: float(text.count("a")) - 0.1 * len(text))
FINETUNING = sorted(set(methods()) - {"pretrain"})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    save_tiny_policy(folder / "start")
    asked = [{"id": f"i{i}", "messages": [{"role": "user", "content": f"say {i}"}]} for i in range(6)]
    write_lines(folder / "prompts.jsonl", asked)
    write_lines(folder / "demonstrations.jsonl", [{**row, "completion": TEXT[i]} for i, row in enumerate(asked)])
    answers = [{"completions": [{"text": TEXT[i]}, {"text": TEXT[i + 6]}], "ranks": [1, 2]} for i in range(6)]
    write_lines(folder / "rankings.jsonl", [{**row, **said} for row, said in zip(asked, answers, strict=True)])
    return folder


def config_of(name: str, place: Path, out: Path, **options: Any) -> Any:
    kind = methods()[name].Config
    online = "reward" in kind.model_fields
    data = "prompts" if online else "demonstrations" if name == "sft" else "rankings"
    given = {"model": str(place / "start"), "data": str(place / f"{data}.jsonl"), "out": str(out), "dtype": "float32", "lr": 1e-2}
    more = {"reward": "rule", "num_completions": 2, "max_tokens": 6, "minibatch_size": 2} if online else {}
    known = {key: value for key, value in more.items() if key in kind.model_fields}
    if name == "trpo":  # it has no use for a learning rate, and refuses one
        given.pop("lr")
    return kind(**{**given, **known, "steps": 2, "batch_size": 3, "lora": Lora(rank=4), **options})


@pytest.mark.parametrize("quantize", ["none", "nf4"])
@pytest.mark.parametrize("name", FINETUNING)
def test_a_run_trains_adapters_alone_and_leaves_them_and_a_whole_model(name: str, quantize: Any, place: Path, tmp_path: Path) -> None:
    """The checkpoint holds nothing else; the folder's models are whole, their frozen parts untouched."""
    run(name, config_of(name, place, tmp_path, lora=Lora(rank=4, quantize=quantize)), lambda _: RULE)
    (kept,) = (tmp_path / "checkpoints").iterdir()
    weights = load_file(kept / "weights.safetensors")
    assert weights and all("lora_" in key or key.endswith("score.weight") for key in weights)
    optimised = {key.rpartition("/")[0] for key in load_file(kept / "optimizer.safetensors")}
    assert optimised == (set() if name == "trpo" else set(weights))  # TRPO has no optimizer
    folders = {p.parent.name for p in tmp_path.glob("*/config.json")}
    assert {p.parent.name for p in tmp_path.glob("*/adapter_config.json")} == {
        "adapter" if f == "model" else f"{f}-adapter" for f in folders
    }
    for inner in folders:
        saved = load_file(tmp_path / inner / "model.safetensors")
        start = load_file(place / "start" / "model.safetensors")
        assert not any("lora" in key or "base_layer" in key for key in saved)
        trunk = [key for key in start if key.startswith("model.")]
        moved = {key for key in trunk if not torch.equal(saved[key], start[key])}
        assert moved == {key for key in trunk if "proj" in key}, inner


def test_a_policy_is_read_by_plain_peft_and_by_the_next_stage(place: Path, tmp_path: Path) -> None:
    run("sft", config_of("sft", place, tmp_path / "sft", steps=4), lambda _: RULE)
    ids = torch.tensor([[5, 9, 20, 7]])
    plain: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(place / "start"), tmp_path / "sft" / "adapter")
    whole, base = (AutoModelForCausalLM.from_pretrained(f) for f in (tmp_path / "sft" / "model", place / "start"))
    with torch.no_grad():
        found, expected, before = (m.eval()(input_ids=ids).logits for m in (plain, whole, base))
    assert float((found - expected).abs().max()) < 1e-5 < 0.01 < float((found - before).abs().max())
    config = config_of("dpo", place, tmp_path / "dpo", model=str(tmp_path / "sft"), steps=1)
    run("dpo", config, lambda _: RULE)
    assert read_json(tmp_path / "dpo" / "run.json")["config"]["lora"]["rank"] == 4


@pytest.mark.parametrize("quantize", ["none", "nf4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dpo_starts_at_log_two_against_its_own_start(quantize: Any, dtype: Any, place: Path, tmp_path: Path) -> None:
    run("dpo", config_of("dpo", place, tmp_path, dtype=dtype, lora=Lora(rank=4, quantize=quantize)), lambda _: RULE)
    rows = {(r["step"], r["name"]): r["value"] for r in read_lines(tmp_path / "metrics.jsonl")}
    assert rows[1, "loss"] == pytest.approx(math.log(2), abs=1e-6) and rows[1, "margin"] == 0.0
    assert rows[2, "margin"] != 0.0


@pytest.mark.parametrize("name", ["ppo", "rloo"])
def test_kl_to_the_start_is_zero_in_the_first_iteration(name: str, place: Path, tmp_path: Path) -> None:
    run(name, config_of(name, place, tmp_path), lambda _: RULE)
    rows = {(r["step"], r["name"]): r["value"] for r in read_lines(tmp_path / "metrics.jsonl")}
    assert rows[1, "kl/reference"] == 0.0 != rows[2, "kl/reference"]
    assert max(rows[step, "engine/max_diff"] for step in (1, 2)) < 1e-4


def test_the_reference_is_the_policys_own_tensors_unless_another_is_named(place: Path, tmp_path: Path) -> None:
    def shared(reference: str, **options: Any) -> int:
        policy, held, _, _ = start_pair("dpo", config_of("dpo", place, tmp_path, **options), reference)
        mine = {p.data_ptr() for p in policy.parameters()}
        return sum(p.data_ptr() in mine for p in held.parameters())

    count = len(list(load_policy(place / "start").parameters()))
    assert shared("") == shared(str(place / "start")) == count
    assert shared("", lora=Lora(rank=4, quantize="nf4")) == count
    other = save_tiny_policy(tmp_path / "other")
    assert shared(str(other)) == 0 and shared("", lora=Lora()) == 0


def test_another_reference_stays_whole(place: Path, tmp_path: Path) -> None:
    config = config_of("dpo", place, tmp_path, lora=Lora(rank=4, quantize="nf4"))
    policy, held, _, _ = start_pair("dpo", config, str(save_tiny_policy(tmp_path / "other")))
    kinds = [any(isinstance(m, NF4Linear) for m in model.modules()) for model in (policy, held)]
    assert kinds == [True, False]


@pytest.mark.parametrize("quantize", ["none", "nf4"])
@pytest.mark.parametrize("spelt", ["run", "run/", "run/model", "./run", "other/../run/model/"])
def test_the_start_model_by_another_name_is_no_second_model(
    spelt: str, quantize: Any, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is the policy without adapters, whose 4-bit weights are the policy's own: the first loss is log 2."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model").symlink_to(place / "start")
    config = config_of("dpo", place, tmp_path, model="run", lora=Lora(rank=4, quantize=quantize))
    policy, held, _, _ = start_pair("dpo", config, spelt)
    assert held.get_input_embeddings().weight is policy.get_input_embeddings().weight
    assert any(isinstance(m, NF4Linear) for m in held.modules()) == (quantize == "nf4")


def test_a_reward_model_keeps_its_head(place: Path, tmp_path: Path) -> None:
    run("reward", config_of("reward", place, tmp_path), lambda _: RULE)
    assert is_scorer(tmp_path / "model") and (tmp_path / "model" / "reward.json").exists()
    head = load_file(tmp_path / "adapter" / "adapter_model.safetensors")["base_model.model.score.weight"]
    assert torch.equal(head, load_file(tmp_path / "model" / "model.safetensors")["score.weight"])
    assert read_json(tmp_path / "adapter" / "adapter_config.json")["modules_to_save"] == ["score"]


@pytest.mark.parametrize(
    ("name", "lora", "message"),
    [
        ("dpo", Lora(rank=4, dropout=0.1), "only sft may drop"),
        ("sft", Lora(alpha=8), "lora.alpha=8.0: no adapters without a rank; write lora.rank=16"),
        ("ppo", Lora(quantize="nf4"), "lora.quantize=nf4: no adapters without a rank"),
        ("sft", Lora(rank=4, targets=["nothing"]), "the model has no linear layer nothing"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_leaves_nothing(name: str, lora: Lora, message: str, place: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(name, config_of(name, place, tmp_path / "run", lora=lora), lambda _: RULE)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", FINETUNING)
def test_a_template_with_tokens_of_its_own_is_refused(name: str, tmp_path: Path, place: Path) -> None:
    """ChatML's rows would be frozen where they start, at the mean of all others."""
    start = save_tiny_policy(tmp_path / "start")
    (start / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="the chat template has tokens that the model does not know, and adapters train no embeddings"):
        run(name, config_of(name, place, tmp_path / "run", model=str(start)), lambda _: RULE)


def test_a_method_that_forgets_adapters_is_caught(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods()["sft"], "adapt", lambda *a: None)
    with pytest.raises(AssertionError, match="sft does not hand its models to adapt"):
        run("sft", config_of("sft", place, tmp_path / "run"), lambda _: RULE)
    assert build.StartSettings().lora == Lora()
