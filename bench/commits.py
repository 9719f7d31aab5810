"""Which commit a figure is of."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def commit(written: Iterable[Path]) -> str:
    """What is measured, as a short hash; "+changes" where a file differs beside those that are ``written`` by whoever measures."""
    beside = [f":!{path.relative_to(ROOT)}" for path in written]
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *beside)
    return _git("rev-parse", "--short", "HEAD") + ("+changes" if changed else "")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
