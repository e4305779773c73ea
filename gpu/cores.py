"""How many processors this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Processors that the scheduler lets this process run on (taskset, cgroups' cpusets, Slurm); all where it does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
