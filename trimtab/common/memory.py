"""glibc's allocator, told to keep what it has: large tensors otherwise go back to the system and are faulted in again."""

import ctypes
import os
import resource
import sys

OPT_OUT = "TRIMTAB_KEEP_MEMORY"  # 0 leaves the allocator as it is
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
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20))
    return all([mallopt(name, value) == 1 for name, value in settings])


def peak_bytes() -> int:
    """This process's peak resident memory so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
