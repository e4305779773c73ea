"""Values, edges and ufunc behaviour of the log-Bessel functions on NumPy arrays."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from flint import arb, ctx

import gpu
from gpu import _log_bessel, get_threads, iv_ratio, log_iv, log_ive, log_kv, log_kve, native, set_threads, threads
from gpu.array_functions import FUNCTIONS, on_numpy
from gpu.cores import usable_cores
from gpu.log_bessel import _threads_at_first
from tests.golden.gpu.make_log_bessel import KINDS, ZERO_SLOPE
from tests.helpers.bessel_reference import by_expansion, error, reference, split, two_routes

GOLDEN = Path(__file__).parents[1] / "golden" / "gpu" / "log_bessel.npz"
# Twice half an ulp of max(1, |log|) and a little: the bound. Measured: 1.8e-16 at r >= 8, up to 3.8e-16 below.
BOUND = 5e-16
INSTRUCTION_SETS = _log_bessel.instruction_sets()


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request):
    chosen = _log_bessel.instruction_set()
    _log_bessel.set_instruction_set(request.param)
    yield request.param
    _log_bessel.set_instruction_set(chosen)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("letter", "ik")
def test_golden_points(golden, letter, instruction_set):
    got = {"i": log_iv, "k": log_kv}[letter](golden["v"], golden["x"])
    errors = error(got, golden[f"log_{letter}"], golden[f"log_{letter}_rest"])
    assert golden["v"].size > 20_000
    for kind, name in enumerate(KINDS):
        worst = np.argmax(np.where(golden["kind"] == kind, errors, -1))
        assert errors[worst] <= BOUND, f"{name}: {errors[worst]:.2e} at v={golden['v'][worst]!r}, x={golden['x'][worst]!r}"


def test_golden_points_are_what_two_routes_say(golden):
    """Guards the file itself: a handful, drawn anew each run."""
    for i in np.random.default_rng().choice(golden["v"].size, 10, replace=False):
        pair = two_routes(float(golden["v"][i]), float(golden["x"][i]))
        for letter, value in zip("ik", pair, strict=True):
            high, low = split(value)
            assert golden[f"log_{letter}"][i] == high
            assert golden[f"log_{letter}_rest"][i] == np.float32(low)


def test_fresh_sample(instruction_set):
    seed = int.from_bytes(os.urandom(4))
    rng = np.random.default_rng(seed)
    v, x = 10 ** rng.uniform(-3, 6, 1500), 10 ** rng.uniform(-6, 6, 1500)
    v[:700], x[:700] = rng.uniform(0, 30, 700), rng.uniform(0, 30, 700)
    want = np.array(
        [[*split(p.log_i), *split(p.log_k)] for p in (reference(float(a), float(b)) for a, b in zip(v, x, strict=True))]
    )
    for k, function in enumerate((log_iv, log_kv)):
        errors = error(function(v, x), want[:, 2 * k], want[:, 2 * k + 1])
        assert errors.max() <= BOUND, f"seed {seed}: {errors.max():.2e} at v={v[errors.argmax()]!r}, x={x[errors.argmax()]!r}"


@pytest.mark.parametrize("exponent", [5, 6, 7.5, 9])
def test_zero_curves_at_large_orders_keep_the_digits_of_the_phase(exponent, instruction_set):
    """There v log((v + r)/x) cancels r: v multiplies what the logarithm loses. Two exact terms for three make 4e-16."""
    rng = np.random.default_rng(14)
    v = 10**exponent * rng.uniform(0.5, 2, 60)
    x = v / ZERO_SLOPE * (1 + rng.uniform(-1, 1, 60) / v)
    for k, function in enumerate((log_iv, log_kv)):
        high, low = np.array([split(by_expansion(float(a), float(b))[k]) for a, b in zip(v, x, strict=True)]).T
        assert error(function(v, x), high, low).max() <= 2.2e-16


def test_values_do_not_depend_on_their_neighbours(instruction_set):
    """One regime, one regime but for a few, and all regimes mixed take three ways through the CPU build."""
    rng = np.random.default_rng(15)
    v, x = rng.uniform(0, 40, 3000), 10 ** rng.uniform(-3, 4, 3000)
    v[::7], v[3::11], v[5::13] = 0, 0.5, 1.5
    few = rng.choice(3000, 150, replace=False)
    mostly_v, mostly_x = np.full(3000, 300.0), rng.uniform(300, 900, 3000)
    mostly_v[few], mostly_x[few] = v[few], x[few]
    for function in (log_iv, log_kv, log_ive, log_kve):
        for a, b in ((v, x), (mostly_v, mostly_x), (np.zeros(3000), x), (np.full(3000, 0.5), x)):
            alone = np.array([function(*pair) for pair in zip(a[:1500:5], b[:1500:5], strict=True)])
            np.testing.assert_array_equal(function(a, b)[:1500:5], alone)
        for a, b in ((v.copy(), x.copy()), (mostly_v.copy(), mostly_x.copy())):
            want = function(a, b)
            np.testing.assert_array_equal(function(a, b, out=b), want)


@pytest.mark.parametrize(("function", "k", "sign"), [(log_ive, 0, -1), (log_kve, 1, 1)])
def test_scaled_logs_keep_their_digits_where_log_and_x_cancel(function, k, sign, instruction_set):
    rng = np.random.default_rng(3)
    v = np.concatenate([10 ** rng.uniform(-3, 4, 300), rng.uniform(0, 10, 300)])
    x = np.concatenate([10 ** rng.uniform(2, 8, 300), rng.uniform(0, 10, 300)])
    want = [split(reference(float(a), float(b))[k] + sign * float(b)) for a, b in zip(v, x, strict=True)]
    assert error(function(v, x), *np.array(want).T).max() <= BOUND


@pytest.mark.parametrize(
    ("v", "x"),
    [
        (1e15, 1e15),
        (1e15, 1e-300),
        (1e15, 1.0),
        (0.0, 1e10),
        (1e12, 1.7e12),
        (1e9, 3e10),
        (1e6, 1e-300),
        (100.0, 1e-320),
        (3e9, 1e3),
    ],
)
def test_remote_arguments(v, x):
    pair = by_expansion(v, x)
    assert error(log_iv(v, x), *split(pair.log_i)) <= BOUND
    assert error(log_kv(v, x), *split(pair.log_k)) <= BOUND


def test_leading_terms_at_the_ends_of_the_exponent():
    """x to 1e300 and subnormals: I ~ (x/2)^v / Gamma(v+1), K_0 ~ -log(x/2) - gamma, both ~ exp(+-x) / sqrt(x)."""
    log_half = -np.log(2.0) - 1074 * np.log(2.0)
    assert log_iv(3.0, 5e-324) == pytest.approx(3 * log_half - np.log(6.0), rel=3e-16)
    assert log_kv(0.0, 5e-324) == pytest.approx(np.log(-log_half - np.euler_gamma), rel=3e-16)
    assert log_kv(0.5, 5e-324) == pytest.approx(np.log(np.pi) / 2 + log_half / -2 - np.log(2.0), rel=3e-16)
    assert log_iv(5.0, 1e300) == 1e300
    assert log_kv(5.0, 1e300) == -1e300
    assert log_ive(5.0, 1e300) == pytest.approx(-0.5 * np.log(2 * np.pi) - 150 * np.log(10.0), rel=3e-16)
    assert log_kve(5.0, 1e300) == pytest.approx(0.5 * np.log(np.pi / 2) - 150 * np.log(10.0), rel=3e-16)
    assert log_ive(0.0, 1e-300) == -1e-300


def test_log_i0_is_right_relative_to_itself_near_zero():
    """log I_0 = x^2/4 - x^4/64 + x^6/576 - ... (the logarithm of DLMF 10.25.2)."""
    x = 10 ** np.linspace(-150, -2, 60)
    q = x * x / 4
    np.testing.assert_allclose(log_iv(0, x), q * (1 - q / 4 + q * q / 9), rtol=9e-16)


INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("v", "x", "log_i", "log_k", "scaled_i", "scaled_k", "ratio"),
    [
        (0, 0, 0, INF, 0, INF, INF),
        (2, 0, -INF, INF, -INF, INF, 0),
        (2, INF, INF, -INF, -INF, -INF, 1),
        (INF, 2, -INF, INF, -INF, INF, 0),
        (INF, INF, NAN, NAN, NAN, NAN, NAN),
        (2, -1, NAN, NAN, NAN, NAN, NAN),
        (NAN, 1, NAN, NAN, NAN, NAN, NAN),
        (1, NAN, NAN, NAN, NAN, NAN, NAN),
    ],
)
def test_edges_are_what_the_docstring_says(v, x, log_i, log_k, scaled_i, scaled_k, ratio, instruction_set):
    """Among ordinary values, so that a warning or a wrong lane of a pack shows."""
    orders, arguments = np.full(11, 3.0), np.full(11, 2.0)
    orders[4], arguments[4] = v, x
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = [f(orders, arguments) for f in (log_iv, log_kv, log_ive, log_kve, iv_ratio)]
        alone = [f(v, x) for f in (log_iv, log_kv, log_ive, log_kve, iv_ratio)]
    want = [log_i, log_k, scaled_i, scaled_k, ratio]
    np.testing.assert_array_equal([one[4] for one in got], want)
    np.testing.assert_array_equal(alone, want)
    for values, function in zip(got, (log_iv, log_kv, log_ive, log_kve, iv_ratio), strict=True):
        np.testing.assert_array_equal(np.delete(values, 4), function(3.0, 2.0))


def test_k_is_even_in_its_order_and_i_refuses_negative_orders():
    v, x = np.array([0.3, 2.0, 9.5, 40.0]), np.array([0.5, 4.0, 3.0, 2.0])
    np.testing.assert_array_max_ulp(log_kv(-v, x), log_kv(v, x), maxulp=2)
    assert np.isnan(log_iv(-v, x)).all()


def test_half_integer_orders_match_their_closed_forms():
    """DLMF 10.49.9, 10.49.12: I_{1/2} = sqrt(2/(pi x)) sinh x, K_{1/2} = sqrt(pi/(2x)) exp(-x)."""
    x = np.concatenate([np.linspace(0.1, 20, 50), 10 ** np.linspace(2, 8, 20)])
    np.testing.assert_allclose(log_kv(0.5, x), 0.5 * np.log(np.pi / 2) - 0.5 * np.log(x) - x, rtol=1e-15, atol=1e-15)
    scaled = 0.5 * np.log(1 / (2 * np.pi)) - 0.5 * np.log(x) + np.log1p(-np.exp(-2 * x))
    np.testing.assert_allclose(log_ive(0.5, x), scaled, rtol=1e-15, atol=1e-15)


def test_wronskian_ties_log_iv_to_log_kv():
    """I_v K_{v+1} + I_{v+1} K_v = 1/x (DLMF 10.28.2): an error in either one shows."""
    rng = np.random.default_rng(2)
    v, x = rng.uniform(0, 60, 2000), rng.uniform(0.01, 80, 2000)
    left = np.exp(log_iv(v, x) + log_kv(v + 1, x)) + np.exp(log_iv(v + 1, x) + log_kv(v, x))
    # Logs to 300 carry 3e-14 each when exponentiated.
    np.testing.assert_allclose(left * x, 1, rtol=3e-13)


def test_scipy_agrees_where_it_is_finite():
    rng = np.random.default_rng(4)
    v, x = rng.uniform(0, 100, 2000), rng.uniform(0.1, 500, 2000)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(log_ive(v, x), np.log(scipy.special.ive(v, x)), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(log_kve(v, x), np.log(scipy.special.kve(v, x)), rtol=1e-12, atol=1e-12)


def test_single_precision_is_the_rounded_double_result(instruction_set):
    rng = np.random.default_rng(5)
    v, x = (10 ** rng.uniform(-3, 5, 3000)).astype(np.float32), (10 ** rng.uniform(-4, 5, 3000)).astype(np.float32)
    for function in (log_iv, log_kv, log_ive, log_kve, iv_ratio):
        got = function(v, x)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, function(v.astype(np.float64), x.astype(np.float64)).astype(np.float32))


def test_ratio_is_the_quotient_and_below_one():
    rng = np.random.default_rng(6)
    v, x = rng.uniform(0.5, 50, 500), rng.uniform(0.01, 100, 500)
    quotient = [float((reference(float(a), float(b)).log_i - reference(float(a) - 1, float(b)).log_i).exp().mid())
                for a, b in zip(v[v > 1], x[v > 1], strict=True)]  # fmt: skip
    np.testing.assert_allclose(iv_ratio(v, x)[v > 1], quotient, rtol=1e-15)
    assert (iv_ratio(v, x) < 1).all()
    np.testing.assert_allclose(iv_ratio(0.5, x), np.tanh(x), rtol=1e-15)  # DLMF 10.49.9, 10.49.11
    assert iv_ratio(0.5, 1e-320) == pytest.approx(1e-320, abs=5e-324)
    assert iv_ratio(1e200, 1e200) == pytest.approx(np.sqrt(2) - 1, rel=1e-15)


def central_differences(v: float, x: float, k: int) -> list[float]:
    """First and second derivatives of a log, from differences at a step of 1e-8 of values with 60 digits."""

    h = 2.0**-30

    def at(i: int, j: int) -> arb:
        return reference(v + i * h, x + j * h)[k]

    middle = at(0, 0)
    dv, dx = at(1, 0) - at(-1, 0), at(0, 1) - at(0, -1)
    second = [
        at(1, 0) - 2 * middle + at(-1, 0),
        (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4,
        at(0, 1) - 2 * middle + at(0, -1),
    ]
    return [float((dv / (2 * h)).mid()), float((dx / (2 * h)).mid()), *(float((d / h**2).mid()) for d in second)]


@pytest.mark.parametrize(("letter", "k"), [("i", 0), ("k", 1)])
def test_derivatives_are_slopes_of_the_reference(letter, k):
    """Differences at 2^-30 of exact arguments leave 1e-18 of the derivatives of higher order."""
    rng = np.random.default_rng(11)
    v = np.concatenate([rng.integers(1, 2**12, 60) / 2**7, rng.integers(2**3, 2**12, 30).astype(float)])
    x = np.concatenate([rng.integers(2**6, 2**12, 60) / 2**7, rng.integers(2**3, 2**12, 30).astype(float)])
    want = np.array([central_differences(float(a), float(b), k) for a, b in zip(v, x, strict=True)])
    plain = np.array(on_numpy(f"log_{letter}v_derivatives", v, x)).T
    scaled = np.array(on_numpy(f"log_{letter}ve_derivatives", v, x)).T
    np.testing.assert_allclose(plain, want, rtol=1e-10, atol=1e-13)
    want[:, 1] += [-1, 1][k]
    np.testing.assert_allclose(scaled, want, rtol=1e-10, atol=1e-13)


def test_derivatives_outside_their_range_are_nan():
    for name in ("log_iv_derivatives", "log_kv_derivatives"):
        for v, x in ((1.0, 0.0), (1.0, -1.0), (np.nan, 1.0), (1.0, 1e-300), (1.0, np.inf), (1e200, 1.0)):
            assert np.isnan(on_numpy(name, v, x)).all()
    even, odd = on_numpy("log_kv_derivatives", 2.5, 3.0), on_numpy("log_kv_derivatives", -2.5, 3.0)
    np.testing.assert_allclose(odd, np.array([-1, 1, 1, -1, 1]) * even, rtol=1e-14)


def test_universal_function_behaviour():
    v, x = np.arange(4.0)[:, None], np.linspace(0.5, 3, 5)
    full = log_iv(v, x)
    assert full.shape == (4, 5)
    assert full.dtype == np.float64
    np.testing.assert_array_equal(log_iv(*np.broadcast_arrays(v, x)), full)
    out = np.zeros((4, 5))
    assert log_iv(v, x, out=out) is out
    np.testing.assert_array_equal(out, full)
    masked = log_iv(v, x, np.full((4, 5), 7.0), where=v > 1)
    np.testing.assert_array_equal(masked, np.where(v > 1, full, 7))
    strided = np.zeros((5, 8))[:, ::2]
    np.testing.assert_array_equal(log_iv(v.T, x[:, None], out=strided), full.T)
    np.testing.assert_array_equal(log_iv(v, x[::-1])[:, ::-1], full)
    assert isinstance(log_iv(2, 3), float)
    assert log_iv(np.float32(2), 3).dtype == np.float32
    assert log_iv(np.arange(3, dtype=np.int64), 1).dtype == np.float64
    assert log_iv([1, 2], [3.0, 4.0]).shape == (2,)
    assert log_iv(np.zeros((0, 3)), 1.0).shape == (0, 3)
    swapped = x.astype(">f8")
    np.testing.assert_array_equal(log_iv(2.0, swapped), log_iv(2.0, x))
    same = x.copy()
    np.testing.assert_array_equal(log_kv(1.0, same, out=same), log_kv(1.0, x))


def test_threads_change_nothing_but_the_time(instruction_set):
    rng = np.random.default_rng(12)
    v, x = rng.uniform(0, 100, 100_001), rng.uniform(0, 100, 100_001)
    with threads(1):
        one = log_iv(v, x)
    with threads(3):
        assert get_threads() == 3
        three = log_iv(v, x)
    np.testing.assert_array_equal(one, three)


def test_instruction_sets_agree_to_rounding():
    rng = np.random.default_rng(13)
    v, x = rng.uniform(0, 40, 5000), rng.uniform(0, 40, 5000)
    assert INSTRUCTION_SETS[0] == "portable"
    results = []
    for name in INSTRUCTION_SETS:
        _log_bessel.set_instruction_set(name)
        results.append(log_kv(v, x))
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize(
    ("v", "x", "kind", "words"),
    [
        (1j, 1.0, TypeError, "v of log_iv must be real"),
        (1.0, "a", TypeError, "x of log_iv must be real"),
        (1.0, np.longdouble(1), TypeError, "x of log_iv must be real, float64 at most"),
        (np.zeros(3), np.zeros(4), ValueError, r"must broadcast; got shapes \(3,\) and \(4,\)"),
        ([[1], [2, 3]], 1.0, ValueError, "v of log_iv must be a number or a rectangular array"),
    ],
)
def test_wrong_arguments_are_refused_by_name(v, x, kind, words):
    with pytest.raises(kind, match=words):
        log_iv(v, x)


def test_wrong_outputs_are_refused_by_name():
    with pytest.raises(ValueError, match=r"out of log_kv must have shape \(3,\); got \(2,\)"):
        log_kv(np.ones(3), 1.0, out=np.zeros(2))
    with pytest.raises(TypeError, match="out of log_kv must be of a floating dtype; got int64"):
        log_kv(np.ones(3), 1.0, out=np.zeros(3, dtype=np.int64))


def test_wrong_thread_counts_and_instruction_sets_are_refused():
    with pytest.raises(ValueError, match=r"threads must lie in 1 \.\. 4096; got 0"):
        set_threads(0)
    with pytest.raises(TypeError, match="count must be an integer; got 1.5"):
        set_threads(1.5)
    with pytest.raises(ValueError, match="'mmx' is not available here"):
        _log_bessel.set_instruction_set("mmx")


def test_threads_at_first_follow_the_environment():
    from gpu.log_bessel import _threads_at_first

    assert _threads_at_first({"SKYSOLVE_THREADS": "3", "OMP_NUM_THREADS": "5"}.get) == 3
    assert _threads_at_first({"OMP_NUM_THREADS": "5,2"}.get) == 5
    assert _threads_at_first({"SKYSOLVE_THREADS": "none"}.get) >= 1


def test_importing_the_package_loads_no_torch_cupy_or_dask():
    code = "import sys, gpu; gpu.log_iv(1, 2.0); print({'torch', 'cupy', 'dask', 'sklearn', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_public_name_is_there():
    for name in gpu.__all__:
        assert getattr(gpu, name).__doc__
    assert dir(gpu) == gpu.__all__
    with pytest.raises(AttributeError, match="module 'gpu' has no attribute 'iv'"):
        gpu.iv  # noqa: B018


def test_every_function_has_a_ufunc_of_its_outputs():
    for name, function in FUNCTIONS.items():
        assert (function.ufunc.__name__, function.ufunc.nout) == (name, function.outputs)


@pytest.mark.parametrize("count", [0, -1, 4097, 2**31])
def test_thread_counts_out_of_range_are_refused_and_change_nothing(count):
    before = get_threads()
    with pytest.raises(ValueError, match=rf"threads must lie in 1 \.\. 4096; got {count}"):
        set_threads(count)
    assert get_threads() == before


def test_the_number_of_threads_comes_back_after_an_error():
    before = get_threads()
    with pytest.raises(ZeroDivisionError), threads(before + 1):
        1 / 0  # noqa: B018
    assert get_threads() == before


def test_threads_at_first_stay_within_their_range():
    assert _threads_at_first({"SKYSOLVE_THREADS": "0", "OMP_NUM_THREADS": "5"}.get) == 5
    assert _threads_at_first({"SKYSOLVE_THREADS": "0"}.get) == usable_cores()
    assert _threads_at_first({"SKYSOLVE_THREADS": "5000"}.get) == 4096


def test_a_truth_value_is_no_thread_count():
    with pytest.raises(TypeError, match="count must be an integer; got True of type bool"):
        set_threads(True)


def test_an_output_in_a_tuple_is_refused_by_name_too():
    with pytest.raises(ValueError, match=r"out of log_kv must have shape \(3,\); got \(2,\)"):
        log_kv(np.ones(3), 1.0, out=(np.zeros(2),))


def test_a_library_that_was_not_built_says_what_to_do():
    with pytest.raises(ImportError, match="libmissing.so was not built; install the package again"):
        native.load_library("missing")


def test_strided_single_precision_is_read_and_written_by_its_own_width():
    """Every other float lies eight bytes after the last, as doubles do."""
    v, x = np.linspace(0, 9, 200, dtype=np.float32), np.linspace(0.1, 30, 200, dtype=np.float32)
    out = np.zeros(200, np.float32)
    log_iv(v[::2], x[::2], out=out[::2])
    np.testing.assert_array_equal(out[::2], log_iv(v[::2].copy(), x[::2].copy()))
    np.testing.assert_array_equal(out[1::2], 0)


FEW_THREADS = """
import resource, numpy as np
from pathlib import Path
import gpu
v, x = np.full(1 << 21, 3.0), np.linspace(0.1, 50, 1 << 21)
with gpu.threads(1):
    one = gpu.log_iv(v, x)
out = np.empty_like(one)
gpu.set_threads(128)
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (100 << 20)  # a thread's stack takes 8 MiB
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
gpu.log_iv(v, x, out=out)
print((out == one).all())
"""


def test_threads_that_cannot_be_had_are_done_without():
    done = subprocess.run([sys.executable, "-c", FEW_THREADS], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize("order", [0.0, 0.5, 1.5])
def test_one_special_order_at_remote_arguments(order):
    """An array of one order takes a way of its own, if all arguments are ordinary ones."""
    x = np.full(64, 2.0)
    x[[3, 17, 30, 40, 50]] = [0.0, np.inf, np.nan, -1.0, 1e-300]
    for function in (log_iv, log_kv, log_ive, log_kve):
        np.testing.assert_array_equal(function(np.full(64, order), x), [function(order, one) for one in x])


@pytest.mark.parametrize("share", [0.01, 0.7, 1.0, 3.0, 100.0])
def test_ratio_far_out_depends_on_v_over_x_alone(share):
    """I_v/I_{v-1} ~ x/(v + sqrt(v^2 + x^2))."""
    assert iv_ratio(share * 1e200, 1e200) == pytest.approx(1 / (share + math.hypot(share, 1)), rel=1e-15)


@pytest.mark.parametrize("order", [0.3, 1.0, 3.3, 7.2, 9.5, 15.0, 22.0, 40.0, 100.0, 300.0, 2000.0])
def test_negative_orders_of_k_are_those_of_positive_ones(order):
    """They take the way of remote arguments, with regimes of its own: also scaled, and in both derivatives."""
    x = np.array([0.3, 0.9, 1.7, 4.0, 6.0, 9.0, 14.0, 30.0, 70.0, 1e4])
    for function in (log_kv, log_kve):
        want = function(order, x)
        np.testing.assert_allclose(function(-order, x), want, rtol=1e-15, atol=1e-15)
    for name in ("log_kv_derivatives", "log_kve_derivatives"):
        even, odd = (np.array(on_numpy(name, sign * order, x)) for sign in (1, -1))
        np.testing.assert_allclose(odd, np.array([-1, 1, 1, -1, 1])[:, None] * even, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("order", [0.3, 2.0, 7.9, 8.1, 10.0, 11.9, 12.1, 17.0, 23.9, 24.1, 63.0, 65.0, 219.0, 1499.0, 1501.0])
def test_orders_of_every_regime_at_tiny_arguments(order):
    """(x/2)^v / Gamma(v + 1) and its inverse over 2v (DLMF 10.30.1-2), at x below 2^-930."""
    ctx.prec = 220
    for x in (1e-290, 1e-310):
        log_half, v = (arb(x) / 2).log(), arb(order)
        pair = (v * log_half - (v + 1).lgamma(), v.lgamma() - arb(2).log() - v * log_half)
        assert error(log_iv(order, x), *split(pair[0])) <= 5e-16
        if order > 0.5:
            assert error(log_kv(order, x), *split(pair[1])) <= 5e-16


@pytest.mark.parametrize(("v", "x"), [(0.0, 2.2e9), (1.0, 3e9), (1e4, 5e9), (0.0, 1e11)])
def test_scaled_logs_beyond_2_31_keep_the_first_term(v, x):
    """-log(2 pi x)/2 - (4 v^2 - 1)/(8x) (DLMF 10.40.1): 4e-11 of the result."""
    pair = by_expansion(v, x)
    assert error(log_ive(v, x), *split(pair.log_i - x)) <= 5e-16
    assert error(log_kve(v, x), *split(pair.log_k + x)) <= 5e-16


@pytest.mark.parametrize(("letter", "k"), [("i", 0), ("k", 1)])
def test_derivatives_of_small_arguments_are_slopes_of_the_reference(letter, k):
    for v in (0.25, 1.0, 2.75, 6.5, 9.0):
        for x in (2.0**-6, 0.25, 0.75, 1.0):
            want = central_differences(v, x, k)
            np.testing.assert_allclose(on_numpy(f"log_{letter}v_derivatives", v, x), want, rtol=1e-10, atol=1e-13)
