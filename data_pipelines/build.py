"""Any source -> one analysis store, audited, in one pass.

The store grows in `STORE.partial` and takes its name when it is complete, so a store that is there is whole. Beside
it, `STORE.progress.jsonl` says which blocks are done: a build that was killed, or that found the disk full, goes on
from there when the same command runs again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from dask.base import optimize

from data_pipelines.audit import FORMAT, Audit, Auditor, BlockReport, Finding, check_allowed
from data_pipelines.combine import Join
from data_pipelines.contracts import CONTRACT
from data_pipelines.locations import beside, is_url
from data_pipelines.sources import Selection, SourceError, locations_of, open_sources
from data_pipelines.standardise import LEFT_OUT, NOTES, meanings, restricted
from data_pipelines.store import (
    ACCEPTED,
    COMPRESSIONS,
    INCOMPLETE,
    StoreError,
    combine_digests,
    create_analysis_store,
    exists,
    field_digest,
    is_unfinished,
    load_checked,
    refuse_existing,
    set_attributes,
    steps_per_chunk,
    write_analysis,
    writing,
)
from data_pipelines.variables import canonical_order

_BLOCK_BYTES = 96 * 2**20  # read at once; one more block is read ahead
_BLOCKS_PER_GRAPH = 512  # dask looks at its whole graph for every read: of 40 years 4 s a block, of so many 10 ms
_REMOTE_READS = 16  # at a time: object stores answer slowly, but many at once

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Recipe:
    """How a store is built from what the sources give.

    Attributes
    ----------
    derive
        Variables to compute from those read, by their names in `data_pipelines.derived.DERIVATIONS`; what they are
        computed from is stored as well only if `Selection.variables` is None or names it.
    grid
        Regrid conservatively to this grid: "240x121" (longitudes x latitudes; an odd number of latitudes has
        poles), or "1.5deg" (with poles). None keeps the source's.
    compression
        "none", "lz4" or "zstd".
    join
        "exact", or "inner" to keep the times that all sources have.
    allow
        Defects to accept, by their names in `data_pipelines.audit.FINDINGS`.
    attributes
        Global attributes of the store: title, source, license ...
    restart
        Throw an unfinished copy away instead of going on with it.
    """

    derive: tuple[str, ...] = ()
    grid: str | None = None
    compression: str = "lz4"
    join: Join = "exact"
    allow: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    restart: bool = False

    def __post_init__(self) -> None:
        check_allowed(self.allow)
        if self.compression not in COMPRESSIONS:
            raise StoreError(f"compression must be one of {COMPRESSIONS}; got {self.compression!r}.")
        if self.grid is not None:
            parse_grid(self.grid)


def build_analysis_store(
    sources: Sequence[str | Path],
    out: str | Path,
    selection: Selection | None = None,
    recipe: Recipe | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Build an analysis store and its audit.

    Parameters
    ----------
    sources
        Stores, files, folders, globs or URLs; what they hold is put side by side (variables) or end to end (times).
    out
        New folder, or a URL. The audit goes beside it, as `<out>.audit.json`.
    selection
        What to take of the sources.
    recipe
        What to make of it.
    progress
        Called with (time steps done, all time steps).

    Returns
    -------
    The audit.

    Raises
    ------
    StoreError
        If `out` exists, the disk is full, or a chunk of a source cannot be read.
    SourceError
        If a source is missing, lacks something wanted, or does not fit the others.
    AuditError
        If the data would poison a training run and that was not allowed by name.
    """
    recipe = recipe or Recipe()
    selection = selection or Selection()
    if not (is_url(out) and is_unfinished(out)):
        refuse_existing(out)
    opened = _regridded(_with_derived(sources, selection, recipe), recipe.grid)
    dataset, times = _without_duplicates(opened)
    auditor = Auditor(dataset, [str(source) for source in sources], recipe.allow, times)
    _audit_of(auditor.metadata_findings(), auditor).raise_if_refused()
    ledger = _Ledger(out, _fingerprint(sources, dataset, selection, recipe))
    ledger.prepare(recipe)
    if not ledger.created:
        _create(ledger, dataset, _attributes(dataset, sources, recipe, auditor), recipe.compression)
    digests = _fill(dataset, auditor, ledger, any(is_url(source) for source in sources), progress)
    report = auditor.result(data_hash=combine_digests(dataset, digests), store=str(out))
    with writing(out):
        report.write(beside(out, ".audit.json"))
    if not report.accepted:
        ledger.refused([finding.name for finding in report.refused])
    report.raise_if_refused(f" The report is in {beside(out, '.audit.json')}; what was read is kept for that.")
    _finish(ledger, report)
    return report


def _create(ledger: _Ledger, dataset: xr.Dataset, attributes: Mapping[str, Any], compression: str) -> None:
    ledger.begin()
    template = dataset.drop_vars("expver", errors="ignore")
    try:
        create_analysis_store(ledger.partial, template, compression=compression, attributes=attributes)
    except StoreError:  # nothing is in it yet that is worth keeping
        ledger.discard()
        raise
    ledger.mark_created()


def _audit_of(findings: list[Finding], auditor: Auditor) -> Audit:
    report = auditor.result()
    report.findings = findings
    return report


def _with_derived(sources: Sequence[str | Path], selection: Selection, recipe: Recipe) -> xr.Dataset:
    if not recipe.derive:
        return open_sources(sources, selection, join=recipe.join)
    from data_pipelines.derived import DERIVATIONS, derive

    wanted = selection.variables
    if wanted is not None:
        inputs = [name for derived in recipe.derive if derived in DERIVATIONS for name in DERIVATIONS[derived].inputs]
        asked = [name for name in wanted if not set(meanings(name)) & set(recipe.derive)]
        selection = restricted(selection, variables=list(dict.fromkeys([*asked, *inputs])))
    read = open_sources(sources, selection, join=recipe.join)
    out = derive(read, recipe.derive)
    notes = [f"{name} computed from {', '.join(DERIVATIONS[name].inputs)}" for name in recipe.derive if name not in read]
    if wanted is not None:
        out = out.drop_vars([name for name in out.data_vars if not _is_wanted(str(name), [*wanted, *recipe.derive])])
    out = out[canonical_order(str(name) for name in out.data_vars)].map(_as_stored, keep_attrs=True)
    return out.assign_attrs({**read.attrs, NOTES: [*read.attrs.get(NOTES, []), *notes]})


def _is_wanted(name: str, wanted: Sequence[str]) -> bool:
    return any(name in meanings(asked) for asked in wanted)


def _as_stored(array: xr.DataArray) -> xr.DataArray:
    return array.astype(CONTRACT.dtype).transpose(*(dim for dim in CONTRACT.dims if dim in array.dims))


def _regridded(dataset: xr.Dataset, grid: str | None) -> xr.Dataset:
    if grid is None:
        return dataset
    from data_pipelines.regrid import regrid_conservative

    latitude, longitude = parse_grid(grid)
    out = regrid_conservative(dataset.drop_vars("expver", errors="ignore"), latitude, longitude)
    if "expver" in dataset.coords:
        out = out.assign_coords(expver=dataset["expver"])
    notes = [
        *dataset.attrs.get(NOTES, []),
        f"regridded conservatively from {dataset.sizes['latitude']} x {dataset.sizes['longitude']}",
    ]
    return out.assign_attrs({**dataset.attrs, NOTES: notes})


def parse_grid(grid: str) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes (north first) and longitudes of a grid given as "240x121", "64x32" or "1.5deg".

    As in WeatherBench 2, the first number counts longitudes; an odd number of latitudes includes the poles, an even
    one does not.

    Raises
    ------
    SourceError
        If the text says no such grid.
    """
    text = grid.strip().lower()
    try:
        if text.endswith("deg"):
            step = float(text.removesuffix("deg"))
            columns, rows = round(360.0 / step), round(180.0 / step) + 1
            if abs(columns * step - 360.0) > 1e-6 or abs((rows - 1) * step - 180.0) > 1e-6:
                raise ValueError
        else:
            columns, rows = (int(part) for part in text.split("x"))
        if columns < 4 or rows < 2:
            raise ValueError
    except (ValueError, ZeroDivisionError) as error:
        raise SourceError(
            "grid must be LONGITUDESxLATITUDES such as 240x121 or 64x32, or a step that divides 180 such as 1.5deg; "
            f"got {grid!r}."
        ) from error
    if rows % 2:
        latitude = np.linspace(90.0, -90.0, rows)
    else:
        half = 90.0 / rows
        latitude = np.linspace(90.0 - half, -90.0 + half, rows)
    return latitude, np.arange(columns) * (360.0 / columns)


def _without_duplicates(dataset: xr.Dataset) -> tuple[xr.Dataset, np.ndarray | None]:
    if "time" not in dataset.dims:
        return dataset, None
    times = dataset["time"].values
    first = np.concatenate([[True], np.diff(times) != np.timedelta64(0, "ns")])
    return (dataset if first.all() else dataset.isel(time=np.flatnonzero(first))), times


def _attributes(dataset: xr.Dataset, sources: Sequence[str | Path], recipe: Recipe, auditor: Auditor) -> dict[str, Any]:
    from data_pipelines.sample import SAMPLE_ATTRIBUTES, is_sample

    known = SAMPLE_ATTRIBUTES if all(not is_url(source) and is_sample(source) for source in sources) else {}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        **{key: value for key, value in dataset.attrs.items() if key not in (NOTES, LEFT_OUT)},
        **known,
        **recipe.attributes,
        NOTES: None,
        LEFT_OUT: None,
        "date_created": now,
        "history": f"{now} built by data_pipelines.build_store from {', '.join(Path(str(source)).name for source in sources)}",
        ACCEPTED: sorted({finding.name for finding in auditor.metadata_findings() if finding.name in recipe.allow}),
        INCOMPLETE: f"being built since {now}",
    }


def _fill(
    dataset: xr.Dataset, auditor: Auditor, ledger: _Ledger, remote: bool, progress: Progress | None
) -> dict[str, list[bytes]]:
    """Read, audit and write block by block; return the digest of every field."""
    timed = [str(name) for name, array in dataset.data_vars.items() if "time" in array.dims]
    static = dataset.drop_vars(["expver", *timed], errors="ignore")
    digests: dict[str, list[bytes]] = {str(name): [] for name in dataset.data_vars}
    if static.data_vars:
        loaded = load_checked(static)
        auditor.keep(auditor.look(loaded))
        for name, array in loaded.data_vars.items():
            digests[str(name)] = [field_digest(array.values)]
    total = dataset.sizes.get("time", 0)
    blocks = list(_blocks(dataset[timed], ledger.partial)) if total else []
    missing = [block for block in blocks if block.start not in ledger.done]
    for block, loaded in _read_ahead(dataset[timed], missing, remote):
        report = auditor.look(loaded)
        write_analysis(ledger.partial, loaded)
        ledger.add(_Done(block.start, report, {name: [field_digest(step) for step in loaded[name].values] for name in timed}))
        if progress is not None:
            progress(block.stop, total)
    for block in blocks:
        done = ledger.done[block.start]
        auditor.keep(done.report)
        for name in timed:
            digests[name] += done.digests[name]
    return digests


def _blocks(dataset: xr.Dataset, store: str | Path) -> Iterator[slice]:
    """Spans of time that end where chunks of the store end, as large as memory allows."""
    total = dataset.sizes["time"]
    per_step = max(1, sum(4 * array.size for array in dataset.data_vars.values()) // total)
    chunk = steps_per_chunk(store)
    size = chunk * max(1, _BLOCK_BYTES // (per_step * chunk))
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def _read_ahead(dataset: xr.Dataset, blocks: Sequence[slice], remote: bool) -> Iterator[tuple[slice, xr.Dataset]]:
    """Read the next block while the last one is audited and written."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        pending: deque[tuple[slice, Future[xr.Dataset]]] = deque()
        for block, lazy in _cut(dataset, blocks):
            pending.append((block, reader.submit(_read, lazy, remote)))
            if len(pending) > 1:
                ready, future = pending.popleft()
                yield ready, future.result()
        for ready, future in pending:
            yield ready, future.result()


def _cut(dataset: xr.Dataset, blocks: Sequence[slice]) -> Iterator[tuple[slice, xr.Dataset]]:
    """Every block, lazy, out of a graph that holds little else."""
    for begin in range(0, len(blocks), _BLOCKS_PER_GRAPH):
        some = blocks[begin : begin + _BLOCKS_PER_GRAPH]
        first = some[0].start
        (section,) = optimize(dataset.isel(time=slice(first, some[-1].stop)))
        for block in some:
            yield block, section.isel(time=slice(block.start - first, block.stop - first))


def _read(lazy: xr.Dataset, remote: bool) -> xr.Dataset:
    try:
        return lazy.compute(scheduler="threads", num_workers=_REMOTE_READS if remote else os.cpu_count())
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - decoders raise every kind of exception; reading again names the field
        return load_checked(lazy)


def _finish(ledger: _Ledger, report: Audit) -> None:
    accepted = sorted({finding.name for finding in report.findings if finding.name in set(ledger.allow)})
    set_attributes(
        ledger.partial, {NOTES: None, LEFT_OUT: None, INCOMPLETE: None, ACCEPTED: accepted, "data_hash": report.data_hash}
    )
    ledger.finish()


@dataclass(frozen=True)
class _Done:
    """A block that is written: its first step, what the audit saw in it, and the digests of every variable's fields."""

    block: int
    report: BlockReport
    digests: dict[str, list[bytes]]

    def as_json(self) -> dict[str, Any]:
        digests = {name: [digest.hex() for digest in fields] for name, fields in self.digests.items()}
        return {"block": self.block, "report": self.report.as_json(), "digests": digests}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> _Done:
        digests = {sys.intern(name): [bytes.fromhex(text) for text in fields] for name, fields in content["digests"].items()}
        return cls(content["block"], BlockReport.from_json(content["report"]), digests)


class _Ledger:
    """What of a build is done: an append-only file beside the store, one line of JSON per block."""

    def __init__(self, out: str | Path, fingerprint: str) -> None:
        self.out = out
        self.partial: str | Path = out if is_url(out) else beside(out, ".partial")
        self.path = beside(out, ".progress.jsonl")
        self.fingerprint = fingerprint
        self.allow: tuple[str, ...] = ()
        self.done: dict[int, _Done] = {}
        self.created = False

    def prepare(self, recipe: Recipe) -> None:
        """Go on with an unfinished copy, or make room for a new one.

        Raises
        ------
        StoreError
            If an unfinished copy was made with other settings, or something else has its name.
        """
        self.allow = recipe.allow
        fingerprint, created, refused = self._read()
        if fingerprint is None:
            if exists(self.partial):
                raise StoreError(
                    f"{self.partial} is in the way, and no interrupted build made it. Move it away, or choose another out=."
                )
            return
        same = fingerprint == self.fingerprint
        answered = refused is not None and set(refused) <= set(recipe.allow)
        if recipe.restart or (refused is not None and not (same and answered)):
            self.discard()
        elif not same:
            raise StoreError(
                f"an unfinished copy made with other settings, from changed sources or by another version is at "
                f"{self.partial}. Run the command that made it to finish it, or give restart=true to throw it away."
            )
        else:
            self.created = created and exists(self.partial)
            if not self.created:
                self.discard()

    def begin(self) -> None:
        with writing(self.out):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps({"fingerprint": self.fingerprint}) + "\n", encoding="utf-8")

    def mark_created(self) -> None:
        self._append({"created": True})
        self.created = True

    def add(self, done: _Done) -> None:
        self._append(done.as_json())
        self.done[done.block] = done

    def refused(self, names: Sequence[str]) -> None:
        self._append({"refused": list(names)})

    def finish(self) -> None:
        """Give the complete store its name."""
        if not is_url(self.out):
            refuse_existing(self.out)
            os.replace(self.partial, self.out)
        self.path.unlink()

    def _append(self, entry: Mapping[str, Any]) -> None:
        with writing(self.out), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _read(self) -> tuple[str | None, bool, list[str] | None]:
        """Take the blocks that are done from the file; give its fingerprint, whether the copy was created, what was refused.

        The line that was being written when a build was killed is cut off: the next one would be torn with it.
        """
        fingerprint, created, refused, whole = None, False, None, 0
        if not self.path.exists():
            return None, False, None
        with writing(self.out), self.path.open("rb+") as file:
            for text in file:  # gigabytes for a long record of many channels: a line at a time
                try:
                    line = json.loads(text)
                except ValueError:
                    break
                if not text.endswith(b"\n"):
                    break
                whole += len(text)
                fingerprint, created = line.get("fingerprint", fingerprint), created or "created" in line
                refused = line.get("refused")
                if "block" in line and fingerprint == self.fingerprint:
                    self.done[line["block"]] = _Done.from_json(line)
            file.truncate(whole)
        return fingerprint, created, refused

    def discard(self) -> None:
        """Throw the unfinished copy away.

        Raises
        ------
        StoreError
            If it is remote: nothing is deleted there.
        """
        if is_url(self.partial) and exists(self.partial):
            raise StoreError(f"{self.partial} holds an unfinished copy that cannot be used; delete it, or choose another out=.")
        if not is_url(self.partial):
            shutil.rmtree(self.partial, ignore_errors=True)
        self.path.unlink()
        self.done = {}


def _fingerprint(sources: Sequence[str | Path], dataset: xr.Dataset, selection: Selection, recipe: Recipe) -> str:
    """What must be the same for a build to go on: settings, coordinates, and the state of local files."""
    digest = hashlib.sha256()
    settings = {
        "format": FORMAT,
        "selection": asdict(selection),
        "derive": recipe.derive,
        "grid": recipe.grid,
        "block": _BLOCK_BYTES,
        "compression": recipe.compression,
        "join": recipe.join,
        "sources": [_state(source) for source in sources],
        "variables": [str(name) for name in dataset.data_vars],
    }
    digest.update(json.dumps(settings, sort_keys=True, default=list).encode())
    for name in ("time", "level", "latitude", "longitude"):
        if name in dataset.coords:
            digest.update(np.ascontiguousarray(dataset[name].values).tobytes())
    return digest.hexdigest()


def _state(source: str | Path) -> list[Any]:
    """Name, number, size and latest change of the files of a source; of a URL its name only."""
    if is_url(source):
        return [str(source)]
    places = [Path(location) for location in locations_of(source)]
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file()]
    stats = [file.stat() for file in files]
    return [str(source), len(stats), sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)]
