"""What a run leaves beside its store: a manifest (who made what, with what, when) and a journal (every forecast).

Both lie in `<store>.runs/`, of a store at a URL in the current directory. Nothing in them holds a password of a URL.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data_pipelines.locations import beside, redacted

PACKAGES = ("torch", "numpy", "xarray", "zarr", "distributed", "dask-jobqueue", "submitit", "obstore")
JOB_VARIABLES = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "PBS_JOBID")


def runs_folder(out: str | Path, chosen: str = "") -> Path:
    """The folder of a store's manifests and journals."""
    return Path(chosen) if chosen else beside(out, ".runs")


class Manifest:
    """One JSON file per run, written when the run starts and again when it ends.

    Parameters
    ----------
    folder
        As from `runs_folder`.
    config
        Dataclass of the settings.
    facts
        What else to say: hashes of checkpoints and data, what is to be made.
    """

    def __init__(self, folder: Path, config: Any, facts: Mapping[str, Any]) -> None:
        self.path = folder / f"{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}-{uuid.uuid4().hex[:8]}.json"
        self._values: dict[str, Any] = {
            "config": asdict(config),
            **facts,
            "commit": _commit(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job": {name: os.environ[name] for name in JOB_VARIABLES if name in os.environ},
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "python": platform.python_version(),
            "versions": _versions(),
            "started": _now(),
            "outcome": "running",
        }
        self._write()

    def end(self, outcome: str, **facts: Any) -> None:
        """Note how the run ended."""
        self._values |= {"ended": _now(), "outcome": outcome, **facts}
        self._write()

    def end_if_possible(self, outcome: str, **facts: Any) -> None:
        """Note how the run ended; a disk that is full or read-only shall not hide why it did."""
        with suppress(OSError):
            self.end(outcome, **facts)

    def _write(self) -> None:
        text = json.dumps(without_secrets(self._values), indent=2, default=str)
        partial = self.path.with_suffix(".partial")
        partial.write_text(text + "\n")
        partial.replace(self.path)


class Journal:
    """Lines of JSON, one per event; each process has a file of its own, so that no file system mixes them up."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"journal-{socket.gethostname()}-{os.getpid()}.jsonl"

    def note(self, event: str, **facts: Any) -> None:
        """Append an event with the time (UTC, seconds since 1970)."""
        line = {"event": event, "at": datetime.now(UTC).timestamp(), **facts}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(without_secrets(line), default=str) + "\n")


def read_journals(folder: Path) -> list[dict[str, Any]]:
    """Every event of every run, by time. A line that a kill cut short is left out."""
    events = []
    for path in folder.glob("journal-*.jsonl"):
        for line in path.read_text().splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
    return sorted(events, key=lambda event: event["at"])


def without_secrets(value: Any) -> Any:
    """The same plain values with every URL redacted, however deep."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {without_secrets(key): without_secrets(item) for key, item in value.items()}
    return [without_secrets(item) for item in value] if isinstance(value, list | tuple) else value


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The commit of a checkout, with a mark where files differ from it; None for an installed package."""
    folder = Path(__file__).parents[1]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
