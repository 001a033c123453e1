"""The task `forecast`, and runs of it read back."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gatewise
from gatewise.errors import InputError, require
from gatewise.tasks.forecast.data import EXTRA, Panel, read_settings
from gatewise.tasks.forecast.model import Forecaster
from gatewise.tasks.forecast.settings import SOURCES, DataSettings, ForecastSettings
from gatewise.tasks.forecast.windows import ForecastData, check_facts
from gatewise.tasks.task import Task

if TYPE_CHECKING:
    from gatewise.tasks.fit import Result
    from gatewise.tasks.forecast.training import ForecastTrainee

TABLE = "backtest.csv"
PICTURE = "backtest.png"
CUTS = ("horizon", "season", "window", "batch", "holdout", "test", "origins")  # what says how series are cut


class ForecastTask(Task[ForecastSettings, ForecastData, Forecaster]):
    """Forecasts of series, judged beside their baselines."""

    name = "forecast"
    Settings = ForecastSettings
    facts_file = "series.json"
    report = "backtest.txt"
    metric = "mase"

    def read(self, settings: ForecastSettings, data_dir: Path | None) -> ForecastData:
        return ForecastData(read_settings(settings.data))

    def facts(self, data: ForecastData) -> dict[str, Any]:
        return data.facts()

    def build(self, cell: "gatewise.Graph", facts: dict[str, Any], settings: ForecastSettings) -> Forecaster:
        check_facts(facts)
        return Forecaster(cell, facts, **settings.model.sizes())

    def trainee(self, model: Forecaster, data: ForecastData, settings: ForecastSettings) -> "ForecastTrainee":
        from gatewise.tasks.forecast.training import ForecastTrainee

        return ForecastTrainee(model, data, settings)

    def misfit(self, model: Forecaster, data: ForecastData) -> str | None:
        return None if model.facts == data.facts() else "what is kept of them (columns, horizon, statistics)"

    def checked(self, settings: ForecastSettings, data: ForecastData) -> ForecastSettings:
        """The settings as they are; what only the end of the training needs is asked for now."""
        if data.settings.test:
            require("statsmodels", extra=EXTRA)
        return settings

    def finish(self, result: "Result", model: Forecaster, data: ForecastData, settings: ForecastSettings) -> None:
        run = result.run
        if not data.settings.test:
            run.write(self.report, "Nothing was kept for a test (--test 0), so nothing is known of the errors.\n")
            return
        from gatewise.tasks.forecast.evaluation import backtest
        from gatewise.tasks.forecast.plot import picture

        found = backtest(model.cpu(), data)
        run.write(TABLE, found.csv([series.name for series in data.panel.series]))
        run.write(PICTURE, picture(found, data, self.title(model, settings)))
        run.write(self.report, found.text())


TASK = ForecastTask()
fit, train, resume, load = TASK.fit, TASK.train, TASK.resume, TASK.load


def panel_of(path: str | os.PathLike[str], source: str | None = None) -> tuple[Panel, str]:
    """The series of a run, read again, and a line on what is new about them ("" where they are the same).

    Args:
        path: the run's folder.
        source: a file with the same columns instead, such as one with later values.

    Raises:
        InputError: there is no such run, its file is gone, or the run had data of its own and no file is given.
    """
    run = TASK.open(path)
    settings = TASK.settings_of(run).data
    if source in SOURCES:
        settings = DataSettings(source=source)
    elif source is not None and settings.source in SOURCES:
        targets = tuple(TASK.facts_of(run)["targets"])
        settings = replace(settings, source=source, time="time", target=targets)
    elif source is not None:
        settings = replace(settings, source=source)
    elif not settings.source:
        raise InputError(f"{run.path} was trained from Python with data of its own: give a file with --data")
    elif settings.source not in SOURCES and not Path(settings.source).is_file():
        raise InputError(f"{settings.source}, on which {run.path} was trained, is gone: name a file with --data")
    panel = read_settings(settings)
    changed = source is None and panel.sha256 != run.settings().get("data_sha256")
    return panel, f"{settings.source} has changed since the training; its values of now are used" if changed else ""
