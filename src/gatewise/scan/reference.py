"""The reference executor: both graphs interpreted in plain torch, one step after the other.

It is the specification: every other executor is tested against it. It runs on any device and in any
dtype, and what it does is differentiable by autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from gatewise.graph.graph import Graph, closure
from gatewise.graph.ops import OPS
from gatewise.scan.plan import Gradients, Inputs, backward_plan, gate_rank, gate_rows

Value = Tensor | float
Step = tuple[Callable[..., Value], tuple[int, ...], int]  # what runs, the nodes that it reads, the one that it makes


class Interpreter:
    """A graph, a cell's own or its backward one, with the cell's weights at hand, run for one step at a time."""

    def __init__(self, cell: Graph, graph: Graph, inputs: Inputs, roots: Sequence[int]) -> None:
        self.cell, self.graph, self.inputs, self.size = cell, graph, inputs, inputs.hidden_size
        self.values: list[Value] = [0.0] * len(graph.nodes)
        self.leaves: dict[tuple[str, str], int] = {}
        self.steps: list[Step] = []
        self.live = closure(graph.nodes, roots)
        for i in self.live:
            node = graph.nodes[i]
            if node.op == "const":
                self.values[i] = node.params[0][1]
            elif node.op == "vector":
                self.values[i] = inputs.vectors[graph.vectors.index(node.key)]
            elif node.op in ("input", "state", "grad", "saved"):
                self.leaves[node.op, node.key] = i
            elif node.op == "project":
                self._project(i)
            elif node.op == "unproject":
                weight = gate_rows(cell, node.key.split(), inputs.weight_hh, self.size)
                self.steps.append((partial(self._product, weight), node.args, i))
            elif node.op in ("output", "unoutput"):
                weight = inputs.weight_hr.t() if node.op == "output" else inputs.weight_hr
                self.steps.append((partial(self._product, weight), node.args, i))
            else:
                self.steps.append((self._elementwise(i), node.args, i))

    def _project(self, i: int) -> None:
        """One product for all the gates that read the same value."""
        nodes = self.graph.nodes
        group = [j for j in self.live if nodes[j].op == "project" and nodes[j].args == nodes[i].args]
        if i != group[0]:
            return
        group.sort(key=lambda j: gate_rank(self.graph, j))
        gates = [nodes[j].key for j in group]
        weight = gate_rows(self.cell, gates, self.inputs.weight_hh, self.size).t()
        bias = gate_rows(self.cell, gates, self.inputs.bias_hh, self.size)

        def run(a: Value) -> Value:
            parts = torch.addmm(bias, self.full(a, weight.shape[0]), weight).split(self.size, 1)
            for j, part in zip(group, parts, strict=True):
                self.values[j] = part
            return self.values[i]

        self.steps.append((run, nodes[i].args, i))

    def _product(self, weight: Tensor, *values: Value) -> Tensor:
        """The values, side by side, times the weight."""
        width = weight.shape[0] // len(values)
        whole = [self.full(value, width) for value in values]
        return (torch.cat(whole, 1) if len(whole) > 1 else whole[0]) @ weight

    def _elementwise(self, i: int) -> Callable[..., Value]:
        node, row, x = self.graph.nodes[i], OPS[self.graph.nodes[i].op], self.inputs.x
        run = partial(row.run, **dict(node.params)) if node.params else row.run
        if row.scalars or all(self.graph.nodes[a].op != "const" for a in node.args):
            return run
        return lambda *args: run(*(a if isinstance(a, Tensor) else x.new_tensor(a) for a in args))

    def set(self, op: str, key: str, value: Tensor) -> None:
        """Give a leaf its value for this step; one that the graph does not have is not needed."""
        if (op, key) in self.leaves:
            self.values[self.leaves[op, key]] = value

    def step(self) -> None:
        """Compute every value of this step."""
        values = self.values
        for run, reads, makes in self.steps:
            values[makes] = run(*[values[i] for i in reads])

    def full(self, value: Value, width: int) -> Tensor:
        """A value of the step as (B, width): constants and per-unit values are expanded over the batch."""
        shape = (self.inputs.x.shape[1], width)
        tensor = value if isinstance(value, Tensor) else self.inputs.x.new_tensor(value)
        return tensor if tensor.shape == shape else tensor.expand(shape)


def forward(graph: Graph, inputs: Inputs, keep: Sequence[int]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Run T steps.

    Args:
        graph: the cell. inputs: see `Inputs`.
        keep: the nodes whose values of every step are wanted.

    Returns:
        The states after the last step, and a (T, B, size) tensor for each node of `keep`.
    """
    outputs = [i for _, i in graph.outputs]
    run = Interpreter(graph, graph, inputs, [*outputs, *keep])
    gates = _steps_of_gates(graph, inputs)
    states = list(inputs.states)
    widths = [s.shape[1] for s in states]
    size_of = dict(zip(outputs, widths, strict=True))
    columns: dict[int, list[Tensor]] = {i: [] for i in keep}
    for t in range(inputs.x.shape[0]):
        for gate, steps in gates.items():
            run.set("input", gate, steps[t])
        for name, state in zip(graph.states, states, strict=True):
            run.set("state", name, state)
        run.step()
        states = [run.full(run.values[i], width) for i, width in zip(outputs, widths, strict=True)]
        for i, column in columns.items():
            column.append(run.full(run.values[i], size_of.get(i, run.size)))
    stacked = {i: torch.stack(columns.pop(i)) for i in list(columns)}  # the steps of one are freed before the next
    return tuple(states), tuple(stacked[i] for i in keep)


def _steps_of_gates(graph: Graph, inputs: Inputs) -> dict[str, tuple[Tensor, ...]]:
    blocks = inputs.x.split(inputs.hidden_size, 2)
    return {gate: block.unbind(0) for gate, block in zip(graph.input_gates, blocks, strict=True)}


def reverse(
    graph: Graph, inputs: Inputs, kept: Sequence[Tensor], g_output: Tensor, g_states: Sequence[Tensor]
) -> Gradients:
    """Run the T steps of the backward graph, last to first.

    Args:
        graph: the cell. inputs: what forward read.
        kept: what forward made of `backward_plan(graph).kept`, (T, B, size) each.
        g_output: the gradient of the first state at each step, (T, B, size).
        g_states: the gradients of the states after the last step.
    """
    plan = backward_plan(graph)
    size, projected = inputs.hidden_size, inputs.states[0].shape[1]
    inputs_made = tuple(plan.outputs[f"input {gate}"] for gate in graph.input_gates)
    vectors_made = [plan.outputs[f"vector {name}"] for name in graph.vectors]
    states_made = [plan.outputs[f"state {name}"] for name in graph.states]
    # What is wanted of every step, with the width of each part. Equal wishes (an LSTM's gates get the
    # same gradients through x and through h) are one.
    widths: dict[tuple[int, ...], int] = {inputs_made: size}
    widths.update({(v,): size for v in vectors_made})
    for operand in plan.operands:
        widths[operand.gradients] = size if operand.gates else projected
        widths[operand.value,] = projected if operand.gates else size
    columns: dict[tuple[int, ...], list[Tensor]] = {nodes: [] for nodes in widths}

    run = Interpreter(graph, plan.graph, inputs, list(plan.outputs.values()))
    gates = _steps_of_gates(graph, inputs)
    values = {i: value.unbind(0) for i, value in zip(plan.kept, kept, strict=True)}
    before = [[s0, *values[i][:-1]] for s0, (_, i) in zip(inputs.states, graph.outputs, strict=True)]
    seed = f"%{graph.outputs[0][1]}"
    carry = list(g_states)
    for t in range(inputs.x.shape[0] - 1, -1, -1):
        run.set("grad", seed, g_output[t])
        for gate, steps in gates.items():
            run.set("input", gate, steps[t])
        for name, state, g in zip(graph.states, before, carry, strict=True):
            run.set("state", name, state[t])
            run.set("grad", name, g)
        for i, steps in values.items():
            run.set("saved", f"%{i}", steps[t])
        run.step()
        carry = [run.full(run.values[i], g.shape[1]) for i, g in zip(states_made, carry, strict=True)]
        for nodes, column in columns.items():
            parts = [run.full(run.values[i], widths[nodes]) for i in nodes]
            column.append(parts[0] if len(parts) == 1 else torch.cat(parts, 1))

    stacked = {nodes: torch.stack(columns.pop(nodes)[::-1]) for nodes in list(columns)}
    return Gradients(
        x=stacked[inputs_made],
        states=tuple(carry),
        vectors=tuple(stacked[v,] for v in vectors_made),
        made=tuple(stacked[operand.gradients] for operand in plan.operands),
        read=tuple(stacked[operand.value,] for operand in plan.operands),
    )
