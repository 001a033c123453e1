"""Series: read from files, laid on a grid, filled, cut in time, refused in one line."""

import numpy as np
import pytest

pd = pytest.importorskip("pandas")

from gatewise.errors import InputError  # noqa: E402
from gatewise.tasks import forecast  # noqa: E402
from gatewise.tasks.forecast.grid import Grid, parse, shown  # noqa: E402
from gatewise.tasks.forecast.settings import DataSettings, ForecastSettings  # noqa: E402


def shops(days=60):
    """A table of two shops, the second of which opens ten days later."""
    rows = []
    for shop, first, level in (("Bern", 0, 10.0), ("Chur", 10, 300.0)):
        for k in range(first, days):
            day = pd.Timestamp("2024-02-20") + pd.Timedelta(days=k)
            rows.append((day.date().isoformat(), shop, level + k % 7, k % 3))
    return pd.DataFrame(rows, columns=["day", "shop", "sales", "promo"])


def written(tmp_path, table, name="shops.csv"):
    path = tmp_path / name
    table.to_parquet(path) if name.endswith("parquet") else table.to_csv(path, index=False)
    return str(path)


COLUMNS = {"time": "day", "target": ("sales",), "covariates": ("promo",), "group": "shop"}


@pytest.mark.parametrize("name", ["shops.csv", "shops.parquet"])
def test_a_file_of_many_series_is_laid_on_one_grid(tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    panel = forecast.read(written(tmp_path, shops(), name), **COLUMNS)
    assert [(s.name, s.first, len(s)) for s in panel.series] == [("Bern", 0, 60), ("Chur", 10, 50)]
    assert (panel.grid.name, panel.season, panel.horizon) == ("daily", 7, 8)
    assert panel.series[1].values[:3, 0].tolist() == [303.0, 304.0, 305.0]
    assert panel.series[1].covariates[:3, 0].tolist() == [1.0, 2.0, 0.0]
    assert shown(panel.grid.times(np.array([9]))[0]) == "2024-02-29"


@pytest.mark.parametrize(
    ("freq", "name", "season"),
    [
        *(("MS", "monthly", 12), ("ME", "monthly", 12), ("QS", "quarterly", 4), ("QE", "quarterly", 4)),
        *(("YS", "yearly", 1), ("YE", "yearly", 1), ("W-WED", "weekly", 52), ("D", "daily", 7)),
        *(("h", "hourly", 24), ("15min", None, 96), ("2D", "every 2 days", 1)),
    ],
)
def test_every_usual_step_is_known(freq, name, season):
    """pandas makes the times, the grid counts them, and gives them back."""
    times = pd.Series(pd.date_range("2019-11-05", periods=30, freq=freq))
    grid = Grid.of(times, np.arange(29), np.arange(1, 30))
    assert grid.name == (name or "every 15 minutes")
    assert grid.season == season
    assert grid.numbers(times).tolist() == list(range(30))
    assert grid.times(np.arange(30)).equals(pd.DatetimeIndex(times))


def test_whole_numbers_zones_and_other_ways_to_write_dates():
    years = pd.Series([1700.0, 1705.0, 1710.0])
    grid = Grid.of(parse(years, "x"), np.array([0, 1]), np.array([1, 2]))
    assert (grid.name, grid.numbers(parse(years, "x")).tolist()) == ("in steps of 5", [0, 1, 2])
    over_summer_time = ["2024-03-31T01:00+01:00", "2024-03-31T03:00+02:00", "2024-03-31T04:00+02:00"]
    assert parse(pd.Series(over_summer_time), "x").diff()[1:].eq(pd.Timedelta("1h")).all()
    assert parse(pd.Series(["31 Jan 2024", "29 Feb 2024"]), "x").tolist() == [
        pd.Timestamp(2024, 1, 31),
        pd.Timestamp(2024, 2, 29),
    ]


@pytest.mark.parametrize(("milliseconds", "season"), [(500, 1), (1500, 1), (60_000, 60)])
def test_parts_of_a_second_are_steps_too(milliseconds, season):
    times = pd.date_range("2024-01-01T00:00:00.25", periods=80, freq=f"{milliseconds}ms")
    table = pd.DataFrame({"time": times.astype(str), "y": np.arange(80.0)})
    for fill in ("none", "linear"):
        panel = forecast.panel(table, time="time", fill=fill)
        assert panel.series[0].values[:, 0].tolist() == list(range(80))
        assert panel.notes == ()
        assert panel.season == season
        assert panel.grid.times(np.arange(80)).equals(times)
    holes = forecast.panel(table.drop(index=7), time="time", fill="linear")
    assert holes.series[0].values[:, 0].tolist() == list(range(80))
    with pytest.raises(InputError, match="times finer than a microsecond"):
        forecast.panel(table.assign(time=times + pd.to_timedelta(np.arange(80) % 2, unit="ns")), time="time")


@pytest.mark.parametrize("fill", ["none", "linear", "previous"])
@pytest.mark.parametrize(
    ("times", "first"),
    [
        # The months' first days with the day before the month are days of January, and numbers are numbers.
        (pd.date_range("2010-01-01", periods=80, freq="MS").strftime("%Y-%d-%m"), "line 38: the data are daily"),
        (pd.date_range("2024-01-01", periods=80).strftime("%Y%m%d").astype(int), "line 62: the data are in steps of 1"),
    ],
)
def test_more_steps_than_rows_are_not_put_in(tmp_path, times, first, fill):
    path = written(tmp_path, pd.DataFrame({"time": times, "y": 1.0}))
    with pytest.raises(InputError, match=rf"{first}.* steps would be missing: write dates as 2024-01-31"):
        forecast.read(path, time="time", fill=fill)


def test_the_data_sets_of_statsmodels():
    pytest.importorskip("statsmodels")
    for name, steps, season, horizon in (("sunspots", 309, 11, 11), ("nile", 100, 1, 10), ("elnino", 732, 12, 12)):
        panel = forecast.read(name)
        assert (len(panel.series[0]), panel.season, panel.horizon) == (steps, season, horizon)
    co2 = forecast.read("co2")
    assert len(co2.series[0]) == 526
    assert co2.notes == ("co2: 5 of 526 values filled (linear), the first at 1958-06-01",)
    assert co2.series[0].values[2:5, 0].tolist() == pytest.approx(
        [317.4333, (317.4333 + 315.625) / 2, 315.625], abs=1e-3
    )


def test_what_is_missing_is_named_and_filled_as_told(tmp_path):
    table = shops().drop(index=4)  # a row of Bern
    table.loc[70, "sales"] = np.nan  # a value of Chur, the day 20
    path = written(tmp_path, table)
    with pytest.raises(
        InputError,
        match=r"line 6, shop Bern: .* expected 2024-02-24, got 2024-02-25: --fill linear, previous or zero puts",
    ):
        forecast.read(path, **COLUMNS)
    filled = {fill: forecast.read(path, **COLUMNS, fill=fill) for fill in ("linear", "previous", "zero")}
    assert [panel.series[0].values[4, 0] for panel in filled.values()] == [14.0, 13.0, 0.0]
    assert [panel.series[1].values[10, 0] for panel in filled.values()] == [302.5, 305.0, 0.0]
    assert filled["zero"].notes == (
        "sales, shop Bern: 1 of 60 values filled (zero), the first at 2024-02-24",
        "promo, shop Bern: 1 of 60 values filled (zero), the first at 2024-02-24",
        "sales, shop Chur: 1 of 50 values filled (zero), the first at 2024-03-11",
    )
    table = shops()
    table.loc[0, "sales"] = np.nan
    with pytest.raises(InputError, match=r"shop Bern: column sales lacks 1 of 60 values, the first at 2024-02-20"):
        forecast.read(written(tmp_path, table), **COLUMNS)
    with pytest.raises(InputError, match=r"no value before or after 2024-02-20 to fill from: cut these rows"):
        forecast.read(written(tmp_path, table), **COLUMNS, fill="linear")


def changed(row, column, value):
    def change(table):
        table[column] = table[column].astype(object)
        table.loc[row, column] = value
        return table

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(7, "sales", "many"), "line 9: sales is 'many', expected a number"),
        (changed(7, "day", "soon"), "line 9: expected a date such as 2024-01-31 or 2024-01-31 13:00, got 'soon'"),
        *(
            (changed(7, "day", day), f"line 9: '{day}' may have its day or its month first: write dates as 2015-01-31")
            for day in ("1.2.24", "01/31/2024", "02-27-2024 06:00")
        ),
        (changed(7, "day", "2024-02-26"), "line 9: 2024-02-26 comes twice: drop one row"),
        (changed(7, "day", "2024-02-21"), "line 9: 2024-02-21 comes after 2024-02-26: sort the rows by time"),
        (
            changed(7, "day", "2024-02-26 06:00"),
            "line 9, shop Bern: the data are daily, expected 2024-02-27, got 2024-02-26 06",
        ),
        (changed(7, "shop", None), "line 9 names no shop: name it, or drop the row"),
        (changed(7, "sales", 1e200), "line 9: sales is 1e.200: give it in other units"),
        (lambda table: table.assign(promo=table["promo"] * 1e-200), "promo is 2e-200: give it in other units"),
        (lambda table: table.drop(columns="promo"), "has no column 'promo'"),
        (lambda table: table.groupby("shop").head(1), "has one row a series"),
        (lambda table: table.head(0), "has no rows"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_line(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        forecast.read(written(tmp_path, change(shops())), **COLUMNS)


def test_what_only_parquet_holds_is_refused_too(tmp_path):
    pytest.importorskip("pyarrow")
    numbered = shops(20).assign(day=pd.array([1, None, *range(3, 31)], dtype="Int64"))
    with pytest.raises(InputError, match="row 2: expected a whole number or a date, got <NA>"):
        forecast.read(written(tmp_path, numbered, "x.parquet"), **COLUMNS)
    nested = shops(20).assign(shop=[{"name": 1}] * 30)
    with pytest.raises(InputError, match=r"row 1: shop is \{'name': 1\}, expected text or a number"):
        forecast.read(written(tmp_path, nested, "x.parquet"), **COLUMNS)


def test_columns_are_asked_for_or_found(tmp_path):
    path = written(tmp_path, shops())
    with pytest.raises(InputError, match=r"2 columns of numbers \(sales, promo\): say with --target"):
        forecast.read(path, time="day", group="shop")
    one = shops().query("shop == 'Bern'")[["day", "sales"]]
    assert forecast.read(written(tmp_path, one), time="day").targets == ("sales",)
    noted = forecast.read(written(tmp_path, one.assign(shop="Bern", n=1)), time="day", target="sales")
    assert noted.notes == ("not read: shop, n; times and series are named by --time and --group",)
    with pytest.raises(InputError, match=r"'day' looks like times: add --time day \(and --group shop, if"):
        forecast.read(written(tmp_path, shops()), target="sales")
    with pytest.raises(InputError, match=r"'shop' looks like the names of series: add --group shop and"):
        forecast.read(written(tmp_path, shops()[["shop", "sales"]], "names.csv"))
    market = forecast.read(written(tmp_path, one), target="sales")  # dates that rise: each row a step
    assert market.notes[0].startswith("not read: day;")
    with pytest.raises(InputError, match="'day' looks like times: add --time day, or drop"):
        forecast.read(written(tmp_path, one.iloc[[0, 2, 1, *range(3, 60)]]), target="sales")
    rows = forecast.read(written(tmp_path, one[["sales"]]))  # each row a step
    assert rows.grid.times(np.array([0, 59])).tolist() == [0, 59]
    for wrong in ({"source": "co2", "target": ("x",)}, {"source": "x.csv", "group": "shop"}, {"fill": "mean"}):
        with pytest.raises(InputError):
            DataSettings(**wrong)
    with pytest.raises(InputError, match="the column 'x' is given twice"):
        DataSettings(source="x.csv", target=("x", "y"), covariates=("x",))
    for wrong in ("level,auto", "none,level", "level,level", "height"):
        with pytest.raises(InputError, match="features"):
            ForecastSettings.of(features=wrong)
    for wrong in ("0.1,0.9", "0.5,0.1", "1.5", "a"):
        with pytest.raises(InputError, match="quantiles are rising numbers"):
            ForecastSettings.of(quantiles=wrong)
    with pytest.raises(InputError, match="there is no file nothing"):
        forecast.read("nothing")


def test_windows_belong_to_a_part_with_their_whole_future(tmp_path):
    panel = forecast.read(written(tmp_path, shops()), **COLUMNS)
    data = forecast.ForecastData(panel, horizon=4, window=7, test=0.2, holdout=0.2)
    assert (data.holdout_from, data.test_from, data.end) == (36, 48, 60)
    for origins, begin, end in ((data.learned, 0, 36), (data.held, 36, 48), (data.tested, 48, 60)):
        for series in (0, 1):
            first = panel.series[series].first
            futures = [first + origin.known for origin in origins if origin.series == series]
            assert futures == list(range(max(begin, first + 8), end - 4 + 1))  # a season and one step are known
    batch = data.batch([(1, 7), (0, 9)])
    assert batch.first.tolist() == [10, 2]
    assert batch.past[:, 0, 0].tolist() == panel.series[1].values[:7, 0].tolist()
    assert batch.future[:, 1, 0].tolist() == panel.series[0].values[9:13, 0].tolist()
    assert batch.past.shape == (7, 2, 2)
    assert len(forecast.ForecastData(panel, horizon=4, window=7, origins=3).test_origins()) == 3
    with pytest.raises(InputError, match=r"has 60 steps, too few for windows of 7, a season of 7 and a horizon of 60"):
        forecast.ForecastData(panel, horizon=60, window=7)
    with pytest.raises(
        InputError, match=r"a season of 50 and a horizon of 4 .*: lower --window, --season or --horizon"
    ):
        forecast.ForecastData(panel, horizon=4, window=7, season=50)  # the seasonal naive forecast has no history


def test_statistics_come_from_what_is_learned_alone(tmp_path):
    table = shops()
    before = forecast.ForecastData(forecast.read(written(tmp_path, table), **COLUMNS), horizon=4, window=7)
    table.loc[table["day"] >= "2024-04-01", "sales"] *= 100
    after = forecast.ForecastData(forecast.read(written(tmp_path, table), **COLUMNS), horizon=4, window=7)
    assert before.facts() == after.facts()
    assert (before.unit == after.unit).all()
    assert before.sha256 != after.sha256
