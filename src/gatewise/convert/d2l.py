"""Nets from scratch of *Dive into Deep Learning*: lists of parameters, or modules, with the names of the book.

    RNN    [W_xh, W_hh, b_h]                                                     then W_hq, b_q
    GRU    [W_xz, W_hz, b_z, W_xr, W_hr, b_r, W_xh, W_hh, b_h]                   of the output layer,
    LSTM   [W_xi, W_hi, b_i, W_xf, W_hf, b_f, W_xo, W_ho, b_o, W_xc, W_hc, b_c]  if it is there

W_x? is (I, H), W_h? (H, H), b_? (H,), W_hq (H, Q), b_q (Q,). The book's GRU resets the state before its product with
W_hh, as `gatewise.GRU(reset_after=False)` does and torch.nn.GRU does not: no weights make one the other.

`forward` runs such a list by gatewise's kernels, as the book's own loop does; `from_params` makes a layer of it, and
`to_params` a list of a layer, of copies or of the layer's own memory.

Source: Zhang, Lipton, Li, Smola, Dive into Deep Learning, d2l.ai, sections 9.5, 10.1 and 10.2 (8.5, 9.1 and 9.2 in
release 0.17).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gatewise import cells
from gatewise.convert.arrays import from_arrays, to_arrays
from gatewise.convert.numbers import Array, tensor
from gatewise.convert.parameters import RESETS, check_states, computes, fill, ours
from gatewise.errors import InputError
from gatewise.graph.graph import Graph
from gatewise.layer import Layer
from gatewise.layers import Recurrent

# The letter of each gate in the book, in the order of its lists.
LETTERS: dict[Graph, dict[str, str]] = {
    cells.rnn: {"n": "h"},
    cells.gru_reset_before: {"z": "z", "r": "r", "n": "h"},
    cells.lstm: {"i": "i", "f": "f", "o": "o", "g": "c"},
}
OUTPUT = {"W_hq": "HQ", "b_q": "Q"}  # and their axes


def forward(
    inputs: Tensor, state: tuple[Tensor, ...], params: Sequence[Tensor] | Mapping[str, Tensor] | nn.Module
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What the book's `rnn`, `gru` and `lstm` compute, by gatewise's kernels; the list tells which of them it is.

        net = RNNModelScratch(len(vocab), 256, device, get_params, init_gru_state, d2l.forward)

    Each call reads the tensors of the list anew, so it knows nothing stale, and gradients arrive in their `.grad`. For
    this the matrices are put together once a call: a single step of a single sample takes longer than the book's.

    Args:
        inputs: (T, B, I), one-hot vectors in the book; or integers (T, B), which mean one-hot.
        state: before the first step, (H,) or, of an LSTM, (H, C), each (B, H).
        params: as `from_params` takes them, all tensors, of one dtype and on one device.

    Returns: the output layer's scores, (T * B, Q), step by step, or (T, B, H) where `params` have no output layer;
        and the state after the last step, a tuple like `state`.

    Raises:
        InputError: `params` are of none of these nets, are no tensors or contradict each other; `state` is no tuple of
            as many tensors as the net has. And what a layer raises.
    """
    cell, by_name = _named(params)
    _check_tensors(by_name)
    letters = LETTERS[cell]
    if not isinstance(state, tuple) or len(state) != len(cell.states):
        came = f"a tuple of {len(state)}" if isinstance(state, tuple) else f"a {type(state).__name__}"
        wanted = "(H, C)" if len(cell.states) == 2 else "(H,)"
        raise InputError(f"state is {came}, expected {wanted}, as init_state makes it")
    weight_ih, weight_hh = (torch.cat([by_name[f"W_{x}{letters[g]}"].t() for g in cell.gates]) for x in "xh")
    bias_ih = torch.cat([by_name[f"b_{letters[g]}"] for g in cell.gates])
    weights = {"weight_ih_l0": weight_ih, "weight_hh_l0": weight_hh, "bias_ih_l0": bias_ih}
    layer = _layer_on(cell, weights | {"bias_hh_l0": torch.zeros_like(bias_ih)})
    hx = tuple(s.unsqueeze(0) for s in state)
    output, finals = layer(inputs, hx if len(hx) > 1 else hx[0])
    if "W_hq" in by_name:
        output = torch.addmm(by_name["b_q"], output.flatten(0, 1), by_name["W_hq"])
    # Copies, since the book detaches them in place, which a view does not allow.
    return output, tuple(s.squeeze(0).clone() for s in (finals if isinstance(finals, tuple) else (finals,)))


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


def to_params(layer: nn.Module, output: nn.Linear | None = None, *, share: bool = False) -> list[Tensor]:
    """A layer's weights as the book's list of parameters; `zip(names(layer, output), to_params(layer, output))`.

    Args:
        layer: an RNN, a GRU with `reset_after=False` or an LSTM, of one layer and direction, gatewise's or torch.nn's.
        output: the layer that reads its output, (H, Q), whose parameters become W_hq and b_q.
        share: the list's tensors are the layer's own memory, so that training either trains the other. Shared are the
            numbers, and autograd's count of their changes; `requires_grad` and `.grad` are each tensor's own. What
            moves the layer, such as `layer.to(…)`, ends it. The layer has one bias a gate, as the book does, such as
            `gatewise.Recurrent(cells.gru_reset_before, I, H, bias="input")`.

    Returns: copies, or with `share` views; the book's training loops want `requires_grad_()` of each.

    Raises:
        InputError: the book has no such net: a GRU that resets after the product, such as torch.nn's, an LSTM with
            a projection, several layers. With `share`: there are two biases a gate or none, or a parametrization
            computes the weights.
    """
    layer = ours(layer)
    letters = LETTERS[_cell_of(layer)]
    if output is not None and (not isinstance(output, nn.Linear) or output.in_features != layer.hidden_size):
        raise InputError(f"output is {output}, expected nn.Linear({layer.hidden_size}, …), which reads the layer's")
    if share:
        return _views(layer, letters, output)
    arrays = to_arrays(layer, gates=" ".join(letters), layout="g i h", biases=1)
    assert arrays.recurrent is not None
    bias = arrays.input.new_zeros(len(letters), layer.hidden_size) if arrays.bias is None else arrays.bias
    made = [part for parts in zip(arrays.input, arrays.recurrent, bias, strict=True) for part in parts]
    if output is not None:
        zeros = output.weight.new_zeros(output.out_features)
        made += [output.weight.detach().t(), zeros if output.bias is None else output.bias.detach()]
    return [part.clone(memory_format=torch.contiguous_format) for part in made]


def names(layer: nn.Module, output: nn.Linear | None = None) -> list[str]:
    """The book's names of what `to_params` gives, in the same order. Raises as it does."""
    return _names(LETTERS[_cell_of(ours(layer))]) + ([] if output is None else list(OUTPUT))


def _views(layer: Layer, letters: Mapping[str, str], output: nn.Linear | None) -> list[Tensor]:
    """The layer's own memory as the book's list."""
    check_states("to_params", layer)
    if layer.bias != "input":
        raise InputError(f"share=True: {layer} was made with bias={layer.bias!r}, expected one bias a gate, as in the "
                         f"book's lists; from_params(to_params(layer), like=gatewise.Recurrent(gatewise.cells."
                         f'{_cell_of(layer).name}, {layer.input_size}, {layer.hidden_size}, bias="input")) makes such '
                         "a layer")  # fmt: skip
    shared = _own(layer, "weight_ih_l0", "weight_hh_l0", "bias_ih_l0")
    if shared is None:
        raise InputError(f"share=True: a parametrization computes weights of this {type(layer).__name__}; take copies")
    blocks = dict(zip(layer.cell.gates, zip(*(p.split(layer.hidden_size) for p in shared), strict=True), strict=True))
    views = [part.t() if part.dim() == 2 else part for gate in letters for part in blocks[gate]]
    if output is not None:
        pair = _own(output, "weight", "bias")
        if pair is None:
            raise InputError(f"share=True: output has no bias, which b_q would be, or a parametrization; copy it into "
                             f"nn.Linear({output.in_features}, {output.out_features})")  # fmt: skip
        views += [pair[0].t(), pair[1]]
    return views


def _own(module: nn.Module, *parameters: str) -> list[Tensor] | None:
    """The memory of parameters, without their gradients' history; None if one is missing, or computed."""
    values = [module._parameters.get(name) for name in parameters]
    return None if any(v is None for v in values) else [v.detach() for v in values if v is not None]


class _Empty(Recurrent):
    def reset_parameters(self) -> None:
        """Nothing, since no parameter of its own is ever read, and torch's random state is left alone."""


# Layers of any size are made of these without constructing one, which vmap and torch.compile don't allow in a call.
EMPTY = {cell: _Empty(cell, 1, 1) for cell in LETTERS}


def _layer_on(cell: Graph, weights: dict[str, Tensor]) -> Layer:
    """A layer that computes with these very tensors, which may be results with a history."""
    rows, input_size = weights["weight_ih_l0"].shape
    sizes = {"input_size": input_size, "hidden_size": rows // len(cell.gates)}
    layer = Recurrent.__new__(Recurrent)
    layer.__dict__.update(EMPTY[cell].__dict__, _parameters=weights, **sizes)
    return layer


def _check_tensors(by_name: Mapping[str, Any]) -> None:
    """InputError unless all are tensors of the book's shapes, of one dtype and on one device."""
    first_name, first = next(iter(by_name.items()))
    sizes: dict[str, int] = {}
    for name, value in by_name.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{name} is a {type(value).__name__}, expected a tensor; from_params makes a layer of it")
        if value.dtype != first.dtype or value.device != first.device or not value.is_floating_point():
            raise InputError(f"{name} is {value.dtype} on {value.device}, expected one floating dtype and one device: "
                             f"{first_name} is {first.dtype} on {first.device}")  # fmt: skip
        axes = (
            {"W_x": "IH", "W_h": "HH", "b_": "H"}[name[:-1]] if name not in OUTPUT else {"W": "HQ", "b": "Q"}[name[0]]
        )
        if value.dim() != len(axes) or any(sizes.setdefault(a, n) != n for a, n in zip(axes, value.shape, strict=True)):
            expected = ", ".join(str(sizes.get(axis, axis)) for axis in axes)
            raise InputError(f"{name} has shape {tuple(value.shape)}, expected ({expected}{',' * (len(axes) == 1)})")


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
