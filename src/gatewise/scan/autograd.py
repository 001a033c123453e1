"""Where a scan meets autograd, torch.func and torch.compile.

The scan and its backward are opaque: the first runs the cell's graph, the second its backward graph, both by an
executor. Eager calls reach them through `torch.autograd.Function`, which has rules for `vmap` and `jvp` and
costs half as much as a custom op; compiled and exported calls through `torch.library`, since TorchDynamo can't
trace a Function with such rules. What neither has a rule for (second derivatives, jvp) differentiates the
reference, and only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.jit._trace import is_tracing

from gatewise.graph.graph import Graph
from gatewise.scan.executors import at_once, choose
from gatewise.scan.plan import WEIGHTS, Gradients, Inputs, backward_plan
from gatewise.scan.stages import finish

# A scan takes `Inputs.flat()`: x, the weights, the states, which are differentiable; resets, active and masks, not.
STATES = 1 + WEIGHTS  # the first state's place


def scan(graph: Graph, inputs: Inputs, executor: str = "auto") -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Run a cell over T steps.

    Args:
        graph: the cell. inputs: see `Inputs`. executor: see `choose` in executors.py.

    Returns:
        The output, which is the first state after each step, (T, B, size); each state after the last; and what is
        watched, (T, B, size) each. Where a step is not active, the output is 0, and what is watched anything.
    """
    tensors = inputs.flat()
    differentiated = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if torch.compiler.is_compiling() or is_tracing():
        keep = differentiated or is_tracing()  # a trace is run with gradients and without
        made: Sequence[Tensor] = torch.ops.gatewise.scan(graph.text, executor, keep, list(tensors))
    elif torch._C._are_functorch_transforms_active() or (differentiated and not _dual(tensors)):
        made = Scan.apply(graph, executor, *tensors)
    else:
        made = run_forward(graph, "reference" if _dual(tensors) else executor, False, tensors)
    watched = made[len(made) - len(graph.watched) :]
    return masked(made[0], inputs.active), tuple(made[1 : 1 + len(graph.states)]), tuple(watched)


def masked(output: Tensor, active: Tensor) -> Tensor:
    """The output, 0 where a step is not active."""
    return torch.where(active.unsqueeze(2), output, torch.zeros_like(output)) if active.shape[0] else output


def _dual(tensors: Sequence[Tensor]) -> bool:
    """Whether forward-mode AD is at work without torch.func: the reference then is differentiated as it runs.

    A Function's jvp rule would nest a second level of forward-mode AD, which torch refuses there.
    """
    level = torch.autograd.forward_ad._current_level >= 0
    return level and any(torch.autograd.forward_ad.unpack_dual(t).tangent is not None for t in tensors)


# --- from flat tensors to flat tensors, by an executor ----------------------------------------------


def run_forward(graph: Graph, executor: str, keep: bool, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """`Inputs`, flat -> (output, *states, *what backward needs besides the output if `keep`, *watched)."""
    inputs = Inputs.of(graph, tensors)
    extras = backward_plan(graph).extras if keep else graph.watched
    run = choose(executor, graph, inputs)[0]
    if at_once(run, graph, inputs):
        states, columns = run.forward(graph, inputs, extras, keep)
    else:
        each = [run.forward(graph, group, extras, keep) for group in inputs.by_group()]
        states, columns = (
            [torch.cat(parts, axis) for parts in zip(*made, strict=True)]
            for axis, made in enumerate(zip(*each, strict=True))
        )
    return _distinct(tensors, (columns[0], *states, *columns[1:]))


def run_backward(
    graph: Graph, executor: str, tensors: Sequence[Tensor], kept: Sequence[Tensor], g: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Forward's inputs, its output with what it kept, and the gradients of (output, *states, *watched) -> `Gradients`,
    flat."""
    inputs, end = Inputs.of(graph, tensors), 1 + len(graph.states)
    run = choose(executor, graph, inputs)[0]
    states, seen = g[1:end], (g[0], *g[end:])
    if at_once(run, graph, inputs):
        made = run.reverse(graph, inputs, kept, states, seen).flat()
    else:
        count = inputs.groups
        given = [[t.chunk(count, axis) for t in ts] for ts, axis in ((kept, 1), (states, 0), (seen, 1))]
        each = [
            run.reverse(graph, group, *([t[d] for t in ts] for ts in given)).flat()
            for d, group in enumerate(inputs.by_group())
        ]
        axes = [*(0,) * (len(states) + 1), *(1,) * len(backward_plan(graph).columns)]
        made = tuple(torch.cat(parts, axis) for parts, axis in zip(zip(*each, strict=True), axes, strict=True))
    return _distinct((*tensors, *kept, *g), made)


def _batch_axes(graph: Graph) -> list[int | None]:
    """Where each of a scan's flat tensors has its batch; None for a weight."""
    masks = [1 if graph.nodes[i].op == "step_mask" else 0 for i in graph.masks]
    return [1, *(None,) * WEIGHTS, *(0,) * len(graph.states), 1, 1, *masks]


def _distinct(inputs: Sequence[Tensor], made: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What was made, with copies of what is an input or came before: autograd wants distinct new tensors.

    A cell may return a state as it came, or one value as two states.
    """
    seen = {id(t) for t in inputs}
    distinct = []
    for tensor in made:
        distinct.append(tensor.clone() if id(tensor) in seen else tensor)
        seen.add(id(tensor))
    return tuple(distinct)


def _input_gradients(
    graph: Graph,
    tensors: Sequence[Tensor],
    output: Tensor,
    flat: Sequence[Tensor],
    weights: bool,
    eager: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients of a scan's flat tensors, from its output and what the backward scan made."""
    gradients = Gradients.of(graph, flat)
    inputs = Inputs.of(graph, tensors)
    products = finish(graph, inputs, output, gradients, eager) if weights else (None,) * WEIGHTS
    made = (gradients.columns[0], *products, *gradients.states)
    return (*made, *(None,) * (len(tensors) - len(made)))


def check_gradients(g: Sequence[Tensor | None]) -> None:
    """Raise RuntimeError for gradients that torch.autograd maps over itself, for which operators would need rules that
    can't be written in Python."""
    if any(t is not None and torch._C._functorch.is_legacy_batchedtensor(t) for t in g):
        raise RuntimeError(
            "is_grads_batched=True and vectorize=True are not for gatewise's layers; "
            "use torch.func.jacrev, or torch.func.vmap of torch.func.vjp"
        )


def _given(graph: Graph, tensors: Sequence[Tensor], kept: Sequence[Tensor], g: Sequence[Tensor | None]) -> list[Tensor]:
    """The gradients of (output, *states, *watched), zeros where there is none."""
    states, others = len(graph.states), len(kept) - len(graph.watched)
    given = (*g[: 1 + states], *g[len(g) - len(graph.watched) :])
    return _zeros_for_none(given, (kept[0], *tensors[STATES : STATES + states], *kept[others:]))


def _jvp(
    run: Callable[..., tuple[Tensor, ...]], primals: Sequence[Tensor], tangents: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """torch.func.jvp, which refuses tensors whose elements share memory, as expanded ones do."""
    given = _zeros_for_none(tangents, primals)
    dense = [tuple(t.contiguous() for t in tensors) for tensors in (primals, given)]
    made: tuple[Tensor, ...] = torch.func.jvp(run, *dense)[1]
    return made


def _zeros_for_none(g: Sequence[Tensor | None], likes: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(like) if a is None else a for a, like in zip(g, likes, strict=True)]


# --- eager: Functions -------------------------------------------------------------------------------


class Scan(torch.autograd.Function):
    """(graph, executor, *inputs) -> (output, *states, *kept, *watched).

    What is kept for backward besides the output is among the outputs only because `setup_context` can't see
    anything else.
    """

    @staticmethod
    def forward(graph: Graph, executor: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        return run_forward(graph, executor, True, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.graph, ctx.executor, *tensors = inputs
        kept = output[1 + len(ctx.graph.states) :]
        ctx.count, ctx.made = len(tensors), len(output)
        ctx.mark_non_differentiable(*kept[: len(kept) - len(ctx.graph.watched)])
        ctx.set_materialize_grads(False)  # else what is kept would get zeros of its own size
        ctx.save_for_backward(*tensors, output[0], *kept)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *g: Tensor | None) -> tuple[Tensor | None, ...]:
        check_gradients(g)
        graph, saved = ctx.graph, ctx.saved_tensors  # read once: each reading unpacks anew (checkpointing)
        tensors, kept = saved[: ctx.count], saved[ctx.count :]
        given = _given(graph, tensors, kept, g)
        flat = ScanBackward.apply(graph, ctx.executor, ctx.count, len(given), *tensors, *kept, *given)
        # kept[0] is the output, with its own graph: finish reads it, and may be differentiated again.
        weights = any(ctx.needs_input_grad[3 : 2 + STATES])
        return (None, None, *_input_gradients(graph, tensors, kept[0], flat, weights, eager=True))

    @staticmethod
    def jvp(ctx: Any, _graph: None, _executor: None, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        end = STATES + len(ctx.graph.states)
        primals, fixed = ctx.saved_tensors[:end], ctx.saved_tensors[end:]
        made = _jvp(
            lambda *tensors: run_forward(ctx.graph, "reference", False, (*tensors, *fixed)), primals, tangents[:end]
        )
        return (*made, *(None,) * (ctx.made - len(made)))

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], graph: Graph, executor: str, *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        states = len(graph.states)
        made_axes = [1, *(0,) * states] + [1] * (states - 1 + len(backward_plan(graph).extras))

        def run(*t: Tensor) -> tuple[Tensor, ...]:
            made: tuple[Tensor, ...] = Scan.apply(graph, executor, *t)
            return made

        return _fold(graph, info.batch_size, in_dims[2:], tensors, _batch_axes(graph), made_axes, run)


class ScanBackward(torch.autograd.Function):
    """(graph, executor, counts, *inputs, *kept, *g) -> `Gradients`, flat; differentiable, by the reference."""

    @staticmethod
    def forward(graph: Graph, executor: str, count: int, g: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        kept, given = tensors[count : len(tensors) - g], tensors[len(tensors) - g :]
        return run_backward(graph, executor, tensors[:count], kept, given)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.graph, _, ctx.count, ctx.g, *tensors = inputs
        ctx.kept = len(tensors) - ctx.count - ctx.g
        # The kept values are functions of the inputs, and are made again from them when differentiated.
        used = (*tensors[: ctx.count], *tensors[len(tensors) - ctx.g :])
        ctx.save_for_backward(*used)
        ctx.save_for_forward(*used)

    @staticmethod
    def _whole(ctx: Any) -> tuple[Callable[..., tuple[Tensor, ...]], tuple[Tensor, ...]]:
        """Forward and backward as one differentiable function of the inputs and of the gradients; and these."""
        graph, end = ctx.graph, STATES + len(ctx.graph.states)
        saved = ctx.saved_tensors
        fixed = saved[end : ctx.count]

        def whole(*tensors: Tensor) -> tuple[Tensor, ...]:
            inputs = (*tensors[:end], *fixed)
            output, *rest = run_forward(graph, "reference", True, inputs)
            return run_backward(graph, "reference", inputs, (output, *rest[len(graph.states) :]), tensors[end:])

        return whole, (*saved[:end], *saved[ctx.count :])

    @staticmethod
    def backward(ctx: Any, *gg: Tensor) -> tuple[Tensor | None, ...]:
        whole, primals = ScanBackward._whole(ctx)
        made = torch.func.vjp(whole, *primals)[1](gg)
        end = len(primals) - ctx.g
        return (None, None, None, None, *made[:end], *(None,) * (ctx.count - end + ctx.kept), *made[end:])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        whole, primals = ScanBackward._whole(ctx)
        tangents = tangents[4:]
        given = (*tangents[: len(primals) - ctx.g], *tangents[ctx.count + ctx.kept :])
        return _jvp(whole, primals, given)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], graph: Graph, executor: str, count: int, g: int, *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        states, kept = len(graph.states), len(tensors) - count - g
        batch_axes = [*_batch_axes(graph), *(1,) * kept, 1, *(0,) * states, *(1,) * len(graph.watched)]
        made_axes = [*(0,) * states, 0, *(1,) * len(backward_plan(graph).columns)]

        def run(*t: Tensor) -> tuple[Tensor, ...]:
            made: tuple[Tensor, ...] = ScanBackward.apply(graph, executor, count, g, *t)
            return made

        return _fold(graph, info.batch_size, in_dims[4:], tensors, batch_axes, made_axes, run)


def _fold(
    graph: Graph,
    size: int,
    in_dims: Sequence[int | None],
    tensors: Sequence[Tensor],
    batch_axes: Sequence[int | None],
    made_axes: Sequence[int],
    run: Callable[..., tuple[Tensor, ...]],
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """vmap's rule: more samples are a larger batch, unless the weights differ, which takes a loop.

    Args:
        graph: the cell. size: of the mapped axis. in_dims: where each tensor, of `Inputs` first, has it, or None.
        batch_axes: each tensor's batch axis, None for a weight. made_axes: that of each result of `run`.
    """
    if any(axis is None and d is not None for axis, d in zip(batch_axes, in_dims, strict=True)):
        each = [
            run(*(t if d is None else t.select(d, k) for t, d in zip(tensors, in_dims, strict=True)))
            for k in range(size)
        ]
        return tuple(torch.stack(made) for made in zip(*each, strict=True)), (0,) * len(made_axes)
    # A batch of D groups stays D groups, each of `size` times its samples: (D*B) -> (D, size, B) -> (D*size*B).
    groups = Inputs.of(graph, tensors).groups
    folded = []
    for tensor, axis, d in zip(tensors, batch_axes, in_dims, strict=True):
        if axis is not None:
            whole = tensor.unsqueeze(axis).expand(*tensor.shape[:axis], size, *tensor.shape[axis:])
            whole = whole if d is None else tensor.movedim(d, axis)
            apart = whole.unflatten(axis + 1, (groups, whole.shape[axis + 1] // groups))
            folded.append(apart.transpose(axis, axis + 1).flatten(axis, axis + 2))
        else:
            folded.append(tensor)
    results = run(*folded)
    apart = (r.unflatten(a, (groups, size, -1)).transpose(a, a + 1) for r, a in zip(results, made_axes, strict=True))
    return tuple(r.flatten(a + 1, a + 2) for r, a in zip(apart, made_axes, strict=True)), tuple(made_axes)


# --- compiled and exported: torch.library -----------------------------------------------------------

_graph_of = lru_cache(maxsize=256)(Graph.parse)  # operators' schemas carry strings, so a graph travels as its text


@torch.library.custom_op("gatewise::scan", mutates_args=())
def scan_op(graph: str, executor: str, keep: bool, tensors: list[Tensor]) -> list[Tensor]:
    return _apart(tensors, run_forward(_graph_of(graph), executor, keep, tensors))


@torch.library.custom_op("gatewise::scan_backward", mutates_args=())
def scan_backward_op(
    graph: str, executor: str, tensors: list[Tensor], kept: list[Tensor], g: list[Tensor]
) -> list[Tensor]:
    made = run_backward(_graph_of(graph), executor, tensors, kept, g)
    return _apart((*tensors, *kept, *g), [t.contiguous() for t in made])  # as the fake below promises


def _apart(inputs: Sequence[Tensor], made: Sequence[Tensor]) -> list[Tensor]:
    """What was made, with copies of views: an operator's results may share no memory with anything."""
    seen = {t.untyped_storage().data_ptr() for t in inputs}
    apart = []
    for tensor in made:
        pointer = tensor.untyped_storage().data_ptr()
        apart.append(tensor.clone() if pointer in seen else tensor)
        seen.add(pointer)
    return apart


@scan_op.register_fake
def _(graph: str, executor: str, keep: bool, tensors: list[Tensor]) -> list[Tensor]:
    cell = _graph_of(graph)
    inputs = Inputs.of(cell, tensors)
    widths = [inputs.width(cell, i) for _, i in cell.outputs[: None if keep else 1]]
    widths += [inputs.kept_width(cell, i) for i in (backward_plan(cell).extras if keep else cell.watched)]
    steps = [inputs.x.new_empty(*inputs.x.shape[:2], width) for width in widths]
    return [steps[0], *(s.new_empty(s.shape) for s in inputs.states), *steps[1:]]


@scan_backward_op.register_fake
def _(graph: str, executor: str, tensors: list[Tensor], kept: list[Tensor], g: list[Tensor]) -> list[Tensor]:
    cell = _graph_of(graph)
    inputs = Inputs.of(cell, tensors)
    widths = [column.width(inputs) for column in backward_plan(cell).columns]
    return [
        *(s.new_empty(s.shape) for s in inputs.states),
        inputs.x.new_empty(inputs.x.shape[1], inputs.initial.shape[-1]),
        *(inputs.x.new_empty(*inputs.x.shape[:2], width) for width in widths),
    ]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.graph, ctx.executor, _, tensors = inputs
    states = len(_graph_of(ctx.graph).states)
    ctx.count = len(tensors)
    ctx.save_for_backward(*tensors, output[0], *output[1 + states :])


def _backward(ctx: Any, g: list[Tensor | None]) -> tuple[Any, ...]:
    graph, saved = _graph_of(ctx.graph), ctx.saved_tensors
    tensors, kept = saved[: ctx.count], saved[ctx.count :]
    given = _given(graph, tensors, kept, g)
    flat = torch.ops.gatewise.scan_backward(ctx.graph, ctx.executor, list(tensors), list(kept), given)
    return None, None, None, list(_input_gradients(graph, tensors, kept[0], flat, True, eager=False))


scan_op.register_autograd(_backward, setup_context=_setup)
