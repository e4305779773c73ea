"""A Slurm cluster of two virtual nodes on this machine, while a block runs. Needs root, slurm-wlm and munge.

python -m tests.cluster.slurm runs 24 initial times x 4 members on it through dask-jobqueue and through submitit, and compares
both stores with one process's, bit for bit.
"""

from __future__ import annotations

import json
import os
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


def main() -> None:
    """Run both ways and compare."""
    if lacking := missing():
        raise SystemExit(f"missing: {', '.join(lacking)}. As root: apt-get install slurm-wlm munge")
    result = {"machine": describe_machine(), "initial_times": 24, "members": 4}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        analysis = analysis_store(folder)
        stores = {
            "single_process": [],
            "dask_jobqueue": ["cluster=slurm", "workers.interface=lo", "workers.dashboard="],
            "submitit": ["cluster=slurm_array"],
        }
        with slurm(folder / "slurm") as variables:
            for name, settings in stores.items():
                queue = ["workers.memory=3GB", "workers.walltime=00:20:00"] if settings else []
                command = run_command(analysis, folder / name, "ensemble.members=4", *settings, *queue)
                begin = time.monotonic()
                done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, cwd=folder)
                sys.stdout.write(f"{name}: {done.returncode} {done.stdout.strip()} {done.stderr.strip()[-1500:]}\n")
                result[name] = {"seconds": round(time.monotonic() - begin, 1), "exit_code": done.returncode}
                result[name]["equals_single_process"] = contents(folder / name) == contents(folder / "single_process")
                result[name]["files"] = len(contents(folder / name))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "slurm.json").write_text(json.dumps(result, indent=2) + "\n")
    assert all(result[name]["equals_single_process"] and not result[name]["exit_code"] for name in stores)


if __name__ == "__main__":
    main()
