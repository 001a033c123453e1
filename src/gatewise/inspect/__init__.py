"""Seeing inside a cell.

compare       two cells side by side: where their equations differ, and whether they are the same function
lines, parts  a cell's equations in pieces, for what shows them; `cell.equations()` and `cell.latex()` print them
filled        the equations with one unit's numbers in place
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatewise.inspect.comparison import Comparison, compare
    from gatewise.inspect.equations import Line, filled, lines, parts

# Names come when they are first used, as in gatewise itself.
_HOME = {
    **dict.fromkeys(("Comparison", "compare"), "gatewise.inspect.comparison"),
    **dict.fromkeys(("Line", "filled", "lines", "parts"), "gatewise.inspect.equations"),
}
__all__ = ["Comparison", "Line", "compare", "filled", "lines", "parts"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'gatewise.inspect' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
