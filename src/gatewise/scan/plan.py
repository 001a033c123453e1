"""What every executor is given, what it gives back, and what the backward graph means for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
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
        return self.weight_hr.shape[1]

    @property
    def projected_size(self) -> int:
        return self.weight_hr.shape[0] or self.hidden_size

    def width(self, graph: Graph, node: int) -> int:
        """The size of one of the cell's values: H or P; a constant is as wide as what it becomes, H."""
        return self.projected_size if graph.sizes[node] == "P" else self.hidden_size

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

    x: (T, B, G*H). states: the gradients of the states before the first step.
    initial: what each sample gives to that of the states after a reset, (B, H + …) or (B, 0).
    vectors: for each learned vector its gradient at each step, (T, B, H).
    made, read: for each operand of `backward_plan(graph).operands`, the gradient of what its projections
    made, (T, B, G*H) or (T, B, P), and the values that they read, (T, B, P) or (T, B, H).
    """

    x: Tensor
    states: tuple[Tensor, ...]
    initial: Tensor
    vectors: tuple[Tensor, ...]
    made: tuple[Tensor, ...]
    read: tuple[Tensor, ...]

    def flat(self) -> tuple[Tensor, ...]:
        """The tensors in a row, as autograd and operators take them."""
        return (self.x, *self.states, self.initial, *self.vectors, *self.made, *self.read)

    @staticmethod
    def of(graph: Graph, tensors: Sequence[Tensor]) -> Gradients:
        """The inverse of `flat`."""
        rest = iter(tensors)
        operands = range(len(backward_plan(graph).operands))
        return Gradients(
            x=next(rest),
            states=tuple(next(rest) for _ in graph.states),
            initial=next(rest),
            vectors=tuple(next(rest) for _ in graph.vectors),
            made=tuple(next(rest) for _ in operands),
            read=tuple(next(rest) for _ in operands),
        )


@dataclass(frozen=True)
class Operand:
    """A value of the cell that is projected, onto gates or by the output projection (gates = ()).

    value: the backward graph's node that holds it. gradients: the backward graph's gradient of each
    projection, in the order of `gates`.
    """

    gates: tuple[str, ...]
    value: int
    gradients: tuple[int, ...]


@dataclass(frozen=True)
class BackwardPlan:
    """What an executor needs to know of a cell's backward scan.

    graph: the backward graph. outputs: its outputs by label.
    kept: the cell's nodes whose values of every step forward keeps for it, each once: the new states, of
        which the first is the layer's output, and then what else it reads.
    operands: what is projected; each gives a product for the weights' gradients.
    """

    graph: Graph
    outputs: dict[str, int]
    kept: tuple[int, ...]
    operands: tuple[Operand, ...]


@lru_cache(maxsize=256)
def backward_plan(graph: Graph) -> BackwardPlan:
    """The plan of a cell's backward scan."""
    back = backward(graph)
    outputs = dict(back.outputs)
    operands = []
    for op in ("project", "output"):
        readers: dict[int, list[int]] = {}
        for i, node in walk(graph, op):
            if f"{op} %{i}" in outputs:
                readers.setdefault(node.args[0], []).append(i)
        for node_read, projections in readers.items():
            projections.sort(key=lambda i: gate_rank(graph, i))
            gates = tuple(graph.nodes[i].key for i in projections if op == "project")
            gradients = tuple(outputs[f"{op} %{i}"] for i in projections)
            operands.append(Operand(gates, outputs[f"operand %{node_read}"], gradients))
    states = [i for _, i in graph.outputs]
    kept = dict.fromkeys([*states, *(int(node.key[1:]) for _, node in walk(back, "saved"))])
    return BackwardPlan(back, outputs, tuple(kept), tuple(operands))


def gate_rank(graph: Graph, i: int) -> int:
    """The place of node i's gate in the order in which the weights stack the gates."""
    return graph.gates.index(graph.nodes[i].key) if graph.nodes[i].key else 0


def gate_rows(cell: Graph, gates: Sequence[str], stacked: Tensor, size: int) -> Tensor:
    """The row blocks of these gates in weight_hh or bias_hh: a view where they lie together."""
    blocks = [cell.hidden_gates.index(gate) for gate in gates]
    if blocks == list(range(blocks[0], blocks[0] + len(blocks))):
        return stacked[blocks[0] * size : (blocks[-1] + 1) * size]
    return torch.cat([stacked[b * size : (b + 1) * size] for b in blocks])
