"""A study's command makes and stores, or shows what is stored."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.skill.command import run_study, simulated_parser
from forecast.exits import UNFINISHED, UnfinishedError


def _run(result: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[Any]:
    seen: list[Any] = []

    def make(given: Namespace) -> dict[str, Any] | None:
        seen.append((given.rows, given.seeds))
        return None if given.only_make else {"rows": given.rows}

    monkeypatch.chdir(result.parent)
    monkeypatch.setattr("sys.argv", ["study", *arguments])
    run_study(simulated_parser("A study.", "rows", ["one", "two"]), result, make, lambda found: f"{found['rows']}", seen.append)
    return seen


def test_what_is_made_is_stored_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "result.json"
    assert _run(result, monkeypatch, "--simulated", "store", "--rows", "two", "--only-make") == [(["two"], [0, 1])]
    assert not result.exists()
    assert _run(result, monkeypatch, "--simulated", "store", "--seeds", "3") == [(["one", "two"], [3])]
    assert json.loads(result.read_text())["rows"] == ["one", "two"]
    assert _run(result, monkeypatch, "--table") == []
    assert capsys.readouterr().out.count("['one', 'two']") == 2
    assert _run(result, monkeypatch, "--figure") == [{"rows": ["one", "two"]}]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [((), "give --simulated STORE, or --table or --figure"), (("--rows", "three"), "invalid choice: 'three'")],
)
def test_what_cannot_be_made_is_told(
    arguments: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        _run(tmp_path / "result.json", monkeypatch, *arguments)
    assert told in capsys.readouterr().err


def test_a_study_that_is_told_to_stop_exits_with_75(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(_: Namespace) -> None:
        raise UnfinishedError("stopped (SIGTERM) after step 3 of 9.")

    monkeypatch.setattr("sys.argv", ["study", "--simulated", "store"])
    with pytest.raises(SystemExit) as ended:
        run_study(simulated_parser("A study.", "rows", ["one"]), tmp_path / "result.json", make, str, print)
    assert ended.value.code == UNFINISHED
    assert "stopped (SIGTERM) after step 3 of 9." in capsys.readouterr().err
    assert not (tmp_path / "result.json").exists()
