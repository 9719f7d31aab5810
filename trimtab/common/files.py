"""Files that are complete or absent: write to a temporary name, fsync, rename, fsync the directory."""

import contextlib
import difflib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trimtab.common.errors import UserError


@contextlib.contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; on success it replaces ``path``, on any failure it is removed.

    Raises:
        UserError: the disk is full, or the place cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_writable(path: Path | str, *, overwrite: bool) -> None:
    """Finds out before the work, not after it, that ``path`` cannot be written, or that something stands there that may not be replaced.

    Raises:
        UserError: the file is there and ``overwrite`` is not set, or it is a folder; its folder cannot be made, or takes no file.
    """
    if Path(path).is_dir():
        raise UserError(f"{path}: is a folder; name a file to write")
    if not overwrite and os.path.lexists(path):
        raise UserError(f"{path}: is there already; choose another name, or replace it with --overwrite (in a recipe overwrite=true)")
    folder = Path(path).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise disk_error(error, path) from error


def refuse_missing_folder(source: Path | str) -> None:
    """Refuses a model that is not there and whose name can be none on the hub, as ``./dir`` and ``a/b/c`` are.

    Raises:
        UserError: it is so.
    """
    if not Path(source).exists() and (str(source).startswith((".", "/", "~")) or str(source).count("/") > 1):
        raise UserError(f"{source}: no such model folder{near_name(source)}")


def near_name(path: Path | str) -> str:
    """``; did you mean 'runs/sft/model'?`` where something of a similar name stands beside what is not there; else nothing."""
    place = Path(path)
    try:
        close = difflib.get_close_matches(place.name, sorted(p.name for p in place.parent.iterdir()), n=1, cutoff=0.75)
    except OSError:  # the folder around it is not there either
        return ""
    return f"; did you mean '{place.parent / close[0]}'?" if close else ""


def sync(path: Path | str) -> None:
    """Makes a file's bytes durable, or the names inside a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_folder(new: Path, place: Path) -> None:
    """Makes ``new`` durable and renames it to ``place``, which stands beside it. What stood there is renamed first and removed last: at
    whatever moment the process is killed, one of the two is whole, the old one perhaps as ``.NAME.old``. Who may read the folder may
    read its files: safetensors writes its own for their owner alone.

    Raises:
        OSError: it cannot be written, or a file is in its place; what stood there still does.
    """
    for path in (*new.rglob("*"), new):
        if path.is_file():
            with contextlib.suppress(OSError):  # a file system without modes
                path.chmod(new.stat().st_mode & 0o666)
        sync(path)
    old = place.with_name(f".{place.name}.old")
    try:
        if place.is_dir():
            _remove(old)
            place.rename(old)
        new.rename(place)
    except BaseException:
        if old.is_dir() and not place.exists():
            old.rename(place)
        raise
    sync(place.parent)
    _remove(old)


def _remove(folder: Path) -> None:
    """Without complaint, a link to a folder as the link that it is."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def disk_error(error: Exception, path: Path | str) -> UserError:
    """The one line for a write that failed (safetensors wraps the system's error in its own, as text)."""
    number, reason = getattr(error, "errno", None), getattr(error, "strerror", None) or str(error).split("\n")[0]
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in reason:
        return UserError(
            f"{path}: the disk is full; free some space or choose another out=DIR, then run the same command again"
        )
    if number in (errno.EEXIST, errno.ENOTDIR):
        file = next((place for place in (Path(path), *Path(path).parents) if place.is_file()), Path(path))
        return UserError(f"{path}: cannot write, {file} is a file and not a folder; choose another place")
    return UserError(f"{path}: cannot write ({reason}); choose a folder that you may write to")


def write_text(path: Path | str, text: str) -> None:
    """Writes ``text`` as UTF-8, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Reads one JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
