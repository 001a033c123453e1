"""The three stages of running a cell over a sequence.

project   all x.* of all steps in one product            here, and the random masks
scan      the T steps, one after the other               an executor, by way of autograd.py
finish    the weights' gradients, over many steps each   here, called in backward
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gatewise.graph.graph import Graph
from gatewise.scan.plan import Gradients, Inputs, backward_plan


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W x + b of every step in one product; an integer x means one-hot: columns of W are gathered.

    Args:
        x: (T, B, I) in the weights' dtype, or integers (T, B) in [0, I).
        weight: (G*H, I). bias: (G*H,) or None.

    Returns: (T, B, G*H).
    """
    if x.is_floating_point() or x.is_complex():
        return F.linear(x, weight, bias)
    columns = F.embedding(x.long(), weight.t().contiguous())
    return columns if bias is None else columns + bias


def draw_masks(graph: Graph, steps: int, batch: int, sizes: Mapping[str, int], like: Tensor) -> tuple[Tensor, ...]:
    """The random masks of one layer and direction, by torch's generator, in the order of `graph.masks`.

    Args:
        graph: the cell. steps: T. batch: B. sizes: H and P. like: gives dtype and device.
    """
    masks = []
    for i in graph.masks:
        node, width = graph.nodes[i], sizes[graph.sizes[i]]
        shape = (steps, batch, width) if node.op == "step_mask" else (batch, width)
        numbers = dict(node.params)
        drawn = torch.bernoulli(like.new_empty(shape), numbers["keep"])  # not in place, which vmap refuses
        masks.append(drawn * numbers["scale"])
    return tuple(masks)


def finish(graph: Graph, inputs: Inputs, output: Tensor, gradients: Gradients, eager: bool) -> tuple[Tensor, ...]:
    """The gradients of weight_hh, bias_hh, weight_hr, vectors and initial: one product an operand, over all steps.

    Args:
        graph: the cell. inputs: what the scan read. output: the first state after each step, (T, B, size).
        gradients: what the backward scan made.
        eager: no copy of the output is made, by way of a size of T-1, for which torch.compile would treat T = 2 apart.
    """
    if inputs.weight_hr.dim() == 3:
        return _finish_groups(graph, inputs, output, gradients, eager)
    size, plan = inputs.hidden_size, backward_plan(graph)
    weights: dict[str, list[Tensor]] = {gate: [] for gate in graph.hidden_gates}
    biases: dict[str, list[Tensor]] = {gate: [] for gate in graph.hidden_gates}
    weight_hr = torch.zeros_like(inputs.weight_hr)
    for operand in plan.operands:
        made = gradients.columns[operand.made]
        if operand.read is None and eager and not inputs.resets.shape[0]:
            pairs = [(made[0], inputs.states[0]), (made[1:].flatten(0, 1), output[:-1].flatten(0, 1))]
        else:
            read = first_before(inputs, output) if operand.read is None else gradients.columns[operand.read]
            pairs = [(made.flatten(0, 1), read.flatten(0, 1))]
        made = made.flatten(0, 1)
        first_product, *others = (a.t() @ b for a, b in pairs)
        product = sum(others, start=first_product)
        if not operand.gates:
            weight_hr = weight_hr + product
            continue
        for gate, block, sums in zip(operand.gates, product.split(size), made.sum(0).split(size), strict=True):
            weights[gate].append(block)
            biases[gate].append(sums)
    weight_hh = _stack([sum(parts) for parts in weights.values()], inputs.weight_hh)
    bias_hh = _stack([sum(parts) for parts in biases.values()], inputs.bias_hh)
    vectors = [gradients.columns[v].sum((0, 1)) for v in plan.vectors]
    stacked = torch.stack(vectors) if vectors else torch.zeros_like(inputs.vectors)
    return weight_hh, bias_hh, weight_hr, stacked, gradients.initial.sum(0)


def _finish_groups(
    graph: Graph, inputs: Inputs, output: Tensor, gradients: Gradients, eager: bool
) -> tuple[Tensor, ...]:
    """`finish` of samples in groups, each with its own weights."""
    count = inputs.groups
    outputs, initials = output.chunk(count, 1), gradients.initial.chunk(count, 0)
    columns = [column.chunk(count, 1) for column in gradients.columns]
    each = [
        finish(graph, group, outputs[d], Gradients((), initials[d], tuple(c[d] for c in columns)), eager)
        for d, group in enumerate(inputs.by_group())
    ]
    return tuple(torch.stack(parts) for parts in zip(*each, strict=True))


def first_before(inputs: Inputs, output: Tensor) -> Tensor:
    """The first state before each step, (T, B, size)."""
    before = torch.cat([inputs.states[0].unsqueeze(0), output])[: output.shape[0]]
    if inputs.resets.shape[0]:
        before = torch.where(inputs.resets.unsqueeze(2), inputs.initial[: before.shape[2]], before)
    return before


def _stack(blocks: list[Any], like: Tensor) -> Tensor:
    """The gates' blocks in one tensor shaped as `like`; a gate that got no gradient (0) gets zeros."""
    shape = (-1, *like.shape[1:])
    parts = [b if isinstance(b, Tensor) else torch.zeros_like(like[: len(like) // len(blocks)]) for b in blocks]
    return torch.cat(parts).view(shape) if parts else torch.zeros_like(like)
