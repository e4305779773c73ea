"""Print the tables of `log_bessel.md` from the stored benchmark; a test holds the page to them.

python docs/log_bessel_tables.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

STORED = Path(__file__).parents[1] / "benchmarks" / "results" / "log_bessel.json"


def errors(result: dict[str, Any]) -> list[str]:
    """Largest error and share without an answer on the golden points."""
    lines = ["| on the golden points | points | no finite answer | largest error | 99 % below |", "|---|---|---|---|---|"]
    for row in result["errors"]:
        name = f"{row['library']}, log {row['function']}"
        lines.append(
            f"| {name} | {row['points']} | {row['not_finite']:.1%} | {row['largest_error']:.1e} | {row['99_percent']:.1e} |"
        )
    return lines


def speeds(result: dict[str, Any]) -> list[str]:
    """Million values per second, and over SciPy."""
    libraries = ["skysolve", "SciPy", "published algorithm, our reading", "TensorFlow Probability", "logbesselk", "mpmath"]
    lines = [
        f"| million values/s, {result['machine']['cpu']}, {result['instruction_set']} | over SciPy | where finite | "
        + "SciPy finite | "
        + " | ".join(libraries)
        + " |",
        "|---" * (len(libraries) + 4) + "|",
    ]
    for row in result["speed"]:
        rates = [row["million_values_per_second"].get(name) for name in libraries]
        cells = " | ".join("" if rate is None else f"{rate:.3g}" for rate in rates)
        there = row["over_scipy_where_finite"] or (row["over_scipy"] if row["scipy_finite"] == 1 else "")
        head = f"{row['function']}, {row['region']} | {row['over_scipy']} | {there} | {row['scipy_finite']:.0%}"
        lines.append(f"| {head} | {cells} |")
    return lines


def estimators(result: dict[str, Any]) -> list[str]:
    """Concentrations: rates, and differences from ours."""
    ours = result["concentrations"]["estimates_per_second_millions"]
    lines = [
        "| dimension | estimator | million/s | skysolve, million/s | no finite answer | largest relative difference |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["concentrations"]["estimators"]:
        difference = row["largest_relative_difference"]
        rates = f"{row['million_per_second']:.3g} | {ours[str(row['dimension'])]:.3g}"
        found = f"{row['not_finite']:.1%} | {'' if difference is None else f'{difference:.1e}'}"
        lines.append(f"| {row['dimension']} | {row['estimator']} | {rates} | {found} |")
    return lines


def tables() -> str:
    """All of them."""
    result = json.loads(STORED.read_text())
    return "\n\n".join("\n".join(make(result)) for make in (errors, speeds, estimators))


if __name__ == "__main__":
    print(tables())  # noqa: T201
