"""What log I_v(x), log K_v(x) and concentrations are compared with: SciPy, mpmath, TensorFlow Probability, logbesselk, our own
reading of the published algorithm, and our own writing of the estimators that the R package movMF collects, from their papers
(movMF itself is not run here). What is not installed is left out and named.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.optimize
import scipy.special

Pair = tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], Callable[[np.ndarray, np.ndarray], np.ndarray]]
SOURCE = Path(__file__).with_name("published_log_bessel.cpp")


def scipy_pair() -> Pair:
    """The usual idiom: the scaled functions, which reach furthest."""
    return lambda v, x: np.log(scipy.special.ive(v, x)) + x, lambda v, x: np.log(scipy.special.kve(v, x)) - x


def published_pair() -> Pair:
    """Our own reading of Plesner, Sorensen & Hauberg (2024); not the authors' code."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))))
    library = Path(tempfile.mkdtemp()) / "published.so"
    flags = ["-std=c++17", "-O3", "-march=native", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, str(SOURCE), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))

    def door(name: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        function = getattr(loaded, name)
        function.argtypes, function.restype = [ctypes.c_void_p] * 3 + [ctypes.c_long], None

        def call(v: np.ndarray, x: np.ndarray) -> np.ndarray:
            out = np.empty_like(x)
            function(v.ctypes.data, x.ctypes.data, out.ctypes.data, x.size)
            return out

        return call

    return door("published_log_i"), door("published_log_k")


def mpmath_pair() -> Pair:
    """Fifty digits, rounded."""
    import mpmath

    mpmath.mp.dps = 50

    def each(function: Callable[[float, float], object]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        return lambda v, x: np.array([float(mpmath.log(function(a, b))) for a, b in zip(v.tolist(), x.tolist(), strict=True)])

    return each(mpmath.besseli), each(mpmath.besselk)


def tensorflow_probability_pair() -> Pair:
    """`log_bessel_ive` and `log_bessel_kve` of the JAX substrate, compiled, in float64."""
    import jax

    jax.config.update("jax_enable_x64", True)
    from tensorflow_probability.substrates import jax as tfp

    log_i = jax.jit(lambda v, x: tfp.math.log_bessel_ive(v, x) + x)
    log_k = jax.jit(lambda v, x: tfp.math.log_bessel_kve(v, x) - x)
    return lambda v, x: np.asarray(log_i(v, x)), lambda v, x: np.asarray(log_k(v, x))


def logbesselk_pair() -> tuple[None, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """Logbesselk has K only; its paper tests v and x to about 100."""
    import jax

    jax.config.update("jax_enable_x64", True)
    from logbesselk.jax import log_bessel_k

    function = jax.jit(jax.vmap(log_bessel_k))
    return None, lambda v, x: np.asarray(function(v, x))


PEERS = {
    "SciPy": ("scipy", scipy_pair),
    "published algorithm, our reading": (None, published_pair),
    "TensorFlow Probability": ("tfp-nightly", tensorflow_probability_pair),
    "logbesselk": ("logbesselk", logbesselk_pair),
    "mpmath": ("mpmath", mpmath_pair),
}


def available() -> tuple[dict[str, Pair], dict[str, str]]:
    """The peers that can be loaded, and for each its version or why it is left out."""
    pairs, notes = {}, {}
    for name, (package, make) in PEERS.items():
        try:
            pairs[name] = make()
            notes[name] = importlib.metadata.version(package) if package else "compiled with -O3 -march=native"
        except (ImportError, AttributeError, importlib.metadata.PackageNotFoundError) as error:
            notes[name] = f"left out: {type(error).__name__}: {error}"
    return pairs, notes


def scipy_ratio(p: np.ndarray, kappa: np.ndarray) -> np.ndarray:
    return scipy.special.ive(p / 2, kappa) / scipy.special.ive(p / 2 - 1, kappa)


def banerjee(p: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Banerjee et al. (2005, JMLR 6, eq. 4.4)."""
    return length * (p - length**2) / (1 - length**2)


def sra(p: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Sra (2012, Comput. Stat. 27, 177): two Newton steps from Banerjee's start, on SciPy's ratio."""
    kappa = banerjee(p, length)
    for _ in range(2):
        a = scipy_ratio(p, kappa)
        kappa = kappa - (a - length) / (1 - a * a - (p - 1) * a / kappa)
    return kappa


def song(p: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Song, Liu & Wang (2012): two Halley steps, on SciPy's ratio."""
    kappa = banerjee(p, length)
    for _ in range(2):
        a = scipy_ratio(p, kappa)
        slope = 1 - a * a - (p - 1) * a / kappa
        curve = -2 * a * slope - (p - 1) * (slope / kappa - a / kappa**2)
        kappa = kappa - 2 * (a - length) * slope / (2 * slope**2 - (a - length) * curve)
    return kappa


def tanabe(p: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Tanabe et al. (2007, Comput. Stat. 22, 145): the fixed point of kappa -> R kappa / A(kappa), by one straight line through
    both ends of their bracket, on SciPy's ratio.
    """
    low, high = length * (p - 2) / (1 - length**2), length * p / (1 - length**2)
    low = np.maximum(low, 1e-6 * high)  # zero for p = 2
    at_low, at_high = length * low / scipy_ratio(p, low), length * high / scipy_ratio(p, high)
    return (low * at_high - high * at_low) / ((at_high - at_low) - (high - low))


def fraction_ratio(p: np.ndarray, kappa: np.ndarray) -> np.ndarray:
    """A(kappa) by Perron's continued fraction as movMF has it, summed forwards (Lentz) until no value changes by 1e-15."""
    v = p / 2
    a = -(2 * v + 1) * kappa
    b = kappa + 2 * v
    f, c, d = b.copy(), b.copy(), np.zeros_like(b)
    for k in range(1, 2000):
        denominator = 2 * (v + kappa) + k
        d = 1 / (denominator + a * d)
        c = denominator + a / c
        f = f * c * d
        if (np.abs(c * d - 1) < 1e-15).all():
            break
        a = -(2 * v + 1 + 2 * k) * kappa
    return kappa / f


def hornik_gruen(p: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Hornik & Gruen (2014, J. Stat. Softw. 58(10)): Newton steps on the continued fraction until they settle, started between
    the inverses of the two Amos-type bounds kappa / (alpha + sqrt(kappa^2 + beta^2)) of A.
    """

    def inverse_bound(alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
        return length * (alpha + np.sqrt((alpha * length) ** 2 + beta**2 * (1 - length**2))) / (1 - length**2)

    kappa = (inverse_bound((p - 1) / 2, (p - 1) / 2) + inverse_bound((p - 1) / 2, (p + 1) / 2)) / 2
    for _ in range(20):
        a = fraction_ratio(p, kappa)
        step = (a - length) / (1 - a * a - (p - 1) * a / kappa)
        kappa = kappa - step
        if (np.abs(step) <= 1e-12 * kappa).all():
            break
    return kappa


def bracketed(p: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Tanabe et al.'s (2007) bracket and Brent's method, on SciPy's ratio, one by one: what movMF calls uniroot."""

    def one(p: float, length: float) -> float:
        low, high = length * (p - 2) / (1 - length**2), length * p / (1 - length**2)
        try:
            return scipy.optimize.brentq(
                lambda k: scipy_ratio(p, k) - length, max(low, 1e-12), high * (1 + 1e-12), xtol=1e-14, rtol=1e-14
            )
        except ValueError:
            return np.nan

    return np.array([one(*pair) for pair in zip(p.tolist(), length.tolist(), strict=True)])


ESTIMATORS = {
    "Banerjee 2005": banerjee,
    "Tanabe 2007, one line": tanabe,
    "Sra 2012, two steps": sra,
    "Song 2012, two steps": song,
    "Hornik & Gruen 2014, Newton on the fraction": hornik_gruen,
    "bracket and Brent": bracketed,
}
