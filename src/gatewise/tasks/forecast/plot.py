"""Pictures of forecasts: the back-test of a training, and the forecast of a trained net."""

import io
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, num2date
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from gatewise.inspect.plots import COLOURS
from gatewise.tasks.forecast.data import Panel
from gatewise.tasks.forecast.evaluation import NET, Backtest
from gatewise.tasks.forecast.windows import ForecastData
from gatewise.tasks.plot import STYLE

TRUTH, GRID = "#374151", "#e5e7eb"
MOST = 4  # panels in one picture; more would be too small to read


def picture(found: Backtest, data: ForecastData, title: str) -> bytes:
    """Forecasts that follow one another through the test part, beside the truth; and the error by step ahead.

    Args:
        found: the back-test.
        data: what it was made of.
        title: above the picture.
    """
    shown = _panels(found, data)
    series = len({k for k, _ in shown})
    title += _share(series, len(data.panel.series), len(shown), series * len(found.targets))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 1.0 + 2.5 * len(shown) + 2.2), dpi=150, layout="constrained")
        axes = figure.subplots(len(shown) + 1, 1, gridspec_kw={"height_ratios": [2.5] * len(shown) + [1.9]})
        for ax, (series, target) in zip(axes, shown, strict=False):
            _through_the_test(ax, found, data, series, target)
        axes[0].set_title(title)
        axes[0].legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 0.98))
        _by_step(axes[-1], found)
        return _png(figure)


def _share(series: int, of_series: int, panels: int, of_panels: int) -> str:
    """What the title says where not all is drawn."""
    if series < of_series:
        return f"; {series} of {of_series} series"
    return f"; {panels} of {of_panels} panels" if panels < of_panels else ""


def _panels(found: Backtest, data: ForecastData) -> list[tuple[int, int]]:
    """Which (series, target) are drawn: the first few that have test origins."""
    series = list(dict.fromkeys(origin.series for origin in found.origins))
    return [(k, d) for k in series for d in range(len(found.targets))][:MOST]


def _through_the_test(ax: Axes, found: Backtest, data: ForecastData, k: int, d: int) -> None:
    series, horizon = data.panel.series[k], data.horizon
    own = [(origin.known, i) for i, origin in enumerate(found.origins) if origin.series == k]
    picked, free = [], 0
    for known, i in own:
        if known >= free:
            picked.append((known, i))
            free = known + horizon
    begin = max(0, picked[0][0] - max(2 * data.season, 2 * horizon, 24))
    end = picked[-1][0] + horizon
    times = data.panel.grid.times(np.arange(series.first + begin, series.first + end))
    ax.plot(times, series.values[begin:end, d], color=TRUTH, linewidth=1.3, label="truth")
    point, band = found.point(NET), found.band(NET)
    for number, (known, i) in enumerate(picked):
        ahead = times[known - begin : known - begin + horizon]
        names = (f"net, {horizon} steps ahead", f"{100 * found.nominal:.0f} % band") if not number else (None, None)
        ax.plot(ahead, point[i, :, d], color=COLOURS[1], linewidth=1.8, label=names[0])
        if band:
            ax.fill_between(
                ahead, band[0][i, :, d], band[1][i, :, d], color=COLOURS[1], alpha=0.2, lw=0, label=names[1]
            )
        ax.axvline(ahead[0], color=GRID, linewidth=0.8, zorder=0)
    ax.set_ylabel(found.targets[d] + (f"\n{series.name}" if series.name else ""))
    ax.margins(x=0.01)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    _dated(ax, times)


def _dated(ax: Axes, times: Any) -> None:
    """Short dates under the axis, where the times are dates."""
    if np.issubdtype(np.asarray(times).dtype, np.datetime64):
        locator = AutoDateLocator(minticks=4, maxticks=9)  # type: ignore[no-untyped-call]
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(_Dates(locator))


class _Dates(ConciseDateFormatter):
    """Short dates, with the year under the first tick and under each at which another one begins.

    matplotlib's own has one year at the end of the axis, which is not that of the ticks before New Year.
    """

    def __init__(self, locator: AutoDateLocator) -> None:
        super().__init__(locator, show_offset=False)  # type: ignore[no-untyped-call]

    def format_ticks(self, values: Any) -> list[str]:
        labels = list(super().format_ticks(values))  # type: ignore[no-untyped-call]
        dates = [num2date(value) for value in values]  # type: ignore[no-untyped-call]
        for k, date in enumerate(dates):
            if (not k or date.year != dates[k - 1].year) and str(date.year) not in labels[k]:
                more = "%Y-%m-%d" if ":" in labels[k] else "%b %Y" if labels[k].isdigit() else "%Y"
                labels[k] += date.strftime(f"\n{more}")
        if any("\n" in label for label in labels):  # two lines each, that all stand at one height
            labels = [label if "\n" in label else f"{label}\n " for label in labels]
        return labels


def _by_step(ax: Axes, found: Backtest) -> None:
    steps = np.arange(1, found.truth.shape[1] + 1)
    colours = {NET: COLOURS[1], "seasonal naive": COLOURS[2], "naive": "#6b7280"}
    peaks = []
    for method in found.forecasts:
        error = np.abs(found.truth - found.point(method)) / found.scale[:, None]
        peaks.append(error.mean((0, 2)).max())
        width, dots = (2.2, "o") if method == NET else (1.4, ".")
        ax.plot(
            steps,
            error.mean((0, 2)),
            color=colours.get(method, COLOURS[0]),
            linewidth=width,
            marker=dots,
            ms=4,
            label=method,
        )
    ax.set(xlabel="steps ahead", ylabel="MASE")
    if max(peaks) > 5 * min(peaks) > 0:  # else the worst would press the others together
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter("{x:g}")
    else:
        ax.set_ylim(0, None)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(x=0.02)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 0.98))


def forecast_picture(table: pd.DataFrame, panel: Panel, season: int, title: str) -> bytes:
    """A forecast: the history, the forecast with its bands, and the truth where it is known.

    Args:
        table: as `forecast` gives it.
        panel: with the history.
        season: m; a few of them are drawn.
        title: above the picture.
    """
    every = list(table.groupby(["series", "target"], sort=False))
    parts = every[:MOST]
    series = len({name for (name, _), _ in parts})
    title += _share(series, table["series"].nunique(), len(parts), len(every))
    levels = [column for column in table.columns if column.startswith("q")]
    point = "q0.5" if levels else "mean"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 0.8 + 2.8 * len(parts)), dpi=150, layout="constrained")
        axes = np.atleast_1d(figure.subplots(len(parts), 1))
        for ax, ((name, target), part) in zip(axes, parts, strict=True):
            times, values = _history(panel, str(name), str(target), part, season)
            ax.plot(times, values, color=TRUTH, linewidth=1.3, label="history")
            # The forecast's line begins where the history ends.
            ahead = np.concatenate([times[-1:], part["time"].to_numpy()])
            if part["truth"].notna().any():
                ax.plot(
                    ahead,
                    [values[-1], *part["truth"]],
                    color=TRUTH,
                    linewidth=1.3,
                    linestyle=":",
                    zorder=3,
                    label="truth",
                )
            for k in range(len(levels) // 2):
                low, high = levels[k], levels[-1 - k]
                share = 100 * (float(high[1:]) - float(low[1:]))
                bounds = ([values[-1], *part[low]], [values[-1], *part[high]])
                ax.fill_between(ahead, *bounds, color=COLOURS[1], alpha=0.18, lw=0, label=f"{share:.0f} % band")
            ax.plot(ahead, [values[-1], *part[point]], color=COLOURS[1], linewidth=1.8, label="forecast")
            ax.set_ylabel(f"{target}\n{name}" if name else str(target))
            ax.margins(x=0.01)
            ax.grid(axis="y", color=GRID, linewidth=0.8)
            _dated(ax, times)
        axes[0].legend(frameon=False, ncols=5, loc="lower right", bbox_to_anchor=(1, 0.98))
        axes[0].set_title(title)
        return _png(figure)


def _history(panel: Panel, name: str, target: str, part: pd.DataFrame, season: int) -> tuple[Any, np.ndarray]:
    """The times and values of a series before its forecast."""
    (series,) = (found for found in panel.series if found.name == name)
    times = panel.grid.times(np.arange(series.first, series.first + len(series)))
    known = int((times < part["time"].iloc[0]).sum())
    begin = max(0, known - max(4 * season, 3 * len(part), 36))
    return times[begin:known].to_numpy(), series.values[begin:known, panel.targets.index(target)]


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
