"""The CUDA source compiles for the GPUs of today, and its thread blocks compute what the CPU build computes."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from gpu import log_iv, log_kv
from gpu.array_functions import FUNCTIONS, on_numpy
from gpu.backend import TILE
from tests.gpu.conftest import SINGLE
from tests.gpu.test_log_bessel import BOUND, GOLDEN
from tests.helpers.bessel_reference import error
from tests.helpers.cuda_source import cubin, entries, nvrtc, run_emulated


@pytest.fixture(scope="module")
def compiler():
    library = nvrtc()
    if library is None:
        pytest.skip("needs NVRTC: pip install nvidia-cuda-nvrtc")
    return library


def arguments(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """All regimes within each tile, remote and refused arguments among them; `count` is no multiple of a tile or a warp."""
    v, x = 10 ** rng.uniform(-3, 6, count), 10 ** rng.uniform(-6, 6, count)
    v[: count // 2], x[: count // 2] = rng.uniform(0, 25, count // 2), rng.uniform(0, 25, count // 2)
    order = rng.permutation(count)
    v, x = v[order], x[order]
    v[:6], x[:6] = [0, -1, np.nan, 3, 1e12, 2], [1, 1, 1, np.inf, 1e-300, 0]
    return v, x


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_every_kernel_compiles_to_a_cubin(compiler, architecture):
    source = "\n".join(entries().values())
    binary = cubin(compiler, source, architecture)
    assert binary[:4] == b"\x7fELF"
    assert all(entry.encode() in binary for entry in entries())


def test_a_broken_source_is_no_cubin(compiler):
    with pytest.raises(RuntimeError, match="undefined"):
        cubin(compiler, '#include "log_bessel_kernels.cuh"\nSKYSOLVE_EACH(broken, 1, double, undefined_function)\n', "sm_90")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_thread_blocks_agree_with_the_cpu_build(emulated, name):
    """One source: what sorting by regime in shared memory loses, doubles or misplaces shows as another value."""
    v, x = arguments(np.random.default_rng(7), 3001)
    if name == "ratio_inverse":
        x = np.where(np.isfinite(x), 1 / (1 + x), 2.0)
    got = run_emulated(emulated, name, v, x)
    want = np.atleast_2d(on_numpy(name, v, x))
    # Rounding differs between fused and plain operations; second derivatives of fits carry the most of it.
    tolerance = 1e-9 if name.endswith("derivatives") else 1e-15 if name != "ratio_inverse" else 1e-12
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SINGLE)
def test_single_precision_blocks_round_the_double_result(emulated, name):
    v, x = (array.astype(np.float32) for array in arguments(np.random.default_rng(8), 1500))
    got, want = run_emulated(emulated, name, v, x)[0], on_numpy(name, v, x)
    np.testing.assert_array_max_ulp(got[6:], want[6:], maxulp=1)


def test_slots_of_each_regime_start_at_a_warp_and_none_is_wasted(emulated):
    """What a wrong count would cost shows on no value: warps that run two regimes, or slots beyond those that there are."""
    regimes, room, warp = (emulated.sizes(k) for k in range(3))
    rng = np.random.default_rng(10)
    for share in (0.02, 0.3, 1.0):
        for _ in range(50):
            weights = np.where(rng.random(regimes) < share, rng.random(regimes), 0) + 1e-9
            count = rng.multinomial(TILE, weights / weights.sum()).astype(np.int32)
            start = np.full(regimes, -1, np.int32)
            end = emulated.lay_out(count.ctypes.data_as(ctypes.c_void_p), start.ctypes.data_as(ctypes.c_void_p))
            warps = -(-count // warp)
            np.testing.assert_array_equal(start, warp * np.concatenate([[0], np.cumsum(warps)[:-1]]))
            assert end == warp * warps.sum() <= room


def test_every_argument_is_computed_once_and_as_its_own_regime(emulated):
    regimes, rng = emulated.sizes(0), np.random.default_rng(11)
    for n in (1, 31, TILE - 1, TILE, 3 * TILE + 77):
        v, x = rng.integers(0, regimes, n).astype(float), np.arange(n, dtype=float)
        out, calls = np.full(n, -1.0), np.zeros(n, np.int32)
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (v, x, out, calls)]
        emulated.run_counted(*pointers[:3], ctypes.c_int64(n), pointers[3])
        np.testing.assert_array_equal(calls, 1)
        np.testing.assert_array_equal(out, v)


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["cupy", "torch"])
def test_golden_points_on_a_gpu(library):
    """The bound of the CPU build, on the device, through the public door."""
    cp = pytest.importorskip("cupy", reason="needs CuPy: pip install 'skysolve[gpu-cuda13]'")
    with np.load(GOLDEN) as file:
        golden = {name: file[name] for name in file.files}
    if library == "cupy":
        to_device, to_host = cp.asarray, cp.asnumpy
    else:
        torch = pytest.importorskip("torch")
        to_device, to_host = (lambda a: torch.as_tensor(a, device="cuda")), (lambda t: t.cpu().numpy())
    v, x = to_device(golden["v"]), to_device(golden["x"])
    for letter, function in (("i", log_iv), ("k", log_kv)):
        got = to_host(function(v, x))
        assert error(got, golden[f"log_{letter}"], golden[f"log_{letter}_rest"]).max() <= BOUND


@pytest.mark.gpu
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gpu_agrees_with_the_cpu_build(name):
    cp = pytest.importorskip("cupy", reason="needs CuPy: pip install 'skysolve[gpu-cuda13]'")
    v, x = arguments(np.random.default_rng(9), 100_003)
    if name == "ratio_inverse":
        x = np.where(np.isfinite(x), 1 / (1 + x), 2.0)
    got = FUNCTIONS[name].on_gpu(cp.asarray(v), cp.asarray(x))
    want = np.atleast_2d(on_numpy(name, v, x))
    tolerance = 1e-9 if name.endswith("derivatives") else 1e-15 if name != "ratio_inverse" else 1e-12
    np.testing.assert_allclose(cp.asnumpy(got), want, rtol=tolerance, atol=tolerance)
