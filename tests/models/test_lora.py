"""Adapters: the start model bit for bit at the start, the merged model at the end, nothing else trained, and plain peft reads them."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.utils.integrations import dequantize_module_weight
from tiny_models import FAMILIES, pair, plain_logprobs, random_trees, save_tiny_policy
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from trimtab.common.errors import UserError
from trimtab.models.attention import tree_attention
from trimtab.models.load import load_policy, load_scorer, load_tokenizer, save_adapter, save_model
from trimtab.models.lora import Lora, add_adapters, drops, has_adapters, linear_layers, merged, refuse, without_adapters
from trimtab.models.nf4 import NF4Linear, quantise
from trimtab.models.score import score_rewards, score_tokens
from trimtab.sampling import packed
from trimtab.sampling.engine import NativeEngine
from trimtab.sampling.packed import can_pack
from trimtab.sampling.protocol import SamplingOptions
from trimtab.training.optimizer import adamw, trained_parameters
from trimtab.training.settings import TrainingSettings
from trimtab.trees import PromptTree, TreeBatch

TREES = random_trees([(5, [4, 6, 9]), (3, [7])])
BATCH = TreeBatch.pack(TREES)
CPU = torch.device("cpu")
KINDS = [Lora(rank=4), Lora(rank=4, dora=True), Lora(rank=4, quantize="nf4"), Lora(rank=4, quantize="nf4", dora=True)]
LINEAR = {  # layers of one block; gpt_oss keeps its experts in tensors of three dimensions, which are no linear layers
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "gpt_neox": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    "opt": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    "gpt_oss": {"q_proj", "k_proj", "v_proj", "o_proj"},
}


def adapted(family: str, options: Lora, *, moved: bool = True, scorer: bool = False) -> PreTrainedModel:
    """A tiny model with adapters, which ``moved`` away from their start."""
    model = pair(FAMILIES[family](), scorer=scorer)[0]
    if options.quantize == "nf4":
        quantise(model, CPU)
    add_adapters(model, options, seed=3)
    return move(model) if moved else model


def move(model: PreTrainedModel) -> PreTrainedModel:
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return model


def trained(model: PreTrainedModel) -> dict[str, Any]:
    return trained_parameters({"m": model})


def logprobs(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return score_tokens(model, BATCH).logprobs


@pytest.mark.parametrize("options", KINDS, ids=["lora", "dora", "qlora", "qdora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_at_the_start_it_is_the_start_model_and_merged_it_is_the_trained_one(family: str, options: Lora) -> None:
    """Every family: bit for bit before a step, in bf16 too; without adapters afterwards as well; merged to 1e-5; adapters alone learn."""
    model = pair(FAMILIES[family]())[0]
    if options.quantize == "nf4":
        quantise(model, CPU)
    with torch.autocast("cpu", torch.bfloat16):
        half = logprobs(model)
    whole = logprobs(model)
    add_adapters(model, options, seed=3)
    reference = without_adapters(model)
    assert not has_adapters(reference)
    for twin in (model, reference):
        assert torch.equal(logprobs(twin), whole)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(logprobs(twin), half)
    move(model)
    assert torch.equal(logprobs(reference), whole)
    assert float((logprobs(model) - whole).abs().max()) > 0.1
    assert float((logprobs(merged(model)) - logprobs(model)).abs().max()) < 1e-5
    score_tokens(model, BATCH).logprobs.sum().backward()
    with_gradients = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert with_gradients == {name.removeprefix("m.") for name in trained(model)}
    layers = {name.split(".")[-1] for name in linear_layers(reference)}
    assert layers == LINEAR.get(family, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
    assert all(f".{leaf}." in "".join(with_gradients) for leaf in layers)


def test_twins_share_every_tensor_that_is_not_merged() -> None:
    model = adapted("llama", Lora(rank=2, targets=["q_proj"]))
    reference, whole = without_adapters(model), merged(model)
    mine = {p.data_ptr() for p in model.parameters()}
    assert {p.data_ptr() for p in reference.parameters()} < mine
    new = {name for name, p in whole.named_parameters() if p.data_ptr() not in mine}
    assert new == {f"model.layers.{i}.self_attn.q_proj.weight" for i in range(2)}
    assert has_adapters(model) and merged(reference) is reference


@pytest.mark.parametrize(("rslora", "scaling"), [(False, 8 / 4), (True, 8 / math.sqrt(4))])
def test_a_layer_adds_scaled_b_a_x(rslora: bool, scaling: float) -> None:
    model = adapted("llama", Lora(rank=4, alpha=8, rslora=rslora))
    layer: Any = model.model.layers[0].mlp.up_proj
    inputs = torch.randn(3, 32)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = inputs @ layer.base_layer.weight.T + scaling * (inputs @ a.T) @ b.T
    torch.testing.assert_close(layer(inputs), expected)


def test_dora_scales_rows_to_the_trained_lengths() -> None:
    """Merged, each row of the weight is as long as the length that was trained for it."""
    model = adapted("llama", Lora(rank=4, dora=True))
    layer: Any = model.model.layers[1].mlp.down_proj
    length = layer.lora_magnitude_vector["default"].weight
    torch.testing.assert_close(merged(model).model.layers[1].mlp.down_proj.weight.norm(dim=1), length.detach().abs())


def test_the_start_depends_on_the_seed_alone() -> None:
    one, two = adapted("llama", Lora(rank=4), moved=False), adapted("llama", Lora(rank=4), moved=False)
    other = pair(FAMILIES["llama"]())[0]
    state = torch.get_rng_state()
    add_adapters(other, Lora(rank=4), seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(trained(one).values(), trained(two).values(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(trained(one).values(), trained(other).values(), strict=True))


@pytest.mark.parametrize("options", [Lora(rank=4), Lora(rank=4, rslora=True, dora=True), Lora(rank=3, targets=["1.mlp.down_proj"])])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt"])
def test_plain_peft_and_plain_transformers_read_what_was_saved(family: str, options: Lora, tmp_path: Path) -> None:
    """The adapter on the start model, and the merged model alone, by their own eager attention."""
    if family in ("gpt2", "opt"):
        leaf = {"gpt2": "1.mlp.c_proj", "opt": "layers.1.fc2"}[family]
        options = options.model_copy(update={"targets": [leaf] if options.targets else []})
    start = save_tiny_policy(tmp_path / "start", family)
    model = load_policy(start)
    add_adapters(model, options, seed=0)
    move(model)
    save_adapter(model, load_tokenizer(start), tmp_path / "adapter")
    save_model(model, load_tokenizer(start), tmp_path / "model")
    assert {p.name for p in (tmp_path / "adapter").glob("adapter*")} == {"adapter_config.json", "adapter_model.safetensors"}
    assert len(AutoTokenizer.from_pretrained(tmp_path / "adapter")) == len(load_tokenizer(start))
    plain: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(start, attn_implementation="eager"), tmp_path / "adapter")
    assert plain.peft_config["default"].base_model_name_or_path == str(start)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager")
    found = logprobs(model)
    for other in (plain.eval(), whole.eval()):
        with torch.no_grad():
            expected = torch.cat([plain_logprobs(other, t.prompt, c) for t in TREES for c in t.completions])
        assert float((found - expected).abs().max()) < 1e-5
    again = load_policy(tmp_path / "model")
    assert {n for n, _ in again.named_parameters()} == {n for n, _ in load_policy(start).named_parameters()}


def test_plain_peft_reads_a_scorers_head_and_adapters(tmp_path: Path) -> None:
    start = save_tiny_policy(tmp_path / "start")
    model = load_scorer(start)
    add_adapters(model, Lora(rank=4), seed=0)
    assert {n for n in trained(model) if "lora_" not in n} == {"m.score.weight"}
    move(model)
    save_adapter(model, load_tokenizer(start), tmp_path / "adapter")
    base = AutoModelForSequenceClassification.from_pretrained(start, num_labels=1, attn_implementation="eager")
    plain: Any = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        found = score_rewards(model, BATCH)
        expected = torch.cat([plain(input_ids=torch.tensor([[*t.prompt, *c]])).logits[0] for t in TREES for c in t.completions])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [Lora(rank=4), Lora(rank=4, dora=True), Lora(rank=4, quantize="nf4")])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("packing", [False, True])
def test_the_engine_samples_from_the_policy_with_its_adapters(
    family: str, options: Lora, packing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer says the same of what was drawn, and the start model says something else; layers packed beside their adapters or not."""
    model = adapted(family, options)
    if packing:
        monkeypatch.setattr(packed, "MODEL_WEIGHTS", 0)
        monkeypatch.setattr(packed, "LAYER_WEIGHTS", 0)
        assert not can_pack(CPU, torch.float32) or packed.layers_to_pack(model, torch.float32)
    prompts = [t.prompt for t in TREES]
    samples = NativeEngine(model, 1).sample(prompts, 4, SamplingOptions(max_tokens=12, seed=2), ["a", "b"])
    batch = TreeBatch.pack([PromptTree(p, tuple(s.token_ids for s in row)) for p, row in zip(prompts, samples, strict=True)])
    said = torch.tensor([x for row in samples for s in row for x in s.logprobs])
    with torch.no_grad():
        own, start = (score_tokens(m, batch).logprobs for m in (model, without_adapters(model)))
    assert float((said - own).abs().max()) < 1e-4 < 0.1 < float((said - start).abs().max())


@pytest.mark.skipif(not can_pack(CPU, torch.bfloat16), reason="no bf16 products in hardware here: nothing is packed")
def test_packed_weights_have_their_adapters_beside_them() -> None:
    """bf16, base and adapters packed: the engine is as near to the trainer as it is without adapters."""
    apart = []
    for model in (pair(FAMILIES["llama"]())[0], adapted("llama", Lora(rank=4))):
        samples = NativeEngine(model, 1, autocast=True).sample([TREES[0].prompt], 16, SamplingOptions(max_tokens=12, seed=2), ["a"])[0]
        batch = TreeBatch.pack([PromptTree(TREES[0].prompt, tuple(s.token_ids for s in samples))])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            own = score_tokens(model, batch).logprobs
        apart.append(float((torch.tensor([x for s in samples for x in s.logprobs]) - own).abs().mean()))
        assert not any(p.requires_grad for n, p in model.named_parameters() if "base_layer" in n)
    assert apart[1] < max(2 * apart[0], 0.01)


def test_dropout_is_on_while_gradients_are_recorded_and_at_no_other_time() -> None:
    model, calm = (adapted("llama", Lora(rank=4, dropout=share)) for share in (0.5, 0.0))
    assert drops(model) and not drops(calm)
    for mode in (True, False):
        model.train(mode)
        assert torch.equal(logprobs(model), logprobs(calm))
        torch.manual_seed(0)
        first = score_tokens(model, BATCH).logprobs
        assert not torch.equal(first, logprobs(calm))
        torch.manual_seed(0)
        assert torch.equal(score_tokens(model, BATCH).logprobs, first)


def test_optimizer_and_gradients_take_a_twentieth() -> None:
    """Rank 8 on all linear layers of a model 256 wide: 12 bytes for each trained weight, against 12 for each weight."""
    config = FAMILIES["llama"]()
    config.hidden_size, config.intermediate_size, config.vocab_size = 256, 768, 4000
    model = AutoModelForCausalLM.from_config(config, attn_implementation=tree_attention()).eval()
    whole = sum(p.numel() for p in model.parameters())
    add_adapters(model, Lora(rank=8), seed=0)
    parameters = trained(model)
    optimizer = adamw(parameters.values(), TrainingSettings())
    score_tokens(model, BATCH).logprobs.sum().backward()
    optimizer.step()
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    moments = sum(v.nbytes for state in optimizer.state.values() for name, v in state.items() if name != "step")
    assert gradients + moments == 12 * sum(p.numel() for p in parameters.values()) <= 0.05 * 12 * whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Lora(dropout=0.1), "lora.dropout=0.1: no adapters without a rank"),
        (Lora(quantize="nf4"), "lora.quantize=nf4: no adapters without a rank"),
        (Lora(rank=4, dropout=0.1), "lora.dropout=0.1: only sft may drop"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: Lora, message: str) -> None:
    with pytest.raises(UserError, match=message):
        refuse(options, may_drop=False)
    refuse(Lora(rank=4, dropout=0.1), may_drop=True)
    with pytest.raises(UserError, match=r"lora.dropout=0.1: not together with lora.dora"):
        refuse(Lora(rank=4, dropout=0.1, dora=True), may_drop=True)


def test_without_bitsandbytes_nf4_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"lora.quantize=nf4 needs bitsandbytes .*pip install 'trimtab\[qlora\]'"):
        refuse(Lora(rank=4, quantize="nf4"), may_drop=False)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("q", "no linear layer q; it has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"),
        ("lm_head", "lm_head is the output head, which stays as it is"),
        ("embed_tokens", "no linear layer embed_tokens"),
    ],
)
def test_targets_that_are_no_layers_are_refused(target: str, message: str) -> None:
    with pytest.raises(UserError, match=f"lora.targets: (the model has )?{message}"):
        add_adapters(pair(FAMILIES["llama"]())[0], Lora(rank=4, targets=["q_proj", target]), seed=0)


# ---- 4 bits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_quantised_models_agree_between_trees_and_their_own_attention(family: str) -> None:
    ours, eager = pair(FAMILIES[family]())
    before = logprobs(ours)
    for model in (ours, eager):
        quantise(model, CPU)
    with torch.no_grad():
        expected = torch.cat([plain_logprobs(eager, t.prompt, c) for t in TREES for c in t.completions])
    assert float((logprobs(ours) - expected).abs().max()) < 1e-5
    assert 0.01 < float((logprobs(ours) - before).abs().max())


def test_a_quantised_layer_takes_less_than_thirty_percent_of_bf16_and_is_near() -> None:
    """4 bits, and 8 for each block of 64 and a little: 26 %. Normal weights are off by 9 % of their deviation or so."""
    layer = torch.nn.Linear(512, 1024)
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    made = NF4Linear(layer, CPU)
    state = made.weight.quant_state
    tensors = (made.weight, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
    assert sum(t.nbytes for t in tensors) <= 0.27 * 2 * layer.weight.numel()
    assert float((made.dequantize() - layer.weight.detach()).std()) < 0.1


@pytest.mark.parametrize(("out", "wide"), [(160, 160), (48, 64), (3, 448), (5, 40), (7, 16), (3, 9)])
def test_each_weight_comes_back_with_the_scale_of_its_own_block(out: int, wide: int) -> None:
    """The definition: blocks of 64 of the flattened weight, a value of the code times the largest of the block. So a weight made of such
    values comes back, up to the rounding of the scales; neighbouring blocks' scales differ by half. Rows that are no whole number of blocks
    are what bitsandbytes gets wrong on CPUs with AVX-512."""
    code = [-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0]
    code += [0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0]
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(16, (out * wide,), generator=generator)
    block = torch.arange(out * wide) // 64
    chosen[torch.arange(0, out * wide, 64)] = 15  # every block has its scale
    values = torch.tensor(code)[chosen] * 1.5 ** (block % 8)
    layer = torch.nn.Linear(wide, out)
    layer.weight.data.copy_(values.view(out, wide))
    # Scales are quantised to 8 bits themselves: up to 17, so that they are off by less than 0.1.
    made = NF4Linear(layer, CPU)
    torch.testing.assert_close(made.dequantize(), layer.weight.detach(), atol=0.12, rtol=0.0)
    assert torch.equal(dequantize_module_weight(made), made.dequantize())  # as peft's DoRA reads it


def test_a_quantised_layer_is_a_plain_one_with_the_dequantised_weight() -> None:
    made = NF4Linear(torch.nn.Linear(64, 48), CPU)
    plain = made.plain()
    inputs = torch.randn(5, 64, requires_grad=True)
    (found,), (expected,) = (torch.autograd.grad(layer(inputs).square().sum(), inputs) for layer in (made, plain))
    assert torch.equal(made(inputs), plain(inputs))
    torch.testing.assert_close(found, expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made(inputs), plain(inputs))


def test_a_quantised_model_without_adapters_is_saved_whole(tmp_path: Path) -> None:
    start = save_tiny_policy(tmp_path / "start", "gpt2")
    model = load_policy(start, quantize="nf4")
    assert any(isinstance(m, NF4Linear) for m in model.modules())
    save_model(model, load_tokenizer(start), tmp_path / "model")
    torch.testing.assert_close(logprobs(load_policy(tmp_path / "model")), logprobs(model), atol=1e-5, rtol=0)
    again = copy.deepcopy(load_policy(tmp_path / "model"))
    assert not any(isinstance(m, NF4Linear) for m in again.modules())
