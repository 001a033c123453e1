"""gatewise: recurrent layers whose equations you can read, change and watch.

layers            RNN, GRU, LSTM, as torch.nn's, and Recurrent(cell, …) for any cell
cells             the built-in cells, as their equations
cell              the decorator that makes a cell of a function
Graph, CellError  what a cell becomes, and what is raised where its equations break a rule
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatewise import cells, tasks
    from gatewise.graph import CellError, Graph, cell
    from gatewise.layers import GRU, LSTM, RNN, Recurrent

__version__ = "0.1.0"
__all__ = ["GRU", "LSTM", "RNN", "CellError", "Graph", "Recurrent", "cell", "cells", "tasks"]

# Names come when they are first used (PEP 562): importing torch takes longer than `gatewise --help` may.
_HOME = {
    **dict.fromkeys(("GRU", "LSTM", "RNN", "Recurrent"), "gatewise.layers"),
    **dict.fromkeys(("CellError", "Graph", "cell"), "gatewise.graph"),
}


def __getattr__(name: str) -> Any:
    if name in ("cells", "tasks"):
        return importlib.import_module(f"gatewise.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'gatewise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
