"""A layer in one direction as one call of the C++ kernels, its projection and all gradients included.

This is the plain eager case. What it isn't (torch.func, torch.compile, another executor) goes by way of stages.py and
autograd.py, and so do second derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from gatewise.graph.graph import Graph
from gatewise.scan import cpu
from gatewise.scan.autograd import check_gradients, masked, scan
from gatewise.scan.executors import note, pick
from gatewise.scan.plan import Inputs, backward_plan
from gatewise.scan.stages import project


class Plan(NamedTuple):
    """What a layer's scan is told besides tensors."""

    graph: Graph
    flip: bool  # the reverse direction: the input's last step is the scan's first
    executor: str
    hidden: int
    output: int  # P, or H without a projection
    axes: tuple[int, ...]  # (1,) where states have an axis of layers
    type: int  # see csrc/program.h
    watched: tuple[int, ...]  # the sizes of what is watched
    forward: Any  # programs; the second keeps what backward needs
    forward_keeping: Any
    backward: Any
    states: tuple[int, ...]  # their sizes
    places: tuple[int, ...]  # of what is kept, other states and extras: how many numbers a row come before
    kept: int  # how many these are in all


@lru_cache(maxsize=256)
def plan(
    graph: Graph, flip: bool, executor: str, hidden: int, output: int, dtype: torch.dtype, axes: tuple[int, ...] = ()
) -> Plan:
    """The plan of a cell at its sizes."""
    extras = backward_plan(graph).extras
    kernels = cpu.forward_kernel(graph, graph.watched), cpu.forward_kernel(graph, extras), cpu.backward_kernel(graph)
    widths = {"H": hidden, "P": output}
    states = tuple(widths[s] for s in graph.state_sizes)
    sizes = [*states, *(1 if i in graph.shared else widths[graph.sizes[i]] for i in extras)]
    end = len(sizes) - len(graph.watched)
    watched, sizes = tuple(sizes[end:]), sizes[:end]
    places = tuple(accumulate(sizes[1:-1], initial=0))[: len(sizes) - 1]
    known = graph, flip, executor, hidden, output, axes, cpu.TYPES[dtype], watched
    return Plan(*known, *kernels, states, places, sum(sizes[1:]))


class Given(NamedTuple):
    """The tensors of a layer in one direction, None for what there is not.

    x: (T, B, I), or integers (T, B). Then as in `Inputs`, the masks and flags in the scan's order; a state that is None
    is zeros. All lie densely, and x in rows.
    """

    x: Tensor
    weight_ih: Tensor
    bias_ih: Tensor | None
    weight_hh: Tensor | None
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
        """From the tensors in a row, as autograd and the kernels take them."""
        states = 10 + len(graph.states)
        return Given._make((*flat[:10], flat[10:states], flat[states:]))


def run(
    graph: Graph, flip: bool, executor: str, inputs: Inputs, weight_ih: Tensor, bias_ih: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """A layer in one direction.

    Args:
        graph: the cell. flip: whether it is the reverse direction. executor: see `choose` in executors.py.
        inputs: as a scan reads them, except for x, which is the layer's input, (T, B, I) or integers (T, B); its
            resets, active and masks are in the scan's order.
        weight_ih, bias_ih: the input's projection.

    Returns: the output, (T, B, size) in the input's order, 0 where a step is not active; the final states; and what is
        watched, like the output, but anything where a step is not active.
    """
    here = plain() and inputs.x.is_cpu  # elsewhere the stages choose
    chosen, reason = pick(executor, graph, inputs, (weight_ih, bias_ih)) if here else (None, "")
    if chosen is not cpu:
        return _by_stages(graph, flip, executor, inputs, weight_ih, bias_ih)
    note(graph, chosen, reason)
    x = cpu.widened(inputs.x) if inputs.x.is_floating_point() else inputs.x.long()
    if x.dim() == 3 and x.stride(2) != 1:
        x = x.contiguous()
    others = (bias_ih, inputs.weight_hh, *inputs[2:6], inputs.resets, inputs.active, *inputs.states, *inputs.masks)
    dense = [None if t is None or not t.numel() else cpu.widened(t).contiguous() for t in others]
    dtype = weight_ih.dtype
    known = plan(graph, flip, executor, inputs.hidden_size, inputs.projected_size, dtype)
    output, finals, watched = run_kernels(known, (x, cpu.widened(weight_ih).contiguous(), *dense))
    output = masked(output, inputs.active.flip(0) if flip else inputs.active)
    watched = tuple(w.flip(0) for w in watched) if flip else watched
    return output.to(dtype), tuple(f.to(dtype) for f in finals), tuple(w.to(dtype) for w in watched)


def run_kernels(known: Plan, flat: Sequence[Any]) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """`run` by the kernels, of what `Given` lists: the output beyond the lengths is not masked, and what is watched
    is in the scan's order."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in flat):
        output, *others = Fused.apply(known, *flat)  # type: ignore[no-untyped-call]
    else:
        (output, *others), _ = _forward(known, flat, False)
    return output, tuple(others[: len(known.states)]), tuple(others[len(known.states) :])


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
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """`run` in its stages, each of which can be differentiated in any way."""
    x = project(inputs.x.flip(0) if flip else inputs.x, weight_ih, bias_ih)
    output, finals, watched = scan(graph, inputs._replace(x=x), executor)
    return (output.flip(0), finals, tuple(w.flip(0) for w in watched)) if flip else (output, finals, watched)


# --- by the kernels ---------------------------------------------------------------------------------------


def _numbers(
    known: Plan, flat: Sequence[Any], output: Tensor, kept: Tensor | None, watched: Sequence[Tensor]
) -> list[int]:
    """What both directions of a run are told first, in the order in which csrc/module.cpp reads it."""
    x, like, count, place = flat[0], flat[1], len(known.states), output.data_ptr()
    if kept is None:
        news, keeps = [place, *(0,) * (count - 1)], list[int]()
    else:
        at, ahead = kept.data_ptr(), kept.shape[0] // known.kept * kept.element_size()
        news = [place, *[at + ahead * k for k in known.places[: count - 1]]]
        keeps = [at + ahead * k for k in known.places[count - 1 :]]
    keeps += cpu.pointers(watched)
    steps, batch, *_ = x.shape
    x_step, x_row, *_ = x.stride()
    place, *others = cpu.pointers(flat)
    masks = flat[10 + count :]
    return [
        known.type, known.flip, steps, batch, like.shape[1], known.hidden, known.output, x_step, x_row,
        *((place, 0) if x.is_floating_point() else (0, place)), *others[:9],
        count, *others[9 : 9 + count], count, *news, len(keeps), *keeps,
        len(masks), *others[9 + count :], *[m.dim() == 3 for m in masks],
    ]  # fmt: skip


def _forward(known: Plan, flat: Sequence[Any], keep: bool) -> tuple[list[Tensor], Tensor | None]:
    """Output, final states and what is watched; and what is kept, the other states after each step, and the extras,
    in a row."""
    like, (steps, batch, *_) = flat[1], flat[0].shape
    output = cpu.empty(like, steps, batch, known.output)
    finals = [like.new_empty((*known.axes, batch, size)) for size in known.states]
    watched = [cpu.empty(like, steps, batch, size) for size in known.watched]
    kept = cpu.empty(like, steps * batch * known.kept) if keep and known.kept else None
    program = known.forward_keeping if keep else known.forward
    cpu.run(program, *_numbers(known, flat, output, kept, watched), len(finals), *cpu.pointers(finals))
    return [output, *finals, *watched], kept


def _backward(
    known: Plan,
    flat: Sequence[Any],
    output: Tensor,
    kept: Tensor | None,
    watched: Sequence[Tensor],
    g: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of what `Given` lists, None where they are not wanted."""
    like, (steps, batch, *_) = flat[1], flat[0].shape
    g, initial, count = [t if t is None else t.contiguous() for t in g], flat[7], len(known.states)
    made: list[Tensor | None] = [cpu.empty(like, steps, batch, like.shape[1]) if wanted[0] else None]
    made += [cpu.empty(t, *t.shape) if wanted[k] else None for k, t in enumerate(flat[1:7], 1)]
    cuts = None if initial is None else like.new_zeros(batch, initial.shape[0])
    states = [like.new_empty((*known.axes, batch, n)) if wanted[k] else None for k, n in enumerate(known.states, 10)]
    g_output, *others = cpu.pointers(g)
    cpu.run(
        known.backward, *_numbers(known, flat, output, kept, watched),
        1 + len(watched), g_output, *others[count:], count, *others[:count],
        count, *cpu.pointers(states), 0, *cpu.pointers((*made, cuts)),
    )  # fmt: skip
    made += [cuts.sum(0) if cuts is not None and wanted[7] else None, None, None, *states]
    return made + [None] * (len(flat) - len(made))


class Fused(torch.autograd.Function):
    """(plan, *what `Given` lists) -> (output, *final states, *what is watched)."""

    @staticmethod
    def forward(ctx: Any, known: Plan, *flat: Tensor | None) -> tuple[Tensor, ...]:
        made, kept = _forward(known, flat, True)
        ctx.known = known
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*flat, made[0], kept, *made[1 + len(known.states) :])
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *g: Tensor | None) -> tuple[Tensor | None, ...]:
        check_gradients(g)
        saved = ctx.saved_tensors  # read once: each reading unpacks anew (checkpointing)
        end = len(saved) - 2 - len(ctx.known.watched)
        flat, (output, kept, *watched) = saved[:end], saved[end:]
        wanted = ctx.needs_input_grad[1:]
        dense = all(t is None or (type(t) is Tensor and t.layout is torch.strided) for t in g)
        if torch.is_grad_enabled() or not dense or not plain():
            return None, *_differentiable(ctx.known, flat, g, wanted)
        return None, *_backward(ctx.known, flat, output, kept, watched, g, wanted)


def _differentiable(
    known: Plan, flat: Sequence[Any], g: Sequence[Tensor | None], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients once more, as something that can be differentiated again."""
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        # Of one tensor that is given twice each place has its own gradient.
        flat = [t.view_as(t) if want else t for t, want in zip(flat, wanted, strict=True)]
        given = Given.of(known.graph, flat)
        like, batch = given.weight_ih, given.x.shape[1]
        none, flags = like.new_zeros(0, known.hidden), torch.zeros(0, 0, dtype=torch.bool)
        sizes = [known.output if s == "P" else known.hidden for s in known.graph.state_sizes]
        inputs = Inputs(
            given.x,
            like.new_zeros(0, known.output) if given.weight_hh is None else given.weight_hh,
            like.new_zeros(len(known.graph.hidden_gates) * known.hidden) if given.bias_hh is None else given.bias_hh,
            none if given.weight_hr is None else given.weight_hr,
            none if given.vectors is None else given.vectors,
            like.new_zeros(0) if given.initial is None else given.initial,
            tuple(
                like.new_zeros(batch, size) if s is None else s.view(batch, size)
                for s, size in zip(given.states, sizes, strict=True)
            ),
            flags if given.resets is None else given.resets,
            flags if given.active is None else given.active,
            tuple(given.masks),
        )
        output, finals, watched = _by_stages(
            known.graph, known.flip, known.executor, inputs, given.weight_ih, given.bias_ih
        )
        watched = tuple(w.flip(0) for w in watched) if known.flip else watched
        made = [(o, t.view_as(o)) for o, t in zip((output, *finals, *watched), g, strict=True) if t is not None]
        asked = [t for t, want in zip(flat, wanted, strict=True) if want]
        found: Sequence[Tensor | None] = [None] * len(asked)
        if made:
            found = torch.autograd.grad(
                [o for o, _ in made], asked, [t for _, t in made], create_graph=create, allow_unused=True
            )
    grads = iter(found)
    return [next(grads) if want else None for want in wanted]
