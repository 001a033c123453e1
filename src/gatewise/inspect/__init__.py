"""Seeing inside: a cell's equations, a layer's shapes, and the values of both at every step.

compare                               two cells side by side: where they differ, whether they are one function
lines, parts, filled                  a cell's equations in pieces, and with numbers in place
shapes                                every parameter and tensor of a layer, with shape and size
record                                what the gates of a model's layers are while it runs
summary                               what was recorded, in a table
saturation, time_constants, keepers   how far gates open, how long units remember
gradient_norms, singular_values       what becomes of gradients through time, and why
plots                                 pictures of what was recorded and measured
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatewise.inspect import plots
    from gatewise.inspect.comparison import Comparison, compare
    from gatewise.inspect.equations import Line, filled, lines, parts
    from gatewise.inspect.layer_shapes import Shapes, shapes
    from gatewise.inspect.measures import (
        gradient_norms,
        keepers,
        saturation,
        singular_values,
        summary,
        time_constants,
    )
    from gatewise.inspect.recording import Recording, record

# Names come when they are first used (PEP 562), as in gatewise itself. (A file named as its function would hide it.)
_MEASURES = ("gradient_norms", "keepers", "saturation", "singular_values", "summary", "time_constants")
_HOME = {
    **dict.fromkeys(("Comparison", "compare"), "gatewise.inspect.comparison"),
    **dict.fromkeys(("Line", "filled", "lines", "parts"), "gatewise.inspect.equations"),
    **dict.fromkeys(("Shapes", "shapes"), "gatewise.inspect.layer_shapes"),
    **dict.fromkeys(_MEASURES, "gatewise.inspect.measures"),
    **dict.fromkeys(("Recording", "record"), "gatewise.inspect.recording"),
}
__all__ = [
    "Comparison", "Line", "Recording", "Shapes", "compare", "filled", "gradient_norms", "keepers", "lines", "parts",
    "plots", "record", "saturation", "shapes", "singular_values", "summary", "time_constants",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "plots":
        return importlib.import_module("gatewise.inspect.plots")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'gatewise.inspect' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
