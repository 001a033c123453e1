"""A layer in one direction as one call of the C++ kernels, its projection and all gradients included.

This is the plain eager case. What it isn't (torch.func, torch.compile, another executor) goes by way of stages.py and
autograd.py, and so do second derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from gatewise.graph.graph import Graph
from gatewise.scan import cpu
from gatewise.scan.autograd import masked, scan
from gatewise.scan.executors import note, pick
from gatewise.scan.plan import Inputs, backward_plan
from gatewise.scan.stages import project


class Call(NamedTuple):
    """What a layer's scan is told besides tensors."""

    graph: Graph
    flip: bool  # the reverse direction: the input's last step is the scan's first
    executor: str
    hidden: int
    output: int  # P, or H without a projection


class Given(NamedTuple):
    """The tensors of a layer in one direction, None for what there is not.

    x: (T, B, I), or integers (T, B). Then as in `Inputs`, the masks and flags in the scan's order; a state that is None
    is zeros. All lie densely, and x in rows.
    """

    x: Tensor
    weight_ih: Tensor
    bias_ih: Tensor | None
    weight_hh: Tensor
    bias_hh: Tensor | None
    weight_hr: Tensor | None
    vectors: Tensor | None
    initial: Tensor | None
    resets: Tensor | None
    active: Tensor | None
    states: Sequence[Tensor | None]
    masks: Sequence[Tensor]

    @staticmethod
    def of(graph: Graph, flat: Sequence[Any]) -> Given:
        states = 10 + len(graph.states)
        return Given._make((*flat[:10], flat[10:states], flat[states:]))

    def flat(self) -> tuple[Tensor | None, ...]:
        return (*self[:10], *self.states, *self.masks)


def run(
    graph: Graph, flip: bool, executor: str, inputs: Inputs, weight_ih: Tensor, bias_ih: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A layer in one direction.

    Args:
        graph: the cell. flip: whether it is the reverse direction. executor: see `choose` in executors.py.
        inputs: as a scan reads them, except for x, which is the layer's input, (T, B, I) or integers (T, B); its
            resets, active and masks are in the scan's order.
        weight_ih, bias_ih: the input's projection.

    Returns: the output, (T, B, size) in the input's order, 0 where a step is not active; and the final states.
    """
    chosen, reason = pick(executor, graph, inputs, (weight_ih, bias_ih)) if plain() else (None, "")
    if chosen is not cpu:
        return _by_stages(graph, flip, executor, inputs, weight_ih, bias_ih)
    note(graph, chosen, reason)
    x = inputs.x if inputs.x.is_floating_point() else inputs.x.long()
    if x.dim() == 3 and x.stride(2) != 1:
        x = x.contiguous()
    flat = (x, weight_ih, bias_ih, *inputs[1:6], inputs.resets, inputs.active, *inputs.states, *inputs.masks)
    dense = [flat[0], *(None if t is None else t.contiguous() if t.numel() else None for t in flat[1:])]
    given = Given.of(graph, dense)._replace(weight_ih=weight_ih.contiguous(), weight_hh=inputs.weight_hh.contiguous())
    output, finals = run_kernels(Call(graph, flip, executor, inputs.hidden_size, inputs.projected_size), given)
    return masked(output, inputs.active.flip(0) if flip else inputs.active), finals


def run_kernels(call: Call, given: Given) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`run` by the kernels, where they can; the output beyond the lengths is not masked."""
    flat = given.flat()
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in flat):
        output, *finals = Fused.apply(call, *flat)  # type: ignore[no-untyped-call]
    else:
        (output, *finals), _ = _forward(call, given, False)
    return output, tuple(finals)


def plain() -> bool:
    """Whether tensors are what they seem: nothing records, maps or replaces what is done to them."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
    )


def _by_stages(
    graph: Graph, flip: bool, executor: str, inputs: Inputs, weight_ih: Tensor, bias_ih: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`run` in its stages, each of which can be differentiated in any way."""
    x = project(inputs.x, weight_ih, bias_ih)
    output, finals = scan(graph, inputs._replace(x=x.flip(0) if flip else x), executor)
    return output.flip(0) if flip else output, finals


# --- by the kernels ---------------------------------------------------------------------------------------


class Programs(NamedTuple):
    forward: Any
    forward_keeping: Any
    backward: Any
    states: tuple[str, ...]  # their sizes, H or P
    extras: tuple[str, ...]  # the sizes of what is kept for backward besides the states


@lru_cache(maxsize=256)
def programs(graph: Graph) -> Programs:
    extras = backward_plan(graph).extras
    sizes = tuple("P" if graph.sizes[i] == "P" else "H" for i in extras)
    kernels = cpu.forward_kernel(graph), cpu.forward_kernel(graph, extras), cpu.backward_kernel(graph)
    return Programs(*kernels, graph.state_sizes, sizes)


def _forward(call: Call, given: Given, keep: bool) -> tuple[list[Tensor], Tensor | None]:
    """Output and final states, and what is kept: the other states after each step, and the extras, in a row."""
    known, x = programs(call.graph), given.x
    like, steps, batch = given.weight_ih, x.shape[0], x.shape[1]
    output = cpu.empty(like, steps, batch, call.output)
    finals = [like.new_empty(batch, call.output if s == "P" else call.hidden) for s in known.states]
    kept = None
    news, keeps = [output.data_ptr(), *(0,) * (len(finals) - 1)], list[int]()
    if keep:
        kept = cpu.empty(like, steps * batch * _width(call, known))
        news, keeps = _places(call, known, output, kept)
    cpu.run(
        known.forward_keeping if keep else known.forward, *_numbers(call, given), len(news), *news,
        len(keeps), *keeps, *_masks(given), len(finals), *(f.data_ptr() for f in finals),
    )  # fmt: skip
    return [output, *finals], kept


def _width(call: Call, known: Programs) -> int:
    """How many numbers are kept, a row and step."""
    return sum(call.output if s == "P" else call.hidden for s in (*known.states[1:], *known.extras))


def _places(call: Call, known: Programs, output: Tensor, kept: Tensor) -> tuple[list[int], list[int]]:
    """Where the states after each step lie, and the extras."""
    rows = output.shape[0] * output.shape[1] * output.element_size()
    places, at = [], kept.data_ptr()
    for size in (*known.states[1:], *known.extras):
        places.append(at)
        at += rows * (call.output if size == "P" else call.hidden)
    states = len(known.states) - 1
    return [output.data_ptr(), *places[:states]], places[states:]


def _numbers(call: Call, given: Given) -> list[int]:
    """What a run is told first, in the order in which csrc/module.cpp reads it."""
    x, features = given.x, given.x.is_floating_point()
    place = x.data_ptr()
    return [
        given.weight_ih.element_size() == 8, call.flip, x.shape[0], x.shape[1], given.weight_ih.shape[1],
        call.hidden, call.output, x.stride(0), x.stride(1), place if features else 0, 0 if features else place,
        *(0 if t is None else t.data_ptr() for t in given[1:10]),
        len(given.states), *(0 if s is None else s.data_ptr() for s in given.states),
    ]  # fmt: skip


def _masks(given: Given) -> list[int]:
    return [len(given.masks), *(m.data_ptr() for m in given.masks), *(m.dim() == 3 for m in given.masks)]


def _backward(
    call: Call, given: Given, output: Tensor, kept: Tensor, g: Sequence[Tensor | None], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of `Given.flat()`, None where they are not wanted."""
    known, like = programs(call.graph), given.weight_ih
    steps, batch = given.x.shape[0], given.x.shape[1]
    news, keeps = _places(call, known, output, kept)
    g = [t if t is None else t.contiguous() for t in g]
    made: list[Tensor | None] = [cpu.empty(like, steps, batch, like.shape[1]) if wanted[0] else None]
    made += [
        cpu.empty(like, *t.shape) if w and t is not None else None for t, w in zip(given[1:7], wanted[1:], strict=False)
    ]
    cuts = None if given.initial is None else like.new_zeros(batch, given.initial.shape[0])
    count = len(given.states)
    states = [
        like.new_empty(batch, call.output if s == "P" else call.hidden) if w else None
        for s, w in zip(known.states, wanted[10:], strict=False)
    ]
    cpu.run(
        known.backward, *_numbers(call, given), count, *news, len(keeps), *keeps, *_masks(given),
        *(0 if t is None else t.data_ptr() for t in g[:1]), count, *(0 if t is None else t.data_ptr() for t in g[1:]),
        count, *(0 if t is None else t.data_ptr() for t in states), 0,
        *(0 if t is None else t.data_ptr() for t in (*made, cuts)),
    )  # fmt: skip
    made += [None if cuts is None or not wanted[7] else cuts.sum(0), None, None, *states]
    return made + [None] * len(given.masks)


class Fused(torch.autograd.Function):
    """(call, *`Given`, flat) -> (output, *final states)."""

    @staticmethod
    def forward(ctx: Any, call: Call, *flat: Tensor | None) -> tuple[Tensor, ...]:
        made, kept = _forward(call, Given.of(call.graph, flat), True)
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*flat, made[0], kept)
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *g: Tensor | None) -> tuple[Tensor | None, ...]:
        *flat, output, kept = ctx.saved_tensors  # read once: each reading unpacks anew (checkpointing)
        wanted = ctx.needs_input_grad[1:]
        dense = all(t is None or (type(t) is Tensor and t.layout is torch.strided) for t in g)
        if torch.is_grad_enabled() or not dense or not plain():
            return None, *_differentiable(ctx.call, flat, g, wanted)
        return None, *_backward(ctx.call, Given.of(ctx.call.graph, flat), output, kept, g, wanted)


def _differentiable(
    call: Call, flat: Sequence[Any], g: Sequence[Tensor | None], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients once more, as something that can be differentiated again."""
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        # Of one tensor that is given twice each place has its own gradient.
        flat = [t.view_as(t) if want else t for t, want in zip(flat, wanted, strict=True)]
        given = Given.of(call.graph, flat)
        like, batch = given.weight_ih, given.x.shape[1]
        none, flags = like.new_zeros(0, call.hidden), torch.zeros(0, 0, dtype=torch.bool)
        sizes = [call.output if s == "P" else call.hidden for s in call.graph.state_sizes]
        inputs = Inputs(
            given.x,
            given.weight_hh,
            like.new_zeros(len(call.graph.hidden_gates) * call.hidden) if given.bias_hh is None else given.bias_hh,
            none if given.weight_hr is None else given.weight_hr,
            none if given.vectors is None else given.vectors,
            like.new_zeros(0) if given.initial is None else given.initial,
            tuple(like.new_zeros(batch, size) if s is None else s for s, size in zip(given.states, sizes, strict=True)),
            flags if given.resets is None else given.resets,
            flags if given.active is None else given.active,
            tuple(given.masks),
        )
        output, finals = _by_stages(call.graph, call.flip, call.executor, inputs, given.weight_ih, given.bias_ih)
        made = [(o, t) for o, t in zip((output, *finals), g, strict=True) if t is not None]
        asked = [t for t, want in zip(flat, wanted, strict=True) if want]
        found: Sequence[Tensor | None] = [None] * len(asked)
        if made:
            found = torch.autograd.grad(
                [o for o, _ in made], asked, [t for _, t in made], create_graph=create, allow_unused=True
            )
    grads = iter(found)
    return [next(grads) if want else None for want in wanted]
