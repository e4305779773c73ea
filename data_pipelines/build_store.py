"""Build an analysis store from any source, audited.

    python -m data_pipelines.build_store source=PATH_OR_URL[,...] out=STORE

`source=sample` is the shipped ERA5 sample, `source=simulated` a simulated atmosphere of `simulated.months` months,
`source=finite_element_waves` a wave store of `waves.samples` simulations, spread as `dask` says. XDMF, Exodus and PVD files,
and folders of VTU files, are results of finite elements that become a wave store as `results` says, one sample each.
Every setting is listed in configs/data_pipelines/build_store.yaml.
"""

from __future__ import annotations

import glob
import logging
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from configs.compose import entry
from data_pipelines.audit import Audit
from data_pipelines.audit_table import audit_table
from data_pipelines.build import Recipe, build_analysis_store
from data_pipelines.combine import Join
from data_pipelines.finite_elements.mesh_results import is_mesh_result
from data_pipelines.locations import beside, is_url
from data_pipelines.sample import sample_sources
from data_pipelines.simulation_workers import DaskConfig
from data_pipelines.sources import Selection
from data_pipelines.sources.finite_element_waves import WaveConfig
from data_pipelines.sources.mesh_results import MeshResultsConfig
from data_pipelines.sources.simulated_atmosphere import SimulationConfig, simulate_all
from data_pipelines.standardise import SourceError
from data_pipelines.wave_ensemble import build_wave_store, build_wave_store_of_results

SAMPLE, SIMULATED, WAVES = "sample", "simulated", "finite_element_waves"


@dataclass
class BuildStoreConfig:
    """Settings of `python -m data_pipelines.build_store`; see `Selection` and `Recipe` for what they mean."""

    source: list[str]
    out: str
    variables: list[str] | None = None
    levels: list[int] | None = None
    start: str | None = None
    end: str | None = None
    every: str | None = None
    member: int | None = None
    time: str | None = None
    units: dict[str, str] = field(default_factory=dict)
    preliminary: bool = False
    derive: list[str] = field(default_factory=list)
    grid: str | None = None
    compression: str = "lz4"
    join: str = "exact"
    allow: list[str] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)
    restart: bool = False
    simulated: SimulationConfig = field(default_factory=SimulationConfig)
    simulated_folder: str | None = None
    waves: WaveConfig = field(default_factory=WaveConfig)
    results: MeshResultsConfig = field(default_factory=MeshResultsConfig)
    dask: DaskConfig = field(default_factory=DaskConfig)

    def __post_init__(self) -> None:
        if not self.source:
            raise SourceError(
                "source is empty; give a path, a URL, a folder or a glob, or sample, simulated or finite_element_waves."
            )
        if WAVES in self.source and len(self.source) > 1:
            raise SourceError(f"source {WAVES} makes a store of its own kind and stands alone; got {self.source}.")
        if self.join not in ("exact", "inner"):
            raise SourceError(f"join must be exact or inner; got {self.join!r}.")

    def selection(self) -> Selection:
        """What to take of the sources."""
        return Selection(
            self.variables, self.levels, self.start, self.end, self.every, self.member, self.time, self.units, self.preliminary
        )

    def recipe(self) -> Recipe:
        """What to make of it."""
        join: Join = "inner" if self.join == "inner" else "exact"
        gaps = ["gaps"] if SIMULATED in self.source and self.simulated.runs > 1 else []  # between the runs
        allow = tuple(dict.fromkeys([*self.allow, *gaps]))
        return Recipe(tuple(self.derive), self.grid, self.compression, join, allow, self.attributes, self.restart)


def build(config: BuildStoreConfig, console: Console) -> Audit:
    """Resolve `sample` and `simulated`, then build with a progress bar."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        if config.source == [WAVES] and not Path(WAVES).exists():
            return _build_waves(config, bar)
        if results := _mesh_results(config):
            return _build_results(config, results, bar)
        sources = _sources(config, bar)
        task = bar.add_task("time steps", total=None)
        return build_analysis_store(
            sources,
            config.out,
            config.selection(),
            config.recipe(),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _build_waves(config: BuildStoreConfig, bar: Progress) -> Audit:
    for chatty in ("skfem", "distributed"):  # Hydra shows what they note at level INFO
        logging.getLogger(chatty).setLevel(logging.WARNING)
    task = bar.add_task("simulations", total=config.waves.samples)
    return build_wave_store(
        config.waves,
        config.out,
        dask=config.dask,
        compression=config.compression,
        allow=config.allow,
        attributes=config.attributes,
        restart=config.restart,
        progress=lambda done, total: bar.update(task, completed=done, total=total),
    )


def _mesh_results(config: BuildStoreConfig) -> list[str | Path]:
    """The sources as series of files on meshes; none where they are something else.

    Raises
    ------
    SourceError
        If only some of them are.
    """
    found = [path for source in config.source for path in _expanded(source)]
    results = [path for path in found if not is_url(path) and is_mesh_result(path)]
    if results and len(results) < len(found):
        other = next(path for path in found if path not in results)
        raise SourceError(f"results on meshes make a store of their own kind and stand alone; {other} is something else.")
    return results


def _expanded(source: str) -> list[str | Path]:
    if is_url(source) or Path(source).exists():
        return [source]
    return [Path(match) for match in sorted(glob.glob(source, recursive=True))]


def _build_results(config: BuildStoreConfig, paths: list[str | Path], bar: Progress) -> Audit:
    logging.getLogger("skfem").setLevel(logging.WARNING)
    task = bar.add_task("samples", total=len(paths))
    return build_wave_store_of_results(
        paths,
        config.results,
        config.out,
        dask=config.dask,
        compression=config.compression,
        allow=config.allow,
        attributes=config.attributes,
        restart=config.restart,
        progress=lambda done, total: bar.update(task, completed=done, total=total),
    )


def _sources(config: BuildStoreConfig, bar: Progress) -> list[str | Path]:
    sources: list[str | Path] = []
    for source in config.source:
        if source == SAMPLE and not Path(source).exists():
            sources += sample_sources()
        elif source == SIMULATED and not Path(source).exists():
            sources += _simulated(config, bar)
        else:
            sources.append(source)
    return sources


def _simulated(config: BuildStoreConfig, bar: Progress) -> list[Path]:
    folder = Path(config.simulated_folder) if config.simulated_folder else beside(config.out, ".months")
    task = bar.add_task("simulated months", total=config.simulated.months)
    return simulate_all(folder, config.simulated, config.dask, lambda done: bar.update(task, completed=done))


@entry(BuildStoreConfig, "data_pipelines/build_store", lists=("source", "variables", "levels", "derive", "allow"))
def main(config: BuildStoreConfig) -> str:
    """Build, show the audit, say where the store is."""
    console = Console(stderr=True)
    report = build(config, console)
    console.print(audit_table(report))
    where = beside(config.out, ".audit.json")
    if report.samples:
        return f"Built {config.out}: {report.samples} samples of {report.steps} time steps; audit in {where}"
    return f"Built {config.out}: {report.steps} time steps of {len(report.channels)} fields; audit in {where}"


if __name__ == "__main__":
    main()
