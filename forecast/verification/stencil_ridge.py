"""Linear ridge regression on a stencil of 9 x 9 points of the last two states, one fit per latitude.

Predictors are the standardised anomalies of all channels (of the channel itself where there are more than a handful) at the
last two analyses on the 81 nearest points; rows beyond a pole are the rows of the opposite meridian. What is fitted is the
departure from damped persistence, so that a strong penalty gives damped persistence, not zero. It can be applied in two ways:
one step rolled out, or fitted anew for each lead time; a hold-out inside the training span chooses form and penalty, lead
time by lead time and channel by channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.linalg.blas as blas
import scipy.linalg.lapack as lapack
from jaxtyping import Complex64, Float, Float32, Float64

from forecast.verification.baselines import damping
from forecast.verification.hold_out import hold_out_mse, scored_steps
from forecast.verification.inputs import VerificationError
from forecast.verification.training import TrainingData

RADIUS = 4  # points on each side: 9 x 9
WIDTH = 2 * RADIUS + 1
HISTORY = 2
MAX_COUPLED_CHANNELS = 4  # beyond this the normal equations of all channels together outgrow a latitude's data and memory


@dataclass(frozen=True)
class Choice:
    """How one channel is forecast at one lead time.

    Attributes
    ----------
    rolled_out
        True: the one-step fit is applied again and again. False: a fit for this lead time is applied once.
    penalty
        Ridge penalty as a fraction of the number of samples, for predictors of variance about 1.
    """

    rolled_out: bool
    penalty: float


# A roll-out with a weaker penalty than the first leaves the range of float32 within ten days.
CANDIDATES = tuple(Choice(True, penalty) for penalty in (1e-2, 1e-1, 1.0)) + tuple(
    Choice(False, penalty) for penalty in (1e-3, 1e-2, 1e-1, 1.0, 10.0)
)


class StencilRidge:
    """The regression, fitted with given choices; `fit_stencil_ridge` makes the choices.

    Parameters
    ----------
    training
        States to fit on.
    choices
        For each lead time in analysis steps, one choice per channel.
    fits
        Coefficients by (step, penalty), where they were fitted before.
    """

    name = "stencil_ridge"
    history = HISTORY

    def __init__(
        self,
        training: TrainingData,
        choices: dict[int, tuple[Choice, ...]],
        fits: dict[tuple[int, float], Fit] | None = None,
    ):
        self.choices = choices
        self._stencil = FieldStencil(training)
        needed = ((step, choice) for step, chosen in choices.items() for choice in chosen)
        self._fits = fits or fit_steps(training, self._stencil, _fits_of(needed))
        self.description = (
            "Linear ridge on a 9x9 stencil of two states, one fit per latitude, on top of damped persistence; form and penalty "
            f"chosen on the last third of the training span: {_summary(training, choices)}."
        )

    def predict(self, frames: np.ndarray, steps: Sequence[int]) -> Float[np.ndarray, "init lead channel lat lon"]:
        """Forecast anomalies; see `Baseline.predict`."""
        scaled = frames / self._stencil.scale[:, None, None]
        result = np.empty((frames.shape[0], len(steps), *frames.shape[2:]), dtype=np.float32)
        for choice in {choice for step in steps for choice in self.choices[step]}:
            asked = [step for step in steps if choice in self.choices[step]]
            if choice.rolled_out:
                fields = self._roll_out(self._fits[1, choice.penalty], scaled, asked)
            else:
                fields = {step: self._stencil.apply(self._fits[step, choice.penalty], scaled) for step in asked}
            for step in asked:
                channels = [position for position, own in enumerate(self.choices[step]) if own == choice]
                result[:, list(steps).index(step), channels] = fields[step][:, channels]
        return result * self._stencil.scale[:, None, None]

    def _roll_out(self, fit: Fit, scaled: np.ndarray, steps: Sequence[int]) -> dict[int, np.ndarray]:
        kept = {0: scaled[:, -1]} if 0 in steps else {}
        frames = scaled
        for step in range(1, max(steps) + 1):
            frames = np.stack([frames[:, -1], self._stencil.apply(fit, frames)], axis=1)
            if step in steps:
                kept[step] = frames[:, -1]
        return kept


def fit_stencil_ridge(training: TrainingData, steps: Sequence[int]) -> StencilRidge:
    """Choose form and penalty for each lead time and channel on a hold-out, then fit on the whole training span."""
    first, last = training.split()
    scored = scored_steps(steps, last)
    n = len(training.channels)
    fits = fit_steps(first, FieldStencil(first), _fits_of((step, choice) for step in scored for choice in CANDIDATES))
    candidates = (StencilRidge(first, dict.fromkeys(scored, (choice,) * n), fits) for choice in CANDIDATES)
    errors = np.stack([hold_out_mse(candidate, last, scored) for candidate in candidates])  # (candidate, lead, channel)
    best = np.where(np.isfinite(errors), errors, np.inf).argmin(axis=0)
    choices = {}
    for step in steps:
        nearest = min(range(len(scored)), key=lambda position: abs(np.log(scored[position] / max(step, 1))))
        choices[step] = tuple(CANDIDATES[candidate] if step > 0 else Choice(True, 1.0) for candidate in best[nearest])
    return StencilRidge(training, choices)


def _fits_of(needed: Iterable[tuple[int, Choice]]) -> dict[int, tuple[float, ...]]:
    """Which penalties to fit at which step: a roll-out needs step 1 only."""
    penalties: dict[int, set[float]] = {}
    for step, choice in needed:
        penalties.setdefault(1 if choice.rolled_out else step, set()).add(choice.penalty)
    return {step: tuple(sorted(values)) for step, values in penalties.items()}


class Fit:
    """Coefficients of one lead time and penalty.

    Parameters
    ----------
    weights
        Per group of channels: (lat, predictor, channel), added to damped persistence.
    damping
        Factor of damped persistence, (channel, lat).
    """

    def __init__(
        self, weights: list[Float32[np.ndarray, "lat predictor channel"]], damping: Float32[np.ndarray, "channel lat"]
    ):
        self.weights = weights
        self.damping = damping
        self._spectra: list[np.ndarray] = []

    def spectra(self, longitudes: int) -> list[np.ndarray]:
        """Weights as transfer functions along longitude, per group: (lat, wavenumber, frame x channel x 9 rows, channel)."""
        if not self._spectra:
            for weights in self.weights:
                lat, size, channel = weights.shape
                rows = weights.reshape(lat, size // WIDTH, WIDTH, channel)
                ring = np.zeros((lat, longitudes, size // WIDTH, channel), dtype=np.float32)
                for offset in range(-RADIUS, RADIUS + 1):
                    ring[:, offset % longitudes] += rows[:, :, offset + RADIUS]
                self._spectra.append(scipy.fft.rfft(ring, axis=1).conj())
        return self._spectra


class FieldStencil:
    """Stencils of a grid: what the regression sees at each point.

    Raises
    ------
    VerificationError
        If the grid does not go round the globe.
    """

    def __init__(self, training: TrainingData):
        spacing = np.diff(training.longitude)
        if not np.isclose(spacing.sum() + spacing.mean(), 360, atol=1e-2) or not np.allclose(spacing, spacing[0], atol=1e-2):
            raise VerificationError(
                f"stencil_ridge needs evenly spaced longitudes around the globe; got {training.longitude[:2]} ... "
                f"{training.longitude[-1:]}. Score without it: baselines=[persistence,climatology,damped_persistence]."
            )
        n = len(training.channels)
        self.scale = training.scale().astype(np.float32)
        self.signs = training.signs
        self.poles = bool(abs(abs(training.latitude[0]) - 90) < 1e-6)
        self.groups = [list(range(n))] if n <= MAX_COUPLED_CHANNELS else [[channel] for channel in range(n)]

    def pad_rows(self, scaled: Float32[np.ndarray, "*n channel lat lon"]) -> Float32[np.ndarray, "*n channel lat2 lon"]:
        """Extend by 4 rows over each pole: the rows of the opposite meridian, with the sign of vectors turned."""
        skip = 1 if self.poles else 0
        across = np.roll(scaled, scaled.shape[-1] // 2, axis=-1) * self.signs[:, None, None]
        top = across[..., skip : RADIUS + skip, :][..., ::-1, :]
        bottom = across[..., ::-1, :][..., skip : RADIUS + skip, :]
        return np.concatenate([top, scaled, bottom], axis=-2)

    def spectra(self, scaled: Float32[np.ndarray, "*n channel lat lon"]) -> Complex64[np.ndarray, "*n channel lat2 wave"]:
        """Standardised anomalies, continued over the poles, by wavenumber along their latitude."""
        return scipy.fft.rfft(self.pad_rows(scaled), axis=-1)

    def apply(
        self, fit: Fit, scaled: Float32[np.ndarray, "n frame channel lat lon"]
    ) -> Float32[np.ndarray, "n channel lat lon"]:
        """Apply a fit to standardised anomalies; products of spectra along longitude, not 81 sums per point."""
        n, _, _, lat, lon = scaled.shape
        spectrum = self.spectra(scaled)
        result = scaled[:, -1] * fit.damping[:, :, None]
        for group, transfer in zip(self.groups, fit.spectra(lon), strict=True):
            rows = np.lib.stride_tricks.sliding_window_view(spectrum[:, :, group], WIDTH, axis=-2)
            wave = rows.shape[-2]
            columns = rows.transpose(3, 4, 0, 1, 2, 5).reshape(lat, wave, n, -1)
            change = scipy.fft.irfft(columns @ transfer, n=lon, axis=1)  # (lat, lon, n, channel)
            result[:, group] += change.transpose(2, 3, 0, 1)
        return result


def fit_steps(
    training: TrainingData, stencil: FieldStencil, wanted: dict[int, tuple[float, ...]]
) -> dict[tuple[int, float], Fit]:
    """Fit every lead time (in steps) with every penalty asked for it; one pass over the training states per latitude."""
    dampings = damping(training, wanted)
    spectra = [stencil.spectra(anomaly / stencil.scale[:, None, None]) for anomaly in training.anomalies()]
    lat, lon = training.latitude.size, training.longitude.size
    weights: dict[tuple[int, float], list[np.ndarray]] = {(s, penalty): [] for s in wanted for penalty in wanted[s]}
    for group in stencil.groups:
        size = HISTORY * len(group) * WIDTH**2
        for fits in weights.values():
            fits.append(np.zeros((lat, size, len(group)), np.float32))
        for row in range(lat):
            bands = [spectrum[:, group, row : row + WIDTH] for spectrum in spectra]
            damping_of = {step: factor[group, row] for step, factor in dampings.items()}
            for step, normal, moment, samples in moments_of(bands, lon, damping_of):
                for penalty in wanted[step]:
                    weights[step, penalty][-1][row] = _solve_ridge(normal, penalty * samples, moment)
    return {(step, penalty): Fit(fits, dampings[step]) for (step, penalty), fits in weights.items()}


def _solve_ridge(
    normal: Float64[np.ndarray, "predictor predictor"], weight: float, moment: Float64[np.ndarray, "predictor channel"]
) -> Float64[np.ndarray, "predictor channel"]:
    """Solve (normal + weight I) x = moment by LAPACK itself: checks would cost more."""
    ridge = normal.copy(order="F")
    ridge.flat[:: len(ridge) + 1] += weight
    _, solution, info = lapack.dposv(ridge, moment, overwrite_a=True)
    if info:
        raise VerificationError(
            f"stencil_ridge found no positive definite system (LAPACK: {info}): the training span holds too little variation. "
            "Lengthen train_span, or score without it: baselines=[persistence,climatology,damped_persistence]."
        )
    return solution


def moments_of(
    bands: Sequence[Complex64[np.ndarray, "time channel row wave"]], lon: int, dampings: Mapping[int, np.ndarray]
) -> Iterator[tuple[int, Float64[np.ndarray, "predictor predictor"], Float64[np.ndarray, "predictor channel"], int]]:
    """Give (step, X'X, X'y, samples) of one latitude, longest lead time first: shorter ones only add samples.

    X has a row per time and longitude, the 9 x 9 points around it in two states, and is never made. Since the ring closes,
    products of its columns depend on the longitudes between them and on nothing else: they are the Fourier transforms of
    products by wavenumber, of vectors that are nine times as short and half as many.

    All products are SciPy's, as the solution is: NumPy brings a BLAS of its own, and where both have threads, those of the one
    wait in the other's way (products and solutions took three times as long).

    Parameters
    ----------
    bands
        Spectra of the nine rows around the latitude, one array per run of states without a gap.
    lon
        Longitudes of the ring.
    dampings
        Factor of damped persistence per channel, by lead time in steps.
    """
    steps = sorted(dampings, reverse=True)
    waves = [np.ascontiguousarray(np.moveaxis(band, -1, 0)) for band in bands]  # (wave, time, channel, row)
    columns = [_columns(wave) for wave in waves]
    targets = [_targets(wave[..., RADIUS], steps, [dampings[step] for step in steps]) for wave in waves]
    size, channels = columns[0].shape[-1], bands[0].shape[1]
    # All lead times at once: one pass over the columns.
    crossed = sum(_crossed(x, target) for x, target in zip(columns, targets, strict=True))
    offsets = np.arange(-RADIUS, RADIUS + 1)
    moments = scipy.fft.irfft(crossed, n=lon, axis=0)[offsets % lon].swapaxes(0, 1).reshape(-1, len(steps), channels)
    spectrum = np.zeros((columns[0].shape[0], size, size), np.complex128)
    used = [0] * len(columns)
    for number, step in enumerate(steps):
        for position, x in enumerate(columns):
            n = max(waves[position].shape[1] - (HISTORY - 1) - step, 0)
            if n > used[position]:
                spectrum += _squared(x[:, used[position] : n])
                used[position] = n
        lags = scipy.fft.irfft(spectrum, n=lon, axis=0)
        normal = lags[(offsets - offsets[:, None]) % lon].transpose(2, 0, 3, 1).reshape(size * WIDTH, -1)
        yield step, normal, moments[:, number], max(sum(used) * lon, 1)


def _columns(wave: Complex64[np.ndarray, "wave time channel row"]) -> Complex64[np.ndarray, "wave sample column"]:
    """Rows of every state and of the one before it, side by side."""
    two = np.stack([wave[:, :-1], wave[:, 1:]], axis=2)
    return two.reshape(*two.shape[:2], -1)


def _targets(
    own: Complex64[np.ndarray, "wave time channel"], steps: Sequence[int], damping_of: Sequence[Float32[np.ndarray, " channel"]]
) -> Complex64[np.ndarray, "wave sample target"]:
    """What each sample should become less damped persistence, (step x channel); 0 where the states end before."""
    start = own[:, HISTORY - 1 :]
    change = np.zeros((*start.shape[:2], len(steps), start.shape[2]), np.complex64)
    for number, (step, factor) in enumerate(zip(steps, damping_of, strict=True)):
        n = max(start.shape[1] - step, 0)
        change[:, :n, number] = start[:, step : step + n] - start[:, :n] * factor
    return change.reshape(*start.shape[:2], -1)


def _squared(x: Complex64[np.ndarray, "wave sample column"]) -> Complex64[np.ndarray, "wave column column"]:
    """Sums over samples of the conjugate of one column times another."""
    upper = np.stack([blas.cherk(1.0, of_wave.T).conj() for of_wave in x])
    return upper + np.triu(upper, 1).conj().swapaxes(1, 2)


def _crossed(
    x: Complex64[np.ndarray, "wave sample column"], targets: Complex64[np.ndarray, "wave sample target"]
) -> Complex64[np.ndarray, "wave column target"]:
    """Sums over samples of a column times the conjugate of a target."""
    return np.stack([blas.cgemm(1.0, one.T, target.T, trans_b=2) for one, target in zip(x, targets, strict=True)])


def _summary(training: TrainingData, choices: dict[int, tuple[Choice, ...]]) -> str:
    """Say per channel which form serves which lead times."""
    hours = training.step / np.timedelta64(1, "h")
    parts = []
    for position, channel in enumerate(training.channels):
        runs: list[tuple[Choice, float, float]] = []
        for step in sorted(choices):
            choice = choices[step][position]
            if runs and runs[-1][0] == choice:
                runs[-1] = (choice, runs[-1][1], step * hours)
            else:
                runs.append((choice, step * hours, step * hours))
        parts.append(f"{channel} " + ", ".join(_run_text(*run) for run in runs))
    return "; ".join(parts) if len(parts) <= MAX_COUPLED_CHANNELS else f"for {len(parts)} channels separately"


def _run_text(choice: Choice, first: float, last: float) -> str:
    span = f"{first:g} h" if first == last else f"{first:g}-{last:g} h"
    return f"{span} {'rolled out' if choice.rolled_out else 'fitted per lead'} (penalty {choice.penalty:g})"
