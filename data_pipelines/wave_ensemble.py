"""Many simulations into one wave store: spread over processes or a cluster by dask, resumed by what is missing.

The store grows in `STORE.partial`. A process writes a whole sample, then, by a rename, its mark: one JSON in
`STORE.samples` that holds what was measured and audited of it. Killed at any moment, the same command goes on with the
samples that have no mark. When all have one, the store is audited, gets its hash and its name.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from data_pipelines.audit import FORMAT, Audit, Auditor, BlockReport
from data_pipelines.errors import StoreError
from data_pipelines.finite_elements.errors import FiniteElementError
from data_pipelines.locations import beside, is_url
from data_pipelines.simulation_workers import DaskConfig, spread
from data_pipelines.sources.finite_element_waves import WaveConfig, simulate, wave_template
from data_pipelines.sources.mesh_results import MeshResultsConfig, ensemble_of
from data_pipelines.store import (
    INCOMPLETE,
    combine_digests,
    create_wave_store,
    exists,
    field_digest,
    refuse_existing,
    set_attributes,
    write_sample_coordinates,
    write_samples,
    writing,
)

Progress = Callable[[int, int], None]
Simulate = Callable[[int], tuple[xr.Dataset, dict[str, float]]]

# What is measured of a sample -> units and meaning of its coordinate in the store.
MEASURED = {
    "time_step": ("s", "time step of the solver"),
    "steps": ("1", "time steps in the record"),
    "unknowns": ("1", "unknowns of the solver"),
    "energy_start": ("m4 s-2", "kinetic and potential energy at the start of the record, per unit density"),
    "energy_end": ("m4 s-2", "kinetic and potential energy at its end"),
    "prepare_seconds": ("s", "duration of mesh, assembly and preparation"),
    "solve_seconds": ("s", "duration of marching and sampling, one thread"),
    "peak_memory_mb": ("MB", "largest memory of the process so far, its libraries included"),
}


def build_wave_store(
    config: WaveConfig,
    out: str | Path,
    *,
    dask: DaskConfig | None = None,
    compression: str = "lz4",
    allow: Sequence[str] = (),
    attributes: Mapping[str, str] | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> Audit:
    """Simulate an ensemble into a wave store, audited.

    Parameters
    ----------
    config
        What to simulate.
    out
        New local folder; the audit goes beside it, as `<out>.audit.json`.
    dask
        Where to run; here by default.
    compression, attributes
        As in `data_pipelines.store.create_store`.
    allow
        Defects to accept, by their names in `data_pipelines.audit.FINDINGS`.
    restart
        Throw an unfinished copy away instead of going on with it.
    progress
        Called with (samples done, all samples).

    Raises
    ------
    StoreError
        If `out` exists or is a URL, an unfinished copy was made with other settings, or the disk is full.
    FiniteElementError
        If a sample cannot be simulated; those that are done are kept.
    AuditError
        If the result would poison a training run.
    """
    about = {
        "title": "SIMULATED waves: finite-element solutions of the 2-D wave equation",
        "source": "scikit-fem, data_pipelines.sources.finite_element_waves",
        "license": "CC0-1.0",
        "settings": json.dumps(asdict(config), sort_keys=True),
        **(attributes or {}),
    }
    ensemble = Ensemble(out, wave_template(config), about, compression)
    return ensemble.fill(partial(simulate, config), dask or DaskConfig(), allow, restart, progress)


def build_wave_store_of_results(
    paths: Sequence[str | Path],
    config: MeshResultsConfig,
    out: str | Path,
    *,
    dask: DaskConfig | None = None,
    compression: str = "lz4",
    allow: Sequence[str] = (),
    attributes: Mapping[str, str] | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> Audit:
    """Read results of any finite-element code into a wave store, one series of files a sample.

    Parameters
    ----------
    paths
        XDMF, Exodus or PVD files, or folders of VTU files; the samples in this order.
    config
        How to read them.
    out, dask, compression, allow, attributes, restart, progress
        As for `build_wave_store`.

    Raises
    ------
    StoreError, FiniteElementError, AuditError
        As `build_wave_store`; FiniteElementError if a file cannot be read as `config` says.
    """
    read = ensemble_of(paths, config)
    about = {
        "title": "Waves on a mesh, sampled onto a regular grid",
        "source": "; ".join(Path(path).name for path in paths),
        "settings": json.dumps(asdict(config), sort_keys=True),
        **(attributes or {}),
    }
    ensemble = Ensemble(out, read.template(), about, compression)
    return ensemble.fill(read, dask or DaskConfig(), allow, restart, progress)


class Ensemble:
    """A wave store that is being filled, and the marks of its samples."""

    def __init__(self, out: str | Path, template: xr.Dataset, attributes: Mapping[str, Any], compression: str) -> None:
        if is_url(out):
            raise StoreError(
                f"waves are written to a local folder, samples become complete by a rename; got {out}. Copy it later."
            )
        self.out = Path(out).absolute()
        self.partial, self.marks = beside(self.out, ".partial"), beside(self.out, ".samples")
        self.template, self.attributes, self.compression = template, dict(attributes), compression
        self.samples = [int(sample) for sample in template["sample"].values]

    def prepare(self, restart: bool = False) -> None:
        """Create the store, or go on with an unfinished copy. Errors: see `build_wave_store`."""
        refuse_existing(self.out)
        settings = self.marks / "settings.json"
        made_by = {"format": FORMAT, "attributes": self.attributes, "compression": self.compression}
        wanted = json.dumps(made_by, sort_keys=True)
        if restart:
            self._discard()
        if settings.exists() and exists(self.partial):
            if settings.read_text(encoding="utf-8") != wanted:
                raise StoreError(
                    f"an unfinished copy made with other settings, or by another version, is at {self.partial}. Run the "
                    "command that made it to finish it, or give restart=true to throw it away."
                )
            return
        if exists(self.partial) and not self.marks.exists():
            raise StoreError(
                f"{self.partial} is in the way, and no interrupted run made it. Move it away, or choose another out=."
            )
        self._discard()  # killed while it was being created
        now = datetime.now(UTC).isoformat(timespec="seconds")
        about = {**self.attributes, "date_created": now, INCOMPLETE: f"being simulated since {now}"}
        with writing(self.out):
            self.marks.mkdir(parents=True)
        create_wave_store(self.partial, self.template, compression=self.compression, attributes=about)
        _write_whole(settings, wanted)

    def fill(
        self, simulation: Simulate, dask: DaskConfig, allow: Sequence[str], restart: bool, progress: Progress | None
    ) -> Audit:
        """Make all samples that have no mark, and finish."""
        self.prepare(restart)
        todo, total = self.missing(), len(self.samples)
        with self.closing():
            for done, _ in enumerate(spread(partial(self.make, simulation=simulation), todo, dask), total - len(todo) + 1):
                if progress is not None:
                    progress(done, total)
        return self.finish(allow)

    def missing(self) -> list[int]:
        """Samples without a mark."""
        return [sample for sample in self.samples if not self.mark_of(sample).exists()]

    def mark_of(self, sample: int) -> Path:
        """The file that says that a sample is complete."""
        return self.marks / f"{sample:06d}.json"

    def make(self, sample: int, simulation: Simulate) -> int:
        """Simulate a sample, write it, then mark it."""
        try:
            fields, measured = simulation(sample)
        except FiniteElementError as error:
            raise type(error)(f"sample {sample}: {error}") from error
        write_samples(self.partial, fields)
        report = self._auditor(()).look(fields).as_json()
        digests = {str(name): field_digest(array.values[0]).hex() for name, array in fields.data_vars.items()}
        measured = measured | {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        _write_whole(self.mark_of(sample), json.dumps({"measured": measured, "report": report, "digests": digests}))
        return sample

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Turn a full disk into an error that says where."""
        with writing(self.out):
            yield

    def finish(self, allow: Sequence[str]) -> Audit:
        """Audit all samples from their marks, write what was measured, hash, and give the store its name."""
        marks = [json.loads(self.mark_of(sample).read_text(encoding="utf-8")) for sample in self.samples]
        auditor = self._auditor(allow)
        for mark in marks:
            auditor.keep(BlockReport.from_json(mark["report"]))
        digests = {
            str(name): [bytes.fromhex(mark["digests"][name]) for mark in marks]
            for name in sorted(map(str, self.template.data_vars))
        }
        report = auditor.result(data_hash=combine_digests(self.template, digests), store=str(self.out))
        with writing(self.out):
            report.write(beside(self.out, ".audit.json"))
        report.raise_if_refused(f" The report is in {beside(self.out, '.audit.json')}.")
        names = [name for name in MEASURED if all(name in mark["measured"] for mark in marks)]
        write_sample_coordinates(
            self.partial, {name: _measured(name, [mark["measured"][name] for mark in marks]) for name in names}
        )
        set_attributes(self.partial, {INCOMPLETE: None, "data_hash": report.data_hash})
        refuse_existing(self.out)
        os.replace(self.partial, self.out)
        shutil.rmtree(self.marks)
        return report

    def _auditor(self, allow: Sequence[str]) -> Auditor:
        return Auditor(self.template, [str(self.attributes.get("source", self.out))], allow)

    def _discard(self) -> None:
        for folder in (self.partial, self.marks):
            shutil.rmtree(folder, ignore_errors=True)


def _measured(name: str, values: list[float]) -> xr.DataArray:
    units, meaning = MEASURED[name]
    return xr.DataArray(np.array(values), dims="sample", attrs={"long_name": meaning, "units": units})


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, whatever kills the process."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
