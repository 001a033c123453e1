"""torch.onnx.export of a model with our layers: native RNN, GRU and LSTM nodes of ONNX, or Scan.

A layer of a cell that ONNX has (`NODES`, with other activations too) becomes one native node. Foreign there are the
order of the gates (z r n, i o f g), the biases, which stand in one row (W's, then U's), and the directions, which are
an axis: W (D, G*H, I), R (D, G*H, H), B (D, 2*G*H), P (D, 3*H), states (D, B, H), output (T, D, B, H).

Any other cell, and any layer with resets, becomes a Scan for each direction. Its body is one step of the reference
executor, so a cell is written nowhere anew.

Source: the operators RNN, GRU, LSTM and Scan of https://onnx.ai/onnx/operators, opset 14 to 22.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.jit._trace import is_tracing

from gatewise import cells
from gatewise.convert.onnx.activations import exported
from gatewise.graph.graph import Graph, walk
from gatewise.graph.variants import activation_of, coupled
from gatewise.scan import reference
from gatewise.scan.autograd import masked
from gatewise.scan.plan import Inputs
from gatewise.scan.stages import project

if TYPE_CHECKING:
    from gatewise.layer import Layer


class Standard(NamedTuple):
    """A cell that ONNX has a node for.

    op: the node. gates: their order there. slots: the values that share an activation, for each in ONNX's list.
    attributes: besides. vectors: the order of the peepholes.
    """

    cell: Graph
    op: str
    gates: str
    slots: tuple[str, ...]
    attributes: dict[str, int] = {}
    vectors: tuple[str, ...] = ()


_PEEPHOLES = ("p_i", "p_o", "p_f")
NODES = (
    Standard(cells.rnn, "RNN", "n", ("h",)),
    Standard(cells.gru, "GRU", "zrn", ("rz", "n"), {"linear_before_reset": 1}),
    Standard(cells.gru_reset_before, "GRU", "zrn", ("rz", "n"), {"linear_before_reset": 0}),
    Standard(cells.lstm, "LSTM", "iofg", ("ifo", "g", "h")),
    Standard(cells.lstm_peephole, "LSTM", "iofg", ("ifo", "g", "h"), {}, _PEEPHOLES),
    Standard(coupled(cells.lstm, f="i"), "LSTM", "iofg", ("io", "g", "h"), {"input_forget": 1}),
    Standard(coupled(cells.lstm_peephole, f="i"), "LSTM", "iofg", ("io", "g", "h"), {"input_forget": 1}, _PEEPHOLES),
)


def exporting() -> bool:
    """Whether torch.onnx.export runs this code: by torch.export, or (dynamo=False) by a trace."""
    # The first two are cheap, and asked in every call of a layer.
    return (torch.compiler.is_exporting() or is_tracing()) and torch.onnx.is_in_onnx_export()


@lru_cache(maxsize=256)
def native(cell: Graph) -> tuple[Standard, dict[str, list[Any]]] | None:
    """What ONNX has for this cell, and its activations as attributes; None if there is nothing."""
    # By gates and nodes and not by name: a regularised cell is the plain one in evaluation.
    for standard in NODES:
        own = standard.cell
        places = [{activation_of(own, name) for name in slot} for slot in standard.slots]
        anywhere = set().union(*places)
        same = (own.gates, own.vectors, own.outputs, len(own.nodes)) == (
            cell.gates, cell.vectors, cell.outputs, len(cell.nodes)
        ) and all(
            a == b or (i in anywhere and a.args == b.args)
            for i, (a, b) in enumerate(zip(own.nodes, cell.nodes, strict=True))
        )  # fmt: skip
        if not same:
            continue
        chosen = [{exported(cell.nodes[i]) for i in slot} for slot in places]
        if any(len(made) > 1 or None in made for made in chosen):
            return None
        found = [made for slot in chosen for made in slot if made is not None]
        attributes: dict[str, list[Any]] = {"activations": [made.name for made in found]}
        attributes["activation_alpha"] = [made.alpha for made in found if made.alpha is not None]
        attributes["activation_beta"] = [made.beta for made in found if made.beta is not None]
        return standard, {name: values for name, values in attributes.items() if values}
    return None


def run_layer(
    layer: Layer, x: Tensor, states: tuple[Tensor, ...], active: Tensor, k: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer of a `native` cell, all its directions, as a node: its output (T, B, D*H) and its final states,
    (D, B, H) each."""
    cell = layer._running_cell
    found = native(cell)
    assert found is not None
    standard, activations = found
    suffixes, size = layer._suffixes(k), layer.hidden_size
    directions = len(suffixes)

    def stacked(tensors: list[Tensor]) -> Tensor:
        """The directions' tensors in one, the gates in ONNX's order (slices: exporters fold them into constants)."""
        return torch.stack([torch.cat([rows(t, gate) for gate in standard.gates]) for t in tensors])

    def rows(t: Tensor, gate: str) -> Tensor:
        if gate not in cell.gates:  # of a coupled one, whose weights ONNX stores and does not look at
            return torch.zeros_like(t[:size])
        r = cell.gates.index(gate)
        return t[r * size : (r + 1) * size]

    weight_ih = stacked([getattr(layer, f"weight_ih{suffix}") for suffix in suffixes])
    recurrent = [layer._recurrent_weights(suffix) for suffix in suffixes]
    bias_ih = [getattr(layer, f"bias_ih{suffix}", None) for suffix in suffixes]
    bias = None
    if layer.bias:
        bias = torch.cat([stacked([b for b in bias_ih if b is not None]), stacked([r[1] for r in recurrent])], 1)
    if not x.is_floating_point():
        x = F.one_hot(x.long(), layer.input_size).to(weight_ih.dtype)
    lengths = active.sum(0).int() if active.shape[0] else None
    attributes: dict[str, Any] = {name: values * directions for name, values in activations.items()}
    attributes |= standard.attributes
    attributes |= {"hidden_size": size, "direction": "bidirectional" if directions == 2 else "forward"}
    inputs = [x, weight_ih, stacked([r[0] for r in recurrent]), bias, lengths, *states]
    if standard.vectors:
        zeros = weight_ih.new_zeros(size)
        own = [dict(zip(cell.vectors, r[3].unbind(0), strict=True)) for r in recurrent]
        inputs.append(torch.stack([torch.cat([v.get(name, zeros) for name in standard.vectors]) for v in own]))
    if is_tracing():
        output, *finals = Node.apply(standard.op, attributes, len(states), *inputs)
    else:
        shapes = [[x.shape[0], directions, x.shape[1], size], *([directions, x.shape[1], size] for _ in states)]
        made = torch.onnx.ops.symbolic_multi_out(
            standard.op, inputs, attributes, dtypes=[x.dtype] * len(shapes), shapes=shapes
        )
        output, *finals = (t.to(x.device) for t in made)
    output = output.transpose(1, 2).flatten(2)
    if active.shape[0]:
        output = torch.where(active.unsqueeze(2), output, torch.zeros_like(output))
    return output, tuple(finals)


def run_scan(
    cell: Graph, flip: bool, executor: str, inputs: Inputs, weight_ih: Tensor, bias_ih: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """`fused.run` as a Scan of ONNX.

    Raises NotImplementedError for what it does not do.
    """
    if is_tracing():
        what = f"{cell.name}{' with resets' if inputs.resets.shape[0] else ''}"
        raise NotImplementedError(
            f"torch.onnx.export(dynamo=False): ONNX has no node for {what}, and only the exporter of dynamo=True "
            "writes a Scan; export with dynamo=True"
        )
    if cell.masks:
        raise NotImplementedError(f"{cell.name} draws random masks in training; call model.eval() before the export")
    x = project(inputs.x.flip(0) if flip else inputs.x, weight_ih, bias_ih)
    flags = {name: flag for name in ("resets", "active") if (flag := getattr(inputs, name)).shape[0]}
    weights = ("weight_hh", "bias_hh", "weight_hr", "vectors", "initial")
    states = len(inputs.states)
    # Exporters round Python's numbers to float32, and tensors not.
    constants = dict(walk(cell, "const")) if x.dtype == torch.float64 else {}
    numbers = [torch.tensor(node.params[0][1], dtype=x.dtype, device=x.device) for node in constants.values()]

    def step(*flat: Tensor) -> list[Tensor]:
        x_t = flat[states].unsqueeze(0)
        none = torch.zeros(0, 0, dtype=torch.bool, device=x_t.device)
        marks = dict.fromkeys(("resets", "active"), none)
        marks |= {name: t.unsqueeze(0) for name, t in zip(flags, flat[states + 1 :], strict=False)}
        own = dict(zip(weights, flat[states + 1 + len(flags) :], strict=False))
        tensors = dict(zip(constants, flat[states + 1 + len(flags) + len(weights) :], strict=True))
        read = Inputs(x=x_t, states=flat[:states], masks=(), **own, **marks)
        after, columns = reference.forward(cell, read, cell.watched, keep=False, numbers=tensors)
        return [*(s.clone() for s in after), *(c.squeeze(0).clone() for c in columns)]  # what Scan makes has no alias

    # The operator itself: torch's function around it compiles the step, which is slow and fixes the batch's size.
    # Detached, since the exporter would run its derivative, too.
    made = torch.ops.higher_order.scan(
        step,
        [s.detach() for s in inputs.states],
        [x.detach(), *flags.values()],
        (*(getattr(inputs, name).detach() for name in weights), *numbers),
    )
    finals, (output, *watched) = made[:states], made[states:]
    output = masked(output, inputs.active)
    every = [output.flip(0) if flip else output, *(w.flip(0) if flip else w for w in watched)]
    return every[0], tuple(finals), tuple(every[1:])


class Node(torch.autograd.Function):
    """The node for the exporter that traces (dynamo=False)."""

    @staticmethod
    def symbolic(g: Any, op: str, attributes: dict[str, Any], states: int, *inputs: Any) -> Any:
        def given(value: Any) -> Any:
            if value is not None and not torch.onnx.symbolic_helper._is_none(value):
                return value
            none = g.op("prim::Constant")
            none.setType(torch._C.OptionalType.ofTensor())
            return none

        def kind(value: Any) -> str:
            first = value[0] if isinstance(value, list) else value
            return "i" if isinstance(first, int) else "f" if isinstance(first, float) else "s"

        marked = {f"{name}_{kind(value)}": value for name, value in attributes.items()}
        return g.op(op, *map(given, inputs), outputs=1 + states, **marked)

    @staticmethod
    def forward(
        ctx: Any, op: str, attributes: dict[str, Any], states: int, x: Tensor, w: Tensor, r: Tensor, *rest: Any
    ) -> tuple[Tensor, ...]:
        # Values are not looked at while a model is exported, shapes are.
        output = x.new_zeros(x.shape[0], w.shape[0], x.shape[1], r.shape[2])
        return output, *(s.clone() for s in rest[2 : 2 + states])
