"""Keras's activations by their names there: one table, for reading and for writing.

Each is a function of one value, which works on tensors and in a cell's equations alike; what only works on tensors
(softmax needs its neighbours, gelu the error function) stands apart.

Source: keras-team/keras, keras/src/activations/activations.py and keras/src/ops/nn.py (Keras 3.15); Keras 2.0 to 2.15,
keras/activations.py, where only `hard_sigmoid` is another function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

Function = Callable[[Any], Any]


def linear(a: Any) -> Any:
    return a


def hard_sigmoid_2(a: Any) -> Any:
    """hard_sigmoid of Keras 1 and 2, steeper than that of Keras 3: 0 below -2.5, 1 above 2.5."""
    return torch.clamp(0.2 * a + 0.5, 0.0, 1.0)


def leaky_relu(a: Any) -> Any:
    return F.leaky_relu(a, 0.2)  # torch's own slope is 0.01


def relu6(a: Any) -> Any:
    return torch.clamp(a, 0.0, 6.0)


def selu(a: Any) -> Any:
    return 1.0507009873554805 * F.elu(a, 1.6732632423543772)  # arXiv 1706.02515, as torch and Keras have it


def silu(a: Any) -> Any:
    return a * torch.sigmoid(a)


def hard_silu(a: Any) -> Any:
    return a * F.hardsigmoid(a)


def hard_tanh(a: Any) -> Any:
    return torch.clamp(a, -1.0, 1.0)


def mish(a: Any) -> Any:
    return a * torch.tanh(F.softplus(a))


def log_sigmoid(a: Any) -> Any:
    return -F.softplus(-a)


def tanh_shrink(a: Any) -> Any:
    return a - torch.tanh(a)


def soft_shrink(a: Any) -> Any:
    return a - torch.clamp(a, -0.5, 0.5)


def hard_shrink(a: Any) -> Any:
    return torch.where(torch.abs(a) > 0.5, a, 0.0)


def sparse_sigmoid(a: Any) -> Any:
    return torch.clamp(0.5 * a + 0.5, 0.0, 1.0)


def sparse_plus(a: Any) -> Any:
    return torch.where(a <= -1.0, 0.0, torch.where(a < 1.0, 0.25 * (a + 1.0) ** 2.0, a))


def squareplus(a: Any) -> Any:
    return (a + torch.sqrt(a * a + 4.0)) / 2.0


def softmax(a: Any) -> Any:
    return torch.softmax(a, -1)


def log_softmax(a: Any) -> Any:
    return torch.log_softmax(a, -1)


# What a recurrent layer can have, of gatewise's.
IN_CELLS: dict[str, Function] = {
    "linear": linear,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "hard_sigmoid": F.hardsigmoid,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "elu": F.elu,
    "selu": selu,
    "exponential": torch.exp,
    "leaky_relu": leaky_relu,
    "relu6": relu6,
    "silu": silu,
    "hard_silu": hard_silu,
    "hard_tanh": hard_tanh,
    "celu": F.elu,  # with the alpha of 1 that a name stands for, they are the same
    "mish": mish,
    "log_sigmoid": log_sigmoid,
    "tanh_shrink": tanh_shrink,
    "soft_shrink": soft_shrink,
    "hard_shrink": hard_shrink,
    "sparse_sigmoid": sparse_sigmoid,
    "sparse_plus": sparse_plus,
    "squareplus": squareplus,
}
IN_CELLS |= {"swish": silu, "hard_swish": hard_silu}  # older names

# What other layers can have besides.
ELSEWHERE: dict[str, Function] = {"softmax": softmax, "log_softmax": log_softmax, "gelu": F.gelu}

# What a name meant in Keras 2, where that was something else.
KERAS_2: dict[str, Function] = {"hard_sigmoid": hard_sigmoid_2}


def named(name: str, version: int = 3, in_cell: bool = True) -> Function | None:
    """The function of this name in Keras of this major version; None if there is none here.

    Args:
        in_cell: whether it is for a recurrent layer's equations.
    """
    known = {**IN_CELLS, **({} if in_cell else ELSEWHERE), **(KERAS_2 if version < 3 else {})}
    return known.get(name)


def name_of(function: Function) -> str | None:
    """The name in Keras 3 of one of the functions above; None of any other."""
    return next((name for name, f in {**IN_CELLS, **ELSEWHERE}.items() if f is function), None)
