"""The shortest way through a layer, for plain calls: all is checked at once, and what does not fit goes the usual way.

A call for one step is a few microseconds of arithmetic, so what surrounds it counts. Nothing is computed here that
`Layer._forward` would compute otherwise, and nothing is refused: that is the border's (border.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gatewise.graph.graph import Graph
from gatewise.scan import cpu, executors, fused
from gatewise.scan.plan import Inputs

if TYPE_CHECKING:
    from gatewise.layer import Layer

PLAIN = (Tensor, torch.nn.Parameter)


class Facts(NamedTuple):
    """What is asked of a cell in every call."""

    program: Any
    input_gates: int
    hidden_gates: int
    states: tuple[str, ...]  # their sizes, H or P
    projects: bool


@lru_cache(maxsize=256)
def facts(cell: Graph) -> Facts | None:
    """None for a cell that goes the usual way: with masks, with learned vectors, or refused by the kernels."""
    if cell.masks or cell.vectors or cpu.why_not_graph(cell):
        return None
    gates = len(cell.input_gates), len(cell.hidden_gates)
    return Facts(cpu.forward_kernel(cell), *gates, cell.state_sizes, cell.projects_output)


@lru_cache(maxsize=256)
def names(suffix: str) -> tuple[str, ...]:
    return tuple(name + suffix for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"))


def run(layer: Layer, x: Any, hx: Any, layout: str) -> tuple[Tensor, Any] | None:
    """`Layer._forward` without lengths and resets; None where the call isn't plain."""
    if (
        type(x) is not Tensor
        or x.dim() != len(layout) + 1
        or layer.bidirectional
        or layer.executor == "reference"
        or not cpu.available()
        or not fused.plain()
        or executors.watching()
        or torch.is_autocast_enabled("cpu")
    ):
        return None
    cell = layer.cell
    known, dtype = facts(cell), x.dtype
    if known is None or not x.is_cpu or (dtype is not torch.float32 and dtype is not torch.float64):
        return None
    shape, layers = x.shape, layer.num_layers
    if layout == "B":
        steps, batch, size = 1, shape[0], shape[1]
    elif layout == "TB":
        steps, batch, size = shape
    else:
        batch, steps, size = shape
    if size != layer.input_size or not batch or not steps or x.stride(-1) != 1:
        return None
    states = _states(layer, known, hx, batch, dtype)
    weights = _weights(layer, known, dtype)
    if states is None or weights is None:
        return None
    watched = torch.is_grad_enabled() and (
        x.requires_grad
        or any(w is not None and w.requires_grad for ws in weights for w in ws)
        or any(s.requires_grad for s in states)
    )
    x = x.unsqueeze(0) if layout == "B" else x.transpose(0, 1) if layout == "BT" else x
    finals: Sequence[Tensor]
    if watched:
        outputs = []
        for k, own in enumerate(weights):
            if not states:
                states = layer._initial_states(batch)
            x, final = _differentiable(layer, cell, x, [s[k] for s in states], own)
            outputs.append(final)
            if k < layers - 1:
                x = F.dropout(x, layer.dropout, layer.training)
        finals = [torch.stack(parts) for parts in zip(*outputs, strict=True)]
    else:
        finals = [x.new_empty(layers, batch, _size(layer, s)) for s in known.states]
        for k, own in enumerate(weights):
            x = _forward(layer, known, x, states, own, finals, k)
            if k < layers - 1:
                x = F.dropout(x, layer.dropout, layer.training)
    output = x.squeeze(0) if layout == "B" else x.transpose(0, 1) if layout == "BT" else x
    return output, tuple(finals) if len(finals) > 1 else finals[0]


def _size(layer: Layer, size: str) -> int:
    return layer._output_size if size == "P" else layer.hidden_size


def _states(layer: Layer, known: Facts, hx: Any, batch: int, dtype: torch.dtype) -> Sequence[Tensor] | None:
    """The states before the first step, () for zeros; None if they are not plainly what they should be."""
    if hx is None:
        return None if layer.learn_state else ()
    states = hx if type(hx) is tuple else (hx,)
    if len(states) != len(known.states):
        return None
    for state, size in zip(states, known.states, strict=True):
        if not (
            type(state) in PLAIN
            and state.dtype is dtype
            and state.is_cpu
            and state.shape == (layer.num_layers, batch, _size(layer, size))
            and state.is_contiguous()
        ):
            return None
    return states


def _weights(layer: Layer, known: Facts, dtype: torch.dtype) -> list[list[Tensor | None]] | None:
    """Of each layer weight_ih, weight_hh, bias_ih, bias_hh and weight_hr; None if they are not plain parameters."""
    given, hidden, output, width = layer._parameters, layer.hidden_size, layer._output_size, layer.input_size
    found: list[list[Tensor | None]] = []
    for k in range(layer.num_layers):
        (suffix,) = layer._suffixes(k)
        own = [given.get(name) for name in names(suffix)]
        rows_ih, rows_hh = known.input_gates * hidden, known.hidden_gates * hidden
        sizes = (rows_ih * width, rows_hh * output, rows_ih, rows_hh, output * hidden if known.projects else 0)
        for weight, size in zip(own, sizes, strict=True):
            if weight is None:
                continue
            plain = type(weight) in PLAIN and weight.dtype is dtype and weight.is_cpu
            if not plain or weight.numel() != size or not weight.is_contiguous():
                return None
        if own[0] is None or own[1] is None or (own[2] is None) != (own[3] is None) or (own[4] is None) == known.projects:
            return None
        found.append(own)
        width = output
    return found


def _forward(
    layer: Layer, known: Facts, x: Tensor, states: Sequence[Tensor], own: list[Tensor | None], finals: Any, k: int
) -> Tensor:
    """One layer without gradients."""
    (steps, batch, width), output = x.shape, layer._output_size
    made = cpu.empty(x, steps, batch, output)
    weight_ih, weight_hh, bias_ih, bias_hh, weight_hr = (0 if w is None else w.data_ptr() for w in own)
    count, bytes_ = len(known.states), x.element_size()
    after = [f.data_ptr() + k * batch * f.shape[2] * bytes_ for f in finals]
    before = [s.data_ptr() + k * batch * s.shape[2] * bytes_ for s in states] or [0] * count
    cpu.run(
        known.program, bytes_ == 8, False, steps, batch, width, layer.hidden_size, output, x.stride(0), x.stride(1),
        x.data_ptr(), 0, weight_ih, bias_ih, weight_hh, bias_hh, weight_hr, 0, 0, 0, 0,
        count, *before, count, made.data_ptr(), *(0,) * (count - 1), 0, 0, count, *after,
    )  # fmt: skip
    return made


@lru_cache(maxsize=64)
def _nothing(hidden: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """No weight_hr (or vectors), no initial states, no flags."""
    return torch.zeros(0, hidden, dtype=dtype), torch.zeros(0, dtype=dtype), torch.zeros(0, 0, dtype=torch.bool)


def _differentiable(
    layer: Layer, cell: Graph, x: Tensor, states: list[Tensor], own: list[Tensor | None]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    weight_ih, weight_hh, bias_ih, bias_hh, weight_hr = own
    none, initial, flags = _nothing(layer.hidden_size, x.dtype)
    if bias_hh is None:
        bias_hh = none.new_zeros(weight_hh.shape[0])  # type: ignore[union-attr]
    weight_hr = none if weight_hr is None else weight_hr
    inputs = Inputs(x, weight_hh, bias_hh, weight_hr, none, initial, tuple(states), flags, flags, ())  # type: ignore[arg-type]
    return fused.differentiable(fused.Call(cell, False, layer.executor), inputs, weight_ih, bias_ih)  # type: ignore[arg-type]
