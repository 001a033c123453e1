"""ONNX's operators that move numbers about and compute none: `ops.py` lists them.

Sizes, axes and the like come as lists of integers where the model has them as constants, and as tensors where it
computes them.

Source: https://onnx.ai/onnx/operators, opset 7 to 28.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Ints = Sequence[int] | Tensor


def ints(value: Ints) -> list[int]:
    """Sizes or axes as integers."""
    return list(value.tolist() if isinstance(value, Tensor) else value)


def number(value: Any) -> int:
    """One integer, however it comes."""
    if isinstance(value, Tensor):
        return int(value)
    found: int = value[0] if isinstance(value, list) else value
    return found


def reshape(x: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor:
    return x.reshape([x.shape[k] if size == 0 and not allowzero else size for k, size in enumerate(ints(shape))])


def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(list(range(x.dim()))[::-1] if perm is None else list(perm))


def squeeze(x: Tensor, given: Ints | None = None, *, axes: Ints | None = None) -> Tensor:
    places = axes if given is None else given
    if places is None:
        return x.squeeze()
    if wrong := [a for a in ints(places) if x.shape[a] != 1]:
        raise ValueError(f"Squeeze of axis {wrong[0]} of {tuple(x.shape)}, which is not 1")
    return x.squeeze(tuple(ints(places)))


def unsqueeze(x: Tensor, given: Ints | None = None, *, axes: Ints = ()) -> Tensor:
    places = ints(axes if given is None else given)
    for axis in sorted(a % (x.dim() + len(places)) for a in places):
        x = x.unsqueeze(axis)
    return x


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis % x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def concat(*x: Tensor, axis: int = 1) -> Tensor:
    return torch.cat(x, axis)


def split(
    x: Tensor, given: Ints | None = None, *, split: Ints | None = None, axis: int = 0, num_outputs: int | None = None,
    outputs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    sizes = split if given is None else given
    if sizes is None:
        each = -(-x.shape[axis] // (num_outputs or outputs))
        return torch.split(x, each, axis)
    return torch.split(x, ints(sizes), axis)


def slice_(
    x: Tensor, first: Ints | None = None, last: Ints | None = None, which: Ints | None = None, by: Ints | None = None,
    *, starts: Ints = (), ends: Ints = (), axes: Ints | None = None,
) -> Tensor:  # fmt: skip
    begin, end = ints(starts if first is None else first), ints(ends if last is None else last)
    places = axes if which is None else which
    places = list(range(len(begin))) if places is None else ints(places)
    strides = [1] * len(begin) if by is None else ints(by)
    for low, high, axis, stride in zip(begin, end, places, strides, strict=True):
        if stride > 0:
            x = x[(slice(None),) * (axis % x.dim()) + (slice(low, high, stride),)]
        else:
            rows = range(*slice(low, high, stride).indices(x.shape[axis]))
            x = x.index_select(axis, torch.tensor(list(rows), dtype=torch.int64, device=x.device))
    return x


def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    axis, places = axis % x.dim(), indices.long()
    places = torch.where(places < 0, places + x.shape[axis], places)
    picked = x.index_select(axis, places.reshape(-1))
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    places = indices.long()
    return x.gather(axis, torch.where(places < 0, places + x.shape[axis], places))


def constant_of_shape(shape: Ints, *, value: Tensor | None = None) -> Tensor:
    fill = torch.zeros(1) if value is None else value
    return fill.squeeze().expand(ints(shape)).clone()


def expand(x: Tensor, shape: Ints) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, ints(shape)))


def tile(x: Tensor, repeats: Ints) -> Tensor:
    return x.repeat(ints(repeats))


def range_(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device)


def one_hot(indices: Tensor, depth: Ints | Tensor, values: Tensor, *, axis: int = -1) -> Tensor:
    count = number(depth)
    places = torch.where(indices < 0, indices + count, indices)
    axis = axis % (indices.dim() + 1)
    steps = torch.arange(count, device=indices.device).reshape([-1] + [1] * (indices.dim() - axis))
    return torch.where(places.unsqueeze(axis) == steps, values[1], values[0])


def pad(
    x: Tensor, given: Ints | None = None, fill: Any = None, which: Ints | None = None, *,
    pads: Ints = (), value: float = 0.0, mode: str = "constant",
) -> Tensor:  # fmt: skip
    sides = ints(pads if given is None else given)
    axes = list(range(x.dim())) if which is None else [a % x.dim() for a in ints(which)]
    ends = {a: (sides[k], sides[k + len(axes)]) for k, a in enumerate(axes)}
    if mode == "constant":
        around = [side for a in reversed(range(x.dim())) for side in ends.get(a, (0, 0))]
        if isinstance(fill, Tensor):  # which the model computes
            inside = F.pad(torch.ones_like(x, dtype=torch.bool), around)
            return torch.where(inside, F.pad(x, around), fill)
        return F.pad(x, around, value=value if fill is None else number(fill))
    for axis, (before, after) in ends.items():
        if (before, after) == (0, 0):
            continue
        if before < 0 or after < 0:  # what is cropped is not repeated
            x = F.pad(x, [0, 0] * (x.dim() - 1 - axis) + [min(before, 0), min(after, 0)])
        x = x.index_select(axis, _around(x, axis, max(before, 0), max(after, 0), mode))
    return x


def _around(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """The places from which an axis is padded, as numpy does: "reflect" and "wrap" begin again, as often as needed."""
    count = x.shape[axis]
    places = torch.arange(-before, count + after, device=x.device)
    if mode == "edge":
        return places.clamp(0, count - 1)
    # As tensors, since exporters divide by no size, and a branch on one would fix it.
    last = torch.scalar_tensor(count - 1, dtype=torch.int64, device=x.device)
    if mode == "wrap":
        return places % (last + 1)
    return last - (places % (2 * last).clamp(min=1) - last).abs()
