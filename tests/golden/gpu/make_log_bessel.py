"""Write `log_bessel.npz`: log I_v(x) and log K_v(x) at more than 20,000 points, each by two routes that agree.

    python -m tests.golden.gpu.make_log_bessel

Columns: `v`, `x`; `log_i` + `log_i_rest` and `log_k` + `log_k_rest`, where the rests are single precision; `kind`, an index
into KINDS. Routes and the agreement asked for: tests/helpers/bessel_reference.py. Takes two minutes on one core.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.helpers.bessel_reference import reference, split, two_routes

FILE = Path(__file__).with_name("log_bessel.npz")
KINDS = ("log-uniform", "moderate", "special orders", "zeros of log I", "zeros of log K", "von Mises-Fisher orders", "borders")
ZERO_SLOPE = 1.5088795615383199  # v/x where sqrt(1 + a^2) = a asinh(a): both zero curves approach this line
RADII = (8, 12, 24, 64, 220, 1500)  # where regimes of gpu/cuda/log_bessel.cuh meet


def zero_of(which: int, v: float) -> float:
    """The x nearest in float64 to a zero of log I (0) or log K (1) in x, by bisection; both logs are monotone."""
    low, high = 1e-9, 2 * v + 4
    for _ in range(60):
        middle = (low + high) / 2
        if (reference(v, middle)[which] < 0) == (which == 0):
            low = middle
        else:
            high = middle
    return (low + high) / 2


def points() -> np.ndarray:
    """(kind, v, x), 20,400 of them."""
    rng = np.random.default_rng(20261123)
    rows: list[tuple[int, float, float]] = []

    def add(kind: str, v: np.ndarray, x: np.ndarray) -> None:
        rows.extend((KINDS.index(kind), float(a), float(b)) for a, b in zip(v, x, strict=True))

    add("log-uniform", 10 ** rng.uniform(-3, 6, 6000), 10 ** rng.uniform(-6, 6, 6000))
    add("moderate", rng.uniform(0, 40, 5000), rng.uniform(0, 60, 5000))
    special = np.array([0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 5, 10, 31, 100, 511, 1023, 4095, 16383, 1e5, 1e6])
    add("special orders", rng.choice(special, 3000), 10 ** rng.uniform(-6, 6, 3000))
    dimensions = np.repeat([2, 3, 16, 64, 256, 1024, 2048, 8192, 32768, 131072], 150)
    add("von Mises-Fisher orders", dimensions / 2 - 1, dimensions * 10 ** rng.uniform(-2, 2, 1500))
    for which, kind in enumerate(("zeros of log I", "zeros of log K")):
        v = 10 ** rng.uniform(-2, 6, 300)
        zeros = np.array([zero_of(which, one) for one in v])
        near = zeros[:, None] * (1 + rng.choice([-1, 1], (300, 4)) * 10 ** rng.uniform(-16, -1, (300, 4)))
        add(kind, np.repeat(v, 4), near.ravel())
    angle = rng.uniform(0, np.pi / 2, (6, 400))
    radius = np.array(RADII)[:, None] * (1 + rng.choice([-1, 1], (6, 400)) * 10 ** rng.uniform(-16, -2, (6, 400)))
    add("borders", (radius * np.sin(angle)).ravel(), (radius * np.cos(angle)).ravel())
    line = np.repeat([1.0, 2.5], 50) * (1 + rng.choice([-1, 1], 100) * 10 ** rng.uniform(-16, -2, 100))
    add("borders", rng.uniform(0, 7, 100), line)
    return np.array(rows)


def main() -> None:
    table = points()
    values = []
    for v, x in table[:, 1:]:
        pair = two_routes(float(v), float(x))
        values.append((*split(pair.log_i), *split(pair.log_k)))
    log_i, log_i_rest, log_k, log_k_rest = np.array(values).T
    np.savez_compressed(
        FILE,
        kind=table[:, 0].astype(np.uint8),
        v=table[:, 1],
        x=table[:, 2],
        log_i=log_i,
        log_i_rest=log_i_rest.astype(np.float32),
        log_k=log_k,
        log_k_rest=log_k_rest.astype(np.float32),
    )


if __name__ == "__main__":
    main()
