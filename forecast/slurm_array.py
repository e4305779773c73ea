"""A job's batches as a plain array of Slurm jobs, through submitit: no scheduler process, no network between the workers.

Each job of the array makes its share, a batch at a time. Before its walltime ends, and when it is preempted, Slurm signals it;
it publishes the batch that runs and goes back to the queue. A job that is killed without a signal leaves its share to the next
run with resume=true.

An array that still waits in the queue holds no lock. Its comment names the stores that it will fill, so that the queue itself
tells whoever comes next, from whichever folder, and forgets when the array ends.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from data_pipelines.locations import is_url, redacted
from data_pipelines.store import StoreError
from forecast.exits import StopRequest
from forecast.forecaster import ForecastError
from forecast.job_config import RunConfig
from forecast.lease import joined_lease, lease_folder
from forecast.output import missing_from
from forecast.spread import GRACE, Secretly, check_command, config_from, make_batch, plain, what_queue_said
from forecast.work import Batch

_log = logging.getLogger(__name__)

REQUEUES = 10_000  # a share that is longer than the walltime is requeued as often as it takes
POLL = 1.0  # seconds
ANSWERS = 60  # seconds in which the queue must answer
UNCONFIGURED = "Could not establish a configuration source"  # said by commands of Slurm on a machine that belongs to no cluster


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
        config = config_from(settings.text)
        with _signal_noted(signal.SIGUSR2) as (signalled, requeue), ExitStack() as leases:
            for path in config.cascades:
                leases.enter_context(joined_lease(path, lease_folder(config, path)))
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


def refuse_queued(config: RunConfig) -> None:
    """Refuse to fill stores that an array in the queue is still to fill. A machine without a queue has no such arrays.

    Raises
    ------
    StoreError
        If there is one.
    ForecastError
        If an array is to be submitted and the tools for it are not there, or the queue does not tell.
    """
    if config.cluster == "slurm_array":
        _check_tools(config.cluster)
    elif shutil.which("squeue") is None:
        return
    command = ["squeue", "--noheader", "--format=%F %T %k"]  # number of the job or array, state, comment
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=ANSWERS)
    except (OSError, subprocess.SubprocessError) as error:
        said = what_queue_said(getattr(error, "stderr", None) or str(error))
        if config.cluster == "slurm_array":
            raise ForecastError(
                f"Slurm does not tell which jobs are in its queue ({said}); run the same command when it answers."
            ) from error
        if UNCONFIGURED not in said:
            _log.warning("Slurm does not tell whether an array is still to fill %s (%s)", redacted(config.out), said)
        return
    queued = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    for path in config.cascades:
        for number, state, comment in (parts for parts in queued if len(parts) == 3):
            if _mark(path) in comment and state != "COMPLETING":
                raise StoreError(
                    f"{redacted(path)} is still to be filled by job {number} in Slurm's queue ({state.lower()}). Wait until it "
                    f"ends, end it by: scancel {number}, or choose another out=."
                )


def _mark(path: str) -> str:
    """What stands for a store in the comment of an array: its place can be secret, or hold what Slurm does not take."""
    place = path.rstrip("/") if is_url(path) else str(Path(path).resolve())
    return f"skysolve-{hashlib.sha256(place.encode()).hexdigest()[:16]}"


def run_array(
    config: RunConfig,
    batches: Sequence[Batch],
    folder: Path,
    advance: Callable[[int], object],
    stop: StopRequest,
    share: Callable[[str], object],
) -> int:
    """Submit an array and, with `workers.wait`, wait for its end; give how many forecasts were made.

    Parameters
    ----------
    share
        Called when the array is submitted with what to call it; shares the stores with it.

    Raises
    ------
    ForecastError
        If submitit or Slurm is not there, Slurm refuses the array, or a job of it failed.
    """
    if not batches:
        return 0
    wanted = sum(len(batch.wanted) for batch in batches)
    logging.getLogger("submitit").setLevel(logging.ERROR)  # it warns at every look where Slurm keeps no accounts
    jobs = _submit(config, batches, folder)
    share(f"job {jobs[0].job_id.split('_')[0]} of Slurm ({len(jobs)} worker{'s' * (len(jobs) > 1)})")
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


def _check_tools(cluster: str) -> None:
    """Check that what submits arrays is there."""
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise ForecastError(
            "cluster=slurm_array needs the package submitit; install it with: pip install 'skysolve[cluster]'."
        ) from error
    for command in ("sbatch", "srun", "squeue"):
        check_command(command, cluster)


def _submit(config: RunConfig, batches: Sequence[Batch], folder: Path) -> list[Any]:
    import submitit

    workers = config.workers
    executor = submitit.SlurmExecutor(Path(workers.logs or folder / "logs"), max_num_timeout=REQUEUES)
    directives = dict(_directive(line) for line in workers.directives)
    comment = [directives.pop("comment")] if "comment" in directives else []
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
        comment=",".join(map(str, comment + [_mark(path) for path in config.cascades])),
        additional_parameters=directives,
    )
    count = min(workers.number, len(batches))
    variable = f"SKYSOLVE_JOB_{uuid.uuid4().hex[:12]}"
    shares = [
        Share(variable, [plain(batch) for batch in batches[number::count]], str(folder.absolute())) for number in range(count)
    ]
    os.environ[variable] = json.dumps(asdict(config))  # sbatch hands it on; a file would keep what URLs hold
    try:
        with redirect_stderr(io.StringIO()), executor.batch():  # submitit prints what the exception holds too
            jobs = [executor.submit(share) for share in shares]
        return jobs
    except (submitit.core.utils.FailedJobError, OSError) as error:
        raise ForecastError(
            f"Slurm refused the array: {what_queue_said(str(error))}. Mend workers.queue, account, cores, memory, walltime or "
            "directives and run the same command with resume=true."
        ) from error
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
