"""The files of a shard between the steps: records one a line, arrays, and texts that are read one at a time.

No Python object of a prompt outlives its step: what the steps over all prompts need is in arrays, and texts stay on disk.
"""

import bisect
import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from trimtab.records import JSON

# Files of texts that are open at one time: a corpus may have thousands, and a process may often open 1,024.
OPEN_FILES = 256


@dataclass(frozen=True)
class Shard:
    """One shard's files in the work folder."""

    folder: Path
    number: int

    def path(self, kind: str) -> Path:
        return self.folder / f"{self.number:06d}.{kind}"

    def write_lines(self, kind: str, rows: Iterable[JSON]) -> None:
        with open(self.path(kind), "w", encoding="utf-8") as f:
            f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def read_lines(self, kind: str) -> Iterator[JSON]:
        with open(self.path(kind), encoding="utf-8", newline="\n") as f:
            yield from map(json.loads, f)

    def write_texts(self, kind: str, texts: Iterable[str]) -> NDArray[np.int64]:
        """Writes texts end to end; returns where each ends, in bytes."""
        ends = [0]
        with open(self.path(kind), "wb") as f:
            for text in texts:
                ends.append(ends[-1] + f.write(text.encode()))
        return np.array(ends[1:], np.int64)

    def save(self, kind: str, arrays: dict[str, NDArray[Any]]) -> None:
        with open(self.path(kind), "wb") as f:
            np.savez(f, **arrays)  # type: ignore[arg-type]

    def load(self, kind: str) -> dict[str, NDArray[Any]]:
        with np.load(self.path(kind), allow_pickle=False) as arrays:
            return dict(arrays)


class Texts(Sequence[str]):
    """The texts of several shards as one sequence, read from their files when they are asked for."""

    def __init__(self, parts: Iterable[tuple[Path, NDArray[np.int64]]]) -> None:
        self._bytes_of = lru_cache(OPEN_FILES)(_mapped)
        self._ends: list[NDArray[np.int64]] = []
        self._paths: list[Path] = []
        self._starts = [0]
        for path, ends in parts:
            if len(ends):
                self._ends.append(ends)
                self._paths.append(path)
                self._starts.append(self._starts[-1] + len(ends))

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if not 0 <= at < len(self):
            raise IndexError(at)
        part = bisect.bisect_right(self._starts, at) - 1
        ends, row = self._ends[part], at - self._starts[part]
        return bytes(self._bytes_of(self._paths[part])[int(ends[row - 1]) if row else 0 : int(ends[row])]).decode()


def _mapped(path: Path) -> mmap.mmap | bytes:
    """A file's bytes, read as they are asked for."""
    with open(path, "rb") as f:
        return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
