"""The work folder of a curation, and the same function on all of its shards."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.common.progress import Progress
from trimtab.data.curate.settings import CurateSettings
from trimtab.data.curate.spread import Job, Runner, on_shards
from trimtab.records import JSON


@dataclass(frozen=True)
class Work:
    """Where shards of ``rows`` rows lie, and who works on them."""

    folder: Path
    settings: CurateSettings
    workers: int
    runner: Runner
    rows: int

    def each(self, title: str, function: Callable[[Job], JSON], jobs: Iterable[Job], total: int | None = None) -> list[JSON]:
        """``function`` of every job, with a progress line that counts the ``rows`` which it reports of ``total``."""
        out = []
        with Progress(title, total, "rows") as bar:
            for result in on_shards(function, jobs, self.workers, self.runner):
                out.append(result)
                bar.advance(result["rows"])
        return out

    def each_of(self, title: str, function: Callable[[Job], JSON], count: int, rows: int, **common: Any) -> list[JSON]:
        """``function`` of each of ``count`` shards of ``rows`` rows in all, with the same words for all."""
        jobs = ({"folder": str(self.folder), "number": number, **common} for number in range(count))
        return self.each(title, function, jobs, rows)


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """A folder for shards inside ``out``, removed afterwards; one that a killed run left is removed first."""
    for old in out.glob(".work-*"):
        shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=".work-", dir=out))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
