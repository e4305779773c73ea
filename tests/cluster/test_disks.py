"""Real file systems that are full, read-only or forbidden: a clear message, and a store that resumes to the same bits."""

import os
import subprocess
from pathlib import Path

import pytest

from data_pipelines.store import StoreError
from forecast.forecast_store import missing_forecasts
from forecast.job import run_forecasts
from tests.cluster.jobs import contents


@pytest.fixture
def disk(tmp_path):
    """A file system of its own of 400 kB; only root can mount one."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)]
        return subprocess.run(command, capture_output=True, check=False).returncode

    if mount("size=400k"):
        pytest.skip("no file system can be mounted here")
    yield place, mount
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_told_and_the_job_goes_on_when_there_is_space(disk, settings, tmp_path):
    place, mount = disk
    whole = run_forecasts(settings(tmp_path / "whole.zarr")).out
    config = settings(place / "forecast.zarr")
    with pytest.raises(StoreError, match="no space is left on the disk that holds .*run the same command with resume=true"):
        run_forecasts(config)
    kept = len(missing_forecasts(config.out))
    assert 0 < kept < 11
    assert mount("remount", "size=4m") == 0
    config.resume = True
    assert run_forecasts(config).made == kept
    assert contents(Path(config.out)) == contents(whole)


def test_a_disk_that_turns_read_only_is_told_and_the_job_goes_on_later(disk, settings, tmp_path, monkeypatch):
    place, mount = disk
    whole = run_forecasts(settings(tmp_path / "whole.zarr", lead="1d")).out
    config = settings(place / "forecast.zarr", lead="1d")
    run_forecasts(config)
    for mark in list((place / "forecast.zarr" / "complete" / "c").iterdir())[:3]:
        mark.unlink()
    assert mount("remount", "ro") == 0
    config.resume = True
    with pytest.raises(StoreError, match="lies on a read-only file system: every forecast marked complete is kept"):
        run_forecasts(config)
    assert mount("remount", "rw") == 0
    assert run_forecasts(config).made == 3
    assert contents(Path(config.out)) == contents(whole)


def test_a_folder_that_may_not_be_written_is_told(settings, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("becomes another user, which only root can")
    shut = tmp_path / "shut"
    shut.mkdir()
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    child = os.fork()
    if not child:  # another user from here on
        os.setuid(65534)
        try:
            run_forecasts(settings(shut / "forecast.zarr"))
        except StoreError as error:
            os._exit(0 if "permission to write" in str(error) and "Give this user the right" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(shut.iterdir()) == []
