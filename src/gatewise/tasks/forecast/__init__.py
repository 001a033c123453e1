"""Forecasts of series: data, net, training, and an honest judgement beside naive forecasts and ETS.

    from gatewise.tasks import forecast

    data = forecast.ForecastData(forecast.read("sunspots"), horizon=11)
    model = forecast.Forecaster("gru", data.facts(), hidden_size=32)
    result = forecast.fit(model, data, epochs=60, lr=3e-3, out="runs/mine")
    print(forecast.forecast(forecast.load("runs/mine"), data.panel, 11))

`gatewise train forecast` and `gatewise forecast` are a skin over these names.
"""

from typing import TYPE_CHECKING

from gatewise.lazy import lazy

if TYPE_CHECKING:
    from gatewise.tasks.forecast.baselines import ETS, naive
    from gatewise.tasks.forecast.data import Panel, panel, read
    from gatewise.tasks.forecast.evaluation import Backtest, backtest
    from gatewise.tasks.forecast.model import Forecaster
    from gatewise.tasks.forecast.predict import forecast
    from gatewise.tasks.forecast.settings import ForecastSettings
    from gatewise.tasks.forecast.task import fit, load, panel_of, resume, train
    from gatewise.tasks.forecast.windows import ForecastData, Window

__all__ = [
    "ETS",
    "Backtest",
    "ForecastData",
    "ForecastSettings",
    "Forecaster",
    "Panel",
    "Window",
    "backtest",
    "fit",
    "forecast",
    "load",
    "naive",
    "panel",
    "panel_of",
    "read",
    "resume",
    "train",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "evaluation": ("Backtest", "backtest"),
        "baselines": ("ETS", "naive"),
        "data": ("Panel", "panel", "read"),
        "model": ("Forecaster",),
        "predict": ("forecast",),
        "settings": ("ForecastSettings",),
        "task": ("fit", "load", "panel_of", "resume", "train"),
        "windows": ("ForecastData", "Window"),
    },
    needs={
        "evaluation": ("pandas", "rich"),
        "data": ("pandas",),
        "predict": ("pandas",),
        "task": ("pandas", "safetensors"),
        "windows": ("pandas",),
    },
)
