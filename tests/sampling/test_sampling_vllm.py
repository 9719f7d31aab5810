"""vLLM behind the protocol, against a fake of its interface: same answers as the native engine, the weights of now handed over."""

import sys
from pathlib import Path
from typing import Any

import fake_vllm
import pytest
import torch
from tiny_models import online_parts, save_tiny_policy

from trimtab.common.errors import UserError
from trimtab.feedback.protocol import Rule
from trimtab.methods import ppo
from trimtab.models.load import load_policy, load_scorer, load_tokenizer
from trimtab.models.lora import Lora, Quantize, add_adapters
from trimtab.models.score import score_tokens
from trimtab.sampling.choose import engine_for
from trimtab.sampling.engine import NativeEngine
from trimtab.sampling.protocol import Sample, SamplingOptions
from trimtab.sampling.vllm import VLLMEngine
from trimtab.training.method import State
from trimtab.trees import PromptTree, TreeBatch

PROMPTS = [[5, 9, 12, 7], [30, 31], [5, 9, 12, 7, 8, 40, 41]]
KEYS = ["a", "b", "c"]


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", fake_vllm)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_policy(tmp_path_factory.mktemp("vllm") / "policy")


@pytest.fixture
def engine(folder: Path) -> VLLMEngine:
    policy, tokenizer = load_policy(folder), load_tokenizer(folder)
    made = engine_for("vllm", policy, tokenizer, tokenizer.eos_token_id, dtype="float32", longest=96)
    assert isinstance(made, VLLMEngine)
    return made


def fake_of(engine: VLLMEngine) -> fake_vllm.LLM:
    llm: Any = engine._llm
    assert isinstance(llm, fake_vllm.LLM)
    return llm


def native(engine: VLLMEngine) -> NativeEngine:
    return NativeEngine(engine.model, engine.end_id)


def scored(engine: VLLMEngine, prompt: list[int], row: list[Sample], temperature: float = 1.0) -> list[float]:
    batch = TreeBatch.pack([PromptTree(tuple(prompt), tuple(s.token_ids for s in row))])
    with torch.no_grad():
        said: list[float] = score_tokens(engine.model, batch, temperature=temperature).logprobs.tolist()
    return said


def test_greedy_is_the_native_engines(engine: VLLMEngine) -> None:
    options = SamplingOptions(max_tokens=12, greedy=True)
    mine, theirs = engine.sample(PROMPTS, 2, options, KEYS), native(engine).sample(PROMPTS, 2, options, KEYS)
    for ours, others in zip(mine, theirs, strict=True):
        for a, b in zip(ours, others, strict=True):
            assert (a.token_ids, a.stop, a.logprobs) == (b.token_ids, b.stop, b.logprobs)
            assert a.policy_logprobs == pytest.approx(b.policy_logprobs, abs=1e-5)


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.6, 0), (1.0, 3)])
def test_logprobs_are_of_the_distribution_drawn_from_and_of_the_policy(engine: VLLMEngine, temperature: float, top_k: int) -> None:
    options = SamplingOptions(max_tokens=10, temperature=temperature, top_k=top_k, seed=3)
    for prompt, row in zip(PROMPTS, engine.sample(PROMPTS, 3, options, KEYS), strict=True):
        assert [x for s in row for x in s.policy_logprobs] == pytest.approx(scored(engine, prompt, row), abs=1e-4)
        drawn = [x for s in row for x in s.logprobs]
        if top_k:
            assert all(a > b for a, b in zip(drawn, scored(engine, prompt, row), strict=True))  # less to choose from
        else:
            assert drawn == pytest.approx(scored(engine, prompt, row, temperature), abs=1e-4)


def test_a_sample_depends_on_its_key_and_number_only(engine: VLLMEngine) -> None:
    options = SamplingOptions(max_tokens=10, seed=1)
    both = engine.sample(PROMPTS, 3, options, KEYS)
    assert engine.sample(PROMPTS[::-1], 2, options, KEYS[::-1]) == [row[:2] for row in both[::-1]]
    assert len({s.token_ids for s in both[0]}) > 1
    assert engine.sample(PROMPTS, 3, SamplingOptions(max_tokens=10, seed=2), KEYS) != both
    assert engine.sample([], 3, options, []) == [] and engine.sample(PROMPTS, 0, options, KEYS) == [[], [], []]


def test_why_a_sample_stopped(engine: VLLMEngine, folder: Path) -> None:
    options, tokenizer = SamplingOptions(max_tokens=8, greedy=True), load_tokenizer(folder)
    engine.end_id = -1
    (whole,) = engine.sample(PROMPTS[:1], 1, options, KEYS[:1])[0]
    assert whole.stop == "length" and len(whole.token_ids) == 8
    engine.end_id = whole.token_ids[2]
    (ended,) = engine.sample(PROMPTS[:1], 1, options, KEYS[:1])[0]
    assert ended.stop == "end" and ended.token_ids == whole.token_ids[: whole.token_ids.index(engine.end_id) + 1]
    engine.end_id, word = -1, tokenizer.decode([whole.token_ids[1]])
    (found,) = engine.sample(PROMPTS[:1], 1, SamplingOptions(max_tokens=8, greedy=True, stop=(word,)), KEYS[:1])[0]
    assert found.stop == "string" and found.token_ids in (whole.token_ids[:1], whole.token_ids[:2])


def test_changed_weights_are_sampled_from(engine: VLLMEngine) -> None:
    """By a fused optimizer, which changes a tensor without counting up its version."""
    options, fake = SamplingOptions(max_tokens=8, greedy=True), fake_of(engine)
    before = engine.sample(PROMPTS, 1, options, KEYS)
    assert fake.cached
    optimizer = torch.optim.AdamW(engine.model.parameters(), lr=0.3, fused=True)
    for parameter in engine.model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    optimizer.step()
    after = engine.sample(PROMPTS, 1, options, KEYS)
    expected = native(engine).sample(PROMPTS, 1, options, KEYS)
    assert [[s.token_ids for s in row] for row in after] == [[s.token_ids for s in row] for row in expected] != [
        [s.token_ids for s in row] for row in before
    ]


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_adapters_are_handed_over_merged(quantize: Quantize, folder: Path) -> None:
    policy, tokenizer = load_policy(folder, quantize=quantize), load_tokenizer(folder)
    add_adapters(policy, Lora(rank=4), seed=0)
    engine, options = VLLMEngine(policy, tokenizer, tokenizer.eos_token_id, dtype="float32"), SamplingOptions(max_tokens=8, greedy=True)
    before = engine.sample(PROMPTS, 1, options, KEYS)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
    after, expected = engine.sample(PROMPTS, 1, options, KEYS), native(engine).sample(PROMPTS, 1, options, KEYS)
    assert [[s.token_ids for s in row] for row in after] == [[s.token_ids for s in row] for row in expected] != [
        [s.token_ids for s in row] for row in before
    ]


def test_ppo_runs_on_it_and_its_logprobs_are_the_trainers(folder: Path) -> None:
    parts = online_parts(folder, Rule(lambda prompt, text: float(len(text))))
    tokenizer = load_tokenizer(folder)
    engine = VLLMEngine(parts.policy, tokenizer, parts.renderer.end_id)
    config = ppo.Config(batch_size=2, num_completions=2, max_tokens=6, minibatch_size=2, epochs_per_batch=1, dtype="float32")
    method = ppo.PPO(config, ppo.Parts(**{**vars(parts), "engine": engine}), load_scorer(folder))
    assert list(method.batches(State(0, 1)))
    assert method.logged["engine/max_diff"] < 1e-4


def test_a_bad_prompt_is_refused_as_by_the_native_engine(engine: VLLMEngine) -> None:
    for wrong in ([[]], [[5] * 95]):
        for either in (engine, native(engine)):
            with pytest.raises(UserError, match="prompt 'a'"):
                either.sample(wrong, 1, SamplingOptions(max_tokens=8), ["a"])


def test_without_vllm_one_line_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"engine=vllm needs vLLM .*pip install 'trimtab\[gpu\]'"):
        VLLMEngine(load_policy(folder), load_tokenizer(folder), 1)
