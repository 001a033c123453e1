"""A model's configuration as Keras's own loader may have it: only what is known here, and plain values.

Keras's loader makes whatever objects a configuration names. So it is not given a stranger's, but one written anew:
layers of the table with the settings that count. Initializers, regularizers and constraints are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gatewise.convert.keras.config import Config, UnknownError
from gatewise.convert.keras.graph import checked, dtype_of, is_tensor, recurrent, refs, shape_of
from gatewise.convert.keras.model import cells_of, directions
from gatewise.convert.keras.operations import is_operation, settings
from gatewise.convert.keras.recurrent import KINDS
from gatewise.convert.keras.slots import MODELS, cell_config
from gatewise.convert.keras.table import ROWS, activation

OPTIONS = ("return_sequences", "return_state", "go_backwards", "stateful", "zero_output_for_mask")
OPERATIONS_AT = ("keras.src.ops.numpy", "keras.src.ops.core")
PLAIN = (int, float, str, bool, type(None))
OLD = "hard_sigmoid of Keras 2"


def known(keras: Any) -> Any:
    """Within: Keras makes what `model` and `layer` give, what it has no name for among it.

    Wrappers write out the layer inside of them and make it anew: a function needs the name that it is found by here,
    and to be known until the outermost layer is there.
    """

    def hard_sigmoid(a: Any) -> Any:
        return keras.ops.clip(0.2 * a + 0.5, 0.0, 1.0)

    hard_sigmoid.__name__ = OLD
    return keras.saving.custom_object_scope({OLD: hard_sigmoid})


def model(config: Config, second: bool, first: Sequence[int | None] | None = None) -> dict[str, Any]:
    """A model as Keras 3 writes it, of what is known.

    Args: first: the shape of the input, of a Sequential that may not tell it.

    Raises: UnknownError: there is something that is not known. InputError: it contradicts itself.
    """
    layers = [_named(layer, second) for layer in config.several("layers")]
    if config.kind == "Sequential":
        if first is not None and layers and layers[0]["class_name"] != "InputLayer":
            layers.insert(0, _made("InputLayer", {"batch_shape": list(first), "name": f"{config.name}_first"}))
        return _made("Sequential", {"name": config.name, "layers": layers}, "keras")
    ends = {key: _refs(config, config.settings.get(key), key) for key in ("input_layers", "output_layers")}
    return _made("Functional", {"name": config.name, "layers": layers, **ends}, "keras.src.models.functional")


def layer(config: Config, second: bool) -> dict[str, Any]:
    """A layer as Keras 3 writes it, of what is known.

    Raises: as `model`.
    """
    if config.foreign:
        raise UnknownError(f"{config}, a class of its author's own")
    shared = {"name": config.name, "trainable": config.settings.get("trainable", True) is not False}
    if dtype_of(config) == "float64":
        shared["dtype"] = "float64"
    if config.kind == "Bidirectional":
        one, two, merge = directions(config)
        made = {"layer": layer(one, second), "merge_mode": None if merge == "none" else merge}
        if config.settings.get("backward_layer"):
            made["backward_layer"] = layer(two, second)
        return _made("Bidirectional", shared | made)
    if recurrent(config):
        return _recurrent(config, shared, second)
    if config.kind == "TimeDistributed":
        return _made("TimeDistributed", shared | {"layer": layer(config.inner("layer"), second)})
    if config.kind == "Masking":
        return _made("Masking", shared | {"mask_value": config.real("mask_value", 0.0)})
    if config.kind not in ROWS:
        raise UnknownError(f"{config}, a layer that is not in the table")
    if ROWS[config.kind].trains or config.kind == "Dropout":
        return _made("Identity", shared)
    return _made(config.kind, shared | _settings(config, second))


def _settings(config: Config, second: bool) -> dict[str, Any]:
    """The settings of a layer of the table."""
    made = {k: config.settings[k] for k in ROWS[config.kind].settings if k in config.settings}
    if config.kind == "Rescaling":
        made = {"scale": config.reals("scale"), "offset": config.reals("offset", 0.0)}
    if config.kind == "LeakyReLU":
        made = {"negative_slope": config.real("alpha" if "alpha" in made else "negative_slope")}
    if config.kind == "ReLU":
        made = {k: v for k, v in made.items() if v is not None}
    for key, value in made.items():
        if key != "activation" and not _plain(value):
            raise config.bad(f"{key} is no plain value")
    if "activation" in made:
        made["activation"] = _function(activation(config, second), second)
    if isinstance(made.get("axis"), list) and len(made["axis"]) == 1:
        made["axis"] = made["axis"][0]
    return made


def _plain(value: Any) -> bool:
    return all(map(_plain, value)) if isinstance(value, list) else isinstance(value, PLAIN)


def _recurrent(config: Config, shared: dict[str, Any], second: bool) -> dict[str, Any]:
    options = {k: config.flag(k, False) for k in OPTIONS}
    if config.flag("time_major", False):
        raise UnknownError("time_major, which Keras 3 does not have")
    if config.kind != "RNN":
        return _made(KINDS[config.kind].removeprefix("CuDNN"), shared | _cell(config, second) | options)
    cells = [_made(f"{KINDS[c.kind]}Cell", {"name": c.name, **_cell(c, second)}) for _, c in cells_of(config, "")]
    stacked = cell_config(config).kind == "StackedRNNCells"
    cell = _made("StackedRNNCells", {"cells": cells}) if stacked else cells[0]
    return _made("RNN", shared | options | {"cell": cell})


def _cell(config: Config, second: bool) -> dict[str, Any]:
    """A cell's settings."""
    made: dict[str, Any] = {"units": config.number("units"), "use_bias": config.flag("use_bias", True)}
    if config.kind.startswith("CuDNN"):
        return made | ({"reset_after": True} if "GRU" in config.kind else {})
    for key in ("activation", "recurrent_activation"):
        if key in config.settings and not (key[0] == "r" and KINDS[config.kind] == "SimpleRNN"):
            made[key] = _function(config.activation(key), second)
    return made | ({"reset_after": config.flag("reset_after", False)} if KINDS[config.kind] == "GRU" else {})


def _function(name: str, second: bool) -> str | dict[str, Any]:
    """An activation: Keras's own of this name, or what Keras 2 meant by it."""
    if name == "hard_sigmoid" and second:
        return {"class_name": "function", "config": OLD, "registered_name": OLD, "module": None}
    return name


def _named(config: Config, second: bool) -> dict[str, Any]:
    """A layer of a model, with what it is called on."""
    made: dict[str, Any]
    if config.kind in MODELS:
        made = model(config, second)
    elif config.kind == "InputLayer":
        shape = shape_of(config)
        whole = checked(config, shape)
        made = _made("InputLayer", {"batch_shape": [shape[0], *whole[1:]], "dtype": dtype_of(config),
                                    "name": config.name})  # fmt: skip
    elif is_operation(config):
        place = config.data.get("module") or OPERATIONS_AT[config.kind == "Cast"]  # older files do not tell
        if place not in OPERATIONS_AT:
            raise UnknownError(f"{config}, an operation of {place!r:.40}")
        made = _made(config.kind, {"name": config.name, **settings(config)}, place)
    else:
        made = layer(config, second)
    nodes = config.data.get("inbound_nodes", [])
    if not isinstance(nodes, list):
        raise config.bad("inbound_nodes is no list")
    return {**made, "name": config.name, "inbound_nodes": [_argument(config, node) for node in nodes]}


def _argument(config: Config, value: Any) -> Any:
    """What a layer is called on: tensors by their names, slices, plain values."""
    if isinstance(value, list):
        return [_argument(config, v) for v in value]
    if isinstance(value, PLAIN):
        return value
    if not isinstance(value, dict):
        raise UnknownError(f"it is called on {value!r:.40}")
    if is_tensor(value):
        inner = value["config"]
        shape, (ref,) = inner.get("shape"), refs(config, inner.get("keras_history"), "a tensor")
        known = {
            "shape": shape if _plain(shape) else None,
            "dtype": str(inner.get("dtype")),
            "keras_history": list(ref),
        }
        return {"class_name": "__keras_tensor__", "config": known}
    if value.get("class_name") in ("__slice__", "__ellipsis__"):
        inner = value.get("config")
        parts = inner if isinstance(inner, dict) and all(isinstance(v, PLAIN) for v in inner.values()) else {}
        return {"class_name": value["class_name"], "config": parts}
    if "class_name" in value:
        raise UnknownError(f"it is called on {value!r:.40}")
    return {str(k): _argument(config, v) for k, v in value.items()}


def _refs(config: Config, value: Any, what: str) -> Any:
    """Names of tensors, in the structure that they have."""
    refs(config, value, what)  # which checks them
    return value


def _made(kind: str, settings: dict[str, Any], module: str = "keras.layers") -> dict[str, Any]:
    return {"module": module, "class_name": kind, "config": settings, "registered_name": None}


def casts(array: torch.Tensor) -> Any:
    """An array as numpy, which has no bfloat16."""
    return (array.float() if array.dtype == torch.bfloat16 else array).numpy()
