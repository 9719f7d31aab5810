"""What files are called in the card: their names, and as many of their folders as tell them apart."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from trimtab.data.files.hub import is_hub


def short_names(files: Iterable[str]) -> dict[str, str]:
    """File -> the shortest end of its path that no other file has; a data set of the hub keeps its whole name."""
    parts = {file: (file,) if is_hub(file) else Path(file).parts for file in files}
    out: dict[str, str] = {}
    taken = 0
    while len(out) < len(parts):
        taken += 1
        ends = {file: "/".join(own[-taken:]) for file, own in parts.items() if file not in out}
        found = Counter(ends.values())
        out |= {file: end for file, end in ends.items() if found[end] == 1 or taken >= len(parts[file])}
    return out
