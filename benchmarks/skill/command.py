"""The command of a study: make its rows and store what they score, or show what is stored."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import store_result
from forecast.exits import UnfinishedError

Result = dict[str, Any]


def study_parser(
    description: str | None, rows_are: str, rows: Collection[str], seeds: Sequence[int]
) -> argparse.ArgumentParser:
    """What every study is asked: which rows (`--ROWS_ARE`), which seeds, or the stored table or figure."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(f"--{rows_are}", nargs="+", default=list(rows), choices=list(rows), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds))
    parser.add_argument("--table", action="store_true", help="print the stored tables, train nothing")
    parser.add_argument("--figure", action="store_true", help="draw what is stored, train nothing")
    return parser


def simulated_parser(description: str | None, rows_are: str, rows: Collection[str]) -> argparse.ArgumentParser:
    """A `study_parser` of a study on the simulated atmosphere, whose rows several processes can make."""
    parser = study_parser(description, rows_are, rows, (0, 1))
    parser.add_argument("--simulated", type=Path, metavar="STORE", help="20 years of the simulated atmosphere")
    parser.add_argument("--only-make", action="store_true", help="train and forecast these rows, and score nothing yet")
    return parser


def run_study(
    parser: argparse.ArgumentParser,
    result: Path,
    make: Callable[[argparse.Namespace], Result | None],
    table: Callable[[Result], str],
    draw: Callable[[Result], None],
) -> None:
    """Do what the command line asks for.

    Parameters
    ----------
    parser
        Of `study_parser` or `simulated_parser`.
    result
        The JSON in which the study is stored.
    make
        Trains, forecasts and scores; None where nothing was to be scored yet.
    table, draw
        Show what is stored.

    A study that is told to stop (SIGTERM, SIGUSR1) exits with 75; the same command goes on.
    """
    given = parser.parse_args()
    if not (given.table or given.figure):
        if "simulated" in given and given.simulated is None:
            parser.error("give --simulated STORE, or --table or --figure for what is stored")
        try:
            made = make(given)
        except UnfinishedError as stopped:
            print(f"{parser.prog}: {stopped}", file=sys.stderr)
            sys.exit(stopped.exit_code)
        if made is None:
            return
        store_result(result, made)
    stored = json.loads(result.read_text())
    if given.figure:
        draw(stored)
    else:
        print(table(stored))
