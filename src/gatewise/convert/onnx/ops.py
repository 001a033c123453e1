"""ONNX's operators as functions of tensors, a row each: what is not here is left and named.

A function takes a node's inputs in order (None for an absent one) and its attributes by name, with ONNX's defaults. An
attribute that a function does not have, or a value that `ONLY` does not list, is not handled. `opset` is the version of
the operators that the model was written for, `outputs` how many a node has. Sizes, axes and the like come as lists of
integers where the model has them as constants, and as tensors where it computes them.

Source: https://onnx.ai/onnx/operators, opset 7 to 28.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gatewise.convert.onnx.shapes import (
    Ints,
    concat,
    constant_of_shape,
    expand,
    flatten,
    gather,
    gather_elements,
    ints,
    number,
    one_hot,
    pad,
    range_,
    reshape,
    slice_,
    split,
    squeeze,
    tile,
    transpose,
    unsqueeze,
)  # fmt: skip
from gatewise.convert.onnx.windows import average_pool, conv, global_average_pool, global_max_pool, max_pool

DTYPE_NUMBERS = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip
AUTO_PAD = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
# Attributes of which only these values are handled; by operator and, of all, "".
ONLY: dict[str, dict[str, tuple[Any, ...]]] = {
    "": {"auto_pad": AUTO_PAD},
    "MaxPool": {"ceil_mode": (0,), "storage_order": (0,)},
    "AveragePool": {"ceil_mode": (0,)},
    "ArgMax": {"select_last_index": (0,)},
    "ArgMin": {"select_last_index": (0,)},
    "BatchNormalization": {"training_mode": (0,), "spatial": (1,), "is_test": (1,)},
    "Gelu": {"approximate": ("none", "tanh")},
    "Cast": {"to": tuple(DTYPE_NUMBERS)},
    "LayerNormalization": {"stash_type": (1,)},
    "Pad": {"mode": ("constant", "reflect", "edge", "wrap")},
    "Dropout": {"is_test": (1,)},
}


def _sum(*x: Tensor) -> Tensor:
    return reduce(torch.add, x)


def _mean(*x: Tensor) -> Tensor:
    return reduce(torch.add, x) / len(x)


def _max(*x: Tensor) -> Tensor:
    return reduce(torch.maximum, x)


def _min(*x: Tensor) -> Tensor:
    return reduce(torch.minimum, x)


def div(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def power(a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


def gemm(
    a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0,
    transB: int = 0,
) -> Tensor:  # fmt: skip
    product = (a.t() if transA else a) @ (b.t() if transB else b)
    product = product if alpha == 1.0 else alpha * product
    return product if c is None else product + (c if beta == 1.0 else beta * c)


def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(x, alpha)


def selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x))


def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, 0.0)


def softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


def softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    if opset >= 13:
        return torch.softmax(x, -1 if axis is None else axis)
    return torch.softmax(flatten(x, axis=1 if axis is None else axis), 1).view(x.shape)


def log_softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    if opset >= 13:
        return torch.log_softmax(x, -1 if axis is None else axis)
    return torch.log_softmax(flatten(x, axis=1 if axis is None else axis), 1).view(x.shape)


def clip(
    x: Tensor, low: Tensor | None = None, high: Tensor | None = None, *, min: float | None = None,
    max: float | None = None,
) -> Tensor:  # fmt: skip
    low, high = (min if low is None else low), (max if high is None else high)  # type: ignore[assignment]
    return x if low is None and high is None else torch.clamp(x, low, high)


def cast(x: Tensor, *, to: int, saturate: int = 1) -> Tensor:
    return x.to(DTYPE_NUMBERS[to])


def _reduced(x: Tensor, given: Ints | None, axes: Ints | None, empty: int) -> list[int] | None:
    """The axes that are reduced; None for none of them."""
    places = axes if given is None else given
    found = [] if places is None else ints(places)
    return found or (None if empty else list(range(x.dim())))


def _reduction(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduction(
        x: Tensor, given: Ints | None = None, *, axes: Ints | None = None, keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:  # fmt: skip
        places = _reduced(x, given, axes, noop_with_empty_axes)
        return x if places is None else run(x, tuple(places), bool(keepdims))

    return reduction


def _product(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    for axis in sorted((a % x.dim() for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


reduce_sum = _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype))
reduce_mean = _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep))
reduce_max = _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep))
reduce_min = _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep))
reduce_prod = _reduction(_product)
reduce_l2 = _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt())
reduce_sum_square = _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep))


def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return x.argmax(axis, keepdim=bool(keepdims))


def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return x.argmin(axis, keepdim=bool(keepdims))


def cum_sum(x: Tensor, axis: Ints | Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    place = number(axis)
    x = x.flip(place) if reverse else x
    total = x.cumsum(place, dtype=x.dtype)
    total = total - x if exclusive else total
    return total.flip(place) if reverse else total


def batch_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, epsilon: float = 1e-5, momentum: float = 0.9,
    training_mode: int = 0, spatial: int = 1, is_test: int = 1,
) -> Tensor:  # fmt: skip
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)


def layer_normalization(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    made = F.layer_norm(x, x.shape[axis % x.dim() :], None, None, epsilon) * scale
    return made if bias is None else made + bias


def dropout(
    x: Tensor, share: Tensor | None = None, training: Tensor | None = None, *, ratio: float = 0.5, seed: int = 0,
    is_test: int = 1,
) -> Tensor:  # fmt: skip
    return x  # in evaluation; one that draws is left


def einsum(*x: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *x)


def identity(x: Tensor) -> Tensor:
    return x


PLAIN: dict[str, Callable[..., Any]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Neg": torch.neg, "Sqrt": torch.sqrt, "Exp": torch.exp,
    "Log": torch.log, "Abs": torch.abs, "Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round,
    "Reciprocal": torch.reciprocal, "Sign": torch.sign, "Sin": torch.sin, "Cos": torch.cos, "Erf": torch.erf,
    "MatMul": torch.matmul, "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Softsign": F.softsign,
    "HardSwish": F.hardswish, "Mish": F.mish, "Where": torch.where, "Equal": torch.eq, "Less": torch.lt,
    "LessOrEqual": torch.le, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Not": torch.logical_not,
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
}  # fmt: skip
OPS: dict[str, Callable[..., Any]] = {
    "Sum": _sum, "Mean": _mean, "Max": _max, "Min": _min, "Div": div, "Mod": mod, "Pow": power, "Gemm": gemm,
    "LeakyRelu": leaky_relu, "Elu": elu, "Celu": celu, "Selu": selu, "HardSigmoid": hard_sigmoid,
    "ThresholdedRelu": thresholded_relu, "Softplus": softplus, "Gelu": gelu, "PRelu": prelu, "Softmax": softmax,
    "LogSoftmax": log_softmax, "Clip": clip, "Reshape": reshape, "Transpose": transpose, "Squeeze": squeeze,
    "Unsqueeze": unsqueeze, "Flatten": flatten, "Concat": concat, "Split": split, "Slice": slice_, "Gather": gather,
    "GatherElements": gather_elements, "ConstantOfShape": constant_of_shape,
    "Cast": cast, "Expand": expand, "Tile": tile, "Range": range_, "OneHot": one_hot, "Pad": pad,
    "ReduceSum": reduce_sum, "ReduceMean": reduce_mean, "ReduceMax": reduce_max, "ReduceMin": reduce_min,
    "ReduceProd": reduce_prod, "ReduceL2": reduce_l2, "ReduceSumSquare": reduce_sum_square, "ArgMax": arg_max,
    "ArgMin": arg_min, "CumSum": cum_sum, "BatchNormalization": batch_normalization,
    "LayerNormalization": layer_normalization, "Conv": conv, "MaxPool": max_pool, "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool, "GlobalMaxPool": global_max_pool, "Dropout": dropout,
    "Einsum": einsum, "Identity": identity,
}  # fmt: skip
# Inputs, by place, that are sizes, axes, counts or other plain numbers.
SIZES: dict[str, tuple[int, ...]] = {
    "Reshape": (1,), "Squeeze": (1,), "Unsqueeze": (1,), "Split": (1,), "Slice": (1, 2, 3, 4), "Expand": (1,),
    "Tile": (1,), "ConstantOfShape": (0,), "Pad": (1, 2, 3), "OneHot": (1,), "CumSum": (1,),
    **dict.fromkeys((name for name in OPS if name.startswith("Reduce")), (1,)),
}  # fmt: skip
