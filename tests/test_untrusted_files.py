"""Files from others are data: nothing in them is executed, and no name in them leads out of their folder."""

import ast
import json
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
import xarray as xr

from data_pipelines.sources import SourceError, open_source
from data_pipelines.standardise import standardise
from forecast import checkpoint
from forecast.calibration import FILE, load_moments
from forecast.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from tests.helpers.analyses import make_analysis
from tests.helpers.forecasters import extrapolation
from tests.helpers.raw_layouts import cds_new, weatherbench
from tests.helpers.untrusted import pickle_that_makes
from tests.test_house import PACKAGES, ROOT

UNPICKLING = {"pickle", "cPickle", "_pickle", "shelve", "joblib", "dill", "cloudpickle", "marshal"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setitem(checkpoint.MODELS, "Extrapolation", "tests.helpers.forecasters")
    model = extrapolation(make_analysis())
    save_checkpoint(tmp_path / "run", model, training_span="2021-02-27/2021-03-01", data_hash="abc")
    return tmp_path / "run"


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "executed"


def test_the_pickle_does_make_its_marker_when_unpickled(marker):
    """Otherwise the tests below could not fail."""
    pickle.loads(pickle_that_makes(marker))
    assert marker.exists()


def test_a_pickle_as_weights_is_refused_and_not_executed(folder, marker):
    (folder / "model.safetensors").write_bytes(pickle_that_makes(marker))
    with pytest.raises(
        CheckpointError, match=r"no safetensors file, a pickle perhaps; nothing more of it was read\). Copy the"
    ):
        load_checkpoint(folder)
    assert not marker.exists()


def test_weights_of_torch_save_are_refused_and_not_executed(folder, marker, tmp_path):
    """A ZIP with a pickle in it, the usual file of weights."""
    torch.save({"gain": torch.ones(1)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(folder / "model.safetensors", "w") as evil:
        for name in plain.namelist():
            evil.writestr(name, pickle_that_makes(marker) if name.endswith("data.pkl") else plain.read(name))
    with pytest.raises(CheckpointError, match="no safetensors file"):
        load_checkpoint(folder)
    assert not marker.exists()


def test_a_pickle_as_calibration_is_refused_and_not_executed(tmp_path, marker):
    (tmp_path / FILE).write_bytes(pickle_that_makes(marker))
    with pytest.raises(ValueError, match=rf"{FILE} is damaged or holds no moments .*Train with calibrate=true again"):
        load_moments([str(tmp_path)], 1)
    assert not marker.exists()


@pytest.mark.parametrize("claimed", [2**63, 2**28, 100_000_001, 1])
def test_a_header_of_a_length_that_cannot_be_is_refused_before_it_is_in_memory(folder, claimed):
    """The file is as long as it says, as far as a sparse file can be: half a gigabyte of zeros."""
    with (folder / "model.safetensors").open("wb") as file:
        file.write(claimed.to_bytes(8, "little") + b'{"')
        file.truncate(2**29)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=rf"of 536870912 bytes the header claims {claimed}: .*Copy the checkpoint again"):
        load_checkpoint(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(folder):
    header = json.dumps({"gain": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match=r"are damaged \(.*\). Copy the checkpoint again"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "..evil"])
def test_a_network_whose_name_is_a_path_is_refused(folder, name, tmp_path, marker):
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    values = json.loads((folder / "checkpoint.json").read_text())
    (folder / "checkpoint.json").write_text(json.dumps(values | {"model": name}))
    with pytest.raises(CheckpointError, match="names the network .*evil'; known here are"):
        load_checkpoint(folder)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["../../x.nc", "/x.nc", "a/../../x.nc", "C:\\x.nc", "..\\x.nc"])
def test_a_zip_with_a_name_that_leads_out_is_refused_and_writes_nothing(tmp_path, name, monkeypatch):
    inner = tmp_path / "a" / "b" / "unpacked"
    inner.mkdir(parents=True)
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: str(inner))
    cds_new().to_netcdf(tmp_path / "good.nc")
    with zipfile.ZipFile(tmp_path / "download.zip", "w") as archive:
        archive.write(tmp_path / "good.nc", "good.nc")
        archive.write(tmp_path / "good.nc", "placeholder")
        archive.filelist[-1].filename = name  # as it is: on writing, ZipInfo takes a leading slash away
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SourceError, match=r"download.zip holds a member called .*leads out of the folder .*download it again"):
        open_source(tmp_path / "download.zip")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_store_whose_metadata_name_an_array_outside_does_not_read_it(tmp_path):
    raw = weatherbench()
    secret = raw.rename({name: f"{name}_secret" for name in raw.data_vars})
    secret.to_zarr(tmp_path / "secret.zarr", zarr_format=3)
    raw.to_zarr(tmp_path / "given.zarr", zarr_format=3, consolidated=True)
    xr.testing.assert_equal(open_source(tmp_path / "given.zarr").load(), standardise(raw).load())
    path = tmp_path / "given.zarr" / "zarr.json"
    values = json.loads(path.read_text())
    for name in secret.data_vars:
        array = json.loads((tmp_path / "secret.zarr" / name / "zarr.json").read_text())
        values["consolidated_metadata"]["metadata"][f"../secret.zarr/{name}"] = array
    path.write_text(json.dumps(values))
    with pytest.raises(SourceError, match=r"given.zarr cannot be opened as a Zarr store .*Check the path"):
        open_source(tmp_path / "given.zarr")


@pytest.mark.parametrize("dtype", ["|O", "<f8"])
def test_a_store_with_the_codec_pickle_is_not_executed(tmp_path, marker, dtype):
    """Zarr format 2 may name any codec of numcodecs, pickle among them, for coordinates too, which are read on opening."""
    data = xr.Dataset({"t": ("time", np.zeros(3, np.float32))}, {"time": np.arange(3.0)})
    data.to_zarr(tmp_path / "given.zarr", zarr_format=2, consolidated=False)
    path = tmp_path / "given.zarr" / "time" / ".zarray"
    filters = [{"id": "vlen-utf8"}] if dtype == "|O" else None
    values = json.loads(path.read_text()) | {
        "dtype": dtype,
        "filters": filters,
        "compressor": {"id": "pickle"},
        "fill_value": 0,
    }
    path.write_text(json.dumps(values))
    (path.parent / "0").write_bytes(pickle_that_makes(marker))
    with pytest.raises(SourceError, match="given.zarr cannot be opened as a Zarr store"):
        open_source(tmp_path / "given.zarr")
    assert not marker.exists()


def unsafe_parts(text):
    """Lines that import a module that unpickles, or call torch.load, or numpy's load with allow_pickle."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] in UNPICKLING for alias in node.names):
            yield node.lineno
        if isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if (node.module or "").split(".")[0] in UNPICKLING or (node.module == "torch" and "load" in names):
                yield node.lineno
            if node.module == "pandas" and "read_pickle" in names:
                yield node.lineno
        if (
            isinstance(node, ast.Attribute)
            and node.attr in ("load", "read_pickle")
            and ast.unparse(node) in {"torch.load", "pd.read_pickle", "pandas.read_pickle"}
        ):
            yield node.lineno
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield node.value.lineno


def test_no_module_unpickles():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    found = [f"{path.relative_to(ROOT)}:{line}" for path in files for line in unsafe_parts(path.read_text())]
    assert not found, f"these execute what a file says: {found}. Write safetensors, JSON or Zarr instead."


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "import json, joblib.numpy_pickle as x",
        "def f():\n    from dill import load",
        "from shelve import open",
        "import torch\ntorch.load('x', weights_only=True)",
        "from torch import load",
        "read = torch.load",
        "numpy.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "import pandas as pd\npd.read_pickle('x')",
    ],
)
def test_the_check_for_unpickling_can_fail(text):
    assert list(unsafe_parts(text))


@pytest.mark.parametrize("text", ["import json", "np.load(path, allow_pickle=False)", "load_file(path)", "'torch.load'"])
def test_the_check_for_unpickling_lets_others_pass(text):
    assert not list(unsafe_parts(text))
