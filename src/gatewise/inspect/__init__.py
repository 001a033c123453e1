"""Seeing inside: a cell's equations, and the values of a cell at every step.

compare       two cells side by side: where their equations differ, and whether they are the same function
lines, parts  a cell's equations in pieces, for what shows them; `cell.equations()` and `cell.latex()` print them
filled        the equations with one unit's numbers in place
record        what the gates of a model's layers are while it runs
explore       a page that shows all of it, for a text and a model, and moves
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatewise.inspect.comparison import Comparison, compare
    from gatewise.inspect.equations import Line, filled, lines, parts
    from gatewise.inspect.explorer import explore
    from gatewise.inspect.recording import Recording, record

# Names come when they are first used, as in gatewise itself.
_HOME = {
    **dict.fromkeys(("Comparison", "compare"), "gatewise.inspect.comparison"),
    **dict.fromkeys(("Line", "filled", "lines", "parts"), "gatewise.inspect.equations"),
    **dict.fromkeys(("Recording", "record"), "gatewise.inspect.recording"),
    "explore": "gatewise.inspect.explorer",
}
__all__ = ["Comparison", "Line", "Recording", "compare", "explore", "filled", "lines", "parts", "record"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'gatewise.inspect' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
