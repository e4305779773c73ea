"""One count of processors, which all threads of the package follow."""

import os

from gpu import log_bessel
from gpu.cores import usable_cores
from solvers.threads import thread_count


def test_a_process_bound_to_one_processor_uses_one(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert usable_cores() == thread_count() == log_bessel._threads_at_first({}.get) == 1


def test_where_the_system_does_not_say_all_processors_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert usable_cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1
