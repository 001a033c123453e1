"""The confusion matrix as a picture."""

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
    side = min(14.0, max(3.4, 0.46 * size + 1.2))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(side + 1.4, side + 0.6), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        right = np.eye(size, dtype=bool)
        for colours, shown in ((_RIGHT, right), (_WRONG, ~right & (shares > 0))):
            # From a tint on: one mistake among many must be seen too.
            image: Any = axes.imshow(0.15 + 0.85 * shares, cmap=colours, vmin=0, vmax=1)
            image.set_alpha(shown.astype(float))
        if size <= _COUNTS:
            _write_counts(axes, counts.tolist(), shares, min(10.0, 180 / size))
        _label(axes, scores)
        axes.set(xlabel="predicted", ylabel="true")
        axes.set_title(f"{title}\n{scores.right:,} of {scores.count:,} {what} right, {100 * scores.accuracy:.1f} %")
        return rendered(figure)


def _write_counts(axes: Any, counts: list[list[int]], shares: Any, points: float) -> None:
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            if count:
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
        axes.text(1.02, k, shown, transform=axes.get_yaxis_transform(), va="center", color="#4b5563", fontsize=points)
    axes.text(1.02, 1.0, "recall, %", transform=axes.transAxes, va="bottom", color="#4b5563", fontsize=min(9.0, points))
    axes.set_xticks([k - 0.5 for k in places][1:], minor=True)
    axes.set_yticks([k - 0.5 for k in places][1:], minor=True)
    axes.grid(which="minor", color="#e5e7eb", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set(visible=True, color="#9ca3af", linewidth=0.8)


def _short(label: str) -> str:
    return label if len(label) <= 18 else f"{label[:17]}…"
