"""Keras's layers that are not recurrent, a row each: their arrays, what becomes of a mask, and their torch module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gatewise.convert.keras import modules as m
from gatewise.convert.keras.activations import named
from gatewise.convert.keras.config import Config, UnknownError

Make = Callable[[Config, Sequence[Tensor], bool], nn.Module]


@dataclass(frozen=True)
class Row:
    """One layer. make: its module, of its configuration, its arrays and whether Keras 2 wrote it. arrays: their names,
    in Keras's order; those that are not trained begin with "~". passes: whether a mask goes on behind it.
    settings: what of its configuration its output depends on. inputs: 1, 2, or 0 for any number. trains: it does
    something in training that does not come along."""

    make: Make
    settings: tuple[str, ...] = ()
    arrays: Callable[[Config], tuple[str, ...]] = lambda config: ()
    passes: bool = False
    inputs: int = 1
    trains: bool = False


def expect(config: Config, name: str, array: Tensor, *shape: int | None) -> Tensor:
    """The array, if its shape is this one; None stands for any size."""
    if array.dim() != len(shape) or any(s not in (None, n) for s, n in zip(shape, array.shape, strict=True)):
        told = ", ".join("any" if s is None else str(s) for s in shape)
        raise config.bad(f"{name} has shape {tuple(array.shape)}, expected ({told})")
    return array


def activation(config: Config, second: bool, key: str = "activation") -> str:
    """The name of the layer's activation, which must be known."""
    name = config.activation(key, "linear")
    if named(name, 2 if second else 3, in_cell=False) is None:
        raise config.bad(f"there is no activation {name!r} here")
    return name


def then(module: nn.Module, config: Config, second: bool) -> nn.Module:
    """The module, and after it the layer's activation."""
    name = activation(config, second)
    return module if name == "linear" else nn.Sequential(module, m.Activation(name, second))


def _fill(module: nn.Module, **arrays: Tensor | None) -> nn.Module:
    for name, array in arrays.items():
        if name in module._buffers:
            module._buffers[name] = array
        else:
            module.register_parameter(name, None if array is None else nn.Parameter(array.contiguous()))
    return module


def _last(config: Config) -> None:
    if config.settings.get("data_format", "channels_last") not in ("channels_last", None):
        raise UnknownError("channels first")


def _biased(*names: str) -> Callable[[Config], tuple[str, ...]]:
    return lambda config: (*names, *(["bias"] if config.flag("use_bias", True) else []))


def _dense(config: Config, arrays: Sequence[Tensor], second: bool) -> nn.Module:
    units = config.number("units")
    kernel = expect(config, "kernel", arrays[0], None, units)
    bias = expect(config, "bias", arrays[1], units) if len(arrays) > 1 else None
    made: nn.Module = nn.utils.skip_init(nn.Linear, kernel.shape[0], units, bias=bias is not None, dtype=kernel.dtype)
    return then(_fill(made, weight=kernel.t(), bias=bias), config, second)


def _embedding(config: Config, arrays: Sequence[Tensor], second: bool) -> nn.Module:
    expect(config, "embeddings", arrays[0], config.number("input_dim"), config.number("output_dim"))
    made: nn.Module = nn.Embedding.from_pretrained(arrays[0], freeze=False)
    return made


def _convolution(rank: int) -> Make:
    def make(config: Config, arrays: Sequence[Tensor], second: bool) -> nn.Module:
        _last(config)
        cls: Any = nn.Conv1d if rank == 1 else nn.Conv2d
        size = config.numbers("kernel_size", count=rank)
        filters, groups = config.number("filters"), config.number("groups", 1)
        kernel = expect(config, "kernel", arrays[0], *size, None, filters)
        bias = expect(config, "bias", arrays[1], filters) if len(arrays) > 1 else None
        mode = config.word("padding", "valid")
        if mode not in (("valid", "same", "causal") if rank == 1 else ("valid", "same")):
            raise config.bad(f"padding is {mode!r}, expected 'valid' or 'same'")
        stride, dilation = config.numbers("strides", 1, rank), config.numbers("dilation_rate", 1, rank)
        if filters % groups or min(stride + dilation + size) < 1:
            raise config.bad(
                f"{groups} groups of {filters} filters, strides {stride}, dilation {dilation}: no convolution"
            )
        made = nn.utils.skip_init(cls, kernel.shape[-2] * groups, filters, tuple(size), tuple(stride), 0,
                                  tuple(dilation), groups, bias is not None, dtype=kernel.dtype)  # fmt: skip
        weight = kernel.permute(rank + 1, rank, *range(rank))
        return then(m.Convolution(_fill(made, weight=weight, bias=bias), mode), config, second)  # type: ignore[arg-type]

    return make


def _pooling(rank: int, largest: bool) -> Make:
    def make(config: Config, arrays: Sequence[Tensor], second: bool) -> nn.Module:
        _last(config)
        key = "pool_length" if "pool_length" in config.settings else "pool_size"
        size = config.numbers(key, count=rank)
        stride = size if config.settings.get("strides") is None else config.numbers("strides", count=rank)
        mode = config.word("padding", "valid")
        if mode not in ("valid", "same") or min(size + stride) < 1:
            raise config.bad(f"a window of {size} with strides {stride}, padding {mode!r}: no pooling")
        return m.Pooling(largest, size, stride, mode)

    return make


def _global(rank: int, largest: bool) -> Make:
    def make(config: Config, arrays: Sequence[Tensor], second: bool) -> nn.Module:
        _last(config)
        return m.Function(
            m.reduced, largest=largest, axes=tuple(range(1, rank + 1)), keepdims=config.flag("keepdims", False)
        )

    return make


def _axis(config: Config, default: int = -1) -> int:
    return config.numbers("axis", default, 1)[0]


def _batch_norm(config: Config, arrays: Sequence[Tensor], second: bool) -> nn.Module:
    if config.settings.get("renorm"):
        raise UnknownError("renorm")
    named = dict(zip((n.strip("~") for n in _norm_arrays(config)), arrays, strict=True))
    size = named["moving_mean"].shape[0] if named["moving_mean"].dim() else 0
    for name, array in named.items():
        expect(config, name, array, size)
    like = named["moving_mean"]
    made = nn.BatchNorm1d(size, config.real("epsilon", 1e-3), 1 - config.real("momentum", 0.99), dtype=like.dtype)
    _fill(made, weight=named.get("gamma", torch.ones_like(like)), bias=named.get("beta", torch.zeros_like(like)),
          running_mean=like, running_var=named["moving_variance"])  # fmt: skip
    return m.BatchNorm(made, _axis(config))


def _norm_arrays(config: Config) -> tuple[str, ...]:
    return (*_scale_arrays(config), "~moving_mean", "~moving_variance")


def _scale_arrays(config: Config) -> tuple[str, ...]:
    return tuple(n for n, flag in (("gamma", "scale"), ("beta", "center")) if config.flag(flag, True))


def _layer_norm(config: Config, arrays: Sequence[Tensor], second: bool) -> nn.Module:
    if config.settings.get("rms_scaling"):
        raise UnknownError("rms_scaling")
    named = dict(zip(_scale_arrays(config), arrays, strict=True))
    if not named or (_axis(config) != -1 and _axis(config) < 1):
        raise UnknownError(f"normalisation of axis {_axis(config)}")
    size = next(iter(named.values())).shape[0]
    for name, array in named.items():
        expect(config, name, array, size)
    made = nn.LayerNorm(size, config.real("epsilon", 1e-3), dtype=arrays[0].dtype)
    _fill(made, weight=named.get("gamma"), bias=named.get("beta"))
    # A positive axis is the last one or not, which only the input's shape tells.
    return made if _axis(config) == -1 else m.LastAxis(made, _axis(config))


def _prelu(config: Config, arrays: Sequence[Tensor], second: bool) -> nn.Module:
    return m.PReLU(arrays[0])


def _relu(config: Config, arrays: Sequence[Tensor], second: bool) -> nn.Module:
    most = None if config.settings.get("max_value") is None else config.real("max_value")
    slope = 0.0 if config.settings.get("negative_slope") is None else config.real("negative_slope")
    bound = 0.0 if config.settings.get("threshold") is None else config.real("threshold")
    return m.Function(m.rectified, slope=slope, most=most, threshold=bound)


def _rescaling(config: Config, arrays: Sequence[Tensor], second: bool) -> nn.Module:
    return m.Function(m.rescaled, scale=config.reals("scale"), offset=config.reals("offset", 0.0))


def _leaky(config: Config, arrays: Sequence[Tensor], second: bool) -> nn.Module:
    return nn.LeakyReLU(config.real("alpha" if "alpha" in config.settings else "negative_slope"))


def _elu(config: Config, arrays: Sequence[Tensor], second: bool) -> nn.Module:
    return m.Function(m.elu, alpha=config.real("alpha", 1.0))


def _softmax(config: Config, arrays: Sequence[Tensor], second: bool) -> nn.Module:
    return m.Function(m.softmax, axis=_axis(config))


def _reshape(config: Config, arrays: Sequence[Tensor], second: bool) -> nn.Module:
    return m.Function(m.reshaped, shape=tuple(config.numbers("target_shape")))


def _permute(config: Config, arrays: Sequence[Tensor], second: bool) -> nn.Module:
    dims = config.numbers("dims")
    if sorted(dims) != list(range(1, len(dims) + 1)):
        raise config.bad(f"dims are {dims}, expected an order of 1, 2 …")
    return m.Function(m.permuted, dims=tuple(dims))


def _zero_padding_1d(config: Config, arrays: Sequence[Tensor], second: bool) -> nn.Module:
    _last(config)
    return m.Function(m.padding, around=tuple(config.numbers("padding", count=2)))


def _zero_padding_2d(config: Config, arrays: Sequence[Tensor], second: bool) -> nn.Module:
    _last(config)
    pairs = config.settings.get("padding")
    if not isinstance(pairs, list) or len(pairs) != 2:
        raise config.bad(f"padding is {pairs!r}, expected two pairs")
    inner = [
        Config({"class_name": config.kind, "config": {"padding": p}}, config.where).numbers("padding", count=2)
        for p in pairs
    ]
    return m.Function(m.padding, around=(*inner[1], *inner[0]))


def _cropping(config: Config, arrays: Sequence[Tensor], second: bool) -> nn.Module:
    before, after = config.numbers("cropping", count=2)
    return m.Function(m.cropped, before=before, after=after)


def _dot(config: Config, arrays: Sequence[Tensor], second: bool) -> nn.Module:
    return m.Function(m.dotted, axes=tuple(config.numbers("axes", count=2)), normalize=config.flag("normalize", False))


def _merge(function: Callable[..., Tensor], inputs: int = 0, kind: type[m.Function] = m.Function) -> Row:
    return Row(lambda config, arrays, second: kind(function), passes=True, inputs=inputs)


def _nothing() -> Row:
    return Row(lambda config, arrays, second: nn.Identity(), passes=True, trains=True)


WINDOW = ("pool_size", "strides", "padding", "data_format")
CONVOLUTION = ("filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate", "groups", "activation",
               "use_bias")  # fmt: skip

ROWS: dict[str, Row] = {
    "Dense": Row(_dense, ("units", "activation", "use_bias"), _biased("kernel"), passes=True),
    "Embedding": Row(_embedding, ("input_dim", "output_dim", "mask_zero"), lambda config: ("embeddings",)),
    "Conv1D": Row(_convolution(1), CONVOLUTION, _biased("kernel")),
    "Conv2D": Row(_convolution(2), CONVOLUTION, _biased("kernel")),
    "MaxPooling1D": Row(_pooling(1, True), WINDOW),
    "MaxPooling2D": Row(_pooling(2, True), WINDOW),
    "AveragePooling1D": Row(_pooling(1, False), WINDOW),
    "AveragePooling2D": Row(_pooling(2, False), WINDOW),
    "GlobalMaxPooling1D": Row(_global(1, True), ("data_format", "keepdims")),
    "GlobalMaxPooling2D": Row(_global(2, True), ("data_format", "keepdims")),
    "GlobalAveragePooling1D": Row(_global(1, False), ("data_format", "keepdims")),
    "GlobalAveragePooling2D": Row(_global(2, False), ("data_format", "keepdims")),
    "BatchNormalization": Row(
        _batch_norm, ("axis", "epsilon", "momentum", "center", "scale"), _norm_arrays, passes=True
    ),
    "LayerNormalization": Row(_layer_norm, ("axis", "epsilon", "center", "scale"), _scale_arrays, passes=True),
    "Activation": Row(
        lambda config, arrays, second: m.Activation(activation(config, second), second), ("activation",), passes=True
    ),
    "ReLU": Row(_relu, ("max_value", "negative_slope", "threshold"), passes=True),
    "LeakyReLU": Row(_leaky, ("alpha", "negative_slope"), passes=True),
    "ELU": Row(_elu, ("alpha",), passes=True),
    "PReLU": Row(_prelu, ("shared_axes",), lambda config: ("alpha",), passes=True),
    "Rescaling": Row(_rescaling, ("scale", "offset"), passes=True),
    "Softmax": Row(_softmax, ("axis",), passes=True),
    "Dropout": Row(lambda config, arrays, second: nn.Dropout(config.real("rate")), ("rate",), passes=True),
    **dict.fromkeys(("SpatialDropout1D", "SpatialDropout2D", "GaussianDropout", "AlphaDropout"), _nothing()),
    **dict.fromkeys(("GaussianNoise", "ActivityRegularization"), _nothing()),
    "Identity": Row(lambda config, arrays, second: nn.Identity(), passes=True),
    "Flatten": Row(lambda config, arrays, second: _flat(config), ("data_format",)),
    "Reshape": Row(_reshape, ("target_shape",)),
    "Permute": Row(_permute, ("dims",)),
    "RepeatVector": Row(lambda config, arrays, second: m.Function(m.repeated, n=config.number("n")), ("n",)),
    "ZeroPadding1D": Row(_zero_padding_1d, ("padding", "data_format")),
    "ZeroPadding2D": Row(_zero_padding_2d, ("padding", "data_format")),
    "Cropping1D": Row(_cropping, ("cropping",)),
    "UpSampling1D": Row(lambda config, arrays, second: m.Function(m.upsampled, size=config.number("size")), ("size",)),
    "Add": _merge(m.total),
    "Subtract": _merge(m.difference, 2),
    "Multiply": _merge(m.product, kind=m.Merge),
    "Average": _merge(m.average),
    "Maximum": _merge(m.largest, kind=m.Merge),
    "Minimum": _merge(m.smallest, kind=m.Merge),
    "Concatenate": Row(
        lambda config, arrays, second: m.Function(m.concatenated, axis=_axis(config)), ("axis",), passes=True, inputs=0
    ),
    "Dot": Row(_dot, ("axes", "normalize"), inputs=2),
}


def _flat(config: Config) -> nn.Module:
    _last(config)
    return nn.Flatten()
