"""Poisson's CUDA source without a GPU: it compiles, its threads compute what the CPU build does, CuPy goes in and comes out."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from gpu import backend, poisson_on_gpu
from gpu.poisson import HostLevel, _function
from solvers import PoissonProblem, conjugate_directions, preconditioner, project, solve, solve_with_info
from solvers.preconditioners import best_kind
from solvers.preconditioners.multigrid import Multigrid
from tests.helpers.cuda_source import POISSON, cubin, emulate_poisson, nvrtc
from tests.helpers.cupy_stand_in import dressed, ndarray, stand_in
from tests.solvers.geometries import BOUNDARIES, random_problem

SHAPES = [((9, 12, 10), False), ((17, 20), True), ((16, 16, 16), True), ((40, 3, 5), False), ((2, 2, 3), False)]


@pytest.fixture(scope="module")
def emulated_poisson(tmp_path_factory):
    return emulate_poisson(tmp_path_factory.mktemp("poisson"))


@pytest.fixture
def launches(monkeypatch, emulated_poisson):
    """A stand-in for CuPy; the names of the kernels so far."""
    made: list[str] = []
    fake = stand_in(emulated_poisson, made)
    monkeypatch.setattr(backend, "cupy", lambda: fake)
    monkeypatch.setattr(poisson_on_gpu, "cupy", lambda: fake)
    for cached in (backend.raw_kernel, backend._raw_module):
        cached.cache_clear()
    yield made
    for cached in (backend.raw_kernel, backend._raw_module):
        cached.cache_clear()


def on_gpu(problem):
    """The same problem on CuPy arrays."""
    fractions, coefficients = (
        None if given is None else [dressed(a) for a in given] for given in (problem.fractions, problem.coefficients)
    )
    return PoissonProblem(
        dressed(problem.cells), problem.spacing, boundary=problem.sides, fractions=fractions, coefficients=coefficients
    )


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_every_kernel_compiles_to_a_cubin(architecture):
    compiler = nvrtc()
    if compiler is None:
        pytest.skip("needs NVRTC: pip install nvidia-cuda-nvrtc")
    binary = cubin(compiler, poisson_on_gpu.SOURCE, architecture, poisson_on_gpu.OPTIONS)
    assert binary[:4] == b"\x7fELF"
    assert all(f"poisson_{name}".encode() in binary for name in POISSON)


def test_a_level_has_one_layout_in_python_and_cpp():
    size = _function("level_bytes")
    size.restype = ctypes.c_int64
    assert size() == ctypes.sizeof(HostLevel)
    hierarchy = Multigrid(random_problem(1, (9, 12, 12), "mixed")).hierarchy
    level, values = hierarchy.level(0)
    assert (list(level.n), list(level.periodic), values) == ([9, 12, 12], [0, 0, 1], (9 + 2) * level.plane)
    assert (level.over, level.half, level.row) == (1.0, 6, 2 * level.pitch)
    assert hierarchy.level(1)[0].over == np.float32(1.15)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("shape", "faces"), SHAPES)
def test_cycle_and_operator_are_those_of_the_cpu_build(launches, boundary, shape, faces):
    """Odd, periodic, stored faces, two dimensions: every branch of every kernel; float sums come in another order."""
    problem = random_problem(2, shape, boundary, faces)
    there = on_gpu(problem)
    r = np.random.default_rng(0).standard_normal(problem.n)
    z, Ax = preconditioner(there, "multigrid") @ dressed(r), there.operator() @ dressed(r)
    assert type(z) is type(Ax) is ndarray
    want = preconditioner(problem, "multigrid") @ r
    np.testing.assert_allclose(z.get(), want, atol=3e-6 * np.abs(want).max())
    np.testing.assert_allclose(Ax.get(), problem.matrix() @ r, atol=1e-11)
    assert {"poisson_apply", "poisson_bottom"} <= set(launches)
    assert ("poisson_wrap" in launches) == (boundary == "periodic" or (boundary == "mixed" and len(shape) == 3))


def test_conjugate_directions_and_solve_keep_to_cupy(launches):
    problem = random_problem(5, (20, 18, 16), boundary="tank")
    there = on_gpu(problem)
    b = problem.compatible(np.random.default_rng(1).standard_normal(problem.n))
    x, info = conjugate_directions(there.operator(), dressed(b), M=preconditioner(there, "multigrid"), rtol=1e-8)
    assert type(x) is ndarray
    assert info.converged
    assert np.linalg.norm(b - problem.matrix() @ x.get()) <= 1.0001e-8 * np.linalg.norm(b)
    assert "poisson_prolong" in launches
    p, (again,) = solve_with_info(there, there.to_grid(dressed(b)), rtol=1e-8)
    _, (on_cpu,) = solve_with_info(problem, problem.to_grid(b), rtol=1e-8)
    assert type(p) is ndarray
    assert abs(again.iterations - on_cpu.iterations) <= 1
    np.testing.assert_allclose(problem.to_vector(p.get()), solve_vector(problem, b), atol=1e-6 * np.abs(p.get()).max())


def solve_vector(problem, b):
    return problem.to_vector(solve(problem, problem.to_grid(b), rtol=1e-8))


@pytest.mark.parametrize("kind", ["jacobi", "fast-transform"])
def test_other_kinds_and_a_projection_keep_to_cupy(launches, kind):
    problem = random_problem(6, (8, 9, 10), boundary="tank")
    there = on_gpu(problem)
    rng = np.random.default_rng(0)
    velocities = [dressed(rng.standard_normal(is_open.shape) * is_open) for is_open in problem.open]
    projected, p = project(there, velocities, rtol=1e-9, M=kind)
    assert type(p) is type(projected[2]) is ndarray
    before, after = (np.linalg.norm(problem.divergence([a.get() for a in field])) for field in (velocities, projected))
    assert after < 1e-8 * before


def test_auto_on_cupy_is_the_transform_where_it_is_exact(launches):
    box = PoissonProblem(dressed(np.zeros((6, 5, 8), np.uint8)), boundary="dirichlet")
    assert best_kind(box) == "fast-transform"
    assert best_kind(on_gpu(random_problem(1))) == "multigrid"


@pytest.mark.gpu
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("shape", "faces"), SHAPES)
def test_gpu_agrees_with_the_cpu_build(boundary, shape, faces):
    cp = pytest.importorskip("cupy", reason="needs CuPy: pip install 'skysolve[gpu-cuda13]'")
    problem = random_problem(2, shape, boundary, faces)
    given = [
        None if arrays is None else [cp.asarray(a) for a in arrays] for arrays in (problem.fractions, problem.coefficients)
    ]
    there = PoissonProblem(
        cp.asarray(problem.cells), problem.spacing, boundary=problem.sides, fractions=given[0], coefficients=given[1]
    )
    r = np.random.default_rng(0).standard_normal(problem.n)
    want = preconditioner(problem, "multigrid") @ r
    got = preconditioner(there, "multigrid") @ cp.asarray(r)
    np.testing.assert_allclose(cp.asnumpy(got), want, atol=1e-5 * np.abs(want).max())
    np.testing.assert_allclose(cp.asnumpy(there.operator() @ cp.asarray(r)), problem.matrix() @ r, atol=1e-11)
