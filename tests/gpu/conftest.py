"""What several files of this folder share."""

from __future__ import annotations

import pytest

from tests.helpers.cuda_source import emulate

SINGLE = ("log_iv", "log_kve", "iv_ratio")  # those that are run in float32 as well


@pytest.fixture(scope="session")
def emulated(tmp_path_factory):
    """The CUDA source, its thread blocks run on the CPU; compiled once."""
    return emulate(tmp_path_factory.mktemp("emulated"), *SINGLE)
