"""The shapes of a layer: its parameters, the tensors on the way, what comes back and how it relates, counts and bytes.

Parameters are read from a layer (without memory, on torch's "meta" device), and all else from the cell's graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gatewise.convert.keras import conventions as keras
from gatewise.graph.graph import Graph, walk
from gatewise.graph.ops import OPS
from gatewise.inspect.shape_rows import (
    Relation,
    Row,
    bias_of,
    find_relations,
    gate_letters,
    in_directions,
    kept_rows,
    parameter_rows,
    row_of,
    tensor_rows,
    times,
    value,
)
from gatewise.layer import Layer
from gatewise.layers import Recurrent
from gatewise.scan.plan import backward_plan
from gatewise.swap import our_twin


@dataclass(frozen=True)
class Shapes:
    """What `shapes` found; `str()` is a text of at most 80 columns, where names and numbers allow.

    cell: the graph. sizes: the letters and their numbers: T steps, B batch, I input, H hidden, P projected, G gates
        (Gx read from x and Gh projected from states, where these differ), D directions, L layers.
    parameters: of each layer and direction, in the order of h_n: the first is layer 0's, forward.
    bias: as the layer has it, True, False or "input". batch_first: whether x and output are (B, T, …).
    returned: input, output and final states. unbatched: the same without the axis of the batch.
    relations: how they relate.
    tensors: what is made in layer 0, forward; in other layers and in reverse the shapes are the same.
    kept: what one layer and direction keeps for its backward pass, besides its input and its parameters.
    """

    cell: Graph
    sizes: Mapping[str, int]
    dtype: torch.dtype
    bias: bool | str
    batch_first: bool
    parameters: tuple[tuple[Row, ...], ...]
    returned: tuple[Row, ...]
    unbatched: tuple[Row, ...]
    relations: tuple[Relation, ...]
    tensors: tuple[Row, ...]
    kept: tuple[Row, ...]

    # --- parameters ------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """The number of parameters, of all layers and directions."""
        return sum(row.count for rows in self.parameters for row in rows)

    @property
    def bytes(self) -> int:
        """The bytes of the parameters."""
        return sum(row.bytes for rows in self.parameters for row in rows)

    def formula(self, layer: int) -> str:
        """The number of parameters of one layer, with all its directions, in letters: "D·G·H·(I + H + 2)"."""
        terms: dict[str, list[str]] = {}
        for row in self.parameters[layer * self.sizes["D"]]:
            first, *rest = row.symbols
            terms.setdefault(first, []).append("·".join(rest) or "1")
        sums = []
        for first, factors in terms.items():
            ones = factors.count("1")
            others = [f for f in factors if f != "1"]
            if not others:
                sums.append(first if ones == 1 else f"{ones}·{first}")
            else:
                inner = " + ".join([*others, str(ones)] if ones else others)
                sums.append(f"{first}·({inner})" if " + " in inner else f"{first}·{inner}")
        return in_directions(sums, self.sizes)

    def with_bias(self, bias: bool | str) -> int:
        """The number of parameters with this `bias`: True (two a gate), "input" (one), False.

        Learned states are not among them.
        """
        s = self.sizes
        twin = Recurrent(
            self.cell, s["I"], s["H"], s["L"], bias, bidirectional=s["D"] == 2, device="meta", proj_size=s.get("P", 0)
        )
        return sum(p.numel() for p in twin.parameters())

    @property
    def summed_biases(self) -> tuple[str, ...]:
        """The gates of whose two biases the sum alone counts: what is read from x and what is projected get one
        gradient."""
        back = dict(backward_plan(self.cell).graph.outputs)
        projected: dict[str, list[int | None]] = {}
        for i, node in walk(self.cell, "project"):
            projected.setdefault(node.key, []).append(back.get(f"project %{i}"))
        return tuple(g for g in self.cell.input_gates if projected.get(g) == [back[f"input {g}"]])

    @property
    def keras(self) -> tuple[keras.KerasLayer, tuple[Row, ...]] | None:
        """Keras's layer with these equations and the weights of layer 0 there; None if Keras has no such layer."""
        layer = keras.LAYERS.get(self.cell)
        if layer is None:
            return None
        weights: dict[str, tuple[str, ...]] = {"kernel": ("I", "G·H"), "recurrent_kernel": ("H", "G·H")}
        if self.bias:
            weights["bias"] = ("2", "G·H") if layer.biases == 2 else ("G·H",)
        made = tuple(row_of(name, symbols, self.sizes, self.dtype) for name, symbols in weights.items())
        return layer, made

    @property
    def keras_count(self) -> int:
        """The number of parameters of all layers and directions in Keras; 0 if Keras has no such layer."""
        layer = keras.LAYERS.get(self.cell)
        return 0 if layer is None else self.with_bias(bool(self.bias) and (layer.biases == 2 or "input"))

    # --- work and memory -------------------------------------------------------------------------

    def products(self, layer: int) -> str:
        """The multiply-adds of one layer's matrix products, all directions, for one step of one sample, in letters."""
        cell, out = self.cell, self._out
        reads = "I" if layer == 0 else times("D", out, self.sizes)
        projections = sum(node.op == "project" for node in cell.nodes)
        gx, gh = gate_letters(cell)
        gh = gh if projections == len(cell.hidden_gates) else str(projections)
        together = projections and gx == gh
        terms = [f"{gx}·H·({reads} + {out})"] if together else [f"{gx}·H·{reads}"]
        terms += [f"{gh}·H·{out}"] if projections and not together else []
        terms += ["P·H" for node in cell.nodes if node.op == "output"]
        return in_directions(terms, self.sizes)

    @property
    def multiply_adds(self) -> int:
        """The multiply-adds of all matrix products, forward, over the whole sequence and batch."""
        a_step = sum(value(self.products(layer), self.sizes) for layer in range(self.sizes["L"]))
        return a_step * self.sizes["T"] * self.sizes["B"]

    @property
    def multiply_adds_training(self) -> int:
        """Those of forward and backward, where the input needs no gradient.

        Each product of the forward pass has two in the backward pass, for the gradients of its two factors.
        """
        s = self.sizes
        return 3 * self.multiply_adds - s["T"] * s["B"] * s["D"] * len(self.cell.input_gates) * s["H"] * s["I"]

    @property
    def elementwise(self) -> int:
        """The element-wise operations of the cell, forward, over the whole sequence and batch."""
        s, cell = self.sizes, self.cell
        a_step = sum(s[cell.sizes[i]] for i, node in enumerate(cell.nodes) if node.op in OPS)
        return a_step * s["T"] * s["B"] * s["L"] * s["D"]

    @property
    def kept_bytes(self) -> int:
        """The bytes that the C++ kernels keep for the backward pass, of all layers and directions, without dropout.

        The first layer's input and the parameters are not among them. With two directions each layer reads what the
        two below made, side by side, which is kept too. With bfloat16 all this is float32, and the copies of inputs
        and weights in float32 come besides. A layer's `recompute` is not looked at.
        """
        s, output = self.sizes, self.kept[0]
        own = s["L"] * s["D"] * sum(row.bytes for row in self.kept)
        return own + ((s["L"] - 1) * 2 * output.bytes if s["D"] == 2 else 0)

    @property
    def _out(self) -> str:
        return "P" if self.cell.projects_output else "H"

    def __str__(self) -> str:
        from gatewise.inspect.shapes_text import plain

        return plain(self)


def shapes(
    cell: Graph | nn.Module,
    input_size: int | None = None,
    hidden_size: int | None = None,
    *,
    batch: int = 32,
    steps: int = 35,
    **options: Any,
) -> Shapes:
    """The shapes of a layer: parameters, tensors on the way, output and final states, counts and bytes.

    Args:
        cell: a cell, of which the layer is made, or a layer: Recurrent, RNN, GRU or LSTM, or torch.nn's.
        input_size, hidden_size: I and H, of a cell. options: of a cell, as `gatewise.Recurrent` takes them.
        batch: B. steps: T.

    Returns: the shapes; `print` shows them.

    Raises:
        TypeError: `cell` is neither, or sizes are missing of a cell or given with a layer.
        ValueError: a size is below 1, or as `gatewise.Recurrent` raises it.
    """
    for name, size in {"batch": batch, "steps": steps}.items():
        if type(size) is not int or size < 1:
            raise ValueError(f"shapes: {name} is {size!r}, expected an integer of at least 1")
    if isinstance(cell, Graph):
        if input_size is None or hidden_size is None:
            raise TypeError("shapes: a cell has no sizes of its own: give input_size and hidden_size")
        layer: Layer = Recurrent(cell, input_size, hidden_size, device="meta", **options)
    elif input_size is not None or hidden_size is not None or options:
        raise TypeError(f"shapes: {type(cell).__name__} has its sizes and options already; give batch and steps alone")
    else:
        layer = _as_ours(cell)
    return _of(layer, batch, steps)


def _as_ours(layer: Any) -> Layer:
    """A layer as one of gatewise's; torch.nn's are not changed."""
    if isinstance(layer, Layer) and not layer.one_step:
        return layer
    if type(layer) in (nn.RNN, nn.GRU, nn.LSTM):
        return our_twin(layer)
    raise TypeError(
        f"shapes: got {type(layer).__name__}, expected a cell, or a layer: Recurrent, RNN, GRU or LSTM, or torch.nn's"
    )


def _of(layer: Layer, batch: int, steps: int) -> Shapes:
    cell, dtype = layer.cell, layer._weight.dtype
    directions = 2 if layer.bidirectional else 1
    sizes = {"T": steps, "B": batch, "I": layer.input_size, "H": layer.hidden_size}
    sizes |= {"P": layer.proj_size} if cell.projects_output else {}
    for letter, gates in zip(gate_letters(cell), (cell.input_gates, cell.hidden_gates), strict=True):
        sizes |= {letter: len(gates)} if gates else {}
    sizes |= {"D": directions, "L": layer.num_layers}
    out = "P" if cell.projects_output else "H"
    axes = ("B", "T") if layer.batch_first else ("T", "B")

    first = cell.states[0]
    features = {"x": ("I", "the input"), "output": (times("D", out, sizes), f"{first}, last layer, every step")}
    returned = [row_of(name, (*axes, s), sizes, dtype, what) for name, (s, what) in features.items()]
    for state, size in zip(cell.states, cell.state_sizes, strict=True):
        stacked = (times("L", "D", sizes) if directions == 2 else "L", "B", size)
        returned.append(row_of(f"{state}_n", stacked, sizes, dtype, f"{state}, every layer, last step"))
    unbatched = [row_of(r.name, tuple(s for s in r.symbols if s != "B"), sizes, dtype, r.what) for r in returned]
    return Shapes(
        cell,
        sizes,
        dtype,
        bias_of(layer),
        layer.batch_first,
        tuple(parameter_rows(layer, k, sizes) for k in range(layer.num_layers * directions)),
        tuple(returned),
        tuple(unbatched),
        tuple(find_relations(f"{first}_n", out, sizes, layer.batch_first)),
        tuple(tensor_rows(cell, sizes, dtype)),
        tuple(kept_rows(cell, sizes, dtype)),
    )
