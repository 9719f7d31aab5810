"""Which architectures are accepted and which are refused by name, before any of their numbers are used."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import ENDS, FAMILIES, GROUPED, REFUSED
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from trimtab.common.errors import UserError
from trimtab.models import check
from trimtab.models.check import check_architecture, tiny_copy
from trimtab.models.load import load_policy, load_scorer
from trimtab.models.rule import AttentionRule
from trimtab.trees import Segments, TreeSpan

NO_SCORER = ("granite", "cohere")  # transformers has no sequence classification for them


@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_are_exact_are_accepted(family: str) -> None:
    check_architecture(AutoModelForCausalLM, FAMILIES[family]())
    if family not in NO_SCORER:
        check_architecture(AutoModelForSequenceClassification, FAMILIES[family]())


@pytest.mark.parametrize("name", ["Gemma3TextConfig", "Qwen2Config", "SmolLM3Config", "MistralConfig"])
def test_a_full_size_configuration_is_checked_in_miniature(name: str) -> None:
    """One layer of each kind, every window within the test's sequences, few enough parameters to try at every start."""
    config = getattr(transformers, name)()
    tiny = tiny_copy(config)
    kinds = set(getattr(config, "layer_types", None) or [])
    assert set(getattr(tiny, "layer_types", None) or []) == kinds
    assert tiny.num_hidden_layers == max(2, len(kinds))
    longest = max(prompt + max(completions) for prompt, completions in check.SHAPES)
    assert getattr(tiny, "sliding_window", None) is None or tiny.sliding_window < longest
    model = AutoModelForCausalLM.from_config(tiny)
    assert sum(p.numel() for p in model.parameters()) < 15e6
    check_architecture(AutoModelForCausalLM, config)


@pytest.mark.parametrize(("config", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_families_that_are_not_are_refused_with_name_and_reason(config: Any, reason: str) -> None:
    built = config()
    with pytest.raises(UserError) as caught:
        check_architecture(AutoModelForCausalLM, built)
    message = str(caught.value)
    assert message.startswith(type(built).__name__) and reason in message and "\n" not in message


def test_a_rope_that_is_long_but_fixed_is_accepted() -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 24}
    check_architecture(AutoModelForCausalLM, transformers.LlamaConfig(**GROUPED, rope_parameters=rope, **ENDS))


def refusal(config: Any) -> str:
    with pytest.raises(UserError) as caught:
        check_architecture(AutoModelForCausalLM, config)
    return str(caught.value)


@pytest.mark.parametrize("fault", ["window", "softcap", "scale", "siblings", "position", "sinks"])
def test_each_fault_that_an_attention_could_have_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail: on Gemma 2 and gpt-oss, which are accepted, each rule left out of our kernel is noticed."""
    true = check.TreeLayout.attend

    def wrong(self: Any, layer: int, query: Any, key: Any, value: Any, rule: AttentionRule) -> Any:
        if fault == "window":
            rule = replace(rule, window=None)
        elif fault == "softcap":
            rule = replace(rule, softcap=None)
        elif fault == "scale":
            rule = replace(rule, scale=1.01 * rule.scale)
        elif fault == "siblings":
            chains = (TreeSpan(span.start, span.prompt + sum(span.completions), ()) for span in self.segments.spans)
            self = replace(self, segments=Segments(tuple(chains), self.segments.tokens))
        elif fault == "position":
            key = key.roll(1, 0)
        elif fault == "sinks":
            rule = replace(rule, sinks=None)
        return true(self, layer, query, key, value, rule)

    monkeypatch.setattr(check, "_verdicts", {})
    monkeypatch.setattr(check.TreeLayout, "attend", wrong)
    config = FAMILIES["gpt_oss" if fault == "sinks" else "gemma2"]()
    assert f"{type(config).__name__} is not supported: tree attention differs from its own by" in refusal(config)


def test_a_missing_tail_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cohere's logits are scaled behind the head: without that the comparison must fail."""
    monkeypatch.setattr(check, "_verdicts", {})
    monkeypatch.setattr(check, "tail_of", lambda model: check_tail(model))
    assert "differs from its own" in refusal(FAMILIES["cohere"]())


def check_tail(model: Any) -> Any:
    from trimtab.models.score import Tail

    return Tail(model.get_output_embeddings().weight, None)


def test_a_verdict_is_reached_once_for_each_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(check, "_verdicts", {})
    monkeypatch.setattr(check, "_verdict", lambda kind, config: calls.append(kind.__name__) or "")
    for _ in range(2):
        check_architecture(AutoModelForCausalLM, FAMILIES["llama"]())
        check_architecture(AutoModelForSequenceClassification, FAMILIES["llama"]())
        check_architecture(AutoModelForCausalLM, FAMILIES["mistral"]())
    assert calls == ["AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoModelForCausalLM"]


def test_the_check_leaves_the_global_generator_and_the_configuration_alone() -> None:
    check._verdicts.clear()
    config = FAMILIES["gemma3"]()
    before = config.to_dict()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    check_architecture(AutoModelForCausalLM, config)
    assert torch.equal(torch.rand(4), expected) and config.to_dict() == before


@pytest.mark.parametrize("load", [load_policy, load_scorer])
def test_loading_refuses_before_the_weights_are_read(load: Any, tmp_path: Path) -> None:
    """The folder holds no weights at all: the refusal comes first."""
    config = transformers.BloomConfig(
        hidden_size=32, n_layer=2, n_head=4, vocab_size=60, architectures=["BloomForCausalLM"]
    )
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="^BloomForCausalLM is not supported"):
        load(tmp_path)


def test_a_difference_that_is_gone_when_asked_twice_more_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a family does differently it does every time; a machine's slip it does not. One clean comparison is too few."""
    monkeypatch.setattr(check, "_verdicts", {})
    for last, kind in (("", AutoModelForCausalLM), ("it differs by 8.0e-05", AutoModelForSequenceClassification)):
        verdicts = iter(["it differs by 9.0e-05", "", last])
        monkeypatch.setattr(check, "_verdict", lambda kind, config, verdicts=verdicts: next(verdicts))
        if last:
            with pytest.raises(UserError, match="it differs by 9.0e-05"):
                check_architecture(kind, FAMILIES["llama"]())
        else:
            with pytest.warns(UserWarning, match=r"differs by 9.0e-05 in a first comparison, not in two more"):
                check_architecture(kind, FAMILIES["llama"]())
            check_architecture(kind, FAMILIES["llama"]())  # the verdict stands
