"""This process's memory and the machine's; glibc's allocator, told to keep what it has (large tensors otherwise go back to the system and
are faulted in again)."""

import ctypes
import os
import resource
import sys
from pathlib import Path

OPT_OUT = "TRIMTAB_KEEP_MEMORY"  # 0 leaves the allocator as it is
# A container's limit, its use, and the line of memory.stat with the files in its cache, which it gives up first: control groups 2 and 1.
GROUPS = (
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Lets this process reuse freed memory instead of returning it: no mmap for large blocks, no trimming of the heap.

    Page faults are up to half of a training step's time on a 2-core CPU otherwise. It holds for the whole process, until its end. True
    where it took effect (glibc, and the environment does not say ``TRIMTAB_KEEP_MEMORY=0``).
    """
    if not sys.platform.startswith("linux") or os.environ.get(OPT_OUT) == "0":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20))
    return all([mallopt(name, value) == 1 for name, value in settings])


def peak_bytes() -> int:
    """This process's peak resident memory so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_bytes(root: Path = Path("/")) -> int:
    """Memory that the machine can still give to processes, or the container that this one runs in if that is less.

    Where the system does not say (macOS): all that it has.
    """
    if not (root / "proc/meminfo").exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = [_line(root / "proc/meminfo", "MemAvailable:") * 1024]
    for folder, limit, use, cached in GROUPS:
        group = root / folder
        if (group / limit).exists() and (most := (group / limit).read_text().strip()) != "max":
            found.append(int(most) - int((group / use).read_text()) + _line(group / "memory.stat", cached))
    return max(0, min(found))


def _line(path: Path, name: str) -> int:
    """The number behind ``name`` in a file of names and numbers; 0 where it has none."""
    return next((int(words[1]) for line in path.read_text().splitlines() if (words := line.split())[:1] == [name]), 0)
