"""The generated GPU kernels in Triton's interpreter: divided as a test wants, and compared with the reference."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import pytest
import torch
from helpers import assert_close, randomize
from torch import Tensor

import gatewise
from gatewise.scan import cuda
from gatewise.scan.gpu.source import Tiling
from gatewise.scan.gpu.tiling import Device

pytest.importorskip("triton")  # made for Linux alone

import numpy as np
import triton.language as tl
from lockstep import lockstep
from triton.runtime import interpreter

DOUBLE = torch.float64
# One program has all units of its rows, here up to 8; a product's sum in one part, or in two.
SINGLE = Tiling(2, 8, 4, 1, False, 8, 1, 1, 99, 4)
SINGLE_SPLIT = Tiling(4, 8, 4, 1, False, 8, 2, 1, 99, 4)
# Three programs share five units, with room for six: all weights resident, sums in two parts, two loads ahead.
THREE = Tiling(4, 2, 1, 3, False, 4, 2, 2, 99, 4)
# Two programs, some weights resident, several tiles of rows each, since `tiled` has no more processors for them.
TURNS = Tiling(2, 4, 2, 2, True, 8, 1, 1, 2, 4)
# Two programs, no weights resident, a sum in three loads or four, three of which are under way.
STREAMED = Tiling(4, 4, 2, 2, False, 2, 1, 3, 0, 4)
SPREAD = [THREE, TURNS, STREAMED]


def name_of(tiling: Tiling) -> str:
    names = {SINGLE: "single", SINGLE_SPLIT: "single split", THREE: "three", TURNS: "turns", STREAMED: "streamed"}
    return names.get(tiling, "tiling")


def make(cell: gatewise.Graph, inputs: int, hidden: int, layers: int = 1, **options: Any) -> gatewise.Recurrent:
    """A layer with random weights and biases."""
    size = max(1, hidden * 3 // 5) if cell.projects_output else 0
    options = {"dtype": DOUBLE, "proj_size": size, **options}
    return randomize(gatewise.Recurrent(cell, inputs, hidden, layers, **options))


@contextmanager
def tiled(tiling: Tiling | None, seed: int = 0, **options: Any) -> Iterator[Any]:
    """Kernels divided like this; programs that exchange run side by side, in an order that the seed decides.

    Gives what `lockstep` saw of them.
    """
    spread = tiling is not None and tiling.tiles > 1
    beside = lockstep(seed, **options) if spread else nullcontext()
    device = Device(tiling.tiles, 0) if spread and tiling.turns else cuda.H100
    with (
        mock.patch.object(cuda, "force", tiling),
        mock.patch.object(cuda, "H100", device),
        mock.patch.object(interpreter, "_patch_lang", _patch_once),
        np.errstate(all="ignore"),  # units that there are not may be anything
        beside as seen,
    ):
        yield seen


def _patch_once(function: Any, patch: Any = interpreter._patch_lang) -> Any:
    """The interpreter replaces Triton's functions once more, in vain, for each function that a kernel calls."""
    modules = [m for m in function.__globals__.values() if m is tl or m is tl.core]
    return patch(function) if any(tl.core.is_builtin(m.load) for m in modules) else interpreter._LangPatchScope()


def results_of(
    layer: gatewise.Recurrent, executor: str, x: Tensor, hx: Sequence[Tensor] = (), **options: Any
) -> list[Tensor]:
    """Outputs, final states and the gradients of x, of hx and of all parameters, by one executor, from one seed."""
    layer.executor = executor
    torch.manual_seed(0)
    x = x.detach().requires_grad_(x.is_floating_point())
    hx = [h.detach().requires_grad_() for h in hx]
    state = (tuple(hx) if len(hx) > 1 else hx[0]) if hx else None
    output, state = layer(x, state, **options)
    made = [output, *(state if isinstance(state, tuple) else (state,))]
    weights = [torch.cos(torch.arange(m.numel(), dtype=DOUBLE)).to(m.dtype).view_as(m) for m in made]
    loss = sum((w * m).sum() for w, m in zip(weights, made, strict=True))
    learned = [p for n, p in layer.named_parameters() if not (hx and "_0_l" in n) or "resets" in options]
    used = [t for t in (x, *hx, *learned) if t.requires_grad]
    return [m.detach() for m in made] + list(torch.autograd.grad(loss, used))


def states(layer: gatewise.Recurrent, batch: int) -> tuple[Tensor, ...]:
    """Random states before the first step."""
    like = layer.weight_hh_l0
    return tuple(torch.randn(shape, dtype=DOUBLE).to(like.dtype) for shape in layer.state_shapes(batch))


def compare(
    layer: gatewise.Recurrent,
    x: Tensor,
    tiling: Tiling | None,
    tolerance: float,
    seed: int = 0,
    hx: Sequence[Tensor] = (),
    **options: Any,
) -> list[Tensor]:
    """The kernels against the float64 reference; gives what the kernels made."""
    exact, wide = copy.deepcopy(layer).double(), x.double() if x.is_floating_point() else x
    expected = results_of(exact, "reference", wide, [h.double() for h in hx], **options)
    with tiled(tiling, seed):
        made = results_of(layer, "cuda", x, hx, **options)
    for k, (a, b) in enumerate(zip(made, expected, strict=True)):
        assert a.dtype == layer.weight_hh_l0.dtype
        assert_close(a.double(), b, tolerance, f"result {k} of {layer}")
    return made
