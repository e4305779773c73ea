"""log I_v(x), log K_v(x) and concentrations on the CPU: speed and error beside other libraries, in one run.

    python -m benchmarks.log_bessel

Values per second of processor time, over all threads of a library, so that work elsewhere on the machine is not counted; the
best of several turns in which all libraries take part one after another. Peers (benchmarks/log_bessel_peers.py) are called as
their users would. SciPy looks fast where it returns 0 or inf early: each region says at which share of points its answer is
finite. Writes `benchmarks/results/log_bessel.json`.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.log_bessel_peers import ESTIMATORS, available
from benchmarks.machine import describe_machine, store_result
from gpu import _log_bessel, log_iv, log_kv, threads
from gpu.von_mises_fisher import concentration_of

RESULT = Path(__file__).parent / "results" / "log_bessel.json"
GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "gpu" / "log_bessel.npz"
COUNT, TURNS = 10_000, 9  # as many as SciPy is given: nobody's results leave the cache
PEER_COUNTS = {
    "SciPy": 10_000,
    "published algorithm, our reading": 4000,
    "TensorFlow Probability": 10_000,
    "logbesselk": 400,
    "mpmath": 40,
}
SLOW = ("mpmath", "logbesselk")  # timed in two regions only
Function = Callable[[np.ndarray, np.ndarray], np.ndarray]


def regions(rng: np.random.Generator, count: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Orders and arguments of each region."""

    def uniform(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, count)

    def log_uniform(low: float, high: float) -> np.ndarray:
        return 10 ** rng.uniform(np.log10(low), np.log10(high), count)

    def constant(value: float) -> np.ndarray:
        return np.full(count, float(value))

    return {
        "v, x in [0, 10]": (uniform(0, 10), uniform(0.001, 10)),
        "v, x in [0, 100]": (uniform(0, 100), uniform(0.001, 100)),
        "v in [0, 1], x in [0, 1]": (uniform(0, 1), uniform(0.001, 1)),
        "v in [0, 8], x in [0, 1]": (uniform(0, 8), uniform(0.001, 1)),
        "v in [0, 5], x in [1, 8]": (uniform(0, 5), uniform(1, 8)),
        "r in 8 .. 12": (uniform(0, 8), uniform(8, 9)),
        "r in 12 .. 24": (uniform(0, 15), uniform(12, 18)),
        "r in 24 .. 64": (uniform(0, 40), uniform(24, 50)),
        "r in 64 .. 220": (uniform(0, 150), uniform(64, 150)),
        "r in 220 .. 1500": (uniform(0, 1000), uniform(220, 1000)),
        "v in [100, 1000], x in [1e3, 1e4]": (uniform(100, 1000), uniform(1e3, 1e4)),
        "v in [0, 1000], x in [1e5, 1e6]": (uniform(0, 1000), uniform(1e5, 1e6)),
        "v = 0, x in [0, 20]": (constant(0), uniform(0.001, 20)),
        "v = 0, x in [20, 1e4]": (constant(0), uniform(20, 1e4)),
        "v = 1/2, x in [0, 20]": (constant(0.5), uniform(0.001, 20)),
        "v = 1, x in [0, 20]": (constant(1), uniform(0.001, 20)),
        "v = 3/2, x in [0, 20]": (constant(1.5), uniform(0.001, 20)),
        "v = 5/2, x in [0, 20]": (constant(2.5), uniform(0.001, 20)),
        "v = 1023, x in [100, 5000]": (constant(1023), uniform(100, 5000)),
        "v = 16383, x in [1e3, 1e5]": (constant(16383), log_uniform(1e3, 1e5)),
        "v in [1e-3, 1e6], x in [1e-6, 1e6], log-uniform": (log_uniform(1e-3, 1e6), log_uniform(1e-6, 1e6)),
    }


def best_rates(functions: dict[str, tuple[Function, int]], v: np.ndarray, x: np.ndarray, turns: int) -> dict[str, float]:
    """Million values per second of processor time, best of some turns in which each function has one."""
    best = dict.fromkeys(functions, np.inf)
    for _ in range(turns):
        for name, (function, count) in functions.items():
            a, b = v[:count].copy(), x[:count].copy()
            function(a, b)  # warms the caches that the library before it filled
            started = time.process_time()
            function(a, b)
            best[name] = min(best[name], (time.process_time() - started) / a.size)
    return {name: 1e-6 / seconds for name, seconds in best.items()}


def speed(peers: dict[str, Any]) -> list[dict[str, Any]]:
    """Rates of each region and letter, and ratios to SciPy."""
    rows = []
    for index, (label, (v, x)) in enumerate(regions(np.random.default_rng(0), COUNT).items()):
        for k, (letter, ours) in enumerate((("I", log_iv), ("K", log_kv))):
            functions: dict[str, tuple[Function, int]] = {"skysolve": (ours, COUNT)}
            for name, pair in peers.items():
                if pair[k] is not None and (index < 2 or name not in SLOW):
                    functions[name] = (pair[k], PEER_COUNTS[name])
            for function, count in functions.values():
                function(v[:count].copy(), x[:count].copy())  # compiled now, not while it is timed
            rates = best_rates(functions, v, x, TURNS)
            has_answer = np.isfinite(peers["SciPy"][k](v, x))
            finite = float(has_answer.mean())
            over_where_finite = None
            if 0.1 < finite < 1:  # there SciPy does its work on all points
                pair = {name: functions[name] for name in ("skysolve", "SciPy")}
                there = best_rates(pair, v[has_answer], x[has_answer], TURNS)
                over_where_finite = round(there["skysolve"] / there["SciPy"], 1)
            rows.append(
                {
                    "region": label,
                    "function": letter,
                    "scipy_finite": round(finite, 3),
                    "million_values_per_second": {name: float(f"{rate:.4g}") for name, rate in rates.items()},
                    "over_scipy": round(rates["skysolve"] / rates["SciPy"], 1),
                    "over_scipy_where_finite": over_where_finite,
                }
            )
            print(label, letter, rows[-1]["million_values_per_second"], rows[-1]["over_scipy"], flush=True)
    return rows


def instruction_sets() -> dict[str, dict[str, float]]:
    """Rates of log I in four regions with each set of instructions."""
    chosen, rates = _log_bessel.instruction_set(), {}
    everything = regions(np.random.default_rng(1), COUNT)
    for name in _log_bessel.instruction_sets():
        _log_bessel.set_instruction_set(name)
        rates[name] = {
            label: float(f"{best_rates({'': (log_iv, COUNT)}, *everything[label], TURNS)['']:.4g}")
            for label in ("v, x in [0, 10]", "r in 24 .. 64", "r in 220 .. 1500", "v in [0, 1000], x in [1e5, 1e6]")
        }
    _log_bessel.set_instruction_set(chosen)
    return rates


def two_threads() -> dict[str, float]:
    """Time of one thread over that of two on two million values, turn by turn; and the processor time of both, which says
    what two threads cost where other work holds the second core.
    """
    rng = np.random.default_rng(2)
    v, x, out = rng.uniform(0, 1000, 2_000_000), rng.uniform(220, 1000, 2_000_000), np.empty(2_000_000)
    wall: dict[int, list[float]] = {1: [], 2: []}
    processor: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(9):
        for count in wall:
            with threads(count):
                started = time.perf_counter(), time.process_time()
                log_iv(v, x, out=out)
                wall[count].append(time.perf_counter() - started[0])
                processor[count].append(time.process_time() - started[1])
    return {
        "ratio_of_minima": round(min(wall[1]) / min(wall[2]), 2),
        "ratio_of_medians": round(float(np.median(wall[1]) / np.median(wall[2])), 2),
        "processor_time_of_two_over_one": round(min(processor[2]) / min(processor[1]), 3),
        "load_average": round(os.getloadavg()[0], 1),
    }


def errors(peers: dict[str, Any]) -> list[dict[str, Any]]:
    """|dL| / max(1, |L|) over the golden points, and the share of points without a finite answer."""
    with np.load(GOLDEN) as file:
        golden = {name: file[name] for name in file.files}
    order = np.random.default_rng(3).permutation(golden["v"].size)
    rows = []
    for name, pair in {"skysolve": (log_iv, log_kv), **peers}.items():
        chosen = order[: {"mpmath": 300, "logbesselk": 2000}.get(name, order.size)]
        v, x = golden["v"][chosen], golden["x"][chosen]
        for letter, function in zip("ik", pair, strict=True):
            if function is None:
                continue
            if name == "mpmath":  # hours at the far corners
                inside = np.hypot(v, x) < 300
                v, x, chosen = v[inside], x[inside], chosen[inside]
            got, high = function(v, x), golden[f"log_{letter}"][chosen]
            error = np.abs((got - high) - golden[f"log_{letter}_rest"][chosen]) / np.maximum(1, np.abs(high))
            finite = np.isfinite(got)
            rows.append(
                {
                    "library": name,
                    "function": letter.upper(),
                    "points": int(v.size),
                    "not_finite": round(float(1 - finite.mean()), 4),
                    "largest_error": float(f"{error[finite].max():.3g}"),
                    "99_percent": float(f"{np.quantile(error[finite], 0.99):.3g}"),
                }
            )
            print(rows[-1], flush=True)
    return rows


def fits() -> dict[str, Any]:
    """Concentrations from (dimension, mean resultant length): rates, and differences from ours relative to it."""
    rng = np.random.default_rng(4)
    result: dict[str, Any] = {"estimates_per_second_millions": {}, "estimators": []}
    for dimension in (2, 3, 64, 512, 8192):
        p, length = np.full(COUNT, float(dimension)), rng.uniform(0.01, 0.99, COUNT)
        rate = best_rates({"": (concentration_of, COUNT)}, p, length, TURNS)[""]
        result["estimates_per_second_millions"][dimension] = float(f"{rate:.4g}")
        truth = concentration_of(p, length)
        for name, estimator in ESTIMATORS.items():
            count = 200 if name == "bracket and Brent" else 5000
            got = estimator(p[:count], length[:count])
            finite = np.isfinite(got)
            difference = np.abs(got[finite] / truth[:count][finite] - 1)
            result["estimators"].append(
                {
                    "dimension": dimension,
                    "estimator": name,
                    "million_per_second": float(f"{best_rates({'': (estimator, count)}, p, length, 3)['']:.3g}"),
                    "not_finite": round(float(1 - finite.mean()), 3),
                    "largest_relative_difference": float(f"{difference.max():.2g}") if finite.any() else None,
                }
            )
    return result


def main() -> None:
    machine = describe_machine()
    with warnings.catch_warnings(), np.errstate(all="ignore"), threads(1):
        warnings.simplefilter("ignore")
        peers, notes = available()
        result = {
            "what": "log I_v(x), log K_v(x) and concentrations: values per second of one thread, and errors",
            "machine": machine,
            "instruction_set": _log_bessel.instruction_set(),
            "peers": notes,
            "speed": speed(peers),
            "rates_by_instruction_set": instruction_sets(),
            "two_threads_over_one": two_threads(),
            "errors": errors(peers),
            "concentrations": fits(),
        }
    store_result(RESULT, result)


if __name__ == "__main__":
    main()
