"""A folder that holds a peft adapter and no model: read as its base with the adapter merged in, or refused in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import TEXT, read_lines, save_tiny_policy, write_lines
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from trimtab.common.errors import UserError
from trimtab.common.files import read_json
from trimtab.feedback.reward_model import RewardModel, reward_folder
from trimtab.methods.build import methods, parents_of, run
from trimtab.models.load import adapter_base, is_scorer, load_policy, load_scorer, load_tokenizer, model_folders
from trimtab.models.lora import Lora, has_adapters
from trimtab.models.score import score_rewards, score_tokens
from trimtab.records import Completion, Message, Prompt
from trimtab.trees import PromptTree, TreeBatch

TREE = PromptTree((5, 6, 7), ((8, 9), (10, 11, 12)), key="t")


def lora_run(name: str, place: Path, out: Path, **options: Any) -> Path:
    """A short run of a method with adapters, large enough steps that they matter."""
    asked = [{"id": f"i{i}", "messages": [{"role": "user", "content": f"say {i}"}]} for i in range(4)]
    demonstrations = write_lines(place / "d.jsonl", [{**row, "completion": TEXT[i]} for i, row in enumerate(asked)])
    said = {"completions": [{"text": TEXT[0]}, {"text": TEXT[7]}], "ranks": [1, 2]}
    rankings = write_lines(place / "r.jsonl", [{**row, **said} for row in asked])
    words: dict[str, Any] = {"steps": 3, "batch_size": 4, "lr": 3e-2, "dtype": "float32", "lora": Lora(rank=4)}
    data = demonstrations if name == "sft" else rankings
    run(name, methods()[name].Config(data=str(data), out=str(out), **{**words, **options}), lambda _: None)  # type: ignore[arg-type,return-value]
    return out


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start model, and runs with adapters of SFT and of a reward model from it."""
    folder = tmp_path_factory.mktemp("adapter")
    start = save_tiny_policy(folder / "start")
    lora_run("sft", folder, folder / "sft", model=str(start))
    lora_run("reward", folder, folder / "reward", model=str(start))
    return folder


def logprobs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return score_tokens(model, TreeBatch.pack([TREE])).logprobs


def test_an_adapter_is_the_model_that_was_trained(place: Path) -> None:
    """As the merged folder beside it, and as plain peft reads it; not as its base. It can be trained on, and needs no peft any more."""
    model = load_policy(place / "sft" / "adapter")
    merged, base = logprobs(load_policy(place / "sft" / "model")), logprobs(load_policy(place / "start"))
    torch.testing.assert_close(logprobs(model), merged, atol=1e-5, rtol=0)
    assert float((merged - base).abs().max()) > 0.1
    plain: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(place / "start"), place / "sft" / "adapter").eval()
    with torch.no_grad():
        logits = plain(input_ids=torch.tensor([[*TREE.prompt, *TREE.completions[1]]])).logits[0, 2:-1].log_softmax(-1)
    torch.testing.assert_close(logprobs(model)[2:], logits.gather(1, torch.tensor(TREE.completions[1])[:, None])[:, 0], atol=1e-4, rtol=0)
    assert not has_adapters(model) and all(p.requires_grad for p in model.parameters()) and not hasattr(model, "peft_config")


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "qwen3"])
@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}], ids=["lora", "dora", "rslora"])
def test_an_adapter_that_peft_itself_made_is_read(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Of families with other layers, without a tokenizer of its own."""
    start = save_tiny_policy(tmp_path / "start", family)
    plain: Any = AutoModelForCausalLM.from_pretrained(start, attn_implementation="eager").eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False, **options)
        adapted = get_peft_model(plain, config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = adapted(input_ids=torch.tensor([[*TREE.prompt, *TREE.completions[1]]])).logits[0, 2:-1].log_softmax(-1)
    found = logprobs(load_policy(tmp_path / "adapter"))[2:]
    torch.testing.assert_close(found, expected.gather(1, torch.tensor(TREE.completions[1])[:, None])[:, 0], atol=1e-4, rtol=0)
    assert float((found - logprobs(load_policy(start))[2:]).abs().max()) > 1e-3
    assert load_tokenizer(tmp_path / "adapter").get_vocab() == load_tokenizer(start).get_vocab()


def test_a_reward_models_adapter_is_a_judge_with_its_calibration(place: Path) -> None:
    assert is_scorer(place / "reward" / "adapter") and not is_scorer(place / "sft" / "adapter")
    assert reward_folder(str(place / "reward" / "adapter")) == place / "reward" / "adapter"
    prompts, answers = [Prompt("p", (Message("user", "say 1"),))], [[Completion("the cat"), Completion("near the mill .")]]
    found, expected = (RewardModel(place / "reward" / inner).score(prompts, answers) for inner in ("adapter", "model"))
    assert found[0] == pytest.approx(expected[0], abs=1e-4) and abs(found[0][0] - found[0][1]) > 1e-3
    assert parents_of({"reward": f"reward:{place}/reward/adapter"}) == [place / "reward" / "adapter", place / "start"]
    plain: Any = AutoModelForSequenceClassification.from_pretrained(place / "start", num_labels=1, pad_token_id=3)
    scorer = PeftModel.from_pretrained(plain, place / "reward" / "adapter").eval()
    with torch.no_grad():
        said = [float(scorer(input_ids=torch.tensor([[*TREE.prompt, *c]])).logits) for c in TREE.completions]
        ours = score_rewards(load_scorer(place / "reward" / "adapter"), TreeBatch.pack([TREE])).tolist()
    assert ours == pytest.approx(said, abs=1e-4)


def test_a_reward_model_starts_from_a_policys_adapter(place: Path) -> None:
    """The trunk of the merged policy and the head that any start of these weights gets."""
    found, expected = load_scorer(place / "sft" / "adapter", seed=4), load_scorer(place / "sft" / "model", seed=4)
    with torch.no_grad():
        ours, theirs = (score_rewards(model, TreeBatch.pack([TREE])) for model in (found, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    with pytest.raises(UserError, match="adapter: a reward or value model, not a language model"):
        load_policy(place / "reward" / "adapter")


def test_training_goes_on_from_an_adapter_with_all_weights_or_with_new_ones(place: Path, tmp_path: Path) -> None:
    """DPO begins at log 2 against the merged model; the run names both folders as its parents; adapters on adapters are read too."""
    adapter = place / "sft" / "adapter"
    for name, lora in (("whole", Lora()), ("again", Lora(rank=2)), ("bits", Lora(rank=2, quantize="nf4"))):
        lora_run("dpo", place, tmp_path / name, model=str(adapter), lora=lora, lr=1e-3)
        rows = {(row["step"], row["name"]): row["value"] for row in read_lines(tmp_path / name / "metrics.jsonl")}
        assert rows[1, "margin"] == 0.0 and rows[2, "margin"] != 0.0
        parents = read_json(tmp_path / name / "run.json")["parents"]
        assert set(parents) == {str(adapter), str(place / "start")} and all(parents.values())
    second = tmp_path / "again" / "adapter"
    assert model_folders(second) == [second, adapter, place / "start"]
    torch.testing.assert_close(logprobs(load_policy(second)), logprobs(load_policy(tmp_path / "again" / "model")), atol=1e-5, rtol=0)


def broken(place: Path, folder: Path, **changes: Any) -> Path:
    shutil.copytree(place / "sft" / "adapter", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    return folder


def test_an_adapter_that_cannot_be_read_says_why_in_one_line(place: Path, tmp_path: Path) -> None:
    cases = {
        "gone": (broken(place, tmp_path / "gone", base_model_name_or_path="/no/such/base"),
                 r"gone: a peft adapter, and its base cannot be read \(/no/such/base: no such model folder\); give model/ of the run"),
        "nameless": (broken(place, tmp_path / "nameless", base_model_name_or_path=None),
                     "nameless: a peft adapter that does not name its base"),
        "itself": (broken(place, tmp_path / "itself", base_model_name_or_path=str(tmp_path / "itself")),
                   "itself: a peft adapter that names itself as its base"),
        "other": (broken(place, tmp_path / "other", base_model_name_or_path=str(save_tiny_policy(tmp_path / "gpt2", "gpt2"))),
                  "other: a peft adapter that cannot be merged into .*gpt2"),
    }  # fmt: skip
    cases["size"] = (
        broken(place, tmp_path / "size", base_model_name_or_path=str(save_tiny_policy(tmp_path / "narrow", hidden_size=16))),
        "size: a peft adapter that cannot be merged into .*narrow",
    )
    torn = broken(place, tmp_path / "torn")
    (torn / "adapter_model.safetensors").write_bytes((torn / "adapter_model.safetensors").read_bytes()[:200])
    cases["torn"] = (torn, "torn: a peft adapter that cannot be merged")
    part = broken(place, tmp_path / "part")
    weights = load_file(part / "adapter_model.safetensors")
    save_file(dict(list(weights.items())[:3]), part / "adapter_model.safetensors", metadata={"format": "pt"})
    cases["part"] = (part, r"part: a peft adapter that cannot be merged into .* \(it has no base_model\.model\.")
    bare = broken(place, tmp_path / "bare")
    (bare / "adapter_model.safetensors").unlink()
    cases["bare"] = (bare, "bare: a peft adapter without adapter_model.safetensors")
    prompt = get_peft_model(
        AutoModelForCausalLM.from_pretrained(place / "start"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    )
    prompt.save_pretrained(tmp_path / "prompt")
    cases["prompt"] = (tmp_path / "prompt", "prompt: a peft adapter that cannot be merged")
    for folder, message in cases.values():
        with pytest.raises(UserError, match=message) as caught:
            load_policy(folder)
        assert "\n" not in str(caught.value)
    assert adapter_base(place / "start") is None and adapter_base("some/name") is None
