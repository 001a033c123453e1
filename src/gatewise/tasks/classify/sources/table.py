"""Tables in long form: one row a step, a column that names its sequence, one for the label, the rest features."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gatewise.errors import InputError
from gatewise.tasks.classify.sequences import Sequences, listed
from gatewise.tasks.classify.settings import DataSettings
from gatewise.tasks.table import check_columns, numbers, place, read_table

if TYPE_CHECKING:
    import pandas as pd


def read(path: Path, settings: DataSettings, features: list[str] | None, labels_needed: bool) -> Sequences:
    """The sequences of a file, in the order in which they begin there.

    Args:
        path: CSV, or Parquet by its ending.
        settings: the names of the columns, and whether steps have labels.
        features: the columns to read, as a model knows them already; None takes those of the settings.
        labels_needed: else a file without the label's column, or with an empty one, has no labels.

    Raises:
        InputError: a column is missing or not numeric, a value is missing, a sequence has two labels, or two rows
            have the same time.
        MissingPackageError: pandas, or pyarrow for Parquet, is not installed.
    """
    table = read_table(path, extra="classify", text=(settings.sequence, settings.label))
    check_columns(table, [("--sequence", settings.sequence)], path)
    if labels_needed:
        check_columns(table, [("--label", settings.label)], path)
    time = _time(table, settings, path)
    left_out: list[str] = []
    features = features or list(settings.features)
    found = not features
    if found:
        features, left_out = _numeric(table, settings, time, path)
    for name in features:
        if "," in name and name not in table.columns:
            raise InputError(f"{path} has no column {name!r} (--features): give --features once for each column")
    check_columns(table, [("--features", name) for name in features], path)

    x = np.stack([_without_gaps(table, name, path) for name in features], axis=1)
    named = _filled(table, settings.sequence, path)
    order, starts = _grouped(named, None if time is None else _times(table, time, path))
    _check_times(table, order, starts, time, settings.sequence, path)
    pieces = np.split(order, starts[1:])
    names = [named[rows[0]] for rows in pieces]
    y = None
    if labels_needed or (settings.label in table.columns and table[settings.label].notna().any()):
        labels = _filled(table, settings.label, path)
        y = [labels[rows].tolist() if settings.per == "step" else _one(labels, rows, settings, path) for rows in pieces]
    rising = _rising([x[rows] for rows in pieces], features) if found and time is None else []
    return Sequences([x[rows] for rows in pieces], y, names, features, left_out, rising)


def _rising(x: list[np.ndarray], features: list[str]) -> list[str]:
    """The features that rise from step to step in every sequence of two steps or more: one may be a clock."""
    long = [np.diff(steps, axis=0) for steps in x if len(steps) > 1]
    return [name for i, name in enumerate(features) if long and all((rises[:, i] > 0).all() for rises in long)]


def _time(table: "pd.DataFrame", settings: DataSettings, path: Path) -> str | None:
    if settings.time is not None:
        check_columns(table, [("--time", settings.time)], path)
        return settings.time
    return "time" if "time" in table.columns else None


def _numeric(
    table: "pd.DataFrame", settings: DataSettings, time: str | None, path: Path
) -> tuple[list[str], list[str]]:
    """The columns of numbers, and those that are left out."""
    taken = (settings.sequence, settings.label, time)
    others = [name for name in table.columns if name not in taken]
    found = [name for name in others if _is_numeric(table[name])]
    if not found:
        raise InputError(
            f"{path} has no column with numbers beside {', '.join(repr(name) for name in taken if name)}; its columns"
            f" are {listed(list(table.columns))}: name the features with --features"
        )
    return found, [name for name in others if name not in found]


def _is_numeric(column: "pd.Series[Any]") -> bool:
    """Whether a column holds numbers, or mostly so: then a cell with something else is a fault, to be told later."""
    import pandas as pd

    if column.dtype.kind in "iufb":
        return True
    cells = column.dropna().astype(str).str.replace(",", ".")  # decimal commas are meant as numbers too
    return column.dtype.kind not in "mM" and bool(pd.to_numeric(cells, errors="coerce").notna().mean() > 0.5)


def _without_gaps(table: "pd.DataFrame", name: str, path: Path) -> np.ndarray:
    values = numbers(table, name, path)
    if np.isnan(values).any():
        row = int(np.isnan(values).argmax())
        raise InputError(
            f"{place(path, row)}: {name} is missing, expected a number: fill the gap, or leave the row or its"
            " sequence out"
        )
    return values


def _filled(table: "pd.DataFrame", name: str, path: Path) -> np.ndarray:
    """A column of names or labels, as text."""
    missing = table[name].isna().to_numpy()
    if missing.any():
        raise InputError(f"{place(path, int(missing.argmax()))}: {name} is missing: fill it in, or leave the row out")
    return np.asarray(table[name], dtype=object)


def _times(table: "pd.DataFrame", name: str, path: Path) -> np.ndarray:
    """A column as numbers that are ordered as its times are."""
    import pandas as pd

    if pd.to_numeric(table[name], errors="coerce").notna().any() and table[name].dtype.kind != "M":
        return _without_gaps(table, name, path)
    times = (
        table[name]
        if table[name].dtype.kind == "M"
        else pd.to_datetime(table[name], errors="coerce", utc=True, format="ISO8601")
    )
    bad = times.isna().to_numpy()
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f"{place(path, row)}: {name} is {table[name].iloc[row]!r}, expected a number, or a date such as"
            " 2024-01-31 23:59:59"
        )
    return np.asarray(times.to_numpy(dtype="datetime64[ns]"), dtype=np.int64)


def _grouped(named: np.ndarray, times: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The rows' numbers, sequence after sequence and in time within each, and where each sequence starts."""
    import pandas as pd

    codes, _ = pd.factorize(named)  # numbered in the order of their first rows
    order = np.argsort(codes, kind="stable") if times is None else np.lexsort((times, codes))
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    return order, starts


def _check_times(
    table: "pd.DataFrame", order: np.ndarray, starts: np.ndarray, time: str | None, sequence: str, path: Path
) -> None:
    if time is None:
        return
    values = table[time].to_numpy()[order]
    same = values[1:] == values[:-1]
    same[starts[1:] - 1] = False
    if same.any():
        k = int(same.argmax())
        raise InputError(
            f"{place(path, int(order[k + 1]))}: {sequence} {table[sequence].iloc[order[k]]} has {time}"
            f" {values[k]} twice, expected one row a step: choose the column of the time with --time"
        )


def _one(labels: np.ndarray, rows: np.ndarray, settings: DataSettings, path: Path) -> object:
    first = labels[rows[0]]
    other = labels[rows] != first
    if other.any():
        row = int(rows[other.argmax()])
        raise InputError(
            f"{place(path, row)}: a sequence has two labels, {first!r} and {labels[row]!r}, expected one"
            f" (the column {settings.label}): --per step for a label at each step"
        )
    return first
