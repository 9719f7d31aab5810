"""Tiny random models of every family that tree attention must serve, and the plain forward they are held against."""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trimtab.data.template import Renderer
from trimtab.data.tokenizer import train_tokenizer
from trimtab.feedback.protocol import Feedback
from trimtab.methods.online import Parts
from trimtab.models.attention import tree_attention
from trimtab.models.load import load_policy, load_tokenizer, save_model
from trimtab.models.rows import hasten
from trimtab.records import Message, Prompt
from trimtab.sampling.engine import NativeEngine
from trimtab.trees import PromptTree

VOCABULARY = 60
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 96,
}
GATED = {**SIZES, "intermediate_size": 48}
GROUPED = {**GATED, "num_key_value_heads": 2}
ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}

# Windows of 8 are shorter than the test's sequences; soft caps and logit scales differ from 1.
FAMILIES: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=96, vocab_size=VOCABULARY, **ENDS),
    "llama": lambda: transformers.LlamaConfig(**GROUPED, **ENDS),
    "qwen2": lambda: transformers.Qwen2Config(**GROUPED, **ENDS),
    "qwen3": lambda: transformers.Qwen3Config(**GROUPED, head_dim=8, **ENDS),
    "mistral": lambda: transformers.MistralConfig(**GROUPED, sliding_window=8, **ENDS),
    "gemma2": lambda: transformers.Gemma2Config(
        **GROUPED, head_dim=8, sliding_window=8, attn_logit_softcapping=2.0, final_logit_softcapping=3.0, query_pre_attn_scalar=8, **ENDS
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **GROUPED, head_dim=8, sliding_window=8, layer_types=["sliding_attention", "full_attention"], **ENDS
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**GATED, **ENDS),
    "phi3": lambda: transformers.Phi3Config(**GROUPED, **ENDS),
    "olmo2": lambda: transformers.Olmo2Config(**GROUPED, **ENDS),
    "opt": lambda: transformers.OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32, **ENDS),
    "granite": lambda: transformers.GraniteConfig(
        **GROUPED, logits_scaling=0.5, attention_multiplier=0.3, embedding_multiplier=2.0, residual_multiplier=0.7, **ENDS
    ),
    "stablelm": lambda: transformers.StableLmConfig(**GROUPED, **ENDS),
    "smollm3": lambda: transformers.SmolLM3Config(**GROUPED, no_rope_layers=[1, 0], **ENDS),
    "cohere": lambda: transformers.CohereConfig(**GROUPED, logit_scale=0.7, **ENDS),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **GROUPED, head_dim=8, sliding_window=8, layer_types=["sliding_attention", "full_attention"], num_local_experts=4,
        num_experts_per_tok=2, **ENDS
    ),
}  # fmt: skip

BARE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCABULARY}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}

# Families on which tree attention would be wrong, and what of each refusal is its reason.
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "bloom": (
        lambda: transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=VOCABULARY), "called tree attention 0 times",
    ),
    "mpt": (lambda: transformers.MptConfig(d_model=32, n_layers=2, n_heads=4, vocab_size=VOCABULARY), "do not run on tree attention"),
    "gptj": (lambda: transformers.GPTJConfig(n_embd=32, n_layer=2, n_head=4, rotary_dim=4, vocab_size=VOCABULARY), "attention but its own"),
    "gpt_neo": (
        lambda: transformers.GPTNeoConfig(
            hidden_size=32, num_layers=2, num_heads=4, vocab_size=VOCABULARY, attention_types=[[["global", "local"], 1]]
        ), "attention but its own",
    ),
    "falcon": (lambda: transformers.FalconConfig(**BARE), "attention but its own"),
    "llama4": (lambda: transformers.Llama4TextConfig(**GROUPED, **ENDS), "layers of type chunked_attention"),
    "mamba": (lambda: transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=VOCABULARY), "type linear_attention"),
    "qwen3_next": (lambda: transformers.Qwen3NextConfig(**GROUPED), "type linear_attention"),
    "bert": (lambda: transformers.BertConfig(**BARE), "differs"),
    "llama dynamic": (lambda: transformers.LlamaConfig(**GROUPED, rope_parameters=DYNAMIC), "dynamic"),
    "phi3 longrope": (
        lambda: transformers.Phi3Config(**GROUPED, original_max_position_embeddings=48, rope_parameters=LONGROPE, **ENDS), "longrope",
    ),
}  # fmt: skip


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Weights large enough that attention is far from uniform and that no bias, norm or sink is at its trivial start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("sinks"):  # their class leaves them as memory happens to be
                parameter.copy_(noise)
            elif parameter.ndim >= 2:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5 * 0.8)
            else:
                parameter.add_(0.1 * noise)


def quiet(config: Any) -> Any:
    """The config with every dropout at 0."""
    for name in vars(config):
        if "drop" in name and isinstance(getattr(config, name), float):
            setattr(config, name, 0.0)
    return config


def pair(config: Any, *, scorer: bool = False) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The same random model twice: on tree attention, and on the family's own eager attention."""
    kind: Any = AutoModelForSequenceClassification if scorer else AutoModelForCausalLM
    if scorer:
        config.num_labels = 1
    eager = kind.from_config(quiet(copy.deepcopy(config)), attn_implementation="eager").eval()
    randomise(eager)
    ours = kind.from_config(quiet(copy.deepcopy(config)), attn_implementation=tree_attention()).eval()
    ours.load_state_dict(eager.state_dict())
    hasten(ours)
    return ours, eager


def tiny_policy(family: str = "llama") -> PreTrainedModel:
    """A small random language model on tree attention."""
    return pair(FAMILIES[family]())[0]


def random_trees(sizes: Sequence[tuple[int, Sequence[int]]], seed: int = 0) -> list[PromptTree]:
    """Trees of (prompt length, completion lengths) with random ids, keyed by their place."""
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, VOCABULARY, (count,), generator=generator).tolist())

    return [PromptTree(ids(p), tuple(ids(n) for n in ns), key=str(i)) for i, (p, ns) in enumerate(sizes)]


def plain_logprobs(model: PreTrainedModel, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
    """(len(completion),) log-probabilities by the family's own unpacked forward on prompt + completion."""
    ids = torch.tensor([[*prompt, *completion]])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(completion)[:, None]).squeeze(1)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter's gradient (zeros where none arrived), taken away from the model."""
    out = {name: (torch.zeros_like(p) if p.grad is None else p.grad.clone()) for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return out


def gradient_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest ||dg|| / max(||g||, 1e-3 ||g||_all) over the tensors: some true gradients are zero."""
    assert found.keys() == expected.keys()
    everything = float(torch.stack([g.norm() for g in expected.values()]).norm())
    assert everything > 0
    return max(float((found[n] - g).norm()) / max(float(g.norm()), 1e-3 * everything) for n, g in expected.items())


TEXT = [
    f"the {a} cat saw the {b} dog near the {c} mill ."
    for a in ("old", "red", "sad")
    for b in ("big", "shy")
    for c in ("new", "far")
]


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level BPE of 280 tokens with a chat template, an end token and a pad token."""
    return train_tokenizer(TEXT, 280)


def save_tiny_policy(folder: Path, family: str = "llama", **options: Any) -> Path:
    """A folder with a small random language model and ``tiny_tokenizer``."""
    tokenizer = tiny_tokenizer()
    config = FAMILIES[family]()
    config.vocab_size = len(tokenizer)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    for name, value in options.items():
        setattr(config, name, value)
    save_model(pair(config)[0], tokenizer, folder)
    return folder


PROMPTS = [
    Prompt(f"p{i}", (Message("user", text),)) for i, text in enumerate(["the cat", "a dog", "near", "the old mill", "saw"])
]  # fmt: skip


def answer_score(prompt: Prompt, text: str) -> float:
    """A rule that likes long answers and dislikes the letter e."""
    return float(len(text)) - 3 * text.count("e")


def online_parts(folder: Path, reward: Feedback, gold: Feedback | None = None, *, other_reference: bool = False) -> Parts:
    """What an online method works with, from a folder of ``save_tiny_policy``; the reference is the policy's copy, or random."""
    policy, reference, renderer = load_policy(folder), load_policy(folder), Renderer(load_tokenizer(folder))
    if other_reference:
        randomise(reference, seed=9)
    trees = [PromptTree(tuple(renderer.prompt(p)), (), key=p.id) for p in PROMPTS]
    return Parts(policy, reference, NativeEngine(policy, renderer.end_id), reward, gold, PROMPTS, trees, renderer)


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_lines(path: Path) -> list[Any]:
    """The JSON objects of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
