"""What the methods' ``build`` functions share: settings of data and model, loading them, and running a method in its folder."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
import transformers
from pydantic import Field

import trimtab.methods
from trimtab.common.config import Settings, defaults_of
from trimtab.common.device import here
from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedModel, PreTrainedTokenizerBase
from trimtab.common.kernels import attention
from trimtab.common.memory import keep_freed_memory
from trimtab.common.yamls import one_line
from trimtab.data.encode import Report
from trimtab.data.formats import Kind, ReadSettings, left_out_file
from trimtab.data.formats.account import many
from trimtab.data.formats.aloud import read_aloud
from trimtab.data.template import Renderer, added_template, ensure_template, read_template, tokenizer_sha
from trimtab.feedback.ensemble import named_judges, reward_folders
from trimtab.feedback.function import function_file
from trimtab.feedback.protocol import Feedback
from trimtab.methods import NOT_METHODS
from trimtab.methods.offline import FixedData
from trimtab.models.load import (
    grow_vocabulary,
    is_scorer,
    load_policy,
    load_tokenizer,
    max_positions,
    model_folder,
    model_folders,
    save_adapter,
    save_model,
    stop_at,
)
from trimtab.models.lora import Lora, add_adapters, has_adapters, refuse, without_adapters
from trimtab.training import checkpoint
from trimtab.training.folder import RunFolder
from trimtab.training.loop import train
from trimtab.training.method import Method
from trimtab.training.settings import TrainingSettings
from trimtab.training.tracking import require
from trimtab.trees import PromptTree

# A name like ``village`` or ``reward:DIR`` -> who says what is better. The command line gives it, so that methods import no judge.
Rewards = Callable[[str], Feedback]

INPUT_FIELDS = ("data", "eval_data", "demonstrations", "tokenizer", "chat_template", "ptx.demonstrations", "ptx.text")
OUTPUTS = ("model", "value")  # what the methods of this folder save; more in ``Trained.outputs``
DROPOUT_SENTENCE = "share of what attention and MLP compute that is dropped in training; draws depend on how a step is split and compiled"
LR_SENTENCE = "peak learning rate; the default is for models of a billion weights, one of a few million takes a hundred times more"
ALL_THREADS = torch.get_num_threads()  # before any run of this process chose fewer


class StartSettings(ReadSettings, TrainingSettings):
    """A start model and a data file: what every finetuning method needs."""

    model: str = Field("", description="start model: a Hugging Face folder or hub name")
    data: str = Field("", description="training records, a file in any format or hub:owner/name")
    lora: Lora = Field(Lora(), description="adapters beside the start model's weights, which then stay as they are")


class DataSettings(StartSettings):
    """The same for methods on fixed data, part of which can be held out."""

    eval_data: str = Field("", description="held-out records, a file; empty = no evaluation while training")
    eval_limit: int = Field(0, ge=0, description="how many of them are measured while training; 0 = all")


@dataclass(frozen=True)
class Trained:
    """What ``build`` returns: the method, how many items an epoch has, and how its models are saved."""

    method: Method
    items: int  # trees (prompts) in one epoch
    outputs: Mapping[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]]  # folder inside the run -> model
    finish: Callable[[Path], Mapping[str, Any]] = lambda folder: {}  # extra files; returns figures for results.json


class MethodModule(Protocol):
    """A file of ``methods/``."""

    Config: type[TrainingSettings]

    @staticmethod
    def build(config: Any, rewards: Rewards) -> Trained: ...


def methods() -> dict[str, ModuleType]:
    """Every method by name: the files of this folder."""
    names = [m.name for m in pkgutil.iter_modules(trimtab.methods.__path__) if m.name not in NOT_METHODS]
    return {name: importlib.import_module(f"trimtab.methods.{name}") for name in names}


def run(name: str, config: TrainingSettings, rewards: Rewards) -> Path:
    """Runs method ``name`` in ``config.out``; takes an unfinished run up again; does nothing when it is already done.

    Raises:
        UserError: anything the user can mend; the folder then says failed or interrupted.
    """
    return run_method(name, config, methods()[name].build, rewards)


def run_method(name: str, config: TrainingSettings, build: Callable[[Any, Rewards], Trained], rewards: Rewards) -> Path:
    """``run`` for a method that is not in this folder: pass its ``build``."""
    keep_freed_memory()
    torch.set_num_threads(config.threads or ALL_THREADS)
    require(config.track)
    folder = RunFolder(config.out or f"runs/{name}")
    given = config.model_dump()
    inputs, parents = inputs_of(given), parents_of(given)
    folder.refuse_to_replace(saved_in(OUTPUTS), [*inputs, *parents])
    kept = {option: given.get(option, "") for option in ("left_out", "reference_cache")}
    folder.refuse_to_lose(saved_in(OUTPUTS), kept)
    if not folder.begin(name, given, inputs=inputs, parents=parents, defaults=defaults_of(type(config)), attention=attention(here())):
        print(f"{folder.path}: already done; delete it to run again")
        return folder.path
    lora = config.lora if isinstance(config, StartSettings) else Lora()
    with folder.running():
        refuse(lora, may_drop=hasattr(config, "dropout"))
        if isinstance(config, StartSettings) and not config.left_out:
            config = config.model_copy(update={"left_out": str(folder.path)})
        if config.schedule == "constant":
            refuse_idle(config, "to schedule=constant, in which lr does not fall; leave one of the two out", "final_lr")
        if not given.get("eval_data", True):
            refuse_idle(config, "without eval_data; write eval_data=FILE, or leave it out", "eval_limit", "eval_every")
        if config.steps:
            refuse_idle(config, f"beside steps={config.steps}, which decides; leave one of the two out", "epochs")
        trained = build(config, rewards)
        folder.refuse_to_replace(saved_in(trained.outputs), [*inputs, *parents])  # a method from outside may name them otherwise
        folder.refuse_to_lose(saved_in(trained.outputs), kept)
        adapted = [has_adapters(module) for module in trained.method.modules.values() if isinstance(module, transformers.PreTrainedModel)]
        assert all(adapted) if lora.rank else not any(adapted), f"{name} does not hand its models to adapt()"
        if not trained.items:
            raise UserError(f"{given.get('data')}: nothing to train on is left; the line above says what was left out and why")
        steps = steps_of(config, trained.items)
        last = checkpoint.latest(folder.path / "checkpoints")
        goes_on = f"; goes on after step {checkpoint.step_of(last):,}" if last else ""
        print(f"{name}: {many(steps, 'step')}, in {folder.path}{goes_on}")
        train(trained.method, config, folder, steps)
        for inner, (model, tokenizer) in trained.outputs.items():
            save_model(model, tokenizer, folder.path / inner)
            if has_adapters(model):
                save_adapter(model, tokenizer, folder.path / adapter_name(inner))
        folder.end("done", trained.finish(folder.path))
    print(f"{name}: done; {folder.path / next(iter(trained.outputs), '')} holds the model, trimtab report {folder.path} shows the run")
    if lora.rank:
        names = [adapter_name(inner) for inner, (model, _) in trained.outputs.items() if has_adapters(model)]
        fits = ", trained beside weights in NF4: on the start model's plain ones it is another model" if lora.quantize else ""
        print(f"{name}: {' and '.join(str(folder.path / place) for place in names)} holds the adapters alone, for peft{fits}")
    return folder.path


def adapter_name(inner: str) -> str:
    """The folder of the adapters that were trained in the model which is saved as ``inner``."""
    return "adapter" if inner == "model" else f"{inner}-adapter"


def saved_in(outputs: Iterable[str]) -> list[str]:
    """Every folder inside a run's own that ``outputs`` may be saved in."""
    return [place for inner in outputs for place in (inner, adapter_name(inner))]


def steps_of(config: TrainingSettings, items: int) -> int:
    """How many steps ``config`` asks for on so many trees."""
    return config.steps or max(1, round(config.epochs * items / config.batch_size))


def parents_of(given: Mapping[str, Any]) -> list[Path]:
    """The model folders (or hub names) that a run starts from; a judge that is a program is none."""
    models = [folder for name in ("model", "reference") if given.get(name) for folder in model_folders(given[name])]
    judges = [folder for name in ("reward", "gold") if given.get(name) for folder in reward_folders(given[name])]
    return [*models, *(folder for judge in judges for folder in model_folders(judge))]


def inputs_of(given: Mapping[str, Any]) -> list[str]:
    """The files that a run reads, those of rewards that somebody wrote included; a dotted field is a group's."""
    found = []
    for field in INPUT_FIELDS:
        group, _, name = field.rpartition(".")
        inside = given.get(group, {}) if group else given
        found += [inside[name]] if inside.get(name) else []
    judges = [judge for name in ("reward", "gold") if given.get(name) for judge in named_judges(given[name])]
    return [*found, *(str(file[0]) for judge in judges if (file := function_file(judge)))]


def need(config: TrainingSettings, *names: str) -> None:
    """Refuses a configuration that lacks one of ``names``, before anything is loaded.

    Raises:
        UserError: the option is empty.
    """
    for name in names:
        if not getattr(config, name):
            raise UserError(f"{name}= is missing: {type(config).model_fields[name].description}")


def refuse_missing_models(config: StartSettings) -> None:
    """A mistyped model is told before anything is read.

    Raises:
        UserError: there is no such model, or no such reference.
    """
    for name in ("model", "reference"):
        if source := getattr(config, name, ""):
            is_scorer(source)


def refuse_idle(config: Settings, why: str, *names: str) -> None:
    """Refuses options that were given and that nothing would read; ``names`` may be dotted.

    Raises:
        UserError: one of them is not its default.
    """
    for name in names:
        value, default = (functools.reduce(getattr, name.split("."), settings) for settings in (config, type(config).model_construct()))
        if value != default:
            raise UserError(f"{name}={one_line(value)} means nothing {why}")


def adapt(name: str, config: StartSettings, *models: PreTrainedModel) -> None:
    """Gives each of ``models`` adapters where ``config`` asks for them, after one line about them.

    Raises:
        UserError: there is no layer of a name in ``lora.targets``.
    """
    for model in models if config.lora.rank else ():
        announce(name, type(model).__name__, add_adapters(model, config.lora, seed=config.seed))


def start_pair(
    name: str, config: StartSettings, reference: str, *, asked_first: bool = False
) -> tuple[PreTrainedModel, PreTrainedModel, PreTrainedTokenizerBase, Renderer]:
    """The policy, what it is held against, and their tokenizer. The reference is a frozen copy of the start model or of ``reference``;
    with adapters, the start model is the policy without them and no copy is made; nor if the reference is ``asked_first``, before the
    policy is trained: then it is the policy.

    Raises:
        UserError: one of them cannot be read; they have different tokenizers.
    """
    refuse_other_tokenizer(config.model, reference)
    policy = load_policy(config.model, quantize=config.lora.quantize)
    shared = (config.lora.rank > 0 or asked_first) and (not reference or same_folder(reference, config.model))
    others = [] if shared else [load_policy(reference or config.model)]
    tokenizer, renderer = start_tokenizer(config.model, policy, *others, grow=not config.lora.rank)
    adapt(name, config, policy)
    unchanged = without_adapters(policy) if config.lora.rank else policy
    return policy, others[0] if others else unchanged, tokenizer, renderer


def same_folder(a: str, b: str) -> bool:
    """Whether two names mean one model: ``runs/sft``, ``runs/sft/`` and ``runs/sft/model`` do."""
    return model_folder(a).resolve() == model_folder(b).resolve()


def start_tokenizer(
    source: str, *models: PreTrainedModel, chat_template: str = "", grow: bool = True
) -> tuple[PreTrainedTokenizerBase, Renderer]:
    """The start model's tokenizer and the renderer of its chat template: that of the file ``chat_template``, its own, or ChatML, which is
    said in one line and saved with what is trained.

    Each of ``models`` gets the same rows for new tokens, or the first log-ratios of policy and reference would not be 0; and
    each stops where the template ends an answer when plain transformers samples from the folder it is saved in. ``grow=False``: rows
    are not trained.

    Raises:
        UserError: the template has tokens without a row, and rows are not trained.
    """
    tokenizer = load_tokenizer(source)
    if chat_template:
        tokenizer.chat_template = read_template(chat_template)
    had_template, known = bool(tokenizer.chat_template), len(tokenizer)
    added = ensure_template(tokenizer)
    renderer = Renderer(tokenizer, answers=False)
    if not had_template:
        print(added_template(source, added))
    for model in models:
        if not grow and (added or len(tokenizer) > model.get_input_embeddings().num_embeddings):
            raise UserError(
                f"{source}: the chat template has tokens that the model does not know, and adapters train no embeddings; "
                "train it once with lora.rank=0, or give it a template of its own tokens"
            )
        grow_vocabulary(model, len(tokenizer), known if added else 0)
        stop_at(model, renderer.end_id, tokenizer.eos_token_id)
    return tokenizer, renderer


def refuse_other_tokenizer(model: str, reference: str) -> None:
    """Policy and reference must read the same tokens: the log-ratio of two readings means nothing.

    Raises:
        UserError: ``reference`` is given and has another tokenizer than ``model``.
    """
    if reference and tokenizer_sha(load_tokenizer(model)) != tokenizer_sha(load_tokenizer(reference)):
        raise UserError(f"reference={reference} has another tokenizer than model={model}; give one that was trained from the same base")


def read_data(name: str, config: StartSettings, path: str, kind: Kind | None) -> list[Any]:
    """The records of one kind (None: of any) in a data file, after one line where it is in another format or has rows left out.

    Raises:
        UserError: a row cannot be read and ``config.skip_bad`` is off.
    """
    if path != config.data and left_out_file(path, config) == left_out_file(config.data, config):  # train/a.jsonl and test/a.jsonl
        config = config.model_copy(update={"left_out": str(left_out_file(path, config).parent / "eval_data")})
    return read_aloud(name, path, kind, config)


def fixed_data(
    name: str, config: DataSettings, training: tuple[list[PromptTree], Report], held_out: tuple[list[PromptTree], Report] | None,
    keep: Callable[[PromptTree], object] | None = None,
) -> FixedData:  # fmt: skip
    """The trees of ``data`` and of ``eval_data``, after one line about each; with ``keep`` only those that it keeps are trained on.

    Raises:
        UserError: it keeps none.
    """
    found = announced(name, config.data, training)
    trees = [tree for tree in found if keep is None or keep(tree)]
    if found and not trees:
        raise UserError(f"{config.data}: no ranking with two answers of different rank is short enough; raise max_length")
    if idle := len(found) - len(trees):
        print(f"{name}: {config.data} {many(idle, 'ranking')} without two answers of different rank: nothing is trained on them")
    rest = announced(name, config.eval_data, held_out) if held_out is not None else []
    return FixedData(trees, rest, config.batch_size, config.micro_batch_tokens, config.seed, config.eval_limit)


def length_limit(config: TrainingSettings, model: PreTrainedModel) -> int:
    """The longest tree: the option, or what the model can take."""
    return min(config.max_length or max_positions(model), max_positions(model))


def announce(name: str, what: str, report: Any) -> None:
    """One line about the data that was read, dropped trees included."""
    print(f"{name}: {what} {report}")


def announced(name: str, what: str, made: tuple[list[PromptTree], Report]) -> list[PromptTree]:
    """The trees that were made of a file, after one line about them."""
    trees, report = made
    announce(name, what, report)
    return trees
