"""What the generated GPU kernels call, each function alone against torch, at the points where such functions break."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

pytest.importorskip("triton")  # made for Linux alone

import triton
import triton.language as tl
from tiled import tiled
from torch import Tensor
from triton.runtime.interpreter import interpreter_builder

from gatewise.scan import cuda
from gatewise.scan.gpu import device

pytestmark = pytest.mark.skipif(not cuda.interpreted(), reason="Triton compiles here, for a GPU")

INF, NAN = math.inf, math.nan
TYPES = [torch.float32, torch.float64]
HARD = [INF, -INF, NAN, 0.0, -0.0, 1e-45, -1e-45, 1e-38, 1e-30, -1e-30, 1e-8, -1e-8, 0.5, -0.5, 0.625, 1.0, -1.0]
HARD += [20.0, 20.1, 87.4, 88.7, 88.8, -87.4, -88.0, -103.0, -104.0, 99.0, -111.0, 709.0, 710.0, -745.0, -746.0, 1e30]


def kernel_of(function: Any, arguments: int) -> Any:
    """A kernel of one program: y = function(a, …)."""
    names = ["a", "b", "c"][:arguments]
    loads = "".join(f"    {n} = tl.load({n} + i)\n" for n in names)
    given = ", ".join(names)
    text = f"def kernel(y, {given}, N: tl.constexpr):\n    i = tl.arange(0, N)\n{loads}"
    scope = {"tl": tl, "function": function}
    exec(f"{text}    tl.store(y + i, function({given}))\n", scope)
    return triton.jit(scope["kernel"])


def run(function: Any, *arguments: Tensor) -> Tensor:
    """function(…) of tensors, by the interpreter."""
    count = arguments[0].numel()
    size = 1 << (count - 1).bit_length()
    padded = [torch.nn.functional.pad(a, (0, size - count)) for a in arguments]
    y = torch.empty_like(padded[0])
    # A GPU's minimum and maximum give the other number if one is NaN; the interpreter's give NaN.
    with (
        tiled(None),
        mock.patch.multiple(
            type(interpreter_builder),
            create_minnumf=lambda self, a, b: self.binary_op(a, b, np.fmin),
            create_maxnumf=lambda self, a, b: self.binary_op(a, b, np.fmax),
        ),
    ):
        kernel_of(function, len(arguments))[(1,)](y, *padded, size)
    return y[:count]


def ulps(made: Tensor, true: Tensor, kind: torch.dtype) -> float:
    """The largest error in units in the last place of what is true, which is in float64."""
    true = true.double()
    normal = (true.abs() >= torch.finfo(kind).tiny) & (true.abs() <= torch.finfo(kind).max)
    size = torch.from_numpy(np.spacing(true[normal].abs().to(kind).numpy()).astype(np.float64))
    return float(((made.double()[normal] - true[normal]).abs() / size).max())


def same_where_special(made: Tensor, expected: Tensor) -> None:
    """NaN where torch has NaN, and its infinities, and 0 where it has 0 or next to nothing."""
    assert torch.equal(made.isnan(), expected.isnan())
    assert torch.equal(made.isinf() * made.sgn(), expected.isinf() * expected.sgn())
    tiny = torch.finfo(made.dtype).tiny
    assert (made[expected.abs() < tiny].abs() <= 2 * tiny).all()


def points(dtype: torch.dtype) -> Tensor:
    reach = 100 if dtype is torch.float32 else 700
    small = torch.logspace(-40 if dtype is torch.float32 else -300, 0, 3001, dtype=torch.float64)
    parts = [torch.tensor(HARD), torch.linspace(-reach, reach, 6001), torch.linspace(-1.5, 1.5, 6001), small, -small]
    return torch.cat([p.to(dtype) for p in parts])


def pairs(*values: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    a, b = torch.cartesian_prod(*[torch.tensor(values, dtype=dtype)] * 2).unbind(1)
    return a.contiguous(), b.contiguous()


def filled(a: Tensor, *numbers: float) -> list[Tensor]:
    return [torch.full_like(a, number) for number in numbers]


def sigmoid(a: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-a))


# Bounds of the errors in units in the last place: of float32, and of float64 beside torch's own function.
FUNCTIONS = {
    "exp": (device.exp, torch.exp, 2, 1),
    "expm1": (device.expm1, torch.expm1, 4, 4),
    "sigmoid": (device.sigmoid, sigmoid, 3, 3),
    "tanh": (device.tanh, torch.tanh, 3, 4),
    "sqrt": (device.sqrt, torch.sqrt, 0.5, 1),
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_one_number(name: str, dtype: torch.dtype) -> None:
    function, torchs, *bounds = FUNCTIONS[name]
    x = points(dtype)
    made = run(function, x)
    same_where_special(made, torchs(x))
    assert ulps(made, torchs(x.double()), dtype) <= bounds[dtype is torch.float64]


@pytest.mark.parametrize("dtype", TYPES)
def test_log1p_of_what_is_not_negative(dtype: torch.dtype) -> None:
    x = points(dtype)
    x = torch.cat([x[(x >= 0) | x.isnan()], torch.tensor([1e7, 1e9, 1e17, 1e30], dtype=dtype)])
    made = run(device.log1p, x)
    same_where_special(made, torch.log1p(x))
    assert ulps(made, torch.log1p(x.double()), dtype) <= 4


@pytest.mark.parametrize("dtype", TYPES)
def test_powers_are_those_of_c(dtype: torch.dtype) -> None:
    a, b = pairs(
        0.0, -0.0, INF, -INF, NAN, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.5, -0.5, 2.5, -1.5, 1e-3, -7.0, 100.0, 1e20,
        dtype=dtype,
    )  # fmt: skip
    made, expected = run(device.power, a, b), torch.pow(a, b)
    same_where_special(made, expected)
    assert torch.equal(made[made == 0].signbit(), expected[made == 0].signbit())
    # In float64 the error of b * log(a) is a relative one of the power: a unit for each 1 of it, and 700 at most.
    assert ulps(made, torch.pow(a.double(), b.double()), dtype) <= (1 if dtype is torch.float32 else 700)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("beta", "threshold"), [(1.0, 20.0), (0.7, 10.0), (3.0, 5.0), (1.0, 1e4)])
def test_softplus(beta: float, threshold: float, dtype: torch.dtype) -> None:
    x = points(dtype)
    made = run(device.softplus, x, *filled(x, beta, threshold))
    same_where_special(made, torch.nn.functional.softplus(x, beta, threshold))
    # exp's error, and that of beta * x, which is a relative one of exp: a unit for each 1 of it.
    near = torch.where(x.abs() < 20, x, 0.0)
    made, true = run(device.softplus, near, *filled(x, beta, threshold)), near.double()
    assert ulps(made, torch.nn.functional.softplus(true, *torch.tensor([beta, threshold], dtype=dtype)), dtype) <= 64


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("alpha", [1.0, 0.7, -0.5])
def test_elu(alpha: float, dtype: torch.dtype) -> None:
    x = points(dtype)
    made = run(device.elu, x, *filled(x, alpha))
    same_where_special(made, torch.nn.functional.elu(x, alpha))
    rounded = float(torch.tensor(alpha, dtype=dtype))
    assert ulps(made, torch.nn.functional.elu(x.double(), rounded), dtype) <= 4


@pytest.mark.parametrize("dtype", TYPES)
def test_choices_keep_nan(dtype: torch.dtype) -> None:
    a, b = pairs(INF, -INF, NAN, 0.0, 1.0, -1.0, 1e-45, 3.5, dtype=dtype)
    choices: list[tuple[Any, Callable[[Tensor, Tensor], Tensor]]] = [
        (device.minimum, torch.minimum), (device.maximum, torch.maximum),
    ]  # fmt: skip
    for function, torchs in choices:
        assert torch.equal(run(function, a, b).nan_to_num(7e7), torchs(a, b).nan_to_num(7e7))
    for low, high in ((-1.0, 0.5), (-INF, 1.0), (0.0, INF), (2.0, -2.0)):  # high wins where the bounds cross
        made, expected = run(device.clamp, a, *filled(a, low, high)), torch.clamp(a, low, high)
        assert torch.equal(made.nan_to_num(7e7), expected.nan_to_num(7e7))


def all_bits_set(dtype: torch.dtype) -> Tensor:
    whole = {8: torch.int64, 4: torch.int32, 2: torch.int16}[dtype.itemsize]
    return torch.full((1,), -1, dtype=whole).view(dtype)


@triton.jit
def missing_of_two(a, b):
    return device.missing((a, b), 4)


@pytest.mark.parametrize("dtype", [*TYPES, torch.float16, torch.bfloat16])
def test_all_bits_set_are_missing_and_nothing_plain_is(dtype: torch.dtype) -> None:
    numbers = torch.tensor([NAN, -NAN, INF, -INF, 0.0, -0.0, 1.5], dtype=dtype)
    unset = all_bits_set(dtype)

    def is_missing(a: Tensor) -> bool:
        found = {bool(run(missing_of_two, *pair)[0]) for pair in ((a, torch.zeros_like(a)), (torch.ones_like(a), a))}
        assert len(found) == 1
        return found.pop()

    assert not is_missing(numbers)
    for place in range(8):
        assert is_missing(torch.cat([numbers[:place], unset, numbers[place:]]))
    if dtype in TYPES:
        made = run(device.plain, torch.cat([numbers, unset]))
        assert not is_missing(made)
        assert torch.equal(made[2:7], numbers[2:])
        assert made[[0, 1, 7]].isnan().all()


@triton.jit
def missing_among(y, a, PARTS: tl.constexpr, WARPS: tl.constexpr):
    i = tl.arange(0, 8)[:, None] * 64 + tl.arange(0, 64)[None, :]
    parts = (tl.load(a + i),)
    for k in tl.static_range(1, PARTS):
        parts = parts + (tl.load(a + k * 512 + i),)  # noqa: RUF005 (Triton has no stars)
    tl.store(y, device.missing(parts, WARPS))


@pytest.mark.parametrize("warps", [2, 4, 8])
@pytest.mark.parametrize("parts", range(1, 9))
def test_one_missing_number_of_many_is_found(parts: int, warps: int) -> None:
    a, y = torch.randn(parts, 512), torch.full((1,), -1, dtype=torch.int32)
    for place in (None, 0, 77, 511):
        for part in range(parts) if place is not None else (0,):
            b = a.clone()
            if place is not None:
                b.view(torch.int32)[part, place] = -1
            with tiled(None):
                missing_among[(1,)](y, b, parts, warps)
            assert y.item() == (place is not None)


@triton.jit
def sums_of_parts(y, a, GATES: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr):
    i = tl.arange(0, ROWS)[:, None] * UNITS + tl.arange(0, UNITS)[None, :]
    parts = tl.arange(0, PARTS)[:, None, None] * (ROWS * UNITS) + i[None]
    size: tl.constexpr = ROWS * UNITS
    if GATES == 1:
        tl.store(y + i, device.total(tl.load(a + parts)))
    else:
        one, other = device.totals(tl.load(a + parts), tl.load(a + PARTS * size + parts))
        tl.store(y + i, one)
        tl.store(y + size + i, other)


@pytest.mark.parametrize("gates", [1, 2])
@pytest.mark.parametrize("parts", [2, 4, 8, 16, 32])
def test_total_is_the_sum_of_the_parts(parts: int, gates: int) -> None:
    a, y = torch.randn(gates, parts, 4, 2, dtype=torch.float64), torch.empty(gates, 4, 2, dtype=torch.float64)
    with tiled(None):
        sums_of_parts[(1,)](y, a, gates, parts, 4, 2)
    assert torch.allclose(y, a.sum(1), rtol=1e-14, atol=1e-14)
