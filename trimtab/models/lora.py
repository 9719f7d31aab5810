"""LoRA adapters through peft: the start model's weights stay as they are, small matrices beside its linear layers are trained.

A layer gives W x + (alpha / rank) B A x; B starts at zero, so that training starts at the start model bit for bit (Hu et al. 2021,
section 4.1). ``rslora`` divides by the root of the rank (Kalajdzievski 2023), ``dora`` trains the lengths of W's rows beside their
directions (Liu et al. 2024), ``quantize=nf4`` keeps W in 4 bits (QLoRA, Dettmers et al. 2023; ``nf4.py``). Adapters are put into the
Hugging Face model itself, so that everything that scores or samples meets the model that it knows. What a model is without them, or
merged with them, is a second tree of modules over the same tensors (``without_adapters``, ``merged``), not a second model.
"""

import copy
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from pydantic import Field
from torch import Tensor, nn

from trimtab.common.config import Settings
from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedModel
from trimtab.common.rng import seed_for

Quantize = Literal["none", "nf4"]
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # peft imports it; of a kernel that it misses we have no need
NAME = "default"  # peft's own name for the only adapter of a model


class Lora(Settings):
    """Options of the adapters; ``rank`` 0 trains all weights."""

    rank: int = Field(0, ge=0, description="rank of the adapters (LoRA); 0 = all weights are trained. Takes about ten times the lr")
    alpha: float = Field(16.0, gt=0, description="what adapters add is multiplied by alpha / rank")
    targets: list[str] = Field([], description="linear layers that get one, e.g. [q_proj, v_proj]; empty = all but the output head")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the adapters' inputs that is dropped in training (sft only)")
    rslora: bool = Field(False, description="multiply by alpha / sqrt(rank) instead: ranks above 16 learn as fast as small ones")
    dora: bool = Field(False, description="train the lengths of the weights' rows too (DoRA): nearer to full training, slower")
    quantize: Quantize = Field("none", description="nf4 keeps the weights that are not trained in 4 bits (QLoRA; extra qlora)")


def refuse(options: Lora, *, may_drop: bool) -> None:
    """Refuses options that contradict each other or ask for what is not installed, before anything is loaded.

    Raises:
        UserError: naming the option.
    """
    if not options.rank:
        idle = [name for name, value in options if value != type(options).model_fields[name].default]
        if idle:
            raise UserError(f"lora.{idle[0]}={getattr(options, idle[0])}: no adapters without a rank; write lora.rank=16")
    if options.dropout and not may_drop:  # log-ratios to a reference, and PPO's ratios, would be noise
        raise UserError(f"lora.dropout={options.dropout}: only sft may drop, other losses compare two passes; leave it out")
    if options.dropout and options.dora:  # peft's DoRA asks the layer's mode, which says nothing here, and drops W's inputs too
        raise UserError(f"lora.dropout={options.dropout}: not together with lora.dora; leave one of them out")
    if options.quantize == "nf4":
        try:
            import bitsandbytes  # noqa: F401
        except ImportError as error:
            raise UserError(f"lora.quantize=nf4 needs bitsandbytes ({error}): pip install 'trimtab[qlora]'") from None


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Name -> linear layer of the trunk, embeddings and heads left out. Quantised ones are linear layers too."""
    trunk = {id(module) for module in model.base_model.modules()}
    return {name: m for name, m in model.named_modules() if isinstance(m, (nn.Linear, transformers.Conv1D)) and id(m) in trunk}


def add_adapters(model: PreTrainedModel, options: Lora, *, seed: int) -> str:
    """Puts adapters into ``model``; from then on they alone want gradients, and a scorer's head. Returns what is trained, in words.

    The chunked head reads the output head's weight itself (``score.py``): the head gets no adapter.

    Raises:
        UserError: ``options.targets`` names a layer that is not there, or the output head.
    """
    from peft import LoraConfig, inject_adapter_in_model  # takes two seconds

    layers = linear_layers(model)
    chosen = _chosen(model, layers, options.targets)
    kinds = sorted({_leaf(name) for name in chosen})
    matched = [name for name, _ in model.named_modules() if _leaf(name) in kinds]
    config = LoraConfig(
        r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, use_rslora=options.rslora, use_dora=options.dora,
        target_modules=kinds if matched == chosen else chosen, task_type="SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM",
        base_model_name_or_path=_absolute(model.name_or_path),
        fan_in_fan_out=any(isinstance(layers[name], transformers.Conv1D) for name in chosen),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # drawn on the CPU: the same numbers whatever the device
        torch.manual_seed(seed_for(seed, "lora"))
        inject_adapter_in_model(config, model, NAME)
    for layer in _adapted(model) if options.dropout else ():
        layer.lora_dropout[NAME] = _Dropped(options.dropout)
    if hasattr(model, "score"):
        model.score.requires_grad_(True)
    model.eval()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rest = "embeddings and output head stay as they are" if not hasattr(model, "score") else "and the head; embeddings stay as they are"
    stacked = "; so do experts" if any(p.ndim > 2 for p in model.parameters()) else ""
    return f"adapters of rank {options.rank} on {len(chosen)} layers ({', '.join(kinds)}), {trained:,} weights; {rest}{stacked}"


def has_adapters(model: nn.Module) -> bool:
    """Whether ``add_adapters`` was here."""
    return next(_adapted(model), None) is not None


def drops(model: nn.Module) -> bool:
    """Whether the model's adapters drop something while gradients are recorded."""
    return any(isinstance(module, _Dropped) for module in model.modules())


def without_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """``model`` as it was before it had adapters, over the very same tensors: the reference of what it becomes."""
    return _twin(model, lambda module: module.base_layer if _is_adapted(module) else None)


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """``model`` with adapters added into copies of the weights beside them and 4-bit weights made float32, all other tensors shared; itself
    where it has neither. Merged weights are those of the model that was trained: W is what the 4 bits say, not what it was before."""

    def plain(module: Any) -> nn.Module | None:
        if not _is_adapted(module):
            return module.plain() if hasattr(module, "quant_type") else None
        base, carrier = module.base_layer, copy.copy(module)
        transposed = getattr(base, "transposed", False)  # of a layer in 4 bits
        new = base.plain(transposed=False) if hasattr(base, "quant_type") else _cloned(base)
        carrier._modules = {**module._modules, "base_layer": new}
        carrier._caches, carrier.merged_adapters = {}, []
        with torch.no_grad():
            carrier.merge()
        return as_conv1d(new) if transposed else new

    changed = any(_is_adapted(module) or hasattr(module, "quant_type") for module in model.modules())
    return _twin(model, plain) if changed else model


def adapter_files(model: PreTrainedModel, folder: Path) -> None:
    """Writes the adapters as peft does, so that plain peft loads them onto the start model; a scorer's head among them."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config: Any = copy.deepcopy(model.peft_config[NAME])
    weights: dict[str, Tensor] = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    if hasattr(model, "score"):
        config.modules_to_save = ["score"]
        weights["score.weight"] = model.score.weight
    config.inference_mode = True
    folder.mkdir(parents=True)
    plain = {f"base_model.model.{name}": w.detach().cpu().contiguous() for name, w in weights.items()}
    save_file(plain, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def as_conv1d(layer: nn.Linear) -> nn.Module:
    """The same layer as GPT-2 has it, its weight (in, out)."""
    new = transformers.Conv1D(*layer.weight.shape)
    new.weight = nn.Parameter(layer.weight.detach().T.contiguous(), requires_grad=False)
    new.bias = layer.bias
    return new


class _Dropped(nn.Dropout):
    """Drops while gradients are recorded and at no other time, whatever mode the model is in: models are always in evaluation mode here,
    but for activation checkpointing."""

    @property
    def training(self) -> bool:
        return torch.is_grad_enabled()

    @training.setter
    def training(self, mode: bool) -> None:
        pass


def _chosen(model: PreTrainedModel, layers: dict[str, nn.Module], targets: list[str]) -> list[str]:
    """The names of the layers that ``targets`` means, in the model's order."""
    head = model.get_output_embeddings()
    heads = [name for name, module in model.named_modules() if name and module is (getattr(model, "score", None) or head)]
    for target in targets:
        if any(_meant(name, target) for name in heads):
            raise UserError(f"lora.targets: {target} is the output head, which stays as it is; name layers of the trunk")
        if not any(_meant(name, target) for name in layers):
            known = ", ".join(sorted({_leaf(name) for name in layers}))
            raise UserError(f"lora.targets: the model has no linear layer {target}; it has {known}")
    return [name for name in layers if not targets or any(_meant(name, target) for target in targets)]


def _meant(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _absolute(source: str) -> str:
    return str(Path(source).resolve()) if Path(source).exists() else source


def _is_adapted(module: nn.Module) -> bool:
    return hasattr(module, "lora_A") and hasattr(module, "base_layer")


def _adapted(model: nn.Module) -> Iterator[Any]:
    return (module for module in model.modules() if _is_adapted(module))


def _cloned(layer: nn.Module) -> Any:
    new = copy.copy(layer)
    new._parameters = {name: None if p is None else nn.Parameter(p.detach().clone(), False) for name, p in layer._parameters.items()}
    return new


def _twin(model: PreTrainedModel, swap: Callable[[nn.Module], Any]) -> PreTrainedModel:
    """A second tree of modules over the same tensors, in which ``swap`` may put another module in a module's place."""
    made: dict[int, nn.Module] = {}

    def copied(module: nn.Module) -> nn.Module:
        if id(module) not in made:
            new = swap(module)
            if new is None:
                new = copy.copy(module)
                new._modules = {name: None if child is None else copied(child) for name, child in module._modules.items()}
            made[id(module)] = new
        return made[id(module)]

    twin: Any = copied(model)
    vars(twin).pop("peft_config", None)
    return twin
