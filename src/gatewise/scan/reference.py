"""The reference executor: both graphs interpreted in plain torch, one step after the other.

It is the specification: every other executor is tested against it. It runs on any device and in any
dtype, and what it does is differentiable by autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ctypes import c_float
from functools import partial

import torch
from torch import Tensor

from gatewise.graph.graph import Graph, closure
from gatewise.graph.ops import OPS
from gatewise.scan.plan import Gradients, Inputs, backward_plan, gate_rank, gate_rows

Value = Tensor | float
Step = tuple[Callable[..., Value], tuple[int, ...], int]  # what runs, the nodes that it reads, the one that it makes


class Interpreter:
    """A graph, a cell's own or its backward one, with the cell's weights at hand, run for one step at a time.

    Its steps hold `values` and not the interpreter: a reference cycle would keep a whole sequence alive until
    Python's collector runs.
    """

    def __init__(
        self, cell: Graph, graph: Graph, inputs: Inputs, roots: Sequence[int], numbers: Mapping[int, Tensor] = {}
    ) -> None:
        size = inputs.hidden_size
        self.batch = inputs.x.shape[1]
        self.values: list[Value] = [0.0] * len(graph.nodes)
        self.leaves: dict[tuple[str, str], int] = {}
        self.fed: list[tuple[int, Sequence[Tensor]]] = []
        self.steps: list[Step] = []
        live = closure(graph.nodes, roots)
        for i in live:
            node = graph.nodes[i]
            if node.op == "const":
                self.values[i] = numbers.get(i, node.params[0][1])
            elif node.op == "vector":
                self.values[i] = inputs.vectors[cell.vectors.index(node.key)]
            elif node.op == "sequence_mask":
                self.values[i] = _mask(cell, inputs, node.key)
            elif node.op == "step_mask":
                self.fed.append((i, _mask(cell, inputs, node.key).unbind(0)))
            elif node.op in ("input", "state", "grad", "saved"):
                self.leaves[node.op, node.key] = i
            elif node.op == "project":
                group = [j for j in live if graph.nodes[j].op == "project" and graph.nodes[j].args == node.args]
                if i == group[0]:  # one product for all the gates that read the same value
                    group.sort(key=lambda j: gate_rank(graph, j))
                    gates = [graph.nodes[j].key for j in group]
                    weight = gate_rows(cell, gates, inputs.weight_hh, size).t()
                    bias = gate_rows(cell, gates, inputs.bias_hh, size)
                    run: Callable[..., Value] = partial(_project, weight, bias, self.batch, self.values, group)
                    self.steps.append((run, node.args, group[0]))
            elif node.op == "unproject":
                weight = gate_rows(cell, node.key.split(), inputs.weight_hh, size)
                self.steps.append((partial(_product, weight, self.batch), node.args, i))
            elif node.op in ("output", "unoutput"):
                weight = inputs.weight_hr.t() if node.op == "output" else inputs.weight_hr
                self.steps.append((partial(_product, weight, self.batch), node.args, i))
            else:
                self.steps.append((_elementwise(graph, i, inputs.x, numbers), node.args, i))

    def feed(self, op: str, key: str, sequence: Tensor) -> None:
        """Give a leaf its values for all steps, (T, B, size); one that the graph does not have is not needed."""
        if (op, key) in self.leaves:
            self.fed.append((self.leaves[op, key], sequence.unbind(0)))

    def set(self, op: str, key: str, value: Tensor) -> None:
        """Give a leaf its value for the next step."""
        if (op, key) in self.leaves:
            self.values[self.leaves[op, key]] = value

    def step(self, t: int) -> None:
        """Compute every value of step t."""
        values = self.values
        for i, sequence in self.fed:
            values[i] = sequence[t]
        for run, reads, makes in self.steps:
            values[makes] = run(*[values[i] for i in reads])

    def full(self, node: int, width: int, like: Tensor) -> Tensor:
        """A node's value as (B, width); a constant gets the dtype and the device of `like`."""
        value = self.values[node]
        value = value.to(like.dtype) if isinstance(value, Tensor) else _constant(value, like)  # a comparison's, too
        return _full(value, self.batch, width)


def _mask(cell: Graph, inputs: Inputs, key: str) -> Tensor:
    return inputs.masks[[cell.nodes[i].key for i in cell.masks].index(key)]


def _reset(inputs: Inputs, resets: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
    """The states before a step, with the initial ones where it begins a new sequence; resets: (B, 1)."""
    initial = inputs.initial.split([s.shape[1] for s in states])
    return [torch.where(resets, fresh, state) for fresh, state in zip(initial, states, strict=True)]


def _where(mask: Tensor, values: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    return [torch.where(mask, a, b) for a, b in zip(values, others, strict=True)]


def _full(value: Tensor, batch: int, width: int) -> Tensor:
    """A value of the step as (B, width): constants and per-unit values are expanded over the batch."""
    return value if value.shape == (batch, width) else value.expand(batch, width)


def _project(weight: Tensor, bias: Tensor, batch: int, values: list[Value], group: list[int], a: Tensor) -> Value:
    """Put each gate's part of one product into `values`, at the places of `group`; the first is returned, too."""
    parts: Sequence[Tensor] = torch.addmm(bias, _full(a, batch, weight.shape[0]), weight).tensor_split(len(group), 1)
    for i, part in zip(group, parts, strict=True):
        values[i] = part
    return values[group[0]]


def _product(weight: Tensor, batch: int, *parts: Tensor) -> Tensor:
    """The parts, side by side, times the weight."""
    width = weight.shape[0] // len(parts)
    whole = [_full(part, batch, width) for part in parts]
    return (torch.cat(whole, 1) if len(whole) > 1 else whole[0]) @ weight


def _constant(value: float, like: Tensor) -> Tensor:
    """A number as a 0-dimensional tensor of the dtype and the device of `like`."""
    # Not new_tensor, whose data exporters can't follow into the body of a loop. new_full refuses numbers beyond
    # float32's largest, which are infinity there.
    return like.new_full((), value if like.dtype == torch.float64 else c_float(value).value)


def _elementwise(graph: Graph, i: int, like: Tensor, numbers: Mapping[int, Tensor]) -> Callable[..., Value]:
    """What computes a node; where torch takes no plain number, constants are made tensors once."""
    node, row = graph.nodes[i], OPS[graph.nodes[i].op]
    run = partial(row.run, **dict(node.params)) if node.params else row.run
    reads = [graph.nodes[a] for a in node.args]
    if row.scalars or numbers or all(read.op != "const" for read in reads):
        return run
    fixed = [_constant(read.params[0][1], like) if read.op == "const" else None for read in reads]
    return lambda *args: run(*(a if c is None else c for a, c in zip(args, fixed, strict=True)))


def forward(
    graph: Graph, inputs: Inputs, extras: Sequence[int], keep: bool, numbers: Mapping[int, Tensor] = {}
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Run T steps.

    Args:
        graph: the cell. inputs: see `Inputs`.
        extras: the nodes whose values of every step are wanted besides the states'.
        keep: whether all states are wanted of every step, or the first, which is the output, alone.
        numbers: by node, tensors in place of the graph's numbers: all of them or none.

    Returns:
        The states after the last step, and (T, B, size) tensors: the states after each step, then the extras.
    """
    outputs = [i for _, i in graph.outputs]
    run = Interpreter(graph, graph, inputs, [*outputs, *extras], numbers)
    _feed_gates(run, graph, inputs)
    states = list(inputs.states)
    resets, active = inputs.resets.unsqueeze(2).unbind(0), inputs.active.unsqueeze(2).unbind(0)
    count = len(outputs) if keep else 1
    columns: list[list[Tensor]] = [[] for _ in range(count + len(extras))]
    for t in range(inputs.x.shape[0]):
        if resets:
            states = _reset(inputs, resets[t], states)
        for name, state in zip(graph.states, states, strict=True):
            run.set("state", name, state)
        run.step(t)
        made = [run.full(i, inputs.width(graph, i), inputs.x) for i in outputs]
        states = _where(active[t], made, states) if active else made
        wanted = [*states[:count], *(run.full(i, inputs.kept_width(graph, i), inputs.x) for i in extras)]
        for column, value in zip(columns, wanted, strict=True):
            column.append(value)
    stacked = [torch.stack(columns.pop(0)) for _ in range(len(columns))]  # the steps of one are freed before the next
    return tuple(states), tuple(stacked)


def _feed_gates(run: Interpreter, graph: Graph, inputs: Inputs) -> None:
    for gate, block in zip(graph.input_gates, inputs.x.tensor_split(len(graph.input_gates), 2), strict=True):
        run.feed("input", gate, block)


def reverse(
    graph: Graph, inputs: Inputs, kept: Sequence[Tensor], g_states: Sequence[Tensor], g_seen: Sequence[Tensor]
) -> Gradients:
    """Run the T steps of the backward graph, last to first.

    Args:
        graph: the cell. inputs: what forward read.
        kept: what forward made of every step: all states, and the extras of `backward_plan(graph)`.
        g_states: the gradients of the states after the last step.
        g_seen: the gradients of what is given out of each step, (T, B, size): the first state, and what is watched.
    """
    plan = backward_plan(graph)
    columns: list[list[Tensor]] = [[] for _ in plan.columns]
    run = Interpreter(graph, plan.graph, inputs, [*plan.states, *(i for c in plan.columns for i in c.nodes)])
    _feed_gates(run, graph, inputs)
    for i, value in zip([*(i for _, i in graph.outputs), *plan.extras], kept, strict=True):
        run.feed("saved", f"%{i}", value)
    for i, g in zip((graph.outputs[0][1], *graph.watched), g_seen, strict=True):
        run.feed("grad", f"%{i}", g)
    before = [[s0, *column.unbind(0)[:-1]] for s0, column in zip(inputs.states, kept, strict=False)]
    resets, active = inputs.resets.unsqueeze(2).unbind(0), inputs.active.unsqueeze(2).unbind(0)
    carry = list(g_states)
    g_initial = inputs.x.new_zeros(run.batch, inputs.initial.shape[0])
    for t in range(inputs.x.shape[0] - 1, -1, -1):
        states = [state[t] for state in before]
        if resets:
            states = _reset(inputs, resets[t], states)
        for name, state, g in zip(graph.states, states, carry, strict=True):
            run.set("state", name, state)
            run.set("grad", name, g)
        run.step(t)
        before_t = [run.full(i, g.shape[1], g) for i, g in zip(plan.states, carry, strict=True)]
        if active:  # where a step is not taken the output is the state as it was
            before_t = _where(active[t], before_t, [carry[0] + g_seen[0][t], *carry[1:]])
        carry = before_t
        if resets:
            zeros = [torch.zeros_like(g) for g in carry]
            g_initial = g_initial + torch.cat(_where(resets[t], carry, zeros), 1)
            carry = _where(resets[t], zeros, carry)
        for column, made in zip(plan.columns, columns, strict=True):
            width = column.width(inputs) // len(column.nodes)
            parts = [run.full(i, width, inputs.x) for i in column.nodes]
            made.append(parts[0] if len(parts) == 1 else torch.cat(parts, 1))

    stacked = [torch.stack(columns.pop(0)[::-1]) for _ in plan.columns]  # the steps of one are freed before the next
    if active:  # a step that was not taken may have made anything, NaN among it
        stacked = [torch.where(inputs.active.unsqueeze(2), s, torch.zeros_like(s)) for s in stacked]
    return Gradients(tuple(carry), g_initial, tuple(stacked))
