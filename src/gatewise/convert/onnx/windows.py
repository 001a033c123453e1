"""ONNX's convolutions and poolings: `ops.py` lists them.

Source: https://onnx.ai/onnx/operators, opset 7 to 28.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def _padded(
    x: Tensor, auto_pad: str, pads: Sequence[int] | None, kernel: Sequence[int], strides: Sequence[int],
    dilations: Sequence[int], value: float = 0.0,
) -> Tensor:  # fmt: skip
    """x with the padding of a convolution or pooling around its last axes."""
    axes = len(kernel)
    sides = list(pads or [0] * (2 * axes)) if auto_pad == "NOTSET" else [0] * (2 * axes)
    if auto_pad.startswith("SAME"):
        for k in range(axes):
            steps, wide = x.shape[2 + k], (kernel[k] - 1) * dilations[k] + 1
            total = max((-(-steps // strides[k]) - 1) * strides[k] + wide - steps, 0)
            small, large = total // 2, total - total // 2
            sides[k], sides[k + axes] = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
    flat = [side for k in reversed(range(axes)) for side in (sides[k], sides[k + axes])]
    return F.pad(x, flat, value=value) if any(flat) else x


def conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None, group: int = 1, kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None, strides: Sequence[int] | None = None,
) -> Tensor:  # fmt: skip
    kernel = list(weight.shape[2:])
    if kernel_shape is not None and list(kernel_shape) != kernel:
        raise ValueError(f"Conv: kernel_shape is {list(kernel_shape)}, and the weights are for {kernel}")
    steps, wide = list(strides or [1] * len(kernel)), list(dilations or [1] * len(kernel))
    run = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    x = _padded(x, auto_pad, pads, kernel, steps, wide)
    return run(x, weight, bias, steps, 0, wide, group)


def max_pool(
    x: Tensor, *, kernel_shape: Sequence[int], auto_pad: str = "NOTSET", pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None, dilations: Sequence[int] | None = None, ceil_mode: int = 0,
    storage_order: int = 0,
) -> Tensor:  # fmt: skip
    steps, wide = list(strides or [1] * len(kernel_shape)), list(dilations or [1] * len(kernel_shape))
    run = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel_shape) - 1]
    x = _padded(x, auto_pad, pads, kernel_shape, steps, wide, -math.inf)
    return run(x, list(kernel_shape), steps, 0, wide)


def average_pool(
    x: Tensor, *, kernel_shape: Sequence[int], auto_pad: str = "NOTSET", pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None, ceil_mode: int = 0, count_include_pad: int = 0,
) -> Tensor:  # fmt: skip
    ones = [1] * len(kernel_shape)
    steps, run = list(strides or ones), (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel_shape) - 1]
    made = run(_padded(x, auto_pad, pads, kernel_shape, steps, ones), list(kernel_shape), steps)
    if count_include_pad:
        return made
    share = run(_padded(torch.ones_like(x), auto_pad, pads, kernel_shape, steps, ones), list(kernel_shape), steps)
    return made / share


def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.dim())), keepdim=True)
