"""A roll-out makes what stepping by hand makes, and keeps no more than it needs."""

import weakref

import numpy as np
import pytest
import torch

import forecast.rollout
from forecast.cascade import Cascade, Stage
from forecast.forecaster import ForecastError
from forecast.rollout import choose_device, rollout, rollout_branches
from forecast.state import read_states
from tests.helpers.analyses import make_analysis
from tests.helpers.forecasters import CHANNELS, extrapolation

ANALYSIS = make_analysis()
TIMES = np.array(["2021-02-27T12", "2021-02-28T06"], "datetime64[ns]")


def by_hand(time, steps, gain=0.5):
    """Extrapolation at one initial time, in numpy."""
    before, now = read_states(ANALYSIS, CHANNELS, np.array([time - np.timedelta64(6, "h"), time])).astype(np.float64)
    made = []
    for step in range(steps):
        target = time + np.timedelta64(6 * (step + 1), "h")
        hour = (target.astype("datetime64[h]") - target.astype("datetime64[D]")).astype(int)
        drift = np.arange(1, 4).reshape(3, 1, 1) * 6 * step / 100
        before, now = now, now + gain * (now - before) + drift + hour / 1000
        made.append(now)
    return made


def test_states_are_those_of_stepping_by_hand():
    """A wrong order of frames, channels or initial times shows, a lead time or clock off by one step too."""
    states = list(rollout(extrapolation(ANALYSIS), ANALYSIS, TIMES, 4, "cpu"))
    assert [state.lead_hours for state in states] == [6, 12, 18, 24]
    for row, time in enumerate(TIMES):
        for state, fields in zip(states, by_hand(time, 4), strict=True):
            # Two values of 1e5 Pa are subtracted in float32, whose spacing there is 0.008.
            np.testing.assert_allclose(state.fields[row].numpy(), fields, rtol=0, atol=0.05)


def test_a_batch_makes_what_single_forecasts_make():
    together = list(rollout(extrapolation(ANALYSIS), ANALYSIS, TIMES, 3, "cpu"))
    alone = list(rollout(extrapolation(ANALYSIS), ANALYSIS, TIMES[1:], 3, "cpu"))
    for both, one in zip(together, alone, strict=True):
        torch.testing.assert_close(both.fields[1:], one.fields, rtol=0, atol=0)


def test_a_cascade_of_equal_stages_is_one_model():
    model = extrapolation(ANALYSIS)
    reordered = extrapolation(ANALYSIS, channels=CHANNELS[::-1])
    one = list(rollout(model, ANALYSIS, TIMES, 5, "cpu"))
    three = list(rollout(Cascade([Stage(6, model), Stage(18, reordered), Stage(30, model)]), ANALYSIS, TIMES, 5, "cpu"))
    assert [state.stage for state in three] == [0, 1, 1, 2, 2]
    for a, b in zip(one, three, strict=True):
        torch.testing.assert_close(a.fields, b.fields, rtol=0, atol=0)


def test_a_later_stage_takes_over():
    short, medium = extrapolation(ANALYSIS, gain=0.5), extrapolation(ANALYSIS, gain=-0.5)
    alone = list(rollout(short, ANALYSIS, TIMES, 3, "cpu"))
    cascade = list(rollout(Cascade([Stage(12, short), Stage(18, medium)]), ANALYSIS, TIMES, 3, "cpu"))
    torch.testing.assert_close(alone[1].fields, cascade[1].fields, rtol=0, atol=0)
    assert (alone[2].fields - cascade[2].fields).abs().max() > 1


def test_what_is_shown_is_calibrated_and_what_is_carried_on_is_not():
    """With one model's channels in another order, as a cascade may have them."""
    model, reordered = extrapolation(ANALYSIS), extrapolation(ANALYSIS, channels=CHANNELS[::-1])
    model.share_of_initial = reordered.share_of_initial = 0.01
    initial = torch.from_numpy(read_states(ANALYSIS, CHANNELS, TIMES))
    raw = rollout(extrapolation(ANALYSIS), ANALYSIS, TIMES, 4, "cpu")
    for plain, shown in zip(
        raw, rollout(Cascade([Stage(12, model), Stage(24, reordered)]), ANALYSIS, TIMES, 4, "cpu"), strict=True
    ):
        weight = 0.01 * plain.lead_hours
        torch.testing.assert_close(shown.fields, plain.fields + weight * (initial - plain.fields))


def test_what_is_shown_is_within_physical_bounds_and_what_is_carried_on_is_not_cut():
    """No rain below zero, no cloud over more than all; temperature has no bound."""
    pressure = ANALYSIS["mean_sea_level_pressure"]
    wave = ((pressure - pressure.mean()) / pressure.std()).astype("float32")
    cloud, rain = wave.rename("total_cloud_cover"), wave.rename("total_precipitation_6hr")
    analysis = ANALYSIS[[]].assign(total_cloud_cover=cloud, total_precipitation_6hr=rain, skin_temperature=wave)
    model = extrapolation(analysis, channels=("total_cloud_cover", "total_precipitation_6hr", "skin_temperature"))
    raw = list(rollout(model, analysis, TIMES, 4, "cpu", calibrated=False))
    for plain, shown in zip(raw, rollout(model, analysis, TIMES, 4, "cpu"), strict=True):
        low, high = plain.fields.amin((0, 2, 3)), plain.fields.amax((0, 2, 3))
        assert (low < 0).all()
        assert high[0] > 1
        torch.testing.assert_close(shown.fields[:, 0], plain.fields[:, 0].clamp(0, 1), rtol=0, atol=0)
        torch.testing.assert_close(shown.fields[:, 1], plain.fields[:, 1].clamp(min=0), rtol=0, atol=0)
        torch.testing.assert_close(shown.fields[:, 2], plain.fields[:, 2], rtol=0, atol=0)


def test_branches_make_the_bits_of_separate_rollouts_in_fewer_steps(monkeypatch):
    """Calibrated and perturbed, a branch that begins otherwise and one that ends early among them."""
    short, medium, other = (extrapolation(ANALYSIS, gain=gain) for gain in (0.5, -0.5, 0.25))
    late = extrapolation(ANALYSIS, step_hours=12, channels=CHANNELS[::-1])
    short.share_of_initial, late.share_of_initial = 0.01, 0.02
    cascades = [
        Cascade([Stage(24, short), Stage(48, medium)]),
        Cascade([Stage(48, short)]),
        Cascade([Stage(24, other), Stage(48, medium)]),
        Cascade([Stage(24, short), Stage(48, late)]),
        Cascade([Stage(12, short)]),
    ]
    steps = [8, 8, 8, 6, 2]
    added = np.random.default_rng(1).standard_normal((2, *read_states(ANALYSIS, CHANNELS, TIMES).shape)).astype(np.float32)
    perturbations = [added[0], added[0], added[1], added[0], added[0]]
    apart = [
        list(rollout(cascade, ANALYSIS, TIMES, count, "cpu", perturbations=own))
        for cascade, count, own in zip(cascades, steps, perturbations, strict=True)
    ]
    made = []
    one_step = forecast.rollout._one_step
    monkeypatch.setattr(forecast.rollout, "_one_step", lambda *given: made.append(given) or one_step(*given))
    together = [[] for _ in cascades]
    for numbers, state in rollout_branches(cascades, ANALYSIS, TIMES, steps, "cpu", perturbations=perturbations):
        for number in numbers:
            together[number].append(state)
    assert len(made) == 8 + 4 + 8 + 2
    for ours, theirs in zip(together, apart, strict=True):
        assert [state.lead_hours for state in ours] == [state.lead_hours for state in theirs]
        for one, another in zip(ours, theirs, strict=True):
            assert torch.equal(one.fields, another.fields)


def test_perturbations_of_another_shape_are_refused():
    with pytest.raises(ForecastError, match=r"must have the shape of the initial states, \(2, 3, 7, 12\); got \(1, 3, 7, 12\)"):
        rollout(extrapolation(ANALYSIS), ANALYSIS, TIMES, 1, "cpu", perturbations=np.zeros((1, 3, 7, 12), np.float32))


def test_memory_does_not_grow_with_lead_time(monkeypatch):
    """History is two states: besides the newest, one older is read again."""
    made, alive = [], []
    one_step = forecast.rollout._one_step

    def watched(*arguments):
        fields = one_step(*arguments)
        made.append(weakref.ref(fields))
        return fields

    monkeypatch.setattr(forecast.rollout, "_one_step", watched)
    for state in rollout(extrapolation(ANALYSIS), ANALYSIS, TIMES, 30, "cpu"):
        del state
        alive.append(sum(fields() is not None for fields in made))
    assert max(alive) == 2


def test_gradients_stay_switched_on_while_a_rollout_waits():
    states = rollout(extrapolation(ANALYSIS), ANALYSIS, TIMES, 3, "cpu")
    next(states)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(("steps", "wanted"), [(0, "at least 1"), (3, "at most 2, where the cascade ends")])
def test_number_of_steps_is_checked_before_the_first(steps, wanted):
    with pytest.raises(ForecastError, match=f"steps must be {wanted}; got {steps}"):
        rollout(Cascade.of(extrapolation(ANALYSIS), 2), ANALYSIS, TIMES, steps, "cpu")


def test_no_initial_time_is_refused():
    with pytest.raises(ForecastError, match="initial_times must be a list of at least one date"):
        rollout(extrapolation(ANALYSIS), ANALYSIS, [], 1, "cpu")


def test_initial_time_without_its_history_is_refused_before_the_first_step():
    with pytest.raises(ForecastError, match="2021-02-26T18 is missing, which forecasts from 6 h later read as their history"):
        rollout(extrapolation(ANALYSIS), ANALYSIS, ANALYSIS["time"].values[:2], 1, "cpu")


def test_analysis_of_another_grid_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match=r"latitude differs: the model was trained on 7 points.*the store has 9 points"):
        rollout(extrapolation(ANALYSIS), make_analysis(rows=9), TIMES, 1, "cpu")


def test_analysis_without_a_level_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match="level 500 hPa is missing"):
        rollout(extrapolation(ANALYSIS), make_analysis(levels=(850,)), TIMES, 1, "cpu")


def test_analysis_without_a_variable_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match="variable mean_sea_level_pressure is missing"):
        rollout(extrapolation(ANALYSIS), ANALYSIS.drop_vars("mean_sea_level_pressure"), TIMES, 1, "cpu")


def test_a_stage_may_step_further_than_the_analysis():
    states = list(rollout(extrapolation(ANALYSIS, step_hours=12), ANALYSIS, TIMES, 2, "cpu"))
    assert [state.lead_hours for state in states] == [12, 24]


def test_a_stage_of_long_steps_carries_on_the_states_a_step_before():
    """Hand over at 6 h: that at 18 h comes from 6 h and the analysis of 6 h before, that at 24 h from 12 h and the analysis."""
    short, long = extrapolation(ANALYSIS, gain=0.5), extrapolation(ANALYSIS, gain=-0.25, step_hours=12, interval_hours=6)
    states = list(rollout(Cascade([Stage(6, short), Stage(24, long)]), ANALYSIS, TIMES, 4, "cpu", calibrated=False))
    assert [(state.lead_hours, state.stage) for state in states] == [(6, 0), (12, 1), (18, 1), (24, 1)]
    made = {
        hours: torch.from_numpy(read_states(ANALYSIS, CHANNELS, TIMES + np.timedelta64(hours, "h"))) for hours in (-12, -6, 0)
    }
    made |= {state.lead_hours: state.fields for state in states}
    for hours in (12, 18, 24):
        before = hours - 12
        inputs = long.inputs_at(TIMES + np.timedelta64(before, "h"), np.full(len(TIMES), before))
        wanted = long(torch.stack([made[before - 12], made[before]], dim=1), *inputs)
        torch.testing.assert_close(made[hours], wanted, rtol=0, atol=0)


def test_forecast_that_leaves_the_finite_numbers_stops_with_its_lead_time():
    with pytest.raises(ForecastError, match=r"temperature_500 is not finite in 84 of 84 cells, 6 h after 2021-02-27T12"):
        next(rollout(extrapolation(ANALYSIS, gain=float("inf")), ANALYSIS, TIMES, 3, "cpu"))


def test_too_little_memory_says_which_setting_helps(monkeypatch):
    model = extrapolation(ANALYSIS)

    def fail(*_):
        raise torch.OutOfMemoryError("tried to allocate 80 GiB")

    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(ForecastError, match="too little memory for 2 forecasts at once. Lower batch_size"):
        next(rollout(model, ANALYSIS, TIMES, 1, "cpu"))


def test_auto_is_the_gpu_where_there_is_one(monkeypatch):
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ForecastError, match=f"device must be auto, cpu or cuda.*got '{name}'"):
        choose_device(name)


@pytest.mark.gpu
def test_a_gpu_makes_the_forecast_of_the_cpu():
    on_cpu = list(rollout(extrapolation(ANALYSIS), ANALYSIS, TIMES, 3, "cpu"))
    on_gpu = list(rollout(extrapolation(ANALYSIS), ANALYSIS, TIMES, 3, "cuda"))
    for a, b in zip(on_cpu, on_gpu, strict=True):
        assert b.fields.device.type == "cuda"
        torch.testing.assert_close(a.fields, b.fields.cpu(), rtol=1e-5, atol=1e-3)
