"""Forecasts from a trained net: as a table, and as a picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from gatewise.errors import InputError, require
from gatewise.tasks.forecast.data import Panel, Series
from gatewise.tasks.forecast.grid import Grid, parse, shown
from gatewise.tasks.forecast.model import Forecaster
from gatewise.tasks.forecast.windows import own_figures
from gatewise.tasks.models import evaluating
from gatewise.tasks.run import free, write


def forecast(
    model: Forecaster,
    panel: Panel,
    horizon: int | None = None,
    *,
    origin: Any = None,
    series: str | None = None,
) -> pd.DataFrame:
    """Forecast what comes after the end of the series, or after an earlier origin.

    Args:
        model: a trained net.
        panel: series with the columns that it was trained on, as `read` gives them. Of a series that the training had
            not, mean and deviation come from its history.
        horizon: steps; None takes those that the net was trained for.
        origin: the last time that the forecast may know; None is the end of each series.
        series: only the one with this name.

    Returns:
        A row for each series, target and step: `time`, `series`, `target`, then `q0.1`, `q0.5` … or `mean`, and
        `truth`, NaN where it is not known. Of many series, those that are shorter than the window or have no such
        origin are left out; the table's `attrs["left_out"]` lists why, a line each.

    Raises:
        InputError: the columns or the steps are others than in training, every series is shorter than the window or
            has no such origin, or the horizon is longer than the net can go.
    """
    horizon = model.horizon if horizon is None else horizon
    if horizon < 1:
        raise InputError(f"horizon must be 1 or more; got {horizon}")
    shift = _same_kind(model, panel)
    chosen = [found for found in panel.series if series in (None, found.name)]
    if not chosen:
        names = ", ".join(found.name for found in panel.series[:10]) or "none"
        raise InputError(f"there is no series {series!r}: choose one of {names}")
    tables, left_out = [], []
    for found in chosen:
        try:
            known = _known(panel.grid, found, origin, model.facts["window"])
        except InputError as error:
            left_out.append(str(error))
        else:
            tables.append(_table(model, panel, found, known, horizon, shift))
    if not tables:
        raise InputError(left_out[0])
    table = pd.concat(tables, ignore_index=True)
    table.attrs["left_out"] = left_out
    return table


def _same_kind(model: Forecaster, panel: Panel) -> int:
    """Check that the series are of the kind that the net was trained on.

    Returns:
        What is added to a step number of theirs to give that of the training's grid.
    """
    facts = model.facts
    for what, found, wanted in (
        ("targets", panel.targets, facts["targets"]),
        ("covariates", panel.covariates, facts["covariates"]),
    ):
        if list(found) != wanted:
            raise InputError(
                f"the {what} are {', '.join(found) or 'none'}; the net was trained on {', '.join(wanted) or 'none'}"
            )
    trained = Grid(**facts["grid"])
    if (panel.grid.kind == "steps") == (trained.kind == "steps"):
        first = trained.numbers(pd.Series(panel.grid.times(np.array([0, 1]))))
        if first[1] - first[0] == 1:
            return int(np.floor(first[0]))
    ours, its = (f"{grid.name}, as {shown(grid.times(np.array([0]))[0])}" for grid in (panel.grid, trained))
    raise InputError(f"the data are {ours}; the net was trained on data {its}: give times as in training")


def _known(grid: Grid, series: Series, origin: Any, window: int) -> int:
    """How many steps of a series lie at or before the origin; refuses fewer than the window."""
    of = f"the series {series.name}" if series.name else "the series"
    known = float(len(series))
    if origin is not None:
        column = pd.Series([str(origin)])
        if grid.kind == "steps":
            column = pd.to_numeric(column, errors="coerce")
        try:
            known = grid.numbers(parse(column, Path("the origin")))[0] - series.first + 1
        except InputError:
            known = np.nan
    if not (known == np.floor(known) and 1 <= known <= len(series)):
        first, last = (shown(time) for time in grid.times(np.array([series.first, series.first + len(series) - 1])))
        raise InputError(f"the origin {origin} is no time of {of}: its data are {grid.name} from {first} to {last}")
    if known < window:
        steps = "1 step" if known == 1 else f"{known:.0f} steps"
        raise InputError(f"{of} has {steps} before the origin, and the net reads {window}: give more history")
    return int(known)


def _usual(facts: dict[str, Any], series: Series, known: int) -> tuple[Any, Any]:
    """A series' location and deviation (D,): of the training; of its own history where the training had none of it."""
    if series.name in facts["series"]:
        number = facts["series"].index(series.name)
        return facts["location"][number], facts["deviation"][number]
    return own_figures(series.values[:known], np.array(facts["deviation"]))


@torch.no_grad()
def _table(model: Forecaster, panel: Panel, series: Series, known: int, horizon: int, shift: int) -> pd.DataFrame:
    facts = model.facts
    begin = known - facts["window"]
    past = np.hstack([series.values, series.covariates])[begin:known, None]
    device = model.output.weight.device
    usual = (torch.tensor(figure, dtype=torch.float64, device=device)[None] for figure in _usual(facts, series, known))
    first = torch.tensor([series.first + begin + shift], device=device)
    with evaluating(model):
        found = model(torch.from_numpy(past).to(device), first, *usual, horizon)
    forecasts = found[:, 0].cpu().numpy()  # (h, D, Q)
    truth = np.full((horizon, len(panel.targets)), np.nan)
    then = series.values[known : known + horizon]
    truth[: len(then)] = then
    times = panel.grid.times(np.arange(series.first + known, series.first + known + horizon))
    columns = [f"q{level:g}" for level in model.levels] or ["mean"]
    tables = []
    for d, target in enumerate(panel.targets):
        table = pd.DataFrame({"time": times, "series": series.name, "target": target})
        for q, column in enumerate(columns):
            table[column] = forecasts[:, d, q]
        table["truth"] = truth[:, d]
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def places(file: Path, force: bool) -> tuple[Path, Path]:
    """Where a forecast's table and its picture go, checked.

    Args:
        file: of the table, a .csv; the picture has its name with .png.
        force: whether files that are there are overwritten.

    Raises:
        InputError: the file is no .csv, or one of the two may not be written.
    """
    if file.suffix.lower() != ".csv":
        raise InputError(f"a forecast is written as CSV, with its picture beside it: name a .csv, not {file}")
    files = file, file.with_suffix(".png")
    for each in files:
        free(each, force)
    return files


def keep(table: pd.DataFrame, model: Forecaster, panel: Panel, file: Path, force: bool) -> tuple[Path, Path]:
    """Write a forecast as a table, and a picture of it beside.

    Args:
        table: as `forecast` gives it.
        model: the net that made it.
        panel: with the history.
        file, force: as of `places`.

    Returns:
        The two files.

    Raises:
        InputError: as `places`.
    """
    require("matplotlib")
    from gatewise.tasks.forecast.plot import forecast_picture

    files = places(file, force)
    layer = model.layer
    name = panel.settings.source or "the given data"
    title = f"{layer.cell.name}, H = {layer.hidden_size}, on {Path(name).name}"
    write(files[0], table.to_csv(index=False, lineterminator="\n"), force)
    write(files[1], forecast_picture(table, panel, model.season, title), force)
    return files
