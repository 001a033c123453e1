"""The CPU executor: both graphs as programs (program.py), which C++ kernels run (csrc/).

No cell is named in C++: what the kernels know are matrix products, tiles and instructions.
"""

from __future__ import annotations

import importlib
import math
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gatewise.graph.graph import Graph
from gatewise.scan.plan import Gradients, Inputs, backward_plan
from gatewise.scan.program import Compiled, Refusal, backward_program, forward_program

_kernels: Any = None
_missing = ""  # why there are no kernels
try:
    _kernels = importlib.import_module("gatewise.scan._kernels")
except ModuleNotFoundError:
    _missing = "gatewise was installed without its C++ kernels; install a C++ compiler, and gatewise again"
except ImportError as error:
    _missing = f"the C++ kernels can't be loaded: {error}"

INSTRUCTION_SETS = ("best", "portable", "avx2", "avx512")  # as csrc/module.cpp numbers them
use = "best"  # tests choose


def instruction_set() -> str:
    """The instruction set that the kernels use on this machine; empty if there are none."""
    return str(_kernels.instruction_set()) if _kernels else ""


def why_not(graph: Graph, inputs: Inputs) -> str:
    """Why these kernels can't run a scan; empty if they can."""
    x = inputs.x
    if _kernels is None:
        return _missing
    if x.device.type != "cpu":
        return f"the tensors are on {x.device}, the C++ kernels run on the CPU"
    if x.dtype not in (torch.float32, torch.float64):
        return f"the tensors are {x.dtype}, the C++ kernels have float32 and float64"
    if not all(type(t) in (Tensor, torch.nn.Parameter) for t in inputs.flat()):
        return "a tensor is of a subclass of torch's"
    if 0 in x.shape or not inputs.hidden_size:
        return "there is nothing to compute"
    return _refused(graph)


@lru_cache(maxsize=256)
def _refused(graph: Graph) -> str:
    try:
        _program(forward_program(graph, ()))
        _program(forward_program(graph, backward_plan(graph).extras))
        _program(backward_program(graph))
    except Refusal as reason:
        return str(reason)
    return ""


@lru_cache(maxsize=512)
def _program(compiled: Compiled) -> Any:
    return _kernels.program(compiled.integers, compiled.numbers)


def forward(
    graph: Graph, inputs: Inputs, extras: Sequence[int], keep: bool
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Run T steps; see `reference.forward`."""
    inputs = dense(inputs)
    steps, batch = inputs.x.shape[:2]
    columns, turns = {}, {}
    for k, (state, initial) in enumerate(zip(graph.states, inputs.states, strict=True)):
        kept = keep or k == 0
        columns[state] = empty(inputs.x, steps if kept else 2, batch, initial.shape[1])
        turns[state] = not kept
    others = {f"%{i}": empty(inputs.x, steps, batch, inputs.width(graph, i)) for i in extras}

    def place(kind: str, name: str) -> tuple[int, ...] | None:
        if kind == "state":
            return _before(columns[name], inputs.states[graph.states.index(name)], turns[name])
        if kind == "new":
            return _steps(columns[name], turns=turns[name])
        return _steps(others[name]) if kind == "keep" else None

    _run(forward_program(graph, tuple(extras)), graph, inputs, place, None)
    finals = tuple(c[(steps - 1) & 1 if turns[s] else steps - 1].clone() for s, c in columns.items())
    return finals, tuple(c for s, c in columns.items() if not turns[s]) + tuple(others.values())


def reverse(
    graph: Graph, inputs: Inputs, kept: Sequence[Tensor], g_output: Tensor, g_states: Sequence[Tensor]
) -> Gradients:
    """Run the T steps of the backward graph, last to first; see `reference.reverse`."""
    inputs = dense(inputs)
    steps, batch = inputs.x.shape[:2]
    plan = backward_plan(graph)
    columns = [empty(inputs.x, steps, batch, column.width(inputs)) for column in plan.columns]
    carries = {s: empty(inputs.x, 2, batch, g.shape[1]) for s, g in zip(graph.states, g_states, strict=True)}
    kept = [k.contiguous() for k in kept]
    values = {f"%{i}": k for i, k in zip(plan.extras, kept[len(graph.states) :], strict=True)}
    values |= {f"%{i}": k for (_, i), k in zip(graph.outputs, kept, strict=False)}
    g_output, came = g_output.contiguous(), [g.contiguous() for g in g_states]
    g_initial = inputs.x.new_zeros(batch, inputs.initial.shape[0])

    def place(kind: str, name: str) -> tuple[int, ...] | None:
        k = graph.states.index(name) if name in graph.states else 0
        if kind == "state":
            return _before(kept[k], inputs.states[k], False)
        if kind == "carry":
            return _steps(carries[name], turns=True)
        if kind == "grad":
            return _steps(g_output) if name.startswith("%") else _after(carries[name], came[k])
        if kind == "saved":
            return _steps(values[name])
        return _steps(columns[int(name)]) if kind == "column" else None

    _run(backward_program(graph), graph, inputs, place, g_initial)
    return Gradients(tuple(c[0].clone() for c in carries.values()), g_initial, tuple(columns))


def empty(like: Tensor, *shape: int) -> Tensor:
    """A tensor without values, in memory that was in use before, if there is some: see csrc/module.cpp."""
    size = math.prod(shape) * like.element_size()
    if size < 1 << 17:  # the system's allocator keeps small pieces itself
        return like.new_empty(shape)
    return torch.frombuffer(_kernels.buffer(size), dtype=like.dtype, count=math.prod(shape)).view(shape)


def can_multiply(tensors: Sequence[Tensor]) -> bool:
    """Whether `outer` and `linear` can run: on plain matrices of one dtype, on the CPU, whose rows lie densely."""
    if _kernels is None or torch.compiler.is_compiling():
        return False
    dtype = tensors[0].dtype
    return dtype in (torch.float32, torch.float64) and not any(
        type(t) not in (Tensor, torch.nn.Parameter)
        or t.dtype != dtype
        or t.device.type != "cpu"
        or t.stride(-1) != 1
        or torch._C._functorch.is_functorch_wrapped_tensor(t)
        for t in tensors
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, backwards: bool = False) -> Tensor:
    """x W^T + b, for x (N, K) and W (M, K); or, backwards, x W, for W (K, M)."""
    weight = weight.contiguous()
    columns = weight.shape[1] if backwards else weight.shape[0]
    to = empty(x, x.shape[0], columns)
    _kernels.linear(
        INSTRUCTION_SETS.index(use), x.dtype == torch.float64, x.data_ptr(), x.stride(0), weight.data_ptr(),
        0 if bias is None else bias.data_ptr(), to.data_ptr(), *x.shape, columns, backwards, torch.get_num_threads(),
    )  # fmt: skip
    return to


def outer(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The sum over pairs and rows of outer products, a^T b: (N, M) and (N, K) give (M, K)."""
    to = pairs[0][0].new_zeros(pairs[0][0].shape[1], pairs[0][1].shape[1])
    for a, b in pairs:
        _kernels.outer(
            INSTRUCTION_SETS.index(use), a.dtype == torch.float64, a.data_ptr(), a.stride(0), b.data_ptr(),
            b.stride(0), to.data_ptr(), *a.shape, b.shape[1], torch.get_num_threads(),
        )  # fmt: skip
    return to


# --- where arrays lie: (base, first, step, row, first's row, shift, turns) of csrc/program.h -------------


def _steps(t: Tensor, offset: int = 0, turns: bool = False) -> tuple[int, ...]:
    """(T, B, size), or two steps that take turns."""
    return t.data_ptr() + offset * t.element_size(), 0, t.stride(0), t.stride(1), 0, 0, turns


def _row(t: Tensor, offset: int = 0, row: int = 0) -> tuple[int, ...]:
    """(B, size) or (size,), the same at every step."""
    return t.data_ptr() + offset * t.element_size(), 0, 0, row, 0, 0, 0


def _before(t: Tensor, first: Tensor, turns: bool) -> tuple[int, ...]:
    return t.data_ptr(), first.data_ptr(), t.stride(0), t.stride(1), first.stride(0), -1, turns


def _after(t: Tensor, last: Tensor) -> tuple[int, ...]:
    return t.data_ptr(), last.data_ptr(), t.stride(0), t.stride(1), last.stride(0), 1, 1


def _run(
    compiled: Compiled,
    graph: Graph,
    inputs: Inputs,
    place: Callable[[str, str], tuple[int, ...] | None],
    g_initial: Tensor | None,
) -> None:
    x, size = inputs.x, inputs.hidden_size
    numbers: list[int] = []
    for kind, name in compiled.arrays:
        where = place(kind, name)
        if where is None and kind == "input":
            where = _steps(x, graph.input_gates.index(name) * size)
        elif where is None and kind == "vector":
            where = _row(inputs.vectors, graph.vectors.index(name) * size)
        elif where is None and kind == "bias":
            where = _row(inputs.bias_hh, graph.hidden_gates.index(name) * size)
        elif where is None and kind == "mask":
            mask = inputs.masks[[graph.nodes[i].key for i in graph.masks].index(name)]
            where = _steps(mask) if mask.dim() == 3 else _row(mask, row=mask.stride(0))
        numbers += where or (0,) * 7  # scratch is the kernels' own
    pointers = [f.data_ptr() if f.shape[0] else 0 for f in (inputs.resets, inputs.active)]
    integers = [
        int(x.dtype == torch.float64), x.shape[0], x.shape[1], size, inputs.projected_size, torch.get_num_threads(),
        *pointers, inputs.initial.data_ptr(), 0 if g_initial is None else g_initial.data_ptr(),
        inputs.weight_hh.data_ptr(), inputs.weight_hr.data_ptr(), len(compiled.arrays), *numbers,
    ]  # fmt: skip
    _kernels.run(_program(compiled), INSTRUCTION_SETS.index(use), struct.pack(f"{len(integers)}q", *integers))


def dense(inputs: Inputs) -> Inputs:
    """The inputs as the kernels read them: each row's numbers side by side."""
    return Inputs(
        x=inputs.x if inputs.x.stride(2) == 1 else inputs.x.contiguous(),
        weight_hh=inputs.weight_hh.contiguous(),
        bias_hh=inputs.bias_hh.contiguous(),
        weight_hr=inputs.weight_hr.contiguous(),
        vectors=inputs.vectors.contiguous(),
        initial=inputs.initial.contiguous(),
        states=tuple(s.contiguous() for s in inputs.states),
        resets=inputs.resets.contiguous(),
        active=inputs.active.contiguous(),
        masks=tuple(m.contiguous() for m in inputs.masks),
    )
