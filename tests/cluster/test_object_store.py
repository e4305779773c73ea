"""An S3-compatible store that fails 10 % of the requests and stalls 1 %: the same values, one job at a time."""

import http.client
import socket
import subprocess
import sys
import time
from functools import partial

import pytest
import xarray as xr

from data_pipelines import locations
from data_pipelines.store import StoreError
from forecast import forecast_store, lease, work
from forecast.ensemble import EnsembleConfig
from forecast.forecast_store import create_forecast_store, missing_forecasts, open_forecast_store
from forecast.job import run_forecasts
from forecast.work import Work
from tests.helpers.flaky_proxy import flaky_proxy

moto_server = pytest.importorskip("moto.server", reason="moto, an S3 server for tests, is not installed")
SERVER = "from moto.server import main; import sys; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"


@pytest.fixture(scope="module")
def s3_port():
    """An S3 server in a process of its own, with a bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        bucket = http.client.HTTPConnection("127.0.0.1", port)
        bucket.request("PUT", "/bucket")
        assert bucket.getresponse().status == 200
        bucket.close()
        yield port
        server.terminate()


@pytest.fixture
def credentials(monkeypatch, tmp_path):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "s3cret-key",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "SKYSOLVE_REQUEST_SECONDS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


@pytest.fixture
def short(settings):
    """Settings of a job of 14 small forecasts."""
    return partial(settings, end="2021-02-28T18", lead="18h", batch_size=4, ensemble=EnsembleConfig(members=2))


def test_a_store_that_fails_and_stalls_ends_with_the_same_values(s3_port, credentials, short, tmp_path):
    whole = open_forecast_store(run_forecasts(short(tmp_path / "whole.zarr")).out).load()
    with flaky_proxy(s3_port, fails=0.10, stalls=0.01, stall_seconds=3) as faults:
        credentials.setenv("AWS_ENDPOINT_URL", faults.url)
        result = run_forecasts(short("s3://bucket/flaky.zarr"))
        xr.testing.assert_equal(open_forecast_store(result.out).load(), whole)
    assert result.made == 14
    assert faults.counts["failed"] > 0.05 * faults.counts.total()
    assert faults.counts["stalled"] > 0
    texts = [path.read_text() for path in (tmp_path / "flaky.zarr.runs").iterdir()]
    assert not [text for text in texts if "s3cret" in text]


@pytest.fixture
def endpoint(s3_port, credentials):
    credentials.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_port}")
    credentials.setattr(lease, "RENEWED_EVERY", 0.4)
    credentials.setattr(lease, "LEFT_AFTER", 3.0)


def test_a_job_on_an_object_store_goes_on_where_it_stopped(endpoint, short, monkeypatch):
    config, write, written = short("s3://bucket/broken.zarr"), work.write_forecast, iter(range(5))

    def fails(*arguments):
        if next(written, None) is None:
            raise StoreError("gone")
        write(*arguments)

    monkeypatch.setattr(work, "write_forecast", fails)
    with pytest.raises(StoreError, match="gone"):
        run_forecasts(config)
    monkeypatch.setattr(work, "write_forecast", write)
    assert len(missing_forecasts(config.out)) == 9
    with pytest.raises(StoreError, match="s3://bucket/broken.zarr exists already; nothing is overwritten"):
        run_forecasts(config)
    config.resume = True
    assert run_forecasts(config).made == 9


def test_a_second_creation_is_refused_although_both_saw_nothing(endpoint, short, monkeypatch):
    """The root is put only where none is: of two jobs that both found no store one is refused."""
    url = "s3://bucket/race.zarr"
    layout = Work(short(url)).layout
    create_forecast_store(url, layout, {"made_by": "one"})
    looks = iter([False])
    original = forecast_store.forecast_store_exists
    monkeypatch.setattr(forecast_store, "forecast_store_exists", lambda path: next(looks, None) is None and original(path))
    with pytest.raises(StoreError, match="s3://bucket/race.zarr exists already"):
        create_forecast_store(url, layout, {"made_by": "two"})
    monkeypatch.undo()
    assert next(looks, None) is None


def test_a_lease_that_is_renewed_refuses_and_one_that_is_left_is_taken_over(endpoint, tmp_path):
    lost = []
    with (
        lease.lease("s3://bucket/held.zarr", tmp_path, lost.append),
        pytest.raises(StoreError, match="s3://bucket/held.zarr is being filled by another job .process [0-9]+ on"),
    ):
        lease._Claim("s3://bucket/held.zarr").take()
    left = lease._Claim("s3://bucket/held.zarr")
    left.take()  # and its holder dies
    begin = time.monotonic()
    with lease.lease("s3://bucket/held.zarr", tmp_path, lost.append):
        assert time.monotonic() - begin >= 3.0
    assert lost == []


def test_wrong_credentials_end_with_what_to_do(endpoint, short, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("data_pipelines.retries.FIRST_WAIT", 0.0)
    monkeypatch.setitem(locations._RETRIES, "max_retries", 0)
    with pytest.raises(StoreError, match=r"s3://bucket/x.zarr cannot be written .*resume=true"):
        run_forecasts(short("s3://bucket/x.zarr"))
