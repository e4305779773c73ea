"""The C library's allocator, told to keep what is freed.

A network on the CPU frees and takes the same tens of megabytes at every layer. glibc hands such blocks back to the system
and fetches them again, a page fault for every 4 KiB: measured, half of the time of a roll-out of the shipped stages on two
cores (benchmarks/kept_memory.py).
"""

from __future__ import annotations

import ctypes

# malloc.h of glibc
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for the next use in this process, for as long as the process lives.

    Called by the entry points and by workers; a library call changes nothing. The process holds on to the most that it ever
    used.

    Returns
    -------
    bool
        Whether the allocator took the settings; False where the C library is another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
