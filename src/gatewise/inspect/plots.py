"""Pictures of what was recorded and measured, one function each. Axes go in (or are made), and come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gatewise.inspect.measures import saturation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"}
COLOURS = ("#1d4ed8", "#c2410c", "#15803d", "#7e22ce", "#0e7490", "#a16207")  # dark enough on white, for most eyes


def gate_map(
    values: Tensor,
    text: Sequence[str] | None = None,
    ax: Axes | None = None,
    *,
    units: Sequence[int] | None = None,
    title: str = "",
) -> Axes:
    """A recorded value as a picture, units × steps: dark is 0 and light is 1, or blue is -1 and red is 1.

    Args:
        values: (T, H), or (T, 1, H) as recorded with one sample.
        text: what was read, a string for each step, under the picture.
        units: which units, in this order; all if None.
    """
    grid = _of_one(values)[:, units if units is not None else slice(None)].T
    signed = bool((grid < 0).any())
    ax = _axes(ax, (max(4.0, min(12.0, grid.shape[1] * 0.16)), 3.2))
    colours: Any = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1} if signed else {"cmap": "magma", "vmin": 0, "vmax": 1}
    image = ax.imshow(grid.cpu().numpy(), aspect="auto", interpolation="nearest", **colours)
    if text is not None:
        _letters(ax, text, grid.shape[1])
    ax.set_title(title, loc="left")
    ax.set(ylabel="unit")
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, pad=0.01, fraction=0.03)
    bar.outline.set_visible(False)
    return ax


def traces(
    values: Mapping[str, Tensor], text: Sequence[str] | None = None, ax: Axes | None = None, *, title: str = ""
) -> Axes:
    """Single units over time: a line for each name.

    Args:
        values: name -> (T,). text: what was read, a string for each step.
    """
    longest = max(len(v) for v in values.values())
    ax = _axes(ax, (max(4.0, min(12.0, longest * 0.16)), 2.6))
    for (name, value), colour in zip(values.items(), COLOURS * len(values), strict=False):
        ax.plot(value.detach().cpu().float(), label=name, color=colour, linewidth=1.6)
    if text is not None:
        _letters(ax, text, longest)
    ax.margins(x=0.01)
    ax.set_title(title, loc="left")
    ax.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    ax.legend(frameon=False, ncols=len(values), loc="lower right", bbox_to_anchor=(1, 1))
    return ax


def saturations(gates: Mapping[str, Tensor], ax: Axes | None = None, *, title: str = "") -> Axes:
    """How often each unit's gates are shut and open: a point a unit, at the shares of steps below 0.1 and above 0.9.

    A point at the lower right is a gate that is nearly always shut, at the upper left nearly always open, on the
    diagonal one that knows no middle, at the origin one that is never sure.

    Args:
        gates: name -> (T, B, H), as recorded.

    Source: Karpathy, Johnson and Fei-Fei 2015, arXiv 1506.02078, figure 2.
    """
    ax = _axes(ax, (4.0, 4.0))
    ax.plot([0, 1], [1, 0], color="#9ca3af", linewidth=1)
    for (name, values), colour in zip(gates.items(), COLOURS * len(gates), strict=False):
        low, high = saturation(values.detach())
        ax.scatter(low.cpu(), high.cpu(), s=14, alpha=0.6, color=colour, label=name, linewidths=0)
    ax.set_title(title, loc="left")
    ax.set(xlabel="share of steps below 0.1", ylabel="share of steps above 0.9")
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    ax.legend(frameon=False)
    return ax


def memories(constants: Mapping[str, Tensor], ax: Axes | None = None, *, title: str = "") -> Axes:
    """How long units remember: their time constants from the shortest to the longest, a line for each name.

    Args:
        constants: name -> (H,), in steps, as `time_constants` gives them.
    """
    ax = _axes(ax, (5.0, 3.2))
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    for (name, values), colour in zip(constants.items(), COLOURS * len(constants), strict=False):
        ordered = values.detach().cpu().float().sort().values
        share = (torch.arange(len(ordered)) + 0.5) / len(ordered)
        ax.plot(share * 100, ordered, color=colour, label=f"{name}, median {ordered.median():.2g}", linewidth=1.8)
    ax.set_title(title, loc="left")
    ax.set(xlabel="units, %", ylabel="time constant, steps", yscale="log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    ax.legend(frameon=False)
    return ax


def gradients(norms: Mapping[str, Tensor], ax: Axes | None = None, *, title: str = "") -> Axes:
    """The gradient's norm through time, on a logarithmic axis: a line for each name.

    Args:
        norms: name -> (T + 1,), as `gradient_norms` gives them for a layer; steps count back from the last.
    """
    ax = _axes(ax, (6.0, 3.4))
    for (name, values), colour in zip(norms.items(), COLOURS * len(norms), strict=False):
        shown = values.detach().cpu().float()
        shown = shown.masked_fill(shown == 0, torch.nan)  # which no logarithm has: nothing depends on this state
        ax.plot(range(1 - len(values), 1), shown, color=colour, label=name, linewidth=1.8)
    ax.set_title(title, loc="left")
    ax.set(xlabel="steps before the last", ylabel="|∂ loss / ∂ state|", yscale="log")
    ax.margins(x=0.01)
    ax.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    ax.legend(frameon=False)
    return ax


def spectra(values: Mapping[str, Tensor], ax: Axes | None = None, *, title: str = "") -> Axes:
    """Singular values of recurrent weights, from large to small; a state is stretched where they are above 1.

    Args:
        values: name -> (min(H, P),), as `singular_values` gives them for a layer.
    """
    ax = _axes(ax, (5.0, 3.2))
    ax.axhline(1, color="#9ca3af", linewidth=1)
    for (name, s), colour in zip(values.items(), COLOURS * len(values), strict=False):
        ax.plot(range(1, len(s) + 1), s.detach().cpu().float(), color=colour, label=name, linewidth=1.8)
    ax.set_title(title, loc="left")
    ax.set(xlabel="singular values, in order", ylabel="size")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)
    return ax


def _of_one(values: Tensor) -> Tensor:
    """(T, H) of one sample's values."""
    values = values.detach().float()
    if values.dim() == 3 and values.shape[1] != 1:
        raise ValueError(f"gate_map: values of {values.shape[1]} samples, expected one; choose it: values[:, 0]")
    return values.squeeze(1) if values.dim() == 3 else values


def _letters(ax: Axes, text: Sequence[str], steps: int) -> None:
    """What was read, under the steps; a space is shown, since it is a step like any other."""
    if len(text) != steps:
        raise ValueError(f"text has {len(text)} strings, expected one for each of the {steps} steps")
    ax.set_xticks(range(len(text)), [c if c.strip() else "·" for c in text], family="monospace")
    ax.tick_params(axis="x", length=0)


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes that were given, or those of a new figure."""
    if ax is not None:
        return ax
    try:
        import matplotlib
        from matplotlib import pyplot
    except ImportError:
        raise ImportError('plots need matplotlib, which is not installed: pip install "gatewise[train]"') from None
    with matplotlib.rc_context(STYLE):
        made: Axes = pyplot.subplots(figsize=size, layout="constrained")[1]
    return made
