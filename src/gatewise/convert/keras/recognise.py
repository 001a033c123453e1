"""Which of Keras's layers computes what a cell computes, and a layer's weights as Keras stacks them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from gatewise import cells
from gatewise.convert.arrays import to_arrays
from gatewise.convert.keras.activations import IN_CELLS, KERAS_2, Function
from gatewise.convert.keras.conventions import LAYERS, KerasLayer
from gatewise.errors import InputError
from gatewise.graph.graph import Graph
from gatewise.graph.variants import activations
from gatewise.layer import Layer

# Keras 3 has no hard_sigmoid of Keras 2, clamp(a / 5 + 1/2, 0, 1), but a steeper argument makes its own the same:
# (1.2 a) / 6 + 1/2. So the weights and biases of a gate that has it are multiplied.
STEEPER = {"hard_sigmoid": 1.2}
OLD = {f"{name} of Keras 2": function for name, function in KERAS_2.items()}
FUNCTIONS: dict[str, Function] = {**IN_CELLS, **OLD}


@dataclass(frozen=True)
class Recognised:
    """A cell in Keras.

    row: the layer. activations: Keras's arguments, "activation" and "recurrent_activation", with the functions' names.
    scale: by gate, what weights and biases are multiplied by.
    """

    row: KerasLayer
    activations: dict[str, str]
    scale: dict[str, float]

    @property
    def options(self) -> dict[str, object]:
        """What the layer is made with, but for sizes."""
        after = {"reset_after": self.row.biases == 2} if self.row.kind == "GRU" else {}
        return {**self.activations, **after}

    @property
    def says(self) -> str:
        """How the conversion report tells it."""
        words = [f"gates {' '.join(theirs for _, theirs in self.row.gates)} for {self.row.order}"]
        words += ["two biases a gate" if self.row.biases == 2 else "the two biases of a gate added"]
        words += [f"{key}={name!r}" for key, name in self.activations.items()]
        words += [f"gate {gate} times {number}: hard_sigmoid of Keras 2" for gate, number in self.scale.items()]
        return "; ".join(words)


def recognise(cell: Graph) -> Recognised:
    """The layer of Keras that computes what this cell does in evaluation.

    Raises: InputError: there is none; the text says why.
    """
    found = _search(cell.expected)
    if found is None:
        raise InputError(f"Keras has no layer for the cell {cell.name}: {_reason(cell)}; ONNX takes every cell")
    return found


def arrays(layer: Layer, found: Recognised, k: int, reverse: bool) -> list[Tensor]:
    """kernel, recurrent_kernel and, if there are any, bias, as Keras's layer takes them.

    Raises: InputError: two biases are needed where Keras has one.
    """
    try:
        made = to_arrays(layer, gates=found.row.order, layout="i (g h)", biases=found.row.biases, k=k, reverse=reverse)
    except ValueError as error:
        raise InputError(f"{error}; Keras's {found.row.call} has one") from error
    parts = [part for part in (made.input, made.recurrent, made.bias) if isinstance(part, Tensor)]
    assert len(parts) == (3 if layer.bias else 2)  # all gates of Keras's cells read the input and the state
    if found.scale:
        factors = torch.tensor([found.scale.get(gate, 1.0) for gate in found.row.order.split()], dtype=torch.float64)
        column = factors.repeat_interleave(layer.hidden_size)
        parts = [(part.double() * column).to(part.dtype) for part in parts]
    return parts


@functools.lru_cache(maxsize=256)
def _search(cell: Graph) -> Recognised | None:
    ops = {node.op for node in cell.nodes}
    names: dict[Function, str] = {}
    for name, function in FUNCTIONS.items():
        if {node.op for node in activations(cells.rnn, h=function).nodes} <= ops:
            names.setdefault(function, name)
    known: dict[Hashable, int] = {}
    wanted = _outputs(cell, known)
    for base, row in LAYERS.items():
        if sorted(base.gates) != sorted(cell.gates) or base.states != cell.states:
            continue
        for functions in itertools.product(names, repeat=2 if row.recurrent_activation else 1):
            keys = dict(zip(("activation", "recurrent_activation"), functions, strict=False))
            new = {value: function for key, function in keys.items() for value in getattr(row, key)}
            if _outputs(activations(base, **new), known) == wanted:
                old = {value: names[f].split()[0] for value, f in new.items() if f in OLD.values()}
                if len(base.gates) == 1:
                    old = dict.fromkeys(base.gates, *old.values()) if old else {}
                if set(old) <= set(base.gates):  # the h of an LSTM, which is made with g's function, has no weights
                    plain = {key: names[f].split()[0] for key, f in keys.items()}
                    return Recognised(row, plain, {gate: STEEPER[name] for gate, name in old.items()})
    return None


def _outputs(cell: Graph, known: dict[Hashable, int]) -> list[int]:
    """The new states as numbers, equal for equal expressions; sums and products in either order."""
    numbers: list[int] = []
    for node in cell.nodes:
        args = [numbers[a] for a in node.args]
        args = sorted(args) if node.op in ("add", "mul") else args
        numbers.append(known.setdefault((node.op, node.key, node.params, *args), len(known)))
    return [numbers[i] for _, i in cell.outputs]


def _reason(cell: Graph) -> str:
    if cell.projects_output:
        return "its LSTM has no proj_size"
    if cell.vectors:
        return f"its layers have no learned vectors such as {cell.vectors[0]} (peepholes)"
    for base, row in LAYERS.items():
        if sorted(base.gates) == sorted(cell.gates) and base.states == cell.states:
            kinds = f"one activation for {' '.join(row.activation)}"
            kinds += f" and one for {' '.join(row.recurrent_activation)}" if row.recurrent_activation else ""
            return f"its {row.kind} has other equations, or takes but {kinds}, of those that Keras has a name for"
    return "it has SimpleRNN, GRU and LSTM"
