"""Statistics of forecasts and baselines on one sample, a block of initial times at a time.

Nothing larger than `memory_limit` is read at once: blocks of initial times, and of lead times where a single forecast is larger
than that. While one block is worked on, the next one is read. A block is worked on in pieces that fit a processor's cache, by
as many threads as there are processors: statistics of mean square error and correlation are then bound by the reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from jaxtyping import Float, Float32, Float64

from data_pipelines.selection import select
from data_pipelines.variables import VARIABLES, Channel
from forecast.verification.baselines import Baseline, baseline_fields
from forecast.verification.fields import MISSING, Fields, Regions
from forecast.verification.inputs import VerificationError, stack
from forecast.verification.sample import Sample
from forecast.verification.statistics import Means, Space, Statistic
from forecast.verification.training import Climatology
from gpu.cores import usable_cores

PIECE = 2**17  # values of a field that are worked on at a time: as float64 a megabyte


@dataclass(frozen=True)
class Contest:
    """Everything that is scored together.

    Attributes
    ----------
    forecasts
        By name, in the layout of `inputs`; the one under test first.
    baselines
        Fitted, by name.
    truth
        In the layout of `inputs`.
    channels
        What is scored.
    sample
        On which initial and lead times.
    climatology
        For anomalies; None leaves ACC and activity NaN.
    step
        Time step of the analyses from which baselines start.
    weights
        (region, lat, lon), the first one global.
    """

    forecasts: Mapping[str, xr.Dataset]
    baselines: Mapping[str, Baseline]
    truth: xr.Dataset
    channels: tuple[Channel, ...]
    sample: Sample
    climatology: Climatology | None
    step: np.timedelta64
    weights: Float64[np.ndarray, "region lat lon"]

    @property
    def names(self) -> list[str]:
        """Forecasts, then baselines."""
        return [*self.forecasts, *self.baselines]

    @property
    def members(self) -> dict[str, int]:
        """Size of each ensemble, by name of the forecast; 1 where there are no members."""
        return {name: self.forecasts[name].sizes.get("number", 1) if name in self.forecasts else 1 for name in self.names}

    @property
    def has_ensembles(self) -> bool:
        """Whether any forecast has members."""
        return any("number" in forecast.dims for forecast in self.forecasts.values())


@dataclass
class Block:
    """Fields of some initial and lead times, and their statistics.

    Attributes
    ----------
    inits, leads
        Positions in the sample.
    entrants
        Fields of each forecast, (init, lead, channel, lat, lon), members in front.
    truth, climatology
        Of the valid times, (valid time, channel, lat, lon), and where in them those of (init, lead) are.
    usable
        (init, lead, channel): whether the field counts.
    statistics
        Of each forecast, by name: (init, lead, channel, region, [bin]).
    shares
        Share of the region's weight that counts, (init, lead, channel, region), 0 where not usable: under "" of all statistics
        without a mask of their own, under their names of the others.
    """

    inits: slice
    leads: slice
    entrants: list[Float32[np.ndarray, "*members init lead channel lat lon"]]
    truth: Float32[np.ndarray, "valid channel lat lon"]
    climatology: Float32[np.ndarray, "valid channel lat lon"] | None
    place: np.ndarray
    inside: np.ndarray
    valid: np.ndarray
    usable: np.ndarray
    present: np.ndarray | None = None
    statistics: list[dict[str, Float64[np.ndarray, "init lead channel region *bins"]]] = field(default_factory=list)
    shares: dict[str, Float64[np.ndarray, "init lead channel region"]] = field(default_factory=dict)

    def truth_of(self, lead: int) -> Float32[np.ndarray, "init channel lat lon"]:
        """Truth of a lead time, counted from the first of the block."""
        return self.truth[self.place[:, lead]]


def blocks(
    contest: Contest,
    statistics: Mapping[str, Statistic],
    wanted: Sequence[str],
    *,
    space: Space | None = None,
    missing: str = "refuse",
    memory_limit: int = 2**28,
    workers: int | None = None,
) -> Iterator[Block]:
    """Work out statistics block by block.

    Parameters
    ----------
    contest
        What.
    statistics
        All that are known, by name.
    wanted
        Names of those that are wanted.
    space
        Over what they are means; None: the contest's regions.
    missing
        What to do about NaN, among `fields.MISSING`.
    memory_limit
        Bytes of one forecast's fields that are in memory at a time.
    workers
        Threads; None: one for each processor.

    Raises
    ------
    VerificationError
        If `missing` is unknown, or a forecast holds NaN where truth does not and `missing` is "refuse".
    StoreError
        If a chunk cannot be read.
    """
    if missing not in MISSING:
        raise VerificationError(f"missing must be one of {', '.join(MISSING)}; got {missing!r}.")
    over = Regions(contest.weights) if space is None else space
    with ThreadPoolExecutor(workers or usable_cores()) as pool, ThreadPoolExecutor(1) as reader:
        for block in _one_ahead(reader, [_reading(contest, *cut) for cut in _cuts(contest, memory_limit)]):
            _mark(contest, block, missing)
            _work(contest, block, statistics, wanted, over, pool)
            yield block


def _one_ahead(reader: ThreadPoolExecutor, readings: Sequence[Callable[[], Block]]) -> Iterator[Block]:
    """Give what is read, and read the next meanwhile."""
    ahead = reader.submit(readings[0])
    for following in [*readings[1:], None]:
        block = ahead.result()
        if following is not None:
            ahead = reader.submit(following)
        yield block


def _reading(contest: Contest, inits: slice, leads: slice) -> Callable[[], Block]:
    return lambda: _read(contest, inits, leads)


def _cuts(contest: Contest, memory_limit: int) -> Iterator[tuple[slice, slice]]:
    """Cut the sample into blocks of initial times, and of lead times where one forecast is too large."""
    latitude, longitude = contest.truth.sizes["latitude"], contest.truth.sizes["longitude"]
    per_lead = 4 * max(contest.members.values()) * len(contest.channels) * latitude * longitude
    n_leads = contest.sample.leads.size
    inits_at_once = max(1, memory_limit // (per_lead * n_leads))
    leads_at_once = n_leads if memory_limit >= per_lead * n_leads else max(1, memory_limit // per_lead)
    for init in range(0, contest.sample.initial_times.size, inits_at_once):
        for lead in range(0, n_leads, leads_at_once):
            yield (
                slice(init, min(init + inits_at_once, contest.sample.initial_times.size)),
                slice(lead, min(lead + leads_at_once, n_leads)),
            )


def _read(contest: Contest, inits: slice, leads: slice) -> Block:
    """Read a block; where truth has no analysis of a valid time, `place` points to another and `inside` is False."""
    inside = contest.sample.inside[inits, leads]
    valid = contest.sample.initial_times[inits, None] + contest.sample.leads[leads]
    known = np.where(inside, valid, valid[inside][0] if inside.any() else contest.truth["time"].values[0])
    unique, place = np.unique(known, return_inverse=True)
    truth = stack(select(contest.truth, time=unique), contest.channels)
    climatology = None if contest.climatology is None else contest.climatology.at(unique)
    entrants = [_fields(contest, name, inits, leads) for name in contest.names]
    others = dict(zip(contest.names, entrants, strict=True))
    for name, fields in (others if climatology is None else others | {"climatology": climatology}).items():
        _refuse_other_units(name, fields, truth, contest.channels)
    usable = np.broadcast_to(inside[..., None], (*inside.shape, len(contest.channels))).copy()
    return Block(inits, leads, entrants, truth, climatology, place.reshape(valid.shape), inside, known, usable)


def _refuse_other_units(name: str, fields: np.ndarray, truth: np.ndarray, channels: Sequence[Channel]) -> None:
    """Refuse values that no atmosphere has where those they are compared with are possible: units are missing, or wrong."""
    few = max(1, truth.shape[-2] // 32)  # of their rows and columns are enough
    for position, channel in enumerate(channels):
        if (variable := VARIABLES.get(channel.variable)) is None:
            continue
        low, high = variable.valid_range
        theirs, ours = (array[(*(0,) * (array.ndim - 3), position)][::few, ::few] for array in (fields, truth))
        if not np.isfinite(theirs).any() or not np.isfinite(ours).any():
            continue
        usual = {name: float(np.nanmedian(theirs)), "truth": float(np.nanmedian(ours))}
        odd = [who for who, value in usual.items() if not low <= value <= high]
        if len(odd) == 1:
            other = next(who for who in usual if who not in odd)
            raise VerificationError(
                f"{odd[0]}: {channel} is about {usual[odd[0]]:.4g}; wanted {low:g} to {high:g} {variable.units}, as {other}'s. "
                f"Say its units in its attribute units (they are converted), or correct them."
            )


def _fields(
    contest: Contest, name: str, inits: slice, leads: slice
) -> Float32[np.ndarray, "*members init lead channel lat lon"]:
    times, lead_times = contest.sample.initial_times[inits], contest.sample.leads[leads]
    if name in contest.baselines:
        return baseline_fields(
            contest.baselines[name], contest.climatology, contest.truth, contest.channels, times, lead_times, contest.step
        )
    forecast = contest.forecasts[name]
    has = np.isin(lead_times, forecast["prediction_timedelta"].values)
    fields = stack(select(forecast, time=times, prediction_timedelta=lead_times[has]), contest.channels)
    if "number" in forecast.dims:
        fields = np.moveaxis(fields, 1, 0)
    if has.all():
        return fields
    axis = fields.ndim - 4
    padded = np.full((*fields.shape[:axis], has.size, *fields.shape[axis + 1 :]), np.nan, dtype=np.float32)
    padded[..., has, :, :, :] = fields
    return padded


def _mark(contest: Contest, block: Block, missing: str) -> None:
    """Find out what counts: which fields (`usable`), and which of their points (`present`, None for all)."""
    lead_times = contest.sample.leads[block.leads]
    known = None if _complete(block.truth) else np.isfinite(block.truth)
    if missing == "propagate":
        return
    if known is not None:
        block.present = known[block.place]
        block.usable &= block.present.any(axis=(-2, -1))
    for name, forecast in zip(contest.names, block.entrants, strict=True):
        has = np.ones(lead_times.size, dtype=bool)  # a lead time that a rival does not have stays NaN for it alone
        if name in contest.forecasts:
            has = np.isin(lead_times, contest.forecasts[name]["prediction_timedelta"].values)
        if _complete(forecast):
            continue
        there = np.isfinite(forecast)
        there = there.all(axis=0) if forecast.ndim == 6 else there
        there[:, ~has] = True
        if missing == "skip_points":
            block.present = there if block.present is None else block.present & there
            block.usable &= block.present.any(axis=(-2, -1))
            continue
        bad = (~there if block.present is None else ~there & block.present).any(axis=(-2, -1)) & block.usable
        if bad.any() and missing == "refuse":
            _refuse(contest, block, name, bad)
        block.usable &= ~bad


def _complete(values: np.ndarray) -> bool:
    """Whether nothing is NaN or infinite: one sum tells, and is quicker than asking every value."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())


def _refuse(contest: Contest, block: Block, name: str, bad: np.ndarray) -> None:
    init, lead, channel = np.argwhere(bad)[0]
    raise VerificationError(
        f"{name} holds NaN in {contest.channels[channel]} at initial time "
        f"{np.datetime64(contest.sample.initial_times[block.inits][init], 'h')}, lead time "
        f"{np.timedelta64(contest.sample.leads[block.leads][lead], 'h')} (and {bad.sum() - 1} more in this block), where truth "
        f"has values. Run the forecast again, or leave such pairs out for all: allow_missing=true of the command, "
        f"missing='skip_fields' in Python."
    )


def _work(
    contest: Contest,
    block: Block,
    statistics: Mapping[str, Statistic],
    wanted: Sequence[str],
    space: Space,
    pool: ThreadPoolExecutor,
) -> None:
    """Work out the statistics of a block, in pieces of pairs of initial and lead time."""
    n_pairs = block.place.size
    place, valid = block.place.ravel(), block.valid.ravel()
    per_pair = int(np.prod(block.truth.shape[1:]))
    size = max(1, PIECE // per_pair)
    pieces = [slice(first, min(first + size, n_pairs)) for first in range(0, n_pairs, size)]
    masked = [name for name in wanted if statistics[name].mask is not None]
    present = None if block.present is None else block.present.reshape(n_pairs, *block.present.shape[2:])

    def piece_of(
        forecast: Float[np.ndarray, "*members pair channel lat lon"], piece: slice
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        fields = Fields(
            forecast[..., piece, :, :, :],
            block.truth[place[piece]],
            None if block.climatology is None else block.climatology[place[piece]],
            None if present is None else present[piece],
            valid[piece],
            contest.channels,
        )
        means = Means(fields, space, statistics)
        return {name: means[name] for name in wanted}, {name: means.share(name) for name in masked}

    for forecast in block.entrants:
        flat = forecast.reshape(*forecast.shape[:-5], n_pairs, *forecast.shape[-3:])
        found = list(pool.map(lambda piece, flat=flat: piece_of(flat, piece), pieces))
        block.statistics.append(_joined([means for means, _ in found], block.place.shape))
    shares = {"": space.share(block.present, block.usable.shape), **_joined([share for _, share in found], block.place.shape)}
    usable = block.usable.reshape(*block.usable.shape, *[1] * len(space.shape))
    block.shares = {name: np.where(usable, share, 0.0) for name, share in shares.items()}


def _joined(pieces: Sequence[Mapping[str, np.ndarray]], pairs: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Pieces behind one another, with the axis of pairs parted into initial and lead times."""
    joined = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    return {name: values.reshape(*pairs, *values.shape[1:]) for name, values in joined.items()}
