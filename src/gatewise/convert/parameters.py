"""A layer's parameters by name, out of any layer and into a new one: the side of a conversion that is gatewise's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gatewise import cells
from gatewise.errors import InputError
from gatewise.graph.graph import Graph
from gatewise.layer import Layer
from gatewise.layers import GRU, LSTM, RNN, Recurrent
from gatewise.swap import OURS, class_of, our_twin

Parameters = dict[str, Tensor]  # of one layer in one direction, by their names without `_l0`

# The classes that stand in for torch.nn's, by what they compute: a cell of another name may be the same function.
CLASSES: dict[Any, tuple[type[Layer], dict[str, Any]]] = {
    (cell.gates, cell.nodes, cell.outputs): made
    for cell, made in (
        (cells.rnn, (RNN, {})),
        (cells.rnn_relu, (RNN, {"nonlinearity": "relu"})),
        (cells.gru, (GRU, {})),
        (cells.gru_reset_before, (GRU, {"reset_after": False})),
        (cells.lstm, (LSTM, {})),
        (cells.lstm_projected, (LSTM, {})),
    )
}


def layer_of(cell: Graph, input_size: int, hidden_size: int, **options: Any) -> Layer:
    """A layer of this cell, its parameters not yet filled in: RNN, GRU or LSTM where it is theirs, else Recurrent."""
    cls, found = CLASSES.get((cell.gates, cell.nodes, cell.outputs), (Recurrent, {}))
    if cls is Recurrent:
        made = nn.utils.skip_init(Recurrent, cell, input_size, hidden_size, **options)
    else:
        if cls is not LSTM:
            options.pop("proj_size", None)
        made = nn.utils.skip_init(cls, input_size, hidden_size, **found, **options)
    assert isinstance(made, Layer)
    return made


def ours(layer: nn.Module) -> Layer:
    """The layer as one of gatewise's, on the same parameters; InputError if it is no recurrent layer."""
    if isinstance(layer, Layer):
        return layer
    if class_of(layer) in OURS:
        return our_twin(layer)
    name = type(layer).__name__
    if known := [cls.__name__ for cls in OURS if isinstance(layer, cls)]:
        raise InputError(f"{name} is a subclass of torch.nn.{known[0]}, which may compute something else")
    raise InputError(f"{name} is no recurrent layer of gatewise's or torch.nn's")


def weights_of(layer: Layer, k: int = 0, reverse: bool = False) -> Parameters:
    """One layer's parameters in one direction; biases for every gate of a side, or none. Without learned states."""
    suffix = layer._suffixes(k)[1 if reverse else 0]
    cell = layer.cell
    weight_hh, bias_hh, weight_hr, _ = layer._recurrent_weights(suffix)
    made = {"weight_ih": getattr(layer, f"weight_ih{suffix}")}
    if cell.hidden_gates:
        made["weight_hh"] = weight_hh
    if layer.bias:
        made["bias_ih"] = getattr(layer, f"bias_ih{suffix}")
        if cell.hidden_gates:
            made["bias_hh"] = bias_hh
    if cell.projects_output:
        made["weight_hr"] = weight_hr
    made |= {name: getattr(layer, f"{name}{suffix}") for name in cell.vectors}
    return {name: value.detach() for name, value in made.items()}


def filled(cell: Graph, parts: Sequence[Sequence[Parameters]], batch_first: bool, dropout: float = 0.0) -> Layer:
    """A new layer with these parameters: for each layer, for each direction. Biases that are missing are zero."""
    first = parts[0][0]
    weight = first["weight_ih"]
    layer = layer_of(
        cell, weight.shape[1], weight.shape[0] // len(cell.input_gates), num_layers=len(parts),
        bias=any("bias_ih" in part for directions in parts for part in directions), batch_first=batch_first,
        dropout=dropout, bidirectional=len(parts[0]) == 2,
        proj_size=first["weight_hr"].shape[0] if "weight_hr" in first else 0, dtype=weight.dtype,
    )  # fmt: skip
    with torch.no_grad():
        for k, directions in enumerate(parts):
            for suffix, part in zip(layer._suffixes(k), directions, strict=True):
                for name in layer._all_weights[0]:
                    base = name.removesuffix("_l0")
                    parameter = getattr(layer, base + suffix)
                    parameter.copy_(part[base]) if base in part else parameter.zero_()
    return layer


def stacked(layers: Sequence[nn.Module], dropout: float = 0.0) -> Layer:
    """Layers on top of each other as one: each reads the output of the one before.

    Args:
        layers: of the same cell, hidden size, directions and dtype, the lowest first, gatewise's or torch.nn's. Their
            parameters are copied.
        dropout: between all layers, in training.

    Raises: InputError: they are not alike, one reads another size than the one before gives out, or one learns the
        state from which sequences begin.
    """
    mine = [ours(layer) for layer in layers]
    if not mine:
        raise InputError("stacked: no layers")
    first = mine[0]
    for k, layer in enumerate(mine):
        _check_alike("stacked", first, layer, "cell", "hidden_size", "bidirectional", "proj_size", "batch_first")
        if layer.num_layers > 1 and layer.dropout != dropout:
            raise InputError(f"stacked: {layer} has dropout {layer.dropout} between its layers, expected {dropout}")
        reads = (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)
        if k and layer.input_size != reads:
            raise InputError(f"stacked: layer {k} reads {layer.input_size} numbers, expected {reads} of the one below")
    directions = (False, True) if first.bidirectional else (False,)
    parts = [[weights_of(layer, j, r) for r in directions] for layer in mine for j in range(layer.num_layers)]
    return filled(first.cell, parts, first.batch_first, dropout)


def both_directions(forward: nn.Module, backward: nn.Module) -> Layer:
    """One bidirectional layer of two of one direction, the second of which reads the sequence from its end; copied.

    Raises: InputError: they are not of the same cell, sizes and dtype, have several layers or directions, or learn
        the state from which sequences begin.
    """
    one, two = ours(forward), ours(backward)
    for layer in (one, two):
        if layer.num_layers > 1 or layer.bidirectional:
            raise InputError(f"both_directions: {layer}: expected layers of one layer and one direction")
        _check_alike("both_directions", one, layer, "cell", "input_size", "hidden_size", "proj_size", "batch_first")
    return filled(one.cell, [[weights_of(one), weights_of(two)]], one.batch_first)


def check_states(what: str, layer: Layer) -> None:
    """InputError of a layer that learns the states from which sequences begin, which have no place there."""
    if layer.learn_state:
        raise InputError(
            f"{what}: {layer} learns the states from which sequences begin, which would be lost; move the weights "
            "by their names, or make the layer anew with learn_state=False"
        )


def _check_alike(what: str, one: Layer, other: Layer, *names: str) -> None:
    check_states(what, other)
    if wrong := [name for name in names if getattr(one, name) != getattr(other, name)]:
        raise InputError(f"{what}: {' and '.join(wrong)} differ: {one} and {other}")
    if one._weight.dtype != other._weight.dtype:
        raise InputError(f"{what}: dtypes differ: {one._weight.dtype} and {other._weight.dtype}")


def computes(layer: Layer) -> tuple[Any, ...]:
    """What a layer's cell computes: equal for equal functions of the same parameters, whatever the cell's name."""
    return layer.cell.gates, layer.cell.nodes, layer.cell.outputs


def fill(like: nn.Module, layer: Layer) -> nn.Module:
    """Copy a layer's parameters into one of gatewise's or torch.nn's that computes the same, which is returned.

    Raises: InputError: it computes something else, has other sizes, a narrower dtype, or no biases where there are any.
    """
    if isinstance(like, type):
        raise InputError(f"like is the class {like.__name__}, expected a layer: {like.__name__}(…)")
    target = ours(like)
    if computes(target) != computes(layer):
        raise InputError(f"like is {target}, which computes {target.cell.name}; the weights are of {layer.cell.name}, "
                         f"another function: {_reason(target.cell, layer.cell)}")  # fmt: skip
    sizes = ("input_size", "hidden_size", "num_layers", "bidirectional", "proj_size")
    check_states("like", target)
    if wrong := [name for name in sizes if getattr(target, name) != getattr(layer, name)]:
        raise InputError(f"like is {target}, and the weights are of {layer}: {' and '.join(wrong)} differ")
    own, given = dict(target.named_parameters()), dict(layer.named_parameters())
    if lost := [name for name, value in given.items() if name not in own and value.any()]:
        raise InputError(f"like is {target}, which has no {', '.join(lost)}; give it biases")
    dtype = target._weight.dtype
    if torch.promote_types(dtype, layer._weight.dtype) != dtype:
        raise InputError(f"like is in {dtype}, the weights in {layer._weight.dtype}, of which digits would be lost")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(given[name]) if name in given else parameter.zero_()
    return like


def _reason(one: Graph, other: Graph) -> str:
    if {(cell.gates, cell.nodes, cell.outputs) for cell in (one, other)} == RESETS:
        return ("one multiplies the state by the reset gate before its product with the weights, W (r ⊙ h), the other "
                "the product, r ⊙ (W h), and no weights make them equal")  # fmt: skip
    return "no weights make them equal"


RESETS = {(cell.gates, cell.nodes, cell.outputs) for cell in (cells.gru, cells.gru_reset_before)}
