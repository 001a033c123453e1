"""Looking inside: what a cell computes, what a layer holds, what happens at every step.

shapes   every parameter and tensor of a layer, with shape and size, and how output and final states relate
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatewise.inspect.layer_shapes import Shapes, shapes

# Names come when they are first used (PEP 562), as in gatewise itself. (A file named as its function would hide it.)
_HOME = dict.fromkeys(("Shapes", "shapes"), "gatewise.inspect.layer_shapes")
__all__ = ["Shapes", "shapes"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'gatewise.inspect' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
