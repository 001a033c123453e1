"""What a graph computes from the sizes of its tensors, as integers and lists of them in place of tensors of numbers.

So torch.export, torch.compile and torch.onnx.export can follow a size to the Reshape that it is meant for.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

Sizes = Any  # an integer, or a list of them


def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> list[int]:
    return list(x.shape[start:end])


def size(x: Tensor) -> int:
    return x.numel()


def gather(sizes: list[int], places: Sizes, *, axis: int = 0) -> Sizes:
    return [sizes[k] for k in places] if isinstance(places, list) else sizes[places]


def concat(*sizes: list[int], axis: int = 0) -> list[int]:
    return [size for part in sizes for size in part]


def listed(size: Sizes, given: Any = None, *, axes: Any = None) -> list[int]:
    if isinstance(size, list):
        raise NotImplementedError("a matrix of sizes")
    return [size]


def alone(sizes: Sizes, given: Any = None, *, axes: Any = None) -> Sizes:
    (size,) = sizes
    return size


def slice_(
    sizes: list[int], first: Sequence[int] = (), last: Sequence[int] = (), axes_given: Any = None,
    by: Sequence[int] | None = None, *, starts: Sequence[int] = (), ends: Sequence[int] = (), axes: Any = None,
) -> list[int]:  # fmt: skip
    (begin,), (end,) = list(first) or list(starts), list(last) or list(ends)
    step = 1 if by is None else by[0]
    return sizes[slice(begin, None if step < 0 and end < -len(sizes) else end, step)]


def same(sizes: Sizes, *, to: int = 7, saturate: int = 1) -> Sizes:
    return sizes


def product(sizes: list[int], given: Any = None, *, axes: Any = None, keepdims: int = 1,
            noop_with_empty_axes: int = 0) -> Sizes:  # fmt: skip
    whole = reduce(operator.mul, sizes, 1)
    return [whole] if keepdims else whole


def _each(run: Callable[[int, int], int]) -> Callable[[Sizes, Sizes], Sizes]:
    def each(a: Sizes, b: Sizes) -> Sizes:
        if not isinstance(a, list) and not isinstance(b, list):
            return run(a, b)
        a, b = (v if isinstance(v, list) else [v] for v in (a, b))
        count = max(len(a), len(b))
        a, b = (v * count if len(v) == 1 else v for v in (a, b))
        return [run(x, y) for x, y in zip(a, b, strict=True)]

    return each


def _quotient(a: int, b: int) -> int:
    """Rounded towards zero, as ONNX divides integers."""
    return a // b if (a < 0) == (b < 0) else -(-a // b)


add, sub, mul, div = (_each(run) for run in (operator.add, operator.sub, operator.mul, _quotient))

OPS: dict[str, Callable[..., Any]] = {
    "Gather": gather, "Concat": concat, "Unsqueeze": listed, "Squeeze": alone, "Slice": slice_, "Cast": same,
    "Identity": same, "ReduceProd": product, "Add": add, "Sub": sub, "Mul": mul, "Div": div,
}  # fmt: skip
SOURCES: dict[str, Callable[..., Any]] = {"Shape": shape, "Size": size}


def as_tensor(sizes: Sizes) -> Tensor:
    """Sizes where a tensor is expected."""
    return torch.tensor(sizes, dtype=torch.int64)
