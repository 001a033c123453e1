"""ONNX's RNN, GRU and LSTM nodes as layers.

Foreign there: the order of the gates (z r n, i o f g), two rows of biases in one, the axis of directions in weights,
states and output, direction "reverse", the batch first as `layout`, and activations, clip and coupled gates as
attributes, which become the layer's cell:

    i_t = f(clip(W_i x_t + b_Wi + R_i h_{t-1} + b_Ri + p_i ⊙ c_{t-1}))      clip(a) = min(max(a, -clip), clip)

What clip and input_forget mean where the standard's words leave it open is onnxruntime's: the sums before f and g are
clipped, peepholes included, the cell state before h is not; and with input_forget f_t = 1 - i_t.

Source: the operators RNN, GRU and LSTM of https://onnx.ai/onnx/operators, opset 1 to 22.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gatewise import cells
from gatewise.convert.arrays import from_arrays
from gatewise.convert.onnx.activations import chosen
from gatewise.errors import InputError
from gatewise.graph.graph import Graph
from gatewise.graph.variants import activations, coupled
from gatewise.layer import Layer

GATES = {"RNN": "n", "GRU": "zrn", "LSTM": "iofg"}
# The values that share an activation, and the names of the activations without the attribute.
SLOTS = {"RNN": ("h",), "GRU": ("rz", "n"), "LSTM": ("ifo", "g", "h")}
DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
STATES = {"RNN": 1, "GRU": 1, "LSTM": 2}
DIRECTIONS = ("forward", "reverse", "bidirectional")
ATTRIBUTES = ("activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size")
MORE = {"RNN": ("layout",), "GRU": ("layout", "linear_before_reset"), "LSTM": ("layout", "input_forget")}


class RecurrentNode(nn.Module):
    """A node: layers of gatewise's, in ONNX's shapes.

    layer: what runs; `backward` besides where the directions' activations differ. direction: as ONNX has it.
    layout: 1 for the batch first, in states too.
    """

    def __init__(self, layer: Layer, backward: Layer | None, direction: str, layout: int) -> None:
        super().__init__()
        self.layer, self.backward_layer = layer, backward
        self.direction, self.layout = direction, layout

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, h: Tensor | None = None, c: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The node's outputs, all of them.

        Args:
            x: (T, B, I). lengths: (B,) integers from 1 to T. h, c: the states before the first step, (D, B, H); zeros
                where there are none. With layout 1: (B, T, I), (B, D, H).

        Returns: Y (T, D, B, H), Y_h (D, B, H) and, of an LSTM, Y_c (D, B, H); with layout 1 (B, T, D, H), (B, D, H).
        """
        names = self.layer.cell.states
        if self.layout:
            x, h, c = (None if t is None else t.transpose(0, 1) for t in (x, h, c))  # type: ignore[assignment]
        assert x is not None
        given: list[Tensor] | None = None
        if h is not None or c is not None:
            zeros = torch.zeros_like(c if h is None else h)  # type: ignore[arg-type]
            given = [zeros if s is None else s for s in (h, c)[: len(names)]]
        lengths = None if lengths is None else lengths.long()
        if self.direction == "bidirectional" and self.backward_layer is None:
            output, states = _run(self.layer, x, given, lengths)
        else:
            runs = []
            for k, layer in enumerate((self.layer, self.backward_layer)):
                if layer is not None:
                    before = None if given is None else [s[k : k + 1] for s in given]
                    flip = self.direction == "reverse" or k == 1
                    output, after = _run(layer, flipped(x, lengths) if flip else x, before, lengths)
                    runs.append((flipped(output, lengths) if flip else output, after))
            output = torch.cat([made for made, _ in runs], -1)
            states = [torch.cat(parts) for parts in zip(*(after for _, after in runs), strict=True)]
        directions = 2 if self.direction == "bidirectional" else 1
        output = output.unflatten(-1, (directions, -1))
        if self.layout:
            return output.transpose(0, 1), *(s.transpose(0, 1) for s in states)
        return output.transpose(1, 2), *states

    def extra_repr(self) -> str:
        return f"{self.direction}, layout={self.layout}"


def _run(
    layer: Layer, x: Tensor, states: Sequence[Tensor] | None, lengths: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """A layer's output and its states after the last step, as a list."""
    hx = None if states is None else states[0] if len(states) == 1 else tuple(states)
    output, after = layer(x, hx, lengths=lengths)
    return output, list(after) if isinstance(after, tuple) else [after]


def flipped(x: Tensor, lengths: Tensor | None) -> Tensor:
    """(T, B, …) with each sequence's steps from its end to its start; beyond the lengths it stays as it is."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    places = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return x.gather(0, places.unsqueeze(2).expand_as(x))


class Weights(NamedTuple):
    """The constant inputs of a node: W (D, G*H, I), R (D, G*H, H), B (D, 2*G*H), P (D, 3*H)."""

    W: Tensor
    R: Tensor
    B: Tensor | None = None
    P: Tensor | None = None


def recurrent_node(op: str, name: str, attributes: dict[str, Any], weights: Weights) -> tuple[RecurrentNode, str]:
    """A node of a recurrent operator, and what had to be known to read it.

    Args: op: "RNN", "GRU" or "LSTM". name: for errors. attributes: as the file has them.

    Raises:
        InputError: sizes that contradict each other, an unknown activation, a value that ONNX does not have.
        NotImplementedError: an attribute that is not known here.
    """
    node = f"{op} {name!r}"
    if unknown := set(attributes) - {*ATTRIBUTES, *MORE[op], "output_sequence"}:
        raise NotImplementedError(f"the attribute {', '.join(sorted(unknown))}")
    direction, layout = str(attributes.get("direction", "forward")).lower(), attributes.get("layout", 0)
    if direction not in DIRECTIONS or layout not in (0, 1):
        raise InputError(
            f"{node}: direction {direction!r}, layout {layout!r}; expected {', '.join(DIRECTIONS)}, 0 or 1"
        )
    count = 2 if direction == "bidirectional" else 1
    weights = _checked(node, op, attributes, weights, count)
    names = list(attributes.get("activations") or DEFAULTS[op] * count)
    if len(names) != len(SLOTS[op]) * count:
        raise InputError(f"{node}: {len(names)} activations, expected {len(SLOTS[op]) * count} for {direction}")
    found = chosen(node, names, attributes.get("activation_alpha", ()), attributes.get("activation_beta", ()))
    clip = attributes.get("clip")
    if clip is not None and not clip > 0:
        raise InputError(f"{node}: clip is {clip}, expected a number above 0")
    flags = {flag: attributes.get(flag, 0) for flag in ("linear_before_reset", "input_forget")}
    base = _base(op, weights.P is not None, bool(flags["linear_before_reset"]))
    made: list[Graph] = []
    for k in range(count):
        mine = found[k * len(SLOTS[op]) : (k + 1) * len(SLOTS[op])]
        clips = [clip, clip, None]  # the state is not clipped
        functions = {
            value: each.function(c)
            for slot, each, c, usual in zip(SLOTS[op], mine, clips, DEFAULTS[op], strict=False)
            if c is not None or each.name != usual or (op == "RNN")
            for value in slot
        }
        cell = activations(base, **functions)
        made.append(coupled(cell, f="i") if flags["input_forget"] else cell)
    alike = count == 2 and made[0] == made[1]
    sides = [_side(cell, op, weights, k) for k, cell in enumerate(made)]
    if alike or count == 1:
        layer, backward = from_arrays(made[0], **sides[0], reverse=sides[1] if alike else None), None
    else:
        layer, backward = (from_arrays(cell, **side) for cell, side in zip(made, sides, strict=True))
    how = [f"gates {' '.join(GATES[op])} of ONNX are {' '.join(layer.cell.gates)} here"]
    how += ["two biases" if weights.B is not None else "no biases", direction]
    how += [f"{key}={value}" for key, value in sorted(attributes.items()) if key not in ("direction", "hidden_size")]
    return RecurrentNode(layer, backward, direction, layout).eval(), ", ".join(how)


def _base(op: str, peepholes: bool, reset_after: bool) -> Graph:
    if op == "LSTM":
        return cells.lstm_peephole if peepholes else cells.lstm
    if op == "GRU":
        return cells.gru if reset_after else cells.gru_reset_before
    return cells.rnn


def _checked(node: str, op: str, attributes: dict[str, Any], weights: Weights, count: int) -> Weights:
    """The weights, if they have the shapes that they must."""
    rows = len(GATES[op])
    size = attributes.get("hidden_size", weights.R.shape[-1] if weights.R.dim() else 0)
    if weights.W.dim() != 3 or not isinstance(size, int) or size < 1 or weights.W.shape[2] < 1:
        raise InputError(f"{node}: W has shape {tuple(weights.W.shape)} and hidden_size is {size}, "
                         f"expected {(count, f'{rows}*hidden_size', 'input_size')}")  # fmt: skip
    shapes = {
        "W": (count, rows * size, weights.W.shape[2]), "R": (count, rows * size, size),
        "B": (count, 2 * rows * size), "P": (count, 3 * size),
    }  # fmt: skip
    for name, tensor in weights._asdict().items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != shapes[name]:
            raise InputError(
                f"{node}: {name} has shape {tuple(tensor.shape)}, expected {shapes[name]} for hidden_size {size} "
                f"and {count} direction{'s' * (count > 1)}"
            )
        if tensor.dtype != weights.W.dtype or not tensor.is_floating_point():
            raise InputError(
                f"{node}: {name} is {tensor.dtype}, W is {weights.W.dtype}; expected the same real numbers"
            )
    return weights


def _side(cell: Graph, op: str, weights: Weights, k: int) -> dict[str, Any]:
    """One direction's weights, as `from_arrays` takes them."""

    def gates(tensor: Tensor) -> dict[str, Tensor]:
        parts = dict(zip(GATES[op], tensor.chunk(len(GATES[op])), strict=True))
        return {gate: parts[gate] for gate in cell.gates}  # a coupled gate's weights mean nothing

    side: dict[str, Any] = {"input": gates(weights.W[k]), "recurrent": gates(weights.R[k])}
    if weights.B is not None:
        side["bias"] = [gates(half) for half in weights.B[k].chunk(2)]
    if weights.P is not None:
        parts = dict(zip(("p_i", "p_o", "p_f"), weights.P[k].chunk(3), strict=True))
        side["vectors"] = {name: parts[name] for name in cell.vectors}
    return side
