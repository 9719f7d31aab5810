"""The recipe file: variables, and stages that name a verb and its settings.

    name: tiny
    vars:                 # defaults; `key=value` on the command line replaces them, null means: must be given
      data: null
      steps: 100
    sizes:                # named sets of variables, taken by `size=quick`
      quick: {steps: 10}
    stages:               # run in this order; each leaves its folder, which later ones call ${stage.NAME}
      - name: sft
        verb: sft
        config: {model: gpt2, data: "${data}", steps: "${steps}"}
      - name: dpo
        verb: dpo
        config: {model: "${stage.sft}/model", data: "${data}"}

``${out}`` is the recipe's folder and ``${trimtab}`` the package's; ``$${`` writes ``${``. A value that is one ``${name}`` keeps the
variable's type; a variable's default may name a variable above it. Besides variables, ``key=value`` may set one option of a
stage: ``dpo.lr=1e-5``.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.common.errors import UserError
from trimtab.common.yamls import one_line, parse_value, read_yaml

REFERENCE = re.compile(r"\$(\$?)\{([^{}]*)\}")
NAME = re.compile(r"[A-Za-z0-9_-]+")
PACKAGE = Path(__file__).parent.parent
STAGE_KEYS = ("name", "verb", "config")
RECIPE_KEYS = ("name", "vars", "sizes", "stages")


@dataclass(frozen=True)
class Stage:
    """One verb with its settings, references filled in. ``parents`` are the stages it refers to."""

    name: str
    verb: str
    config: Mapping[str, Any]
    parents: tuple[str, ...]
    where: str  # opens this stage's errors


@dataclass(frozen=True)
class Recipe:
    """A recipe with the user's values."""

    name: str
    values: Mapping[str, Any]
    stages: tuple[Stage, ...]


def find_recipe(name: str, builtin: Path = Path(__file__).parent) -> Path:
    """A recipe file: a path, or the name of one that comes with the package.

    Raises:
        UserError: there is no such file and no such name.
    """
    for path in (Path(name), builtin / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in builtin.glob("*.yaml")))
    raise UserError(f"{name}: no such file; give a recipe's YAML file, or one of {known}")


def load_recipe(path: Path | str, out: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe, takes the user's ``key=value`` words, fills in every reference.

    Raises:
        UserError: the file is not a recipe, a word names nothing, a reference leads nowhere or forward, a variable that
            must be given is not.
    """
    path = Path(path)
    raw = _mapping(read_yaml(path), str(path), RECIPE_KEYS)
    values = dict(_mapping(raw.get("vars") or {}, f"{path}: vars", None))
    sizes = _mapping(raw.get("sizes") or {}, f"{path}: sizes", None)
    for size, chosen in sizes.items():
        _mapping(chosen, f"{path}: size {size}", list(values))
    rows = raw.get("stages")
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: 'stages' must be a list of {{name, verb, config}}")
    stages = [_stage(row, f"{path}: stage {i + 1}") for i, row in enumerate(rows)]
    names = [stage["name"] for stage in stages]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: two stages are called '{name}'")
    overrides = _take_size(values, sizes, overrides, path)
    _override(values, {stage["name"]: stage["config"] for stage in stages}, overrides, path)
    package = {"trimtab": str(PACKAGE), "out": str(out)}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise UserError(f"{path}: {', '.join(missing)} must be given, write {' '.join(f'{m}=...' for m in missing)}")
    known_so_far: dict[str, Any] = dict(package)
    for name, value in values.items():  # a default may name a variable above it
        values[name] = known_so_far[name] = _fill(value, known_so_far, {}, f"{path}: vars: {name}", later=())
    filled = []
    for i, stage in enumerate(stages):
        where = f"{path}: stage {stage['name']}"
        known = {**values, **package, **{f"stage.{name}": str(Path(out) / name) for name in names[:i]}}
        parents: dict[str, None] = {}  # a set that keeps its order
        config = _fill(stage["config"], known, parents, where, later=names[i:])
        filled.append(Stage(stage["name"], stage["verb"], config, tuple(parents), where))
    return Recipe(str(raw.get("name") or path.stem), values, tuple(filled))


def _stage(row: Any, where: str) -> dict[str, Any]:
    stage = dict(_mapping(row, where, STAGE_KEYS))
    for key in ("name", "verb"):
        if not isinstance(stage.get(key), str):
            raise UserError(f"{where}: '{key}' is missing; a stage is {{name, verb, config}}")
    if not NAME.fullmatch(stage["name"]):
        raise UserError(f"{where}: name '{stage['name']}' names a folder; use letters, digits, - and _")
    where = f"{where} ({stage['name']})"
    stage["config"] = dict(_mapping(stage.get("config") or {}, f"{where}: config", None))
    if "out" in stage["config"]:
        raise UserError(f"{where}: 'out' is the stage's own folder; leave it away")
    return stage


def _mapping(value: Any, where: str, keys: Sequence[str] | None) -> Mapping[str, Any]:
    """``value`` if it is a mapping with text keys (and with none but ``keys``)."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{where}: expected lines of 'key: value'")
    for key in value:
        if keys is not None and key not in keys:
            raise UserError(f"{where}: unknown key '{key}'{_closest(key, keys)}")
    return value


def _take_size(values: dict[str, Any], sizes: Mapping[str, Any], words: Sequence[str], path: Path) -> list[str]:
    """Takes ``size=NAME``; returns the other words, which count more than a size wherever they stand."""
    for word in words:
        size = word.removeprefix("size=")
        if sizes and size != word:
            if size not in sizes:
                raise UserError(f"command line: {path} has no size '{size}', write one of {', '.join(sizes)}")
            values.update(sizes[size])
    return [word for word in words if not (sizes and word.startswith("size="))]


def _override(values: dict[str, Any], configs: Mapping[str, dict[str, Any]], words: Sequence[str], path: Path) -> None:
    """Takes ``variable=value`` and ``STAGE.option=value``; where a variable's default is text, so is its value."""
    for word in words:
        name, equals, text = word.partition("=")
        stage, _, option = name.partition(".")
        if not equals:
            raise UserError(f"command line: '{word}' is not key=value")
        if name in values:
            values[name] = text if isinstance(values[name], str) else parse_value(text, f"command line: {word}")
        elif option and stage in configs:
            _forget(configs[stage], option)
            configs[stage][option] = parse_value(text, f"command line: {word}")
        else:
            known = _closest(name, list(values)) or f", the variables are {', '.join(values)}"
            raise UserError(f"command line: {path} has no variable '{name}'{known}")


def _forget(config: dict[str, Any], option: str) -> None:
    """Drops ``a.b`` from ``{"a": {"b": 1}}`` in place, so that only the user's value remains."""
    first, _, rest = option.partition(".")
    if rest and isinstance(config.get(first), Mapping):
        config[first] = dict(config[first])
        _forget(config[first], rest)
    else:
        config.pop(option, None)


def _fill(value: Any, known: Mapping[str, Any], parents: dict[str, None], where: str, later: Sequence[str]) -> Any:
    """``value`` with its references filled in; stages it refers to are added to ``parents``."""
    if isinstance(value, Mapping):
        return {key: _fill(inner, known, parents, where, later) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, known, parents, where, later) for inner in value]
    if not isinstance(value, str):
        return value

    def lookup(match: re.Match[str]) -> Any:
        name = match[2].strip()
        if name not in known:
            if name.removeprefix("stage.") in later:
                raise UserError(f"{where}: ${{{name}}} is no earlier stage; a stage can only use those above it")
            raise UserError(f"{where}: ${{{name}}} is unknown{_closest(name, list(known))}")
        if name.startswith("stage."):
            parents[name.removeprefix("stage.")] = None
        return known[name]

    whole = REFERENCE.fullmatch(value)
    if whole and not whole[1]:
        return lookup(whole)
    return REFERENCE.sub(lambda m: f"${{{m[2]}}}" if m[1] else _text(lookup(m)), value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else one_line(value)


def _closest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f", did you mean '{close[0]}'?" if close else ""
