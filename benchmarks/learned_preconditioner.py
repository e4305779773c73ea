"""The learned cycle against multigrid and every peer that is installed: set-up and solve, in one run.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.learned_preconditioner

Times and residuals are those of `poisson.py`, of the smooth right-hand side to 1e-6. All scenes at 64 cells a side; two at 128,
where the peers take half a minute each. Training saw sides of up to 32 cells and none of the scenes. Writes
`benchmarks/results/learned_preconditioner.json`.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import poisson_peers
from benchmarks.machine import describe_machine, store_result
from benchmarks.poisson import PEERS, RTOL, measure
from benchmarks.poisson_scenes import SCENES, right_hand_sides
from solvers.threads import thread_count

RESULT = Path(__file__).parent / "results" / "learned_preconditioner.json"
SIZES = {64: tuple(SCENES), 128: ("sphere", "splash")}


def main() -> None:
    """Measure, print, store."""
    if thread_count() != 1:
        raise SystemExit("measured on one thread: set OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1.")
    machine, installed = describe_machine(), poisson_peers.versions()
    machine["versions"] |= installed
    kinds, rows = ("multigrid", "learned", *(kind for kind in PEERS if kind in installed)), []
    for n, scenes in SIZES.items():
        rhs = {"smooth": right_hand_sides(n)["smooth"]}
        for scene in scenes:
            cells, boundary = SCENES[scene](n)
            for kind in kinds:
                rows.append({"n": n, "scene": scene, "kind": kind, **measure(kind, cells, boundary, rhs)})
                print(rows[-1], flush=True)
    missing = sorted(set(PEERS) - set(installed))
    store_result(RESULT, {"machine": machine, "threads": 1, "rtol": RTOL, "not_installed": missing, "rows": rows})


if __name__ == "__main__":
    main()
