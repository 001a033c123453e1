"""The figure of a run: how training and held-out data fared, epoch by epoch."""

import io
import math
import warnings
from bisect import bisect
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from gatewise.inspect import plots
from gatewise.tasks.keeper import Row

# Names of the user's stand in these pictures, in which a $ is a $ and begins no formula.
STYLE: Any = {**plots.STYLE, "text.parse_math": False}
# Labels of a logarithmic axis, more of them where it spans less: up to one decade, to two and a half, beyond.
_DECADES = (1.0, 2.5)
_MARKS = ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1,))
_ABBREVIATIONS = ("mase",)
_LINES = (("train", "training", "#6b7280"), ("held_out", "held out", "#c2410c"))


def curves(history: list[Row], metric: str, title: str) -> bytes:
    """The learning curves as a PNG.

    Args:
        history: one row an epoch, with `epoch`, `train_METRIC` and, where data is held out, `held_out_METRIC`.
        metric: what is drawn, such as `"perplexity"`; the axis is logarithmic.
        title: above the figure.
    """
    epochs = [row["epoch"] for row in history]
    values = [row.get(f"{name}_{metric}", math.nan) for row in history for name, _, _ in _LINES]
    values = [value for value in values if 0 < value < math.inf]
    decades = math.log10(max(values) / min(values)) if values else 0
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        for name, label, colour in _LINES:
            if f"{name}_{metric}" not in history[0]:
                continue
            values = [row[f"{name}_{metric}"] for row in history]
            # Where nothing is held out the last weights count: the best epoch of what is learned is a lucky one.
            word, k = "last", len(values) - 1
            if f"held_out_{metric}" in history[0]:
                word, k = "best", min(range(len(values)), key=values.__getitem__)
            axes.plot(epochs, values, color=colour, linewidth=1.8, label=f"{label}, {word} {values[k]:.3g}")
            axes.plot(epochs[k], values[k], "o", color=colour, markersize=5)
        shown = metric.upper() if metric in _ABBREVIATIONS else metric.replace("_", " ")
        axes.set(title=title, xlabel="epoch", ylabel=shown, yscale="log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(LogLocator(subs=_MARKS[bisect(_DECADES, decades)]))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
        axes.legend(frameon=False)
        return rendered(figure)


def rendered(figure: Figure, format: str = "png") -> bytes:
    """A figure as the bytes of a file; a character that the font lacks is an empty box."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(file, format=format)
    return file.getvalue()
