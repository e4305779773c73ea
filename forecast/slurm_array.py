"""A job's batches as a plain array of Slurm jobs, through submitit: no scheduler process, no network between the workers.

Each job of the array makes its share, a batch at a time. Before its walltime ends, and when it is preempted, Slurm signals it;
it publishes the batch that runs and goes back to the queue. A job that is killed without a signal leaves its share to the next
run with resume=true.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from forecast.exits import StopRequest
from forecast.forecaster import ForecastError
from forecast.job_config import RunConfig
from forecast.output import missing_from
from forecast.spread import GRACE, Secretly, make_batch, plain
from forecast.work import Batch

REQUEUES = 10_000  # a share that is longer than the walltime is requeued as often as it takes
POLL = 1.0  # seconds


class Share:
    """What one job of the array makes. submitit stores it in a file; the settings travel in the environment instead.

    Parameters
    ----------
    variable
        Environment variable that holds the settings as JSON.
    batches
        As `spread.plain` gives them.
    folder
        Of the journals.
    """

    def __init__(self, variable: str, batches: list[Any], folder: str) -> None:
        self.variable, self.batches, self.folder = variable, batches, folder

    def __call__(self) -> int:
        """Make the share; give how many forecasts this process made."""
        settings, made = Secretly(os.environ[self.variable]), 0
        with _signal_noted(signal.SIGUSR2) as (signalled, requeue):
            for batch in self.batches:
                if signalled:
                    requeue()
                made += make_batch(settings, batch, self.folder)
        return made

    def checkpoint(self, *_: Any) -> Any:
        """Say what submitit shall queue again: the same share, whose complete forecasts are passed over."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


@contextmanager
def _signal_noted(number: signal.Signals) -> Iterator[tuple[list[int], Callable[[], None]]]:
    """Put off what submitit does on its signal until a batch is published."""
    submitits: Any = signal.getsignal(number)
    signalled: list[int] = []

    def note(received: int, frame: FrameType | None) -> None:
        signalled.append(received)

    signal.signal(number, note)
    try:
        yield signalled, lambda: submitits(number, None)
    finally:
        signal.signal(number, submitits)


def run_array(
    config: RunConfig, batches: Sequence[Batch], folder: Path, advance: Callable[[int], object], stop: StopRequest
) -> int:
    """Submit an array and, with `workers.wait`, wait for its end; give how many forecasts were made.

    Raises
    ------
    ForecastError
        If submitit or Slurm is not there, or a job of the array failed.
    """
    if not batches:
        return 0
    wanted = sum(len(batch.wanted) for batch in batches)
    jobs = _submit(config, batches, folder)
    if not config.workers.wait:
        return 0
    made = 0
    while not all(job.done() for job in jobs):
        if stop:
            _cancel(jobs)
            break
        now = wanted - len(missing_from(config.cascades))
        advance(now - made)
        made = now
        time.sleep(POLL)
    made_now = wanted - len(missing_from(config.cascades))
    advance(made_now - made)
    if not stop:
        for job in jobs:
            if (error := job.exception()) is not None:
                raise ForecastError(
                    f"job {job.job_id} of the array failed ({str(error).strip().splitlines()[-1]}); its log is "
                    f"{job.paths.stderr}. What is complete is kept: run the same command with resume=true."
                )
    return made_now


def _submit(config: RunConfig, batches: Sequence[Batch], folder: Path) -> list[Any]:
    try:
        import submitit
    except ImportError as error:
        raise ForecastError(
            "cluster=slurm_array needs the package submitit; install it with: pip install 'skysolve[cluster]'."
        ) from error
    workers = config.workers
    logs = Path(workers.logs or folder / "logs")
    try:
        executor = submitit.SlurmExecutor(logs, max_num_timeout=REQUEUES)
    except RuntimeError as error:
        raise ForecastError("cluster=slurm_array needs Slurm's command sbatch; it was not found on this machine.") from error
    directives = dict(_directive(line) for line in workers.directives)
    executor.update_parameters(
        job_name="skysolve",
        time=-(-workers.walltime_seconds // 60),
        mem=workers.memory,
        cpus_per_task=workers.cores,
        array_parallelism=workers.number,
        signal_delay_s=GRACE,
        setup=workers.setup or None,
        partition=workers.queue or None,
        account=workers.account or None,
        additional_parameters=directives,
    )
    count = min(workers.number, len(batches))
    variable = f"SKYSOLVE_JOB_{uuid.uuid4().hex[:12]}"
    shares = [
        Share(variable, [plain(batch) for batch in batches[number::count]], str(folder.absolute())) for number in range(count)
    ]
    os.environ[variable] = json.dumps(asdict(config))  # sbatch hands it on; a file would keep what URLs hold
    try:
        with executor.batch():
            return [executor.submit(share) for share in shares]
    finally:
        del os.environ[variable]


def _directive(line: str) -> tuple[str, str | int | bool]:
    """Read "--gres=gpu:1" as submitit wants it."""
    name, equals, value = line.removeprefix("--").partition("=")
    if not name or not line.startswith("--"):
        raise ForecastError(f"workers.directives must be like --gres=gpu:1; got {line!r}.")
    return name, value if equals else True


def _cancel(jobs: Sequence[Any]) -> None:
    """End the array; a batch that runs is lost, what is complete is kept."""
    for job in jobs:
        if not job.done():
            job.cancel()
