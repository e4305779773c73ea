"""Freed memory is kept: taking it again costs no page faults."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

import gpu.host_memory as host_memory

# In a process of its own: the setting lasts for the process. 8 MiB are 2048 pages of 4 KiB.
FAULTS = """
import resource, sys
import numpy as np
from gpu.host_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**23, "int8").sum()
before = faults()
for _ in range(10):
    np.ones(2**23, "int8").sum()
print(faults() - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_kept_memory_is_taken_again_without_page_faults() -> None:
    assert faults("keep") < 100


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda name: object())
    assert not host_memory.keep_freed_memory()
