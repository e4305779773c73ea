"""Logarithms of the modified Bessel functions and ratios of them, for NumPy, CuPy and torch.

This module picks a path; the mathematics is in `cuda/log_bessel.cuh`, its derivation and measured errors in docs/log_bessel.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpu import _log_bessel, backend
from gpu.array_functions import on_cupy, on_numpy
from gpu.cores import usable_cores

THREADS_VARIABLE = "SKYSOLVE_THREADS"


def log_iv(v: Any, x: Any, /, out: Any = None, *, where: Any = True) -> Any:
    """Logarithm of the modified Bessel function of the first kind, log I_v(x).

    Parameters
    ----------
    v : array_like
        Order, real, v >= 0.
    x : array_like
        Argument, real, x >= 0; broadcasts against `v`.
    out : array, optional
        Where to write the result, as for any NumPy ufunc. Not for torch tensors.
    where : array_like of bool, optional
        Compute only there, as for any NumPy ufunc. NumPy arrays only.

    Returns
    -------
    array or scalar
        float64, or float32 if `v` and `x` are at most that; of the library and on the device of the arguments; a scalar for
        scalars. -inf at x = 0 for v > 0 and at v = inf, inf at x = inf; nan for negative or nan arguments, and for x = v = inf.
        No warnings are raised.

    Raises
    ------
    TypeError
        For complex or non-numeric arguments, mixed libraries or devices.
    ValueError
        If the shapes do not broadcast.

    Notes
    -----
    The error is at most 5e-16 max(1, abs(log I)) for v <= 1e6 and all x. float32 results are float64 results rounded: they are
    correctly rounded unless the exact value lies within that error of a tie. Torch tensors are differentiable in both
    arguments, twice, for x >= 2^-930. Source: docs/log_bessel.md; DLMF 10.25.2, 10.41.3.

    Examples
    --------
    >>> from gpu import log_iv
    >>> log_iv(1000, 1.0)
    -6605.275...
    """
    return call("log_iv", v, x, out, where)


def log_ive(v: Any, x: Any, /, out: Any = None, *, where: Any = True) -> Any:
    """Logarithm of the exponentially scaled modified Bessel function of the first kind, log I_v(x) - x.

    Arguments, result and errors as `log_iv`, whose digits it keeps where log I and x nearly cancel; -inf at x = inf.
    """
    return call("log_ive", v, x, out, where)


def log_kv(v: Any, x: Any, /, out: Any = None, *, where: Any = True) -> Any:
    """Logarithm of the modified Bessel function of the second kind, log K_v(x).

    Arguments, result and errors as `log_iv`, but for the order, which may be negative: K is even in v. inf at x = 0 and
    at v = inf, -inf at x = inf. Source: DLMF 10.27.4, 10.41.4.
    """
    return call("log_kv", v, x, out, where)


def log_kve(v: Any, x: Any, /, out: Any = None, *, where: Any = True) -> Any:
    """Logarithm of the exponentially scaled modified Bessel function of the second kind, log K_v(x) + x.

    Arguments, result and errors as `log_kv`, whose digits it keeps where log K and x nearly cancel.
    """
    return call("log_kve", v, x, out, where)


def iv_ratio(v: Any, x: Any, /, out: Any = None, *, where: Any = True) -> Any:
    """Ratio I_v(x) / I_{v-1}(x): the mean resultant length of a von Mises-Fisher distribution in 2v dimensions.

    Arguments and errors as `log_iv`; `v` is the order of the numerator. The result lies in [0, 1] for v >= 1/2, 0 at x = 0 and
    1 at x = inf. Its relative error is at most 1e-15. Not differentiable by torch.
    """
    return call("iv_ratio", v, x, out, where)


def set_threads(count: int) -> None:
    """Let one call on a large NumPy array or CPU tensor use up to `count` threads, 1 to 4096.

    At first that is the number of usable cores, or what the environment variable SKYSOLVE_THREADS, else OMP_NUM_THREADS, says.
    Arrays below 32,768 values always take one.
    """
    if isinstance(count, bool) or not isinstance(count, int | np.integer):
        raise TypeError(f"count must be an integer; got {count!r} of type {type(count).__name__}.")
    _log_bessel.set_threads(int(count))


def get_threads() -> int:
    """Most threads that one call on a large array may use."""
    return int(_log_bessel.get_threads())


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Set the number of threads for a while; it holds for the whole process."""
    before = get_threads()
    set_threads(count)
    try:
        yield
    finally:
        set_threads(before)


def call(name: str, v: Any, x: Any, out: Any = None, where: Any = True) -> Any:
    """Call one of `array_functions.FUNCTIONS` wherever its arguments are."""
    library = backend.library_of(v=v, x=x, out=out)
    if library == "numpy":
        return on_numpy(name, v, x, out=out, where=where)
    if where is not True:
        raise TypeError(f"where is for NumPy arrays only; v and x are of {library}. Select with {library}.where afterwards.")
    if library == "cupy":
        return on_cupy(name, v, x, out=out)
    if out is not None:
        raise TypeError("out is not for torch tensors, whose results may need a gradient. Leave it out.")
    from gpu import torch_functions

    return torch_functions.call(name, v, x)


def _threads_at_first(environment: Callable[[str], str | None] = os.environ.get) -> int:
    for variable in (THREADS_VARIABLE, "OMP_NUM_THREADS"):
        text = (environment(variable) or "").partition(",")[0].strip()
        if text.isdigit() and int(text) > 0:
            return min(int(text), 4096)
    return min(usable_cores(), 4096)


set_threads(_threads_at_first())
