"""Configuration of every verb: typed, frozen, each option described once, errors that say what to write instead.

An option is one line in a ``Settings`` class, ``Field(default, description="One sentence, unit included.")``. The
command line's help, the commented YAML and the documentation are made from that line; there is no second list. A group
of options is a nested ``Settings`` (``lora.rank``). Values come from a YAML file, then from ``key=value`` words.
"""

import difflib
import json
import re
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from trimtab.common.errors import UserError
from trimtab.common.yamls import SCALARS, CoreLoader, in_one_line, is_null, one_line, read_text, refuse_duplicates

COMMAND_LINE = "command line"
HELP_WIDTH = 110


class Settings(BaseModel):
    """Base of every configuration: unknown keys are refused, values do not change, each field has a description.

    A group of options is a nested ``Settings`` and is always present; to switch it off, one of its options says so.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    idle: ClassVar[tuple[str, ...]] = ()
    """Inherited options that mean nothing here: read, so that they can be refused with a reason, and not shown."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            assert field.description, f"{cls.__name__}.{name}: write Field(default, description='...')"
            assert _group(field) or not any(map(_is_settings, get_args(field.annotation))), (
                f"{cls.__name__}.{name}: a group of options cannot be optional; give the group a switch"
            )


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Verb:
    """A task of the command line: its options, and what it does with them (its results lie in ``config.out``)."""

    settings: type[Settings]
    run: Callable[[Any], object]


class Option(NamedTuple):
    """One line of a verb's help. ``default`` is a JSON value, without meaning where ``required``."""

    name: str  # dotted: lora.rank
    type: str
    default: Any
    description: str
    required: bool = False

    @property
    def default_text(self) -> str:
        """The default as one writes it behind ``key=``."""
        return "(required)" if self.required else one_line(self.default)


class _Entry(NamedTuple):
    """A value somebody gave, and where: ``file.yaml:3`` or ``command line``."""

    value: Any
    where: str


def load_config(cls: type[S], yaml_path: Path | str | None = None, overrides: Sequence[str] = ()) -> S:
    """A ``cls`` from an optional YAML file, then ``key=value`` words (dotted keys for groups; the last one wins).

    Raises:
        UserError: the file is missing or broken, a key is unknown, a value has the wrong type, a required key is
            absent. Every problem found is in the one line.
    """
    reader = _Reader(cls)
    if yaml_path is not None:
        reader.read_file(Path(yaml_path))
    for word in overrides:
        reader.read_word(word)
    return _build(cls, reader.entries, reader.problems)


def from_mapping(cls: type[S], values: Mapping[str, Any], where: str) -> S:
    """A ``cls`` from nested JSON values, as ``dump`` wrote them; ``where`` opens every error.

    Raises:
        UserError: as ``load_config``.
    """
    reader = _Reader(cls)
    reader.read_mapping(values, where)
    return _build(cls, reader.entries, reader.problems)


def dump(config: Settings) -> dict[str, Any]:
    """``config`` as JSON values, for ``run.json``; ``from_mapping`` reads it back."""
    return config.model_dump(mode="json")


def describe(cls: type[Settings]) -> list[Option]:
    """Every option of ``cls`` in the order of its fields, groups flattened to dotted names."""
    return list(_options(cls, defaults_of(cls), ""))


def help_text(cls: type[Settings], width: int = HELP_WIDTH) -> str:
    """``key=default``, the sentence and the type of every option, for ``--help``."""
    options = [option for option in describe(cls) if option.name not in cls.idle]
    left = [f"{o.name}={o.default_text}" for o in options]
    column = min(max(map(len, left), default=0), 34) + 4
    lines = []
    for option, head in zip(options, left, strict=True):
        text = textwrap.wrap(f"{option.description} [{option.type}]", max(width - column, 30), break_on_hyphens=False)
        if len(head) > column - 4:
            lines.append(f"  {head}")
        else:
            lines.append(f"  {head:<{column - 2}}{text.pop(0)}")
        lines.extend(" " * column + line for line in text)
    return "\n".join(lines)


def commented_yaml(cls: type[Settings]) -> str:
    """A full YAML with each option's sentence above it; read back it gives the defaults.

    Required options have none: their lines are commented out.
    """
    return "\n".join(_yaml_lines(cls, defaults_of(cls), "")) + "\n"


# ---- reading -------------------------------------------------------------------------------------------------------


class _Reader:
    """Collects what was given for the options of ``cls`` as dotted name -> entry, and the keys that do not exist."""

    def __init__(self, cls: type[Settings]) -> None:
        self.entries: dict[str, _Entry] = {}
        self.problems: list[str] = []
        self._fields = dict(_walk(cls, ""))

    def read_file(self, path: Path) -> None:
        text = read_text(path)
        loader = CoreLoader(text)
        node = in_one_line(str(path), loader.get_single_node)
        if node is None or is_null(node):
            return
        if not isinstance(node, yaml.MappingNode):
            kind = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
            raise UserError(f"{path}:{node.start_mark.line + 1}: a config is lines of 'key: value', this is {kind}")
        in_one_line(str(path), lambda: self._mapping(loader, node, "", str(path)))

    def read_word(self, word: str) -> None:
        name, equals, text = word.partition("=")
        name = name.strip()
        if not equals or not name:
            self.problems.append(f"{COMMAND_LINE}: '{word}' is not key=value")
            return
        if (owner := self._mapping_option(name)) is not None:
            self._set_item(owner, name.removeprefix(f"{owner}."), text)
            return
        field = self._known(name, COMMAND_LINE)
        if field is None:
            return
        if _takes_texts(field.annotation) and _is_one_text(text):  # stop=. and stop=: need no brackets
            self._set(name, field, text.strip(), COMMAND_LINE)
            return
        loader = CoreLoader(text)
        try:
            node = loader.get_single_node()
            if not _group(field) and _takes_text(field.annotation) and _is_bare(node):
                self.entries[name] = _Entry(text.strip(), COMMAND_LINE)
            elif node is None:
                self._set(name, field, None, COMMAND_LINE)
            else:
                self._value(loader, node, name, field, COMMAND_LINE, COMMAND_LINE)
        except (yaml.YAMLError, ValueError) as error:
            if _takes_text(field.annotation):  # '@x' or '{x' are fine file names
                self.entries[name] = _Entry(text.strip(), COMMAND_LINE)
            else:
                reason = getattr(error, "problem", None) or error
                self.problems.append(f"{COMMAND_LINE}: {name}={text} is not a YAML value ({reason})")

    def _mapping_option(self, name: str) -> str | None:
        """The option that ``name`` is an entry of: ``fields`` for ``fields.prompt``, where ``fields`` maps texts to texts."""
        parts = name.split(".")
        owners = (".".join(parts[:i]) for i in range(1, len(parts)))
        return next((o for o in owners if o in self._fields and self._fields[o].annotation == dict[str, str]), None)

    def _set_item(self, owner: str, key: str, text: str) -> None:
        before = self.entries[owner].value if owner in self.entries else {}
        if isinstance(before, dict):  # else its own error is told
            self.entries[owner] = _Entry({**before, key: text.strip()}, COMMAND_LINE)

    def read_mapping(self, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
        for key, value in values.items():
            name = f"{prefix}{key}"
            field = self._known(name, where)
            if field is None:
                continue
            if _group(field) and isinstance(value, Mapping):
                self.read_mapping(value, where, f"{name}.")
            else:
                self._set(name, field, value, where)

    def _mapping(self, loader: CoreLoader, node: yaml.MappingNode, prefix: str, source: str) -> None:
        refuse_duplicates(node)
        for key, value in node.value:
            where = source if source == COMMAND_LINE else f"{source}:{key.start_mark.line + 1}"
            name = f"{prefix}{key.value if isinstance(key, yaml.ScalarNode) else '?'}"
            field = self._known(name, where)
            if field is not None:
                self._value(loader, value, name, field, where, source)

    def _value(
        self, loader: CoreLoader, node: yaml.Node, name: str, field: FieldInfo, where: str, source: str
    ) -> None:  # fmt: skip
        if _group(field) and isinstance(node, yaml.MappingNode):
            self._mapping(loader, node, f"{name}.", source)
        else:
            self._set(name, field, _construct(loader, node, field.annotation), where)

    def _set(self, name: str, field: FieldInfo, value: Any, where: str) -> None:
        if isinstance(value, str) and _takes_texts(field.annotation):
            parts = [part.strip() for part in value.split(",")]
            if len(parts) > 1 and all(parts):
                several, one = f"[{','.join(parts)}]", json.dumps([value], ensure_ascii=False)
                self.problems.append(f"{where}: {name} is {_show(value)}, write {several} for several texts or {one} for one with a comma")
            else:
                self.entries[name] = _Entry([value], where)
        elif not _group(field):
            try:
                json.dumps(value)
            except (TypeError, ValueError):  # YAML's sets, binaries and mappings that contain themselves
                self.problems.append(f"{where}: {name} is {_show(value)}, expected {type_text(field)}")
            else:
                whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53  # steps=1e3
                self.entries[name] = _Entry(int(value) if whole else value, where)
        elif value is not None:  # an empty group in YAML is read as null: nothing was given
            inside = ", ".join(n for n in self._fields if n.startswith(f"{name}."))
            self.problems.append(f"{where}: {name} is {_show(value)}, but it is a group of options ({inside})")

    def _known(self, name: str, where: str) -> FieldInfo | None:
        field = self._fields.get(name)
        if field is None:
            self.problems.append(f"{where}: unknown key '{name}', {_suggestion(name, self._fields)}")
        return field


def _construct(loader: CoreLoader, node: yaml.Node, annotation: Any) -> Any:
    """A node's value; where the option is text, a scalar stays as it was written (``007`` is not 7), and where it is a list of texts
    too; one in quotes is then the only text."""
    if isinstance(node, yaml.ScalarNode) and _takes_text(annotation) and not is_null(node):
        return node.value
    if isinstance(node, yaml.ScalarNode) and _takes_texts(annotation) and not is_null(node):
        return [node.value] if node.style else node.value
    if isinstance(node, yaml.SequenceNode) and get_origin(annotation) in (list, tuple, set, frozenset):
        inner = get_args(annotation)[0]
        return [_construct(loader, item, inner) for item in node.value]
    return loader.construct_object(node, deep=True)


def _is_bare(node: yaml.Node | None) -> bool:
    """Whether a word needs no YAML reading where text is wanted: it is not quoted, null or empty."""
    return node is not None and not (isinstance(node, yaml.ScalarNode) and (node.style is not None or is_null(node)))


def _takes_text(annotation: Any) -> bool:
    """Whether text is all that the option can be (besides null)."""
    kinds = [kind for kind in _members(annotation) if kind is not types.NoneType]
    return bool(kinds) and all(
        kind in (str, Path)
        or (get_origin(kind) is Literal and all(isinstance(v, str) for v in get_args(kind)))
        or (isinstance(kind, type) and issubclass(kind, Enum) and all(isinstance(v.value, str) for v in kind))
        for kind in kinds
    )


def _takes_texts(annotation: Any) -> bool:
    """Whether the option is a list of texts."""
    if get_origin(annotation) not in (list, tuple):
        return False
    first, *rest = get_args(annotation)
    return _takes_text(first) and rest in ([], [Ellipsis])


def _is_one_text(text: str) -> bool:
    """Whether a word behind ``key=`` is a text itself, no list, nothing in quotes, and not null."""
    bare = text.strip()
    return not bare.startswith(("[", '"', "'")) and re.fullmatch(SCALARS["null"][0], bare) is None


# What other libraries call an option that is here under another name: TRL's and transformers' arguments, and OpenRLHF's.
ELSEWHERE = {
    "learning_rate": "lr", "max_steps": "steps", "num_train_epochs": "epochs", "num_epochs": "epochs",
    "per_device_train_batch_size": "batch_size", "train_batch_size": "batch_size", "prompts_per_iteration": "batch_size",
    "rollout_batch_size": "batch_size", "gradient_checkpointing": "checkpointing",
    "output_dir": "out", "model_name_or_path": "model", "dataset_name": "data", "train_dataset": "data", "eval_dataset": "eval_data",
    "bf16": "dtype", "report_to": "track", "save_steps": "save_every", "eval_steps": "eval_every", "warmup_ratio": "warmup",
    "warmup_steps": "warmup", "lr_scheduler_type": "schedule", "optim": "optimizer", "lora_r": "lora.rank", "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout", "lora_target_modules": "lora.targets", "use_dora": "lora.dora", "use_rslora": "lora.rslora",
    "load_in_4bit": "lora.quantize", "ref_model": "reference", "reward_model": "reward", "reward_model_path": "reward",
    "reward_funcs": "reward", "reward_func": "reward", "num_generations": "num_completions", "n_samples_per_prompt": "num_completions",
    "max_completion_length": "max_tokens", "response_length": "max_tokens", "max_new_tokens": "max_tokens", "kl_coef": "beta",
    "init_kl_coef": "beta", "cliprange": "clip", "epsilon": "clip", "cliprange_value": "value_clip",
    "vf_coef": "value_coef", "lam": "gae_lambda", "num_ppo_epochs": "epochs_per_batch", "num_iterations": "epochs_per_batch",
    "missing_eos_penalty": "cut_penalty", "mask_truncated_completions": "cut", "loss_type": "loss", "rpo_alpha": "sft_weight",
    "n": "num_completions", "k": "num_completions", "scale_rewards": "divide_by_std",
}  # fmt: skip
LISTED_KEYS = 10  # more are no help in a line


def _suggestion(name: str, fields: Mapping[str, FieldInfo]) -> str:
    """The closest key: what other libraries call so, the same word in another group (``rank`` for ``lora.rank``), or by spelling; else
    all keys, where they are few."""
    known = list(fields)
    first, dot, rest = name.partition(".")
    mappings = [k for k, field in fields.items() if field.annotation == dict[str, str]]
    if dot and first not in fields and (owner := difflib.get_close_matches(first, mappings, n=1, cutoff=0.6)):
        return f"did you mean '{owner[0]}.{rest}'?"
    if (ours := ELSEWHERE.get(name)) in fields:
        return f"it is '{ours}' here"
    group, _, leaf = name.rpartition(".")
    inside = [k for k in known if group and k.startswith(f"{group}.")]
    close = [k for k in known if k.rpartition(".")[2] == leaf]
    close = close or difflib.get_close_matches(name, inside or known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    if not known:
        return "there are no options here"
    listed = inside or known
    return f"the keys are {', '.join(listed)}" if len(listed) <= LISTED_KEYS else "--help lists the options"


# ---- building ------------------------------------------------------------------------------------------------------


def _build(cls: type[S], entries: Mapping[str, _Entry], problems: list[str]) -> S:
    values = defaults_of(cls)
    for name, entry in entries.items():
        *groups, leaf = name.split(".")
        inside = values
        for group in groups:
            inside = inside[group]
        inside[leaf] = entry.value
    try:
        # strict JSON: 'true' is no number and 2.5 no whole number, but text is a path and a list a tuple
        config = cls.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise UserError("; ".join([*problems, *_validation_problems(cls, error, entries)])) from None
    if problems:
        raise UserError("; ".join(problems))
    return config


def _validation_problems(cls: type[Settings], error: ValidationError, entries: Mapping[str, _Entry]) -> list[str]:
    """One message for each option that pydantic refused."""
    fields = dict(_walk(cls, ""))
    out: dict[str, str] = {}
    for item in error.errors(include_url=False):
        name = ""
        for part in item["loc"]:  # behind the option's name may stand union members and list positions
            longer = f"{name}.{part}" if name else str(part)
            if longer not in fields:
                break
            name = longer
        out.setdefault(name, _problem(name, fields.get(name), dict(item), entries.get(name)))
    return list(out.values())


def _problem(name: str, field: FieldInfo | None, item: Mapping[str, Any], entry: _Entry | None) -> str:
    own = str(item["ctx"]["error"]) if item["type"] in ("value_error", "assertion_error") else None
    if field is None or _group(field):  # a rule over several options
        return f"{name}: {own or item['msg']}" if name else own or str(item["msg"])
    if item["type"] == "missing":
        return f"{name} is missing, write {name}=<{type_text(field)}> ({field.description})"
    where = f"{entry.where}: " if entry else "default: "
    expected = own or f"expected {type_text(field)}"
    return f"{where}{name} is {_show(entry.value if entry else item.get('input'))}, {expected}"


# ---- describing ----------------------------------------------------------------------------------------------------


LIMITS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def type_text(field: FieldInfo) -> str:
    """What may be written for an option, in words: ``whole number >= 1``, ``one of a, b``, ``path or null``."""
    limits: list[str] = []
    for rule in field.metadata:
        limits.extend(f"{sign} {getattr(rule, name):g}" for name, sign in LIMITS.items() if hasattr(rule, name))
        if hasattr(rule, "min_length"):
            limits.append(f"(at least {rule.min_length})")
    members = _members(field.annotation)
    kinds = " or ".join(_kind_text(kind) for kind in members if kind is not types.NoneType)
    return " ".join([kinds, *limits]) + (" or null" if types.NoneType in members else "")


KIND_NAMES: dict[Any, str] = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path"}


def _kind_text(kind: Any) -> str:
    if kind in KIND_NAMES:
        return KIND_NAMES[kind]
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _kind_text(args[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}" if len(args) > 1 else str(args[0])
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(str(v.value) for v in kind)}"
    if origin in (list, tuple, set, frozenset):
        inner = [_kind_text(a) for a in args if a is not Ellipsis]
        fixed = origin is tuple and Ellipsis not in args
        return f"list of ({', '.join(inner)})" if fixed else f"list of {_plural(inner[0])}"
    if origin is dict:
        return f"mapping of {_plural(_kind_text(args[0]))} to {_plural(_kind_text(args[1]))}"
    return "anything" if kind is Any else getattr(kind, "__name__", str(kind))


def _plural(text: str) -> str:
    return {"whole number": "whole numbers", "number": "numbers", "text": "texts", "path": "paths"}.get(text, text)


def _members(annotation: Any) -> list[Any]:
    """The alternatives of a union, null last; a plain annotation is its only member."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) not in (Union, types.UnionType):
        return [annotation]
    return sorted((m for a in get_args(annotation) for m in _members(a)), key=lambda m: m is types.NoneType)


def _is_settings(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _group(field: FieldInfo) -> type[Settings] | None:
    """The class of a group of options, None for an option."""
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Settings) else None


def _walk(cls: type[Settings], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    """Every option and group with its dotted name."""
    for key, field in cls.model_fields.items():
        yield f"{prefix}{key}", field
        if group := _group(field):
            yield from _walk(group, f"{prefix}{key}.")


def defaults_of(cls: type[Settings]) -> dict[str, Any]:
    """The defaults as nested JSON values, without required options. A group's default object wins over its class's."""
    out: dict[str, Any] = {}
    for key, field in cls.model_fields.items():
        group = _group(field)
        if field.is_required():
            if group:
                out[key] = defaults_of(group)
            continue
        # through the field's own serialiser, so that paths and enums become text
        whole = cls.model_construct(**{key: field.get_default(call_default_factory=True, validated_data={})})
        out[key] = whole.model_dump(mode="json", include={key}, warnings=False)[key]
    return out


def _options(cls: type[Settings], defaults: Mapping[str, Any], prefix: str) -> Iterator[Option]:
    for key, field in cls.model_fields.items():
        if group := _group(field):
            yield from _options(group, defaults[key], f"{prefix}{key}.")
        else:
            description = " ".join((field.description or "").split())
            yield Option(f"{prefix}{key}", type_text(field), defaults.get(key), description, key not in defaults)


def _yaml_lines(cls: type[Settings], defaults: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, field in cls.model_fields.items():
        if key in cls.idle:
            continue
        group = _group(field)
        note = " ".join((field.description or "").split())
        note = note if group else f"{note} [{type_text(field)}]"
        begin = f"{indent}# "
        yield from textwrap.wrap(note, HELP_WIDTH, initial_indent=begin, subsequent_indent=begin, break_on_hyphens=False)
        if group:
            yield f"{indent}{key}:"
            yield from _yaml_lines(group, defaults[key], indent + "  ")
        elif key in defaults:
            yield f"{indent}{key}: {one_line(defaults[key])}"
        else:
            yield f"{indent}# {key}: (required)"


def _show(value: Any) -> str:
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
