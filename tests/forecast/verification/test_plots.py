"""What figures of scores say: their titles, units, lines and marks come from the results."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from cartopy.mpl.feature_artist import FeatureArtist
from matplotlib.colors import to_rgb

from forecast.verification import Conventions, Event, plots
from forecast.verification.inputs import VerificationError
from tests.helpers.verification import STEP, drifting_truth, imperfect_forecast

PRESSURE = "mean_sea_level_pressure"
BOTH = Conventions(regions=["global", "tropics"])


@pytest.fixture(scope="module")
def truth():
    return drifting_truth(100)


@pytest.fixture(scope="module")
def forecast(truth):
    return imperfect_forecast(truth, 60, 90)


@pytest.fixture(scope="module")
def rival(truth):
    return imperfect_forecast(truth, 60, 90, error=0.2)


@pytest.fixture(scope="module")
def climatology(truth):
    return truth.isel(time=slice(0, 60)).groupby("time.hour").mean()


@pytest.fixture(scope="module")
def members(forecast):
    rng = np.random.default_rng(2)
    one = forecast[[PRESSURE]]
    return xr.concat([one + 60 * rng.normal(size=one[PRESSURE].shape).astype(np.float32) for _ in range(4)], "number")


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_curves_show_scores_in_hectopascal_with_their_interval(forecast, rival, truth):
    scores = {
        name: dataset.skill.score(truth, ["rmse"], options=BOTH) for name, dataset in (("ours", forecast), ("theirs", rival))
    }
    figure = plots.curves(scores, "rmse", region="tropics")
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("Mean sea level pressure", "Relative vorticity, 850 hPa")
    assert first.get_ylabel() == "RMSE [hPa]"
    assert first.get_xlabel() == "lead time [days]"
    assert list(lines(first)) == ["ours", "theirs"]
    shown = scores["theirs"][PRESSURE].sel(metric="rmse", region="tropics") / 100
    np.testing.assert_allclose(lines(first)["theirs"].get_ydata(), shown.sel(bound="value"))
    np.testing.assert_allclose(lines(first)["theirs"].get_xdata(), np.arange(1, 9) / 4)
    shade = first.collections[1].get_paths()[0].vertices[:, 1]
    assert shade.min() == pytest.approx(float(shown.sel(bound="low").min()))
    assert shade.max() == pytest.approx(float(shown.sel(bound="high").max()))
    assert first.get_ylim()[0] == 0
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "theirs"]


def test_a_curve_without_an_interval_has_no_shade_and_one_forecast_no_legend(forecast, truth, climatology):
    scores = forecast.skill.score(truth, ["acc"], climatology=climatology, interval=None)
    figure = plots.curves(scores, "acc", variables=[PRESSURE])
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), scores[PRESSURE].sel(metric="acc", region="global"))
    assert len(axes.collections) == 0
    assert figure.legends == []
    assert axes.get_ylabel() == "Anomaly correlation"


def test_scorecard_is_green_where_the_forecast_is_better_whichever_way_the_metric_points(forecast, rival, truth, climatology):
    """The same pair both ways and by an error and by a correlation: four cards, each with its colour and its stars."""
    metrics = ["rmse", "acc", "bias"]
    better = forecast.skill.compare(rival, truth, metrics, climatology=climatology, options=BOTH)
    worse = rival.skill.compare(forecast, truth, metrics, climatology=climatology, options=BOTH)
    leads = [STEP * 2, STEP * 4]
    for comparison, green in ((better, True), (worse, False)):
        for metric in ("rmse", "acc"):
            (axes,) = plots.scorecard(comparison, metric, leads=leads, rival="theirs").axes
            cells = [to_rgb(patch.get_facecolor()) for patch in axes.patches]
            assert len(cells) == 2 * 2 * 2
            assert all((g > r) is green for r, g, _ in cells)
    (axes,) = plots.scorecard(better, "rmse", leads=leads, rival="theirs", regions=["tropics"]).axes
    written = texts(axes)
    assert "RMSE relative to theirs" in written
    assert written[1:3] == ["12 h", "1 d"]
    relative = 100 * float(
        better[PRESSURE].sel(metric="rmse", region="tropics", statistic="relative", prediction_timedelta=STEP * 2)
    )
    assert f"{relative:+.1f}*" in written
    assert "Mean sea level pressure" in written
    (axes,) = plots.scorecard(better, "rmse", leads=leads, significant=1e-9).axes
    assert not any(text.endswith("*") for text in texts(axes))
    assert "Mean sea level pressure, tropics" in texts(axes)
    with pytest.raises(VerificationError, match="neither better when higher nor when lower"):
        plots.scorecard(better, "bias")


def test_a_short_sample_has_question_marks(forecast, rival, truth):
    comparison = forecast.isel(time=slice(0, 4)).skill.compare(rival, truth)
    (axes,) = plots.scorecard(comparison).axes
    assert all(text.endswith("?") for text in texts(axes) if text[0] in "+-")


def test_maps_have_coastlines_and_limits_that_all_lead_times_share(forecast, truth):
    result = forecast.skill.maps(truth, ["rmse", "bias"])
    figure = plots.maps(result, "bias", variables=[PRESSURE], leads=[STEP, STEP * 8])
    *panels, bar = figure.axes
    assert [axes.get_title() for axes in panels] == ["Mean sea level pressure, 6 h", "Mean sea level pressure, 2 d"]
    assert bar.get_xlabel() == "Bias [hPa]"
    meshes = [next(item for item in axes.collections if item.get_array() is not None) for axes in panels]
    boundaries = [mesh.norm.boundaries for mesh in meshes]
    np.testing.assert_array_equal(*boundaries)
    np.testing.assert_allclose(boundaries[0], -boundaries[0][::-1])
    shown = np.sort(result[PRESSURE].sel(metric="bias", prediction_timedelta=STEP).values.ravel() / 100)
    drawn = np.unique(np.ma.compressed(meshes[0].get_array()))
    np.testing.assert_allclose(drawn, np.unique(shown))
    assert all(sum(isinstance(child, FeatureArtist) for child in axes.get_children()) == 1 for axes in panels)  # coastlines
    assert plots.maps(result, "rmse", leads=[STEP]).axes[1].get_xlabel() == "RMSE [hPa]"


def test_spectra_show_truth_and_a_few_lead_times(forecast, truth):
    result = forecast.skill.spectra(truth)
    first, second = plots.spectra(result).axes
    assert list(lines(first)) == ["truth", "6 h", "18 h", "1.5 d", "2 d"]
    assert first.get_ylabel() == "energy [(hPa)² m]"
    assert second.get_title() == "Relative vorticity, 850 hPa"
    energy = result[PRESSURE].sel(source="forecast", prediction_timedelta=STEP * 8).values[1:] / 1e4
    np.testing.assert_allclose(lines(first)["2 d"].get_ydata(), energy)
    np.testing.assert_array_equal(lines(first)["2 d"].get_xdata(), np.arange(1, 9))


def test_taylor_point_lies_at_its_rmse_from_the_truth(forecast, rival, truth, climatology):
    """Law of cosines: with uncentred statistics the distance to the truth's point is RMSE over the truth's activity."""
    metrics = [*plots.TAYLOR, "rmse"]
    scores = {
        name: dataset.skill.score(truth, metrics, climatology=climatology) for name, dataset in (("a", forecast), ("b", rival))
    }
    (axes,) = plots.taylor(scores, leads=[STEP * 3]).axes
    value = scores["b"][PRESSURE].sel(bound="value", region="global", prediction_timedelta=STEP * 3)
    points = [line for line in axes.get_lines() if line.get_marker() == "o" and len(line.get_xdata())]
    assert len(points) == 2
    (angle,), (radius,) = points[1].get_data()
    distance = np.hypot(radius * np.cos(angle) - 1, radius * np.sin(angle))
    expected = float(value.sel(metric="rmse") / value.sel(metric="activity_truth_pooled"))
    assert distance == pytest.approx(expected, rel=1e-6)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b", "truth"]
    assert "18 h" in texts(axes)
    assert axes.get_thetamax() == 90


def test_taylor_opens_to_a_half_circle_for_negative_correlations(forecast, truth, climatology):
    metrics = list(plots.TAYLOR)
    anomaly = forecast - climatology.sel(hour=0)
    opposite = (climatology.sel(hour=0) - anomaly).drop_vars("hour")
    (axes,) = plots.taylor(opposite.skill.score(truth, metrics, climatology=climatology.mean("hour")), leads=[STEP]).axes
    assert axes.get_thetamax() == 180


def test_reliability_and_roc_show_what_was_counted(members, truth):
    event = Event({PRESSURE: 1e5}, name="above 1000 hPa")
    diagram, curve = members.skill.reliability(truth, event), members.skill.roc(truth, event)
    upper, lower = plots.reliability(diagram, leads=[STEP, STEP * 8]).axes
    assert upper.get_title() == "Mean sea level pressure: above 1000 hPa"
    assert list(lines(upper)) == ["6 h", "2 d"]
    np.testing.assert_allclose(
        lines(upper)["2 d"].get_ydata(), diagram["observed"][PRESSURE].isel(region=0).sel(prediction_timedelta=STEP * 8)
    )
    heights = [patch.get_height() for patch in lower.patches]
    assert len(heights) == 2 * 5
    np.testing.assert_allclose(heights[:5], diagram["share"][PRESSURE].isel(region=0).sel(prediction_timedelta=STEP))
    (axes,) = plots.roc(curve, leads=[STEP]).axes
    area = members.skill.events(truth, event)[PRESSURE].sel(metric="roc_area", prediction_timedelta=STEP).item()
    assert list(lines(axes)) == [f"6 h, area {area:.2f}"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("false alarm rate", "hit rate")


def test_rank_histogram_has_a_bar_for_each_rank_and_the_reliable_height(members, truth):
    result = members.skill.rank_histogram(truth)
    panels = plots.rank_histogram(result, leads=[STEP, STEP * 2]).axes
    assert [axes.get_title() for axes in panels] == ["6 h", "12 h"]
    heights = [patch.get_height() for patch in panels[1].patches]
    np.testing.assert_allclose(heights, result[PRESSURE].isel(region=0).sel(prediction_timedelta=STEP * 2))
    assert panels[0].get_lines()[0].get_ydata()[0] == pytest.approx(1 / 5)


def test_temperature_errors_are_in_kelvin(forecast, truth):
    warm = [(dataset[[PRESSURE]] - 99_700).rename({PRESSURE: "2m_temperature"}) for dataset in (forecast, truth)]
    for dataset in warm:
        dataset["2m_temperature"].attrs["units"] = "K"
    (axes,) = plots.curves(warm[0].skill.score(warm[1], ["rmse"], interval=None)).axes
    assert axes.get_ylabel() == "RMSE [K]"


def test_what_is_not_among_the_results_is_refused_by_name(forecast, truth):
    scores = forecast.skill.score(truth, ["rmse"], interval=None)
    with pytest.raises(VerificationError, match=r"metric 'mae' is not among the results; these hold \['rmse'\]"):
        plots.curves(scores, "mae")
    with pytest.raises(VerificationError, match="region 'europe' is not among"):
        plots.curves(scores, region="europe")
    with pytest.raises(VerificationError, match=r"variables \['rain'\] are not among"):
        plots.curves(scores, variables=["rain"])
    with pytest.raises(VerificationError, match="at least one forecast"):
        plots.curves({})
    with pytest.raises(VerificationError, match="vorticity is not among the results"):
        plots.curves({"a": scores, "b": scores[[PRESSURE]]})
    with pytest.raises(VerificationError, match="leads must be among"):
        plots.spectra(forecast.skill.spectra(truth), leads=[np.timedelta64(5, "h")])
    with pytest.raises(VerificationError, match="level 500 hPa is not among"):
        plots.taylor(scores, level=500)
