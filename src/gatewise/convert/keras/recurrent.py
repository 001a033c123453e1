"""Keras's SimpleRNN, GRU, LSTM and their relatives -> a layer of gatewise's.

Source: keras-team/keras, keras/src/layers/rnn/*.py; for Keras 2 and CuDNN, tensorflow/python/keras/saving/
hdf5_format.py, `_convert_rnn_weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from gatewise import cells
from gatewise.convert.arrays import from_arrays
from gatewise.convert.keras.activations import IN_CELLS, named
from gatewise.convert.keras.config import Config
from gatewise.convert.keras.conventions import LAYERS
from gatewise.errors import InputError
from gatewise.graph.graph import Graph
from gatewise.graph.variants import activations
from gatewise.layer import Layer

# Names that the same layers have had.
KINDS = {
    **{f"{kind}{suffix}": kind for kind in ("SimpleRNN", "GRU", "LSTM") for suffix in ("", "Cell")},
    **{f"{kind}{version}": kind for kind in ("GRU", "LSTM") for version in ("V1", "V2", "CellV1", "CellV2")},
    "UnifiedGRU": "GRU", "UnifiedLSTM": "LSTM", "CuDNNGRU": "CuDNNGRU", "CuDNNLSTM": "CuDNNLSTM",
}  # fmt: skip
WRAPPERS = ("RNN", "StackedRNNCells", "Bidirectional")


def cell_of(config: Config, second: bool) -> Graph:
    """The cell that a layer or cell of Keras computes."""
    kind = KINDS[config.kind]
    if kind == "CuDNNLSTM":
        return cells.lstm
    if kind == "CuDNNGRU":
        return cells.gru
    act = config.activation("activation")
    places: dict[str, str]
    if kind == "SimpleRNN":
        cell, places, standard = cells.rnn, {"h": act}, {"h": "tanh"}
    else:
        gates = config.activation("recurrent_activation")
        if kind == "GRU":
            # Before 2.1.5 there was no such setting, and the reset gate acted on the state.
            cell = cells.gru if config.flag("reset_after", False) else cells.gru_reset_before
            places, standard = {"r": gates, "z": gates, "n": act}, {"r": "sigmoid", "z": "sigmoid", "n": "tanh"}
        else:
            cell = cells.lstm
            places = {"i": gates, "f": gates, "o": gates, "g": act, "h": act}
            standard = {"i": "sigmoid", "f": "sigmoid", "o": "sigmoid", "g": "tanh", "h": "tanh"}
    functions: dict[str, Callable[[Any], Any] | str] = {}
    for place, name in places.items():
        found = named(name, 2 if second else 3)
        if found is None:
            raise config.bad(f"there is no activation {name!r} for a cell; one of: {', '.join(sorted(IN_CELLS))}")
        if name != standard[place]:
            functions[place] = found
    return cells.rnn_relu if (kind, act) == ("SimpleRNN", "relu") else activations(cell, **functions)


def gates_of(cell: Graph) -> int:
    return len(cell.gates)


def variables(config: Config) -> tuple[str, ...]:
    """The names of a layer's arrays, in Keras's order."""
    biased = config.kind.startswith("CuDNN") or config.flag("use_bias", True)
    return ("kernel", "recurrent_kernel", *(["bias"] if biased else []))


def layer_of(config: Config, arrays: Sequence[Tensor], second: bool) -> Layer:
    """The layer of gatewise's, batch first, with these arrays: kernel, recurrent_kernel and perhaps bias.

    Raises: InputError: a shape contradicts the configuration; an activation is unknown.
    """
    cell, units = cell_of(config, second), config.number("units")
    width = gates_of(cell) * units
    kernel, recurrent, bias = arrays[0], arrays[1], arrays[2] if len(arrays) > 2 else None
    cudnn = config.kind.startswith("CuDNN")
    two = cell.gates == cells.gru.gates and (cudnn or config.flag("reset_after", False))
    expected = (2 * width,) if cudnn else (2, width) if two else (width,)
    shapes = {"kernel": (kernel, (kernel.shape[0] if kernel.dim() == 2 else "inputs", width)),
              "recurrent_kernel": (recurrent, (units, width)), "bias": (bias, expected)}  # fmt: skip
    for name, (array, shape) in shapes.items():
        if array is not None and tuple(array.shape) != shape:
            raise config.bad(f"{name} has shape {tuple(array.shape)}, expected {shape} for {units} units")
    order = " ".join(ours for ours, _ in LAYERS[_plain(config)].gates)
    try:
        if cudnn:
            # The kernel of a gate, (inputs, H), holds cuDNN's (H, inputs) in memory's order; the other is cuDNN's own.
            names = order.split()
            gates = kernel.split(units, 1)
            return from_arrays(
                cell, gates=order, layout="h i", batch_first=True,
                input={g: k.reshape(units, -1) for g, k in zip(names, gates, strict=True)},
                recurrent=dict(zip(names, recurrent.split(units, 1), strict=True)),
                bias=None if bias is None else bias.reshape(2, -1),
            )  # fmt: skip
        return from_arrays(cell, input=kernel, recurrent=recurrent, bias=bias, gates=order, layout="i (g h)",
                           batch_first=True)  # fmt: skip
    except ValueError as error:
        raise InputError(f"{config.where}: {config}: {error}") from None


def _plain(config: Config) -> Graph:
    """The standard cell whose gates Keras stacks in the same order."""
    kind = KINDS[config.kind].removeprefix("CuDNN")
    return {"SimpleRNN": cells.rnn, "GRU": cells.gru, "LSTM": cells.lstm}[kind]


def how(config: Config, layer: Layer, second: bool) -> str:
    """What had to be known to read the layer."""
    pairs = LAYERS[_plain(config)].gates
    words = [f"gates {' '.join(k for _, k in pairs)} are {' '.join(o for o, _ in pairs)}"]
    if KINDS[config.kind].endswith("GRU"):
        after = config.kind.startswith("CuDNN") or config.flag("reset_after", False)
        words.append(f"reset gate {'after' if after else 'before'} the product")
    if config.kind.startswith("CuDNN"):
        words.append("kernels in cuDNN's layout, two biases")
    else:
        two = config.flag("reset_after", False) and "GRU" in config.kind
        words.append(("two biases" if two else "one bias") if config.flag("use_bias", True) else "no bias")
        words += [f"{key} {name}" + (" (0.2x + 0.5)" if second else " (x/6 + 0.5)") * (name == "hard_sigmoid")
                  for key, usual in (("activation", "tanh"), ("recurrent_activation", "sigmoid"))
                  if key in config.settings and (name := config.activation(key)) != usual]  # fmt: skip
    return ", ".join(words)
