"""Solve a stored CSR system by PETSc and say how long it took; for `poisson_peers.py`, in a Python that has petsc4py.

    python petsc_solve.py GIVEN.npz MADE.npz RTOL MAXITER [PETSc's options]

Needs nothing but petsc4py and NumPy. Prints one line of JSON.
"""

import json
import sys
import time

import numpy as np
import petsc4py


def main():
    given, made, rtol, maxiter, *options = sys.argv[1:]
    petsc4py.init(["petsc_solve", *options, "-ksp_type", "cg", "-ksp_norm_type", "unpreconditioned"])
    from petsc4py import PETSc

    with np.load(given) as file:
        arrays = {name: file[name] for name in file.files}
    start = time.perf_counter()
    n = arrays["start"].size - 1
    A = PETSc.Mat().createAIJ((n, n), csr=(arrays["start"], arrays["column"], arrays["value"]))
    A.setOption(PETSc.Mat.Option.SPD, True)
    ksp = PETSc.KSP().create()
    ksp.setOperators(A)
    ksp.setTolerances(rtol=float(rtol), atol=0.0, max_it=int(maxiter))
    ksp.setFromOptions()
    ksp.setUp()
    result, solutions = {"set_up_seconds": time.perf_counter() - start}, {}
    for key in (key for key in arrays if key.startswith("b_")):
        start = time.perf_counter()
        b, x = PETSc.Vec().createWithArray(arrays[key]), PETSc.Vec().createWithArray(np.zeros(n))
        ksp.solve(b, x)
        name = key[2:]
        result[name] = {
            "seconds": time.perf_counter() - start,
            "iterations": ksp.getIterationNumber(),
            "converged": ksp.getConvergedReason() > 0,
        }
        solutions[name] = x.getArray()
    np.savez(made, **solutions)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
