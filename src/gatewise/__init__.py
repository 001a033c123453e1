"""gatewise: recurrent layers whose equations you can read, change and watch.

layers            RNN, GRU, LSTM, as torch.nn's, and Recurrent(cell, …) for any cell
single steps      RNNCell, GRUCell, LSTMCell, as torch.nn's
explain           which executor runs a layer, and why
record            what the gates of a model's layers are while it runs; more in gatewise.inspect
replace, restore  swap a model's torch.nn layers for ours, and back
cells             the built-in cells, as their equations
cell              the decorator that makes a cell of a function
changes           recurrent_dropout, zoneout, layer_norm, clip_state_grad, activations, coupled: from cell to cell
convert           weights in and out: Keras, ONNX, d2l, flax, arrays of any toolkit
inspect           what is inside: a cell's equations, two cells compared, a layer's shapes
Graph, CellError  what a cell becomes, and what is raised where its equations break a rule
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatewise import cells, convert, inspect, tasks
    from gatewise.graph import CellError, Graph, cell
    from gatewise.graph.change import clip_state_grad, layer_norm, recurrent_dropout, zoneout
    from gatewise.graph.variants import activations, coupled
    from gatewise.inspect.recording import record
    from gatewise.layer import explain
    from gatewise.layers import GRU, LSTM, RNN, Recurrent
    from gatewise.single_step import GRUCell, LSTMCell, RNNCell
    from gatewise.swap import replace, restore

__version__ = "0.1.0"

# Names come when they are first used (PEP 562): importing torch takes longer than `gatewise --help` may.
_HOME = {
    **dict.fromkeys(("GRU", "LSTM", "RNN", "Recurrent"), "gatewise.layers"),
    **dict.fromkeys(("GRUCell", "LSTMCell", "RNNCell"), "gatewise.single_step"),
    **dict.fromkeys(("replace", "restore"), "gatewise.swap"),
    "explain": "gatewise.layer",
    "record": "gatewise.inspect.recording",
    **dict.fromkeys(("CellError", "Graph", "cell"), "gatewise.graph"),
    **dict.fromkeys(("clip_state_grad", "layer_norm", "recurrent_dropout", "zoneout"), "gatewise.graph.change"),
    **dict.fromkeys(("activations", "coupled"), "gatewise.graph.variants"),
}
__all__ = [
    "GRU", "LSTM", "RNN", "CellError", "GRUCell", "Graph", "LSTMCell", "RNNCell", "Recurrent", "activations", "cell",
    "cells", "clip_state_grad", "convert", "coupled", "explain", "inspect", "layer_norm", "record", "recurrent_dropout",
    "replace", "restore", "tasks", "zoneout",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("cells", "convert", "inspect", "tasks"):
        return importlib.import_module(f"gatewise.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'gatewise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
