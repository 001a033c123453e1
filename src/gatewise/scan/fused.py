"""A layer in one direction as one call of the C++ kernels, its projection and all gradients included.

This is the plain eager case. What it isn't (torch.func, torch.compile, another executor) goes by way of stages.py and
autograd.py, and so do second derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.jit._trace import is_tracing

from gatewise.graph.graph import Graph
from gatewise.scan import cpu
from gatewise.scan.autograd import masked, scan
from gatewise.scan.executors import note, pick
from gatewise.scan.plan import WEIGHTS, Inputs, backward_plan
from gatewise.scan.stages import project


class Call(NamedTuple):
    """What a layer's scan is told besides tensors."""

    graph: Graph
    flip: bool  # the reverse direction: the input's last step is the scan's first
    executor: str


def run(
    call: Call, inputs: Inputs, weight_ih: Tensor, bias_ih: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A layer in one direction.

    Args:
        inputs: as a scan reads them, except for x, which is the layer's input, (T, B, I) or integers (T, B); its
            resets, active and masks are in the scan's order.
        weight_ih, bias_ih: the input's projection.

    Returns: the output, (T, B, size) in the input's order, 0 where a step is not active; and the final states.
    """
    if not plain():
        return _by_stages(call, inputs, weight_ih, bias_ih)
    chosen, reason = pick(call.executor, call.graph, inputs, (weight_ih, bias_ih))
    if chosen is not cpu:
        return _by_stages(call, inputs, weight_ih, bias_ih)
    note(call.graph, chosen, reason)
    tensors = (inputs.x, weight_ih, bias_ih, *inputs.flat()[1:])
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        output, finals = differentiable(call, inputs, weight_ih, bias_ih)
    else:
        features = inputs.x.is_floating_point()
        projection = cpu.Projection(call.flip, weight_ih, bias_ih, features)
        finals, (output, *_) = cpu.forward(call.graph, inputs, (), False, projection)
    active = inputs.active.flip(0) if call.flip and inputs.active.shape[0] else inputs.active
    return masked(output, active), tuple(finals)


def differentiable(
    call: Call, inputs: Inputs, weight_ih: Tensor, bias_ih: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`run` by the kernels, where they can and a gradient is wanted; what lies beyond the lengths is not masked."""
    output, *finals = Fused.apply(call, inputs.x, weight_ih, bias_ih, *inputs.flat()[1:])  # type: ignore[no-untyped-call]
    return output, tuple(finals)


def plain() -> bool:
    """Whether tensors are what they seem: nothing records, maps or replaces what is done to them."""
    return not (
        torch.compiler.is_compiling()
        or is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or torch.autograd.forward_ad._current_level >= 0
    )


def _by_stages(
    call: Call, inputs: Inputs, weight_ih: Tensor, bias_ih: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`run` in its stages, each of which can be differentiated in any way."""
    x = project(inputs.x, weight_ih, bias_ih)
    output, finals = scan(call.graph, inputs._replace(x=x.flip(0) if call.flip else x), call.executor)
    return output.flip(0) if call.flip else output, finals


class Fused(torch.autograd.Function):
    """(call, x, weight_ih, bias_ih, *`Inputs` without x) -> (output, *final states)."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        inputs, projection = Fused.given(call, tensors)
        extras = backward_plan(call.graph).extras
        finals, kept = cpu.forward(call.graph, inputs, extras, True, projection)
        ctx.call, ctx.count = call, len(tensors)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *kept)
        return kept[0], *finals

    @staticmethod
    def given(call: Call, tensors: Sequence[Any]) -> tuple[Inputs, cpu.Projection]:
        x, weight_ih, bias_ih, *others = tensors
        return Inputs.of(call.graph, (x, *others)), cpu.Projection(call.flip, weight_ih, bias_ih, x.is_floating_point())

    @staticmethod
    def backward(ctx: Any, g_output: Tensor | None, *g_states: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # read once: each reading unpacks anew (checkpointing)
        tensors, kept = saved[: ctx.count], saved[ctx.count :]
        wanted = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() or not plain() or not _dense(g_output, *g_states):
            return None, *_differentiable(ctx.call, tensors, (g_output, *g_states), wanted)
        inputs, projection = Fused.given(ctx.call, tensors)
        made = cpu.reverse_layer(ctx.call.graph, inputs, projection, kept, g_output, g_states, wanted)
        return None, *made, *(None,) * (ctx.count - len(made))


def _dense(*g: Tensor | None) -> bool:
    return all(t is None or (type(t) is Tensor and t.layout == torch.strided) for t in g)


def _differentiable(
    call: Call, tensors: Sequence[Any], g: Sequence[Tensor | None], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients once more, as something that can be differentiated again."""
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        # Of one tensor that is given twice each place has its own gradient.
        given = [t.view_as(t) if want else t for t, want in zip(tensors, wanted, strict=True)]
        x, weight_ih, bias_ih, *others = given
        output, finals = _by_stages(call, Inputs.of(call.graph, (x, *others)), weight_ih, bias_ih)
        made = [(o, t) for o, t in zip((output, *finals), g, strict=True) if t is not None]
        asked = [t for t, want in zip(given, wanted, strict=True) if want]
        grads = iter(
            torch.autograd.grad(
                [o for o, _ in made], asked, [t for _, t in made], create_graph=create, allow_unused=True
            )
            if made
            else [None] * len(asked)
        )
    return [next(grads) if want else None for want in wanted]
