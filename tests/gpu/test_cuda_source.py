"""The CUDA source compiles for the GPUs of today, and its thread blocks compute what the CPU build computes."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.array_functions import FUNCTIONS, on_numpy
from tests.helpers.cuda_source import cubin, emulate, entries, nvrtc, run_emulated

SINGLE = ("log_iv", "log_kve", "iv_ratio")


@pytest.fixture(scope="module")
def compiler():
    library = nvrtc()
    if library is None:
        pytest.skip("needs NVRTC: pip install nvidia-cuda-nvrtc")
    return library


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    return emulate(tmp_path_factory.mktemp("emulated"), *SINGLE)


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
