"""Checkpoints: safetensors and JSON, complete or absent, refused when a byte is wrong."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trimtab.common.errors import UserError
from trimtab.common.files import disk_error, read_json, replace_folder, sha256
from trimtab.training.optimizer import give_back, kept_of

WEIGHTS, MOMENTS, STATE = FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")
MEND = "delete this checkpoint to go on from an older one, or from the start"
# Folders of ``checkpoints/`` that are this file's; whatever else somebody keeps there is let alone.
COMPLETE, HALF = re.compile(r"step-\d+"), re.compile(r"\.step-\d+\.(tmp|old)")


def save(
    folder: Path,
    step: int,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
) -> None:
    """Writes ``folder/step-N`` under a temporary name, one file at a time, syncs it, renames it, then removes older ones.

    Raises:
        UserError: the disk is full (the older checkpoint is still there), or an older one cannot be removed.
    """
    final, temporary = folder / f"step-{step}", folder / f".step-{step}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file({name: p.detach().cpu().contiguous() for name, p in parameters.items()}, temporary / WEIGHTS)
        moments = ((f"{name}/{kind}", t) for name, p in parameters.items() for kind, t in kept_of(optimizer, p).items())
        save_file(dict(moments), temporary / MOMENTS)
        (temporary / STATE).write_text(json.dumps({"step": step, **state}))
        (temporary / "manifest.json").write_text(json.dumps({name: sha256(temporary / name) for name in FILES}))
        replace_folder(temporary, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise disk_error(error, final) from error
    for other in folder.iterdir():
        ours = COMPLETE.fullmatch(other.name) or HALF.fullmatch(other.name)
        if ours and other != final and other.is_dir() and not other.is_symlink():
            try:
                shutil.rmtree(other)
            except OSError as error:
                raise disk_error(error, other) from error


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, damaged or not: ``load`` tells."""
    found = [p for p in folder.glob("step-*") if COMPLETE.fullmatch(p.name) and p.is_dir()]
    return max(found, key=step_of, default=None)


def step_of(path: Path) -> int:
    """The loop step that a checkpoint was saved after."""
    return int(path.name.removeprefix("step-"))


def load(path: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Puts weights and optimizer state back and returns the rest.

    Raises:
        UserError: a file is damaged or does not belong to these modules.
    """
    _check(path)
    weights = load_file(path / WEIGHTS)
    shapes, mine = ({name: tuple(t.shape) for name, t in named.items()} for named in (weights, parameters))
    if shapes != mine:
        odd = sorted(name for name in {**shapes, **mine} if shapes.get(name) != mine.get(name))[0]
        raise UserError(f"{path}: made by another model or method (parameter {odd}); choose another out=DIR")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    kept: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(path / MOMENTS).items():
        name, _, kind = key.rpartition("/")
        kept.setdefault(name, {})[kind] = value.clone()  # memory of its own, not the file's
    for name, parameter in parameters.items():
        if name in kept:
            give_back(optimizer, parameter, kept[name])
    state: dict[str, Any] = json.loads((path / STATE).read_text())
    return state


def _check(path: Path) -> None:
    """Holds each file's bytes against the manifest.

    Raises:
        UserError: one is missing or another one. A folder without a manifest is damaged too: it got its name when it had one.
    """
    try:
        manifest = read_json(path / "manifest.json")
    except UserError as error:
        raise UserError(f"{path}: damaged ({error}); {MEND}") from None
    if not isinstance(manifest, dict) or set(manifest) != set(FILES):
        raise UserError(f"{path / 'manifest.json'}: damaged (it does not list {', '.join(FILES)}); {MEND}")
    for name, digest in manifest.items():
        if not (path / name).is_file() or sha256(path / name) != digest:
            raise UserError(f"{path / name}: damaged (its SHA-256 is not the manifest's); {MEND}")
