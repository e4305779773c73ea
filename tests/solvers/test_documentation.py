"""The pages on Poisson problems say what is stored."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def tables_module():
    spec = importlib.util.spec_from_file_location("poisson_tables", DOCS / "poisson_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_of_the_pages_are_those_of_the_stored_benchmarks():
    module = tables_module()
    assert module.tables() in (DOCS / "poisson.md").read_text()
    page = (DOCS / "learned_preconditioner.md").read_text()
    for table in module.learned_tables():
        assert table in page
