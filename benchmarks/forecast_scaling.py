"""A forecast job on one worker and on two, and the memory of jobs of growing length.

    python -m benchmarks.forecast_scaling [scaling] [bare] [memory]

Scaling: 12 ten-day forecasts of the shipped cascade on the shipped sample, six batches of two, `cluster=dask threads=1`, with
one worker and with two, in turns. Timed are the whole command, and its work: from the first forecast that begins to the last
that is complete, by the job's journals. Between them lie imports, the start of the workers and their end.

Bare: what the cores allow. The same work without workers: one job in one process, then two at once that share nothing, each
with half of the initial times.

Memory: peak of a job's own (anonymous) pages, sampled while it runs alone, for lead times and numbers of initial times apart,
and in each quarter of the longest: freed memory is kept, so that a heap grows until its holes fit. Its buffer is a file, as for
large forecasts. Each part replaces its own in
`benchmarks/results/forecast_scaling.json`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine, store_result
from forecast.manifest import read_journals

RESULT = Path(__file__).parent / "results" / "forecast_scaling.json"
ROUNDS = 2
TEN_DAYS = ("lead=10d", "batch_size=2")
SCALED = ("start=2026-01-27T00", "end=2026-01-29T18", *TEN_DAYS, "cluster=dask", "workers.dashboard=")
ALL = ("start=2026-01-27T00", "end=2026-01-28T18")
HALVES = (("start=2026-01-27T00", "end=2026-01-27T18"), ("start=2026-01-28T00", "end=2026-01-28T18"))
LEADS = {"1d": 1, "10d": 10, "20d": 20}
TIMES = {"2025-12-02T06": 2, "2025-12-03T18": 8, "2025-12-09T18": 32, "2026-01-02T18": 128, "2026-02-03T18": 256}


def command(analysis: Path, out: Path, *settings: str) -> list[str]:
    """A job in float32 on one thread per process."""
    common = ("every=6h", "precision=fp32", "threads=1", "device=cpu", "progress=false")
    return [sys.executable, "-m", "forecast.run", f"analysis={analysis}", f"out={out}", *common, *settings]


def environment() -> dict[str, str]:
    """One thread, also for what torch does not count."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}


def time_job(analysis: Path, folder: Path, workers: int) -> dict[str, float]:
    """Seconds of the command and of its work."""
    out = folder / f"{workers}-{time.monotonic_ns()}.zarr"
    begin = time.monotonic()
    subprocess.run(
        command(analysis, out, *SCALED, f"workers.number={workers}"), env=environment(), check=True, capture_output=True
    )
    seconds = time.monotonic() - begin
    return {"command": round(seconds, 2), "work": seconds_of_work(out)}


def seconds_of_work(out: Path) -> float:
    """From the first forecast that a job began to the last that it completed."""
    at = [event["at"] for event in read_journals(out.with_name(out.name + ".runs"))]
    return round(at[-1] - at[0], 2)


def peak_of_job(analysis: Path, folder: Path, *settings: str) -> float:
    """Peak of anonymous memory [MB] of a job in one process."""
    return max(peaks_of_job(analysis, folder, *settings))


def peaks_of_job(analysis: Path, folder: Path, *settings: str) -> list[float]:
    """Peak of anonymous memory [MB] in each quarter of the time that a job in one process takes."""
    out, held = folder / f"memory-{time.monotonic_ns()}.zarr", []
    with subprocess.Popen(
        command(analysis, out, "buffer_gigabytes=0", *settings), env=environment(), stdout=subprocess.DEVNULL
    ) as job:
        while job.poll() is None:
            held.append(anonymous_kilobytes(job.pid))
            time.sleep(0.02)
    if job.returncode:
        raise SystemExit(f"a job ended with {job.returncode}")
    return [round(max(quarter) / 1e3, 1) for quarter in np.array_split(held, 4)]


def anonymous_kilobytes(pid: int) -> int:
    """What a process holds that no file backs; 0 for one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def scaling(analysis: Path, folder: Path) -> dict[str, Any]:
    """Rounds of one worker and of two, and how many times faster two are, by medians."""
    rounds = [{str(workers): time_job(analysis, folder, workers) for workers in (1, 2)} for _ in range(ROUNDS)]
    median = {
        kind: [statistics.median(one[workers][kind] for one in rounds) for workers in ("1", "2")]
        for kind in ("command", "work")
    }
    return {
        "rounds": rounds,
        "speed_up_of_the_work": round(median["work"][0] / median["work"][1], 3),
        "speed_up_of_the_command": round(median["command"][0] / median["command"][1], 3),
    }


def bare(analysis: Path, folder: Path) -> dict[str, Any]:
    """Seconds of work of one process, and of two at once that each do half."""
    alone = max(seconds_of_jobs(analysis, folder, [ALL]))
    halves = seconds_of_jobs(analysis, folder, HALVES)
    return {"one": alone, "halves_at_once": halves, "speed_up": round(alone / max(halves), 3)}


def seconds_of_jobs(analysis: Path, folder: Path, spans: Sequence[Sequence[str]]) -> list[float]:
    """Run jobs in one process each, all at once."""
    outs = [folder / f"bare-{number}-{time.monotonic_ns()}.zarr" for number in range(len(spans))]
    jobs = [
        subprocess.Popen(command(analysis, out, *span, *TEN_DAYS), env=environment(), stdout=subprocess.DEVNULL)
        for out, span in zip(outs, spans, strict=True)
    ]
    codes = [job.wait() for job in jobs]
    if any(codes):
        raise SystemExit("a job failed; see above")
    return [seconds_of_work(out) for out in outs]


def memory(analysis: Path, folder: Path) -> dict[str, Any]:
    """Peaks [MB] by lead time [days] at two initial times, and by initial times at a lead of one day."""
    short = ("start=2025-12-02T00", "batch_size=2", "cascade=[6h:first,20d:short]")
    two = f"end={next(iter(TIMES))}"
    return {
        "peak_MB_by_lead_days": {
            days: peak_of_job(analysis, folder, *short, two, f"lead={lead}") for lead, days in LEADS.items()
        },
        "peak_MB_by_initial_times": {
            count: peak_of_job(analysis, folder, *short, f"end={end}", "lead=1d") for end, count in TIMES.items()
        },
        "peak_MB_in_quarters_of_the_longest": peaks_of_job(analysis, folder, *short, f"end={list(TIMES)[-1]}", "lead=1d"),
    }


def main() -> None:
    parts = {"scaling": scaling, "bare": bare, "memory": memory}
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {"what": __doc__.splitlines()[0]}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        analysis = folder / "analysis.zarr"
        build = [sys.executable, "-m", "data_pipelines.build_store", "source=sample", f"out={analysis}"]
        subprocess.run(build, env=environment(), check=True, capture_output=True)
        for name in sys.argv[1:] or parts:
            result[name] = {"machine": describe_machine(), **parts[name](analysis, folder)}
    store_result(RESULT, result)


if __name__ == "__main__":
    main()
