"""What every executor is given, what it gives back, and what the backward graph means for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from gatewise.graph.grad import backward
from gatewise.graph.graph import Graph, walk

WEIGHTS = 5  # of `Inputs`, after x: what all samples share, and what is learned


class Inputs(NamedTuple):
    """What a scan reads. T steps, B batch, H hidden, P projected size (H without a projection), G gates.

    Each step t of a sample does `state = initial where resets[t]`, then the cell's equations, whose new states are
    taken where `active[t]`; elsewhere the states stay as they were, and no gradient leaves the step but theirs.

    x: (T, B, G*H), the input's projections, biases included, in the order of `graph.input_gates`.
    weight_hh: (G*H, P), bias_hh: (G*H,), in the order of `graph.hidden_gates`.
    weight_hr: (P, H); (0, H) for a cell without `.hr`.
    vectors: (V, H), the learned vectors in the order of `graph.vectors`.
    initial: (H + … ,), each state's value after a reset, in a row; (0,) without resets.
    states: the states before the first step, (B, H) or (B, P) each, in the order of `graph.states`.
    resets, active: (T, B) bool; (0, 0) where there are none, and all steps are active.
    masks: the random masks in the order of `graph.masks`, (T, B, H or P) or, of a sequence, (B, H or P).

    Samples may come in D groups, such as two directions, each with its own weights: then x is (T, D*B, G*H), a group
    after the other, and likewise whatever else has a batch, and the weights have an axis D before their others.
    """

    x: Tensor
    weight_hh: Tensor
    bias_hh: Tensor
    weight_hr: Tensor
    vectors: Tensor
    initial: Tensor
    states: tuple[Tensor, ...]
    resets: Tensor
    active: Tensor
    masks: tuple[Tensor, ...]

    @property
    def hidden_size(self) -> int:
        return self.weight_hr.shape[-1]

    @property
    def projected_size(self) -> int:
        return self.weight_hr.shape[-2] or self.hidden_size

    @property
    def groups(self) -> int:
        """D."""
        return self.weight_hr.shape[0] if self.weight_hr.dim() == 3 else 1

    def by_group(self) -> list[Inputs]:
        """The inputs of each group on its own."""
        if self.weight_hr.dim() == 2:
            return [self]
        count = self.groups

        def part(d: int, tensor: Tensor, batch: int | None) -> Tensor:
            if batch is None:
                return tensor[d]
            return tensor.chunk(count, batch)[d] if tensor.numel() else tensor

        return [self._each(partial(part, d)) for d in range(count)]

    @staticmethod
    def together(groups: Sequence[Inputs]) -> Inputs:
        """The inverse of `by_group`."""
        parts = iter(zip(*(g.flat() for g in groups), strict=True))

        def join(_: Tensor, batch: int | None) -> Tensor:
            each = next(parts)
            return torch.stack(each) if batch is None else torch.cat(each, batch) if each[0].numel() else each[0]

        return groups[0]._each(join)

    def _each(self, change: Callable[[Tensor, int | None], Tensor]) -> Inputs:
        """The inputs with each tensor changed, in the order of `flat`, knowing its batch's axis: None of a weight."""
        return Inputs(
            change(self.x, 1),
            change(self.weight_hh, None),
            change(self.bias_hh, None),
            change(self.weight_hr, None),
            change(self.vectors, None),
            change(self.initial, None),
            tuple(change(s, 0) for s in self.states),
            change(self.resets, 1),
            change(self.active, 1),
            tuple(change(m, m.dim() - 2) for m in self.masks),
        )

    def width(self, graph: Graph, node: int) -> int:
        """The size of one of the cell's values: H or P; a constant is as wide as what it becomes, H."""
        return self.projected_size if graph.sizes[node] == "P" else self.hidden_size

    def kept_width(self, graph: Graph, extra: int) -> int:
        """The size of one of the cell's values where it is kept: 1 where all units share it."""
        return 1 if extra in graph.shared else self.width(graph, extra)

    def flat(self) -> tuple[Tensor, ...]:
        """The tensors in a row, as autograd and operators take them."""
        weights = (self.weight_hh, self.bias_hh, self.weight_hr, self.vectors, self.initial)
        return (self.x, *weights, *self.states, self.resets, self.active, *self.masks)

    @staticmethod
    def of(graph: Graph, tensors: Sequence[Tensor]) -> Inputs:
        """The inverse of `flat`."""
        x, weight_hh, bias_hh, weight_hr, vectors, initial, *rest = tensors
        states, (resets, active, *masks) = rest[: len(graph.states)], rest[len(graph.states) :]
        return Inputs(x, weight_hh, bias_hh, weight_hr, vectors, initial, tuple(states), resets, active, tuple(masks))


class Gradients(NamedTuple):
    """What a backward scan makes; `finish` in stages.py makes the weights' gradients of it.

    states: the gradients of the states before the first step.
    initial: what each sample gives to that of the states after a reset, (B, H + …) or (B, 0).
    columns: what was made at each step, (T, B, width) each, in the order of `backward_plan(graph).columns`.
    """

    states: tuple[Tensor, ...]
    initial: Tensor
    columns: tuple[Tensor, ...]

    def flat(self) -> tuple[Tensor, ...]:
        """The tensors in a row, as autograd and operators take them."""
        return (*self.states, self.initial, *self.columns)

    @staticmethod
    def of(graph: Graph, tensors: Sequence[Tensor]) -> Gradients:
        """The inverse of `flat`."""
        states = len(graph.states)
        return Gradients(tuple(tensors[:states]), tensors[states], tuple(tensors[states + 1 :]))


def unfit(graph: Graph, inputs: Inputs, others: Sequence[Tensor | None] = ()) -> str:
    """Why kernels, which find values by sizes alone, can't run these tensors; empty if they can.

    Args:
        others: weight_ih and bias_ih, where x is not projected yet.
    """
    if not all(type(t) in (Tensor, torch.nn.Parameter) for t in (*inputs.flat(), *others) if t is not None):
        return "a tensor is of a subclass of torch's"
    if 0 in inputs.x.shape[:2] or not inputs.hidden_size:
        return "there is nothing to compute"
    return "" if _fit(graph, inputs, *others) else "a tensor's shape does not fit the cell"


def _fit(graph: Graph, inputs: Inputs, weight_ih: Tensor | None = None, bias_ih: Tensor | None = None) -> bool:
    """Whether all tensors have the sizes by which the kernels find their values; torch's own operators check theirs."""
    x, hidden, output = inputs.x, inputs.hidden_size, inputs.projected_size
    rows_ih, rows_hh = len(graph.input_gates) * hidden, len(graph.hidden_gates) * hidden
    sizes = [output if size == "P" else hidden for size in graph.state_sizes]
    width = rows_ih if weight_ih is None else x.shape[2] if x.dim() == 3 else weight_ih.shape[1]
    groups = inputs.weight_hr.shape[:-2]
    return (
        (x.dim() == 2 or x.shape[2] == width)
        and (weight_ih is None or weight_ih.shape == (rows_ih, width))
        and (bias_ih is None or bias_ih.shape == (rows_ih,))
        and inputs.weight_hh.shape == (*groups, rows_hh, output)
        and inputs.bias_hh.shape == (*groups, rows_hh)
        and inputs.vectors.shape == (*groups, len(graph.vectors), hidden)
        and (inputs.weight_hr.shape[-2] > 0) == graph.projects_output
        and all(s.shape == (x.shape[1], n) for s, n in zip(inputs.states, sizes, strict=True))
    )


@dataclass(frozen=True)
class Column:
    """What a backward scan makes at every step: nodes of the backward graph, side by side, each of one size, H or P."""

    nodes: tuple[int, ...]
    size: str

    def width(self, inputs: Inputs) -> int:
        return len(self.nodes) * (inputs.projected_size if self.size == "P" else inputs.hidden_size)


@dataclass(frozen=True)
class Operand:
    """A value of the cell that is projected, onto gates or by the output projection (gates = ()).

    made: the column of the gradients of what the projections made, in the order of `gates`.
    read: the column of the value; None where it is the first state before the step, which the output has.
    """

    gates: tuple[str, ...]
    made: int
    read: int | None


@dataclass(frozen=True)
class BackwardPlan:
    """What an executor needs to know of a cell's backward scan.

    graph: the backward graph. states: its node of each state's gradient before the step.
    extras: the cell's nodes whose values of every step forward keeps, besides the new states: what is saved for
        backward, and last what is watched.
    columns: what is made of every step, each once. The first is the gradient of x, in the order of its gates.
    vectors: the column of each learned vector's gradient.
    operands: what is projected; each gives a product for the weights' gradients.
    """

    graph: Graph
    states: tuple[int, ...]
    extras: tuple[int, ...]
    columns: tuple[Column, ...]
    vectors: tuple[int, ...]
    operands: tuple[Operand, ...]


@lru_cache(maxsize=256)
def backward_plan(graph: Graph) -> BackwardPlan:
    """The plan of a cell's backward scan."""
    back = backward(graph)
    outputs = dict(back.outputs)
    columns: dict[Column, int] = {}

    def column(size: str, *nodes: int) -> int:
        # Equal wishes are one: an LSTM's gates get the same gradients through x and through h.
        return columns.setdefault(Column(nodes, size), len(columns))

    column("H", *(outputs[f"input {gate}"] for gate in graph.input_gates))
    vectors = tuple(column("H", outputs[f"vector {name}"]) for name in graph.vectors)
    operands = []
    for op in ("project", "output"):
        readers: dict[int, list[int]] = {}
        for i, node in walk(graph, op):
            if f"{op} %{i}" in outputs:
                readers.setdefault(node.args[0], []).append(i)
        for node_read, projections in readers.items():
            projections.sort(key=lambda i: gate_rank(graph, i))
            gates = tuple(graph.nodes[i].key for i in projections if op == "project")
            made = column("H" if gates else "P", *(outputs[f"{op} %{i}"] for i in projections))
            value = outputs[f"operand %{node_read}"]
            first = back.nodes[value].op == "state" and back.nodes[value].key == graph.states[0]
            read = None if first else column("P" if gates and graph.projects_output else "H", value)
            operands.append(Operand(gates, made, read))
    there = {*(i for _, i in graph.outputs), *graph.watched}
    saved = dict.fromkeys(int(node.key[1:]) for _, node in walk(back, "saved"))
    kept = sorted((i for i in saved if i not in there), key=graph.shared.__contains__)  # the short ones last
    extras = (*kept, *graph.watched)
    states = tuple(outputs[f"state {state}"] for state in graph.states)
    return BackwardPlan(back, states, extras, tuple(columns), vectors, tuple(operands))


def gate_rank(graph: Graph, i: int) -> int:
    """The place of node i's gate in the order in which the weights stack the gates."""
    return graph.gates.index(graph.nodes[i].key) if graph.nodes[i].key else 0


def gate_rows(cell: Graph, gates: Sequence[str], stacked: Tensor, size: int) -> Tensor:
    """The row blocks of these gates in weight_hh or bias_hh: a view where they lie together."""
    blocks = [cell.hidden_gates.index(gate) for gate in gates]
    if blocks == list(range(blocks[0], blocks[0] + len(blocks))):
        return stacked[blocks[0] * size : (blocks[-1] + 1) * size]
    return torch.cat([stacked[b * size : (b + 1) * size] for b in blocks])
