"""The audit as a short table for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from data_pipelines.audit import Audit
from data_pipelines.standardise import NOT_ASKED

MOST_LEFT_OUT = 8  # that are spelled out


def audit_table(audit: Audit) -> RenderableType:
    """One row per field, then span, changes and findings in a line each."""
    table = Table(title="Audit", title_justify="left", show_edge=False, pad_edge=False)
    for header in ("field", "units", "minimum", "mean", "maximum", "missing"):
        table.add_column(header, justify="left" if header in ("field", "units") else "right", overflow="fold")
    for channel in audit.channels:
        name = channel.variable if channel.level is None else f"{channel.variable} {channel.level} hPa"
        numbers = (f"{value:.4g}" for value in (channel.minimum, channel.mean, channel.maximum))
        table.add_row(name, channel.units, *numbers, f"{channel.nan_fields}/{channel.fields}")
    lines: list[RenderableType] = [table, Text(_overview(audit))]
    if audit.changes:
        lines.append(Text(f"{len(audit.changes)} changes at the door, listed in the audit file."))
    lost = [text for text in audit.left_out if not text.endswith(NOT_ASKED)]
    lines += [Text(f"left out: {text}", style="yellow") for text in lost[:MOST_LEFT_OUT]]
    if len(lost) > MOST_LEFT_OUT:
        lines.append(Text(f"{len(lost) - MOST_LEFT_OUT} more left out, listed in the audit file.", style="yellow"))
    for finding in audit.findings:
        word, style = ("accepted", "yellow") if finding.accepted else ("refused", "red")
        lines.append(Text(f"{word} {finding.name}: {finding.message}", style=style))
    return Group(*lines)


def _overview(audit: Audit) -> str:
    span = f"{audit.span[0]} to {audit.span[1]}" if audit.span else "no time"
    step = f", every {audit.step_hours:g} h" if audit.step_hours else ""
    if audit.step_seconds:
        step = f", every {audit.step_seconds:g} s"
    samples = f"{audit.samples} samples of " if audit.samples else ""
    return f"{samples}{audit.steps} times, {span}{step}; grid {audit.grid}"
