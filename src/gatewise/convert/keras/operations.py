"""What Keras 3 writes into a model beside layers: operations on tensors, of which the masks' own are made."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gatewise.convert.keras.config import Config, UnknownError


def any_of(x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    return torch.any(x) if axis is None else torch.any(x, axis, keepdim=keepdims)


def ones_like(x: Tensor, dtype: str | None = None) -> Tensor:
    return torch.ones_like(x, dtype=None if dtype is None else getattr(torch, dtype))


def zeros_like(x: Tensor, dtype: str | None = None) -> Tensor:
    return torch.zeros_like(x, dtype=None if dtype is None else getattr(torch, dtype))


def cast(x: Tensor, dtype: str) -> Tensor:
    return x.to(getattr(torch, dtype))


def squeezed(x: Tensor, axis: int) -> Tensor:
    return x.squeeze(axis)


# By class: its name in keras.ops, what it is in torch, and its settings.
OPERATIONS: dict[str, tuple[str, Callable[..., Any], tuple[str, ...]]] = {
    "NotEqual": ("not_equal", operator.ne, ()),
    "Equal": ("equal", operator.eq, ()),
    "Greater": ("greater", operator.gt, ()),
    "GreaterEqual": ("greater_equal", operator.ge, ()),
    "Less": ("less", operator.lt, ()),
    "LessEqual": ("less_equal", operator.le, ()),
    "LogicalOr": ("logical_or", torch.logical_or, ()),
    "LogicalAnd": ("logical_and", torch.logical_and, ()),
    "LogicalNot": ("logical_not", torch.logical_not, ()),
    "Any": ("any", any_of, ("axis", "keepdims")),
    "ExpandDims": ("expand_dims", torch.unsqueeze, ("axis",)),
    "Squeeze": ("squeeze", squeezed, ("axis",)),
    "ZerosLike": ("zeros_like", zeros_like, ("dtype",)),
    "OnesLike": ("ones_like", ones_like, ("dtype",)),
    "Cast": ("cast", cast, ("dtype",)),
    "Concatenate": ("concatenate", torch.cat, ("axis",)),
    "Add": ("add", operator.add, ()),
    "Subtract": ("subtract", operator.sub, ()),
    "Multiply": ("multiply", operator.mul, ()),
    "Divide": ("divide", operator.truediv, ()),
    "TrueDivide": ("true_divide", operator.truediv, ()),
    "Negative": ("negative", operator.neg, ()),
    "GetItem": ("get_item", operator.getitem, ()),
}


def is_operation(config: Config) -> bool:
    """Whether it is an operation and no layer, which may have the same name."""
    module = config.data.get("module")
    if isinstance(module, str):
        return ".ops" in module
    return config.kind in OPERATIONS and "trainable" not in config.settings  # a file that tells no modules


def settings(config: Config) -> dict[str, Any]:
    """An operation's settings.

    Raises: UnknownError: the operation is not in the table.
    """
    if config.kind not in OPERATIONS or config.foreign:
        raise UnknownError("an operation that is not in the table")
    made: dict[str, Any] = {}
    for key in OPERATIONS[config.kind][2]:
        if key in config.settings and config.settings[key] is not None:
            if key == "axis":
                made[key] = config.numbers(key, count=1)[0]
            elif key == "keepdims":
                made[key] = config.flag(key)
            elif config.word(key) not in ("bool", "float32", "float64", "int32", "int64"):
                raise UnknownError(f"an operation of dtype {config.word(key)}")
            else:
                made[key] = config.word(key)
    return made


def plain(config: Config, value: Any) -> Any:
    """An argument that is no tensor: a number, a slice, an ellipsis, or a list of such."""
    if isinstance(value, list):
        return [plain(config, v) for v in value]
    if isinstance(value, dict) and value.get("class_name") == "__slice__" and isinstance(value.get("config"), dict):
        parts = tuple(value["config"].get(k) for k in ("start", "stop", "step"))
        if all(p is None or isinstance(p, int) for p in parts):
            return slice(*parts)
    if isinstance(value, dict) and value.get("class_name") == "__ellipsis__":
        return ...
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise UnknownError(f"it is called on {value!r:.40}")
