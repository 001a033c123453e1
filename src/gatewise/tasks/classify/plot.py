"""The confusion matrix as a picture."""

import warnings
from textwrap import wrap
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from gatewise.tasks.classify.metrics import Scores
from gatewise.tasks.plot import STYLE, rendered

_RIGHT = LinearSegmentedColormap.from_list("right", ["#ffffff", "#bfdbfe", "#1d4ed8"])
_WRONG = LinearSegmentedColormap.from_list("wrong", ["#ffffff", "#fed7aa", "#c2410c"])
_COUNTS = 30  # classes; beyond, the cells are too small for their numbers


def confusion(scores: Scores, title: str, what: str) -> bytes:
    """Who is taken for whom, as a PNG: counts, shaded by the share of the true class; right in blue, wrong in red.

    Args:
        scores: of the predictions.
        title: above the figure.
        what: was counted, `"sequences"` or `"steps"`.
    """
    size = len(scores.labels)
    counts = scores.confusion
    shares = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
    side = min(12.0, max(2.0, 0.46 * size))  # inches
    # The matrix has its size; the picture is cut to what stands around it, so that no name or title is too long.
    with matplotlib.rc_context({**STYLE, "savefig.bbox": "tight", "savefig.pad_inches": 0.12}):
        figure = Figure(figsize=(side, side), dpi=150)
        axes = figure.add_axes((0, 0, 1, 1))
        right = np.eye(size, dtype=bool)
        for colours, shown in ((_RIGHT, right), (_WRONG, ~right & (shares > 0))):
            # From a tint on: one mistake among many must be seen too.
            image: Any = axes.imshow(0.15 + 0.85 * shares, cmap=colours, vmin=0, vmax=1)
            image.set_alpha(shown.astype(float))
        if size <= _COUNTS:
            digits = len(f"{int(counts.max()):,}")
            _write_counts(axes, counts.tolist(), shares, min(10.0, 100 * side / size / digits))
        _label(axes, scores)
        axes.set(xlabel="predicted", ylabel="true")
        told = f"{scores.right:,} of {scores.count:,} {what} right, {100 * scores.accuracy:.1f} %"
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of missing glyphs, as in rendered()
            around = axes.get_tightbbox()
        assert around is not None  # the axes are visible
        x, y = figure.transFigure.inverted().transform((around.x0, around.y1 + 0.1 * figure.dpi))
        figure.text(x, y, f"{_wrapped(title)}\n{told}", va="bottom", fontsize="large")
        return rendered(figure)


def _write_counts(axes: Any, counts: list[list[int]], shares: Any, points: float) -> None:
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            if count or i == j:
                colour = "white" if shares[i, j] > 0.6 else "#111827"
                axes.text(j, i, f"{count:,}", ha="center", va="center", color=colour, fontsize=points)


def _label(axes: Any, scores: Scores) -> None:
    """The classes on both sides, the recall of each on the right, and thin lines between the cells."""
    labels, places = [_short(label) for label in scores.labels], range(len(scores.labels))
    long = max(map(len, labels)) > 3
    points = min(10.0, 300 / len(labels))
    axes.set_xticks(places, labels, rotation=45 if long else 0, ha="right" if long else "center", fontsize=points)
    axes.set_yticks(places, labels, fontsize=points)
    for k in places:
        shown = f"{100 * scores.recall[k]:.0f}" if scores.confusion[k].any() else "–"
        beside = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "color": "#4b5563"}
        axes.annotate(shown, (1, k), (6, 0), va="center", fontsize=points, **beside)
    head = {"xycoords": "axes fraction", "textcoords": "offset points", "color": "#4b5563", "va": "bottom"}
    axes.annotate("recall, %", (1, 1), (6, 3), fontsize=min(9.0, max(6.0, points)), **head)
    axes.set_xticks([k - 0.5 for k in places][1:], minor=True)
    axes.set_yticks([k - 0.5 for k in places][1:], minor=True)
    axes.grid(which="minor", color="#e5e7eb", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set(visible=True, color="#9ca3af", linewidth=0.8)


def _short(label: str) -> str:
    return label if len(label) <= 32 else f"{label[:31]}…"


def _wrapped(title: str) -> str:
    return "\n".join(wrap(title, 80, break_on_hyphens=False))
