"""Rolling-origin evaluation: the net beside its baselines, at every test origin."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gatewise.tasks.forecast import metrics
from gatewise.tasks.forecast.baselines import ETS, naive
from gatewise.tasks.forecast.model import Forecaster
from gatewise.tasks.forecast.windows import ForecastData, Origin
from gatewise.tasks.models import evaluating

NET = "net"
NONE = "no form fits, naive"
STAND_IN = "ETS or naive"  # the name of a row in which the naive forecast stands in for some series
# Beyond, the first states of the ETS models are set by a rule: to estimate them would take minutes.
LONGEST_ESTIMATED = 24  # steps of a season
MOST_ESTIMATED = 20  # series and targets
MEASURES = ("MAE", "RMSE", "MASE", "sMAPE", "coverage")


@dataclass(frozen=True)
class Backtest:
    """Forecasts at the test origins, and what came.

    Args:
        origins: O of them.
        truth: (O, h, D).
        forecasts: method -> (O, h, D, Q); Q = 1 where a method has no bands.
        levels: of the bands; none without.
        scale: (O, D) by which MASE measures errors.
        targets: the columns' names.
        notes: lines that explain the methods.
    """

    origins: list[Origin]
    truth: np.ndarray
    forecasts: dict[str, np.ndarray]
    levels: tuple[float, ...]
    scale: np.ndarray
    targets: tuple[str, ...]
    notes: tuple[str, ...]

    def point(self, method: str) -> np.ndarray:
        """(O, h, D) the point forecasts: the median, or the mean of a net without quantiles."""
        found = self.forecasts[method]
        return found[..., self.levels.index(0.5) if found.shape[-1] > 1 else 0]

    def band(self, method: str) -> tuple[np.ndarray, np.ndarray] | None:
        """The lowest and the highest level, (O, h, D) each; None where there are none."""
        found = self.forecasts[method]
        return (found[..., 0], found[..., -1]) if found.shape[-1] > 1 else None

    @property
    def nominal(self) -> float:
        """The share of the truth that the widest band is meant to hold."""
        return self.levels[-1] - self.levels[0] if self.levels else 0.0

    def measures(self, method: str, target: int, chosen: Any = slice(None)) -> dict[str, float | None]:
        """The measures of one method over some origins (all unless told otherwise)."""
        truth, point = self.truth[chosen, :, target], self.point(method)[chosen, :, target]
        scale, band = self.scale[chosen, None, target], self.band(method)
        if band is not None:
            band = band[0][chosen, :, target], band[1][chosen, :, target]
            if np.isnan(band).any():  # a stand-in has none
                band = None
        return {
            "MAE": metrics.mae(truth, point),
            "RMSE": metrics.rmse(truth, point),
            "MASE": metrics.mae(truth / scale, point / scale),  # each origin by its series' scale, then the mean
            "sMAPE": metrics.smape(truth, point),
            "coverage": band and metrics.coverage(truth, *band),
        }

    def verdict(self) -> list[str]:
        """Whether the net beats its baselines by MASE, in words; a line for each target."""
        lines = []
        for d, target in enumerate(self.targets):
            own = self.measures(NET, d)["MASE"]
            others = {name: self.measures(name, d)["MASE"] for name in self.forecasts if name != NET}
            better = {name: value for name, value in others.items() if value < own}  # type: ignore[operator]
            of = f" on {target}" if len(self.targets) > 1 else ""
            if not better:
                best = min(others.values())  # type: ignore[type-var]
                kind = "seasonal naive" if "seasonal naive" in self.forecasts else "one-step naive"
                scale = f" (above 1: worse than the {kind} forecast was before the test)"
                above = scale if own > 1 else ""  # type: ignore[operator]
                lines.append(f"The net beats every baseline{of}: MASE {own:.3f}{above}, the best of them {best:.3f}.")
            else:
                told = ", ".join(f"{name} ({value:.3f})" for name, value in better.items())
                lines.append(f"The net LOSES to {told}{of}: its MASE is {own:.3f}.")
        return lines

    def table(self) -> Any:
        """The measures as a table for rich."""
        from rich.markup import escape
        from rich.table import Table

        steps = self.truth.shape[1]
        title = f"{len(self.origins)} test origins, {steps} step{'s' * (steps > 1)} ahead each"
        table = Table(title=title, title_justify="left", title_style="bold")
        many = len(self.targets) > 1
        if many:
            table.add_column("target")
        table.add_column("method")
        covered = f"in {100 * self.nominal:.0f} % band" if self.levels[1:] else None
        for name in (*MEASURES[:-1], *filter(None, (covered,))):
            table.add_column(name if name != "sMAPE" else "sMAPE %", justify="right", no_wrap=True)
        for d, target in enumerate(self.targets):
            rows = {name: self.measures(name, d) for name in self.forecasts}
            least = {name: min(row[name] for row in rows.values()) for name in MEASURES[:-1]}  # type: ignore[type-var]
            for name, row in rows.items():
                cells = [_cell(row[m], row[m] == least[m]) for m in MEASURES[:-1]]
                if covered:
                    share = row["coverage"]
                    cells.append("–" if share is None else f"{100 * share:.0f} %")
                table.add_row(*[escape(target)] * many, name, *cells, end_section=many and name == list(rows)[-1])
        return table

    def text(self) -> str:
        """Table, verdict and notes as plain text."""
        from rich.console import Console

        file = io.StringIO()
        console = Console(file=file, width=100, highlight=False)
        console.print(self.table())
        console.print("\n".join((*self.verdict(), *self.notes)), markup=False, soft_wrap=True)
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"

    def csv(self, names: list[str]) -> str:
        """The measures as CSV, over all series and for each; the numbers in full.

        Args:
            names: of the series.
        """
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("series", "target", "method", "origins", *MEASURES))
        series = np.array([origin.series for origin in self.origins])
        parts = [("all", np.ones(len(series), bool))]
        parts += [(names[k], series == k) for k in np.unique(series)] if len(names) > 1 else []
        for part, chosen in parts:
            for d, target in enumerate(self.targets):
                for method in self.forecasts:
                    found = self.measures(method, d, chosen)
                    writer.writerow((part, target, method, int(chosen.sum()), *(found[name] for name in MEASURES)))
        return file.getvalue()


def backtest(model: Forecaster, data: ForecastData) -> Backtest:
    """Forecast from every test origin, by the net and by its baselines.

    Args:
        model: the net; it was trained on what lies before the test part.
        data: with a test part.
    """
    origins, horizon, season = data.test_origins(), data.horizon, data.season
    truth = data.batch(origins).future.numpy().swapaxes(0, 1)
    found = {NET: predict(model, data, origins)}
    past = [data.panel.series[origin.series].values[: origin.known] for origin in origins]
    if season > 1:
        found["seasonal naive"] = np.stack([naive(values, horizon, season) for values in past])[..., None]
    found["naive"] = np.stack([naive(values, horizon) for values in past])[..., None]
    ets, name, forms = _ets(data, origins, model.levels)
    if name:
        found[name] = ets
    notes = (
        f"MASE: errors in units of the {'seasonal ' if season > 1 else ''}naive error before the test"
        f" (season {season}); below 1 is good.",
        forms,
    )
    scale = np.stack([data.scale(origin) for origin in origins])
    return Backtest(origins, truth, found, model.levels, scale, data.panel.targets, notes)


@torch.no_grad()
def predict(model: Forecaster, data: ForecastData, origins: list[Origin]) -> np.ndarray:
    """(O, h, D, Q) the net's forecasts at some origins."""
    device = model.output.weight.device
    parts = []
    with evaluating(model):
        for first in range(0, len(origins), 256):
            window = data.batch(origins[first : first + 256], horizon=0)
            known = (part.to(device) for part in (window.past, window.first, window.location, window.deviation))
            parts.append(model(*known, data.horizon))
    return np.asarray(torch.cat(parts, 1).transpose(0, 1).cpu().numpy())


def _ets(data: ForecastData, origins: list[Origin], levels: tuple[float, ...]) -> tuple[np.ndarray, str, str]:
    """The forecasts of one ETS model for each series and target, what to call them ("" where there is none), and their
    forms in words.
    """
    targets = len(data.panel.targets)
    forecasts = np.full((len(origins), data.horizon, targets, max(1, len(levels))), np.nan)
    own: dict[int, list[int]] = {}
    for i, origin in enumerate(origins):
        own.setdefault(origin.series, []).append(i)
    estimate = data.season <= LONGEST_ESTIMATED and len(own) * targets <= MOST_ESTIMATED
    forms: dict[str, int] = {}
    for k, d in _shown([(k, d) for k in own for d in range(targets)]):
        series = data.panel.series[k]
        # A series that begins in the test part has no history before it: what lies before any origin must do.
        fitted = max(data.test_from - series.first, data.least)
        try:
            ets = ETS(series.values[:, d], fitted, data.season, estimate)
        except ValueError:
            name = NONE
            for i in own[k]:
                point = naive(series.values[: origins[i].known, d], data.horizon)
                forecasts[i, :, d, levels.index(0.5) if levels else 0] = point
        else:
            name = ets.name
            for i in own[k]:
                forecasts[i, :, d] = ets.forecast(origins[i].known, data.horizon, levels)
        forms[name] = forms.get(name, 0) + 1
    if set(forms) == {NONE}:
        return forecasts, "", "ETS: no form fits, so it has no row."
    told = sorted(forms.items(), key=lambda item: -item[1])
    words = ", ".join(f"{name} × {count}" if sum(forms.values()) > 1 else name for name, count in told)
    rule = "" if estimate else ", first states by statsmodels' rule"
    words += f", chosen by AICc{rule}, form and parameters fitted once on all data before the test"
    return forecasts, STAND_IN if NONE in forms else "ETS", f"ETS: {words}, states updated to each origin."


def _shown(items: list[Any]) -> Iterable[Any]:
    """The items; a bar shows how far they are where there are many, on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console()
    return track(items, "fitting ETS", console=console, transient=True) if console.is_terminal else items


def _cell(value: float | None, best: bool) -> str:
    text = "–" if value is None else f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"
    return f"[bold]{text}[/]" if best else text
