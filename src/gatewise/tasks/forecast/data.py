"""Series: where they come from, and what is asked of them."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gatewise.errors import InputError, require
from gatewise.tasks.forecast.grid import Grid, parse, shown
from gatewise.tasks.forecast.settings import SOURCES, DataSettings
from gatewise.tasks.table import numbers, place, read_table

_DATE = re.compile(r"\s*\d{1,4}[-./:]\d")  # how most dates and clocks begin
EXTRA = "forecast"  # the extra of gatewise that brings pandas, pyarrow and statsmodels

# The sunspots' season is their mean cycle, to the year. Horizon: one season, two of the co2; the Nile has none.
OWN = {"sunspots": (11, 11), "co2": (12, 24), "nile": (1, 10), "elnino": (12, 12)}  # season, horizon


@dataclass(frozen=True)
class Series:
    """One series of evenly spaced values.

    Args:
        name: of its group; "" where there is only one series.
        first: the number of its first step on the common grid.
        values: (N, D) the targets.
        covariates: (N, C) what is read beside them.
    """

    name: str
    first: int
    values: np.ndarray
    covariates: np.ndarray

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Panel:
    """The series of one source.

    Args:
        settings: what was read; its source is "" for a table that was given from Python.
        series: all on one grid.
        grid: the times.
        targets, covariates: the columns' names.
        notes: what was done to the data, a line each.
        season, horizon: what is usual for these data.
    """

    settings: DataSettings
    series: tuple[Series, ...]
    grid: Grid
    targets: tuple[str, ...]
    covariates: tuple[str, ...]
    notes: tuple[str, ...]
    season: int
    horizon: int

    @property
    def sha256(self) -> str:
        """Of all that is learned from."""
        digest = hashlib.sha256(repr((self.grid, self.targets, self.covariates)).encode())
        for series in self.series:
            digest.update(f"{series.name} {series.first} {series.values.shape}".encode())
            digest.update(np.ascontiguousarray(series.values).tobytes())
            digest.update(np.ascontiguousarray(series.covariates).tobytes())
        return digest.hexdigest()


def read(source: str = "sunspots", **columns: Any) -> Panel:
    """Series to learn from.

    Args:
        source: `"sunspots"`, `"co2"`, `"nile"` or `"elnino"`, or the path of a CSV or Parquet file.
        columns: of a file: `time`, `target`, `covariates`, `group`, and `fill`; see `DataSettings`.

    Raises:
        InputError: a file or column is missing, or values or times cannot be used; the text names the first bad row.
        MissingPackageError: statsmodels, which carries the four data sets, is not installed.
    """
    return read_settings(DataSettings(source=source, **columns))


def read_settings(settings: DataSettings) -> Panel:
    """The series that the settings name; see `read`."""
    if settings.source in SOURCES:
        return replace(_own(settings.source), settings=settings)
    path = Path(settings.source)
    if not path.suffix and not path.exists():
        raise InputError(f"there is no file {path}: give {', '.join(SOURCES)}, or the path of a CSV or Parquet file")
    return _panel(read_table(path, EXTRA, text=[settings.group]), settings)


def panel(table: pd.DataFrame, **columns: Any) -> Panel:
    """The series of a table in long form: a row for each time (and group), a column for each target and covariate.

    Args:
        table: the rows, each group's in order of time.
        columns: `time`, `target`, `covariates`, `group`, and `fill`; see `DataSettings`.

    Raises:
        InputError: as `read`.
    """
    return _panel(table, DataSettings(source="", **columns))


def _panel(table: pd.DataFrame, settings: DataSettings) -> Panel:
    what = Path(settings.source or "the table")
    targets = settings.target or _only_other(table, settings, what)
    columns = (*targets, *settings.covariates)
    for name in (*columns, *filter(None, (settings.time, settings.group))):
        if name not in table.columns:
            raise InputError(f"{what} has no column {name!r}: its columns are {', '.join(map(str, table.columns))}")
    if not len(table):
        raise InputError(f"{what} has no rows: give a table with values")
    unread = [name for name in table.columns if name not in (*columns, settings.time, settings.group)]
    if not settings.time:
        _no_times(table, unread, what)
    values = np.stack([numbers(table, name, what) for name in columns], axis=1)
    _sized(values, columns, what)
    times = parse(table[settings.time], what) if settings.time else pd.Series(np.arange(len(table)))
    names, rows = _groups(table, settings.group, what)
    for found in rows:
        _in_order(times, found, what, "" if settings.group else ", or name the series of the file with --group")
    earlier, later = (np.concatenate([found[part] for found in rows]) for part in (slice(-1), slice(1, None)))
    if not len(later):
        raise InputError(f"{what} has one row a series: a forecast needs a history of many")
    grid = Grid.of(times, earlier, later)
    notes = [_not_read(unread)] if unread else []
    series = []
    for name, found in zip(names, rows, strict=True):
        where = f", {settings.group} {name}" if settings.group else ""
        steps = _regular(grid, times.iloc[found], found, what, where, settings.fill)
        full = np.full((int(steps[-1] - steps[0]) + 1, len(columns)), np.nan)
        full[steps - steps[0]] = values[found]
        full, more = _filled(
            full, columns, settings.fill, what, where, lambda k, first=steps[0]: grid.times(np.array([first + k]))[0]
        )
        notes += more
        series.append(Series(name, int(steps[0]), full[:, : len(targets)], full[:, len(targets) :]))
    season = grid.season
    return Panel(
        settings,
        tuple(series),
        grid,
        tuple(targets),
        settings.covariates,
        tuple(notes),
        season,
        max(season, 8),
    )


def _no_times(table: pd.DataFrame, unread: Sequence[Any], what: Path) -> None:
    """Refuses rows that are taken as steps where dates do not rise or names change: they belong to several series."""
    words = [name for name in unread if not pd.api.types.is_numeric_dtype(table[name]) and table[name].nunique() > 1]
    dated = [name for name in words if _DATE.match(str(table[name].iloc[0]))]
    others = [name for name in words if name not in dated]
    dated = [name for name in dated if others or not (table[name].is_unique and table[name].is_monotonic_increasing)]
    if dated:
        group = f" (and --group {others[0]}, if it names the series)" if others else ""
        raise InputError(
            f"{what}: the column {dated[0]!r} looks like times: add --time {dated[0]}{group}, or drop the column, so"
            " that every row is a step"
        )
    if others:
        raise InputError(
            f"{what}: the column {others[0]!r} looks like the names of series: add --group {others[0]} and, for their"
            " times, --time COLUMN, or drop the column where it is none"
        )


def _not_read(unread: Sequence[Any]) -> str:
    named = ", ".join(map(str, unread[:8])) + (f" and {len(unread) - 8} more" if len(unread) > 8 else "")
    return f"not read: {named}; times and series are named by --time and --group"


def _sized(values: np.ndarray, columns: Sequence[str], what: Path) -> None:
    """Refuses values whose squares no float64 holds."""
    sizes = np.abs(values)
    for k, column in enumerate(columns):
        most = np.nanmax(sizes[:, k], initial=0.0)
        if most and not 1e-100 < most < 1e100:
            row = int(np.nanargmax(sizes[:, k]))
            raise InputError(f"{place(what, row)}: {column} is {values[row, k]:g}: give it in other units")


def _only_other(table: pd.DataFrame, settings: DataSettings, what: Path) -> tuple[str, ...]:
    used = {settings.time, settings.group, *settings.covariates}
    others = [name for name in table.columns if name not in used and pd.api.types.is_numeric_dtype(table[name])]
    if len(others) != 1:
        raise InputError(
            f"{what} has {len(others)} columns of numbers ({', '.join(map(str, others))}):"
            " say with --target which to forecast"
        )
    return (str(others[0]),)


def _groups(table: pd.DataFrame, group: str, what: Path) -> tuple[list[str], list[np.ndarray]]:
    """The names of the series in order of appearance, and the rows of each."""
    if not group:
        return [""], [np.arange(len(table))]
    column = table[group]
    if column.isna().any():
        row = int(np.flatnonzero(column.isna())[0])
        raise InputError(f"{place(what, row)} names no {group}: name it, or drop the row")
    codes, names = pd.factorize(column)
    order = np.argsort(codes, kind="stable")
    return [str(name) for name in names], np.split(order, np.cumsum(np.bincount(codes))[:-1])


def _in_order(times: "pd.Series[Any]", rows: np.ndarray, what: Path, of_many: str) -> None:
    own = times.iloc[rows]
    steps = own.diff().to_numpy()[1:]
    zero = np.zeros((), dtype=steps.dtype)
    bad = np.flatnonzero(steps <= zero)
    if len(bad):
        before, here = own.iloc[bad[0]], own.iloc[bad[0] + 1]
        fault = "comes twice" if before == here else f"comes after {shown(before)}"
        cure = "drop one row" if before == here else "sort the rows by time"
        raise InputError(f"{place(what, rows[bad[0] + 1])}: {shown(here)} {fault}: {cure}{of_many}")


def _regular(grid: Grid, times: "pd.Series[Any]", rows: np.ndarray, what: Path, where: str, fill: str) -> np.ndarray:
    """The step numbers of one series' rows; refuses times between the steps, and absent ones unless they are filled."""
    numbers = grid.numbers(times)
    off = np.flatnonzero(np.isnan(numbers) | (numbers != np.floor(numbers)))
    if not len(off) and fill != "zero":
        _dense(grid, times, rows, numbers, what)
    absent = np.flatnonzero(np.diff(numbers) != 1) + 1 if fill == "none" else off
    if len(off) or len(absent):
        bad = int(min([*off, *absent]))
        expected = "" if not bad else f"expected {shown(grid.times(np.floor(numbers[bad - 1 : bad]) + 1)[0])}, "
        cure = (
            "--fill linear, previous or zero puts in what is missing" if bad not in off else "give evenly spaced times"
        )
        got = shown(times.iloc[bad])
        raise InputError(f"{place(what, rows[bad])}{where}: the data are {grid.name}, {expected}got {got}: {cure}")
    return numbers.astype(np.int64)


def _dense(grid: Grid, times: "pd.Series[Any]", rows: np.ndarray, numbers: np.ndarray, what: Path) -> None:
    """Refuses a series that would have more steps put in than it has rows: its times are not what they seem."""
    total = int(numbers[-1] - numbers[0]) + 1
    if total > 2 * len(rows):
        bad = int(np.diff(numbers).argmax()) + 1
        raise InputError(
            f"{place(what, rows[bad])}: the data are {grid.name}, and {shown(times.iloc[bad])} comes after"
            f" {shown(times.iloc[bad - 1])}, so that {total - len(rows)} of {total} steps would be missing: write dates"
            " as 2024-01-31, or leave --time and its column out, so that every row is a step"
        )


def _filled(
    full: np.ndarray, columns: Sequence[str], fill: str, what: Path, where: str, time_of: Any
) -> tuple[np.ndarray, list[str]]:
    """The values without gaps, and a note on each column that had some."""
    notes = []
    for k, column in enumerate(columns):
        missing = np.flatnonzero(np.isnan(full[:, k]))
        if not len(missing):
            continue
        first = shown(time_of(missing[0]))
        if fill == "none":
            raise InputError(
                f"{what}{where}: column {column} lacks {len(missing)} of {len(full)} values, the first at {first}:"
                " say with --fill linear, previous or zero what to put there"
            )
        values = pd.Series(full[:, k])
        if fill == "zero":
            values = values.fillna(0.0)
        elif fill == "previous":
            values = values.ffill()
        else:
            values = values.interpolate(limit_area="inside")
        left = np.flatnonzero(values.isna())
        if len(left):
            raise InputError(
                f"{what}{where}: column {column} has no value before or after {shown(time_of(left[0]))} to fill from:"
                " cut these rows, or use --fill zero"
            )
        full[:, k] = values
        notes.append(f"{column}{where}: {len(missing)} of {len(full)} values filled ({fill}), the first at {first}")
    return full, notes


def _own(source: str) -> Panel:
    """A data set of statsmodels' wheel."""
    require("statsmodels", extra=EXTRA)
    from statsmodels import datasets

    table = getattr(datasets, source).load_pandas().data
    fill = "none"
    if source == "co2":  # weekly, with gaps; customary are the means of the months
        table = table.resample("MS").mean().rename_axis("time").reset_index()
        target, time, fill = "co2", "time", "linear"
    elif source == "elnino":  # a row a year, a column a month
        wide = table.melt("YEAR", var_name="month", value_name="temperature")
        wide["time"] = pd.to_datetime(wide["YEAR"].astype(int).astype(str) + wide["month"], format="%Y%b")
        table = wide.sort_values("time", ignore_index=True)
        target, time = "temperature", "time"
    else:
        target, time = {"sunspots": ("SUNACTIVITY", "YEAR"), "nile": ("volume", "year")}[source]
    found = panel(table[[time, target]], time=time, target=target, fill=fill)
    season, horizon = OWN[source]
    return replace(found, settings=DataSettings(source=source), season=season, horizon=horizon)
