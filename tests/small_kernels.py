"""Kernels of a few lines whose result is known, for the emulator of PTX to run as Triton compiles them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl

from gatewise.scan import cuda


@triton.jit
def dot(a, b, c, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, F: tl.constexpr, how: tl.constexpr):
    rows, columns, terms = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :], tl.arange(0, K)
    left = tl.load(a + rows * K + terms[None, :])
    right = tl.load(b + columns * K + terms[:, None])  # as weights are: transposed
    tl.store(c + rows * N + columns, tl.dot(left, right, input_precision=how, out_dtype=F))


@triton.jit
def sums(a, b, c, M: tl.constexpr, N: tl.constexpr):
    rows, columns = tl.arange(0, M), tl.arange(0, N)
    tile = tl.load(a + rows[:, None] * N + columns[None, :])
    tl.store(b + rows, tl.sum(tile, 1))
    tl.store(c + columns, tl.max(tile, 0))


@triton.jit
def transpose(a, b, M: tl.constexpr, N: tl.constexpr):
    rows, columns = tl.arange(0, M), tl.arange(0, N)
    tile = tl.load(a + rows[:, None] * N + columns[None, :])
    tl.store(b + columns[:, None] * M + rows[None, :], tl.trans(tile))


@triton.jit
def halves(a, b, M: tl.constexpr, N: tl.constexpr):
    rows, columns = tl.arange(0, M), tl.arange(0, N)
    tile = tl.load(a + rows[:, None] * 2 * N + tl.arange(0, 2 * N)[None, :])
    one, other = tl.split(tl.permute(tl.reshape(tile, (M, 2, N)), (0, 2, 1)))
    tl.store(b + rows[:, None] * 2 * N + columns[None, :], other)
    tl.store(b + rows[:, None] * 2 * N + N + columns[None, :], one)


@triton.jit
def chain(a, steps):
    """Each program adds one to what the program before it made of a step."""
    p = tl.program_id(0)
    for step in range(steps):
        here = a + step * tl.num_programs(0) + p
        value = tl.full((), 0, tl.int32)
        if p > 0:
            value = tl.load(here - 1, volatile=True)
            while value == -1:
                value = tl.load(here - 1, volatile=True)
        tl.store(here, value + 1)


Launch = Callable[[Any, int, list[Any], dict[str, Any]], None]


def check_dot(launch: Launch, dtype: torch.dtype, how: str) -> float:
    """How far products are off, each relative to what float32 or float64 rounds."""
    worst, unit = 0.0, 2.0**-23 if dtype is not torch.float64 else 2.0**-52
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    for warps, M, N, K in ((1, 16, 8, 16), (4, 32, 32, 64), (8, 16, 64, 128)):
        a, b = torch.randn(M, K, dtype=torch.float64).to(dtype), torch.randn(N, K, dtype=torch.float64).to(dtype)
        c = torch.full((M, N), torch.nan, dtype=wide)
        F = tl.float64 if dtype is torch.float64 else tl.float32
        launch(dot, 1, [a, b, c], {"M": M, "N": N, "K": K, "F": F, "how": how, "num_warps": warps})
        exact_a, exact_b = ((t.view(torch.int32) & ~0x1FFF).view(torch.float32) if how == "tf32" else t for t in (a, b))
        scale = exact_a.double().abs() @ exact_b.double().abs().t()
        error = (c.double() - exact_a.double() @ exact_b.double().t()).abs() / scale
        worst = max(worst, error.max().item() / unit)
    return worst


def check_sums(launch: Launch) -> float:
    wrong = 0.0
    for warps, M, N in ((1, 4, 32), (4, 16, 64), (8, 2, 1024), (4, 128, 2)):
        a = torch.randint(-99, 99, (M, N)).float()
        b, c = torch.full((M,), torch.nan), torch.full((N,), torch.nan)
        launch(sums, 1, [a, b, c], {"M": M, "N": N, "num_warps": warps})
        wrong += (b != a.sum(1)).sum().item() + (c != a.amax(0)).sum().item()
    return wrong


def check_moves(launch: Launch, dtype: torch.dtype) -> float:
    wrong = 0.0
    for warps, M, N in ((1, 8, 8), (4, 16, 64), (8, 64, 32)):
        a = torch.randint(-99, 99, (M, N)).to(dtype)
        b = torch.full((N, M), torch.nan, dtype=dtype)
        launch(transpose, 1, [a, b], {"M": M, "N": N, "num_warps": warps})
        wrong += (b != a.t()).sum().item()
        c = torch.full((M, N), torch.nan, dtype=dtype)
        launch(halves, 1, [a, c], {"M": M, "N": N // 2, "num_warps": warps})
        wrong += (c != a.roll(N // 2, 1)).sum().item()
    return wrong


def check_chain(launch: Launch) -> float:
    a = torch.full((3, 7), -1, dtype=torch.int32)
    launch(chain, 7, [a, 3], {"num_warps": 4})
    return float((a != torch.arange(1, 8)).sum().item())


def check_function(launch: Launch, name: str, dtype: torch.dtype) -> float:
    """How far a function of device.py is off as compiled, in units in the last place."""
    from test_device import FUNCTIONS, points, same_where_special, ulps

    a = points(dtype)
    y, size = torch.full_like(a, torch.nan), 1024
    text = f"""def kernel(y, a, count, N: tl.constexpr):
    i = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(y + i, {name}(tl.load(a + i, mask=i < count)), mask=i < count)
"""
    launch(cuda.compiled(text), -(-len(a) // size), [y, a, len(a)], {"N": size, "num_warps": 4})
    torchs = FUNCTIONS[name][1]
    same_where_special(y, torchs(a))
    return ulps(y, torchs(a.double()), dtype)


# What is run, and which number it may give at most: sums of a hundred terms lose some of the last bit.
SMALL: dict[str, tuple[Callable[[Launch], float], float]] = {
    "dot bf16": (lambda launch: check_dot(launch, torch.bfloat16, "ieee"), 2.0),
    "dot fp16": (lambda launch: check_dot(launch, torch.float16, "ieee"), 2.0),
    "dot tf32": (lambda launch: check_dot(launch, torch.float32, "tf32"), 2.0),
    "dot fp32": (lambda launch: check_dot(launch, torch.float32, "ieee"), 99.0),
    "dot fp64": (lambda launch: check_dot(launch, torch.float64, "ieee"), 99.0),
    "sums": (check_sums, 0.0),
    "moves of 16 bits": (lambda launch: check_moves(launch, torch.float16), 0.0),
    "moves of 32 bits": (lambda launch: check_moves(launch, torch.float32), 0.0),
    "moves of 64 bits": (lambda launch: check_moves(launch, torch.float64), 0.0),
    "chain": (check_chain, 0.0),
    # Triton's exp, of which sigmoid is made, is off by a unit for each 1 of |a|: see device.py.
    **{
        f"{name} {kind}": (partial(check_function, name=name, dtype=dtype), 99.0 if name == "sigmoid" else 5.0)
        for name in ("exp", "expm1", "sigmoid", "tanh", "sqrt")
        for kind, dtype in (("fp32", torch.float32), ("fp64", torch.float64))
    },
}
