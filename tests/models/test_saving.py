"""A saved model is whole at every moment, whatever ends the process, also while it takes an older one's place."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import save_tiny_policy

from trimtab.common.errors import UserError
from trimtab.models.load import load_policy, load_tokenizer, save_model
from trimtab.training.folder import content_hash


class Killed(BaseException):
    """What Ctrl-C is to the code that writes, at a moment when it looks for nothing of the kind."""


def before_each_operation(monkeypatch: pytest.MonkeyPatch, call: Callable[[], None]) -> None:
    """``call`` is called before each fsync, rename and removal of a folder."""

    def wrap(owner: Any, name: str) -> None:
        true = getattr(owner, name)

        def called(*args: Any, **options: Any) -> Any:
            call()
            return true(*args, **options)

        monkeypatch.setattr(owner, name, called)

    for owner, name in ((os, "fsync"), (Path, "rename"), (shutil, "rmtree")):
        wrap(owner, name)


@pytest.fixture
def old_and_new(tmp_path: Path) -> tuple[Path, Callable[[], None], str]:
    """``tmp_path/at/model``, what saves another model there, and that model's hash."""
    start, place = save_tiny_policy(tmp_path / "start"), tmp_path / "at" / "model"
    policy, tokenizer = load_policy(start), load_tokenizer(start)
    shutil.copytree(start, place)
    with torch.no_grad():
        policy.get_input_embeddings().weight.add_(1.0)
    save_model(policy, tokenizer, tmp_path / "new")
    assert content_hash(tmp_path / "new") != content_hash(place)
    return place, lambda: save_model(policy, tokenizer, place), content_hash(tmp_path / "new")


def test_at_every_moment_of_a_save_the_old_model_or_the_new_one_is_whole(
    old_and_new: tuple[Path, Callable[[], None], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut would leave: looked at before each operation. The new one counts only under its name, where it is synced."""
    place, save, new = old_and_new
    old, seen = content_hash(place), list[bool]()

    def look() -> None:
        found = {p.name: content_hash(p) for p in place.parent.iterdir()}
        seen.append(old in found.values() or found.get(place.name) == new)

    before_each_operation(monkeypatch, look)
    save()
    monkeypatch.undo()
    assert len(seen) > 8 and all(seen)
    assert content_hash(place) == new and [p.name for p in place.parent.iterdir()] == [place.name]


def test_a_save_that_is_stopped_leaves_a_model_under_its_name(
    old_and_new: tuple[Path, Callable[[], None], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, save, new = old_and_new
    old, count = content_hash(place), [0]

    def stop() -> None:
        count[0] += 1
        if count[0] == at:
            raise Killed

    for at in range(1, 100):
        count[0] = 0
        before_each_operation(monkeypatch, stop)
        try:
            save()
            break
        except Killed:
            monkeypatch.undo()
            assert content_hash(place) in (old, new), at
    assert at > 8 and content_hash(place) == new


def test_the_names_in_a_model_folder_are_durable_before_it_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file, then the folder, then the rename, then the folder around it."""
    start = save_tiny_policy(tmp_path / "start")
    policy, tokenizer, events = load_policy(start), load_tokenizer(start), list[str]()
    fsync, rename = os.fsync, Path.rename

    def synced(handle: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    def renamed(path: Path, target: Path) -> Path:
        events.append("renamed")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    save_model(policy, tokenizer, tmp_path / "at" / "model")
    files = {p.name for p in (tmp_path / "at" / "model").iterdir()}
    assert set(events[:-3]) == files and events[-3:] == [".model.tmp", "renamed", "at"]


def test_who_may_read_the_folder_may_read_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files have the modes that Python gives to new ones; a file system that has none is no error."""
    (tmp_path / "plain").write_text("")
    saved = save_tiny_policy(tmp_path / "start")
    assert {p.stat().st_mode for p in saved.iterdir()} == {(tmp_path / "plain").stat().st_mode}

    def without_modes(path: Path, mode: int) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(Path, "chmod", without_modes)
    assert load_policy(save_tiny_policy(tmp_path / "other"))


def test_a_link_in_the_models_place_is_replaced_and_what_it_points_to_is_left(
    old_and_new: tuple[Path, Callable[[], None], str], tmp_path: Path
) -> None:
    place, save, new = old_and_new
    old = content_hash(place)
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    save()
    assert content_hash(place) == new and not place.is_symlink() and content_hash(tmp_path / "elsewhere") == old
    assert [p.name for p in place.parent.iterdir()] == [place.name]


def test_a_file_in_the_models_place_is_told_and_kept(tmp_path: Path) -> None:
    start = save_tiny_policy(tmp_path / "start")
    (tmp_path / "model").write_text("mine")
    with pytest.raises(UserError, match=f"{tmp_path}/model: cannot write, {tmp_path}/model is a file and not a folder"):
        save_model(load_policy(start), load_tokenizer(start), tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"
