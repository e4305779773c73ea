"""Numerical kernels from one CUDA C++ source that runs on GPU and CPU.

| name | what |
|---|---|
| `log_iv`, `log_kv`, `log_ive`, `log_kve` | logarithms of the modified Bessel functions, real order |
| `iv_ratio` | I_v / I_{v-1} |
| `VonMisesFisher`, `VonMisesFisherMixture` | distribution on the sphere; scikit-learn-style mixture estimator |
| `set_threads`, `get_threads`, `threads` | how many threads one call on a large array may use |

Array type in is array type out: NumPy, CuPy, torch. Importing this package loads none of them; NumPy comes when a name is first
used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu.log_bessel import get_threads, iv_ratio, log_iv, log_ive, log_kv, log_kve, set_threads, threads
    from gpu.von_mises_fisher import VonMisesFisher
    from gpu.von_mises_fisher_mixture import VonMisesFisherMixture

__all__ = [
    "VonMisesFisher",
    "VonMisesFisherMixture",
    "get_threads",
    "iv_ratio",
    "log_iv",
    "log_ive",
    "log_kv",
    "log_kve",
    "set_threads",
    "threads",
]

_HOMES = {"VonMisesFisher": "gpu.von_mises_fisher", "VonMisesFisherMixture": "gpu.von_mises_fisher_mixture"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gpu' has no attribute {name!r}; it has {', '.join(__all__)}.")
    return getattr(importlib.import_module(_HOMES.get(name, "gpu.log_bessel")), name)


def __dir__() -> list[str]:
    return __all__
