"""A layer's weights as matrices that are stacked as another toolkit stacks them, in and out.

Toolkits differ in the order of the gates, in which axis of a matrix they lie on, in one bias a gate or two, and in
the sense of the update gate. `from_arrays` and `to_arrays` take all that as arguments; the other files of this folder
are tables of such arguments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gatewise.convert.biases import Blocks, check_one_bias, one_bias_is_enough, read_biases
from gatewise.convert.layout import Layout
from gatewise.convert.numbers import Array, Numbers, tensor
from gatewise.convert.parameters import (
    Parameters,
    both_directions,
    check_states,
    filled,
    layer_of,
    ours,
    stacked,
    weights_of,
)
from gatewise.errors import InputError
from gatewise.graph.graph import Graph, summed
from gatewise.layer import Layer

__all__ = [
    "Array", "Arrays", "both_directions", "from_arrays", "layer_of", "one_bias_is_enough", "ours", "stacked", "tensor",
    "to_arrays", "weights_of",
]  # fmt: skip

PARTS = ("input", "recurrent", "bias", "output", "vectors")


@dataclass(frozen=True)
class Arrays:
    """One layer's weights in one direction, stacked as another toolkit stacks them.

    input, recurrent: matrices in the layout asked for; of a cell that projects no state, recurrent is None.
    bias: one or two for each gate, in the same layout without i, (2, G*H) for example; a pair where a gate has only
    one side, so that the two differ in size; or None. output: (P, H), torch's weight_hr, or None. vectors: the cell's
    learned vectors, (H,) each.
    """

    input: Tensor
    recurrent: Tensor | None
    bias: Tensor | tuple[Tensor, Tensor] | None
    output: Tensor | None = None
    vectors: dict[str, Tensor] = field(default_factory=dict)


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
    input_size: int | None = None,
    hidden_size: int | None = None,
    batch_first: bool = False,
) -> Layer:
    """A layer with the weights of another toolkit, for what has no file format of its own.

        layer = from_arrays(cells.lstm, input=WxT, recurrent=WhT, bias=b, gates="i f o g", layout="i (g h)")

    Args:
        cell: what is computed; sizes come from the arrays.
        input, recurrent: the matrices beside x_t and beside the states, all gates in one, in `layout`; or one for each
            gate, by its name here. A gate that is read on one side only is in that side's matrix alone. Torch tensors,
            numpy or jax arrays, or nested lists.
        bias: one for each gate, (G*H,); or two, those beside `input` and then those beside `recurrent`: (2, G*H),
            (2*G*H,), or a pair, of which either may be None. In place of each array, a mapping by gate, where gates
            that are absent have none. One bias stands beside the input: where the state's product is multiplied by
            something before it is added, as n of `cells.gru` is by r, that is not the same as beside the product.
        gates: the order in which the gates are stacked, by their names here: "z r n". The cell's own, if not given.
        layout: the axes of a matrix, g for gates, h for the units that are computed, i for what is read (the inputs,
            or the state's units); parentheses join axes that lie in one: "(g h) i" is torch's, "i (g h)" Keras's,
            "g h i", "(h g) i" and so on. A matrix for each gate has no g: "h i" or "i h". Biases lie likewise,
            without i; flat ones may be given for "g h i", too. What is square tells nothing of a wrong layout.
        complement: gates whose stored sense is the opposite one, separated by spaces: one minus the gate here.
            1 - σ(a) = σ(-a), so their weights and biases change sign. "z" for an update gate that lets the new in.
        scale: what every number of `input`, `recurrent` and `bias` is multiplied by, as integers with a scale are
            stored.
        add: by gate, what the toolkit adds to its bias when it runs: {"f": 1.0} of a forget bias that is not stored.
        output: torch's weight_hr, (P, H), of a cell with `.hr`.
        vectors: the cell's learned vectors by name, (H,) each.
        reverse: the arrays of a second direction, which reads the sequence from its end: a mapping with `input`,
            `recurrent`, `bias`, `output` and `vectors`, as above.
        input_size, hidden_size: what a file says they are, apart from its arrays: refused, if the arrays say
            otherwise. With both, `input` and `recurrent` may be flat, as arrays of C are.
        batch_first: of the layer.

    Returns:
        A layer of one layer, in the widest dtype of the arrays (torch's default dtype, if they are all lists or
        integers): `gatewise.RNN`, `GRU` or `LSTM` where the cell is theirs, else `Recurrent`. The arrays are copied.
        `stacked` joins layers.

    Raises:
        InputError: sizes that contradict each other, gates that are not the cell's, a layout that is none, weights
            that are missing, numbers that are not real; or `complement` of a gate that is no sigmoid of a sum.
    """
    if not isinstance(cell, Graph):
        raise TypeError(f"cell is {cell!r}, expected one of gatewise.cells, such as cells.lstm, or of your own")
    convention = _Convention(cell, gates, layout, complement, scale, add, (input_size, hidden_size))
    parts = {"input": input, "recurrent": recurrent, "bias": bias, "output": output, "vectors": vectors}
    forward = filled(cell, [[convention.read(**parts)]], batch_first)
    if reverse is None:
        return forward
    if unknown := set(reverse) - set(PARTS):
        raise InputError(f"reverse has {' '.join(map(str, sorted(unknown)))}, expected some of: {', '.join(PARTS)}")
    backward = convention.read(**{**dict.fromkeys(PARTS), **reverse})
    return both_directions(forward, filled(cell, [[backward]], batch_first))


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
        layer: one of gatewise's or torch.nn's. gates, layout, complement, scale, add: as of `from_arrays`; numbers are
            divided by `scale`, not rounded.
        biases: a gate's: 2 gives those beside the input and those beside the states; 1 gives their sum, for gates in
            which both are added. A layer without biases gives None.
        k: which layer, from 0. reverse: its second direction.

    Raises:
        InputError: one bias is asked for where two cannot be added, and the second is not zero; the layer has no such
            layer or direction, or learns the state from which sequences begin.
    """
    layer = ours(layer)
    check_states("to_arrays", layer)
    if not 0 <= k < layer.num_layers or (reverse and not layer.bidirectional):
        raise InputError(f"to_arrays: layer {k}{', reversed,' * reverse} of {layer}, which has none")
    if biases not in (1, 2):
        raise InputError(f"to_arrays: biases is {biases!r}, expected 1 or 2")
    if "g" not in Layout(layout).axes and len(layer.cell.gates) > 1:
        raise InputError(f'to_arrays: layout is {layout!r}, which has no gates, and all gates come in one array: "g '
                         f'{layout}" gives each gate a matrix there')  # fmt: skip
    return _Convention(layer.cell, gates, layout, complement, scale, add).write(weights_of(layer, k, reverse), biases)


class _Convention:
    """How another toolkit stacks the weights of a cell.

    order: the gates. sides: those beside the input, and those beside the states, in this order. factor: what a gate's
    stored numbers are multiplied by. added: what is added to its bias then, as the toolkit has it. sizes: input_size
    and hidden_size, as far as they are told.
    """

    def __init__(
        self,
        cell: Graph,
        gates: str | None,
        layout: str,
        complement: str,
        scale: float,
        add: Mapping[str, float] | None,
        sizes: tuple[int | None, int | None] = (None, None),
    ) -> None:
        self.cell, self.layout, self.sizes = cell, Layout(layout), sizes
        self.order = list(cell.gates) if gates is None else gates.split()
        every = " ".join(cell.gates)
        if sorted(self.order) != sorted(cell.gates):
            raise InputError(f"gates is {gates!r}, expected those of {cell.name} in some order: {every}")
        self.sides = tuple([g for g in self.order if g in side] for side in (cell.input_gates, cell.hidden_gates))
        self.scale = float(scale)
        if not math.isfinite(self.scale) or not self.scale:
            raise InputError(f"scale is {scale!r}, expected a number that is not zero")
        self.factor = dict.fromkeys(self.order, self.scale)
        for gate in complement.split():
            if gate not in self.order:
                raise InputError(f"complement is {complement!r}: {cell.name} has no gate {gate}, expected of: {every}")
            if not _is_sigmoid(cell, gate):
                raise InputError(f"complement is {complement!r}: {gate} of {cell.name} is not just the sigmoid of its "
                                 "two sides' sum, so no change of sign makes it one minus itself")  # fmt: skip
            self.factor[gate] = -self.scale
        self.added = dict(add or {})
        if unknown := set(self.added) - set(self.order):
            raise InputError(f"add has {' '.join(sorted(unknown))}, expected gates of {cell.name}: {every}")

    def read(self, *, input: Any, recurrent: Any, bias: Any, output: Any, vectors: Any) -> Parameters:
        """The parameters of one layer and direction. All is computed in float64 and rounded once."""
        cell, numbers = self.cell, Numbers()
        inputs, units = self.sizes
        made = {"ih": self._matrices(input, self.sides[0], "input", numbers, inputs)}
        size, read = next(iter(made["ih"].values())).shape
        for name, told, found_size in (("hidden_size", units, size), ("input_size", inputs, read)):
            if told not in (None, found_size):
                raise InputError(f"{name} is {told}, and input, in layout {self.layout.text!r}, says {found_size}")
        found: Parameters = {}
        if cell.projects_output != (output is not None):
            raise InputError(f"output, torch's weight_hr, is {'missing' if output is None else 'given'}: {cell.name} "
                             f"{'has' if cell.projects_output else 'has no'} .hr")  # fmt: skip
        if output is not None:
            found["weight_hr"] = numbers(output, "output")
            shape = tuple(found["weight_hr"].shape)
            if len(shape) != 2 or shape[1] != size or not 0 < shape[0] < size:
                raise InputError(f"output has shape {shape}, expected (P, {size}), P less than {size}")
        if self.sides[1]:
            reads = found["weight_hr"].shape[0] if found else size
            made["hh"] = self._matrices(recurrent, self.sides[1], "recurrent", numbers, reads)
            shape = tuple(next(iter(made["hh"].values())).shape)
            if shape != (size, reads):
                raise InputError(f"recurrent has {shape[0]} units that read {shape[1]} in layout {self.layout.text!r}, "
                                 f"expected {size} that read {reads}, as input has {size} units")  # fmt: skip
        elif recurrent is not None:
            raise InputError(f"recurrent is given, and {cell.name} projects no state")
        zero = torch.zeros(size, dtype=torch.float64)
        both = dict(zip(made, read_biases(bias, self.sides, self.order, size, self.layout, numbers), strict=False))
        for gate, number in self.added.items():
            side = both["ih" if gate in self.sides[0] else "hh"]
            side[gate] = side.get(gate, zero) + number / self.scale
        for name, gates in zip(made, (cell.input_gates, cell.hidden_gates), strict=False):
            found[f"weight_{name}"] = torch.cat([made[name][g] * self.factor[g] for g in gates])
            if any(both.values()):
                found[f"bias_{name}"] = torch.cat([both[name].get(g, zero) * self.factor[g] for g in gates])
        given = {name: numbers(v, name) for name, v in (vectors or {}).items()}
        if set(given) != set(cell.vectors) or any(v.shape != (size,) for v in given.values()):
            got = ", ".join(f"{n} {tuple(v.shape)}" for n, v in given.items()) or "none"
            wanted = f"{', '.join(cell.vectors)}, ({size},) each" if cell.vectors else "none"
            raise InputError(f"vectors are {got}; {cell.name} has {wanted}")
        return {name: value.to(numbers.dtype) for name, value in (found | given).items()}

    def write(self, own: Parameters, biases: int) -> Arrays:
        """The inverse of `read`."""
        cell, dtype = self.cell, own["weight_ih"].dtype
        size = own["weight_ih"].shape[0] // len(cell.input_gates)
        rows = dict(zip(("ih", "hh"), (cell.input_gates, cell.hidden_gates), strict=True))

        def blocks(name: str, side: str) -> Blocks:
            parts = own[f"{name}_{side}"].double().split(size)
            return {g: w / self.factor[g] for g, w in zip(rows[side], parts, strict=True)}

        def join(made: Blocks) -> Tensor:
            return self.layout.join([made[g] for g in self.order if g in made]).to(dtype)

        recurrent = join(blocks("weight", "hh")) if cell.hidden_gates else None
        bias: Tensor | tuple[Tensor, Tensor] | None = None
        if "bias_ih" in own or self.added:
            zero = own["weight_ih"].new_zeros(size).double()
            both = [blocks("bias", s) if f"bias_{s}" in own else dict.fromkeys(g, zero) for s, g in rows.items()]
            for gate, number in self.added.items():
                side = both[0] if gate in both[0] else both[1]
                side[gate] = side[gate] - number / self.scale
            if biases == 1:
                check_one_bias(cell, both[1])
                bias = join({g: both[0].get(g, zero) + both[1].get(g, zero) for g in self.order})
            else:
                one, *two = [join(part) for part in both if part]
                alike = bool(two) and two[0].shape == one.shape
                bias = torch.stack([one, *two]) if alike else (one, two[0]) if two else one
        output = own["weight_hr"].clone() if cell.projects_output else None
        vectors = {name: own[name].clone() for name in cell.vectors}
        return Arrays(join(blocks("weight", "ih")), recurrent, bias, output, vectors)

    def _matrices(self, value: Any, gates: Sequence[str], what: str, numbers: Numbers, read: int | None) -> Blocks:
        """The matrix of each gate, (H, I); read is the I that is told."""
        if value is None:
            raise InputError(f"{what} is missing: {self.cell.name} has gates {' '.join(gates)} there")
        if not isinstance(value, Mapping):
            array = numbers(value, what)
            if array.dim() == 1 and None not in self.sizes:
                shape = self.layout.shape(len(gates), self.sizes[1] or 0, read or 0)
                if array.numel() != math.prod(shape):
                    raise InputError(f"{what} has {array.numel()} numbers, expected {shape} in {self.layout.text}")
                array = array.reshape(shape)
            return dict(zip(gates, self.layout.split(array, len(gates), what), strict=True))
        if set(value) != set(gates):
            raise InputError(f"{what} has the gates {' '.join(map(str, value))}, expected {' '.join(gates)}")
        alone = self.layout.without_gates()
        made = {g: alone.split(numbers(value[g], f"{what}, of gate {g}"), 1, f"{what}, of gate {g}")[0] for g in gates}
        if len({tuple(m.shape) for m in made.values()}) > 1:
            sizes = ", ".join(f"{g} {tuple(m.shape)}" for g, m in made.items())
            raise InputError(f"{what}: the gates' matrices differ in size, (units, units read): {sizes}")
        return made


def _is_sigmoid(cell: Graph, gate: str) -> bool:
    """Whether all that is made of a gate's sum is its sigmoid, so that 1 - σ(a) is σ of the sum's negative."""
    whole = summed(cell, gate)
    readers = {node.op for node in cell.nodes if whole in node.args}
    return readers <= {"sigmoid", "hardsigmoid"} and whole not in [None, *(i for _, i in cell.outputs)]
