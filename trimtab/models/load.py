"""Load and save Hugging Face folders, with tree attention and without dropout. A peft adapter's folder is read as its base with the
adapter merged in: from there on it is a model like any other."""

import functools
import logging
import os
import shutil
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import transformers
from huggingface_hub import is_offline_mode
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from trimtab.common.device import here
from trimtab.common.errors import UserError
from trimtab.common.files import disk_error, near_name, read_json, refuse_missing_folder, replace_folder
from trimtab.common.hf import PreTrainedModel, PreTrainedTokenizerBase
from trimtab.common.rng import seed_for
from trimtab.models.attention import tree_attention
from trimtab.models.check import check_architecture
from trimtab.models.lora import Quantize, adapter_files, merged
from trimtab.models.rows import hasten

transformers_logging.disable_progress_bar()  # ours say what is being done; a bar of 30 ms of loading says nothing

DROPOUTS = ("attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "hidden_dropout", "dropout", "summary_first_dropout",
            "classifier_dropout", "attn_dropout", "embedding_dropout", "resid_dropout", "hidden_dropout_prob",
            "attention_probs_dropout_prob", "layerdrop")  # fmt: skip
PADDED_TO = 128  # rows of a padded vocabulary stay a multiple of the power of two that they were, up to this


def load_policy(source: Path | str, *, dtype: torch.dtype = torch.float32, quantize: Quantize = "none") -> PreTrainedModel:
    """A causal language model from a folder or hub name, on tree attention, every dropout 0; ``quantize`` as in ``Lora``.

    Raises:
        UserError: there is no such model, it is a reward or value model, transformers cannot read it, or its architecture is not exact
            on trees.
    """
    if is_scorer(source):  # with a tied head no weight would be missing, and it would be taken for a language model in silence
        raise UserError(f"{source}: a reward or value model, not a language model; give the model that it was made from")
    return _load(transformers.AutoModelForCausalLM, source, dtype, quantize=quantize)


def load_scorer(
    source: Path | str, *, dtype: torch.dtype = torch.float32, seed: int = 0, quantize: Quantize = "none"
) -> PreTrainedModel:
    """A model with one scalar output per token (``AutoModelForSequenceClassification``, one label): reward or value model.

    From a language model's folder the trunk is taken and the head is drawn from N(0, 1 / (H + 1)), as Stiennon et al. 2020 did
    (section 3.4): a head that starts at zero lets no gradient into the trunk for its first steps.

    Raises:
        UserError: there is no such model, it has more than one label, or its architecture is not exact on trees.
    """
    fresh = not is_scorer(source)
    new = ("score.weight",) if fresh else ()
    model = _load(transformers.AutoModelForSequenceClassification, source, dtype, new=new, quantize=quantize, num_labels=1)
    if not hasattr(model, "score") or model.score.weight.shape[0] != 1:
        raise UserError(
            f"{source}: not a scalar scorer; give a reward-model folder, or a language model to start one from"
        )
    if fresh:
        width = model.score.weight.shape[1]
        draw = torch.Generator().manual_seed(seed_for(seed, "reward head"))  # on CPU: the same numbers whatever the device
        drawn = torch.empty(1, width).normal_(0, (width + 1) ** -0.5, generator=draw)
        with torch.no_grad():
            model.score.weight.copy_(drawn)
    return model


def is_scorer(source: Path | str) -> bool:
    """Whether a folder or hub name holds a scorer (reward or value model), as its configuration says.

    Raises:
        UserError: there is no such model.
    """
    base = adapter_base(source)
    if base and _adapter_config(source).get("task_type") == "SEQ_CLS":
        return True
    return any("SequenceClassification" in name for name in _config(source).architectures or [])


def load_tokenizer(source: Path | str) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model; of an adapter that has none, its base's.

    Raises:
        UserError: the folder has no tokenizer.
    """
    _exists(source)
    source = model_folder(source)
    if (base := adapter_base(source)) and not (Path(source) / "tokenizer_config.json").exists():
        return load_tokenizer(base)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(source), **_where(source))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{source}: no tokenizer there ({_first_line(error)}); save one beside the model") from None
    if tokenizer is None or not len(tokenizer):
        raise UserError(
            f"{source}: no tokenizer there; save one beside the model (tokenizer.json, tokenizer_config.json)"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(f"{source}: the tokenizer has no end token; set eos_token in tokenizer_config.json")
    return tokenizer


def new_policy(config: Any, *, seed: int) -> PreTrainedModel:
    """A freshly initialised causal language model for a Hugging Face ``config``; the same weights for the same seed."""
    for name in DROPOUTS:
        if isinstance(getattr(config, name, None), float):
            setattr(config, name, 0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=tree_attention())
    return _placed(model, "none")


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path | str) -> None:
    """A folder that plain transformers loads, adapters merged into the weights. Complete or absent.

    Raises:
        UserError: the disk is full, or the place cannot be written.
    """
    _save(merged(model).save_pretrained, tokenizer, Path(folder))


def save_adapter(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path | str) -> None:
    """A folder that plain peft loads onto the model that ``model`` was before it had adapters. Complete or absent.

    Raises:
        UserError: as ``save_model``.
    """
    _save(lambda place: adapter_files(model, place), tokenizer, Path(folder))


def _save(write: Callable[[Path], None], tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """What ``write`` writes and the tokenizer: written beside ``folder``, then put in its place."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        write(temporary)
        tokenizer.save_pretrained(temporary)
        replace_folder(temporary, folder)
    except (OSError, SafetensorError) as error:
        raise disk_error(error, folder) from error
    except Exception as error:  # tokenizers knows no other kind; the system's error is in its words
        if "os error" not in str(error):
            raise
        raise disk_error(error, folder) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def grow_vocabulary(model: PreTrainedModel, size: int, known: int = 0) -> None:
    """Gives ``model`` at least ``size`` token ids, of which the first ``known`` have been trained (0: as many as it has rows); each
    other one starts as their mean, also where the vocabulary was padded and has a row for it already. One that was padded stays so.

    No random draw: two models grown from the same weights stay equal, as policy and reference must.
    """
    rows = model.get_input_embeddings().num_embeddings
    known = min(known or rows, rows)
    if size <= known:
        return
    if size > rows:
        multiple = min(PADDED_TO, rows & -rows) if rows > known else 1
        with torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(size, pad_to_multiple_of=multiple, mean_resizing=False)
    layers = {id(m): m for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None}
    with torch.no_grad():
        for layer in layers.values():
            for weights in (layer.weight, getattr(layer, "bias", None)):
                if weights is not None and len(weights) >= size:
                    weights[known : size if size <= rows else None] = weights[:known].mean(0)


def stop_at(model: PreTrainedModel, *end_ids: int) -> None:
    """Sets the tokens at which transformers' ``generate`` ends; scorers, which generate nothing, are left alone."""
    config = getattr(model, "generation_config", None)
    if config is not None:
        config.eos_token_id = list(dict.fromkeys(end_ids))


def model_folder(source: Path | str) -> Path:
    """The model inside a run folder (``runs/sft`` -> ``runs/sft/model``), or ``source`` itself."""
    inside = Path(source) / "model"
    return inside if (inside / "config.json").exists() and not (Path(source) / "config.json").exists() else Path(source)


def model_folders(source: Path | str) -> list[Path]:
    """Every folder (or hub name) that a model is read from: its own, and of an adapter its base's too."""
    base = adapter_base(source)
    return [model_folder(source), *(model_folders(base) if base else [])]


def adapter_base(source: Path | str) -> str | None:
    """What a folder that holds a peft adapter and no model was trained on; None for any other source.

    Raises:
        UserError: the adapter does not say.
    """
    folder = model_folder(source)
    if not (folder / "adapter_config.json").exists() or (folder / "config.json").exists():
        return None
    base = _adapter_config(folder).get("base_model_name_or_path")
    if not base:
        raise UserError(f"{source}: a peft adapter that does not name its base; set base_model_name_or_path in its adapter_config.json")
    if model_folder(base).resolve() == folder.resolve():
        raise UserError(f"{source}: a peft adapter that names itself as its base; mend base_model_name_or_path in its adapter_config.json")
    return str(base)


def max_positions(model: PreTrainedModel) -> int:
    """The longest prompt + completion the model can take, in tokens."""
    return _positions(model.config)


def position_limit(source: Path | str) -> int:
    """``max_positions`` of a folder or hub name, without loading its weights.

    Raises:
        UserError: there is no such model.
    """
    return _positions(_config(source))


def _positions(config: Any) -> int:
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1 << 30)


def _load(
    kind: Any, source: Path | str, dtype: torch.dtype, *, new: tuple[str, ...] = (), quantize: Quantize = "none", **options: Any
) -> PreTrainedModel:  # fmt: skip
    """``new`` names the weights that the folder need not have; any other missing one would be random."""
    config, source, base = _config(source), model_folder(source), adapter_base(source)
    if base:
        model = _with_adapter(kind, source, base, dtype, new, options)
        return _placed(model, quantize)
    zeros = {name: 0.0 for name in DROPOUTS if isinstance(getattr(config, name, None), float)}
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)  # a new head is announced by the verb that makes one
    try:
        check_architecture(kind, config)
        model, info = kind.from_pretrained(
            str(source), dtype=dtype, attn_implementation=tree_attention(), output_loading_info=True, **_where(source), **zeros, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{source}: transformers cannot load it as {kind.__name__} ({_first_line(error)})") from None
    finally:
        transformers_logging.set_verbosity(level)
    missing = sorted(set(info["missing_keys"]) - set(new))
    if missing:
        raise UserError(f"{source}: no weights for {missing[0]} ({len(missing)} missing); it is not a whole {kind.__name__}")
    return _placed(model, quantize)


def _placed(model: PreTrainedModel, quantize: Quantize) -> PreTrainedModel:
    """``model`` on the device, quantised on the way."""
    if quantize == "nf4":  # before the rest moves: a GPU never holds more than one layer that is not quantised
        from trimtab.models.nf4 import quantise  # imports bitsandbytes

        quantise(model, here())
    model = model.to(here()).eval()
    if here().type == "cpu":
        hasten(model)
    return model


def _with_adapter(
    kind: Any, folder: Path, base: str, dtype: torch.dtype, new: tuple[str, ...], options: dict[str, Any]
) -> PreTrainedModel:  # fmt: skip
    """``base`` with the adapter in ``folder`` merged into its weights.

    Raises:
        UserError: the adapter is of a kind that cannot be merged, or does not fit ``base``.
    """
    from peft import PeftModel, get_peft_model_state_dict  # takes two seconds
    from safetensors import safe_open

    own = transformers.AutoModelForSequenceClassification if is_scorer(folder) else transformers.AutoModelForCausalLM
    if kind is not own:  # a scorer that starts from a language model's adapter: its trunk, and a new head
        scorer = _load(kind, base, dtype, new=new, **options)
        scorer.base_model.load_state_dict(_load(own, folder, dtype).base_model.state_dict())
        return scorer
    weights = folder / "adapter_model.safetensors"
    if not weights.exists():
        raise UserError(f"{folder}: a peft adapter without adapter_model.safetensors; save it again with save_pretrained")
    head = ("score.weight",) if own is transformers.AutoModelForSequenceClassification else ()
    model: Any = _load(own, base, dtype, new=head, **options).cpu()
    try:
        with safe_open(weights, "pt") as file:
            given = set(file.keys())
        with warnings.catch_warnings(action="ignore"):  # of what is missing, which is looked at below
            adapted = PeftModel.from_pretrained(model, str(folder), torch_device="cpu")
        missing = sorted(set(get_peft_model_state_dict(adapted, save_embedding_layers=False)) - given)
        if missing:
            raise ValueError(f"it has no {missing[0]}")
        merged_model = adapted.merge_and_unload()
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder}: a peft adapter that cannot be merged into {base} ({_first_line(error)})") from None
    merged_model.requires_grad_(True)
    merged_model.name_or_path = str(folder)
    return merged_model.eval()


def _adapter_config(source: Path | str) -> dict[str, Any]:
    found = read_json(model_folder(source) / "adapter_config.json")
    return found if isinstance(found, dict) else {}


def _config(source: Path | str) -> Any:
    _exists(source)  # the name as it was given: of ./dir, a path has forgotten that it can be no name on the hub
    if base := adapter_base(source):
        return _config(base)
    source = model_folder(source)
    try:
        return transformers.AutoConfig.from_pretrained(str(source), **_where(source))
    except (OSError, ValueError, KeyError) as error:
        if Path(source).exists():
            raise UserError(f"{source}: not a model folder ({_first_line(error)})") from None
        missing = f"{source}: no such model folder{near_name(source)}"
        if not hub_reachable():  # what transformers says of it is of a connection that was not tried
            raise UserError(f"{missing}; nor is it in the hub's cache, and the hub cannot be reached") from None
        raise UserError(f"{missing}, and no model of that name on the hub or in its cache ({_first_line(error)})") from None


def _where(source: Path | str) -> dict[str, bool]:
    """Words for ``from_pretrained``: a name that is no folder is looked for on the hub, and only in its cache where it cannot be reached
    (huggingface_hub itself would try six times, for half a minute, and print each time)."""
    return {"local_files_only": True} if not Path(source).exists() and not hub_reachable() else {}


@functools.cache
def hub_reachable() -> bool:
    """Whether the hub answers; asked once. Behind a proxy it is assumed to, and where HF_HUB_OFFLINE is set it is not asked."""
    if is_offline_mode():
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    host = urlparse(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").hostname or ""
    try:
        socket.create_connection((host, 443), timeout=3).close()
    except OSError:
        return False
    return True


def _exists(source: Path | str) -> None:
    path = model_folder(source)
    if base := adapter_base(source):
        try:
            _config(base)
        except UserError as error:
            mend = "give model/ of the run that made it, or write where the base is into its adapter_config.json"
            raise UserError(f"{source}: a peft adapter, and its base cannot be read ({error}); {mend}") from None
        return
    if path.is_dir() and not (path / "config.json").exists():
        raise UserError(f"{source}: this folder has no config.json, so it is not a model")
    refuse_missing_folder(source)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
