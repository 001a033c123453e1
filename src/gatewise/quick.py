"""The shortest way through a layer, for plain calls: all is checked at once, and what does not fit goes the usual way.

A call for one step is a few microseconds of arithmetic, so what surrounds it counts. Nothing is computed here that
`Layer._forward` would compute otherwise, and nothing is refused: that is the border's (border.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gatewise.graph.graph import Graph
from gatewise.scan import cpu, executors, fused

if TYPE_CHECKING:
    from gatewise.layer import Layer

PLAIN = (Tensor, torch.nn.Parameter)


class Facts(NamedTuple):
    """What every call asks of a layer's cell and sizes."""

    program: Any
    states: tuple[int, ...]  # their sizes
    weights: tuple[tuple[tuple[str, tuple[int, ...]], ...], ...]  # of each layer: names and shapes
    hidden: int
    output: int
    projects: bool


@lru_cache(maxsize=256)
def facts(cell: Graph, width: int, hidden: int, output: int, layers: int, bias: bool) -> Facts | None:
    """None for a cell that goes the usual way: with masks, with learned vectors, or refused by the kernels."""
    if cell.masks or cell.vectors or cpu.why_not_graph(cell):
        return None
    rows_ih, rows_hh, weights = len(cell.input_gates) * hidden, len(cell.hidden_gates) * hidden, []
    for k in range(layers):
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows_ih, width), "weight_hh": (rows_hh, output)}
        shapes |= {"bias_ih": (rows_ih,), "bias_hh": (rows_hh,)} if bias else {}
        shapes |= {"weight_hr": (output, hidden)} if cell.projects_output else {}
        weights.append(tuple((f"{name}_l{k}", shape) for name, shape in shapes.items()))
        width = output
    states = tuple(output if size == "P" else hidden for size in cell.state_sizes)
    return Facts(cpu.forward_kernel(cell), states, tuple(weights), hidden, output, cell.projects_output)


def run(layer: Layer, x: Any, hx: Any, layout: str) -> tuple[Tensor, Any] | None:
    """`Layer._forward` without lengths and resets; None where the call isn't plain."""
    if not fused.plain() or type(x) is not Tensor or layer.bidirectional or not x.is_cpu:
        return None
    if executors.watching() or layer._recorders or not cpu.available():
        return None
    dtype, shape, bias = x.dtype, x.shape, layer.bias
    if len(shape) != len(layout) + 1 or (dtype is not torch.float32 and dtype is not torch.float64) or bias == "input":
        return None
    hidden, layers, batch = layer.hidden_size, layer.num_layers, shape[layout == "TB"]
    known = facts(layer.cell, layer.input_size, hidden, layer.proj_size or hidden, layers, bias)
    if known is None or layer.executor not in ("auto", "cpu") or torch.is_autocast_enabled("cpu"):
        return None
    if shape[-1] != layer.input_size or 0 in shape or x.stride(-1) != 1:
        return None
    states = hx if type(hx) is tuple else () if hx is None else (hx,)
    if len(states) != (0 if hx is None else len(known.states)) or (hx is None and layer.learn_state):
        return None
    for state, size in zip(states, known.states, strict=False):
        if type(state) not in PLAIN or state.dtype is not dtype or state.shape != (layers, batch, size):
            return None
        if not state.is_contiguous() or not state.is_cpu:
            return None
    given, weights = layer._parameters, []
    for own in known.weights:
        found = []
        for name, expected in own:
            w = given.get(name)
            if type(w) not in PLAIN or w.dtype is not dtype or w.shape != expected:  # type: ignore[union-attr]
                return None
            if not w.is_contiguous() or not w.is_cpu:  # type: ignore[union-attr]
                return None
            found.append(w)
        weights.append(found)
    x = x.transpose(0, 1) if layout == "BT" else x
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *states, *chain(*weights))):
        if layer.recompute is not None:
            return None
        output, finals = _with_gradients(layer, known, x.unsqueeze(0) if layout == "B" else x, states, weights)
        output = output.squeeze(0) if layout == "B" else output
    else:
        output, finals = _without(layer, known, x, states, weights)
    return output.transpose(0, 1) if layout == "BT" else output, tuple(finals) if len(finals) > 1 else finals[0]


def _without(
    layer: Layer, known: Facts, x: Tensor, states: Sequence[Tensor], weights: Sequence[Sequence[Any]]
) -> tuple[Tensor, Sequence[Tensor]]:
    """All layers, time-major or of one step: the kernels are told where all lies, and no more is made."""
    *steps, batch, width = x.shape
    count = len(known.states)
    finals = [x.new_empty(len(weights), batch, size) for size in known.states]
    before, after = [s.data_ptr() for s in states] or [0] * count, [f.data_ptr() for f in finals]
    for k, found in enumerate(weights):
        if k:  # the states lie one layer after the other
            x, width = F.dropout(x, layer.dropout, layer.training), known.output
            ahead = [batch * size * x.element_size() for size in known.states]
            after = [a + b for a, b in zip(after, ahead, strict=True)]
            before = [a + b for a, b in zip(before, ahead, strict=True)] if states else before
        (*x_step, x_row, _), weight_ih, weight_hh, *rest = x.stride(), *[w.data_ptr() for w in found]
        bias_ih, bias_hh = rest[:2] if layer.bias else (0, 0)
        shape = (*steps, batch, known.output)
        made = cpu.empty(x, *shape) if steps else x.new_empty(shape)
        cpu.run(
            known.program, cpu.TYPES[x.dtype], False, *(steps or (1,)), batch, width, known.hidden, known.output,
            *(x_step or (0,)), x_row, x.data_ptr(), 0,
            weight_ih, bias_ih, weight_hh, bias_hh, rest[-1] if known.projects else 0, 0, 0, 0, 0,
            count, *before, count, made.data_ptr(), *(0,) * (count - 1), 0, 0, count, *after,
        )  # fmt: skip
        x = made
    return x, finals


def _with_gradients(
    layer: Layer, known: Facts, x: Tensor, states: Sequence[Tensor], weights: Sequence[Sequence[Any]]
) -> tuple[Tensor, Sequence[Tensor]]:
    """All layers, time-major."""
    plan = fused.plan(layer.cell, False, layer.executor, known.hidden, known.output, x.dtype, (1,))
    finals = []
    for k, (weight_ih, weight_hh, *rest) in enumerate(weights):
        x = F.dropout(x, layer.dropout, layer.training) if k else x
        bias_ih, bias_hh = rest[:2] if layer.bias else (None, None)
        before: Sequence[Any] = states if len(weights) == 1 else [s[k : k + 1] for s in states]
        weight_hr = rest[-1] if known.projects else None
        flat = (x, weight_ih, bias_ih, weight_hh, bias_hh, weight_hr, None, None, None, None)
        x, after, _ = fused.run_kernels(plan, (*flat, *before) if before else (*flat, *(None,) * len(known.states)))
        finals.append(after)
    return x, finals[0] if len(finals) == 1 else [torch.cat(parts) for parts in zip(*finals, strict=True)]
