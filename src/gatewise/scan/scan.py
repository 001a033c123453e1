"""Running a cell over a sequence: project, scan, finish, and their meeting with autograd.

    project   all x.* of all steps in one product            here
    scan      the T steps, one after the other               an executor
    finish    the weights' gradients, over many steps each   here

The scan and its backward are opaque to autograd: `Scan` runs the cell's graph, `ScanBackward` its
backward graph. Second derivatives differentiate the reference, and only when they are asked for.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gatewise.graph.graph import Graph
from gatewise.scan import reference
from gatewise.scan.plan import Gradients, Inputs, backward_plan


def scan(graph: Graph, inputs: Inputs) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a cell over T steps.

    Args:
        graph: the cell. inputs: see `Inputs`.

    Returns:
        The output, which is the first state after each step, (T, B, size), and each state after the last.
    """
    tensors = (*inputs[:5], *inputs.states)
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        states, (output,) = reference.forward(graph, inputs, (graph.outputs[0][1],))
        return output, states
    made = Scan.apply(graph, *tensors)
    return made[0], made[1 : 1 + len(graph.states)]


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W x + b of every step in one product; an integer x means one-hot: columns of W are gathered.

    Args:
        x: (T, B, I) in the weights' dtype, or integers (T, B) in [0, I).
        weight: (G*H, I). bias: (G*H,) or None.

    Returns: (T, B, G*H).
    """
    if x.is_floating_point():
        return F.linear(x, weight, bias)
    columns = F.embedding(x.long(), weight.t().contiguous())
    return columns if bias is None else columns + bias


def finish(graph: Graph, inputs: Inputs, gradients: Gradients) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of weight_hh, bias_hh, weight_hr and vectors: one product an operand, over all steps."""
    size = inputs.hidden_size
    weights: dict[str, list[Tensor]] = {gate: [] for gate in graph.hidden_gates}
    biases: dict[str, list[Tensor]] = {gate: [] for gate in graph.hidden_gates}
    weight_hr = torch.zeros_like(inputs.weight_hr)
    for operand, made, read in zip(backward_plan(graph).operands, gradients.made, gradients.read, strict=True):
        made = made.flatten(0, 1)
        product = made.t() @ read.flatten(0, 1)
        if not operand.gates:
            weight_hr = weight_hr + product
            continue
        for gate, block, sums in zip(operand.gates, product.split(size), made.sum(0).split(size), strict=True):
            weights[gate].append(block)
            biases[gate].append(sums)
    weight_hh = _stack([sum(parts) for parts in weights.values()], inputs.weight_hh)
    bias_hh = _stack([sum(parts) for parts in biases.values()], inputs.bias_hh)
    vectors = [v.sum((0, 1)) for v in gradients.vectors]
    return weight_hh, bias_hh, weight_hr, torch.stack(vectors) if vectors else torch.zeros_like(inputs.vectors)


def _stack(blocks: list[Any], like: Tensor) -> Tensor:
    """The gates' blocks in one tensor shaped as `like`; a gate that got no gradient (0) gets zeros."""
    shape = (-1, *like.shape[1:])
    parts = [b if isinstance(b, Tensor) else torch.zeros_like(like[: len(like) // len(blocks)]) for b in blocks]
    return torch.cat(parts).view(shape) if parts else torch.zeros_like(like)


class Scan(torch.autograd.Function):
    """(graph, x, weight_hh, bias_hh, weight_hr, vectors, *states) -> (output, *states, *kept).

    What is kept for backward (`backward_plan(graph).kept`, whose first is the output) is among the outputs
    only because `setup_context` can't see anything else.
    """

    @staticmethod
    def forward(graph: Graph, *tensors: Tensor) -> tuple[Tensor, ...]:
        states, (output, *kept) = reference.forward(graph, _inputs(tensors), backward_plan(graph).kept)
        return _distinct(tensors, (output, *states, *kept))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.graph, *tensors = inputs
        ctx.count = len(tensors)
        states = len(ctx.graph.states)
        kept = output[1 + states :]
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)  # else what is kept would get zeros of its own size
        ctx.save_for_backward(*tensors, output[0], *kept)

    @staticmethod
    def backward(ctx: Any, *g: Tensor | None) -> tuple[Tensor | None, ...]:
        graph, tensors, kept = ctx.graph, ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        likes = (kept[0], *tensors[5:])
        given = [torch.zeros_like(like) if a is None else a for a, like in zip(g, likes, strict=False)]
        gradients = _gradients(graph, ScanBackward.apply(graph, ctx.count, len(given), *tensors, *kept, *given))
        weights = finish(graph, _inputs(tensors), gradients) if any(ctx.needs_input_grad[2:6]) else (None,) * 4
        return (None, gradients.x, *weights, *gradients.states)


class ScanBackward(torch.autograd.Function):
    """(graph, counts, *inputs, *kept, *g) -> the tensors of `Gradients`; differentiable, by the reference."""

    @staticmethod
    def forward(graph: Graph, inputs: int, g: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        kept = tensors[inputs : len(tensors) - g]
        return _distinct(tensors, _reverse(graph, _inputs(tensors[:inputs]), kept, tensors[len(tensors) - g :]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.graph, ctx.inputs, ctx.g, *tensors = inputs
        ctx.kept = len(tensors) - ctx.inputs - ctx.g
        # The kept values are functions of the inputs, and are made again from them when differentiated.
        ctx.save_for_backward(*tensors[: ctx.inputs], *tensors[len(tensors) - ctx.g :])

    @staticmethod
    def backward(ctx: Any, *gg: Tensor) -> tuple[Tensor | None, ...]:
        graph, count = ctx.graph, ctx.inputs

        def whole(*tensors: Tensor) -> tuple[Tensor, ...]:
            inputs = _inputs(tensors[:count])
            _, kept = reference.forward(graph, inputs, backward_plan(graph).kept)
            return _reverse(graph, inputs, kept, tensors[count:])

        made = torch.func.vjp(whole, *ctx.saved_tensors)[1](gg)
        return (None, None, None, *made[:count], *(None,) * ctx.kept, *made[count:])


def _distinct(inputs: tuple[Tensor, ...], made: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What was made, with copies of what is an input or came before: autograd wants distinct new tensors.

    A cell may return a state as it came, or one value as two states.
    """
    seen = {id(t) for t in inputs}
    distinct = []
    for tensor in made:
        distinct.append(tensor.clone() if id(tensor) in seen else tensor)
        seen.add(id(tensor))
    return tuple(distinct)


def _inputs(tensors: tuple[Tensor, ...]) -> Inputs:
    x, weight_hh, bias_hh, weight_hr, vectors, *states = tensors
    return Inputs(x, weight_hh, bias_hh, weight_hr, vectors, tuple(states))


def _reverse(graph: Graph, inputs: Inputs, kept: tuple[Tensor, ...], g: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The backward scan, from flat tensors to flat tensors."""
    made = reference.reverse(graph, inputs, kept, g[0], g[1:])
    return (made.x, *made.states, *made.vectors, *made.made, *made.read)


def _gradients(graph: Graph, flat: tuple[Tensor, ...]) -> Gradients:
    rest = iter(flat)
    operands = range(len(backward_plan(graph).operands))
    return Gradients(
        x=next(rest),
        states=tuple(next(rest) for _ in graph.states),
        vectors=tuple(next(rest) for _ in graph.vectors),
        made=tuple(next(rest) for _ in operands),
        read=tuple(next(rest) for _ in operands),
    )
