"""What is compiled, where it is kept, and what happens where it cannot be."""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trimtab.common import native

pytestmark = pytest.mark.skipif(native.library() is None, reason="nothing can be compiled here: attention is torch's")


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's cache that is empty, and nothing loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native.library.cache_clear()
    yield tmp_path / "cache" / "trimtab"
    monkeypatch.undo()
    native.library.cache_clear()


def compiler(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_it_is_compiled_once_and_nothing_else_is_left(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = compiler(tmp_path / "counted", f'[ "$1" = --version ] || echo x >> {tmp_path}/calls; exec g++ "$@"')
    monkeypatch.setenv("CXX", counted)
    for _ in range(3):
        native.library.cache_clear()
        assert native.library() is not None
    assert (tmp_path / "calls").read_text().split() == ["x"]
    (kept,) = fresh.iterdir()
    assert kept.name.startswith("attention-") and kept.suffix == ".so"


@pytest.mark.parametrize("changed", ["source", "flags", "processor"])
def test_another_source_compiler_or_processor_is_another_library(
    changed: str, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert native.library() is not None
    if changed == "source":
        other = tmp_path / "attention.cpp"
        other.write_text(native.SOURCE.read_text() + "// changed\n")
        monkeypatch.setattr(native, "SOURCE", other)
    elif changed == "flags":
        monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-O2"))
    else:
        monkeypatch.setattr(native, "_processor", lambda: "another")
    native.library.cache_clear()
    assert native.library() is not None and len(list(fresh.iterdir())) == 2


def test_a_compiler_that_fails_is_told_in_one_line_and_torch_takes_over(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = compiler(tmp_path / "broken", '[ "$1" = --version ] || { echo "in line 3" >&2; echo "x.cpp: error: no OpenMP" >&2; exit 1; }')
    monkeypatch.setenv("CXX", broken)
    assert native.library() is None and native.library() is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"attention runs on torch's operators, which are slower: {broken} could not compile attention.cpp (x.cpp: error: no OpenMP)"
    )
    assert not native.can_run(torch.zeros(1)) and not list(fresh.iterdir())


def test_without_a_compiler_or_by_the_environment_nothing_is_compiled(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as off:
        off.setenv("TRIMTAB_NATIVE", "0")
        assert native.library() is None
    native.library.cache_clear()
    with monkeypatch.context() as macos:
        macos.setattr(sys, "platform", "darwin")
        assert native.library() is None
    native.library.cache_clear()
    with monkeypatch.context() as bare:
        bare.setenv("PATH", "")
        bare.delenv("CXX", raising=False)
        assert native.library() is None
    assert not fresh.exists() and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("why", ["a file stands there", "not writable"])
def test_where_nothing_can_be_kept_it_is_made_for_this_process(
    why: str, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "a file stands there":
        fresh.parent.mkdir()
        fresh.touch()
    else:
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        fresh.mkdir(parents=True)
        fresh.chmod(0o500)
    monkeypatch.setattr(native.tempfile, "tempdir", str(tmp_path))
    assert native.library() is not None
    assert fresh.is_file() or not list(fresh.iterdir())


def test_float64_and_other_devices_are_left_to_torch() -> None:
    assert native.can_run(torch.zeros(1)) and native.can_run(torch.zeros(1, dtype=torch.bfloat16))
    assert not native.can_run(torch.zeros(1, dtype=torch.float64)) and not native.can_run(torch.zeros(1, device="meta"))
