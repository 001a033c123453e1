"""Parameters of flax's recurrent cells, linen's and nnx's, in and out.

A kernel is (inputs, units). Which of a gate's two sides has a bias differs:

    linen.LSTMCell, OptimizedLSTMCell   a layer each: ii if ig io, hi hf hg ho           beside the state
    linen.GRUCell                       ir iz in, hr hz hn                               beside the input; n has both
    linen.SimpleCell                    i, h                                             beside the input
    nnx.LSTMCell                        ii if_ ig io, hi hf hg ho                        beside the state
    nnx.OptimizedLSTMCell               dense_i, dense_h, of i f g o                     beside the state
    nnx.GRUCell                         dense_i, dense_h, of r z n                       beside the input; n too
    nnx.SimpleCell                      dense_i, dense_h                                 beside the input

nnx.GRUCell's docstring has the b_hn that torch.nn.GRU has; its code has none.

flax's carry of an LSTM is (c, h), the state here (h, c); flax's RNN reads (B, T, I), as `batch_first=True` does.

Source: google/flax 0.12.8, flax/linen/recurrent.py and flax/nnx/nn/recurrent.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gatewise import cells
from gatewise.convert.arrays import both_directions, from_arrays, one_bias_is_enough, to_arrays
from gatewise.convert.numbers import tensor
from gatewise.convert.parameters import computes, ours
from gatewise.errors import InputError
from gatewise.graph.graph import Graph
from gatewise.graph.variants import activations
from gatewise.layer import Layer

Function = Callable[[Any], Any] | str
Tree = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One of flax's cells.

    cell: what it computes. gated, active: the values that gate_fn and activation_fn make. rows: the gates in each
    flax layer, by its name, beside the input and beside the state. biased: the names of those with a bias.
    """

    cell: Graph
    gated: str
    active: str
    rows: tuple[dict[str, str], dict[str, str]]
    biased: frozenset[str]


def _split(cell: Graph, gated: str, active: str, names: str, biased: str) -> Cell:
    """A cell with a layer for each gate: names are those beside the input, in the order of the cell's gates."""
    x = dict(zip(names.split(), cell.gates, strict=True))
    h = {f"h{name.strip('_')[1:]}": gate for name, gate in x.items()}
    return Cell(cell, gated, active, (x, h), frozenset(biased.split()))


def _joined(cell: Graph, gated: str, active: str, biased: str) -> Cell:
    gates = " ".join(cell.gates)
    return Cell(cell, gated, active, ({"dense_i": gates}, {"dense_h": gates}), frozenset([biased]))


LSTM, GRU, SIMPLE = (cells.lstm, "i f o", "g h"), (cells.gru, "r z", "n"), (cells.rnn, "", "h")
CELLS = {
    "linen.OptimizedLSTMCell": _split(*LSTM, "ii if ig io", "hi hf hg ho"),  # and of linen.LSTMCell
    "linen.GRUCell": _split(*GRU, "ir iz in", "ir iz in hn"),
    "linen.SimpleCell": _split(*SIMPLE, "i", "i"),
    "nnx.LSTMCell": _split(*LSTM, "ii if_ ig io", "hi hf hg ho"),
    "nnx.OptimizedLSTMCell": _joined(*LSTM, "dense_h"),
    "nnx.GRUCell": _joined(*GRU, "dense_i"),
    "nnx.SimpleCell": _joined(*SIMPLE, "dense_i"),
}
DIRECTIONS = ("forward_rnn", "backward_rnn")


def from_params(
    params: Any, *, gate_fn: Function | None = None, activation_fn: Function | None = None, batch_first: bool = True
) -> Layer:
    """The parameters of one of flax's cells, or of its RNN or Bidirectional around such cells, as a layer.

    Args:
        params: a tree of numpy or jax arrays, as linen's `init` and nnx's `to_pure_dict` give it (`{"params": …}` and
            other mappings of one entry are opened); or an nnx module or state. A tree does not tell the options of its
            cell: `SimpleCell(residual=True)` has the same parameters and is another function, which no layer here is.
        gate_fn, activation_fn: the cell's, as `gatewise.activations` takes functions; flax's own by default, sigmoid
            and tanh, or those of the module.
        batch_first: of the layer; flax's RNN has it so.

    Returns: `gatewise.LSTM`, `GRU` or `RNN`; `Recurrent` with other functions; with two directions of Bidirectional.

    Raises:
        InputError: the tree is of no cell that is known, or of several; sizes contradict each other; a module is
            residual, reversed, merged otherwise than side by side, or has functions that are not known here.
    """
    if _is_flax(params):
        params, found = _live(params)
        gate_fn, activation_fn = gate_fn or found[0], activation_fn or found[1]
    functions = (gate_fn or "sigmoid", activation_fn or "tanh")
    tree = _opened(params)
    if set(tree) == set(DIRECTIONS):
        return both_directions(*(_layer(_opened(tree[name]), functions, batch_first) for name in DIRECTIONS))
    return _layer(tree, functions, batch_first)


def to_params(
    layer: nn.Module,
    cell: str,
    *,
    gate_fn: Function = "sigmoid",
    activation_fn: Function = "tanh",
    k: int | None = None,
) -> dict[str, Any]:
    """A layer's weights as the parameters of one of flax's cells: a tree of numpy arrays.

    Args:
        layer: gatewise's or torch.nn's.
        cell: "linen.GRUCell", "nnx.OptimizedLSTMCell" and so on, as flax has them.
        gate_fn, activation_fn: the functions that flax's cell is made with, if they are not sigmoid and tanh.
        k: which layer, of several.

    Returns:
        The cell's tree, {"hn": {"kernel": …, "bias": …}, …}: for linen, `{"params": tree}` of the cell alone and
        `{"params": {"cell": tree}}` of its RNN. Of two directions, the tree of Bidirectional around two RNNs. bfloat16
        becomes float32, which holds the same numbers.

    Raises:
        InputError: flax's cell computes something else; or has one bias where the layer has two that cannot be added
            into one: nnx.GRUCell, and a gate n whose bias_hh is not zero.
    """
    layer = ours(layer)
    if cell not in CELLS and cell != "linen.LSTMCell":
        raise InputError(f"cell is {cell!r}, expected one of: linen.LSTMCell, {', '.join(CELLS)}")
    form = CELLS[cell if cell in CELLS else "linen.OptimizedLSTMCell"]
    theirs = _with(form, (gate_fn, activation_fn))
    if computes(layer) != (theirs.gates, theirs.nodes, theirs.outputs):
        raise InputError(f"{layer} computes {layer.cell.name}, {cell} computes {theirs.name}")
    if k is None and layer.num_layers > 1:
        raise InputError(f"{layer} has {layer.num_layers} layers, a cell of flax is one: say which by k=0, k=1, …")
    trees = [
        _tree(layer, form, cell, k or 0, reverse) for reverse in ((False, True) if layer.bidirectional else (False,))
    ]
    return trees[0] if len(trees) == 1 else {n: {"cell": tree} for n, tree in zip(DIRECTIONS, trees, strict=True)}


def _with(form: Cell, functions: tuple[Function, Function]) -> Graph:
    """The cell with these gate_fn and activation_fn."""
    changed = dict.fromkeys(form.gated.split(), functions[0]) | dict.fromkeys(form.active.split(), functions[1])
    return activations(form.cell, **changed)


def _opened(tree: Any) -> Tree:
    """What is inside mappings of one entry."""
    if not isinstance(tree, Mapping):
        raise InputError(f"params are a {type(tree).__name__}, expected a tree of flax's parameters or an nnx module")
    inner = {
        name: part for name, part in tree.items() if name != "rngs"
    }  # nnx.RNN keeps a random stream beside its cell
    only = next(iter(inner.values())) if len(inner) == 1 else None
    return _opened(only) if isinstance(only, Mapping) else inner


def _layer(tree: Tree, functions: tuple[Function, Function], batch_first: bool) -> Layer:
    form = _form_of(tree)
    sides: list[dict[str, dict[str, Tensor]]] = []
    for rows in form.rows:
        parts: dict[str, dict[str, Tensor]] = {"kernel": {}, "bias": {}}
        for name, gates in rows.items():
            if set(tree[name]) - {"kernel", "bias"} or "kernel" not in tree[name]:
                raise InputError(f"{name} has {', '.join(tree[name]) or 'nothing'}, expected kernel, and perhaps bias")
            for part, value in tree[name].items():
                array = tensor(value, f"{name}/{part}")
                if not array.dim() or array.shape[-1] % len(gates.split()):
                    raise InputError(f"{name}/{part} has shape {tuple(array.shape)}, expected units of {gates} last")
                parts[part] |= zip(gates.split(), array.chunk(len(gates.split()), -1), strict=True)
        sides.append(parts)
    biases = [part["bias"] for part in sides]
    return from_arrays(
        _with(form, functions), input=sides[0]["kernel"], recurrent=sides[1]["kernel"],
        bias=biases if any(biases) else None, layout="i h", batch_first=batch_first,
    )  # fmt: skip


def _form_of(tree: Tree) -> Cell:
    """The cell that has these names; of nnx's, whose names are all alike, the number of gates tells."""
    for form in CELLS.values():
        names = {name for rows in form.rows for name in rows}
        if set(tree) == names and all(isinstance(part, Mapping) for part in tree.values()):
            if "dense_h" not in names:
                return form
            shape = tensor(tree["dense_h"].get("kernel", 0.0), "dense_h/kernel").shape
            if len(shape) == 2 and shape[1] == shape[0] * len(form.cell.gates):
                return form
    raise InputError(f"params have {', '.join(map(str, tree)) or 'nothing'}, expected those of one cell of flax: "
                     "LSTMCell, OptimizedLSTMCell, GRUCell or SimpleCell")  # fmt: skip


def _tree(layer: Layer, form: Cell, cell: str, k: int, reverse: bool) -> dict[str, Any]:
    arrays = to_arrays(layer, gates=" ".join(form.cell.gates), layout="g i h", k=k, reverse=reverse)
    biases = arrays.input.new_zeros(2, len(form.cell.gates), layer.hidden_size) if arrays.bias is None else arrays.bias
    assert isinstance(biases, Tensor)
    assert arrays.recurrent is not None
    both = [dict(zip(form.cell.gates, side.double(), strict=True)) for side in biases]
    enough = one_bias_is_enough(layer.cell)
    for gate in form.cell.gates:
        has = [any(gate in gates.split() and name in form.biased for name, gates in rows.items()) for rows in form.rows]
        here, there = (0, 1) if has[0] else (1, 0)
        if not all(has) and both[there][gate].any():
            if gate not in enough:
                raise InputError(
                    f"{cell} has no bias beside the state's product for gate {gate}, and this layer's bias_hh is not "
                    "zero there; it cannot be added to bias_ih, since r multiplies it; linen.GRUCell has both"
                )
            both[here][gate] = both[here][gate] + both[there][gate]
    tree: dict[str, Any] = {}
    matrices = [dict(zip(form.cell.gates, m, strict=True)) for m in (arrays.input, arrays.recurrent)]
    for rows, kernels, bias in zip(form.rows, matrices, both, strict=True):
        for name, gates in rows.items():
            tree[name] = {"kernel": _numpy([kernels[g] for g in gates.split()], arrays.input)}
            if name in form.biased:
                tree[name]["bias"] = _numpy([bias[g] for g in gates.split()], arrays.input)
    return tree


def _numpy(parts: list[Tensor], like: Tensor) -> Any:
    joined = torch.cat(parts, -1).to(like.dtype).cpu()
    return (joined.float() if joined.dtype == torch.bfloat16 else joined).numpy()


# --- nnx's modules -----------------------------------------------------------------------------------


def _is_flax(params: Any) -> bool:
    """Whether it is one of nnx's; linen's FrozenDict is a mapping like others."""
    homes = {cls.__module__.partition(".")[0] for cls in type(params).__mro__}
    return "flax" in homes and type(params).__name__ != "FrozenDict"


def _live(module: Any) -> tuple[Any, tuple[Function | None, Function | None]]:
    """The tree of an nnx module or state, and the functions of its cell, where it tells them."""
    from flax import nnx

    if isinstance(module, nnx.State):
        return nnx.to_pure_dict(module), (None, None)
    tree = nnx.to_pure_dict(nnx.state(module, nnx.Param)) if isinstance(module, nnx.Module) else {}
    if type(module) is nnx.Bidirectional:
        one, two = (_live(getattr(module, name))[1] for name in DIRECTIONS)
        merge = module.merge_fn
        if one != two or getattr(merge, "__module__", "") != nnx.RNN.__module__:
            raise InputError("Bidirectional: expected the same functions in both directions, and outputs side by side; "
                             "load forward_rnn and backward_rnn on their own")  # fmt: skip
        return tree, one
    if type(module) is nnx.RNN:
        if module.reverse:
            raise InputError("RNN(reverse=True) reads from the end: load its cell, and flip what the layer reads")
        return tree, _live(module.cell)[1]
    if type(module) not in (nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell, nnx.SimpleCell):
        raise InputError(f"{type(module).__name__} is none of flax's LSTMCell, OptimizedLSTMCell, GRUCell, SimpleCell")
    if getattr(module, "residual", False):
        raise InputError("SimpleCell(residual=True) adds the state within tanh: no layer here does")
    gate = _known(module.gate_fn) if hasattr(module, "gate_fn") else None
    return tree, (gate, _known(module.activation_fn))


def _known(function: Any) -> str:
    """The name here of one of jax's functions."""
    import jax

    names = {"sigmoid": "sigmoid", "tanh": "tanh", "relu": "relu", "softplus": "softplus", "soft_sign": "softsign",
             "hard_sigmoid": "hardsigmoid"}  # fmt: skip
    for name, here in names.items():
        if function in (getattr(jax.nn, name, None), getattr(jax.numpy, name, None)):
            return here
    raise InputError(f"{function} is no function that is known here; load nnx.state(module, nnx.Param) with gate_fn= "
                     "and activation_fn= as a cell's equations have them")  # fmt: skip
