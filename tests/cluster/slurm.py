"""A Slurm cluster of two virtual nodes on this machine, while a block runs. Needs root, slurm-wlm and munge.

python -m tests.cluster.slurm runs 24 initial times x 4 members on it through dask-jobqueue and through submitit, and compares
both stores with one process's, bit for bit; then an array that is left to itself, whose store a second array and a job of this
machine are refused; and partitions that are not there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.machine import describe_machine
from tests.cluster.jobs import RESULTS, analysis_store, contents, environment, run_command

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldPort=17000
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=200000
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/none
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[17001-17002] CPUs=1 RealMemory=8000 State=UNKNOWN
PartitionName=debug Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """What a cluster needs and this machine lacks."""
    return [name for name in NEEDED if shutil.which(name) is None] + ([] if os.geteuid() == 0 else ["root"])


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start a cluster; give the environment in which its commands work."""
    for name in ("state", "spool.n1", "spool.n2"):
        (folder / name).mkdir(parents=True)
    path = folder / "slurm.conf"
    path.write_text(CONFIGURATION.format(host=socket.gethostname(), folder=folder))
    variables = environment(SLURM_CONF=str(path))

    def run(*command: str) -> str:
        return subprocess.run(command, env=variables, check=True, capture_output=True, text=True).stdout

    run("install", "-d", "-o", "munge", "-g", "munge", "/run/munge")
    ours = subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode != 0
    if ours:
        run("runuser", "-u", "munge", "--", "munged", "--force", f"--pid-file=/run/munge/test-{os.getpid()}.pid")
    try:
        run("slurmctld")
        for node in ("n1", "n2"):
            run("slurmd", "-N", node)
        for _ in range(100):
            if run("sinfo", "-h", "-o", "%t").split() == ["idle"]:
                break
            time.sleep(0.2)
        yield variables
    finally:
        subprocess.run(["scontrol", "shutdown"], env=variables, check=False, capture_output=True)
        if ours:
            os.kill(int(Path(f"/run/munge/test-{os.getpid()}.pid").read_text()), signal.SIGTERM)
        time.sleep(2)


def run_job(variables: dict[str, str], analysis: Path, out: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """Run the job of 24 initial times x 4 members and show how it ended."""
    queue = ["workers.memory=3GB", "workers.walltime=00:20:00"] if settings and "cluster=local" not in settings else []
    command = run_command(analysis, out, "ensemble.members=4", *settings, *queue)
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, cwd=out.parent)
    sys.stdout.write(
        f"{out.name} {' '.join(settings)}: {done.returncode} {done.stdout.strip()} {done.stderr.strip()[-1500:]}\n"
    )
    return done


def equal(folder: Path, name: str) -> bool:
    """Whether a store holds the bytes of one process's."""
    return contents(folder / name) == contents(folder / "single_process")


def left_to_itself(variables: dict[str, str], analysis: Path, folder: Path) -> dict[str, object]:
    """Submit an array, try to fill its store by others while it waits in the queue and while it runs, and wait for its end."""
    out, alone = folder / "left_to_itself", "workers.wait=false"

    def slurm_says(*command: str) -> str:
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout.strip()

    def another(*settings: str) -> dict[str, object]:
        job = run_job(variables, analysis, out, *settings, "resume=true")
        return {"said": last_line(job), "refused": job.returncode == 2 and "filled by" in job.stderr}

    slurm_says("scontrol", "update", "partitionname=debug", "state=down")  # jobs wait
    submitted = run_job(variables, analysis, out, "cluster=slurm_array", alone)
    others = {
        "array_while_it_waits": another("cluster=slurm_array", alone),
        "this_machine_while_it_waits": another("cluster=local"),
    }
    slurm_says("scontrol", "update", "partitionname=debug", "state=up")
    while "RUNNING" not in slurm_says("squeue", "-h", "-o", "%T"):
        time.sleep(0.2)
    others["this_machine_while_it_runs"] = another("cluster=local")
    while slurm_says("squeue", "-h"):
        time.sleep(1)
    return {
        "exit_code": submitted.returncode,
        "others": others,
        "equals_single_process": equal(folder, out.name),
    }


def wrong_partition(variables: dict[str, str], analysis: Path, folder: Path, cluster: str) -> dict[str, object]:
    """Ask for a partition that is not there."""
    settings = [f"cluster={cluster}", "workers.queue=nowhere"]
    job = run_job(variables, analysis, folder / f"nowhere_{cluster}", *settings)
    told = job.returncode == 2 and "invalid partition specified: nowhere" in job.stderr and "Traceback" not in job.stderr
    return {"said": last_line(job), "told_in_one_line": told and len(job.stderr.strip().splitlines()) == 1}


def last_line(job: subprocess.CompletedProcess[str]) -> str:
    """What a command said last, without the places of this machine."""
    return re.sub(r"/\S*/", "", (job.stderr.strip() or job.stdout.strip()).splitlines()[-1])


def main() -> None:
    """Run all of it and compare."""
    if lacking := missing():
        raise SystemExit(f"missing: {', '.join(lacking)}. As root: apt-get install slurm-wlm munge")
    result = {"machine": describe_machine(), "initial_times": 24, "members": 4}
    stores = {
        "single_process": [],
        "dask_jobqueue": ["cluster=slurm", "workers.interface=lo", "workers.dashboard="],
        "submitit": ["cluster=slurm_array"],
    }
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        analysis = analysis_store(folder)
        with slurm(folder / "slurm") as variables:
            for name, settings in stores.items():
                begin = time.monotonic()
                done = run_job(variables, analysis, folder / name, *settings)
                result[name] = {"seconds": round(time.monotonic() - begin, 1), "exit_code": done.returncode}
                result[name] |= {"equals_single_process": equal(folder, name), "files": len(contents(folder / name))}
            result["left_to_itself"] = left_to_itself(variables, analysis, folder)
            result["wrong_partition"] = {
                name: wrong_partition(variables, analysis, folder, name) for name in ("slurm", "slurm_array")
            }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "slurm.json").write_text(json.dumps(result, indent=2) + "\n")
    alone = result["left_to_itself"]
    assert all(result[name]["equals_single_process"] and not result[name]["exit_code"] for name in [*stores, "left_to_itself"])
    assert all(another["refused"] for another in alone["others"].values())
    assert all(said["told_in_one_line"] for said in result["wrong_partition"].values())


if __name__ == "__main__":
    main()
