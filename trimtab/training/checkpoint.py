"""Checkpoints: safetensors and JSON, complete or absent, refused when a byte is wrong."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as safetensors_load, save as safetensors_save
from torch import Tensor, nn

from trimtab.common.errors import UserError
from trimtab.common.files import disk_error, read_json, replace_folder
from trimtab.training.optimizer import give_back, kept_of

FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")
MEND = "delete this checkpoint to train from the start"


def save(
    folder: Path,
    step: int,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
) -> None:
    """Writes ``folder/step-N`` under a temporary name, syncs it, renames it, then removes older ones.

    Raises:
        UserError: the disk is full; the older checkpoint is still there.
    """
    final, temporary = folder / f"step-{step}", folder / f".step-{step}.tmp"
    moments = {f"{name}/{kind}": value for name, p in parameters.items() for kind, value in kept_of(optimizer, p).items()}
    contents = (
        safetensors_save({name: p.detach().cpu().contiguous() for name, p in parameters.items()}),
        safetensors_save(moments),
        json.dumps({"step": step, **state}).encode(),
    )
    files = dict(zip(FILES, contents, strict=True))
    files["manifest.json"] = json.dumps(
        {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    ).encode()
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, data in files.items():
            (temporary / name).write_bytes(data)
        replace_folder(temporary, final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise disk_error(error, final) from error
    for other in folder.iterdir():
        if other != final:
            shutil.rmtree(other)


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint."""
    found = [p for p in folder.glob("step-*") if (p / "manifest.json").exists()] if folder.exists() else []
    return max(found, key=lambda p: int(p.name.removeprefix("step-")), default=None)


def load(path: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Puts weights and optimizer state back and returns the rest.

    Raises:
        UserError: a file is damaged or does not belong to these modules.
    """
    data = _read(path)
    weights, moments = safetensors_load(data["weights.safetensors"]), safetensors_load(data["optimizer.safetensors"])
    shapes, mine = ({name: tuple(t.shape) for name, t in named.items()} for named in (weights, parameters))
    if shapes != mine:
        odd = sorted(name for name in {**shapes, **mine} if shapes.get(name) != mine.get(name))[0]
        raise UserError(f"{path}: made by another model or method (parameter {odd}); choose another out=DIR")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    kept: dict[str, dict[str, Tensor]] = {}
    for key, value in moments.items():
        name, _, kind = key.rpartition("/")
        kept.setdefault(name, {})[kind] = value
    for name, parameter in parameters.items():
        if name in kept:
            give_back(optimizer, parameter, kept[name])
    return json.loads(data["state.json"])


def _read(path: Path) -> dict[str, bytes]:
    """The files' bytes, each held against the manifest."""
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict) or set(manifest) != set(FILES):
        raise UserError(f"{path / 'manifest.json'}: damaged (it does not list {', '.join(FILES)}); {MEND}")
    data = {}
    for name, digest in manifest.items():
        data[name] = (path / name).read_bytes() if (path / name).exists() else b""
        if hashlib.sha256(data[name]).hexdigest() != digest:
            raise UserError(f"{path / name}: damaged (its SHA-256 is not the manifest's); {MEND}")
    return data
