"""What is compiled, where it is kept, and what happens where it cannot be."""

import ctypes
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trimtab.common import kernels

pytestmark = pytest.mark.skipif(not kernels.compilers(), reason="nothing can be compiled here: attention is torch's")


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's cache that is empty, and nothing loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels, "FLAGS", tuple(flag for flag in kernels.FLAGS if flag != "-O3"))  # sooner done
    kernels.library.cache_clear()
    yield tmp_path / "cache" / "trimtab"
    monkeypatch.undo()
    kernels.library.cache_clear()


def compiler(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_it_is_compiled_once_and_nothing_else_is_left(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = compiler(tmp_path / "counted", f'[ "$1" = --version ] || echo x >> {tmp_path}/calls; exec g++ "$@"')
    monkeypatch.setenv("CXX", counted)
    for _ in range(3):
        kernels.library.cache_clear()
        assert kernels.library() is not None
    assert (tmp_path / "calls").read_text().split() == ["x"]
    (kept,) = fresh.iterdir()
    assert kept.name.startswith("kernels-") and kept.suffix == ".so"


def test_what_a_compiler_is_found_for_is_compiled() -> None:
    """Elsewhere tests of it are left out; a mistake in the source must not leave them out."""
    assert kernels.library() is not None
    assert kernels.attention(torch.device("cpu")).startswith("compiled ") and kernels.attention(torch.device("cuda")) is None


@pytest.mark.parametrize("changed", ["attention.cpp", "rows.cpp", "vectors.h", "flags", "compiler", "processor"])
def test_another_source_compiler_or_processor_is_another_library(
    changed: str, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kernels.library() is not None
    if changed.startswith(("attention", "rows", "vectors")):
        for file in (*kernels.SOURCES, *kernels.HEADERS):
            (tmp_path / file.name).write_text(file.read_text() + "// changed\n" * (file.name == changed))
        for name in ("SOURCES", "HEADERS"):
            monkeypatch.setattr(kernels, name, tuple(tmp_path / file.name for file in getattr(kernels, name)))
    elif changed == "flags":
        monkeypatch.setattr(kernels, "FLAGS", (*kernels.FLAGS, "-O2"))
    elif changed == "compiler":
        monkeypatch.setenv("CXX", compiler(tmp_path / "newer", '[ "$1" != --version ] && exec g++ "$@"; echo 99.1'))
    else:
        monkeypatch.setattr(kernels, "_processor", lambda: "another")
    kernels.library.cache_clear()
    assert kernels.library() is not None and len(list(fresh.iterdir())) == 2


def test_processors_are_told_apart_by_what_the_compiler_looks_at(tmp_path: Path) -> None:
    text = "processor : 0\nmodel name : A\nflags : sse avx2\ncpu MHz : {}\n\nprocessor : 1\nmodel name : A\nflags : sse avx2\n"
    texts = [text.format(1000), text.format(3000), text.replace("avx2", "avx512f"), "CPU part : 0xd0c\nFeatures : neon\n"]
    found = []
    for i, given in enumerate(texts):
        (tmp_path / str(i)).write_text(given)
        found.append(kernels._processor(tmp_path / str(i)))
    assert found[0] == found[1] and len(set(found)) == 3
    assert len(kernels._processor(tmp_path / "none").split()) == 1  # the machine's kind alone
    (tmp_path / "odd").write_bytes(b"model name : A\xae\n")
    assert "model name" in kernels._processor(tmp_path / "odd")


def test_two_processes_at_once_both_have_it(fresh: Path) -> None:
    command = [sys.executable, "-c", "from trimtab.common.kernels import library; assert library() is not None"]
    both = [subprocess.Popen(command, env=dict(os.environ)) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(list(fresh.iterdir())) == 1


def test_a_compiler_that_fails_is_told_in_one_line_and_torch_takes_over(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = compiler(tmp_path / "broken", '[ "$1" = --version ] || { echo "in line 3" >&2; echo "x.cpp: error: no OpenMP" >&2; exit 1; }')
    monkeypatch.setattr(kernels, "compilers", lambda: [broken, broken])
    assert kernels.library() is None and kernels.library() is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"CPUs are left to torch's operators, which are slower (could not compile kernels with {broken}: x.cpp: error: no OpenMP)"
    )
    assert not kernels.can_run(torch.zeros(1)) and not list(fresh.iterdir())
    assert kernels.attention(torch.device("cpu")) == "torch"


def test_the_next_compiler_is_tried(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path / "broken", "exit 1"))
    assert kernels.library() is not None and capsys.readouterr() == ("", "")


def test_without_a_compiler_or_by_the_environment_nothing_is_compiled(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as off:
        off.setenv("TRIMTAB_KERNELS", "0")
        assert kernels.library() is None
    kernels.library.cache_clear()
    with monkeypatch.context() as macos:
        macos.setattr(sys, "platform", "darwin")
        assert kernels.library() is None
    kernels.library.cache_clear()
    with monkeypatch.context() as bare:
        bare.setenv("PATH", "")
        bare.delenv("CXX", raising=False)
        assert kernels.library() is None
    assert not fresh.exists() and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("damage", ["empty", "half", "a byte", "others may write it", "a link"])
def test_a_damaged_library_or_one_that_others_can_write_is_made_again(damage: str, fresh: Path) -> None:
    """Half a library would end the process with a bus error, one that another user wrote would do what that user likes."""
    assert kernels.library() is not None
    (kept,) = fresh.iterdir()
    right = kept.read_bytes()
    kept.unlink()  # it is loaded: its bytes must stay what they are
    if damage == "a link":
        (fresh.parent / "elsewhere").write_bytes(right)
        kept.symlink_to(fresh.parent / "elsewhere")
    else:
        changed = {"empty": b"", "half": right[: len(right) // 2], "a byte": right[:5000] + bytes([right[5000] ^ 1]) + right[5001:]}
        kept.write_bytes(changed.get(damage, right))
        kept.chmod(0o666 if damage == "others may write it" else 0o700)
    assert not kernels._whole(kept)
    # Another process: in this one the first library has the name already.
    subprocess.run([sys.executable, "-c", "from trimtab.common.kernels import library; assert library() is not None"], check=True)
    assert len(list(fresh.iterdir())) == 2  # the test's flags are not the program's
    kernels.library.cache_clear()
    assert kernels.library() is not None
    assert kernels._whole(kept) and stat.S_IMODE(kept.stat().st_mode) == 0o700


def test_a_whole_library_that_cannot_be_loaded_is_made_again(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another libc, say."""
    assert kernels.library() is not None
    (kept,) = fresh.iterdir()
    load, refused = kernels._loaded, []

    def picky(path: Path) -> ctypes.CDLL:
        if path == kept and not refused:
            refused.append(path)
            raise OSError("version `GLIBC_9.9' not found")
        return load(path)

    monkeypatch.setattr(kernels, "_loaded", picky)
    kernels.library.cache_clear()
    inode = kept.stat().st_ino
    assert kernels.library() is not None and refused and kept.stat().st_ino != inode


def test_what_cannot_be_loaded_is_not_kept(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = compiler(tmp_path / "nothing", 'for last; do :; done; [ "$1" = --version ] || : > "$last"')
    monkeypatch.setattr(kernels, "compilers", lambda: [nothing])
    assert kernels.library() is None and not list(fresh.iterdir())
    assert f"could not load kernels with {nothing}: " in capsys.readouterr().err


def test_where_the_cache_is_full_it_is_made_elsewhere(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = compiler(
        tmp_path / "full", f'for last; do :; done; case "$last" in {fresh}*) echo "ld: No space left" >&2; exit 1;; esac; exec g++ "$@"'
    )
    monkeypatch.setattr(kernels, "compilers", lambda: [full])
    assert kernels.library() is not None and not list(fresh.iterdir())


def full() -> str:
    raise PermissionError("no")


@pytest.mark.parametrize("why", ["a file stands there", "others may write there", "another user's", "no home", "not writable"])
def test_where_nothing_can_be_kept_it_is_made_for_this_process_and_leaves_nothing(
    why: str, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "a file stands there":
        fresh.parent.mkdir()
        fresh.touch()
    elif why == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory.")))
    else:
        fresh.mkdir(parents=True)
        fresh.chmod({"others may write there": 0o777, "not writable": 0o500}.get(why, 0o700))
    if why == "another user's":
        monkeypatch.setattr(kernels.os, "geteuid", lambda: fresh.stat().st_uid + 1)
    if why == "not writable":  # root may write everywhere
        make = kernels.tempfile.mkdtemp
        monkeypatch.setattr(kernels.tempfile, "mkdtemp", lambda prefix, dir: full() if dir == fresh else make(prefix=prefix, dir=dir))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(kernels.tempfile, "tempdir", str(temporary))
    assert kernels.library() is not None
    assert not list(temporary.iterdir()) and (not fresh.is_dir() or not list(fresh.iterdir()))


def test_the_cache_is_its_users_alone(fresh: Path) -> None:
    before = os.umask(0)
    try:
        assert kernels.library() is not None
    finally:
        os.umask(before)
    (kept,) = fresh.iterdir()
    assert [stat.S_IMODE(p.stat().st_mode) for p in (fresh, kept)] == [0o700, 0o700]


def test_float64_and_other_devices_are_left_to_torch() -> None:
    assert kernels.can_run(torch.zeros(1)) and kernels.can_run(torch.zeros(1, dtype=torch.bfloat16))
    assert not kernels.can_run(torch.zeros(1, dtype=torch.float64)) and not kernels.can_run(torch.zeros(1, device="meta"))
