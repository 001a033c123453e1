"""Rolling-origin evaluation: no method sees the future, each series by its own units, each method by its name."""

import numpy as np
import pytest
import torch
from helpers import waves

pd = pytest.importorskip("pandas")
pytest.importorskip("statsmodels")

from gatewise.tasks import forecast  # noqa: E402
from gatewise.tasks.forecast.windows import Origin  # noqa: E402


@pytest.mark.parametrize("decode", ["direct", "autoregressive"])
@pytest.mark.parametrize("normalise", ["location", "window", "series"])
def test_no_forecast_sees_what_comes_after_its_origin(decode, normalise):
    table = waves()
    late = table["month"] >= "2018-01-01"  # 24 of 120 months, the test part
    changed = table.copy()
    changed.loc[late, ["a", "b", "rain"]] = 1e4
    columns = {"time": "month", "target": ("a", "b"), "covariates": ("rain",), "group": "place"}
    before, after = (
        forecast.ForecastData(forecast.panel(rows, **columns), horizon=4, window=12) for rows in (table, changed)
    )
    assert before.test_from == 96
    assert before.facts() == after.facts()
    for one, other in zip(
        (*before.training(), *before.held_out()), (*after.training(), *after.held_out()), strict=True
    ):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    torch.manual_seed(0)
    net = forecast.Forecaster("gru", before.facts(), hidden_size=8, decode=decode, normalise=normalise)
    one, other = (forecast.forecast(net, data.panel, origin="2017-12-01") for data in (before, after))
    assert one.drop(columns="truth").equals(other.drop(columns="truth"))
    assert not one["truth"].equals(other["truth"])


def test_no_method_of_the_table_sees_what_comes_after_its_origin():
    table = waves(groups=("north",))[["month", "a"]]
    changed = table.copy()
    changed.loc[changed["month"] >= "2018-01-01", "a"] = 1e4
    before, after = (
        forecast.ForecastData(forecast.panel(rows, time="month", target="a"), horizon=4, season=4, window=12)
        for rows in (table, changed)
    )
    net = forecast.Forecaster("gru", before.facts(), hidden_size=8)
    one, other = (forecast.backtest(net, data) for data in (before, after))
    assert one.origins[0].known == 96
    assert set(one.forecasts) == {"net", "seasonal naive", "naive", "ETS"}
    for method, forecasts in one.forecasts.items():
        np.testing.assert_array_equal(forecasts[0], other.forecasts[method][0], err_msg=method)
        assert not (forecasts[1] == other.forecasts[method][1]).all()
    assert (one.scale == other.scale).all()


def test_a_series_that_was_not_learned_is_measured_by_its_own_history():
    table = waves(groups=("north", "south"))[["month", "place", "a"]]
    late = table[(table["place"] == "south") & (table["month"] >= "2018-03-01")]  # the test part begins in January
    table = pd.concat([table[table["place"] == "north"], late.assign(a=1000 * late["a"])], ignore_index=True)
    data = forecast.ForecastData(
        forecast.panel(table, time="month", target="a", group="place"), horizon=4, season=4, window=12
    )
    assert data.facts()["series"] == ["north"]
    torch.manual_seed(0)
    net = forecast.Forecaster("gru", data.facts(), hidden_size=8)
    found = forecast.backtest(net, data)
    own = [i for i, origin in enumerate(found.origins) if origin.series == 1]
    values = data.panel.series[1].values
    for i in own:
        known = found.origins[i].known
        assert found.scale[i] == np.abs(values[4:known] - values[: known - 4]).mean()
        window = data.batch([found.origins[i]])
        assert (window.location, window.deviation) == (values[:known].mean(), values[:known].std())
        assert window.unit == found.scale[i, 0]
    origin = data.panel.grid.times(np.array([data.panel.series[1].first + found.origins[own[-1]].known - 1]))[0]
    again = forecast.forecast(net, data.panel, origin=origin, series="south")
    np.testing.assert_allclose(again["q0.5"], found.point("net")[own[-1], :, 0])


def test_a_naive_forecast_is_not_called_ets(monkeypatch):
    data = forecast.ForecastData(
        forecast.panel(waves()[["month", "place", "a"]], time="month", target="a", group="place"),
        **{"horizon": 4, "season": 4, "window": 12, "origins": 8},
    )
    net = forecast.Forecaster("gru", data.facts(), hidden_size=8)

    def none(values, *rest):
        raise ValueError

    def for_south(values, *rest):
        return none(values) if values[0] == data.panel.series[0].values[0] else forecast.ETS(values, *rest)

    for ets, row, told in (
        (for_south, ["ETS or naive"], "no form fits, naive × 1"),
        (none, [], "no form fits, so it has no row"),
    ):
        monkeypatch.setattr("gatewise.tasks.forecast.evaluation.ETS", ets)
        found = forecast.backtest(net, data)
        assert list(found.forecasts)[3:] == row
        assert told in found.notes[1]
        if row:
            measures = [found.measures(row[0], 0, [o.series == k for o in found.origins]) for k in (0, 1)]
            assert measures[0]["coverage"] is None
            assert measures[1]["coverage"] > 0
            assert found.measures(row[0], 0)["coverage"] is None
            assert f"│ {row[0]} " in found.text()


def test_every_stretch_of_time_has_dates_under_it():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from gatewise.tasks.forecast.plot import _dated

    for freq, lengths in (("MS", (9, 48, 52, 60)), ("D", (30, 160)), ("h", (24, 98, 118)), ("YS", (4, 90))):
        for length in lengths:
            times = pd.date_range("2015-01-01", periods=length, freq=freq)
            ax = Figure().subplots()
            ax.set_xlim(times[0], times[-1])
            _dated(ax, times)
            ticks = ax.xaxis.get_majorticklocs()
            assert 3 <= len(ticks) <= 11  # matplotlib would warn where it finds none
            labels = ax.xaxis.get_major_formatter().format_ticks(ticks)
            assert any(year in labels[0] for year in ("2000", "2015", "2016"))  # a first tick may lie before the axis
            assert length != 160 or [label.strip() for label in labels if "20" in label] == ["2015"]
            assert ax.xaxis.get_major_formatter().get_offset() == ""


def test_a_year_is_told_at_the_first_tick_and_where_it_changes_and_what_is_not_drawn():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from gatewise.tasks.forecast.plot import _dated, _share

    times = pd.date_range("2024-11-20", periods=45)
    ax = Figure().subplots()
    ax.set_xlim(times[0], times[-1])
    _dated(ax, times)
    labels = ax.xaxis.get_major_formatter().format_ticks(ax.xaxis.get_majorticklocs())
    assert labels[0] == "22\nNov 2024"
    assert [label for label in labels[1:] if label.strip()[-4:].isdigit() and "20" in label] == ["Jan\n2025"]
    assert [_share(4, 9, 4, 4), _share(1, 1, 4, 6), _share(3, 3, 3, 3)] == ["; 4 of 9 series", "; 4 of 6 panels", ""]


def test_a_net_that_wins_with_a_mase_above_1_is_said_to():
    truth = np.zeros((2, 3, 1))
    forecasts = {"net": truth[..., None] + 2, "seasonal naive": truth[..., None] + 3}
    found = forecast.Backtest([Origin(0, 9)] * 2, truth, forecasts, (), np.ones((2, 1)), ("y",), ())
    (line,) = found.verdict()
    assert "MASE 2.000 (above 1: worse than the seasonal naive forecast was before the test), the best" in line
    (line,) = forecast.Backtest([Origin(0, 9)] * 2, truth, forecasts, (), np.full((2, 1), 4.0), ("y",), ()).verdict()
    assert "above 1" not in line
