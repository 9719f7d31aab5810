"""Accepts an architecture by trying it: tree attention against the family's own attention, on a tiny random copy.

A family that accepts our attention's name may still never call it, hide a rule in the mask it builds (ALiBi, chunks), or let
its rotary frequencies depend on the length of what is computed at once. Each gives numbers that are wrong by little, so the
comparison decides, not a list of names. It costs a few tenths of a second, once per configuration and process.
"""

import copy
import hashlib
import json
import warnings
from typing import Any

import torch
from torch import Tensor

from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedModel
from trimtab.models.attention import TreeLayout, tree_attention
from trimtab.models.rows import hasten
from trimtab.models.rule import AttentionRule, Layout
from trimtab.models.score import hidden_states, scalar_outputs, tail_of, token_logprobs
from trimtab.trees import PromptTree, TreeBatch

# Windows, chunks and original RoPE lengths of the copy: some of the trees below are shorter, some longer.
REACH = 16
VOCABULARY = 64
# (prompt, completions): siblings with a long and with a short prompt, an only child, a one-token prompt.
SHAPES = ((20, (9, 23, 5)), (3, (6, 4)), (7, (11,)), (1, (19,)))
POSITIONS = 48
# Rounding is below 3e-6 and 1e-5 (tests/models/test_attention.py); the smallest fault known, an ALiBi that is left out, is 5e-4.
LOGPROB_TOLERANCE, GRADIENT_TOLERANCE = 5e-5, 1e-4

WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "moe_intermediate_size", "shared_expert_intermediate_size")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
LAYER_TYPES = {"full_attention", "sliding_attention"}
BY_LENGTH = ("dynamic", "longrope")

_verdicts: dict[str, str] = {}


def check_architecture(kind: Any, config: Any) -> None:
    """Refuses a configuration on which tree attention is not exact. ``kind``: the auto class the model is loaded with.

    Raises:
        UserError: naming the architecture and what differs.
    """
    text = json.dumps([kind.__name__, type(config).__name__, config.to_dict()], sort_keys=True, default=str)
    key = hashlib.sha256(text.encode()).hexdigest()
    if key not in _verdicts:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            verdict = _verdict(kind, config)
            # A family's difference is the same every time. One virtual machine was off by 9e-5 in three of a hundred process starts,
            # by 1e-6 otherwise, and never when asked again (docs/log.md): two clean comparisons acquit, one does not.
            if verdict and not any(_verdict(kind, config) for _ in range(2)):
                warnings.warn(f"{verdict} in a first comparison, not in two more: this machine is not steady", stacklevel=2)
                verdict = ""
            _verdicts[key] = verdict
    if _verdicts[key]:
        name = (config.architectures or [type(config).__name__])[0]
        raise UserError(
            f"{name} is not supported: {_verdicts[key]}; choose another family, e.g. Llama, Qwen, Gemma, OLMo or GPT-2"
        )


def tiny_copy(config: Any) -> Any:
    """The configuration with every size small and every kind of layer once, rules (windows, caps, scales, RoPE) unchanged."""
    tiny = copy.deepcopy(config)
    _shrink_layers(tiny)
    _shrink_widths(tiny)
    lengths = {"max_position_embeddings": POSITIONS}
    rope = getattr(tiny, "rope_parameters", None) or {}
    for rules in (rope, *(r for r in rope.values() if isinstance(r, dict))):  # one for all layers, or one for each kind
        if "original_max_position_embeddings" in rules:
            rules["original_max_position_embeddings"] = REACH
        if rules.get("rope_type") == "dynamic":  # its original length is the longest position
            lengths["max_position_embeddings"] = REACH
    for name, value in vars(tiny).items():
        if (
            isinstance(value, int)
            and value > REACH
            and any(part in name for part in ("window", "chunk", "original_max"))
        ):
            lengths[name] = value if "layers" in name else REACH
    others = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None, "num_labels": 1}
    for name, value in {**lengths, **others}.items():
        if hasattr(tiny, name):
            setattr(tiny, name, value)
    for name, value in vars(tiny).items():
        if "drop" in name and isinstance(value, float):
            setattr(tiny, name, 0.0)
    return tiny


def _shrink_layers(tiny: Any) -> None:
    """One layer of each kind, at least two: a kind is what the lists with one entry per layer (``layer_types``) say of it."""
    count = tiny.num_hidden_layers
    lists = {
        name: value for name, value in vars(tiny).items() if isinstance(value, (list, tuple)) and len(value) == count
    }
    first: dict[str, int] = {}
    for layer in range(count):
        first.setdefault(json.dumps([value[layer] for value in lists.values()], default=str), layer)
    kept = sorted(first.values())
    kept += [kept[-1]] * (min(count, 2) - len(kept))
    for name, value in lists.items():
        setattr(tiny, name, [value[layer] for layer in kept])
    tiny.num_hidden_layers = len(kept)


def _shrink_widths(tiny: Any) -> None:
    heads, hidden = tiny.num_attention_heads, tiny.hidden_size
    groups = getattr(tiny, "num_key_value_heads", None) or heads
    size = getattr(tiny, "head_dim", None) or hidden // heads  # kept: rotary factors are lists of this length
    few = min(groups, 2)
    tiny.num_attention_heads = few * min(heads // groups, 2)
    if getattr(tiny, "num_key_value_heads", None):
        tiny.num_key_value_heads = few
    if getattr(tiny, "word_embed_proj_dim", None) == hidden:
        tiny.word_embed_proj_dim = tiny.num_attention_heads * size
    tiny.hidden_size = tiny.num_attention_heads * size
    for names, most in ((WIDTHS, 64), (EXPERTS, 4), (("num_experts_per_tok",), 2)):
        for name in names:
            if isinstance(getattr(tiny, name, None), int):
                setattr(tiny, name, min(getattr(tiny, name), most))


class _Counting:
    """A layout that notes which layers asked it."""

    def __init__(self, inner: Layout) -> None:
        self.inner, self.layers = inner, list[int]()

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
        """See ``Layout.attend``."""
        self.layers.append(layer)
        return self.inner.attend(layer, query, key, value, rule)


def _verdict(kind: Any, config: Any) -> str:
    """Why the architecture is refused, or nothing."""
    strange = set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES
    if strange:
        return f"it has layers of type {', '.join(sorted(strange))}"
    try:
        tiny = tiny_copy(config)
        plain, ours = (
            kind.from_config(copy.deepcopy(tiny), attn_implementation=how, dtype=torch.float32).eval()
            for how in ("eager", tree_attention())
        )
        hasten(ours)  # as loaded models are, so that the comparison holds for its faster layers too
        _randomise(plain)
        ours.load_state_dict(plain.state_dict())
    except Exception as error:  # whatever a family's own code raises: it is not ours to list
        if isinstance(error, KeyError) and error.args == (tree_attention(),):
            return "it takes no attention but its own"
        return f"a tiny copy of it cannot be made as {kind.__name__} ({_first_line(error)})"
    trees = _trees()
    batch = TreeBatch.pack(trees)
    layout = _Counting(TreeLayout(batch.layout))
    try:
        found = _outputs(ours, batch, layout)
    except Exception as error:
        return f"its layers do not run on tree attention ({_first_line(error)})"
    if sorted(layout.layers) != list(range(tiny.num_hidden_layers)):
        return f"its {tiny.num_hidden_layers} layers called tree attention {len(layout.layers)} times"
    expected = torch.cat(
        [_plain_outputs(plain, tree.prompt, completion) for tree in trees for completion in tree.completions]
    )
    off = float((found - expected).detach().abs().max())
    if not off <= LOGPROB_TOLERANCE:
        return f"tree attention differs from its own by {off:.1e} in outputs{_hint(tiny)}"
    steps = torch.linspace(-1, 1, len(found))
    steeper = _gradient_error(_gradients(ours, found @ steps), _gradients(plain, expected @ steps))
    return "" if steeper <= GRADIENT_TOLERANCE else f"tree attention differs from its own by {steeper:.1e} in gradients"


def _hint(tiny: Any) -> str:
    rope = getattr(tiny, "rope_parameters", None) or {}
    kind = next(
        (r["rope_type"] for r in (rope, *rope.values()) if isinstance(r, dict) and r.get("rope_type") in BY_LENGTH),
        None,
    )
    return f" (its positions are scaled by the length of what is computed at once, rope_type {kind})" if kind else ""


def _trees() -> list[PromptTree]:
    draw = torch.Generator().manual_seed(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, VOCABULARY, (count,), generator=draw).tolist())

    return [PromptTree(ids(prompt), tuple(ids(n) for n in completions)) for prompt, completions in SHAPES]


def _outputs(model: PreTrainedModel, batch: TreeBatch, layout: Layout) -> Tensor:
    """Token logprobs (S,) of a language model, rewards (C,) of a scorer."""
    states = hidden_states(model, batch.ids, batch.positions, layout)
    if hasattr(model, "score"):
        return scalar_outputs(model, states.index_select(0, batch.last))
    return token_logprobs(states.index_select(0, batch.sources), batch.targets, tail_of(model))[0]


def _plain_outputs(model: PreTrainedModel, prompt: tuple[int, ...], completion: tuple[int, ...]) -> Tensor:
    """The same for one completion, by the family's own forward on prompt + completion alone."""
    logits = model(input_ids=torch.tensor([[*prompt, *completion]]), use_cache=False).logits
    if hasattr(model, "score"):
        return logits.flatten()
    scored = torch.log_softmax(logits[0, len(prompt) - 1 : -1].float(), -1)
    return scored.gather(1, torch.tensor(completion).unsqueeze(1)).squeeze(1)


def _randomise(model: PreTrainedModel) -> None:
    """Weights under which attention is far from uniform (at the usual 0.02 it hardly matters), no bias or norm at its start."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.copy_(
                noise * 0.8 * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else parameter + 0.1 * noise
            )


def _gradients(model: PreTrainedModel, loss: Tensor) -> list[Tensor]:
    loss.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]


def _gradient_error(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest ||dg|| / max(||g||, 1e-3 ||g||_all): some true gradients are zero."""
    norms = torch.stack([g.norm() for g in expected])
    floor = 1e-3 * norms.norm()
    return max(float((a - b).norm() / torch.maximum(n, floor)) for a, b, n in zip(found, expected, norms, strict=True))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
