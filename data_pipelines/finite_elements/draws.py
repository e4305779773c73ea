"""One simulation drawn at random: the medium, its holes and inclusions, its edges, and what sets it moving.

Everything comes from one generator per sample, `SeedSequence([seed, sample])`: a sample is the same however many there
are and whichever process makes it. "Uniform" below is between the two numbers of the setting.

- background speed: uniform (`speed`);
- its variation: exp of a sum of eight plane waves of random direction, phase and wavelength (one to four times
  `variation_length`), with a standard deviation that is uniform (`variation`);
- inclusions: as many as drawn (`inclusions`), ellipses with semi-axes uniform (`radius`) and any angle, in which the speed is
  multiplied by a factor whose logarithm is uniform (`inclusion_speed`);
- holes: as inclusions (`holes`), at least half a smallest radius apart from each other and from the edge;
- edges: one of `outer`, one of `hole_edges`, each as likely;
- bumps: as many as drawn (`bumps`), Gaussians exp(-r^2 / 2 w^2), w uniform (`bump_width`), of an amplitude uniform between
  0.5 and 1 m of either sign, at least 2.5 w away from edges and holes; a phase uniform in a circle shares the amplitude
  between displacement and velocity (velocity in units of speed / w);
- pulses at the edge: as many as drawn (`pulses`), each from a side of the rectangle chosen at random: traction of Gaussian
  profile, width uniform (`pulse_width`), in time the derivative of a Gaussian whose duration is that width over the
  speed. The record starts when the last one has ended: from there the state alone decides the future.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from data_pipelines.finite_elements.errors import FiniteElementError
from data_pipelines.finite_elements.shapes import Ellipse

if TYPE_CHECKING:
    from data_pipelines.sources.finite_element_waves import WaveConfig

_WAVES = 8  # plane waves in a variation: enough to look isotropic
_TRIES = 2000
_MARGIN = 2.5  # widths that a bump keeps off an edge, where it has fallen to 4 %
_ENDS = 4.0  # standard deviations of a pulse in time before and after its middle: it has fallen to 1e-3
SIDES = ("left", "right", "bottom", "top")


@dataclass(frozen=True)
class Bump:
    """A Gaussian: centre and width [m], displacement [m] and velocity [m s-1]."""

    x: float
    y: float
    width: float
    displacement: float
    velocity: float


@dataclass(frozen=True)
class Pulse:
    """A traction at a side: centre along it and width [m], amplitude, middle and duration in time [s]."""

    side: str
    centre: float
    width: float
    amplitude: float
    middle: float
    duration: float

    def signal(self, time: float) -> float:
        """Value at a time: minus the derivative of a Gaussian, at most 1."""
        s = (time - self.middle) / self.duration
        return float(s * np.exp(0.5 - 0.5 * s * s))

    @property
    def until(self) -> float:
        """When it has ended [s]."""
        return self.middle + _ENDS * self.duration

    def profile(self, points: np.ndarray) -> np.ndarray:
        """Amplitude along the side at points (2, ...)."""
        along = points[1] if self.side in ("left", "right") else points[0]
        return np.asarray(self.amplitude * np.exp(-0.5 * ((along - self.centre) / self.width) ** 2))


@dataclass(frozen=True)
class Draw:
    """What one simulation is."""

    background: float
    wave_vectors: np.ndarray  # (8, 2) rad m-1
    phases: np.ndarray  # (8,)
    variation: float
    inclusions: tuple[tuple[Ellipse, float], ...]
    holes: tuple[Ellipse, ...]
    outer: str
    hole_edge: str
    bumps: tuple[Bump, ...]
    pulses: tuple[Pulse, ...] = field(default=())

    def speed(self, points: np.ndarray) -> np.ndarray:
        """Wave speed [m s-1] at points (2, ...)."""
        along = np.tensordot(self.wave_vectors, points, axes=(1, 0)) + self.phases.reshape(-1, *[1] * (points.ndim - 1))
        out = self.background * np.exp(self.variation * np.sqrt(2 / _WAVES) * np.cos(along).sum(axis=0))
        for ellipse, factor in self.inclusions:
            out = np.where(ellipse.radius(points) < 1, out * factor, out)
        return np.asarray(out)

    def displacement(self, points: np.ndarray) -> np.ndarray:
        """Displacement [m] at the start."""
        return self._sum(points, [bump.displacement for bump in self.bumps])

    def velocity(self, points: np.ndarray) -> np.ndarray:
        """Velocity [m s-1] at the start."""
        return self._sum(points, [bump.velocity for bump in self.bumps])

    @property
    def quiet_from(self) -> float:
        """When the last pulse has ended [s]."""
        return max((pulse.until for pulse in self.pulses), default=0.0)

    def _sum(self, points: np.ndarray, amplitudes: list[float]) -> np.ndarray:
        out = np.zeros(points.shape[1:])
        for bump, amplitude in zip(self.bumps, amplitudes, strict=True):
            squared = (points[0] - bump.x) ** 2 + (points[1] - bump.y) ** 2
            out += amplitude * np.exp(-0.5 * squared / bump.width**2)
        return out


def _between(random: np.random.Generator, ends: list[float]) -> float:
    return float(random.uniform(ends[0], ends[1]))


def _count(random: np.random.Generator, ends: list[int]) -> int:
    return int(random.integers(ends[0], ends[1], endpoint=True))


def draw(config: WaveConfig, sample: int) -> Draw:
    """Draw a simulation.

    Raises
    ------
    FiniteElementError
        If no place is found for holes or bumps.
    """
    random = np.random.default_rng(np.random.SeedSequence([config.seed, sample]))
    background = _between(random, config.speed)
    length = config.variation_length * 4 ** random.uniform(0, 1, _WAVES)
    angle = random.uniform(0, 2 * np.pi, _WAVES)
    wave_vectors = (2 * np.pi / length * np.stack([np.cos(angle), np.sin(angle)])).T
    phases, variation = random.uniform(0, 2 * np.pi, _WAVES), _between(random, config.variation)
    holes: list[Ellipse] = []
    for _ in range(_count(random, config.holes)):
        holes.append(_place(random, config, holes, apart=True))
    inclusions = []
    for _ in range(_count(random, config.inclusions)):
        factor = float(np.exp(random.uniform(*(np.log(end) for end in config.inclusion_speed))))
        inclusions.append((_place(random, config, holes, apart=False), factor))
    outer, hole_edge = str(random.choice(config.outer)), str(random.choice(config.hole_edges))
    bumps = [_bump(random, config, holes, background) for _ in range(_count(random, config.bumps))]
    pulses = [_pulse(random, config, background) for _ in range(_count(random, config.pulses))]
    return Draw(
        background,
        wave_vectors,
        phases,
        variation,
        tuple(inclusions),
        tuple(holes),
        outer,
        hole_edge,
        tuple(bumps),
        tuple(pulses),
    )


def _place(random: np.random.Generator, config: WaveConfig, others: list[Ellipse], *, apart: bool) -> Ellipse:
    """An ellipse inside the rectangle; `apart` from others and from the edge."""
    gap = 0.5 * config.radius[0]
    for _ in range(_TRIES):
        a, b, angle = _between(random, config.radius), _between(random, config.radius), random.uniform(0, np.pi)
        x, y, reach = random.uniform(0, config.width), random.uniform(0, config.height), max(a, b)
        inside = min(x, config.width - x, y, config.height - y) > (reach + gap if apart else 0)
        clear = all(np.hypot(x - other.x, y - other.y) > reach + max(other.a, other.b) + gap for other in others)
        if inside and (clear or not apart):
            return Ellipse(x, y, a, b, angle)
    raise FiniteElementError(
        f"no place for {len(others) + 1} holes of radius {config.radius} m in {config.width} x {config.height} m after "
        f"{_TRIES} tries. Lower waves.holes or waves.radius."
    )


def _bump(random: np.random.Generator, config: WaveConfig, holes: list[Ellipse], background: float) -> Bump:
    for _ in range(_TRIES):
        width = _between(random, config.bump_width)
        x, y = random.uniform(0, config.width), random.uniform(0, config.height)
        off = _MARGIN * width
        inside = min(x, config.width - x, y, config.height - y) > off
        if inside and all(hole.distance(np.array([[x], [y]]))[0] > off for hole in holes):
            amplitude, phase = random.uniform(0.5, 1.0) * random.choice([-1, 1]), random.uniform(0, 2 * np.pi)
            return Bump(x, y, width, amplitude * np.cos(phase), amplitude * np.sin(phase) * background / width)
    raise FiniteElementError(
        f"no place for a bump of width {config.bump_width} m beside {len(holes)} holes in {config.width} x {config.height} m "
        f"after {_TRIES} tries. Lower waves.bump_width or waves.holes."
    )


def _pulse(random: np.random.Generator, config: WaveConfig, background: float) -> Pulse:
    side, width = str(random.choice(SIDES)), _between(random, config.pulse_width)
    length = config.height if side in ("left", "right") else config.width
    duration = width / background
    # A traction c^2 u_n of c (amplitude / duration) sends a wave of about that amplitude in.
    amplitude = random.uniform(0.5, 1.0) * random.choice([-1, 1]) * background / duration
    return Pulse(side, random.uniform(0.2, 0.8) * length, width, amplitude, _ENDS * duration, duration)
