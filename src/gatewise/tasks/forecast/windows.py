"""Series cut into windows and futures: which are learned, which choose the best epoch, which judge it."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gatewise.errors import InputError
from gatewise.tasks.batches import InOrder, Shuffled
from gatewise.tasks.forecast.data import Panel, Series
from gatewise.tasks.forecast.grid import Grid
from gatewise.tasks.forecast.metrics import naive_error
from gatewise.tasks.forecast.settings import DataSettings


class Window(NamedTuple):
    """One batch of windows, in the data's own units.

    Args:
        past: (T, B, D + C) the targets and covariates that the net reads, float64.
        first: (B,) the number of each window's first step, int64.
        location, deviation: (B, D) of the series' part to learn; of what lies before the future where the series
            has no window to learn.
        future: (h, B, D) what came then; h = 0 where it is not known.
        unit: (B, D) the series' seasonal naive error, in which errors are measured.
    """

    past: Tensor
    first: Tensor
    location: Tensor
    deviation: Tensor
    future: Tensor
    unit: Tensor


class Origin(NamedTuple):
    """The end of what a forecast knows: the first `known` steps of a series."""

    series: int
    known: int


class ForecastData:
    """Series made ready for training: cut in time, the same for all series, into a part to learn, one to choose the
    best epoch by, and one to judge it.

    A window belongs to a part when its future lies there whole and more than a season lies before it, so that there is
    a seasonal naive forecast and an error of it. Statistics come from the part to learn alone; those of a series that
    begins too late for it come from what lies before each forecast.

    Args:
        panel: the series, as `read` gives them.
        choices: `horizon`, `season`, `window`, `batch`, `holdout`, `test`, `origins`; see `DataSettings`.

    Raises:
        InputError: the series are too short for the horizon and the window, or a choice is out of its range.
    """

    def __init__(self, panel: Panel, **choices: Any) -> None:
        self.panel = panel
        self.settings: DataSettings = replace(panel.settings, **choices)
        self.sha256 = panel.sha256
        s = self.settings
        self.season = s.season or panel.season
        self.horizon = s.horizon or panel.horizon
        self.window = s.window or default_window(self.season)
        self.least = max(self.window, self.season + 1)  # what a forecast must know
        self.end = max(series.first + len(series) for series in panel.series)
        begin = min(series.first for series in panel.series)
        self.test_from, self.holdout_from = self._cuts(begin)
        sizes = np.cumsum([0, *(len(series) for series in panel.series)])
        self._begins = torch.from_numpy(sizes[:-1])
        self._rows = torch.from_numpy(np.concatenate([np.hstack([x.values, x.covariates]) for x in panel.series]))
        self.learned = self._origins(begin, self.holdout_from)
        self.held = self._origins(self.holdout_from, self.test_from)
        self.tested = self._origins(self.test_from, self.end)
        if not self.learned or (s.holdout and not self.held) or (s.test and not self.tested):
            raise InputError(
                f"{s.source or 'the series'} has {max(map(len, panel.series))} steps, too few for windows of"
                f" {self.window}, a season of {self.season} and a horizon of {self.horizon} in each of the parts to"
                " learn, to choose and to test: lower --window, --season or --horizon"
            )
        known = sorted({origin.series for origin in self.learned})
        learned = [self.before(panel.series[k], self.holdout_from) for k in known]
        self.location = np.stack([values.mean(0) for values in learned])
        self.deviation = _filled([values.std(0) for values in learned])
        self.unit = _filled([naive_error(values, self.season) for values in learned])
        figures = torch.full((3, len(panel.series), len(panel.targets)), torch.nan, dtype=torch.float64)
        figures[:, known] = torch.from_numpy(np.stack([self.location, self.deviation, self.unit]))
        self._known, self._figures = known, figures

    def _cuts(self, begin: int) -> tuple[int, int]:
        """Where the test part begins, and the held-out part before it; each has room for a horizon."""
        span, s = self.end - begin, self.settings
        test_from = self.end - (max(round(s.test * span), self.horizon) if s.test else 0)
        return test_from, test_from - (max(round(s.holdout * span), self.horizon) if s.holdout else 0)

    def before(self, series: Series, step: int) -> np.ndarray:
        """(n, D) a series' values before a step of the common grid."""
        return series.values[: max(0, step - series.first)]

    def _origins(self, begin: int, end: int) -> list[Origin]:
        """All origins whose future lies in [begin, end) and whose window lies in the series."""
        return [
            Origin(k, known)
            for k, series in enumerate(self.panel.series)
            for known in range(
                max(self.least, begin - series.first), min(len(series), end - series.first) - self.horizon + 1
            )
        ]

    def test_origins(self) -> list[Origin]:
        """The origins at which forecasts are judged, at most `origins` of them, evenly spread."""
        most = self.settings.origins
        if len(self.tested) <= most:
            return self.tested
        return [self.tested[int(i)] for i in np.linspace(0, len(self.tested) - 1, most).round()]

    def batch(self, origins: list[Origin], horizon: int | None = None) -> Window:
        """The windows before some origins, and what followed.

        Args:
            origins: as `Origin`s or pairs of numbers.
            horizon: steps of the future; None takes all, 0 none.
        """
        chosen = torch.tensor(origins, dtype=torch.int64).view(-1, 2)
        series, known = chosen[:, 0], chosen[:, 1]
        here = self._begins[series] + known
        length = self.horizon if horizon is None else horizon
        past = self._rows[here + torch.arange(-self.window, 0)[:, None]]
        future = self._rows[here + torch.arange(length)[:, None]][..., : len(self.panel.targets)]
        first = known - self.window + torch.tensor([self.panel.series[k].first for k in series.tolist()])
        figures = self._figures[:, series]
        for i in figures[0, :, 0].isnan().nonzero().flatten().tolist():  # windows of series that are not learned
            history = self.panel.series[int(series[i])].values[: int(known[i])]
            usual = own_figures(history, self.deviation)
            figures[:, i] = torch.from_numpy(np.stack([*usual, self._error(history)]))
        location, deviation, unit = figures
        return Window(past, first, location, deviation, future, unit)

    def scale(self, origin: Origin) -> np.ndarray:
        """(D,) the unit in which errors are judged: the seasonal naive error before the test part, and before the
        origin where too little of the series lies there.
        """
        series = self.panel.series[origin.series]
        history = self.before(series, self.test_from)
        return self._error(history if len(history) > self.season else series.values[: origin.known])

    def _error(self, history: np.ndarray) -> np.ndarray:
        """(D,) the seasonal naive error of a history; where that is 0, the mean of the learned series'."""
        error = naive_error(history, self.season)
        return np.where(error > 0, error, self.unit.mean(0))

    def training(self, seed: int = 0, rank: int = 0, world: int = 1) -> Shuffled[Window]:
        """The batches to learn from."""
        return Shuffled(
            len(self.learned),
            self.settings.batch,
            lambda chosen: self.batch([self.learned[i] for i in chosen.tolist()]),
            seed=seed,
            rank=rank,
            world=world,
        )

    def held_out(self) -> InOrder[Window] | None:
        """The batches that choose the best epoch, or None where nothing is held out."""
        if not self.settings.holdout:
            return None
        return InOrder(len(self.held), 256, lambda chosen: self.batch([self.held[i] for i in chosen.tolist()]))

    def facts(self) -> dict[str, Any]:
        """All that the model and its later use need of the data, as plain values."""
        return {
            "targets": list(self.panel.targets),
            "covariates": list(self.panel.covariates),
            "series": [self.panel.series[k].name for k in self._known],  # those with a window to learn
            "grid": self.panel.grid.to_dict(),
            "season": self.season,
            "calendar": self.panel.grid.kind != "steps",
            "horizon": self.horizon,
            "window": self.window,
            "location": self.location.tolist(),
            "deviation": self.deviation.tolist(),
        }


def check_facts(facts: dict[str, Any]) -> None:
    """Refuse facts that no `ForecastData` gives, as of a damaged file.

    Raises:
        TypeError: what is wrong; or another error where something is absent.
    """
    try:
        Grid(**facts["grid"])
        figures = {what: torch.tensor(facts[what], dtype=torch.float64) for what in ("location", "deviation")}
    except ValueError as error:
        raise TypeError(str(error)) from error
    for what in ("season", "horizon", "window"):
        if type(facts[what]) is not int or facts[what] < 1:
            raise TypeError(f"{what} is {facts[what]!r}")
    for what in ("targets", "series", "covariates"):
        names = facts[what]
        if type(names) is not list or not all(isinstance(name, str) for name in names):
            raise TypeError(f"{what} are {names!r}")
        if not names and what != "covariates":
            raise TypeError(f"there are no {what}")
    if type(facts["calendar"]) is not bool:
        raise TypeError(f"calendar is {facts['calendar']!r}")
    size = (len(facts["series"]), len(facts["targets"]))
    for what, found in figures.items():
        if found.shape != size or not found.isfinite().all():
            raise TypeError(f"{what} has not a number for each series and target")
    if (figures["deviation"] <= 0).any():
        raise TypeError("a deviation is not above 0")


def default_window(season: int) -> int:
    """The steps that a net reads unless told otherwise."""
    return max(24, 3 * season)


def own_figures(history: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Location and deviation of a series that is not learned, from its history.

    Args:
        history: (N, D).
        others: (S, D) the deviations of those that were learned, whose mean is taken for what does not move.

    Returns:
        (D,) each.
    """
    deviation = history.std(0)
    return history.mean(0), np.where(deviation > 0, deviation, others.mean(0))


def _filled(figures: list[np.ndarray]) -> np.ndarray:
    """(S, D) a figure for each series and target; where it is 0, as of a constant, the others' mean, else 1."""
    table = np.stack(figures)
    counts = (table > 0).sum(0)
    means = np.where(counts > 0, table.sum(0) / np.maximum(counts, 1), 1.0)
    return np.where(table > 0, table, means)
