"""The simulated atmosphere, as far as it goes without the package jcm: settings, bookkeeping, vertical interpolation."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from hydra import initialize_config_module

from data_pipelines.errors import StoreError
from data_pipelines.simulation_workers import DaskConfig
from data_pipelines.sources import simulated_atmosphere
from data_pipelines.sources.simulated_atmosphere import (
    DRY_AIR_GAS_CONSTANT,
    GRAVITY,
    SimulationConfig,
    compose_foreign,
    interpolate_in_log_pressure,
    reduce_to_sea_level,
    simulate,
    simulate_all,
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variables": ["2m_temperature", "snow"]}, r"variables \['snow'\] cannot be simulated; choose from"),
        ({"months": 0}, "months must be at least 1; got 0"),
        ({"runs": 0}, "runs must be at least 1 and share months equally; got 0 for 12 months"),
        ({"months": 7, "runs": 2}, "got 2 for 7 months. Make months a multiple of runs"),
        ({"longitudes": 143}, "an even number of longitudes"),
        ({"latitudes": 4}, "at least 8 latitudes"),
        ({"levels": []}, "levels is empty"),
    ],
)
def test_setting_that_cannot_be_simulated_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimulationConfig(**settings)


def test_finished_months_are_not_simulated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jcm", None)
    months = [tmp_path / f"simulated_04_{month:04d}.nc" for month in range(2)]
    for month in months:
        month.touch()
    assert list(simulate(tmp_path, SimulationConfig(months=2, seed=4))) == months


def test_runs_follow_each_other_in_time_with_a_gap_even_without_a_spin_up() -> None:
    """Run 1 spins up a day longer than run 0: seeds shift the spin-up, so that each is another weather."""
    for spin_up, start in ((90, "2002-12-28"), (0, "2002-09-29")):
        one, other = SimulationConfig(months=14, runs=2, start="2002-03-02", spin_up_days=spin_up, seed=3).apart
        assert (one.months, one.runs, one.seed, one.start) == (7, 1, 3, "2002-03-02")
        assert (other.months, other.runs, other.seed, other.start) == (7, 1, 4, start)
        begin, again = (np.datetime64(run.start) + run.spin_up_days + run.seed for run in (one, other))
        assert again - begin == 7 * 30 + spin_up + 2


@pytest.mark.parametrize("workers", [1, 2])
def test_runs_are_simulated_by_workers_and_come_in_the_order_of_their_times(workers: int, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    config = SimulationConfig(months=6, runs=2, seed=4)
    months = [tmp_path / f"simulated_{seed:02d}_{month:04d}.nc" for seed in (4, 5) for month in range(3)]
    for month in months:
        month.touch()
    seen: list[int] = []
    assert simulate_all(tmp_path, config, DaskConfig(workers=workers), seen.append) == months
    assert seen
    assert set(seen) == {6}
    months[2].unlink()
    with pytest.raises(FileNotFoundError, match=r"2 months are in .* simulated_04.checkpoint is missing"):
        simulate_all(tmp_path, config, DaskConfig(workers=workers))


def test_month_killed_after_its_checkpoint_is_kept_and_a_torn_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jcm", None)
    partial, checkpoint = tmp_path / "simulated_00_0000.partial", tmp_path / "simulated_00.checkpoint"
    partial.touch()
    checkpoint.touch()
    os.utime(checkpoint, ns=(0, partial.stat().st_mtime_ns - 1))
    with pytest.raises(ImportError):
        next(simulate(tmp_path, SimulationConfig(months=1)))
    os.utime(checkpoint, ns=(0, partial.stat().st_mtime_ns + 1))
    assert list(simulate(tmp_path, SimulationConfig(months=1))) == [tmp_path / "simulated_00_0000.nc"]
    assert not partial.exists()


def test_months_without_their_checkpoint_cannot_go_on(tmp_path: Path) -> None:
    (tmp_path / "simulated_00_0000.nc").touch()
    with pytest.raises(FileNotFoundError, match=r"1 months are in .* simulated_00.checkpoint is missing"):
        list(simulate(tmp_path, SimulationConfig(months=2)))


def test_checkpoint_of_another_start_is_refused_by_what_the_start_follows_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_checkpoint(model: Any, path: Path) -> None:
        raise ValueError("start_time does not match")

    model = MagicMock()
    monkeypatch.setitem(sys.modules, "jcm", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "jcm.checkpoint", SimpleNamespace(load_checkpoint=load_checkpoint))
    with pytest.raises(StoreError, match=r"another start \(start_time does not match\).*months, runs and spin_up_days"):
        simulated_atmosphere._go_on(model, tmp_path / "simulated_00.checkpoint")
    model.bootstrap_state.assert_called_once_with()


def test_simulating_without_jcm_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jcm", None)
    with pytest.raises(ImportError, match=r"pip install 'skysolve\[simulation\]'"):
        next(simulate(tmp_path, SimulationConfig(months=1)))


def test_another_packages_settings_are_composed_after_our_own() -> None:
    """As `python -m data_pipelines.build_store source=simulated` does: Hydra by itself refuses a second configuration."""
    with initialize_config_module("configs.data_pipelines", version_base="1.3"):
        values = compose_foreign("configs.forecast", "run", ["out=x"])
    assert values.out == "x"


def test_interpolation_is_exact_for_what_is_linear_in_log_pressure() -> None:
    """Surface pressure differs from place to place; below the lowest and above the highest level the nearest value is kept."""
    sigma = np.array([0.1, 0.3, 0.6, 0.9])
    surface = np.array([[[1.0e5, 9.0e4], [8.5e4, 1.02e5]]])
    pressure = sigma[None, :, None, None] * surface[:, None]
    columns = 200.0 + 10.0 * np.log(pressure)
    inside = interpolate_in_log_pressure(columns, sigma, surface, 5.0e4)
    np.testing.assert_allclose(inside, 200.0 + 10.0 * np.log(5.0e4), rtol=1e-14)
    np.testing.assert_allclose(interpolate_in_log_pressure(columns, sigma, surface, 1.0e3), columns[:, 0])
    np.testing.assert_allclose(interpolate_in_log_pressure(columns, sigma, surface, 1.1e5), columns[:, -1])
    with pytest.raises(ValueError, match="sigma must increase"):
        interpolate_in_log_pressure(columns[:, ::-1], sigma[::-1], surface, 5.0e4)


def test_pressure_at_sea_level_obeys_the_hypsometric_equation() -> None:
    """Nothing changes at sea level; 1000 m up over air of 280 K, below ground in the mean 283.25 K, it is 12.8 % more."""
    pressure, temperature = np.array([1.0e5, 9.0e4]), np.array([280.0, 280.0])
    reduced = reduce_to_sea_level(pressure, temperature, np.array([0.0, 1000.0 * GRAVITY]))
    assert reduced[0] == 1.0e5
    assert reduced[1] == pytest.approx(9.0e4 * np.exp(GRAVITY * 1000.0 / (DRY_AIR_GAS_CONSTANT * 283.25)), rel=1e-14)
    assert reduced[1] / 9.0e4 == pytest.approx(1.1282, abs=1e-4)
