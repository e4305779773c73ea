"""log I_v(x) and log K_v(x) on a GPU: error, values per second, and what bounds them.

    python -m benchmarks.log_bessel_gpu

Compares float64 and float32 throughput with one CPU core, with torch.special.i0e/i1e and cupyx.scipy.special.i0e/k0e at their
orders, and with the time to read two arrays and write one. Errors are those of the golden points and of the CPU build's values.
Writes `benchmarks/results/log_bessel_gpu.json`. Needs a CUDA device, CuPy and torch with CUDA.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.log_bessel import GOLDEN, regions
from benchmarks.machine import describe_machine, store_result
from gpu import backend, log_iv, log_kv, threads

RESULT = Path(__file__).parent / "results" / "log_bessel_gpu.json"
COUNT = 1 << 25
REGIONS = (
    "v, x in [0, 10]",
    "v, x in [0, 100]",
    "r in 24 .. 64",
    "r in 220 .. 1500",
    "v in [0, 1000], x in [1e5, 1e6]",
    "v = 0, x in [0, 20]",
    "v = 1, x in [0, 20]",
    "v in [1e-3, 1e6], x in [1e-6, 1e6], log-uniform",
)


def seconds(cp: Any, call: Callable[[], object], turns: int = 9) -> float:
    """Least time of a call on the GPU, by events."""
    call()
    best = np.inf
    for _ in range(turns):
        start, stop = cp.cuda.Event(), cp.cuda.Event()
        start.record()
        call()
        stop.record()
        stop.synchronize()
        best = min(best, cp.cuda.get_elapsed_time(start, stop) * 1e-3)
    return best


def peers_at(label: str, cp: Any, x: Any) -> dict[str, Callable[[], object]]:
    """What torch and CuPy offer at orders 0 and 1, called as their users would."""
    from cupyx.scipy import special

    order = {"v = 0, x in [0, 20]": 0, "v = 1, x in [0, 20]": 1}.get(label)
    if order is None:
        return {}
    tensor = torch.from_dlpack(x)
    of_torch = getattr(torch.special, f"i{order}e")
    calls: dict[str, Callable[[], object]] = {f"log of torch.special.i{order}e": lambda: torch.log(of_torch(tensor)) + tensor}
    for name, sign in ((f"i{order}e", 1), (f"k{order}e", -1)):
        function = getattr(special, name, None)  # CuPy has k0e and k1e in some versions only
        if function is not None:
            calls[f"log of cupyx {name}"] = lambda function=function, sign=sign: cp.log(function(x)) + sign * x
    return calls


def throughput(cp: Any) -> list[dict[str, Any]]:
    """Billion values per second of both logs in both precisions, the copy bound, and the peers at order 0 or 1."""
    rows = []
    made = regions(np.random.default_rng(0), 1 << 20)
    for label in REGIONS:
        for dtype in (np.float64, np.float32):
            v, x = (cp.tile(cp.asarray(array.astype(dtype)), COUNT >> 20) for array in made[label])
            out = cp.empty_like(v)
            calls = {
                "log_iv": lambda v=v, x=x: log_iv(v, x),
                "log_kv": lambda v=v, x=x: log_kv(v, x),
                "bound: read two, write one": lambda v=v, x=x, out=out: cp.add(v, x, out),
            }
            calls |= peers_at(label, cp, x)
            rates = {name: float(f"{1e-9 * COUNT / seconds(cp, call):.4g}") for name, call in calls.items()}
            rows.append({"region": label, "dtype": np.dtype(dtype).name, "billion_values_per_second": rates})
            bound = rates["bound: read two, write one"]
            rows[-1]["share_of_bound"] = {name: round(rates[name] / bound, 3) for name in ("log_iv", "log_kv")}
            rows[-1]["bound_gigabytes_per_second"] = round(bound * 3 * np.dtype(dtype).itemsize)
            print(rows[-1], flush=True)
            del v, x, out
    return rows


def one_core() -> dict[str, dict[str, float]]:
    """Billion values per second of the CPU build on one thread."""
    rates: dict[str, dict[str, float]] = {}
    made = regions(np.random.default_rng(0), 1 << 20)
    with threads(1):
        for label in REGIONS:
            rates[label] = {}
            for name, function in (("log_iv", log_iv), ("log_kv", log_kv)):
                times = []
                for _ in range(3):
                    started = time.perf_counter()
                    function(*made[label])
                    times.append(time.perf_counter() - started)
                rates[label][name] = float(f"{1e-9 * (1 << 20) / min(times):.4g}")
    return rates


def errors(cp: Any) -> dict[str, float]:
    """Largest |dL| / max(1, |L|) over the golden points."""
    with np.load(GOLDEN) as file:
        golden = {name: file[name] for name in file.files}
    worst = {}
    for letter, function in (("i", log_iv), ("k", log_kv)):
        got = cp.asnumpy(function(cp.asarray(golden["v"]), cp.asarray(golden["x"])))
        high, low = golden[f"log_{letter}"], golden[f"log_{letter}_rest"]
        worst[f"log_{letter}v"] = float(np.max(np.abs((got - high) - low) / np.maximum(1, np.abs(high))))
    return worst


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device is here; run this on a machine with one.")
    cp = backend.cupy()
    result = {
        "what": "log I_v(x) and log K_v(x) on a GPU: billion values per second, errors, bounds",
        "machine": describe_machine() | {"cupy": cp.__version__},
        "errors_on_golden_points": errors(cp),
        "throughput": throughput(cp),
        "one_cpu_core": one_core(),
    }
    store_result(RESULT, result)


if __name__ == "__main__":
    main()
