"""A checkpoint gives back the same model; anything wrong with it is told, and nothing in it is executed."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from forecast import checkpoint
from forecast.checkpoint import CheckpointError, code_version, load_checkpoint, parse_span, read_description, save_checkpoint
from forecast.rollout import rollout
from tests.helpers.analyses import make_analysis
from tests.helpers.forecasters import CHANNELS, extrapolation

ANALYSIS = make_analysis()
SPAN = ("2021-02-27T00", "2021-03-01T18")


@pytest.fixture(autouse=True)
def known_network(monkeypatch):
    monkeypatch.setitem(checkpoint.MODELS, "Extrapolation", "tests.helpers.forecasters")


@pytest.fixture
def folder(tmp_path):
    save_checkpoint(tmp_path / "short", extrapolation(ANALYSIS), training_span=SPAN, data_hash="abc", extra={"epochs": 3})
    return tmp_path / "short"


def change_json(folder, **changes):
    path = folder / "checkpoint.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def change_weights(folder, change):
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors")
    import hashlib

    change_json(folder, weights_sha256=hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest())


def test_a_loaded_model_makes_the_same_forecast(folder):
    model = extrapolation(ANALYSIS)
    loaded = load_checkpoint(folder)
    assert loaded.requirements == model.requirements
    assert not loaded.training
    times = np.array(["2021-02-27T12"], "datetime64[ns]")
    for a, b in zip(*(rollout(which, ANALYSIS, times, 3, "cpu") for which in (model, loaded)), strict=True):
        torch.testing.assert_close(a.fields, b.fields, rtol=0, atol=0)


def test_the_json_says_what_the_weights_do_not(folder):
    description = read_description(folder)
    assert description.training_span == "2021-02-27T00/2021-03-01T18"
    assert (description.model, description.config, description.data_hash) == ("Extrapolation", {"gain": 0.5}, "abc")
    assert description.statistics == {"drift": {"temperature_500": 1.0, "temperature_850": 2.0, "mean_sea_level_pressure": 3.0}}
    assert description.requirements["channels"] == list(CHANNELS)
    assert description.code_version == code_version()
    assert description.notes == {"epochs": 3}


def test_saving_again_replaces_and_leaves_no_other_file(folder):
    save_checkpoint(folder, extrapolation(ANALYSIS, gain=0.25), training_span=SPAN, data_hash="abc")
    assert load_checkpoint(folder).gain.item() == 0.25
    assert sorted(file.name for file in folder.iterdir()) == ["checkpoint.json", "model.safetensors"]


def test_a_disk_that_is_full_leaves_the_old_checkpoint(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(folder, extrapolation(ANALYSIS, gain=0.25), training_span=SPAN, data_hash="abc")
    assert load_checkpoint(folder).gain.item() == 0.5


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint in .*nowhere: checkpoint.json is missing"):
        load_checkpoint(tmp_path / "nowhere")


def test_missing_weights_are_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"weights .*model.safetensors cannot be read \(No such file"):
        load_checkpoint(folder)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"\xff" * len(data), lambda data: b""])
def test_damaged_weights_are_told(folder, damage):
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"weights .* are damaged \(.*\). Copy the checkpoint again"):
        load_checkpoint(folder)


def test_a_single_changed_bit_is_told(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="are not those that checkpoint.json describes"):
        load_checkpoint(folder)


def test_a_missing_weight_is_named(folder):
    change_weights(folder, lambda weights: {"gain": weights["gain"]})
    with pytest.raises(CheckpointError, match=r"do not fit the network: missing \['drift'\], unknown none"):
        load_checkpoint(folder)


def test_an_unknown_weight_is_named(folder):
    change_weights(folder, lambda weights: weights | {"bias": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"missing none, unknown \['bias'\]"):
        load_checkpoint(folder)


def test_a_weight_of_another_shape_is_named(folder):
    change_weights(folder, lambda weights: weights | {"drift": torch.zeros(2, 1, 1)})
    with pytest.raises(CheckpointError, match=r"weight drift in .* must have shape \(3, 1, 1\); it has \(2, 1, 1\)"):
        load_checkpoint(folder)


def test_a_json_that_is_none_is_told(folder):
    (folder / "checkpoint.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"checkpoint.json is no JSON"):
        load_checkpoint(folder)


def test_a_missing_key_is_named(folder):
    change_json(folder, training_span=...)
    with pytest.raises(CheckpointError, match=r"missing: \['training_span'\], unknown: none"):
        load_checkpoint(folder)


def test_an_unknown_key_is_named(folder):
    change_json(folder, trained_by="me")
    with pytest.raises(CheckpointError, match=r"missing: none, unknown: \['trained_by'\]"):
        load_checkpoint(folder)


@pytest.mark.parametrize("found", [2, None])
def test_another_format_version_is_refused(folder, found):
    change_json(folder, format_version=found)
    with pytest.raises(CheckpointError, match=f"has format_version {found}; this version of skysolve reads 1"):
        load_checkpoint(folder)


def test_a_json_that_holds_a_list_is_refused(folder):
    (folder / "checkpoint.json").write_text("[]")
    with pytest.raises(CheckpointError, match="has format_version list"):
        load_checkpoint(folder)


def test_an_unknown_network_is_refused_and_not_imported(folder, tmp_path, monkeypatch):
    """A name that looks like a module of the attacker's must not be imported."""
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    change_json(folder, model="evil")
    with pytest.raises(CheckpointError, match=r"names the network 'evil'; known here are \[.*import what registers it first"):
        load_checkpoint(folder)


def test_a_value_of_the_wrong_kind_is_named(folder):
    change_json(folder, config=[1])
    with pytest.raises(CheckpointError, match="config must be an object; got list"):
        load_checkpoint(folder)


def test_a_config_of_another_version_is_refused(folder):
    change_json(folder, config={"gains": 1.0})
    with pytest.raises(CheckpointError, match="does not fit this version of Extrapolation.*gains"):
        load_checkpoint(folder)


def test_a_requirement_that_is_missing_is_refused(folder):
    requirements = json.loads((folder / "checkpoint.json").read_text())["requirements"]
    del requirements["channels"]
    change_json(folder, requirements=requirements)
    with pytest.raises(CheckpointError, match="does not fit this version of Extrapolation.*channels"):
        load_checkpoint(folder)


def test_a_network_that_is_no_name_is_refused(folder):
    change_json(folder, model=["Extrapolation"])
    with pytest.raises(CheckpointError, match=r"names the network \['Extrapolation'\]"):
        load_checkpoint(folder)


def test_a_compact_date_is_that_date_and_no_far_year():
    """NumPy reads 20210101 as the year 20,210,101, and no year that is scored would lie inside the span."""
    assert parse_span("20210101/20210201") == "2021-01-01T00/2021-02-01T00"


@pytest.mark.parametrize("span", ["2021", "2021-01-01/soon", "a/b/c", 5, [1, 2], "NaT/2021-01-01"])
def test_a_training_span_that_is_none_is_refused(span):
    with pytest.raises(CheckpointError, match="training_span must be 'START/END'"):
        parse_span(span)


def test_a_training_span_that_ends_before_it_starts_is_refused():
    with pytest.raises(CheckpointError, match="must end after it starts"):
        parse_span(("2021-02-01", "2021-01-01"))


def test_a_model_without_a_name_in_the_list_is_refused(tmp_path, monkeypatch):
    monkeypatch.delitem(checkpoint.MODELS, "Extrapolation")
    with pytest.raises(CheckpointError, match=r"model must be one of \[.*'PuYun', .*\]; got Extrapolation"):
        save_checkpoint(tmp_path / "x", extrapolation(ANALYSIS), training_span=SPAN, data_hash="abc")


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    with pytest.raises(CheckpointError, match="weight gain is not finite"):
        save_checkpoint(tmp_path / "x", extrapolation(ANALYSIS, gain=float("nan")), training_span=SPAN, data_hash="abc")
    assert not (tmp_path / "x").exists()


def test_axes_take_a_line_each_and_notes_stay_as_they_are(tmp_path):
    notes = {"how": "a  [list\n  in]  words"}
    save_checkpoint(tmp_path / "x", extrapolation(ANALYSIS), training_span=SPAN, data_hash="abc", extra=notes)
    assert read_description(tmp_path / "x").notes == notes
    lines = (tmp_path / "x" / "checkpoint.json").read_text().splitlines()
    assert '    "latitude": [ 90.0, 60.0, 30.0, 0.0, -30.0, -60.0, -90.0 ],' in lines
