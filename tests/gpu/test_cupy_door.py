"""The way to a GPU without one: arrays that call themselves CuPy's, and kernels run by the thread-block emulation.

What is checked is everything between the caller and the launch: dtypes, broadcasting, layout, grid, `out`, refusals.
"""

from __future__ import annotations

import ctypes
import types

import numpy as np
import pytest

from gpu import VonMisesFisher, backend, iv_ratio, log_iv, log_kv, log_kve
from gpu.array_functions import FUNCTIONS


class ndarray(np.ndarray):
    """NumPy's array by the name that `library_of` asks for."""


ndarray.__module__ = "cupy"


class Kernel:
    """One entry of the emulated library, called as CuPy calls a raw kernel."""

    def __init__(self, library, entry, launches):
        self.run, self.launches, self.entry = getattr(library, f"run_{entry}"), launches, entry
        self.run.argtypes, self.run.restype = [ctypes.c_void_p] * 3 + [ctypes.c_longlong, ctypes.c_double], None

    def __call__(self, grid, block, arguments):
        v, x, out, n, scaled = arguments
        assert all(type(array) is ndarray and array.flags.c_contiguous for array in (v, x, out))
        assert v.shape == x.shape == out.shape[1:]
        assert v.dtype == x.dtype == out.dtype == np.dtype(self.entry.rpartition("_")[2])
        assert type(n) is np.int64
        assert n == v.size
        assert block == (backend.THREADS,)
        assert (grid[0] - 1) * backend.TILE < n <= grid[0] * backend.TILE
        self.launches.append((self.entry, v.ctypes.data, x.ctypes.data))
        self.run(v.ctypes.data, x.ctypes.data, out.ctypes.data, int(n), float(scaled))


@pytest.fixture
def launches(monkeypatch, emulated):
    """A stand-in for CuPy; the launches so far."""
    made: list[tuple[str, int, int]] = []

    def own(function):
        return lambda *arguments, **settings: function(*arguments, **settings).view(ndarray)

    def raw_module(code, options, backend):
        assert '#include "log_bessel_kernels.cuh"' in code
        assert "--fmad=false" in options
        assert backend == "nvrtc"
        return types.SimpleNamespace(get_function=lambda entry: Kernel(emulated, entry, made))

    names = ("asarray", "ascontiguousarray", "empty", "where", "zeros_like", "sqrt")
    fake = types.SimpleNamespace(**{name: own(getattr(np, name)) for name in names}, log=np.log, RawModule=raw_module)
    fake.broadcast_arrays = lambda *arrays: [one.view(ndarray) for one in np.broadcast_arrays(*arrays)]
    monkeypatch.setattr(backend, "cupy", lambda: fake)
    backend._compiled.cache_clear()
    yield made
    backend._compiled.cache_clear()


def on_gpu(values, dtype=np.float64):
    return np.asarray(values, dtype).view(ndarray)


def test_arrays_go_in_and_come_out_and_broadcast(launches):
    v, x = on_gpu(np.linspace(0, 30, 40)[:, None]), on_gpu(np.linspace(0.1, 50, 60))
    for function in (log_iv, log_kv, log_kve, iv_ratio):
        got = function(v, x)
        assert type(got) is ndarray
        np.testing.assert_allclose(got, function(np.asarray(v), np.asarray(x)), rtol=1e-14, atol=1e-14)
    assert [entry for entry, *_ in launches] == [
        "LogI_float64",
        "LogK_float64",
        "LogK_float64",
        "any_ratio_to_lower_order_float64",
    ]


def test_whole_arrays_are_not_copied(launches):
    v, x = on_gpu(np.full(5, 2.0)), on_gpu(np.arange(1.0, 6))
    log_iv(v, x)
    assert launches == [("LogI_float64", v.ctypes.data, x.ctypes.data)]


def test_numbers_take_the_dtype_of_the_array_beside_them(launches):
    x = on_gpu([0.5, 2.0, 70.0], np.float32)
    assert log_iv(1.5, x).dtype == np.float32
    assert log_iv(2, x).dtype == np.float32
    assert log_iv(on_gpu([1.0, 2.0, 3.0]), x).dtype == np.float64
    assert log_iv(on_gpu([1, 2, 3], np.int64), 2.0).dtype == np.float64
    np.testing.assert_array_equal(np.asarray(log_iv(1.5, x)), log_iv(np.float32(1.5), np.asarray(x)))
    assert log_iv(on_gpu(np.zeros((0, 3))), 1.0).shape == (0, 3)


def test_out_is_filled_and_given_back(launches):
    x = on_gpu([0.5, 2.0, 70.0])
    out = on_gpu(np.zeros(3))
    assert log_kv(1.0, x, out=out) is out
    np.testing.assert_allclose(out, log_kv(1.0, np.asarray(x)), rtol=1e-15)


def test_strided_arrays_are_made_contiguous(launches):
    v, x = on_gpu(np.linspace(0, 9, 20))[::2], on_gpu(np.linspace(1, 9, 30).reshape(10, 3)).T[1]
    np.testing.assert_allclose(log_iv(v, x), log_iv(np.asarray(v), np.asarray(x)), rtol=1e-14, atol=1e-14)


def test_derivatives_have_five_outputs(launches):
    v, x = on_gpu(np.linspace(0.1, 30, 50)), on_gpu(np.linspace(0.2, 40, 50))
    got = FUNCTIONS["log_iv_derivatives"].on_gpu(v, x)
    assert got.shape == (5, 50)
    np.testing.assert_allclose(got, FUNCTIONS["log_iv_derivatives"].ufunc(np.asarray(v), np.asarray(x)), rtol=1e-9)


def test_a_distribution_keeps_to_its_library(launches):
    mean = on_gpu(np.eye(4)[0])
    density = VonMisesFisher(mean, 3.0).log_prob(on_gpu(np.eye(4)))
    assert type(density) is ndarray
    np.testing.assert_allclose(density, VonMisesFisher(np.eye(4)[0], 3.0).log_prob(np.eye(4)), rtol=1e-14)


@pytest.mark.parametrize(
    ("v", "x", "settings", "kind", "words"),
    [
        (1j, [1.0], {}, TypeError, "v of log_iv must be real, float64 at most; got complex128"),
        (1.0, [1.0], {"where": np.array([True])}, TypeError, "where is for NumPy arrays only; v and x are of cupy"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], {}, ValueError, r"v and x of log_iv must broadcast; got shapes \(2,\) and \(3,\)"),
        (1.0, [1.0], {"out": on_gpu([0], np.int64)}, TypeError, "out of log_iv must be of a floating dtype; got int64"),
        (1.0, [1.0], {"out": on_gpu([0.0, 0.0])}, ValueError, r"out of log_iv must have shape \(1,\); got \(2,\)"),
    ],
)
def test_wrong_arguments_are_refused_by_name(launches, v, x, settings, kind, words):
    with pytest.raises(kind, match=words):
        log_iv(v if np.isscalar(v) else on_gpu(v), on_gpu(x), **settings)
    assert launches == []


def test_mixed_libraries_are_refused(launches):
    with pytest.raises(TypeError, match="all arrays must be of one library; v is of cupy, x is of numpy"):
        log_iv(on_gpu([1.0]), np.ones(1))


def test_without_cupy_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"arrays on a GPU need CuPy, which is not installed. Install it: pip install 'skysolve\[gpu"
    ):
        log_iv(on_gpu([1.0]), 2.0)


def test_numpy_scalars_and_narrow_integers_on_a_gpu_give_numpys_dtypes(launches):
    x = on_gpu([0.5, 2.0, 70.0], np.float32)
    arrays = [np.arange(3, dtype=dtype) for dtype in (np.int16, np.uint8, np.int32, np.float16)]
    for other in (np.float64(1.5), np.float32(1.5), True, *arrays):
        there = on_gpu(other, other.dtype) if isinstance(other, np.ndarray) else other
        assert log_iv(there, x).dtype == log_iv(other, np.asarray(x)).dtype, other
