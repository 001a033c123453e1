"""Seeing inside: the values of a cell at every step.

record                                what the gates of a model's layers are while it runs
summary                               what was recorded, in a table
saturation, time_constants, keepers   how far gates open, how long units remember
gradient_norms, singular_values       what becomes of gradients through time, and why
plots                                 pictures of all of these
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatewise.inspect import plots
    from gatewise.inspect.measures import (
        gradient_norms,
        keepers,
        saturation,
        singular_values,
        summary,
        time_constants,
    )
    from gatewise.inspect.recording import Recording, record

_MEASURES = ("gradient_norms", "keepers", "saturation", "singular_values", "summary", "time_constants")
_HOME = {
    **dict.fromkeys(("Recording", "record"), "gatewise.inspect.recording"),
    **dict.fromkeys(_MEASURES, "gatewise.inspect.measures"),
}
__all__ = [
    "Recording", "gradient_norms", "keepers", "plots", "record", "saturation", "singular_values", "summary",
    "time_constants",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "plots":
        return importlib.import_module("gatewise.inspect.plots")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'gatewise.inspect' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
