"""What holds for every test: GPU tests skip where there is no GPU, archives on the network are asked by request only."""

from __future__ import annotations

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

import tests.helpers.array_shapes  # noqa: F401 - the hook finds it by name

# Every call in the tests checks the dtypes and shapes of arrays that the annotations of these modules promise.
ROOT = Path(__file__).parents[1]
CHECKED = [
    "data_pipelines",
    "forecast.layers",
    "forecast.training",
    *(f"forecast.{path.stem}" for path in (ROOT / "forecast").glob("[a-z]*.py")),
]
install_import_hook(CHECKED, "tests.helpers.array_shapes.check_arrays")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = config.getoption("markexpr")
    if any(item.get_closest_marker("gpu") for item in items) and not _has_gpu():
        _skip(items, "gpu", "needs a CUDA device; there is none")
    if "network" not in asked:
        _skip(items, "network", "reaches a public archive; run it with: pytest -m network")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _skip(items: list[pytest.Item], marker: str, reason: str) -> None:
    for item in items:
        if item.get_closest_marker(marker):
            item.add_marker(pytest.mark.skip(reason=reason))
