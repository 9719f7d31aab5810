"""Checkpoints and what they count: durable, refused where they are damaged, and nobody else's business."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as safetensors_save
from small_runs import SETTINGS, STEPS, Killed, outcome, pressing, run, sft
from torch import Tensor, nn

from trimtab.common.errors import UserError
from trimtab.training import checkpoint
from trimtab.training.folder import RunFolder
from trimtab.training.loop import Interrupted


def test_a_run_killed_within_any_file_operation_of_a_checkpoint_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each fsync, rename and removal that the run makes, one after the other."""
    settings = SETTINGS.model_copy(update={"save_every": 1})
    expected = run(sft(), tmp_path / "whole", settings, steps=3)

    def trap(at: int) -> list[int]:
        seen = [0]

        def wrap(owner: Any, name: str) -> None:
            true = getattr(owner, name)

            def call(*args: Any, **options: Any) -> Any:
                seen[0] += 1
                if seen[0] == at:
                    raise Killed
                return true(*args, **options)

            monkeypatch.setattr(owner, name, call)

        wrap(os, "fsync")
        wrap(Path, "rename")
        wrap(checkpoint.shutil, "rmtree")
        return seen

    with monkeypatch.context():
        seen = trap(-1)
        run(sft(), tmp_path / "count", settings, steps=3)
        total = seen[0]
    monkeypatch.undo()
    assert total > 20
    for at in range(3, total + 1, 2):  # the first two are run.json's
        path = tmp_path / f"kill-{at}"
        trap(at)
        with pytest.raises(Killed):
            run(sft(), path, settings, steps=3)
        monkeypatch.undo()
        assert run(sft(), path, settings, steps=3) == expected, at
        left = {p.name for p in (path / "checkpoints").iterdir()}
        assert "step-3" in left and left <= {
            "step-3",
            "step-2",
        }  # the older one where the last removal was what did not run


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "missing"])
@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_refused_in_one_line(name: str, damage: str, tmp_path: Path) -> None:
    run(sft(), tmp_path)
    path = tmp_path / "checkpoints" / f"step-{STEPS}" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"flip": bytes(data), "cut": bytes(data[: len(data) // 2]), "empty": b""}[damage])
    method = sft()
    untouched = outcome(method, tmp_path)
    with pytest.raises(UserError) as caught:
        run(method, tmp_path)
    assert str(caught.value).startswith(f"{path}: damaged") and "\n" not in str(caught.value)
    assert outcome(method, tmp_path) == untouched


@pytest.mark.parametrize("text", ["", "[]", '{"weights.safetensors": "0"}', "{"])
def test_a_damaged_manifest_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    run(sft(), tmp_path)
    path = tmp_path / "checkpoints" / f"step-{STEPS}" / "manifest.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        run(sft(), tmp_path)
    assert str(path.parent) in str(caught.value) and "damaged" in str(caught.value) and "\n" not in str(caught.value)


def test_a_checkpoint_without_its_manifest_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    """It got its name when it was complete: not a reason to begin anew in silence."""
    run(sft(), tmp_path)
    kept = (tmp_path / "metrics.jsonl").read_bytes()
    path = tmp_path / "checkpoints" / f"step-{STEPS}"
    (path / "manifest.json").unlink()
    with pytest.raises(UserError, match=rf"^{path}: damaged \(.*manifest.json: no such file\); delete this checkpoint"):
        run(sft(), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == kept and path.is_dir()
    shutil.rmtree(path)
    assert run(sft(), tmp_path) == run(sft(), tmp_path / "whole")


def test_what_somebody_else_keeps_beside_the_checkpoints_is_left_alone(tmp_path: Path) -> None:
    """A note, a copy and a folder of one's own, and a link to a folder; what a kill left of a checkpoint is removed."""
    with pytest.raises(Interrupted):
        run(pressing(sft(), 2), tmp_path)
    place = tmp_path / "checkpoints"
    shutil.copytree(place / "step-3", place / "step-3-kept")
    shutil.copytree(place / "step-3", place / "best")
    (place / "step-9").write_text("a file of that name")
    (place / "notes.txt").write_text("mine")
    (place / "step-1").symlink_to(place / "best")
    others = {p.name for p in place.iterdir()} - {"step-3"}
    for left in (".step-2.tmp", ".step-2.old", "step-2"):
        (place / left).mkdir()
    assert run(sft(), tmp_path) == run(sft(), tmp_path / "whole")
    assert {p.name for p in place.iterdir()} == others | {"step-6"}
    assert len(list((place / "best").iterdir())) == len(list((place / "step-3-kept").iterdir())) == 4


def test_an_older_checkpoint_that_cannot_be_removed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rmtree = shutil.rmtree

    def refused(path: Path, ignore_errors: bool = False) -> None:
        if path.name == "step-2" and not ignore_errors:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        rmtree(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", refused)
    with pytest.raises(UserError, match=rf"^{tmp_path}/checkpoints/step-2: cannot write \(Permission denied\)") as caught:
        run(sft(), tmp_path)
    assert "\n" not in str(caught.value) and checkpoint.latest(tmp_path / "checkpoints") == tmp_path / "checkpoints/step-4"


def test_a_checkpoint_is_written_from_the_weights_and_moments_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file after the other, on the CPU without a copy of them; the bytes are those that safetensors makes in memory."""
    module, written = nn.Linear(40, 50), dict[str, set[int]]()
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(40)).sum().backward()
    optimizer.step()
    save_file = checkpoint.save_file

    def seeing(tensors: dict[str, Tensor], path: Path) -> None:
        written[path.name] = {t.data_ptr() for t in tensors.values()}
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", seeing)
    checkpoint.save(tmp_path, 3, dict(module.named_parameters()), optimizer, {"a": 1})
    moments = {t.data_ptr() for kept in optimizer.state.values() for t in kept.values()}
    assert written == {"weights.safetensors": {p.data_ptr() for p in module.parameters()}, "optimizer.safetensors": moments}
    expected = safetensors_save({name: p.detach() for name, p in module.named_parameters()})
    assert (tmp_path / "step-3" / "weights.safetensors").read_bytes() == expected
    again = nn.Linear(40, 50)
    other = torch.optim.AdamW(again.parameters())
    assert checkpoint.load(tmp_path / "step-3", dict(again.named_parameters()), other) == {"step": 3, "a": 1}
    shutil.rmtree(tmp_path / "step-3")
    for a, b in zip(module.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b) and all(torch.equal(optimizer.state[a][kind], value) for kind, value in other.state[b].items())


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    """Another family by a parameter's name; the same family in another size by its shape, not by broadcasting."""
    run(sft(), tmp_path)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))])
    found = checkpoint.latest(tmp_path / "checkpoints")
    assert found is not None
    with pytest.raises(UserError, match="made by another model or method"):
        checkpoint.load(found, {"policy.other": nn.Parameter(torch.zeros(1))}, optimizer)
    policy = sft().modules["policy"]
    names = {f"policy.{n}": nn.Parameter(torch.zeros(*p.shape, 1)) for n, p in policy.named_parameters()}
    with pytest.raises(UserError, match="made by another model or method"):
        checkpoint.load(found, names, optimizer)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second checkpoint cannot be written: one line, the first still there and good, nothing half-written beside it."""
    expected = run(sft(), tmp_path / "whole")
    path, calls, fsync = tmp_path / "full", [0], os.fsync

    def full(handle: int) -> None:
        calls[0] += (path / "checkpoints").exists()
        if calls[0] > 11:  # six for the first checkpoint: four files, two directories; then metrics, times and their directory
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="checkpoints/step-4: the disk is full; free some space"):
        run(sft(), path)
    assert [p.name for p in (path / "checkpoints").iterdir()] == ["step-2"]
    monkeypatch.undo()
    assert run(sft(), path) == expected


def test_metrics_are_durable_before_the_checkpoint_that_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the last line written before a checkpoint and its name: the streams are synced in their full length, and their folder."""
    synced, fsync, rename, found = dict[str, int](), os.fsync, Path.rename, []

    def noted(handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        synced[str(path.relative_to(tmp_path.resolve()))] = path.stat().st_size
        fsync(handle)

    def named(path: Path, target: Path) -> Path:
        now = {name: (tmp_path / name).stat().st_size for name in ("metrics.jsonl", "timing.jsonl")}
        found.append("." in synced and {name: synced.get(name) for name in now} == now)
        synced.clear()
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "rename", named)
    run(sft(), tmp_path)
    assert found == [True] * 3


def test_a_disk_that_fails_under_the_metrics_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def full(handle: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}").endswith("metrics.jsonl") and (tmp_path / "checkpoints").exists():
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="metrics.jsonl: the disk is full"):
        run(sft(), tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-2"]


def test_metrics_that_lost_lines_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(pressing(sft(), 2), tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    method = sft()
    method.loss = lambda batch: pytest.fail("trained")  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"metrics.jsonl: damaged \(0 bytes, [\d,]+ when the checkpoint was made\)"):
        run(method, tmp_path)


def test_metrics_that_do_not_fit_on_the_disk_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: RunFolder, stream: str, rows: Any) -> None:
        return append(self, stream, rows)

    append = RunFolder._append
    folder = RunFolder(tmp_path)
    folder.begin("sft", {})
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match="metrics.jsonl: cannot write"):
        full(folder, "metrics.jsonl", [{"a": 1}])
