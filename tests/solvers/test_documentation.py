"""The page on Poisson problems says what is stored."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_tables_of_the_page_are_those_of_the_stored_benchmark():
    spec = importlib.util.spec_from_file_location("poisson_tables", DOCS / "poisson_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.tables() in (DOCS / "poisson.md").read_text()
