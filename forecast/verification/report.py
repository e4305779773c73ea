"""One HTML page that holds the whole verification: no other file, no network, no script."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from data_pipelines.dates import first_moment
from data_pipelines.variables import Channel
from forecast.verification.config import VerifyConfig
from forecast.verification.curves import draw_curves, draw_spectra
from forecast.verification.display import decimals_for, display_of, label_of, lead_label, title_of
from forecast.verification.evaluation import Verification
from forecast.verification.inputs import VerificationError, stack
from forecast.verification.maps import draw_maps
from forecast.verification.scorecard import SIGNIFICANT, draw_scorecard
from forecast.verification.tables import CONVENTIONS

DPI = 110
MAX_FIGURE_CHANNELS = 4  # channels in curves, spectra and maps; all are in the tables and in scores.nc
SIGN_OF_VORTICITY = "Cyclonic vorticity is positive north of the equator and negative south of it."
COASTLINE_CREDIT = "Coastlines: Natural Earth (public domain)."

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 70rem; margin: 0 auto;
  padding: 0 1rem 3rem; }
h1 { font-size: 1.5rem; margin: 1.2rem 0 .2rem; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; border-bottom: 1px solid #ddd; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; } p, li { max-width: 48rem; } .note { color: #555; font-size: .88rem; }
figure { margin: .6rem 0; overflow-x: auto; } img { max-width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .18rem .5rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #eee; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
tr.ours td { font-weight: 600; background: #eef4fb; } tr.ours td:first-child { background: #eef4fb; }
.met { color: #1a7a34; } .missed { color: #a31515; font-weight: 600; }
dt { font-weight: 600; margin-top: .5rem; } dd { margin: 0 0 0 1rem; max-width: 48rem; overflow-wrap: anywhere; }
@media (max-width: 40rem) { figure.wide img { max-width: none; width: 52rem; } body { font-size: 15px; } }
"""


def write_report(found: Verification, config: VerifyConfig, folder: Path) -> None:
    """Draw all figures into a folder and write `report.html`, which holds them all itself.

    Raises
    ------
    VerificationError
        If the map's initial time was not scored.
    """
    contest = found.contest
    leads = _positions(config.key_leads, contest.sample.leads) or [contest.sample.leads.size - 1]
    shown = list(range(min(len(contest.channels), MAX_FIGURE_CHANNELS)))
    figures = {"scorecard": draw_scorecard(found, leads)}
    metrics = ["rmse"] if contest.climatology is None else ["rmse", "acc", "activity", "bias"]
    figures["curves"] = draw_curves(found, metrics, shown)
    if found.results.spectrum_leads:
        figures["spectra"] = draw_spectra(found, shown)
    figures |= _maps(found, config, shown)
    for name, figure in figures.items():
        (folder / f"{name}.png").write_bytes(png(figure))
    (folder / "report.html").write_text(_page(found, config, leads, folder, list(figures)), encoding="utf-8")


def _positions(hours: Sequence[int], leads: np.ndarray) -> list[int]:
    available = (leads / np.timedelta64(1, "h")).tolist()
    return [available.index(hour) for hour in sorted(set(hours)) if hour in available]


def _maps(found: Verification, config: VerifyConfig, channels: Sequence[int]) -> dict[str, Figure]:
    """One figure per channel, of one initial time."""
    contest, sample = found.contest, found.contest.sample
    longitude = contest.truth["longitude"].values
    if not np.isclose(np.diff(longitude).mean() * longitude.size, 360, atol=0.1):
        return {}
    leads = _positions(config.map_leads, sample.leads)
    if config.map_time is not None:
        chosen = np.flatnonzero(sample.initial_times == first_moment(config.map_time, "map_time", VerificationError))
        if not chosen.size:
            raise VerificationError(
                f"map_time {config.map_time} is not among the scored initial times, "
                f"{np.datetime64(sample.initial_times[0], 'h')} "
                f"to {np.datetime64(sample.initial_times[-1], 'h')}. Choose one of them."
            )
        place = int(chosen[0])
    else:
        counts = sample.inside[:, leads].sum(axis=1)
        place = int(np.flatnonzero(counts == counts.max())[-1]) if leads else 0
    leads = [lead for lead in leads if sample.inside[place, lead]]
    if not leads:
        return {}
    initial_time, lead_times = sample.initial_times[place], sample.leads[leads]
    forecast = contest.forecasts[contest.names[0]].sel(time=initial_time, prediction_timedelta=lead_times)
    if "number" in forecast.dims:
        forecast = forecast.mean("number")
    fields = stack(forecast, contest.channels)
    truth = stack(contest.truth.sel(time=initial_time + lead_times), contest.channels)
    return {
        f"map_{contest.channels[channel]}": draw_maps(
            contest.channels[channel], contest.truth["latitude"].values, longitude, fields[:, channel], truth[:, channel],
            list(lead_times), initial_time, contest.names[0],
        )
        for channel in channels
    }  # fmt: skip


def png(figure: Figure) -> bytes:
    """Draw, in 256 colours: a third of the size, and no eye sees the difference in fields of two dozen."""
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    drawn.seek(0)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    return small.getvalue()


def _page(found: Verification, config: VerifyConfig, leads: Sequence[int], folder: Path, figures: Sequence[str]) -> str:
    contest, sample = found.contest, found.contest.sample
    first, last = (np.datetime_as_string(time, unit="h").replace("T", " ") for time in sample.initial_times[[0, -1]])
    missed = [target for target in found.targets if not target.met]
    verdict = (
        f'<p class="{"missed" if missed else "met"}">{len(found.targets) - len(missed)} of {len(found.targets)} targets met'
        f"{'' if missed else '.'}{': missed are marked below.' if missed else ''}</p>"
        if found.targets
        else ""
    )
    noted = "".join(f'<p class="missed">{html.escape(doubt)}</p>' for doubt in found.doubts)
    curves = (
        "Dashed: baselines. The dotted line at 0.6 is where a forecast is commonly held to lose its use."
        if contest.climatology is not None
        else "Dashed: baselines."
    )
    sections = [
        f"<h1>Verification of {html.escape(contest.names[0])}</h1>",
        f'<p class="note">{sample.initial_times.size} initial times, {first} to {last} UTC; '
        f"{sample.leads.size} lead times, {lead_label(sample.leads[0])} to {lead_label(sample.leads[-1])}. Every lead time is "
        f"scored over the initial times whose valid time is in truth, the same for all. "
        f"{html.escape(' '.join(sample.dropped))}{_figures_of(contest.channels)}</p>",
        noted,
        verdict,
        "<h2>Scorecard</h2>",
        image_tag(folder, "scorecard", "RMSE of the forecast and of every baseline by lead time", wide=True),
        _targets(found),
        "<h2>Scores by lead time</h2>",
        image_tag(folder, "curves", "Scores against lead time", wide=True),
        f'<p class="note">{curves}</p>',
    ]
    if any(name.startswith("map_") for name in figures):
        sections.append("<h2>Maps</h2>")
        sections += [image_tag(folder, name, name, wide=True) for name in figures if name.startswith("map_")]
        sections.append(f'<p class="note">Error is forecast minus truth. {SIGN_OF_VORTICITY} {COASTLINE_CREDIT}</p>')
    if "spectra" in figures:
        sections += ["<h2>Spectra</h2>", image_tag(folder, "spectra", "Zonal energy spectra", wide=True)]
        sections.append('<p class="note">A forecast below truth at high wavenumbers is smoother than the atmosphere.</p>')
    sections += ["<h2>Tables</h2>", _tables(found, leads), "<h2>How it was scored</h2>", _conventions(found, config)]
    return page(f"Verification of {contest.names[0]}", "\n".join(sections))


def _figures_of(channels: Sequence[Channel]) -> str:
    if len(channels) <= MAX_FIGURE_CHANNELS:
        return ""
    shown = ", ".join(title_of(channel) for channel in channels[:MAX_FIGURE_CHANNELS])
    return html.escape(
        f" Figures show the first {MAX_FIGURE_CHANNELS} of {len(channels)} fields, {shown}; variables=[...] chooses others. "
        f"Tables and files have all."
    )


def page(title: str, body: str) -> str:
    """A whole page around a body, with our style."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def image_tag(folder: Path, name: str, text: str, wide: bool = False) -> str:
    """A figure of a folder as part of a page."""
    data = base64.b64encode((folder / f"{name}.png").read_bytes()).decode("ascii")
    kind = ' class="wide"' if wide else ""
    return f'<figure{kind}><img alt="{html.escape(text)}" src="data:image/png;base64,{data}"></figure>'


def _targets(found: Verification) -> str:
    if not found.targets:
        return ""
    items = "".join(
        f'<li class="{"met" if target.met else "missed"}">{"met" if target.met else "MISSED"}: {html.escape(target.text)}</li>'
        for target in found.targets
    )
    unfolded = " open" if any(not target.met for target in found.targets) else ""
    return f"<details{unfolded}><summary>Targets</summary><ul>{items}</ul></details>"


def _tables(found: Verification, leads: Sequence[int]) -> str:
    contest = found.contest
    parts = []
    for channel, label in enumerate(contest.channels):
        shown = display_of(label)
        for metric, title in (("rmse", f"RMSE [{shown.units}]"), ("acc", "ACC (WeatherBench 2)")):
            if metric == "acc" and contest.climatology is None:
                continue
            scale, decimals = (shown.scale, shown.decimals) if metric == "rmse" else (1.0, 3)
            rows = [
                _row(label_of(name), found.results.scores[metric][position, 0, leads, channel] * scale, decimals, position == 0)
                for position, name in enumerate(contest.names)
            ]
            if metric == "rmse":
                rows += _tests(found, leads, channel)
                counts = "".join(f"<td>{count}</td>" for count in contest.sample.counts[leads])
                rows.append(f"<tr><td>initial times</td>{counts}</tr>")
            head = "".join(f"<th>{lead_label(contest.sample.leads[lead])}</th>" for lead in leads)
            parts.append(
                f"<h3>{html.escape(title_of(label))}: {title}</h3>"
                f'<div class="scroll"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
            )
    regions = found.scores["region"].values.tolist()
    if len(regions) > 1:
        parts += _region_tables(found, leads, regions)
    return "\n".join(parts)


def _tests(found: Verification, leads: Sequence[int], channel: int) -> list[str]:
    """Rows with the probability that a difference is chance."""
    rows = []
    for rival in found.contest.names[1:]:
        cells = []
        for lead in leads:
            p = found.significance_of(rival, lead, channel)
            cells.append("n/a" if not np.isfinite(p) else ("&lt; 0.001" if p < 0.001 else f"{p:.3f}"))
        rows.append(
            f"<tr><td>p, against {html.escape(label_of(rival))}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        )
    return rows


def _region_tables(found: Verification, leads: Sequence[int], regions: Sequence[str]) -> list[str]:
    contest = found.contest
    head = "".join(f"<th>{lead_label(contest.sample.leads[lead])}</th>" for lead in leads)
    parts = []
    for channel, label in enumerate(contest.channels):
        shown = display_of(label)
        rows = [
            _row(region, found.results.scores["rmse"][0, place, leads, channel] * shown.scale, shown.decimals, place == 0)
            for place, region in enumerate(regions)
        ]
        parts.append(
            f"<h3>{html.escape(title_of(label))}: RMSE [{shown.units}] of {html.escape(contest.names[0])} by region</h3>"
            f'<div class="scroll"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
        )
    return parts


def _row(name: str, values: np.ndarray, decimals: int, ours: bool) -> str:
    decimals = decimals_for(decimals, values)
    cells = "".join(f"<td>{'–' if not np.isfinite(value) else f'{value:.{decimals}f}'}</td>" for value in values)
    kind = ' class="ours"' if ours else ""
    return f"<tr{kind}><td>{html.escape(name)}</td>{cells}</tr>"


def _conventions(found: Verification, config: VerifyConfig) -> str:
    contest = found.contest
    licence = config.data_licence or contest.truth.attrs.get("license") or "not stated by the truth store"
    entries = {
        "Data": f"{licence} {COASTLINE_CREDIT}",
        **{key.removesuffix("_convention").replace("_", " ").capitalize(): text for key, text in CONVENTIONS.items()},
        "Climatology": "none" if contest.climatology is None else contest.climatology.description,
        "Marks": f"* p below {SIGNIFICANT:g}; ? or n/a: sample shorter than two stretches of the lead time",
        **{f"Baseline {label_of(name)}": baseline.description for name, baseline in contest.baselines.items()},
        "Files": "scores.nc (all metrics, regions and lead times), significance.nc, spectra.nc, by_initial_time.nc",
    }
    return (
        "<dl>"
        + "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(str(text))}</dd>" for key, text in entries.items())
        + "</dl>"
    )
