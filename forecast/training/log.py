"""The log of a training, one JSON object per line, and its progress in the terminal."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 10  # steps


class Log:
    """Writes what a step or a validation says; silent on all ranks but the first."""

    def __init__(self, path: Path, steps: int, done: int, batch_size: int, silent: bool) -> None:
        self.path, self.silent, self.done, self.batch_size = path, silent, done, batch_size
        self.started = time.perf_counter()
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[speed]} samples/s"), TimeRemainingColumn(), disable=silent or steps < 2,
        )  # fmt: skip
        self.bar = self.progress.add_task("training", total=steps, completed=done, loss="", speed="")
        if not silent:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            drop_later(path, done)

    @contextmanager
    def shown(self) -> Iterator[Log]:
        """Show the progress meanwhile."""
        with self.progress:
            yield self

    def write(self, entry: dict[str, Any]) -> None:
        """Note an entry: all validations, and every tenth step."""
        if self.silent:
            return
        if "loss" not in entry or entry["step"] % EVERY == 0:
            with self.path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        if "loss" in entry:
            speed = (entry["step"] - self.done) * self.batch_size / (time.perf_counter() - self.started)
            self.progress.update(self.bar, completed=entry["step"], loss=f"{entry['loss']:.3f}", speed=f"{speed:.1f}")


def drop_later(path: Path, step: int) -> None:
    """Remove what was logged after `step` by a training that died: it is going to be done, and logged, again."""
    entries = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
    kept = path.with_suffix(".partial")
    kept.write_text("".join(line for line in entries if json.loads(line)["step"] <= step))
    os.replace(kept, path)
