"""The page on peers says what is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.skill.peers.__main__ import LEADS, RESULT
from benchmarks.skill.peers.report import CHANNELS, costs, draw, notes, table

PAGE = Path(__file__).parents[2] / "docs" / "peers.md"


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return json.loads(RESULT.read_text())


def test_tables_of_the_page_are_those_of_the_stored_study(result: dict[str, Any]) -> None:
    page = PAGE.read_text()
    for part in table(result):
        assert part in page


def test_every_error_has_its_sharpness_beside_it(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        for channel in CHANNELS:
            for lead in LEADS:
                numbers = row["scores"][channel][str(lead)]
                assert numbers["rmse"] > 0
                assert numbers["activity"] >= 0
                assert numbers["short_waves"] >= 0


def test_costs_name_every_network_and_leave_a_second_stage_without_a_trial() -> None:
    trial = {"chosen": 0.01, "seconds_per_step": 0.25}
    row = {"seeds": [0, 1], "parameters": 1234, "steps": 5, "seconds": [2.0, 3.4]}
    lines = costs({"rows": [{"name": "one", **row, "trial": trial}, {"name": "two", **row}, {"name": "ridge"}]}).splitlines()
    assert lines[2:] == ["| one | 1,234 | 0.01 | 0.25 | 5 | 2, 3 |", "| two | 1,234 |  |  | 5 | 2, 3 |"]


def test_what_failed_is_told(result: dict[str, Any]) -> None:
    failed = [{"name": "UNet", "seed": 2, "error": "RuntimeError: no"}]
    assert "Failed: UNet, seed 2: RuntimeError: no" in notes(result | {"failed": failed}).splitlines()


def test_the_picture_is_drawn(result: dict[str, Any], tmp_path: Path) -> None:
    draw(result, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")
