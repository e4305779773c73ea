"""Figures of wave forecasts, and the page that holds them."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from forecast.verification.display import colours_of, label_of
from forecast.verification.report import image_tag, page, png
from forecast.verification.wave_scores import PERSISTENCE

if TYPE_CHECKING:
    from forecast.verification.waves import WaveVerification

SHEET_SAMPLES, SHEET_LEADS = 3, 5
HOLES = "0.55"
PANELS = (
    ("relative_l2", "relative L2 error of displacement", "log"),
    ("energy_drift", "energy drift / energy at the start", "linear"),
    ("phase_error", "phase error [ms], root mean square", "linear"),
)


def write_wave_report(found: WaveVerification, folder: Path) -> None:
    """Draw all figures into a folder and write `report.html`."""
    figures = {"curves": draw_wave_curves(found)}
    samples = shown_samples(found)
    for number, sample in enumerate(samples):
        figures[f"waves_{number}"] = draw_contact_sheet(found, sample)
    for name, figure in figures.items():
        (folder / f"{name}.png").write_bytes(png(figure))
    animate(found, samples[len(samples) // 2], folder / "waves.gif")
    names = list(found.scores["forecast"].values)
    sections = [
        f"<h1>Verification of {html.escape(names[0])}</h1>",
        f'<p class="note">{found.scores.sizes["sample"]} samples, {found.scores.sizes["lead"]} lead times to '
        f"{float(found.scores['lead'][-1]):g} s. Persistence repeats the last state that was given.</p>",
        "<h2>Scores by lead time</h2>",
        image_tag(folder, "curves", "Scores by lead time", wide=True),
        '<p class="note">Lines: medians over samples; shaded: the middle four fifths of the samples of the first forecast.</p>',
        _table(found),
        "<h2>Waves</h2>",
        *(image_tag(folder, f"waves_{number}", "Truth, forecast, difference", wide=True) for number in range(len(samples))),
        '<p class="note">The samples of least, median and largest error at the last lead time. waves.gif moves.</p>',
        "<h2>Cost</h2>",
        _cost_table(found),
        '<p class="note">Time of one sample: median, as measured when the stores were made; finite elements on one thread '
        "without mesh and assembly, simulators in batches on the threads that they had. "
        "Memory: of the whole process, libraries included.</p>",
    ]
    (folder / "report.html").write_text(page(f"Verification of {names[0]}", "\n".join(sections)), encoding="utf-8")


def shown_samples(found: WaveVerification) -> list[int]:
    """Samples of least, median and largest error of the first forecast at the last lead time."""
    last = found.scores["relative_l2"][0, :, -1].values
    order = np.argsort(last)
    places = dict.fromkeys([0, len(order) // 2, len(order) - 1])
    return [int(found.scores["sample"][order[place]]) for place in places]


def draw_wave_curves(found: WaveVerification) -> Figure:
    """Error, energy drift and phase error against lead time."""
    names = [str(name) for name in found.scores["forecast"].values]
    colours = colours_of(names)
    figure = Figure(figsize=(13, 4), layout="constrained")
    lead = found.scores["lead"].values
    for axis, (score, label, scale) in zip(figure.subplots(1, 3), PANELS, strict=True):
        for name in names:
            if name == PERSISTENCE and score != "relative_l2":
                continue
            values = found.scores[score].sel(forecast=name).values
            middle = 1e3 * np.sqrt(np.nanmean(values**2, axis=0)) if score == "phase_error" else np.nanmedian(values, axis=0)
            style = "--" if name == PERSISTENCE else "-"
            axis.plot(lead, middle, style, color=colours[name], label=label_of(name), lw=1.8)
            if name == names[0] and score != "phase_error":
                axis.fill_between(lead, *np.nanquantile(values, [0.1, 0.9], axis=0), color=colours[name], alpha=0.15, lw=0)
        axis.set(xlabel="lead time [s]", ylabel=label, yscale=scale)
        axis.grid(alpha=0.3)
        if score != "relative_l2":
            axis.axhline(0, color="0.4", lw=0.8)
    figure.axes[0].legend(fontsize="small")
    return figure


def _fields(found: WaveVerification, sample: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Times, true and forecast displacement of the first forecast with holes as NaN, and the mask."""
    forecast = found.forecasts[str(found.scores["forecast"].values[0])].sel(sample=sample)
    true = found.truth.sel(sample=sample)
    hole = true["mask"].values == 0
    times = forecast["time"].values
    place = np.abs(true["time"].values[:, None] - times).argmin(axis=0)
    fields = [np.where(hole, np.nan, values) for values in (
        true["displacement"].values[place], forecast["displacement"].values)]  # fmt: skip
    return times, fields[0], fields[1], hole


def draw_contact_sheet(found: WaveVerification, sample: int) -> Figure:
    """The medium, and truth, forecast and difference at some lead times, all in one colour scale."""
    times, true, made, hole = _fields(found, sample)
    shown = np.unique(np.linspace(0, len(times) - 1, SHEET_LEADS).round().astype(int))
    limit = float(np.nanquantile(np.abs(true[shown]), 0.998))
    extent = _extent(found)
    figure = Figure(figsize=(2.1 * (len(shown) + 1) + 0.6, 6.6), layout="constrained")
    axes = figure.subplots(3, len(shown) + 1)
    speed = np.where(hole, np.nan, found.truth["wave_speed"].sel(sample=sample).values)
    medium = axes[0, 0].imshow(speed, origin="lower", extent=extent, cmap="viridis")
    axes[0, 0].set_title("wave speed [m/s]", fontsize=9)
    figure.colorbar(medium, ax=axes[0, 0], shrink=0.75, location="left")
    rows = (("finite elements", true), (str(found.scores["forecast"].values[0]), made), ("difference", made - true))
    for row, (name, field) in enumerate(rows):
        if row:
            axes[row, 0].axis("off")
        for axis, frame in zip(axes[row, 1:], shown, strict=True):
            image = axis.imshow(field[frame], origin="lower", extent=extent, cmap="RdBu_r", vmin=-limit, vmax=limit)
            if row == 0:
                axis.set_title(f"{times[frame] - times[0]:.2f} s", fontsize=9)
        axes[row, 1].set_ylabel(name, fontsize=9)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[], facecolor=HOLES)
    figure.colorbar(image, ax=axes[:, 1:], shrink=0.6, pad=0.01, label="displacement [m]")
    error = float(found.scores["relative_l2"].sel(sample=sample)[0, -1])
    figure.suptitle(f"Sample {sample}: relative L2 error {100 * error:.1f} % at {times[-1] - times[0]:.2f} s", fontsize=10)
    return figure


def animate(found: WaveVerification, sample: int, target: Path) -> None:
    """Truth, forecast and difference of one sample, moving."""
    times, true, made, _ = _fields(found, sample)
    limit = float(np.nanquantile(np.abs(true), 0.998))
    figure = Figure(figsize=(8.4, 3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (("finite elements", true), (str(found.scores["forecast"].values[0]), made), ("difference", made - true))
    images = []
    for axis, (name, field) in zip(figure.subplots(1, 3), panels, strict=True):
        images.append(axis.imshow(field[0], origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit, extent=_extent(found)))
        axis.set(title=name, xticks=[], yticks=[], facecolor=HOLES)

    def show(frame: int) -> list[Any]:
        for image, (_, field) in zip(images, panels, strict=True):
            image.set_data(field[frame])
        figure.suptitle(f"{times[frame] - times[0]:.2f} s")
        return images

    FuncAnimation(figure, show, frames=len(times)).save(target, writer=PillowWriter(fps=5), dpi=70)


def _extent(found: WaveVerification) -> tuple[float, float, float, float]:
    y, x = found.truth["y"].values, found.truth["x"].values
    dy, dx = (y[1] - y[0]) / 2, (x[1] - x[0]) / 2
    return (x[0] - dx, x[-1] + dx, y[0] - dy, y[-1] + dy)


def _table(found: WaveVerification) -> str:
    scores = found.scores
    rows = []
    for name in scores["forecast"].values:
        one = scores.sel(forecast=name)
        cells = [f"{100 * float(value):.2f}" for value in np.nanmedian(one["relative_l2"].values, axis=0)]
        rows.append(f"<tr><td>{html.escape(label_of(str(name)))}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{float(lead):.2g} s</th>" for lead in scores["lead"].values)
    title = "<h3>Relative L2 error of displacement [%], median over samples</h3>"
    return f'{title}<div class="scroll"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'


def _cost_table(found: WaveVerification) -> str:
    columns = {
        "parameters": "parameters", "training_seconds": "training [s]", "training_memory_mb": "peak memory of training [MB]",
        "seconds_per_sample": "one sample [ms]", "memory_mb": "peak memory of making samples [MB]",
    }  # fmt: skip
    solver = found.costs.get("finite elements", {}).get("seconds_per_sample")
    rows = []
    for name, cost in found.costs.items():
        cells = [f"{cost[key] * (1e3 if key == 'seconds_per_sample' else 1):,.5g}" if key in cost else "–" for key in columns]
        own = cost.get("seconds_per_sample")
        cells.append(f"{solver / own:.2f}" if solver and own else "–")
        rows.append(f"<tr><td>{html.escape(label_of(name))}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{text}</th>" for text in (*columns.values(), "speed-up over finite elements"))
    return f'<div class="scroll"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
