"""torch.onnx.export of a model with our layers: each layer becomes one native RNN, GRU or LSTM node of ONNX.

Foreign here are the order of the gates (z r n, i o f g), the biases, which stand in one row (W's, then U's), and the
directions, which are an axis: W (D, G*H, I), R (D, G*H, H), B (D, 2*G*H), states (D, B, H), output (T, D, B, H).

Source: the operators RNN, GRU and LSTM of https://onnx.ai/onnx/operators, opset 14 to 22.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.jit._trace import is_tracing

from gatewise import cells

if TYPE_CHECKING:
    from gatewise.layer import Layer

# The node of a cell, the order of its gates there, and its attributes.
# By gates and nodes and not by name: a regularised cell is the plain one in evaluation.
NATIVE: dict[Any, tuple[str, str, dict[str, Any]]] = {
    (cell.gates, cell.nodes): node
    for cell, node in (
        (cells.rnn, ("RNN", "n", {"activations": ["Tanh"]})),
        (cells.rnn_relu, ("RNN", "n", {"activations": ["Relu"]})),
        (cells.gru, ("GRU", "zrn", {"linear_before_reset": 1})),
        (cells.gru_reset_before, ("GRU", "zrn", {"linear_before_reset": 0})),
        (cells.lstm, ("LSTM", "iofg", {})),
    )
}


def exporting() -> bool:
    """Whether torch.onnx.export runs this code: by torch.export, or (dynamo=False) by a trace."""
    # The first two are cheap, and asked in every call of a layer.
    return (torch.compiler.is_exporting() or is_tracing()) and torch.onnx.is_in_onnx_export()


def run_layer(
    layer: Layer, x: Tensor, states: tuple[Tensor, ...], resets: Tensor, active: Tensor, k: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer, all its directions, as a node: its output (T, B, D*H) and its final states, (D, B, H) each.

    Raises NotImplementedError for what ONNX has no node for.
    """
    name, cell = type(layer).__name__, layer._running_cell
    if (native := NATIVE.get((cell.gates, cell.nodes))) is None:
        raise NotImplementedError(
            f"{name}: ONNX has no node for the cell {cell.name}; it has rnn, rnn_relu, gru, gru_reset_before and lstm"
        )
    if resets.shape[0]:
        raise NotImplementedError(f"{name}: ONNX's nodes know no resets; export the model without")
    op, gates, attributes = native
    suffixes, size = layer._suffixes(k), layer.hidden_size
    directions = len(suffixes)
    rows = [cell.gates.index(gate) for gate in gates]

    def stacked(tensors: list[Tensor]) -> Tensor:
        """The directions' tensors in one, the gates in ONNX's order (slices: exporters fold them into constants)."""
        return torch.stack([torch.cat([t[r * size : (r + 1) * size] for r in rows]) for t in tensors])

    weight_ih = stacked([getattr(layer, f"weight_ih{suffix}") for suffix in suffixes])
    recurrent = [layer._recurrent_weights(suffix) for suffix in suffixes]
    bias_ih = [getattr(layer, f"bias_ih{suffix}", None) for suffix in suffixes]
    bias = None
    if layer.bias:
        bias = torch.cat([stacked([b for b in bias_ih if b is not None]), stacked([r[1] for r in recurrent])], 1)
    if not x.is_floating_point():
        x = F.one_hot(x.long(), layer.input_size).to(weight_ih.dtype)
    lengths = active.sum(0).int() if active.shape[0] else None
    attributes = {a: v * directions if isinstance(v, list) else v for a, v in attributes.items()}
    attributes |= {"hidden_size": size, "direction": "bidirectional" if directions == 2 else "forward"}
    inputs = [x, weight_ih, stacked([r[0] for r in recurrent]), bias, lengths, *states]
    if is_tracing():
        output, *finals = Node.apply(op, attributes, *inputs)
    else:
        shapes = [[x.shape[0], directions, x.shape[1], size], *([directions, x.shape[1], size] for _ in states)]
        made = torch.onnx.ops.symbolic_multi_out(op, inputs, attributes, dtypes=[x.dtype] * len(shapes), shapes=shapes)
        output, *finals = (t.to(x.device) for t in made)
    output = output.transpose(1, 2).flatten(2)
    if active.shape[0]:
        output = torch.where(active.unsqueeze(2), output, torch.zeros_like(output))
    return output, tuple(finals)


class Node(torch.autograd.Function):
    """The node for the exporter that traces (dynamo=False)."""

    @staticmethod
    def symbolic(g: Any, op: str, attributes: dict[str, Any], *inputs: Any) -> Any:
        def given(value: Any) -> Any:
            if value is not None and not torch.onnx.symbolic_helper._is_none(value):
                return value
            none = g.op("prim::Constant")
            none.setType(torch._C.OptionalType.ofTensor())
            return none

        marked = {f"{a}_{'i' if isinstance(v, int) else 's'}": v for a, v in attributes.items()}
        return g.op(op, *map(given, inputs), outputs=3 if op == "LSTM" else 2, **marked)

    @staticmethod
    def forward(
        ctx: Any, op: str, attributes: dict[str, Any], x: Tensor, w: Tensor, r: Tensor, *rest: Any
    ) -> tuple[Tensor, ...]:
        _bias, _lengths, *states = rest
        # Values are not looked at while a model is exported, shapes are.
        return x.new_zeros(x.shape[0], w.shape[0], x.shape[1], r.shape[2]), *(s.clone() for s in states)
