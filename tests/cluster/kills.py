"""A hundred SIGKILLs at random moments, of workers and drivers, while a reader looks on: python -m tests.cluster.kills [COUNT].

Jobs of 24 initial times x 2 members run on two dask workers until the kills are spent, each resumed to its end.
Checked: every store equals that of one uninterrupted process bit for bit; nothing begins anew once it is marked; whatever a
reader finds marked at any moment has the right bits.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

from benchmarks.machine import describe_machine
from forecast.exits import UNFINISHED
from forecast.manifest import read_journals
from tests.cluster.jobs import RESULTS, analysis_store, contents, environment, run_command

FOUND = ("kills_of_workers", "kills_of_drivers", "stores", "looks", "torn", "begun_after_mark", "differ")
SETTINGS = ("batch_size=1", "resume=true", "cluster=dask", "workers.dashboard=", "ensemble.members=2")


def main(kills: int) -> None:
    """Run until the kills are spent and the last store is complete; store what was found."""
    begin, rng = time.monotonic(), random.Random(0)
    found = dict.fromkeys(FOUND, 0)
    with tempfile.TemporaryDirectory() as folder:
        analysis = analysis_store(Path(folder))
        whole = Path(folder) / "whole.zarr"
        command = run_command(analysis, whole, "batch_size=1", "ensemble.members=2")
        subprocess.run(command, env=environment(), check=True, capture_output=True)
        wanted = contents(whole)
        while found["kills_of_workers"] + found["kills_of_drivers"] < kills:
            out = Path(folder) / f"killed{found['stores']}.zarr"
            with Reader(out, wanted) as reader:
                while not drive(run_command(analysis, out, *SETTINGS), found, kills, rng):
                    pass
            found["stores"] += 1
            found["looks"] += reader.looks
            found["torn"] += reader.torn
            found["differ"] += contents(out) != wanted
            found["begun_after_mark"] += begun_after_mark(out)
            sys.stdout.write(f"{found}\n")
            sys.stdout.flush()
    result = {"machine": describe_machine(), "seconds": round(time.monotonic() - begin), "forecasts_per_store": 48, **found}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "kills.json").write_text(json.dumps(result, indent=2) + "\n")
    assert not any(found[name] for name in ("torn", "begun_after_mark", "differ"))


def drive(command: list[str], found: dict[str, int], kills: int, rng: random.Random) -> bool:
    """Run a driver and kill at random; say whether it completed its store."""
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as driver:
        while driver.poll() is None:
            try:
                driver.wait(rng.uniform(0.2, 4.0))
            except subprocess.TimeoutExpired:
                if found["kills_of_workers"] + found["kills_of_drivers"] < kills:
                    kill_one(driver.pid, found, rng)
        if driver.returncode not in (0, UNFINISHED, -signal.SIGKILL):
            raise SystemExit(f"a driver ended with {driver.returncode}: {driver.stderr.read().decode()[-2000:]}")
        return driver.returncode == 0


def kill_one(driver: int, found: dict[str, int], rng: random.Random) -> None:
    """Kill a worker mostly, the driver now and then: a job whose driver always dies young never has workers."""
    workers = [pid for pid in children(driver) if b"spawn_main" in command_line(pid)]
    draw = rng.random()
    if workers and draw < 0.8:
        victim, key = rng.choice(workers), "kills_of_workers"
    elif draw > 0.9:
        victim, key = driver, "kills_of_drivers"
    else:
        return
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return
    found[key] += 1


def children(pid: int) -> list[int]:
    """Processes that any thread of a process started."""
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(text) for found in lists for text in found.split()]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def begun_after_mark(store: Path) -> int:
    """How many forecasts a process began although they were marked complete when it looked."""
    count = 0
    for event in read_journals(store.with_name(store.name + ".runs")):
        if event["event"] == "started":
            hours = (datetime.fromisoformat(event["initial_time"] + ":00") - datetime(2026, 1, 27)).total_seconds() / 3600
            mark = store / "complete" / "c" / str(int(hours // 6)) / str(event["member"])
            count += event["at"] > mark.stat().st_mtime
    return count


class Reader:
    """Looks at a store over and over: what is marked must be there, with the right bits."""

    def __init__(self, store: Path, wanted: dict[str, str]) -> None:
        self.store, self.wanted = store, wanted
        self.looks = self.torn = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(0.5):
            marked = {path.relative_to(self.store / "complete" / "c") for path in self.store.glob("complete/c/*/*")}
            there = contents(self.store)
            for name, digest in self.wanted.items():
                variable, _, *place = name.split("/")
                if Path(*place[:2]) in marked and variable not in ("complete",) and len(place) > 2:
                    self.torn += there.get(name) != digest
            self.looks += 1


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
