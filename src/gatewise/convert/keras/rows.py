"""What torch's modules and functions are in Keras, one row each; recurrent layers are in builder.py.

Keras has the batch first and features last, so a row says which axis of torch's must lie last.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.convert.keras.activations import hard_sigmoid_2, log_softmax, name_of, softmax
from gatewise.errors import InputError


@dataclass(frozen=True)
class Made:
    """A layer of Keras: its class there, what it is made with, its weights in Keras's order."""

    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    weights: Sequence[Tensor] = ()


@dataclass(frozen=True)
class Row:
    """One of torch's modules.

    make: the layers of Keras that compute it, one after the other. last: the axis of torch's that they take as last;
    None where each number is on its own. rank: how many axes the input has; None: any. adds: axes that it adds.
    """

    make: Callable[[Any], Sequence[Made]]
    last: Callable[[Any], int] | None = None
    rank: int | None = None
    adds: int = 0


def _refuse(module: nn.Module, why: str) -> InputError:
    return InputError(f"{module}: {why}")


def _plain(module: nn.Module, **expected: Any) -> None:
    """Refuse options that Keras does not have."""
    for name, value in expected.items():
        if getattr(module, name) != value:
            raise _refuse(module, f"{name} is {getattr(module, name)!r}, and Keras has it for {value!r} alone")


def _weights(*tensors: Tensor | None) -> list[Tensor]:
    return [t.detach() for t in tensors if t is not None]


def _linear(m: nn.Linear) -> list[Made]:
    options = {"units": m.out_features, "use_bias": m.bias is not None}
    return [Made("Dense", options, _weights(m.weight.t(), m.bias))]


def _embedding(m: nn.Embedding) -> list[Made]:
    _plain(m, max_norm=None)
    options = {"input_dim": m.num_embeddings, "output_dim": m.embedding_dim}
    return [Made("Embedding", options, _weights(m.weight))]


def _layer_norm(m: nn.LayerNorm) -> list[Made]:
    if len(m.normalized_shape) != 1:
        raise _refuse(m, "expected one size: Keras's layer normalises the last axis")
    options = {"epsilon": m.eps, "center": m.bias is not None, "scale": m.weight is not None}
    return [Made("LayerNormalization", options, _weights(m.weight, m.bias))]


def _batch_norm(m: nn.BatchNorm1d) -> list[Made]:
    if m.running_mean is None or m.running_var is None:
        raise _refuse(m, "it has no running mean, and Keras's layer always has one")
    if m.momentum is None:
        raise _refuse(m, "momentum is None, expected a number")
    options = {"epsilon": m.eps, "momentum": 1 - m.momentum, "center": m.affine, "scale": m.affine}
    return [Made("BatchNormalization", options, _weights(m.weight, m.bias, m.running_mean, m.running_var))]


def _conv(m: nn.Conv1d) -> list[Made]:
    _plain(m, padding_mode="zeros")
    options = {
        "filters": m.out_channels, "kernel_size": m.kernel_size[0], "strides": m.stride[0], "groups": m.groups,
        "dilation_rate": m.dilation[0], "padding": "valid", "use_bias": m.bias is not None,
    }  # fmt: skip
    total = m.dilation[0] * (m.kernel_size[0] - 1)
    if isinstance(m.padding, str):
        before, after = (total // 2, total - total // 2) if m.padding == "same" else (0, 0)
    else:
        before = after = m.padding[0]
    pads = [Made("ZeroPadding1D", {"padding": (before, after)})] if before or after else []
    return [*pads, Made("Conv1D", options, _weights(m.weight.permute(2, 1, 0), m.bias))]


def _pool(kind: str) -> Callable[[Any], list[Made]]:
    def make(m: Any) -> list[Made]:
        single = {name: v[0] if isinstance(v, tuple) else v for name, v in vars(m).items()}
        for name, plain in {"padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False}.items():
            if single.get(name, plain) != plain:
                raise _refuse(m, f"{name} is {single[name]!r}, and Keras has it for {plain!r} alone")
        return [Made(kind, {"pool_size": single["kernel_size"], "strides": single["stride"]})]

    return make


def _named(name: str, **expected: Any) -> Row:
    def make(m: nn.Module) -> list[Made]:
        _plain(m, **expected)
        return [Made("Activation", {"activation": name})]

    return Row(make)


def _over(name: str) -> Row:
    return Row(lambda m: [Made("Activation", {"activation": name})], lambda m: _dim(m))


def _dim(m: Any) -> int:
    if m.dim is None:
        raise _refuse(m, "dim is None, expected the axis over which it is taken")
    return int(m.dim)


def _last(m: nn.Module) -> int:
    return -1


def _second(m: nn.Module) -> int:
    return 1


MODULES: dict[type[nn.Module], Row] = {
    nn.Linear: Row(_linear, _last),
    nn.Embedding: Row(_embedding, adds=1),
    nn.Dropout: Row(lambda m: [Made("Dropout", {"rate": m.p})]),
    nn.Identity: Row(lambda m: []),
    nn.LayerNorm: Row(_layer_norm, _last),
    nn.BatchNorm1d: Row(_batch_norm, _second),
    nn.Conv1d: Row(_conv, _second, rank=3),
    nn.MaxPool1d: Row(_pool("MaxPooling1D"), _second, rank=3),
    nn.AvgPool1d: Row(_pool("AveragePooling1D"), _second, rank=3),
    nn.Sigmoid: _named("sigmoid"),
    nn.Tanh: _named("tanh"),
    nn.ReLU: _named("relu"),
    nn.ReLU6: _named("relu6"),
    nn.Hardsigmoid: _named("hard_sigmoid"),
    nn.Hardswish: _named("hard_silu"),
    nn.Hardtanh: _named("hard_tanh", min_val=-1.0, max_val=1.0),
    nn.Softplus: _named("softplus", beta=1.0, threshold=20.0),
    nn.Softsign: _named("softsign"),
    nn.SELU: _named("selu"),
    nn.SiLU: _named("silu"),
    nn.Mish: _named("mish"),
    nn.LogSigmoid: _named("log_sigmoid"),
    nn.Tanhshrink: _named("tanh_shrink"),
    nn.Softshrink: _named("soft_shrink", lambd=0.5),
    nn.Hardshrink: _named("hard_shrink", lambd=0.5),
    nn.GELU: _named("gelu", approximate="none"),
    nn.ELU: Row(lambda m: [Made("ELU", {"alpha": m.alpha})]),
    nn.LeakyReLU: Row(lambda m: [Made("LeakyReLU", {"negative_slope": m.negative_slope})]),
    nn.Softmax: _over("softmax"),
    nn.LogSoftmax: _over("log_softmax"),
}

# Functions that are modules without parameters; what they are called with is what the module is made with.
FUNCTIONS: dict[Any, type[nn.Module]] = {
    torch.sigmoid: nn.Sigmoid, F.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid,
    torch.tanh: nn.Tanh, F.tanh: nn.Tanh, "tanh": nn.Tanh,
    torch.relu: nn.ReLU, F.relu: nn.ReLU, "relu": nn.ReLU,
    F.relu6: nn.ReLU6, F.hardsigmoid: nn.Hardsigmoid, F.hardswish: nn.Hardswish, F.hardtanh: nn.Hardtanh,
    F.softplus: nn.Softplus, F.softsign: nn.Softsign, F.selu: nn.SELU, torch.selu: nn.SELU, F.silu: nn.SiLU,
    F.mish: nn.Mish, F.logsigmoid: nn.LogSigmoid, F.tanhshrink: nn.Tanhshrink, F.softshrink: nn.Softshrink,
    F.hardshrink: nn.Hardshrink, F.gelu: nn.GELU, F.elu: nn.ELU, F.leaky_relu: nn.LeakyReLU,
    F.softmax: nn.Softmax, torch.softmax: nn.Softmax, "softmax": nn.Softmax,
    F.log_softmax: nn.LogSoftmax, torch.log_softmax: nn.LogSoftmax, "log_softmax": nn.LogSoftmax,
    F.max_pool1d: nn.MaxPool1d, F.avg_pool1d: nn.AvgPool1d,
}  # fmt: skip
# Of two values, both tensors: layers of Keras. A number in place of the second: `Rescaling`.
MERGES = {
    operator.add: "Add", torch.add: "Add", "add": "Add", operator.iadd: "Add",
    operator.sub: "Subtract", torch.sub: "Subtract", "sub": "Subtract",
    operator.mul: "Multiply", torch.mul: "Multiply", "mul": "Multiply",
    torch.maximum: "Maximum", torch.minimum: "Minimum",
}  # fmt: skip


def as_module(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> nn.Module | None:
    """The module that computes a function of one tensor with these further arguments; None of other functions."""
    if function is F.dropout:
        return nn.Dropout(*args[:1], **{k: v for k, v in kwargs.items() if k == "p"})
    if function not in FUNCTIONS:
        return None
    kwargs = {k: v for k, v in kwargs.items() if k != "_stacklevel" and not (k == "dtype" and v is None)}
    try:
        return FUNCTIONS[function](*args, **kwargs)
    except TypeError as error:
        raise InputError(f"{getattr(function, '__name__', function)} with {args} {kwargs}: {error}") from error


def of_keras(function: Any) -> Row | None:
    """The row of one of activations.py's functions, as modules that came from Keras have them."""
    if function is hard_sigmoid_2:  # (1.2 a) / 6 + 1/2 is a / 5 + 1/2
        steeper = [Made("Rescaling", {"scale": 1.2}), Made("Activation", {"activation": "hard_sigmoid"})]
        return Row(lambda m: steeper)
    name = name_of(function)
    if name is None:
        return None
    return Row(
        lambda m: [Made("Activation", {"activation": name})], _last if function in (softmax, log_softmax) else None
    )
