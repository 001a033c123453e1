"""`gatewise train forecast` and `gatewise forecast`: a skin over `gatewise.tasks.forecast`."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gatewise.cli.errors import one_line_errors
from gatewise.cli.train import CHECKPOINT, FORCE, Flag, helped, list_files, train_command
from gatewise.tasks.forecast.settings import (
    DECODINGS,
    FILLS,
    NORMALISATIONS,
    RESIDUALS,
    ForecastSettings,
)

if TYPE_CHECKING:
    from gatewise.tasks.fit import Result

FLAGS = {
    "data": Flag(
        "Data",
        "[b]sunspots[/] (a year), [b]co2[/] (monthly means), [b]nile[/], [b]elnino[/], all inside statsmodels; or the"
        " path of a CSV or Parquet file with a row for each time.",
        "NAME|FILE",
    ),
    "time": Flag(
        "Data",
        "Column of a file with the times: dates or whole numbers, evenly spaced. Write dates as 2024-01-31.",
        "COLUMN",
        default="every row is a step",
    ),
    "target": Flag(
        "Data",
        "Column to forecast; give it again for several, which one net forecasts.",
        "COLUMN",
        default="the only column of numbers",
    ),
    "covariates": Flag(
        "Data",
        "Column that is read beside the targets, again for several. Of its future nothing is assumed to be known.",
        "COLUMN",
        default="no column",
    ),
    "group": Flag(
        "Data",
        "Column that names the series, where a file holds many; one net learns them all.",
        "COLUMN",
        default="one series",
    ),
    "fill": Flag(
        "Data",
        "What to put where values or rows are missing; [b]none[/] refuses them. Only [b]previous[/] and [b]zero[/] look"
        " at no later value.",
        "|".join(FILLS),
    ),
    "horizon": Flag("Data", "h: steps to forecast.", default="the data's own; a file's is a season, at least 8"),
    "season": Flag(
        "Data",
        "m: steps after which the pattern comes again; 1 for none.",
        default="the data's own; a file's by its step, as 7 days, 12 months",
    ),
    "window": Flag("Data", "T: steps that the net reads before it forecasts.", default="three seasons, at least 24"),
    "batch": Flag("Data", "B: windows side by side in one step of the optimizer."),
    "holdout": Flag("Data", "Share of the time line, before the test, by which the best epoch is chosen."),
    "test": Flag("Data", "Share at the end of the time line that judges the forecasts; 0 learns to the end."),
    "origins": Flag("Data", "At most so many forecasts are judged, evenly spread over the test."),
    "decode": Flag(
        "Model",
        "[b]direct[/]: all steps from the last state; [b]autoregressive[/]: one step, fed back as the next input.",
        "|".join(DECODINGS),
    ),
    "normalise": Flag(
        "Model",
        "By mean and deviation of each [b]window[/] or each [b]series[/]; by the window's mean and the series'"
        " deviation ([b]location[/]); or not.",
        "|".join(NORMALISATIONS),
    ),
    "residual": Flag(
        "Model", "The forecast to which the net's output is added, and whose differences it reads.", "|".join(RESIDUALS)
    ),
    "features": Flag(
        "Model",
        "What else it reads, with commas between: the [b]level[/], which is where the window's mean lies in the series;"
        " the [b]phase[/] of the season as sine and cosine; [b]differences[/] to a season ago. [b]auto[/]: the level,"
        " and the phase where times are dates.",
        "LIST|auto|none",
    ),
    "quantiles": Flag(
        "Model",
        "Levels to forecast, 0.5 among them, by the pinball loss; [b]none[/] forecasts the mean by squared errors.",
        "LIST|none",
    ),
}


def _summarise(result: "Result") -> None:
    """How it went and where it lies, after a training."""
    run, best, last = result.run, result.best, result.history[-1]
    print(f"\n{run.report.read_text(encoding='utf-8')}")
    if "held_out_mase" in best:
        print(f"best epoch on the held-out part: {best['epoch']:.0f} of {last['epoch']:.0f}", end=", ")
        print(f"MASE {best['held_out_mase']:.3f} there")
    list_files(result, *(name for name in ("backtest.csv", "backtest.png") if (run.path / name).exists()))
    print(f"what comes next: gatewise forecast {run.path}")


train_forecast = train_command(
    "forecast",
    ForecastSettings,
    FLAGS,
    _summarise,
    """Train a net to forecast series, and judge it beside naive forecasts and ETS.

    The time line is cut in three: the net learns from the first part, its best epoch is chosen on the second, and on
    the third each method forecasts from every origin. MASE measures errors in units of the seasonal naive error;
    below 1 is good. The table says so when the net loses. Ctrl-C stops after the step at hand, saved; --resume goes
    on to the very same weights.
    """,
)


def forecast(
    run: Annotated[Path, typer.Argument(help="Folder that a training wrote.", metavar="RUN")],
    horizon: Annotated[int | None, typer.Option(help=helped("Steps to forecast.", "as in training"))] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help=helped("A file with the same columns, such as one with later values.", "what it was trained on"),
            metavar="FILE",
        ),
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option(
            help=helped("Last time that the forecast may know, so that the truth can be shown.", "the end"),
            metavar="TIME",
        ),
    ] = None,
    series: Annotated[str | None, typer.Option(help=helped("Only this series of many.", "all"))] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help=helped(
                "The table to write, a .csv; its picture comes beside it as .png.",
                "RUN/forecast.csv, with --origin RUN/forecast-from-ORIGIN.csv, written anew each time",
            ),
            metavar="FILE",
        ),
    ] = None,
    force: FORCE = False,
    checkpoint: CHECKPOINT = None,
) -> None:
    """Forecast with a trained net; writes a table and a picture, into the run's folder unless told otherwise."""
    with one_line_errors():
        from gatewise.tasks.forecast import load, panel_of
        from gatewise.tasks.forecast.predict import forecast as predict
        from gatewise.tasks.forecast.predict import keep, places

        if out is not None:
            places(out, force)
        model = load(run, checkpoint)
        panel, note = panel_of(run, data)
        if note:
            print(f"gatewise: {note}", file=sys.stderr)
        table = predict(model, panel, horizon, origin=origin, series=series)
        left_out = table.attrs["left_out"]
        for why in left_out[:3]:
            print(f"gatewise: left out: {why}", file=sys.stderr)
        if len(left_out) > 3:
            print(f"gatewise: left out: {len(left_out) - 3} series more", file=sys.stderr)
        name = "forecast.csv" if origin is None else f"forecast-from-{re.sub('[^A-Za-z0-9.-]+', '-', origin)}.csv"
        files = keep(table, model, panel, out or run / name, force or out is None)
        shown = table.drop(
            columns=[name for name in ("series", "truth") if not table[name].replace("", None).notna().any()]
        )
        print(shown.head(24).to_string(index=False, float_format=lambda value: f"{value:.4g}"))
        if len(table) > 24:
            print(f"… {len(table) - 24} rows more in the file")
        for file in files:
            print(f"  {file}")
