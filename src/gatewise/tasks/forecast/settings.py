"""What can be chosen for a forecast, and its defaults.

Free of torch and pandas, so that the command line can show the defaults without loading them.
"""

from dataclasses import dataclass, field
from typing import Any

from gatewise.errors import InputError, choose
from gatewise.tasks.settings import FitSettings, LayerSettings, TaskSettings, positive, share

SOURCES = ("sunspots", "co2", "nile", "elnino")
FILLS = ("none", "linear", "previous", "zero")
DECODINGS = ("direct", "autoregressive")
NORMALISATIONS = ("location", "window", "series", "none")
RESIDUALS = ("seasonal", "naive", "none")
FEATURES = ("level", "phase", "differences")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which series are read, and how they are cut.

    Args:
        source: `"sunspots"`, `"co2"`, `"nile"`, `"elnino"`, or the path of a CSV or Parquet file.
        time: of a file: the column of times; "" takes every row as one step.
        target: of a file: the columns to forecast; empty where there is one column besides the others.
        covariates: of a file: columns that are read with the targets, known up to the origin only.
        group: of a file: the column that names the series, where it holds many; "" for one.
        fill: what becomes of missing values and rows: `"none"` refuses them.
        horizon: steps to forecast; None takes the data's own (a file's: one season, at least 8 steps).
        season: steps after which the series' pattern comes again, 1 for none; None takes the data's own.
        window: T, the steps that the net reads; None takes three seasons, at least 24.
        batch: B, windows side by side.
        holdout: the share of the time line, before the test part, by which the best epoch is chosen.
        test: the share at the end of the time line on which the forecasts are judged.
        origins: at most so many test origins, spread evenly; each one is a forecast of `horizon` steps.

    Raises:
        InputError: a value is out of its range.
    """

    source: str = "sunspots"
    time: str = ""
    target: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    group: str = ""
    fill: str = "none"
    horizon: int | None = None
    season: int | None = None
    window: int | None = None
    batch: int = 32
    holdout: float = 0.15
    test: float = 0.2
    origins: int = 200

    def __post_init__(self) -> None:
        for several in ("target", "covariates"):
            if isinstance(getattr(self, several), str):  # one name from Python
                object.__setattr__(self, several, (getattr(self, several),))
        columns = (*self.target, *self.covariates)
        for name in columns:
            if columns.count(name) > 1:
                raise InputError(f"the column {name!r} is given twice among --target and --covariates: give it once")
        choose("fill", self.fill, FILLS)
        for what in ("horizon", "season", "window"):
            if getattr(self, what) is not None:
                positive(what, getattr(self, what))
        positive("batch", self.batch)
        positive("origins", self.origins)
        share("holdout", self.holdout)
        share("test", self.test)
        if self.holdout + self.test >= 1:
            raise InputError(
                f"holdout and test must leave data to learn, together below 1; got {self.holdout + self.test}"
            )
        if self.source in SOURCES:
            for what in ("time", "target", "covariates", "group"):
                if getattr(self, what):
                    raise InputError(f"--{what} names a column of a file, and {self.source} is none: leave it out")
        elif self.group and not self.time:
            raise InputError("--group needs --time: the series of one file are laid side by side by their times")


@dataclass(frozen=True, kw_only=True)
class ModelSettings(LayerSettings):
    """The network: a recurrent layer that reads the window, and a linear layer that forecasts.

    Args:
        cell, hidden_size, num_layers, dropout: see `LayerSettings`.
        decode: `"direct"`: all steps from the last state; `"autoregressive"`: one step, fed back as the next input.
        normalise: `"window"`, by the window's mean and deviation; `"series"`, by those of the series' part to learn;
            `"location"`, by the window's mean and the series' deviation; or `"none"`.
        residual: what the net's output is added to: the `"seasonal"` naive forecast, the `"naive"` one, or `"none"`.
        features: what the net reads besides, separated by commas, or `"none"`, or `"auto"`, which takes
            the level, and the phase where the times are dates: `"level"`, where the window's mean
            lies in the series; `"phase"`, the place in the season as sine and cosine; `"differences"`,
            to the values of a season ago.
        quantiles: levels, rising, with 0.5 (the point forecast) among them, such as `"0.1,0.5,0.9"`; `"none"` learns
            the mean by squared errors, without bands.

    Raises:
        InputError: a value is out of its range.
    """

    decode: str = "direct"
    normalise: str = "location"
    residual: str = "naive"
    features: str = "auto"
    quantiles: str = "0.1,0.5,0.9"

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("decode", self.decode, DECODINGS)
        choose("normalise", self.normalise, NORMALISATIONS)
        choose("residual", self.residual, RESIDUALS)
        if self.features != "auto":
            named = listed(self.features)
            for feature in named:
                choose("features", feature, FEATURES if named[1:] else (*FEATURES, "auto", "none"))
            if len(set(named)) < len(named):
                raise InputError(f"features are named once each; got {self.features}")
        levels(self.quantiles)


def listed(features: str) -> tuple[str, ...]:
    """The names in a list; none for `"none"`."""
    return () if features == "none" else tuple(features.split(","))


def levels(quantiles: str) -> tuple[float, ...]:
    """The numbers in a list of quantiles; none for `"none"`.

    Raises:
        InputError: they are no numbers between 0 and 1, do not rise, or lack 0.5.
    """
    if quantiles == "none":
        return ()
    try:
        found = tuple(float(part) for part in quantiles.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < q < 1 for q in found) or list(found) != sorted(set(found)) or 0.5 not in found:
        raise InputError(
            "quantiles are rising numbers between 0 and 1 with 0.5 among them, such as 0.1,0.5,0.9, or none;"
            f" got {quantiles}"
        )
    return found


DEFAULTS: dict[str, dict[str, Any]] = {
    "model": {"hidden_size": 64},
    "fit": {"lr": 3e-3, "epochs": 60},
}


@dataclass(frozen=True)
class ForecastSettings(TaskSettings):
    """All choices of one training."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=lambda: ModelSettings(**DEFAULTS["model"]))
    fit: FitSettings = field(default_factory=lambda: ForecastSettings.fit_settings())

    FLAGS = {
        **TaskSettings.FLAGS,
        **{
            name: ("data", name)
            for name in ("time", "target", "covariates", "group", "fill", "horizon", "season", "window")
        },
        "data": ("data", "source"),
        "batch": ("data", "batch"),
        "holdout": ("data", "holdout"),
        "test": ("data", "test"),
        "origins": ("data", "origins"),
        **{name: ("model", name) for name in ("decode", "normalise", "residual", "features", "quantiles")},
    }
    DEFAULTS = DEFAULTS
