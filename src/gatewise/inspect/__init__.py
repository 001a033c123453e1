"""Seeing inside: the values of a cell at every step.

record    what the gates of a model's layers are while it runs
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatewise.inspect.recording import Recording, record

_HOME = {**dict.fromkeys(("Recording", "record"), "gatewise.inspect.recording")}
__all__ = ["Recording", "record"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'gatewise.inspect' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
