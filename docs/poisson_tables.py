"""Print the tables of `poisson.md` and `learned_preconditioner.md` from stored benchmarks; a test holds the pages to them.

python docs/poisson_tables.py
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
STORED, LEARNED, PUBLISHED = (RESULTS / f"{name}.json" for name in ("poisson", "learned_preconditioner", "published_network"))


def seconds(result: dict[str, Any]) -> list[str]:
    """Set-up, first solve (smooth), iterations; the fastest total of a scene in bold."""
    kinds = list(dict.fromkeys(row["kind"] for row in result["rows"]))
    lines = ["| cells, scene | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for n, scene in dict.fromkeys((row["n"], row["scene"]) for row in result["rows"]):
        found = {row["kind"]: row for row in result["rows"] if (row["n"], row["scene"]) == (n, scene)}
        solved = [_total(row) for row in found.values() if row["smooth"]["converged"]]
        cells = [_cell(found.get(kind), min(solved)) for kind in kinds]
        lines.append(f"| {n}³ {scene.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return lines


def settings(result: dict[str, Any]) -> list[str]:
    """Solve time by sweeps and relaxation where fine and coarse levels agree."""
    rows = [row for row in result["settings"] if _same(row, "sweeps") and _same(row, "over")]
    scenes = list(rows[0]["share"])
    lines = [
        "| sweeps | relaxation | median | " + " | ".join(scene.replace("_", " ") for scene in scenes) + " |",
        "|---" * (len(scenes) + 3) + "|",
    ]
    for row in rows:
        shares = " | ".join(f"{row['share'][scene]:.2f} ({row['iterations'][scene]})" for scene in scenes)
        lines.append(f"| {row['sweeps_fine']} | {row['over_fine']} | {row['median_share']:.2f} | {shares} |")
    return lines


def machine(result: dict[str, Any]) -> list[str]:
    """On what it was measured."""
    made, kinds = result["machine"], dict.fromkeys(row["kind"] for row in result["rows"])
    versions = ", ".join(f"{name} {made['versions'][name]}" for name in ("numpy", "scipy", *kinds) if name in made["versions"])
    missing = f" Not installed: {', '.join(result['not_installed'])}." if result["not_installed"] else ""
    return [f"Measured on {made['cpu']}, {result['threads']} thread of {made['cores']}, {versions}, {made['date']}.{missing}"]


def learned(result: dict[str, Any]) -> list[str]:
    """Totals of the learned cycle, of multigrid and of the fastest peer, and the fastest rival's over the learned one's."""
    lines = ["| cells, scene | learned | multigrid | fastest peer | rival / learned |", "|---|---|---|---|---|"]
    ratios = []
    for n, scene in dict.fromkeys((row["n"], row["scene"]) for row in result["rows"]):
        rows = [row for row in result["rows"] if (row["n"], row["scene"]) == (n, scene) and row["smooth"]["converged"]]
        ours, multigrid = (next(row for row in rows if row["kind"] == kind) for kind in ("learned", "multigrid"))
        peers = sorted((row for row in rows if row["kind"] not in ("learned", "multigrid")), key=_total)
        ratios.append(min(map(_total, (multigrid, *peers[:1]))) / _total(ours))
        peer = f"{_total(peers[0]):.3f}, {peers[0]['kind']}" if peers else ""
        times = " | ".join(f"{_total(row):.3f} ({row['smooth']['iterations']})" for row in (ours, multigrid))
        lines.append(f"| {n}³ {scene.replace('_', ' ')} | {times} | {peer} | {ratios[-1]:.2f} |")
    return [*lines, "", f"Median ratio {statistics.median(ratios):.2f}, lowest {min(ratios):.2f}, highest {max(ratios):.2f}."]


def published(result: dict[str, Any]) -> list[str]:
    """Iterations and CPU seconds of the published network and of what it was published against."""
    kinds = list(dict.fromkeys(row["kind"] for row in result["rows"]))
    lines = ["| cells, scene, right-hand side | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for n, scene in dict.fromkeys((row["n"], row["scene"]) for row in result["rows"]):
        found = {row["kind"]: row for row in result["rows"] if (row["n"], row["scene"]) == (n, scene)}
        for side in ("smooth", "random"):
            cells = " | ".join(_iterations(found[kind][side]) for kind in kinds)
            lines.append(f"| {n}³ {scene.replace('_', ' ')}, {side} | {cells} |")
    return lines


def _iterations(solved: dict[str, Any]) -> str:
    count = str(solved["iterations"]) if solved["converged"] else f"over {solved['iterations']} (at {solved['residual']:.0e})"
    return f"{count} / {solved['cpu_seconds']:.2f}"


def tables() -> str:
    """All of `poisson.md`."""
    result = json.loads(STORED.read_text())
    return "\n\n".join("\n".join(make(result)) for make in (machine, seconds, settings))


def learned_tables() -> list[str]:
    """Those of `learned_preconditioner.md`."""
    return [
        "\n".join(made) for made in (learned(json.loads(LEARNED.read_text())), published(json.loads(PUBLISHED.read_text())))
    ]


def _total(row: dict[str, Any]) -> float:
    return row["set_up_seconds"] + row["smooth"]["seconds"]


def _cell(row: dict[str, Any] | None, best: float) -> str:
    if row is None:
        return ""
    text = f"{row['set_up_seconds']:.3f} + {row['smooth']['seconds']:.3f} ({row['smooth']['iterations']})"
    if not row["smooth"]["converged"]:
        return f"{text}, not solved"
    return f"**{text}**" if _total(row) == best else text


def _same(row: dict[str, Any], name: str) -> bool:
    return row[f"{name}_fine"] == row[f"{name}_coarse"]


if __name__ == "__main__":
    print(tables(), *learned_tables(), sep="\n\n")  # noqa: T201
