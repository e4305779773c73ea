"""The network: sizes, symmetries, units, and that every input matters."""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from forecast.puyun import PuYun, PuYunConfig
from forecast.requirements import Requirements
from tests.helpers.puyun import SIXTY_NINE, make_puyun, make_requirements, make_statistics, model_config

TIME = np.array(["2026-01-01T06", "2026-01-03T18"], dtype="datetime64[ns]")
SIZES = [
    ("puyun_tiny", 73, 144, ("mean_sea_level_pressure", "vorticity_850")),
    ("puyun_1p5deg", 121, 240, SIXTY_NINE),
    ("puyun_0p25deg", 721, 1440, SIXTY_NINE),
]


def frames_for(model: PuYun, batch: int = 2) -> torch.Tensor:
    torch.manual_seed(1)
    need = model.requirements
    noise = torch.randn(batch, need.history, len(need.channels), *need.grid_shape)
    return model.mean_field + model.deviation * noise


@pytest.mark.parametrize(("name", "rows", "columns", "channels"), SIZES)
def test_parameter_count_is_what_the_docstring_says(name: str, rows: int, columns: int, channels: tuple[str, ...]) -> None:
    with torch.device("meta"):
        model = PuYun(model_config(name), make_requirements(rows, columns, channels))
    row = re.search(rf"{name} .*", PuYun.__doc__)
    assert row is not None
    stated = row.group().split()
    assert f"{rows} x {columns}" in row.group()
    assert stated[-1] == f"{model.parameter_count():,}"
    assert stated[-5] == str(len(channels))
    assert int(stated[-3]) == sum(model.config.depth)


@pytest.mark.parametrize(("name", "rows", "columns", "channels"), SIZES)
def test_every_size_runs_on_the_meta_device(name: str, rows: int, columns: int, channels: tuple[str, ...]) -> None:
    with torch.device("meta"):
        model = PuYun(model_config(name), make_requirements(rows, columns, channels))
        frames = torch.zeros(1, 2, len(channels), rows, columns)
        out = model(frames, torch.zeros(1, 1, rows, columns), torch.zeros(1, 14))
    assert out.shape == (1, len(channels), rows, columns)


@pytest.mark.parametrize("settings", [{}, {"patch": 2}, {"mixer": "lka"}, {"gradient_checkpointing": True}])
def test_untrained_network_forecasts_persistence(settings: dict) -> None:
    model = make_puyun(make_requirements(25, 48), awake=False, **settings)
    frames = frames_for(model)
    torch.testing.assert_close(model(frames, *model.inputs_at(TIME, np.zeros(2))), frames[:, -1], rtol=0, atol=0)


def test_output_is_last_frame_plus_tendency_in_its_own_units() -> None:
    model = make_puyun()
    frames, inputs = frames_for(model), model.inputs_at(TIME, np.zeros(2))
    wanted = frames[:, -1] + model.tendency * model.normalised_tendency(frames, *inputs)
    torch.testing.assert_close(model(frames, *inputs), wanted)
    assert (model(frames, *inputs) - frames[:, -1]).abs().mean() > 0


@pytest.mark.parametrize("mixer", ["lka", "gated_large_kernel"])
@pytest.mark.parametrize("patch", [1, 2])
def test_turning_globe_and_statistics_turns_the_forecast(mixer: str, patch: int) -> None:
    """With the same sun everywhere, nothing marks a meridian but the fields and their climate."""
    model = make_puyun(make_requirements(25, 48), mixer=mixer, patch=patch)
    frames, (forcings, features) = frames_for(model), model.inputs_at(TIME, np.zeros(2))
    forcings = torch.zeros_like(forcings)
    with torch.no_grad():
        wanted = model(frames, forcings, features).roll(4, -1)
        model.mean_field.copy_(model.mean_field.roll(4, -1))
        model.deviation_field.copy_(model.deviation_field.roll(4, -1))
        got = model(frames.roll(4, -1), forcings, features)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-3)


TURNING = ("mean_sea_level_pressure", "v_component_of_wind_850", "vorticity_850")
SIGNS = torch.tensor([1.0, -1.0, -1.0]).view(3, 1, 1)  # what pressure, wind along a meridian and vorticity become in a mirror


def inputs_for(model: PuYun, time: np.ndarray = TIME) -> tuple[torch.Tensor, torch.Tensor]:
    """Forcings of noise, and the features of a time."""
    _, features = model.inputs_at(time, np.array([0, 6]))
    return torch.rand(2, len(model.requirements.forcings), *model.requirements.grid_shape), features


@pytest.mark.parametrize("rows", [12, 13])
def test_the_mirrored_step_is_that_of_a_mirrored_globe_half_a_year_later(rows: int) -> None:
    need = make_requirements(rows, channels=TURNING)
    model, other = make_puyun(need), make_puyun(need)
    with torch.no_grad():  # a globe whose climate is this one's in the mirror
        other.mean.mul_(SIGNS)
        other.mean_field.copy_(SIGNS * model.mean_field.flip(-2))
        other.deviation_field.copy_(model.deviation_field.flip(-2))
    frames, (forcings, features) = frames_for(model), inputs_for(model)
    _, later = inputs_for(other, TIME + np.timedelta64(365 * 12, "h"))  # half a year, which ends at another hour of day
    clock = [2, 3, 6, 7, 10, 11]
    later[:, clock] = features[:, clock]
    seen = SIGNS * frames.flip(-2), forcings.flip(-2), later
    before = {name: value.clone() for name, value in model.named_buffers()}
    with torch.no_grad():
        made = model.mirrored_tendency(frames, forcings, features)
        torch.testing.assert_close(made, SIGNS * other.normalised_tendency(*seen).flip(-2), rtol=1e-4, atol=1e-4)
        assert float((made - model.normalised_tendency(frames, forcings, features)).abs().max()) > 0.1
    for name, value in model.named_buffers():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_the_mean_of_both_steps_keeps_the_symmetry() -> None:
    model = make_puyun(make_requirements(channels=TURNING), mirrored=True)
    frames, (forcings, features) = frames_for(model), inputs_for(model)
    plain = make_puyun(make_requirements(channels=TURNING))
    with torch.no_grad():
        for one in (model, plain):  # a climate that is its own mirror image
            one.mean.mul_((1 + SIGNS) / 2)
            one.mean_field.copy_((one.mean_field + SIGNS * one.mean_field.flip(-2)) / 2)
            one.deviation_field.copy_((one.deviation_field + one.deviation_field.flip(-2)) / 2)
        summer = features * torch.tensor([-1.0, -1.0, 1.0, 1.0] * 3 + [1.0, 1.0])
        ways = [
            (one(frames, forcings, features), SIGNS * one(SIGNS * frames.flip(-2), forcings.flip(-2), summer).flip(-2))
            for one in (model, plain)
        ]
    torch.testing.assert_close(*ways[0], rtol=1e-4, atol=1e-3)
    assert float((ways[1][0] - ways[1][1]).abs().max()) > 0.1


def test_a_network_that_averages_both_steps_can_be_exported() -> None:
    model = make_puyun(make_requirements(channels=TURNING), mirrored=True).eval()
    given = frames_for(model), *inputs_for(model)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(model, given).module()(*given), model(*given), rtol=1e-5, atol=1e-4)


def test_what_has_no_mirror_image_is_refused() -> None:
    lopsided = replace(make_requirements(), latitude=tuple(float(value) for value in np.linspace(90, -60, 13)))
    for need, message in (
        (
            lopsided,
            "mirroring needs a whole grid that is alike on both sides of the equator; got rows 0 to 13 of latitudes 90 to -60",
        ),
        (make_requirements(channels=("mean_wave_direction",)), r"mirroring turns \['mean_wave_direction'\] by another angle"),
    ):
        model = make_puyun(need, mirrored=True)
        with pytest.raises(ValueError, match=message):
            model(frames_for(model), *inputs_for(model))


def test_every_input_matters() -> None:
    model = make_puyun()
    frames, (forcings, features) = frames_for(model), model.inputs_at(TIME, np.zeros(2))
    reference = model(frames, forcings, features)
    first, last = frames.clone(), frames.clone()
    first[:, 0] += model.deviation
    last[:, 1, :, 3, 5] += model.deviation[:, 0, 0]
    for changed in [
        (first, forcings, features),
        (last, forcings, features),
        (frames, forcings + 1, features),
        (frames, forcings, model.inputs_at(TIME + np.timedelta64(180, "D"), np.zeros(2))[1]),
        (frames, forcings, model.inputs_at(TIME, np.full(2, 120.0))[1]),
    ]:
        assert not torch.allclose(model(*changed), reference)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    plain, frugal = make_puyun(), make_puyun(gradient_checkpointing=True)
    frames, inputs = frames_for(plain), plain.inputs_at(TIME, np.zeros(2))
    for model in (plain, frugal):
        model.train()
        model.normalised_tendency(frames, *inputs).square().mean().backward()
    for one, other in zip(plain.parameters(), frugal.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_bfloat16_agrees_to_its_digits() -> None:
    model = make_puyun()
    frames, inputs = frames_for(model), model.inputs_at(TIME, np.zeros(2))
    with torch.no_grad():
        wanted = model.normalised_tendency(frames, *inputs)
        with torch.autocast("cpu", torch.bfloat16):
            got = model.normalised_tendency(frames, *inputs).float()
    # 8 bits of mantissa through a dozen layers.
    assert (got - wanted).norm() / wanted.norm() < 0.03


def test_forcings_belong_to_the_target_time() -> None:
    model = make_puyun()
    forcings, features = model.inputs_at(TIME, np.zeros(2))
    later, _ = model.inputs_at(TIME - model.requirements.step, np.zeros(2))
    assert forcings.shape == (2, 1, 13, 24)
    assert features.shape == (2, 14)
    assert not torch.allclose(forcings, later)
    # At 12 UTC the sun stands over Greenwich, at longitude 0.
    assert int(forcings[0, 0].sum(0).argmax()) == 0


def test_state_dict_rebuilds_the_network() -> None:
    model = make_puyun()
    copy = PuYun.from_config(model.to_config(), model.requirements)
    copy.load_state_dict(model.state_dict())
    frames, inputs = frames_for(model), model.inputs_at(TIME, np.zeros(2))
    torch.testing.assert_close(copy.eval()(frames, *inputs), model(frames, *inputs), rtol=0, atol=0)


def test_weights_move_over_without_statistics() -> None:
    model = make_puyun()
    other = PuYun(model.config, model.requirements)
    other.load_weights_of([model])
    torch.testing.assert_close(other.head.weight, model.head.weight)
    assert torch.equal(other.mean_field, torch.zeros_like(other.mean_field))


def test_weights_of_several_are_averaged() -> None:
    one, two = make_puyun(), make_puyun()
    with torch.no_grad():
        two.head.weight.add_(2.0)
    mean = make_puyun()
    mean.load_weights_of([one, two])
    torch.testing.assert_close(mean.head.weight, one.head.weight + 1.0)
    torch.testing.assert_close(mean.embedding.weight, one.embedding.weight)


def test_weights_of_another_form_are_refused() -> None:
    with pytest.raises(ValueError, match="another form.*parameters differ.*'width': 16"):
        make_puyun(width=8).load_weights_of([make_puyun(width=16)])


@pytest.mark.parametrize(("settings", "message"), [
    ({"mixer": "softmax"}, "mixer must be one of .*gated_large_kernel.*lka.*got 'softmax'"),
    ({"width": 0}, "width must be at least 1; got 0"),
    ({"depth": ()}, "depth must hold at least one stage"),
    ({"dropout": 1.0}, r"dropout must lie in \[0, 1\); got 1.0"),
])  # fmt: skip
def test_wrong_settings_are_refused_by_name(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PuYunConfig(**settings)


def test_requirements_of_an_empty_state_are_refused() -> None:
    with pytest.raises(ValueError, match="channels is empty"):
        Requirements((), (90.0, -90.0), (0.0, 180.0))


def never_changing(statistics: xr.Dataset) -> xr.Dataset:
    return statistics.assign(tendency_standard_deviation=statistics["tendency_standard_deviation"] * [1.0, 0.0])


def with_land(statistics: xr.Dataset) -> xr.Dataset:
    return statistics.assign(mean_field=statistics["mean_field"].where(statistics["longitude"] > 20))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: made.isel(channel=[0]), r"statistics lack the channels \['u_component_of_wind_850'\]; they have"),
        (lambda made: made.isel(latitude=slice(None, None, -1)), "another grid: latitude has 13 points from -90 to 90"),
        (lambda made: made.isel(longitude=slice(12)), "another grid: longitude has 12 points"),
        (never_changing, r"tendency_standard_deviation of \['u_component_of_wind_850'\] must be finite and above 0"),
        (with_land, r"mean_field of \['mean_sea_level_pressure', .* must be finite to normalise"),
    ],
)
def test_statistics_that_cannot_normalise_are_refused(change: Callable[[xr.Dataset], xr.Dataset], message: str) -> None:
    """A mirrored climate, or a division by 0, would show in nothing but bad forecasts."""
    need = make_requirements()
    with pytest.raises(ValueError, match=message):
        PuYun(PuYunConfig(width=8), need, change(make_statistics(need)))


def test_variable_that_nobody_knows_is_a_scalar() -> None:
    signs = make_puyun(make_requirements(channels=("foam", "u_component_of_wind_850"))).odd_input.flatten()
    assert signs[:2].tolist() == [1.0, -1.0]


def test_calibration_between_two_steps_lies_between_theirs() -> None:
    need = replace(make_requirements(), step_hours=12, interval_hours=6)
    model = make_puyun(need, calibrated_steps=2)
    model.calibration.copy_(torch.tensor([[0.9, 0.0], [0.5, 0.2]])[:, :, None, None].expand_as(model.calibration))
    fields, initial = torch.randn(2, len(TIME), len(need.channels), *need.grid_shape)
    shown = {hours: model.calibrated(fields, initial, TIME, hours) for hours in (6, 12, 18, 24, 36)}
    torch.testing.assert_close(shown[18], (shown[12] + shown[24]) / 2)
    torch.testing.assert_close(shown[6], shown[12], rtol=0, atol=0)
    torch.testing.assert_close(shown[36], shown[24], rtol=0, atol=0)
    usual = model.usual_state(TIME)  # the same at every hour here
    torch.testing.assert_close(shown[24], usual + 0.5 * (fields - usual) + 0.2 * (initial - usual))


def test_calibration_leaves_the_analysis_alone() -> None:
    """Weights are kept by step from 1; place -1 of the list is the last step's."""
    model = make_puyun(calibrated_steps=3)
    model.calibration.fill_(0.5)
    fields = frames_for(model)[:, -1]
    assert model.calibrated(fields, fields, TIME, 0) is fields
    assert not torch.equal(model.calibrated(fields, fields, TIME, 6), fields)


@pytest.mark.parametrize("mixer", ["gated_large_kernel", "ls"])
@pytest.mark.parametrize("depth", [(2, 2), (8, 8)])
def test_branches_begin_open_and_bounded_at_any_depth(mixer: str, depth: tuple[int, ...]) -> None:
    """Together they are half of what the first block is given: training reaches all from its first step, and none grow."""
    torch.manual_seed(0)
    model = PuYun(PuYunConfig(width=32, depth=depth, mixer=mixer), make_requirements())
    x = torch.randn(2, 32, *model.requirements.grid_shape)
    time = torch.zeros(2, 32)
    out = x
    for block in (block for stage in model.stages for block in stage):
        out = block(out, time)
    assert 0.4 < (out - x).std() / x.std() < 0.6
