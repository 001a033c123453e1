"""A net that forecasts, in training: its loss and its batches."""

from typing import Any

import numpy as np

from gatewise.tasks.forecast.grid import shown
from gatewise.tasks.forecast.model import Forecaster, loss_of
from gatewise.tasks.forecast.windows import ForecastData, Window
from gatewise.tasks.trainee import Step, Trainee


class ForecastTrainee(Trainee):
    """A net that forecasts, in training: Lightning's view of it."""

    terms = "windows"
    also = ("mase",)
    model: Forecaster
    data: ForecastData

    def loss(self, batch: Window, state: Any) -> Step:
        forecast = self.model(batch.past, batch.first, batch.location, batch.deviation)
        loss, mase = loss_of(forecast, batch.future, batch.unit, self.model.levels)
        return Step(loss, batch.future.shape[1], None, {"mase": mase})

    def data_line(self) -> str:
        data, panel = self.data, self.data.panel
        first = min(series.first for series in panel.series)
        times = panel.grid.times(np.array([first, data.end - 1]))
        many = f"{len(panel.series)} series of {sum(map(len, panel.series)):,} steps" if len(panel.series) > 1 else ""
        lines = [
            f"data   {data.settings.source or 'given'}: {many or f'{len(panel.series[0]):,} steps'} {panel.grid.name},"
            f" {shown(times[0])} to {shown(times[1])}; {', '.join(panel.targets)}; season {data.season}",
            f"       {data.horizon} steps ahead from the last {data.window}; {len(data.learned):,} windows to learn,"
            f" {len(data.held):,} to choose the best epoch, {len(data.tested):,} to test",
        ]
        return "\n".join([*lines, *(f"       {note}" for note in panel.notes)])
