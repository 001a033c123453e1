"""Whole trainings of forecasts: what they leave behind, that they see no future, how they go on and are used."""

import csv
import json
import os

import numpy as np
import pytest
from helpers import assert_same_run, interrupt_at, waves

pd = pytest.importorskip("pandas")
pytest.importorskip("lightning")
pytest.importorskip("statsmodels")

from gatewise.errors import InputError  # noqa: E402
from gatewise.tasks import forecast  # noqa: E402
from gatewise.tasks.forecast import training  # noqa: E402

SMALL = {"hidden": 8, "epochs": 3, "horizon": 4, "season": 4, "window": 12, "origins": 20}


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "waves.csv"
    waves().to_csv(file, index=False)
    return str(file)


def settings(source, **changes):
    columns = {"time": "month", "target": ("a", "b"), "covariates": ("rain",), "group": "place"}
    return forecast.ForecastSettings.of(data=source, **{**SMALL, **columns, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    waves().to_csv(folder / "waves.csv", index=False)
    result = forecast.train(settings(str(folder / "waves.csv"), epochs=12, lr=0.01), folder / "run")
    return folder, result


def test_a_training_leaves_a_table_a_verdict_and_a_picture(trained):
    folder, result = trained
    assert {path.name for path in (folder / "run").iterdir()} == {
        "best.safetensors", "last.safetensors", "settings.json", "cell.txt", "series.json", "metrics.csv",
        "curves.png", "backtest.csv", "backtest.png", "backtest.txt",
    }  # fmt: skip
    assert result.history[-1]["held_out_mase"] < result.history[0]["held_out_mase"]
    with open(folder / "run" / "backtest.csv", encoding="utf-8") as file:
        rows = {(row["series"], row["target"], row["method"]): row for row in csv.DictReader(file)}
    assert {key[0] for key in rows} == {"all", "north", "south"}
    assert {key[2] for key in rows} == {"net", "seasonal naive", "naive", "ETS"}
    for target in "ab":
        both = [rows[name, target, "net"] for name in ("north", "south")]
        weighted = sum(float(row["MAE"]) * int(row["origins"]) for row in both) / 20
        assert float(rows["all", target, "net"]["MAE"]) == pytest.approx(weighted)
    text = result.run.report.read_text()
    assert "20 test origins, 4 steps ahead each" in text
    for target in "ab":
        (verdict,) = (line for line in text.splitlines() if line.startswith("The net") and f" on {target}:" in line)
        own = float(rows["all", target, "net"]["MASE"])
        for method in ("seasonal naive", "naive", "ETS"):
            other = float(rows["all", target, method]["MASE"])
            assert (f"{method} ({other:.3f})" in verdict) == (other < own)
        assert ("LOSES" in verdict) != ("beats every baseline" in verdict)


def test_the_table_is_what_the_forecasts_are_worth(trained):
    """The net's and the seasonal naive MAE of one target, from forecasts that are made one by one."""
    folder, _ = trained
    model, (panel, note) = forecast.load(folder / "run"), forecast.panel_of(folder / "run")
    assert note == ""
    data = forecast.ForecastData(panel)
    errors, naive = [], []
    for k, known in data.test_origins():
        series = panel.series[k]
        origin = panel.grid.times(np.array([series.first + known - 1]))[0]
        table = forecast.forecast(model, panel, origin=origin, series=series.name).query("target == 'a'")
        errors += abs(table["truth"] - table["q0.5"]).tolist()
        naive += abs(series.values[known : known + 4, 0] - series.values[known - 4 : known, 0]).tolist()
    rows = pd.read_csv(folder / "run" / "backtest.csv").query("series == 'all' and target == 'a'").set_index("method")
    assert rows.loc["net", "MAE"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert rows.loc["seasonal naive", "MAE"] == pytest.approx(np.mean(naive))


@pytest.mark.parametrize("choices", [{"layers": 2, "dropout": 0.3}, {"decode": "autoregressive", "cell": "lstm"}])
def test_an_interrupted_run_ends_with_the_weights_of_a_whole_one(source, tmp_path, monkeypatch, choices):
    chosen = settings(source, **choices, test=0.0)
    forecast.train(chosen, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_at(patch, training.ForecastTrainee, 7)
        with pytest.raises(KeyboardInterrupt, match="stopped; to go on: --resume"):
            forecast.train(chosen, tmp_path / "run")
    assert not (tmp_path / "run" / "backtest.txt").exists()
    forecast.resume(tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert "nothing is known of the errors" in (tmp_path / "run" / "backtest.txt").read_text()
    table = waves()
    table.loc[3, "a"] += 1
    table.to_csv(source, index=False)
    with pytest.raises(InputError, match=r"is not what the run in .* was begun with"):
        forecast.resume(tmp_path / "run", epochs=9)


def test_a_run_forecasts_from_new_files_and_refuses_what_it_does_not_know(trained, tmp_path):
    folder, _ = trained
    model = forecast.load(folder / "run")
    longer = waves(130)
    longer["place"] = longer["place"].replace("south", "west")  # never seen: the net has no deviation for it
    longer.to_csv(tmp_path / "later.csv", index=False)
    panel, _ = forecast.panel_of(folder / "run", str(tmp_path / "later.csv"))
    table = forecast.forecast(model, panel, 3)
    assert table["time"].min() == pd.Timestamp("2020-11-01")
    assert list(table.columns) == ["time", "series", "target", "q0.1", "q0.5", "q0.9", "truth"]
    assert len(table) == 2 * 2 * 3
    assert table["truth"].isna().all()
    later = longer[longer["month"] >= "2015-06-01"]  # another beginning, the same season
    later.to_csv(tmp_path / "later.csv", index=False)
    panel, _ = forecast.panel_of(folder / "run", str(tmp_path / "later.csv"))
    again = forecast.forecast(model, panel, 3)
    north = (found[found["series"] == "north"].reset_index(drop=True) for found in (again, table))
    pd.testing.assert_frame_equal(*north)
    for wrong, message in (
        ({"horizon": 5}, "forecasts 4 steps at once, and 5 are asked for"),
        ({"horizon": 0}, "horizon must be 1 or more"),
        ({"series": "east"}, "there is no series 'east': choose one of north, west"),
        (
            {"origin": "2019-02-02"},
            "the origin 2019-02-02 is no time of the series north: its data are monthly from 2015-06",
        ),
        ({"origin": "soon"}, "the origin soon is no time of the series north"),
        ({"origin": "2015-09-01"}, "has 4 steps before the origin, and the net reads 12"),
    ):
        with pytest.raises(InputError, match=message):
            forecast.forecast(model, panel, **wrong)
    for change, message in (
        (lambda t: t.drop(columns="rain"), "no column 'rain'"),
        (
            lambda t: t.assign(month=pd.date_range("2010-01-01", periods=130).tolist() * 2),
            "data are daily, as 2010-01-01; the net was trained on data monthly, as 2010-01-01",
        ),
        (
            lambda t: t.assign(month=pd.date_range("2010-01-01", periods=130, freq="ME").tolist() * 2),
            "data are monthly, as 2010-01-31; the net was trained on data monthly, as 2010-01-01",
        ),
    ):
        change(longer).to_csv(tmp_path / "later.csv", index=False)
        with pytest.raises(InputError, match=message):
            forecast.forecast(model, forecast.panel_of(folder / "run", str(tmp_path / "later.csv"))[0])


def test_a_series_that_is_too_short_leaves_the_others_their_forecasts(run, trained, tmp_path):
    folder, _ = trained
    panel, _ = forecast.panel_of(folder / "run")
    north = waves(groups=("north",))
    short = north[50:51].assign(place="[/h] $x^$"), north[:60].assign(place="old")
    pd.concat([north, *short]).to_csv(tmp_path / "more.csv", index=False)
    whole = forecast.forecast(forecast.load(folder / "run"), panel, series="north")
    code, _, err = run("forecast", str(folder / "run"), "--data", str(tmp_path / "more.csv"))
    assert code == 0
    assert err == (
        "gatewise: left out: the series [/h] $x^$ has 1 step before the origin, and the net reads 12:"
        " give more history\n"
    )
    found = pd.read_csv(folder / "run" / "forecast.csv")
    assert found["series"].unique().tolist() == ["north", "old"]
    assert found["q0.5"][:8].tolist() == pytest.approx(whole["q0.5"].tolist())
    model, (panel, _) = forecast.load(folder / "run"), forecast.panel_of(folder / "run", str(tmp_path / "more.csv"))
    table = forecast.forecast(model, panel, origin="2018-01-01")
    assert table["series"].unique().tolist() == ["north"]
    assert [why.split(":")[0] for why in table.attrs["left_out"]] == [
        "the origin 2018-01-01 is no time of the series [/h] $x^$",
        "the origin 2018-01-01 is no time of the series old",
    ]


def test_names_are_taken_as_they_are_and_numbers_have_no_dates(run, tmp_path):
    names = ["flow [in]", "w [/h] $x^$"]
    table = waves(groups=("north",)).rename(columns=dict(zip("ab", names, strict=True))).assign(month=range(120))
    table.to_csv(tmp_path / "$x^$.csv", index=False)
    chosen = settings(str(tmp_path / "$x^$.csv"), target=tuple(names), covariates=(), group="", epochs=1)
    result = forecast.train(chosen, tmp_path / "run")
    for name in names:
        assert result.run.report.read_text().count(f"│ {name} ") == 4
    code, _, err = run("forecast", str(tmp_path / "run"), "--origin", "60.0")
    assert (code, err) == (0, "")
    for origin in ("2015-01-01", "foo", "60.5"):
        code, _, err = run("forecast", str(tmp_path / "run"), "--origin", origin)
        expected = f"gatewise: the origin {origin} is no time of the series: its data are in steps of 1 from 0 to 119\n"
        assert (code, err) == (2, expected)
    code, _, err = run("forecast", str(tmp_path / "run"), "--data", "co2")
    assert (code, err) == (2, "gatewise: the targets are co2; the net was trained on flow [in], w [/h] $x^$\n")


@pytest.mark.parametrize(
    "change",
    [
        *({"location": wrong} for wrong in (None, [1], [["a", 1], [1, 1]], [[1, 1]])),
        *({"deviation": wrong} for wrong in ([[0, 1], [1, 1]], [[float("nan"), 1], [1, 1]])),
        *({"grid": {"step": 1, "anchor": "2010-01-01", **wrong}} for wrong in ({"kind": "foo"}, {})),
        *(
            {"grid": {"kind": "months", "step": step, "anchor": anchor}}
            for step, anchor in ((0, "2010-01-01"), (1, "x"))
        ),
        *({"series": wrong} for wrong in ([], None)),
        *({"targets": []}, {"window": -3}, {"season": 0}, {"calendar": None}),
    ],
)
def test_damaged_facts_are_refused_in_one_line(trained, change):
    folder, _ = trained
    file = folder / "run" / "series.json"
    facts = json.loads(file.read_text())
    try:
        file.write_text(json.dumps({**facts, **change}))
        with pytest.raises(InputError, match=r"series\.json is damaged \(.*\): restore it, or train anew"):
            forecast.load(folder / "run")
    finally:
        file.write_text(json.dumps(facts))


def test_from_python_in_five_lines(tmp_path):
    pytest.importorskip("pyarrow")
    panel = forecast.read("nile")
    data = forecast.ForecastData(panel, horizon=5, window=12)
    model = forecast.Forecaster("rnn", data.facts(), hidden_size=4, decode="autoregressive", quantiles="none")
    forecast.fit(model, data, epochs=2, out=tmp_path / "run")
    table = forecast.forecast(forecast.load(tmp_path / "run", "last"), panel, 20)
    assert (table["time"].iloc[0], len(table), list(table.columns)[3:]) == (1971, 20, ["mean", "truth"])


def test_the_command_forecasts_and_refuses_in_one_line(run, trained, tmp_path, monkeypatch):
    folder, _ = trained
    monkeypatch.chdir(tmp_path)
    chosen = ("--origin", "2019-06-01 00:00", "--series", "north", "--horizon", "3")
    before = (folder / "run" / "forecast.csv").exists() and (folder / "run" / "forecast.csv").read_bytes()
    code, out, err = run("forecast", str(folder / "run"), *chosen)
    assert (code, err) == (0, "")
    name = "forecast-from-2019-06-01-00-00"
    table = pd.read_csv(folder / "run" / f"{name}.csv")
    assert before == ((folder / "run" / "forecast.csv").exists() and (folder / "run" / "forecast.csv").read_bytes())
    assert table["truth"].notna().all()
    assert table["time"].tolist() == ["2019-07-01", "2019-08-01", "2019-09-01"] * 2
    assert (folder / "run" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert str(folder / "run" / f"{name}.png") in out
    assert run("forecast", str(folder / "run"), *chosen, "--out", str(folder / "mine.csv"))[0] == 0
    assert (folder / "mine.csv").read_bytes() == (folder / "run" / f"{name}.csv").read_bytes()
    assert (folder / "mine.png").exists()
    (folder / "mine.csv").write_text("mine")
    assert run("forecast", str(folder / "run"), *chosen, "--out", str(folder / "mine.csv"))[0] == 2
    assert (folder / "mine.csv").read_text() == "mine"
    assert run("forecast", str(folder / "run"), *chosen, "--out", str(folder / "mine.csv"), "--force")[0] == 0
    assert (folder / "mine.csv").read_bytes() == (folder / "run" / f"{name}.csv").read_bytes()
    assert run("forecast", str(folder / "run"), *chosen)[0] == 0  # its own file in the run is written anew
    file = str(folder / "waves.csv")
    for arguments, message in (
        (("forecast", str(folder / "run"), "--horizon", "9"), "and 9 are asked for: train one with --horizon 9"),
        (("forecast", str(folder / "run"), "--out", "mine.txt"), "name a .csv, not mine.txt"),
        (("forecast", str(folder / "run"), "--out", "no/mine.csv"), "there is no folder no to write mine.csv into"),
        (("forecast", "nowhere"), "there is no folder nowhere"),
        (("train", "forecast", "--data", "nowhere.csv"), "there is no file nowhere.csv"),
        (("train", "forecast", "--data", file, "--time", "month"), "say with --target which to forecast"),
        (
            ("train", "forecast", "--data", file, "--time", "month", "--target", "a"),
            "sort the rows by time, or name the series of the file with --group",
        ),
        (("train", "forecast", "--data", "co2", "--group", "x"), "--group names a column of a file"),
        (("train", "forecast", "--horizon", "400"), "sunspots has 309 steps, too few"),
        (("train", "forecast", "--quantiles", "0.9,0.1"), "quantiles are rising numbers"),
        (("train", "forecast", "--decode", "both"), "decode is one of direct, autoregressive; got 'both'"),
    ):
        code, _, err = run(*arguments)
        assert (code, err.count("\n")) == (2, 1), err
        assert message in err
    waves().assign(a=1.0).to_csv(file, index=False)
    code, out, err = run("forecast", str(folder / "run"))
    assert (code, err) == (0, f"gatewise: {file} has changed since the training; its values of now are used\n")
    os.remove(file)
    code, out, err = run("forecast", str(folder / "run"))
    assert code == 2
    assert "is gone: name a file with --data" in err
    assert not os.listdir(tmp_path)


def test_nothing_is_dropped_in_a_forecast():
    """Of a model in training, too, as `fit` leaves it."""
    data = forecast.ForecastData(forecast.read("nile"), horizon=4, origins=3)
    model = forecast.Forecaster("gru", data.facts(), hidden_size=8, num_layers=2, dropout=0.5).train()
    one, other = (forecast.forecast(model, data.panel, 4) for _ in range(2))
    assert one.equals(other)
    first, second = (forecast.backtest(model, data).forecasts["net"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert model.training
