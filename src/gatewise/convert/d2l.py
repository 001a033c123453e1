"""Nets from scratch of *Dive into Deep Learning*: lists of parameters, or modules, with the names of the book.

    RNN    [W_xh, W_hh, b_h]                                                     then W_hq, b_q
    GRU    [W_xz, W_hz, b_z, W_xr, W_hr, b_r, W_xh, W_hh, b_h]                   of the output layer,
    LSTM   [W_xi, W_hi, b_i, W_xf, W_hf, b_f, W_xo, W_ho, b_o, W_xc, W_hc, b_c]  if it is there

W_x? is (I, H), W_h? (H, H), b_? (H,), W_hq (H, Q), b_q (Q,). The book's GRU resets the state before its product with
W_hh, as `gatewise.GRU(reset_after=False)` does and torch.nn.GRU does not: no weights make one the other.

Source: Zhang, Lipton, Li, Smola, Dive into Deep Learning, d2l.ai, sections 9.5, 10.1 and 10.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gatewise import cells
from gatewise.convert.arrays import from_arrays, to_arrays
from gatewise.convert.numbers import Array, tensor
from gatewise.convert.parameters import RESETS, computes, fill, ours
from gatewise.errors import InputError
from gatewise.graph.graph import Graph
from gatewise.layer import Layer

# The letter of each gate in the book, in the order of its lists.
LETTERS: dict[Graph, dict[str, str]] = {
    cells.rnn: {"n": "h"},
    cells.gru_reset_before: {"z": "z", "r": "r", "n": "h"},
    cells.lstm: {"i": "i", "f": "f", "o": "o", "g": "c"},
}
OUTPUT = ("W_hq", "b_q")


def from_params(
    params: Sequence[Array] | Mapping[str, Array] | nn.Module, like: nn.Module | None = None
) -> tuple[nn.Module, nn.Linear | None]:
    """The book's parameters as a layer, and its output layer, if it is there.

    Args:
        params: the list of `get_params`; or a mapping by the book's names; or a module that has parameters of these
            names, such as the second edition's `GRUScratch` or `RNNLMScratch`.
        like: a layer to fill in, of gatewise's or torch.nn's. Without it one is made: `gatewise.RNN`, `LSTM`, or
            `GRU(reset_after=False)`.

    Returns: the layer, time-major as the book's loops are, and `nn.Linear` or None. All is copied.

    Raises:
        InputError: the list is of none of these nets, sizes contradict each other, or `like` is another function of
            its weights: a GRU that resets after the product.
    """
    cell, given = _named(params)
    letters = LETTERS[cell]
    layer = from_arrays(
        cell,
        input={gate: given[f"W_x{letter}"] for gate, letter in letters.items()},
        recurrent={gate: given[f"W_h{letter}"] for gate, letter in letters.items()},
        bias={gate: given[f"b_{letter}"] for gate, letter in letters.items()},
        layout="i h",
    )
    linear = None
    if "W_hq" in given:
        weight, bias = (tensor(given[name], name) for name in OUTPUT)
        if weight.dim() != 2 or weight.shape[0] != layer.hidden_size or bias.shape != weight.shape[1:]:
            raise InputError(f"W_hq has shape {tuple(weight.shape)} and b_q {tuple(bias.shape)}, expected "
                             f"({layer.hidden_size}, Q) and (Q,)")  # fmt: skip
        linear = nn.utils.skip_init(nn.Linear, *weight.shape, dtype=weight.dtype)
        with torch.no_grad():
            linear.weight.copy_(weight.t())
            linear.bias.copy_(bias)
    return (layer if like is None else fill(like, layer)), linear


def to_params(layer: nn.Module, output: nn.Linear | None = None) -> list[Tensor]:
    """A layer's weights as the book's list of parameters; `zip(names(layer, output), to_params(layer, output))`.

    Args:
        layer: an RNN, a GRU with `reset_after=False` or an LSTM, of one layer and direction, gatewise's or torch.nn's.
        output: the layer that reads its output, (H, Q), whose parameters become W_hq and b_q.

    Returns: copies; the book's training loops want `requires_grad_()` of each.

    Raises:
        InputError: the book has no such net: a GRU that resets after the product, such as torch.nn's, an LSTM with
            a projection, several layers.
    """
    layer = ours(layer)
    letters = LETTERS[_cell_of(layer)]
    arrays = to_arrays(layer, gates=" ".join(letters), layout="g i h", biases=1)
    assert arrays.recurrent is not None
    bias = arrays.input.new_zeros(len(letters), layer.hidden_size) if arrays.bias is None else arrays.bias
    made = [part for parts in zip(arrays.input, arrays.recurrent, bias, strict=True) for part in parts]
    if output is not None:
        if not isinstance(output, nn.Linear) or output.in_features != layer.hidden_size:
            raise InputError(f"output is {output}, expected nn.Linear({layer.hidden_size}, …), which reads the layer's")
        zeros = output.weight.new_zeros(output.out_features)
        made += [output.weight.detach().t(), zeros if output.bias is None else output.bias.detach()]
    return [part.clone(memory_format=torch.contiguous_format) for part in made]


def names(layer: nn.Module, output: nn.Linear | None = None) -> list[str]:
    """The book's names of what `to_params` gives, in the same order. Raises as it does."""
    return _names(LETTERS[_cell_of(ours(layer))]) + ([] if output is None else list(OUTPUT))


def _names(letters: Mapping[str, str]) -> list[str]:
    return [name for letter in letters.values() for name in (f"W_x{letter}", f"W_h{letter}", f"b_{letter}")]


def _cell_of(layer: Layer) -> Graph:
    """The book's cell that computes what a layer does."""
    if layer.num_layers > 1 or layer.bidirectional:
        raise InputError(f"{layer}: the book's nets from scratch have one layer and one direction")
    for cell in LETTERS:
        if computes(layer) == (cell.gates, cell.nodes, cell.outputs):
            return cell
    why = "which is none of the book's: rnn, gru_reset_before, lstm"
    if computes(layer) in RESETS:
        why = ("which multiplies W_hh h by the reset gate; the book's GRU multiplies h before the product, and no "
               "weights make them equal; make and train GRU(…, reset_after=False)")  # fmt: skip
    raise InputError(f"{layer} computes {layer.cell.name}, {why}")


def _named(params: Any) -> tuple[Graph, dict[str, Array]]:
    """Which net it is, and its parameters by the book's names."""
    if isinstance(params, nn.Module):
        every = [(name.rpartition(".")[2], p) for name, p in params.named_parameters()]
        given: dict[str, Array] = dict(every)
        if len(given) < len(every):
            raise InputError(
                f"{type(params).__name__} has several layers; give each on its own, and join them by "
                "gatewise.convert.stacked or both_directions"
            )
    elif isinstance(params, Mapping):
        given = dict(params)
    else:
        given = {}
        for letters in LETTERS.values():
            for every_name in (_names(letters), [*_names(letters), *OUTPUT]):
                if len(params) == len(every_name):
                    given = dict(zip(every_name, params, strict=True))
        if not given:
            raise InputError(f"{len(params)} parameters, expected 3 of an RNN, 9 of a GRU or 12 of an LSTM, or 2 more")
    for cell, letters in LETTERS.items():
        if set(given) in (set(_names(letters)), {*_names(letters), *OUTPUT}):
            return cell, given
    raise InputError(f"parameters {', '.join(map(str, given)) or 'none'}, expected the book's names of an RNN, GRU or "
                     "LSTM, such as W_xz, W_hz, b_z, …, and perhaps W_hq, b_q")  # fmt: skip
