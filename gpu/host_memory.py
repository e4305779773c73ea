"""The C library's allocator, told to keep what is freed.

A network on the CPU frees and takes the same tens of megabytes at every layer. glibc hands such blocks back to the system
and fetches them again, a page fault for every 4 KiB: measured, half of the time of a roll-out of the shipped stages on two
cores (benchmarks/kept_memory.py).

Memory that is kept must not be kept twice. glibc gives threads heaps of their own, and each would hold on to the most that
its thread ever used: over 256 initial times a job grew from 297 to 350 MB, with one heap from 280 to 302 MB
(benchmarks/forecast_scaling.py).
"""

from __future__ import annotations

import ctypes

# malloc.h of glibc
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
M_ARENA_MAX = -8
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for the next use in this process, in one heap, for as long as the process lives.

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
    return all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, NEVER), mallopt(M_ARENA_MAX, 1)])
