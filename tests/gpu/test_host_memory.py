"""Freed memory is kept: taking it again costs no page faults, and no thread keeps some of its own."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import types
from pathlib import Path

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

# How many heaps four threads that all allocate leave, as malloc_info(3) lists them.
HEAPS = """
import ctypes, sys, threading
from gpu.host_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(4)
def allocate():
    together.wait()
    libc.malloc(1000)
threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
print(open(sys.argv[2]).read().count("<heap nr="))
"""

needs_glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")


def number_from(script: str, *arguments: object) -> int:
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@needs_glibc
def test_kept_memory_is_taken_again_without_page_faults() -> None:
    assert number_from(FAULTS, "keep") < 100


@needs_glibc
def test_threads_share_one_heap(tmp_path: Path) -> None:
    assert number_from(HEAPS, "leave", tmp_path / "left.xml") > 1
    assert number_from(HEAPS, "keep", tmp_path / "kept.xml") == 1


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda name: object())
    assert not host_memory.keep_freed_memory()


def test_every_setting_of_the_allocator_is_made(monkeypatch):
    made = {}
    libc = types.SimpleNamespace(mallopt=lambda name, value: made.update({name: value}) or 1)
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda name: libc)
    assert host_memory.keep_freed_memory()
    assert made == {-4: 0, -1: 2**31 - 1, -8: 1}
    libc.mallopt = lambda name, value: int(name != -8)
    assert not host_memory.keep_freed_memory()
