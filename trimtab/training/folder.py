"""A run's folder: what was run, its metrics and samples, its checkpoints, its model. Nothing in it is ever half-written."""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from trimtab.common.device import here
from trimtab.common.errors import Interrupted, RunFailed, UserError
from trimtab.common.files import disk_error, read_json, sha256, sync, write_json
from trimtab.common.precision import in_bf16

STREAMS = ("metrics.jsonl", "samples.jsonl", "timing.jsonl")
# Settings that may differ between the command that started a run and the one that goes on with it.
FREE_SETTINGS = ("out", "overwrite", "threads", "save_every", "track", "workers", "runner", "kv_gb")


class RunFolder:
    """One run's folder; see docs/architecture.md for its files."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._started = time.time()
        self._before = 0.0
        self._lock = contextlib.ExitStack()

    def refuse_to_replace(self, outputs: Iterable[str], read: Iterable[Path | str]) -> None:
        """Before anything is begun: what a run reads must be there and the same until its end, or it could not be taken up again.

        Raises:
            UserError: something in ``read`` lies where the run will write (its own files, and ``outputs`` inside the folder), or is a
                folder in which the run's own lies.
        """
        own = self.path.resolve()
        for source in (Path(p) for p in read if Path(p).exists()):
            for name in (*STREAMS, "run.json", "results.json", *outputs):
                if source.resolve().is_relative_to((own / name).resolve()):
                    raise UserError(f"{source}: this run reads it and would write {self.path / name} in its place; choose another out=DIR")
            if source.is_dir() and own.is_relative_to(source.resolve()):
                raise UserError(f"{self.path}: this run would write into {source}, which it reads; choose another out=DIR")

    def refuse_to_lose(self, outputs: Iterable[str], wanted: Mapping[str, str]) -> None:
        """Before anything is begun: what a run is asked to write elsewhere may not lie where it replaces whole folders.

        Raises:
            UserError: one of ``wanted``, a folder by the option that asks for it, is or lies in one of ``outputs``.
        """
        for option, asked in ((o, a) for o, a in wanted.items() if a):
            for name in outputs:
                if Path(asked).resolve().is_relative_to((self.path / name).resolve()):
                    raise UserError(f"{option}={asked}: the run replaces {self.path / name} whole, and this with it; choose another folder")

    def begin(
        self,
        verb: str,
        config: Mapping[str, Any],
        *,
        inputs: Iterable[Path | str] = (),
        parents: Iterable[Path | str] = (),
        defaults: Mapping[str, Any] | None = None,
        attention: str | None = None,
    ) -> bool:
        """Starts the run, or takes it up again. False when the folder already holds this very run, finished.

        A run that ended before its first checkpoint may be replaced by another. One begun before an option was there had its value of
        ``defaults``. ``attention`` says whose runs, where several may (``common/kernels.py``).

        Raises:
            UserError: the folder holds another run, another process is at work in it, or it cannot be written.
        """
        with contextlib.ExitStack() as lock:
            lock.enter_context(locked(self.path))
            started = self._begin(verb, config, list(inputs), list(parents), defaults or {}, attention)
            if started:
                self._lock = lock.pop_all()
            return started

    def _begin(
        self, verb: str, config: Mapping[str, Any], inputs: Sequence[Path | str], parents: Sequence[Path | str],
        defaults: Mapping[str, Any], attention: str | None,
    ) -> bool:  # fmt: skip
        kept = {k: v for k, v in config.items() if k not in FREE_SETTINGS}
        found = read_json(self.path / "run.json") if (self.path / "run.json").exists() else None
        ended = found is not None and found.get("status") in ("failed", "interrupted")
        if ended and not (self.path / "checkpoints").exists():
            found = None  # it ended before there was anything to go on from: a mistyped option, a missing file
        info: dict[str, Any] = {
            "verb": verb, "status": "running", "config": dict(config), "seed": config.get("seed"),
            "versions": versions(), "inputs": {str(p): content_hash(p) for p in inputs if Path(p).exists()},
            "parents": {str(p): content_hash(p) if Path(p).exists() else None for p in parents},
            "device": device_name(), "threads": torch.get_num_threads(),
            "products": "bfloat16" if in_bf16(config.get("dtype", "float32")) else "float32",
            "started": time.time(), "wall_seconds": 0.0,
        }  # fmt: skip
        if attention:
            info["attention"] = attention
        if found is not None:
            before = {k: v for k, v in with_defaults(found.get("config", {}), defaults).items() if k not in FREE_SETTINGS}
            if found.get("verb") != verb or _plain(before) != _plain(kept):
                raise UserError(
                    f"{self.path}: holds another run ({_difference(found, verb, before, kept)}); choose another out=DIR (with "
                    f"model={self.path} to train on from there) or delete it"
                )
            before_and_now = [(found.get(kind, {}), info[kind]) for kind in ("inputs", "parents")]
            changed = [p for old, new in before_and_now for p, h in new.items() if old.get(p, h) != h]
            if changed:
                raise UserError(
                    f"{changed[0]}: changed since the run in {self.path} began; choose another out=DIR or delete that folder"
                )
            if found.get("status") == "done":
                return False
            same = all(found.get(kind) == info[kind] for kind in ("versions", "device", "threads", "products"))
            if not same or found.get("attention", attention and "torch") != attention:
                print(f"{self.path}: goes on with another processor, versions, threads, number format or attention; not bit-equal")
            info["started"], self._before = found["started"], found.get("wall_seconds", 0.0)
        self._info = info
        write_json(self.path / "run.json", info)
        return True

    @property
    def run_id(self) -> str:
        """A name that no other run has: the folder's, and when the run began."""
        return f"{self.path.resolve().name}-{self._info['started']:.3f}".replace(".", "-")

    def end(self, status: str, figures: Mapping[str, Any] | None = None) -> None:
        """Writes how the run ended: ``done``, ``interrupted`` or ``failed``; results.json when there are figures."""
        if figures is not None:
            write_json(self.path / "results.json", {"figures": figures})
        self._info |= {
            "status": status,
            "finished": time.time(),
            "wall_seconds": self._before + time.time() - self._started,
        }
        write_json(self.path / "run.json", self._info)
        self.let_go()

    def let_go(self) -> None:
        """Lets other processes work in the folder, as the system does when this one dies."""
        self._lock.close()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Around the work: an error that leaves the block is written down as ``interrupted`` or ``failed``; what the user did wrong before
        anything was done leaves nothing."""
        try:
            yield
        except (Interrupted, KeyboardInterrupt):
            self.end("interrupted")
            raise
        except BaseException as error:
            if isinstance(error, UserError) and {p.name for p in self.path.iterdir()} <= {"run.json", ".lock"}:
                self.let_go()
                shutil.rmtree(self.path)
            else:
                self.end("failed")
            raise

    def log(self, step: int, values: Mapping[str, float], stream: str = "metrics.jsonl") -> None:
        """Appends one line for each value.

        Raises:
            RunFailed: one of them is not finite, which no decision can rest on and no JSON file can hold.
        """
        for name, value in values.items():
            if not math.isfinite(value):
                before = "nothing is trained yet; look at the model and the held-out data (trimtab doctor MODEL FILE)"
                later = "the last checkpoint is left; start again with a lower lr and another out=DIR"
                raise RunFailed(f"step {step}: the metric {name} is {value}; {later if step else before}")
        self._append(stream, [{"step": step, "name": name, "value": value} for name, value in values.items()])

    def log_samples(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows to samples.jsonl."""
        self._append("samples.jsonl", [{"step": step, **row} for row in rows])

    def offsets(self) -> dict[str, int]:
        """Sizes of the append-only files now, up to which they are durable: a checkpoint keeps them.

        Raises:
            UserError: the disk is full, or fails.
        """
        paths = [path for name in STREAMS if (path := self.path / name).exists()]
        for path in (*paths, self.path):
            try:
                sync(path)
            except OSError as error:
                raise disk_error(error, path) from error
        return {name: self._size(name) for name in STREAMS}

    def truncate(self, offsets: Mapping[str, int]) -> None:
        """Drops what was appended after a checkpoint, a torn last line included.

        Raises:
            UserError: a file is shorter than it was at the checkpoint; nothing is dropped then.
        """
        for name in STREAMS:
            size, before = self._size(name), offsets.get(name, 0)
            if size < before:
                raise UserError(
                    f"{self.path / name}: damaged ({size:,} bytes, {before:,} when the checkpoint was made); put the whole file back, "
                    f"or delete {self.path / 'checkpoints'} to train from the start"
                )
        for name in STREAMS:
            if self._size(name) > offsets.get(name, 0):
                os.truncate(self.path / name, offsets.get(name, 0))

    def _size(self, stream: str) -> int:
        path = self.path / stream
        return path.stat().st_size if path.exists() else 0

    def _append(self, stream: str, rows: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if text:
            try:
                with open(self.path / stream, "a", encoding="utf-8") as f:
                    f.write(text)
            except OSError as error:
                raise disk_error(error, self.path / stream) from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """No other process works in ``folder`` meanwhile; the system lets go of the lock when this one dies.

    Raises:
        UserError: one does already, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")
    except OSError as error:
        raise disk_error(error, folder) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process is at work in this folder; wait for it, or choose another out=DIR") from None
        yield


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {
        "trimtab": version("trimtab"),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "python": platform.python_version(),
    }


def device_name() -> str:
    """The processor that computes, by name and kernel set: results are bit-equal on the same one only."""
    if here().type == "cuda":
        return f"cuda: {torch.cuda.get_device_name()}"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"cpu: {names[0] if names else platform.processor() or platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


def content_hash(path: Path | str) -> str:
    """SHA-256 of a file, or of a folder's files and names.

    Raises:
        UserError: it cannot be read.
    """
    path = Path(path)
    try:
        if path.is_file():
            return sha256(path)
        digest = hashlib.sha256()
        for inner in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{inner.relative_to(path)} {sha256(inner)}\n".encode())
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def with_defaults(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings, and those of ``defaults`` that were not there when it began, inside groups too."""
    out = {**defaults, **config}
    for name, default in defaults.items():
        if isinstance(default, Mapping) and isinstance(out[name], Mapping):
            out[name] = with_defaults(out[name], default)
    return out


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _difference(found: Mapping[str, Any], verb: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if found.get("verb") != verb:
        return f"verb {found.get('verb')}, not {verb}"
    names = [k for k in {**before, **now} if _plain(before.get(k)) != _plain(now.get(k))]
    return ", ".join(f"{k} {before.get(k)!r}, not {now.get(k)!r}" for k in names[:3])
