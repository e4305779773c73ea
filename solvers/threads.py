"""How many threads a solve may use."""

from __future__ import annotations

import os

from gpu.cores import usable_cores


def thread_count() -> int:
    """OMP_NUM_THREADS if it is set, else the cores that this process may run on."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else usable_cores()
