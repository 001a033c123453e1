"""The attention map: where in the source the decoder looks as it writes each token of the target."""

from typing import Any

import matplotlib
from matplotlib.figure import Figure

from gatewise.errors import InputError, choose
from gatewise.tasks.plot import STYLE, rendered
from gatewise.tasks.translate.translation import Translation

FORMATS = ("png", "svg", "pdf")
INCHES = 0.24  # a cell's side


def attention_map(translation: Translation, format: str = "png") -> bytes:
    """A translation's attention as a picture: a row for each token written, a column for each token read.

    Args:
        translation: by a model with attention.
        format: of the file: `"png"`, `"svg"` or `"pdf"`.

    Raises:
        InputError: the model has no attention, or there is no such format.
    """
    choose("the picture's format", format, FORMATS)
    if translation.weights is None:
        raise InputError("the model has no attention to draw: train one with --attention additive")
    rows, columns = translation.weights.shape
    side = INCHES if max(rows, columns) <= 60 else INCHES / 2
    style: Any = {**STYLE, "font.size": 9 if side == INCHES else 5}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(columns * side + 2.2, rows * side + 1.6), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(translation.weights.numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axes.xaxis.tick_top()
        axes.set_xticks(range(columns), map(_shown, translation.source), rotation=60, ha="left", rotation_mode="anchor")
        axes.set_yticks(range(rows), map(_shown, translation.target))
        axes.tick_params(length=0)
        axes.set_xticks([c - 0.5 for c in range(1, columns)], minor=True)
        axes.set_yticks([r - 0.5 for r in range(1, rows)], minor=True)
        axes.grid(which="minor", color="#e5e7eb", linewidth=0.6)
        axes.tick_params(which="minor", length=0)
        for spine in axes.spines.values():
            spine.set_visible(True)
            spine.set_color("#9ca3af")
        bar = figure.colorbar(image, ax=axes, pad=0.02, fraction=0.03, shrink=0.6, label="attention")
        bar.outline.set_visible(False)
        return rendered(figure, format)


def _shown(token: str) -> str:
    return token.replace(" ", "·")
