"""Wave simulators: what their form guarantees whatever was learned, their statistics, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forecast.checkpoint import load_checkpoint, save_checkpoint
from forecast.layers.compression import CompressionConfig
from forecast.wave_requirements import WaveRequirements
from forecast.wave_simulator import Simulator, SimulatorConfig, wave_statistics
from tests.helpers.waves import make_waves

CHANNELS, STATIC = ("displacement", "velocity"), ("wave_speed", "mask")
FORMS = {
    "classical": {"network": "cnn", "kernel_size": 3},
    "compressed": {"network": "cnn", "kernel_size": 5, "compression": {"terms": 2, "rank": 0.5}},
    "lka": {"network": "lka"},
    "compressed lka": {"network": "lka", "compression": {"terms": 2, "rank": 0.5}},
}


def requirements_of(waves, **settings) -> WaveRequirements:
    return WaveRequirements.of(waves, CHANNELS, STATIC, **settings)


def simulator(form: str, history: int = 1) -> tuple[Simulator, torch.Tensor, torch.Tensor]:
    """A simulator with weights that are all at work, some frames and static fields."""
    torch.manual_seed(0)
    waves = make_waves(rows=9, columns=12)
    need = requirements_of(waves, history=history)
    model = Simulator(SimulatorConfig(width=6, depth=2, **FORMS[form]), need, wave_statistics(waves, need)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    fields = torch.from_numpy(np.stack([waves[name].values for name in CHANNELS], axis=2))
    static = torch.from_numpy(np.stack([waves[name].values for name in STATIC], axis=1))
    return model, fields[:, :history], static


@pytest.mark.parametrize("form", ["classical", "compressed"])
def test_waves_superpose(form: str) -> None:
    """A bias, or a non-linearity on the waves' way through the network, would show."""
    model, frames, static = simulator(form)
    other = frames.flip(-1) * static[:, 1, None, None]
    inputs = model.inputs_of(static)
    with torch.no_grad():
        whole = model(2 * frames - 3 * other, *inputs)
        parts = 2 * model(frames, *inputs) - 3 * model(other, *inputs)
    change = whole - (2 * frames - 3 * other)[:, -1]
    assert change.abs().max() > frames.abs().max()  # the network is at work
    scale = float(whole.abs().max())
    torch.testing.assert_close(whole, parts, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_made_scales_with_the_amplitude(form: str) -> None:
    model, frames, static = simulator(form)
    inputs = model.inputs_of(static)
    with torch.no_grad():
        one, many = model(frames, *inputs), model(7 * frames, *inputs)
    torch.testing.assert_close(many, 7 * one, rtol=1e-4, atol=1e-4 * float(many.abs().max()))


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_outside_the_medium(form: str) -> None:
    model, frames, static = simulator(form)
    with torch.no_grad():
        after = model(frames, *model.inputs_of(static))
        tendency = model.normalised_tendency(frames, *model.inputs_of(static))
    outside = static[:, 1] == 0
    assert outside.any()
    for field in (after, tendency):
        assert not field.movedim(1, -1)[outside].any()
        assert field.movedim(1, -1)[~outside].abs().min() > 0


@pytest.mark.parametrize("form", FORMS)
def test_an_untrained_simulator_repeats_its_last_frame(form: str) -> None:
    waves = make_waves()
    need = requirements_of(waves, history=2)
    model = Simulator(SimulatorConfig(width=6, depth=1, **FORMS[form]), need)
    frames = torch.randn(2, 2, 2, 6, 5)
    static = torch.rand(2, 2, 6, 5)
    static[:, 1] = 1
    torch.testing.assert_close(model(frames, *model.inputs_of(static)), frames[:, -1], rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_a_prepared_medium_changes_nothing(form: str) -> None:
    model, frames, static = simulator(form, history=2)
    with torch.no_grad():
        wanted = model(frames, *model.inputs_of(static))
        got = model.step(frames, model.prepare(static), static[:, 1, None])
        by_tendency = frames[:, -1] + model.tendency * model.normalised_tendency(frames, *model.inputs_of(static))
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    torch.testing.assert_close(by_tendency, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_the_medium_matters_and_so_does_the_edge(form: str) -> None:
    model, frames, static = simulator(form)
    faster = static.clone()
    faster[:, 0] *= 1.5
    with torch.no_grad():
        one = model(frames, *model.inputs_of(static))
        assert not torch.allclose(one, model(frames, *model.inputs_of(faster)))
        # Away from its edges a plane looks the same after a shift; at its edges it must not.
        moved = model(frames.roll(1, -1), *model.inputs_of(static.roll(1, -1)))
    assert not torch.allclose(moved[..., 1:], one[..., :-1])


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_gives_the_same_simulator_back(form: str, tmp_path) -> None:
    model, frames, static = simulator(form)
    said = save_checkpoint(tmp_path, model, training_span="sample 0/sample 2", data_hash="0")
    assert said.training_span == "sample 0/sample 2"
    again = load_checkpoint(tmp_path)
    assert isinstance(again, Simulator)
    assert again.requirements == model.requirements
    with torch.no_grad():
        torch.testing.assert_close(again(frames, *again.inputs_of(static)), model(frames, *model.inputs_of(static)))


def test_statistics_are_root_mean_squares_over_the_medium() -> None:
    waves = make_waves()
    waves["displacement"].values[:] = np.where(waves["mask"].values[:, None] > 0, 3.0, 0.0)
    waves["velocity"].values[:, 1::2] = -waves["velocity"].values[:, ::2]
    found = wave_statistics(waves, requirements_of(waves))
    inside = np.broadcast_to(waves["mask"].values[:, None] > 0, waves["velocity"].shape)
    size = np.sqrt((waves["velocity"].values[inside] ** 2).mean())
    change = np.sqrt((np.diff(waves["velocity"].values, axis=1)[inside[:, 1:]] ** 2).mean())
    np.testing.assert_allclose(found["deviation"], [3.0, size], rtol=1e-5)
    np.testing.assert_allclose(found["tendency"], [0.0, change], rtol=1e-5)
    speed = waves["wave_speed"].values[waves["mask"].values > 0]
    np.testing.assert_allclose(found["static_mean"], [speed.mean(), 0], rtol=1e-5)
    np.testing.assert_allclose(found["static_deviation"], [speed.std(), 1], rtol=1e-5)


def test_weights_are_taken_over_and_statistics_stay() -> None:
    one, _, _ = simulator("classical")
    two = Simulator(one.config, one.requirements)
    two.load_weights_of([one, one])
    torch.testing.assert_close(two.network.head.weight, one.network.head.weight)
    assert float(two.deviation.max()) == 1.0
    other = Simulator(SimulatorConfig(width=5, depth=2, kernel_size=3), one.requirements)
    with pytest.raises(ValueError, match="initial checkpoint has another form than the simulator: .*'width': 5"):
        one.load_weights_of([other])


@pytest.mark.parametrize(("settings", "message"), [
    ({"network": "gan"}, r"simulator.network must be one of \['cnn', 'lka'\]; got 'gan'"),
    ({"kernel_size": 4}, "simulator.kernel_size must be odd, so that a kernel has a centre; got 4"),
    ({"width": 0}, "simulator.width must be at least 1; got 0"),
    ({"compression": {"terms": -1}}, "compression.terms must be at least 1, or 0 for dense kernels; got -1"),
    ({"compression": {"mix": "middle"}}, r"compression.mix must be one of \('auto', 'first', 'last'\); got 'middle'"),
    ({"compression": {"rank": 1.5}}, r"compression.rank must lie in \(0, 1\], or be 0 for dense 1x1 convolutions; got 1.5"),
])  # fmt: skip
def test_wrong_forms_are_refused_by_name(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimulatorConfig(**settings)


def test_compression_is_off_by_default() -> None:
    assert not SimulatorConfig().compression.is_on
    assert CompressionConfig(terms=1).is_on
    assert CompressionConfig(rank=0.1).is_on


@pytest.mark.parametrize(("settings", "message"), [
    ({"channels": ()}, "channels is empty: a simulator needs at least one"),
    ({"history": 0}, r"history must be at least 1 \(the current state\); got 0"),
    ({"step_seconds": 0.0}, "step_seconds must be positive; got 0.0"),
    ({"static": ("wave_speed",)}, r"static must hold mask, outside of which waves are 0; got \['wave_speed'\]"),
])  # fmt: skip
def test_wrong_requirements_are_refused_by_name(settings: dict, message: str) -> None:
    values = {"channels": CHANNELS, "y": (0.0, 1.0), "x": (0.0, 1.0), "step_seconds": 0.1} | settings
    with pytest.raises(ValueError, match=message):
        WaveRequirements(**values)


def test_a_store_that_does_not_fit_is_refused_by_name() -> None:
    waves = make_waves()
    need = requirements_of(waves)
    need.check(waves)
    with pytest.raises(ValueError, match=r"variables \['velocity'\] are missing: the simulator needs .* Build a store"):
        need.check(waves.drop_vars("velocity"))
    with pytest.raises(ValueError, match="x differs: the simulator was trained on 5 points from 0.1 to 0.9 m; the store has 4"):
        need.check(waves.isel(x=slice(4)))
    with pytest.raises(ValueError, match="y differs: the simulator was trained on 6 points"):
        need.check(waves.assign_coords(y=waves["y"] * 1.01))
    with pytest.raises(ValueError, match=r"time step differs: the simulator steps 0.0333333 s; the store has 0.0666667 s"):
        need.check(waves.isel(time=slice(None, None, 2)))
