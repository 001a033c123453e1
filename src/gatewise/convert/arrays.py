"""A layer's weights as matrices that are stacked as another toolkit stacks them, in and out.

Toolkits differ in the order of the gates, in which axis of a matrix they lie on, in one bias a gate or two, and in
the sense of the update gate. `from_arrays` and `to_arrays` take all that as arguments; the other files of this folder
are tables of such arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gatewise import cells
from gatewise.convert.layout import Layout
from gatewise.graph.graph import Graph, walk
from gatewise.layer import Layer
from gatewise.layers import GRU, LSTM, RNN, Recurrent

Array = Any  # a torch tensor, a numpy or jax array, or nested lists of numbers
Blocks = dict[str, Tensor]  # by gate

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


@dataclass(frozen=True)
class Arrays:
    """One layer's weights in one direction, stacked as another toolkit stacks them.

    input, recurrent: matrices in the layout asked for. bias: (G*H,), (2, G*H) or None. output: (P, H), torch's
    weight_hr, or None. vectors: the cell's learned vectors, (H,) each.
    """

    input: Tensor
    recurrent: Tensor | None
    bias: Tensor | None
    output: Tensor | None = None
    vectors: dict[str, Tensor] = field(default_factory=dict)


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


def from_arrays(
    cell: Graph,
    *,
    input: Array | Mapping[str, Array],
    recurrent: Array | Mapping[str, Array] | None = None,
    bias: Array | Mapping[str, Array] | Sequence[Any] | None = None,
    gates: str | None = None,
    layout: str = "(g h) i",
    complement: str = "",
    scale: float = 1.0,
    add: Mapping[str, float] | None = None,
    output: Array | None = None,
    vectors: Mapping[str, Array] | None = None,
    reverse: Mapping[str, Any] | None = None,
    batch_first: bool = False,
) -> Layer:
    """A layer with the weights of another toolkit, for what has no file format of its own.

        layer = from_arrays(cells.lstm, input=WxT, recurrent=WhT, bias=b, gates="i f o g", layout="i (g h)")

    Args:
        cell: what is computed; sizes come from the arrays.
        input, recurrent: the matrices beside x_t and beside the states, all gates in one, in `layout`; or one for each
            gate, by its name here.
        bias: (G*H,), one a gate; (2, G*H), 2*G*H numbers or a pair of the former: those beside `input`, then those
            beside `recurrent`; or mappings by gate in their place, where gates that are absent have none. One bias
            stands beside the input: where the state's product is multiplied by something before it is added, as n of
            `cells.gru` is by r, that is not the same as beside the product.
        gates: the order in which the gates are stacked, by their names here: "z r n". The cell's own, if not given.
        layout: the axes of a matrix, g for gates, h for the units that are computed, i for what is read (the inputs,
            or the state's units); parentheses join axes that lie in one: "(g h) i" is torch's, "i (g h)" Keras's,
            "g h i", "(h g) i" and so on. A matrix for each gate has no g: "h i" or "i h".
        complement: gates whose stored sense is the opposite one, separated by spaces: one minus the gate here.
            1 - σ(a) = σ(-a), so their weights and biases change sign. "z" for an update gate that lets the new in.
        scale: what every number of a matrix or bias is multiplied by, as integers with a scale are stored.
        add: by gate, what the toolkit adds to its bias when it runs: {"f": 1.0} of a forget bias that is not stored.
        output: torch's weight_hr, (P, H), of a cell with `.hr`.
        vectors: the cell's learned vectors by name, (H,) each.
        reverse: the arrays of a second direction, which reads the sequence from its end: a mapping with `input`,
            `recurrent`, `bias`, `output` and `vectors`, as above.
        batch_first: of the layer.

    Returns:
        A layer of one layer, in the dtype of `input` (of integers: torch's default dtype): `gatewise.RNN`, `GRU` or
        `LSTM` where the cell is theirs, else `Recurrent`. The arrays are copied. `stacked` joins layers.

    Raises:
        ValueError: sizes that contradict each other, gates that are not the cell's, a layout that is none, weights
            that are missing; or `complement` of a gate that is no sigmoid of a sum.
    """
    order = _order(cell, gates)
    shape = Layout(layout)
    flipped = _complements(cell, complement)
    parts: list[dict[str, Any]] = [
        {"input": input, "recurrent": recurrent, "bias": bias, "output": output, "vectors": vectors}
    ]
    if reverse is not None:
        if unknown := set(reverse) - set(parts[0]):
            raise ValueError(f"from_arrays: reverse has {sorted(unknown)}, expected {', '.join(parts[0])}")
        parts.append({**dict.fromkeys(parts[0]), **reverse})
    read = [_read(cell, order, shape, flipped, scale, add or {}, **part) for part in parts]
    sizes = [(w["weight_ih"].shape, sorted(w)) for w in read]
    if sizes[0] != sizes[-1]:
        raise ValueError(
            f"from_arrays: the two directions differ: {tuple(sizes[0][0])} and {tuple(sizes[-1][0])} (rows, inputs), "
            f"{', '.join(sizes[0][1])} and {', '.join(sizes[-1][1])}; load them as two layers"
        )
    return _fill(cell, [read], batch_first)


def to_arrays(
    layer: nn.Module,
    *,
    gates: str | None = None,
    layout: str = "(g h) i",
    complement: str = "",
    scale: float = 1.0,
    add: Mapping[str, float] | None = None,
    biases: int = 2,
    k: int = 0,
    reverse: bool = False,
) -> Arrays:
    """The inverse of `from_arrays`: one layer's weights in one direction, as another toolkit stacks them.

    Args:
        layer: one of gatewise's or torch.nn's. gates, layout, complement, scale, add: as of `from_arrays`.
        biases: a gate's: 2 gives (2, G*H), beside the input and beside the states; 1 gives their sum, (G*H,), for
            gates in which both are added. A layer without biases gives None.
        k: which layer, from 0. reverse: its second direction.

    Raises:
        ValueError: one bias is asked for where two cannot be added, and the second is not zero.
    """
    layer = ours(layer)
    cell, size = layer.cell, layer.hidden_size
    order, shape, flipped = _order(cell, gates), Layout(layout), _complements(cell, complement)
    own = weights_of(layer, k, reverse)

    def blocks(name: str, of: Sequence[str], side: float = 1.0) -> Blocks:
        rows = own[name].split(size)
        return {g: (-w if g in flipped else w) / scale for g, w in zip(of, rows, strict=True)}

    def stacked(made: Blocks) -> Tensor:
        return shape.join([made[g] for g in order if g in made])

    matrices = [stacked(blocks("weight_ih", cell.input_gates))]
    matrices += [stacked(blocks("weight_hh", cell.hidden_gates))] if cell.hidden_gates else []
    bias = None
    if "bias_ih" in own or add:
        zeros = own["weight_ih"].new_zeros(size)
        beside_x = dict.fromkeys(cell.gates, zeros) | (blocks("bias_ih", cell.input_gates) if "bias_ih" in own else {})
        beside_h = dict.fromkeys(cell.gates, zeros) | (blocks("bias_hh", cell.hidden_gates) if "bias_hh" in own else {})
        for gate, number in (add or {}).items():
            beside_x[gate] = beside_x[gate] - number / scale
        if biases == 1:
            bias = stacked({g: beside_x[g] + beside_h[g] for g in _summed(layer, beside_x, beside_h)})
        else:
            bias = torch.stack([stacked(beside_x), stacked(beside_h)])
    recurrent = matrices[1] if len(matrices) > 1 else None
    return Arrays(matrices[0], recurrent, bias, own.get("weight_hr"), {name: own[name] for name in cell.vectors})


def stacked(layers: Sequence[nn.Module], dropout: float = 0.0) -> Layer:
    """Layers of one layer each, on top of each other: each reads the output of the one before.

    Args:
        layers: of the same cell, hidden size, directions and biases, the lowest first; copied.
        dropout: between them, in training.

    Raises: ValueError: they are not alike, or one reads another size than the one before gives out.
    """
    mine = [ours(layer) for layer in layers]
    if not mine:
        raise ValueError("stacked: no layers")
    first = mine[0]
    for k, layer in enumerate(mine):
        alike = ("hidden_size", "bidirectional", "proj_size", "batch_first")
        other = [n for n in alike if getattr(layer, n) != getattr(first, n)]
        other += ["the cell"] if layer.cell != first.cell else []
        if other:
            raise ValueError(f"stacked: layer {k} has another {', '.join(other)} than layer 0: {layer} and {first}")
        reads = (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)
        if k and layer.input_size != reads:
            raise ValueError(f"stacked: layer {k} reads {layer.input_size} numbers, expected {reads} of the one below")
    suffixes = (False, True) if first.bidirectional else (False,)
    read = [[weights_of(layer, j, r) for r in suffixes] for layer in mine for j in range(layer.num_layers)]
    return _fill(first.cell, read, first.batch_first, dropout)


def both_directions(forward: nn.Module, backward: nn.Module) -> Layer:
    """One bidirectional layer of two of one direction, the second of which read the sequence from its end; copied.

    Raises: ValueError: they are not of the same cell and sizes.
    """
    one, two = ours(forward), ours(backward)
    for name in ("cell", "input_size", "hidden_size", "proj_size", "batch_first", "num_layers", "bidirectional"):
        if getattr(one, name) != getattr(two, name):
            raise ValueError(f"both_directions: {name} differs: {one} and {two}")
    if one.num_layers > 1 or one.bidirectional:
        raise ValueError(f"both_directions: {one}: expected layers of one layer and one direction")
    return _fill(one.cell, [[weights_of(one), weights_of(two)]], one.batch_first)


def ours(layer: nn.Module) -> Layer:
    """The layer as one of gatewise's, on the same parameters; ValueError if it is no recurrent layer."""
    if isinstance(layer, Layer):
        return layer
    from gatewise.swap import OURS, replace

    if type(layer) in OURS:
        twin = type(layer).__new__(type(layer))
        twin.__dict__.update(layer.__dict__)
        replace(twin)
        assert isinstance(twin, Layer)
        return twin
    raise ValueError(f"{type(layer).__name__} is no recurrent layer of gatewise's or torch.nn's")


def weights_of(layer: Layer, k: int = 0, reverse: bool = False) -> dict[str, Tensor]:
    """One layer's parameters in one direction, by their names without `_l0`; biases for all gates, or none."""
    suffix = layer._suffixes(k)[1 if reverse else 0]
    recurrent = ("weight_hh", "bias_hh", "weight_hr")
    made = dict(zip(recurrent, layer._recurrent_weights(suffix), strict=False))
    names = ["weight_ih", *(["bias_ih"] if layer.bias else []), *layer.cell.vectors]
    made |= {name: getattr(layer, f"{name}{suffix}") for name in names}
    wanted = {*names, *(["weight_hh"] if layer.cell.hidden_gates else [])}
    wanted |= {"bias_hh"} if layer.bias and layer.cell.hidden_gates else set()
    wanted |= {"weight_hr"} if layer.cell.projects_output else set()
    return {name: tensor.detach() for name, tensor in made.items() if name in wanted}


def one_bias_is_enough(cell: Graph) -> tuple[str, ...]:
    """The gates whose two biases are only ever added, so that their sum does as well as the two."""
    found = []
    for gate in cell.gates:
        halves = [i for op in ("input", "project") for i, node in walk(cell, op) if node.key == gate]
        readers = [{j for j, node in enumerate(cell.nodes) if i in node.args} for i in halves]
        alone = len(halves) == 1  # it has but one side, and so but one bias
        added = len(halves) == 2 and len(readers[0]) == 1 and readers[0] == readers[1]
        if alone or (added and cell.nodes[next(iter(readers[0]))].op == "add"):
            found.append(gate)
    return tuple(found)


def tensor(value: Array, what: str) -> Tensor:
    """A copy of an array as a tensor on the CPU; integers become torch's default dtype."""
    if isinstance(value, Tensor):
        made = value.detach().cpu().clone()
    elif isinstance(value, (list, tuple, int, float)):
        made = torch.tensor(value, dtype=torch.float64).to(torch.get_default_dtype())
    else:
        import numpy as np

        array = np.asarray(value)
        if array.dtype.name == "bfloat16":  # ml_dtypes', as jax has it, which torch does not know
            made = torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
        elif array.dtype.kind in "fiu":
            made = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
        else:
            raise ValueError(f"{what} is an array of {array.dtype}, expected real numbers")
    if made.is_complex() or made.dtype == torch.bool:
        raise ValueError(f"{what} is an array of {made.dtype}, expected real numbers")
    return made if made.is_floating_point() else made.to(torch.get_default_dtype())


# --- the parts ---------------------------------------------------------------------------------------


def _order(cell: Graph, gates: str | None) -> list[str]:
    order = list(cell.gates) if gates is None else gates.split()
    if sorted(order) != sorted(cell.gates):
        raise ValueError(f"gates are {' '.join(order)!r}, expected those of {cell.name} in some order: "
                         f"{' '.join(cell.gates)!r}")  # fmt: skip
    return order


def _complements(cell: Graph, complement: str) -> set[str]:
    """The gates that are named, each of which is σ of a sum, so that 1 - gate is σ of the sum's negative."""
    for gate in complement.split():
        if gate not in cell.gates:
            raise ValueError(f"complement is {complement!r}: {cell.name} has no gate {gate!r}")
        halves = [i for op in ("input", "project") for i, node in walk(cell, op) if node.key == gate]
        readers = {j for j, node in enumerate(cell.nodes) if any(i in node.args for i in halves)}
        sums = {j for j in readers if cell.nodes[j].op == "add" and set(cell.nodes[j].args) == set(halves)}
        over = {j for j, node in enumerate(cell.nodes) if readers & set(node.args)}
        if len(readers) != 1 or readers != sums or {cell.nodes[j].op for j in over} != {"sigmoid"}:
            raise ValueError(
                f"complement is {complement!r}: {gate} of {cell.name} is no sigmoid of x.{gate} + h.{gate}"
            )
    return set(complement.split())


def _read(
    cell: Graph, order: list[str], layout: Layout, flipped: set[str], scale: float, add: Mapping[str, float],
    *, input: Any, recurrent: Any, bias: Any, output: Any, vectors: Any,
) -> dict[str, Tensor]:  # fmt: skip
    """The parameters of one direction, by their names without `_l0`."""
    orders = {"input": [g for g in order if g in cell.input_gates]}
    orders["recurrent"] = [g for g in order if g in cell.hidden_gates]
    blocks: dict[str, Blocks] = {}
    for what, value in (("input", input), ("recurrent", recurrent)):
        if orders[what]:
            blocks[what] = _matrices(value, orders[what], layout, what)
    weights = blocks["input"][orders["input"][0]]
    size, dtype = weights.shape[0], weights.dtype
    reads = size if output is None else tensor(output, "output").shape[0]
    for gate, block in blocks.get("recurrent", {}).items():
        if block.shape != (size, reads):
            raise ValueError(f"recurrent, of gate {gate}: {tuple(block.shape)} (units, units read), expected "
                             f"{(size, reads)} for the {size} units that input has")  # fmt: skip
    made = {"weight_ih": blocks["input"]} | ({"weight_hh": blocks["recurrent"]} if "recurrent" in blocks else {})
    if bias is not None or add:
        made["bias_ih"], made["bias_hh"] = _biases(cell, bias, orders, layout, add, scale, weights)
    names = {"weight_ih": cell.input_gates, "bias_ih": cell.input_gates,
             "weight_hh": cell.hidden_gates, "bias_hh": cell.hidden_gates}  # fmt: skip
    parameters = {}
    for name, parts in made.items():
        if names[name]:
            scaled = {g: b * (-1.0 if g in flipped else 1.0) * scale for g, b in parts.items()}
            parameters[name] = torch.cat([scaled[g] for g in names[name]]).to(dtype)
    if cell.projects_output != (output is not None):
        raise ValueError(f"output, torch's weight_hr, is {'missing' if output is None else 'given'}: "
                         f"{cell.name} {'has' if cell.projects_output else 'has no'} .hr")  # fmt: skip
    if output is not None:
        parameters["weight_hr"] = tensor(output, "output").to(dtype)
    given = {name: tensor(v, name).to(dtype) for name, v in (vectors or {}).items()}
    if set(given) != set(cell.vectors) or any(v.shape != (size,) for v in given.values()):
        got = ", ".join(f"{n} {tuple(v.shape)}" for n, v in given.items()) or "none"
        raise ValueError(f"vectors are {got}; {cell.name} has {', '.join(cell.vectors) or 'none'}, ({size},) each")
    return parameters | given


def _matrices(value: Any, order: list[str], layout: Layout, what: str) -> Blocks:
    """(H, I) of each gate."""
    if value is None:
        raise ValueError(f"{what} is missing")
    if isinstance(value, Mapping):
        if set(value) != set(order):
            raise ValueError(f"{what} has the gates {' '.join(map(str, value))}, expected {' '.join(order)}")
        alone = layout.without_gates()
        blocks = [alone.split(tensor(value[g], f"{what}, of gate {g}"), 1, f"{what}, of gate {g}")[0] for g in order]
    else:
        blocks = layout.split(tensor(value, what), len(order), what)
    if len({b.shape for b in blocks}) > 1:
        raise ValueError(f"{what}: the gates' matrices differ in size: {[tuple(b.shape) for b in blocks]}")
    return dict(zip(order, blocks, strict=True))


def _biases(
    cell: Graph, bias: Any, orders: Mapping[str, list[str]], layout: Layout, add: Mapping[str, float], scale: float,
    like: Tensor,
) -> tuple[Blocks, Blocks]:  # fmt: skip
    """The biases beside the input and beside the states, by gate; what is not given is zero."""
    every = list(dict.fromkeys([*orders["input"], *orders["recurrent"]]))
    every.sort(key=lambda g: max(orders[s].index(g) if g in orders[s] else -1 for s in orders))
    sides: list[Blocks] = [{}, {}]
    size = like.shape[0]
    if isinstance(bias, Mapping):
        bias = [bias]
    elif isinstance(bias, (list, tuple)) and len(bias) == 2 and not isinstance(bias[0], (int, float)):
        bias = list(bias)
    elif bias is not None:
        whole = tensor(bias, "bias")
        one, two = len(every) * size, sum(map(len, orders.values())) * size
        if whole.numel() == two and (whole.numel() != one or whole.dim() == 2):
            bias = list(whole.reshape(-1).split([len(o) * size for o in orders.values()]))
        elif whole.shape == (one,):
            bias = [whole]
        else:
            raise ValueError(f"bias has shape {tuple(whole.shape)}, expected ({one},) for one a gate, or (2, {one}) "
                             f"for two: {len(every)} gates of {size} units")  # fmt: skip
    for k, part in enumerate(bias or []):
        names = every if len(bias) == 1 else list(orders.values())[k]
        what = "bias" if len(bias) == 1 else f"bias beside {list(orders)[k]}"
        if part is None:
            continue
        if isinstance(part, Mapping):
            if unknown := set(part) - set(names):
                raise ValueError(f"{what}: gates {sorted(unknown)}, expected {' '.join(names)}")
            found = {g: tensor(v, f"{what}, of gate {g}").reshape(-1) for g, v in part.items()}
        else:
            row = tensor(part, what)
            if row.numel() != len(names) * size:
                raise ValueError(f"{what} has shape {tuple(row.shape)}, expected ({len(names) * size},)")
            found = dict(zip(names, layout.split_bias(row.reshape(-1), len(names)), strict=True))
        for gate, row in found.items():
            if row.shape != (size,):
                raise ValueError(f"{what}, of gate {gate}, has {row.numel()} numbers, expected {size}")
            side = k if len(bias) == 2 else 0 if gate in cell.input_gates else 1
            sides[side][gate] = row
    for gate, number in add.items():
        if gate not in every:
            raise ValueError(f"add: {cell.name} has no gate {gate!r}, expected some of: {' '.join(every)}")
        side = 0 if gate in cell.input_gates else 1
        sides[side][gate] = sides[side].get(gate, like.new_zeros(size)) + number / scale
    zeros = like.new_zeros(size)
    return tuple({g: side.get(g, zeros) for g in o} for side, o in zip(sides, orders.values(), strict=True))  # type: ignore[return-value]


def _summed(layer: Layer, beside_x: Blocks, beside_h: Blocks) -> tuple[str, ...]:
    """All gates, if one bias each says what two do."""
    cell = layer.cell
    apart = set(cell.gates) - set(one_bias_is_enough(cell))
    if wrong := [g for g in cell.gates if g in apart and beside_h[g].any()]:
        raise ValueError(
            f"{type(layer).__name__} has two biases at gate {' '.join(wrong)} that cannot be added into one: in "
            f"{cell.name} the one beside the state is inside a product; set bias_hh of this gate to zero, or take "
            "a layout of two biases"
        )
    return cell.gates


def _fill(cell: Graph, read: Sequence[Sequence[dict[str, Tensor]]], batch_first: bool, dropout: float = 0.0) -> Layer:
    """A layer with these parameters: for each layer, for each direction, by their names without `_l0`."""
    first = read[0][0]
    weight = first["weight_ih"]
    size = weight.shape[0] // len(cell.input_gates)
    has_bias = any("bias_ih" in part for directions in read for part in directions)
    layer = layer_of(
        cell, weight.shape[1], size, num_layers=len(read), bias=has_bias, batch_first=batch_first, dropout=dropout,
        bidirectional=len(read[0]) == 2, proj_size=first["weight_hr"].shape[0] if "weight_hr" in first else 0,
        dtype=weight.dtype,
    )  # fmt: skip
    with torch.no_grad():
        for k, directions in enumerate(read):
            for suffix, part in zip(layer._suffixes(k), directions, strict=True):
                for name in layer._all_weights[0]:
                    base = name.removesuffix("_l0")
                    parameter = getattr(layer, base + suffix)
                    parameter.copy_(part[base]) if base in part else parameter.zero_()
    return layer
