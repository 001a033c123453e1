"""A layer of a net in its one or two directions: at once or one by one, over all steps or in stretches of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.jit._trace import is_tracing
from torch.utils.checkpoint import checkpoint

from gatewise.graph.graph import Graph
from gatewise.scan import fused
from gatewise.scan.autograd import scan
from gatewise.scan.plan import Inputs
from gatewise.scan.stages import project


class Direction(NamedTuple):
    """What a layer reads in one direction, see `fused.run`."""

    inputs: Inputs
    weight_ih: Tensor
    bias_ih: Tensor | None


# What `fused.run` returns: the output, the final states, what is watched.
Made = tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]


KEEPS = "recompute: torch.func's gradients and vmap keep everything; set layer.recompute = None"
CHANGED = (
    "recompute: what the layer has read was modified by an inplace operation before backward, which would now read "
    "something else; modify a copy, or set layer.recompute = None"
)


def run(graph: Graph, executor: str, directions: Sequence[Direction], recompute: int | None = None) -> list[Made]:
    """A layer in its directions.

    Args:
        graph: the cell. executor: see `choose` in executors.py. directions: the reverse one last.
        recompute: run again in backward, in stretches of so many steps; None keeps what backward needs.

    Raises ValueError: recompute is no number of steps.
    """
    if recompute is not None:
        if type(recompute) is not int or recompute < 1:
            raise ValueError(f"recompute is {recompute!r}, expected a number of steps, 1 or more, or None")
        # Of a graph that is exported the stretches would fix the number of steps.
        exporting = torch.compiler.is_exporting() or is_tracing()
        if not exporting and torch.is_grad_enabled() and any(t.requires_grad for t in _tensors(directions)):
            return _in_stretches(graph, executor, directions, recompute)
    return _run(graph, executor, directions)


def _run(graph: Graph, executor: str, directions: Sequence[Direction]) -> list[Made]:
    on_gpu = executor == "cuda" or (executor == "auto" and directions[0].inputs.x.device.type == "cuda")
    if len(directions) == 2 and on_gpu:
        return _both(graph, executor, directions)
    return [fused.run(graph, flip > 0, executor, *direction) for flip, direction in enumerate(directions)]


def _both(graph: Graph, executor: str, directions: Sequence[Direction]) -> list[Made]:
    """Both directions in one scan, as two groups of samples."""
    given = []
    for flip, (inputs, weight_ih, bias_ih) in enumerate(directions):
        x = project(inputs.x.flip(0) if flip else inputs.x, weight_ih, bias_ih)
        given.append(inputs._replace(x=x))
    output, finals, watched = scan(graph, Inputs.together(given), executor)
    parts = [[t.chunk(2, axis) for t in ts] for ts, axis in (((output,), 1), (finals, 0), (watched, 1))]
    (one,), first, seen = ([t[0] for t in ts] for ts in parts)
    (other,), last, others = ([t[1] for t in ts] for ts in parts)
    return [(one, tuple(first), tuple(seen)), (other.flip(0), tuple(last), tuple(w.flip(0) for w in others))]


# --- memory for time --------------------------------------------------------------------------------


def _in_stretches(graph: Graph, executor: str, directions: Sequence[Direction], every: int) -> list[Made]:
    """`_run` in stretches of steps, of which only the states that they begin with are kept; backward runs each again
    when it comes to it. So at most one stretch's gates are alive at once."""
    steps = directions[0].inputs.x.shape[0]
    sizes = [min(every, steps - begin) for begin in range(0, steps, every)]
    each = [_stretches(d.inputs, sizes, flip > 0) for flip, d in enumerate(directions)]
    states = [d.inputs.states for d in directions]
    made: list[list[Made]] = []
    for stretch in zip(*each, strict=True):
        given = [
            whole._replace(inputs=part._replace(states=begin))
            for whole, part, begin in zip(directions, stretch, states, strict=True)
        ]
        made.append(_run_again(partial(_run, graph, executor), given))
        states = [finals for _, finals, _ in made[-1]]
    return [_joined([stretch[d] for stretch in made], d > 0) for d in range(len(directions))]


def _run_again(run: Callable[[Sequence[Direction]], list[Made]], given: Sequence[Direction]) -> list[Made]:
    """What `run` makes of it; what backward needs besides is made again there."""
    eager = fused.plain()
    if not torch.compiler.is_compiling() and any(map(torch._C._functorch.is_batchedtensor, _tensors(given))):
        raise RuntimeError(KEEPS)  # outside of vmap, where backward runs, they are nothing any more
    versions = _versions(given) if eager else []

    def run_unchanged(given: Sequence[Direction]) -> list[Made]:
        # Autograd asks this of what it keeps itself, and of nothing that is made again.
        if eager and _versions(given) != versions:
            raise RuntimeError(CHANGED)
        return run(given)

    try:  # all that is random was drawn before
        made: list[Made] = checkpoint(run_unchanged, given, use_reentrant=False, preserve_rng_state=False)
        return made
    except RuntimeError as error:
        if "saved tensor hooks" not in str(error):
            raise
        raise RuntimeError(KEEPS) from error


def _tensors(directions: Sequence[Direction]) -> list[Tensor]:
    return [t for inputs, *weights in directions for t in (*inputs.flat(), *weights) if t is not None]


def _versions(directions: Sequence[Direction]) -> list[int]:
    """How often each tensor was changed in place; one made in inference mode has no count."""
    return [t._version for t in _tensors(directions) if not t.is_inference()]


def _stretches(inputs: Inputs, sizes: Sequence[int], flip: bool) -> Iterator[Inputs]:
    """The inputs of each stretch in the scan's order, which all but x has already; the states are the whole scan's."""
    # By split, whose backward is one pass; that of each slice would fill a whole sequence with zeros.
    x = inputs.x.split(sizes[::-1])[::-1] if flip else inputs.x.split(sizes)
    by_step = [*(t.shape[0] > 0 for t in (inputs.resets, inputs.active)), *(m.dim() == 3 for m in inputs.masks)]
    others = (inputs.resets, inputs.active, *inputs.masks)
    parts = [t.split(sizes) if cut else (t,) * len(sizes) for t, cut in zip(others, by_step, strict=True)]
    for part, resets, active, *masks in zip(x, *parts, strict=True):
        yield inputs._replace(x=part, resets=resets, active=active, masks=tuple(masks))


def _joined(stretches: Sequence[Made], flip: bool) -> Made:
    """What one direction made."""
    outputs, finals, watched = zip(*(stretches[::-1] if flip else stretches), strict=True)
    return torch.cat(outputs), finals[0 if flip else -1], tuple(torch.cat(w) for w in zip(*watched, strict=True))
