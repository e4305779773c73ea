"""The page on compression says what is stored."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_tables_of_the_page_are_those_of_the_stored_benchmarks():
    spec = importlib.util.spec_from_file_location("compression_tables", DOCS / "compression_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (DOCS / "compression.md").read_text()
    for table in module.tables().split("\n\n"):
        assert table in page
