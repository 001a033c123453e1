"""The CPU executor: both graphs as programs (program.py), which C++ kernels run (csrc/).

No cell is named in C++: what the kernels know are matrix products, tiles and instructions.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gatewise.graph.graph import Graph
from gatewise.scan.plan import Gradients, Inputs, backward_plan, unfit
from gatewise.scan.program import Compiled, Refusal, backward_program, forward_program

_kernels: Any = None
_missing = ""  # why there are no kernels
try:
    _kernels = importlib.import_module("gatewise.scan._kernels")
except ModuleNotFoundError:
    _missing = "gatewise was installed without its C++ kernels; install a C++ compiler, and gatewise again"
except ImportError as error:
    _missing = f"the C++ kernels can't be loaded: {error}"

INSTRUCTION_SETS = ("best", "portable", "avx2", "avx512", "avx512_bf16")  # as csrc/choose.cpp numbers them
TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}  # as csrc/program.h numbers them
use = "best"  # tests choose
_numbers_of_sets = {name: number for number, name in enumerate(INSTRUCTION_SETS)}


def instruction_set() -> str:
    """The instruction set that the kernels use on this machine; empty if there are none."""
    return str(_kernels.instruction_set()) if _kernels else ""


def reason(graph: Graph, inputs: Inputs) -> str:
    """What runs, in words."""
    return f"C++ kernels, {instruction_set()}"


def why_not(graph: Graph, inputs: Inputs, others: Sequence[Tensor | None] = ()) -> str:
    """Why these kernels can't run a scan; empty if they can."""
    like = inputs.weight_hr
    if _kernels is None:
        return _missing
    if like.device.type != "cpu":
        return f"the tensors are on {like.device}, the C++ kernels run on the CPU"
    if like.dtype not in TYPES:
        return f"the tensors are {like.dtype}, the C++ kernels have float32, float64 and bfloat16"
    return unfit(graph, inputs, others) or why_not_graph(graph)


@lru_cache(maxsize=256)
def why_not_graph(graph: Graph) -> str:
    """Why these kernels can't run a cell; empty if they can."""
    try:
        _program(forward_program(graph, ()))
        _program(forward_program(graph, backward_plan(graph).extras))
        _program(backward_program(graph))
    except Refusal as reason:
        return str(reason)
    return ""


def available() -> bool:
    """Whether there are kernels."""
    return _kernels is not None


def forward_kernel(graph: Graph, extras: tuple[int, ...] = ()) -> Any:
    """The program of a cell's steps, which stores these nodes besides the states."""
    return _program(forward_program(graph, extras))


def backward_kernel(graph: Graph) -> Any:
    """The program of a cell's steps backward."""
    return _program(backward_program(graph))


def run(program: Any, *numbers: int) -> None:
    """Run a program; see csrc/module.cpp for the numbers that follow the instruction set and the threads."""
    _kernels.run(program, _numbers_of_sets[use], torch.get_num_threads(), *numbers)


@lru_cache(maxsize=512)
def _program(compiled: Compiled) -> Any:
    return _kernels.program(compiled.integers, compiled.numbers)


def forward(
    graph: Graph, inputs: Inputs, extras: Sequence[int], keep: bool
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Run T steps; see `reference.forward`."""
    dtype, inputs = inputs.weight_hr.dtype, dense(inputs)
    like, (steps, batch) = inputs.weight_hr, inputs.x.shape[:2]
    finals = tuple(like.new_empty(batch, s.shape[1]) for s in inputs.states)
    kept = len(finals) if keep else 1
    columns = tuple(empty(like, steps, batch, s.shape[1]) for s in inputs.states[:kept])
    values = tuple(empty(like, steps, batch, inputs.kept_width(graph, i)) for i in extras)
    news = [*columns, *(None,) * (len(finals) - kept)]
    run(forward_kernel(graph, tuple(extras)), *_arguments(dtype, inputs, news, values), *_list(finals))
    return tuple(f.to(dtype) for f in finals), tuple(k.to(dtype) for k in columns + values)


def reverse(
    graph: Graph,
    inputs: Inputs,
    kept: Sequence[Tensor],
    g_states: Sequence[Tensor],
    g_seen: Sequence[Tensor],
) -> Gradients:
    """Run the T steps of the backward graph, last to first; see `reference.reverse`."""
    dtype, inputs = inputs.weight_hr.dtype, dense(inputs)
    like = inputs.weight_hr
    steps, batch = inputs.x.shape[:2]
    columns = tuple(empty(like, steps, batch, column.width(inputs)) for column in backward_plan(graph).columns)
    made = tuple(like.new_empty(g.shape) for g in g_states)
    g_initial = like.new_zeros(batch, inputs.initial.shape[0])
    kept, g_states, g_seen = ([_dense(t) for t in tensors] for tensors in (kept, g_states, g_seen))
    states = len(graph.states)
    run(
        backward_kernel(graph), *_arguments(dtype, inputs, kept[:states], kept[states:]), *_list(g_seen),
        *_list(g_states), *_list(made), *_list(columns), *(0,) * 7, g_initial.data_ptr(),
    )  # fmt: skip
    return Gradients(tuple(g.to(dtype) for g in made), g_initial.to(dtype), tuple(c.to(dtype) for c in columns))


def empty(like: Tensor, *shape: int) -> Tensor:
    """A tensor without values, in memory that was in use before, if there is some: see csrc/memory.cpp."""
    count = math.prod(shape)
    if count < 1 << 15:  # the system's allocator keeps small pieces itself
        return like.new_empty(shape)
    return torch.frombuffer(_kernels.buffer(count * like.element_size()), dtype=like.dtype, count=count).view(shape)


def _arguments(dtype: torch.dtype, inputs: Inputs, news: Sequence[Tensor | None], keeps: Sequence[Tensor]) -> list[int]:
    """What both directions of a run are given, in the order in which csrc/module.cpp reads it; x is projected."""
    x, like, masks = inputs.x, inputs.weight_hr, inputs.masks
    return [
        TYPES[dtype], False, x.shape[0], x.shape[1], 0, like.shape[1], inputs.projected_size,
        x.stride(0), x.stride(1), x.data_ptr(), 0, 0, 0,
        *pointers((inputs.weight_hh, inputs.bias_hh, like, inputs.vectors, inputs.initial)),
        *pointers((inputs.resets, inputs.active)),
        *_list(inputs.states), *_list(news), *_list(keeps), *_list(masks), *(m.dim() == 3 for m in masks),
    ]  # fmt: skip


def _list(tensors: Sequence[Tensor | None]) -> list[int]:
    return [len(tensors), *pointers(tensors)]


def pointers(tensors: Sequence[Tensor | None]) -> list[int]:
    """Where tensors lie; 0 where there is none, or nothing in it."""
    return [0 if t is None else t.data_ptr() for t in tensors]


def dense(inputs: Inputs) -> Inputs:
    """The inputs as the kernels read them."""
    return Inputs._make(tuple(map(_dense, t)) if isinstance(t, tuple) else _dense(t) for t in inputs)


def _dense(t: Tensor) -> Tensor:
    return widened(t).contiguous()


def widened(t: Tensor) -> Tensor:
    """As a run holds it: bfloat16 in float32, in which its states and sums are."""
    return t.float() if t.dtype is torch.bfloat16 else t
