"""The model of a file as Keras itself runs it, to compare with; built anew of what is known, nothing deserialized.

Keras's own loader makes whatever objects a file names. Here only layers of the table are made, of their settings
that count, as plain values; initializers, regularizers and constraints are left out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gatewise.convert.keras.config import Config, UnknownError
from gatewise.convert.keras.files import contents
from gatewise.convert.keras.graph import Walk, recurrent
from gatewise.convert.keras.model import Source, Torch, cells_of, directions, whole
from gatewise.convert.keras.operations import OPERATIONS, settings
from gatewise.convert.keras.recurrent import KINDS, layer_of
from gatewise.convert.keras.slots import cell_config, slots
from gatewise.convert.keras.table import ROWS, activation
from gatewise.convert.report import Runtime
from gatewise.errors import InputError, require

OPTIONS = ("return_sequences", "return_state", "go_backwards", "stateful", "zero_output_for_mask")


def runtime(source: Any) -> Runtime:
    """Keras, running the model of a file, or a live one as it is.

    Args: source: as `read` takes it.

    Raises:
        InputError: the file tells no architecture, or the model has something that is not known here.
        MissingPackageError: Keras is not installed.
    """
    require("keras", extra="keras")
    found = contents(source)
    if found.config is None:
        raise InputError(f"{found.name} tells no architecture, so Keras cannot run it")
    config = whole(found)
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    try:
        torch_model = Torch(Source(found, config))
        outputs = Walk(torch_model).model(config, "", "", None, found.second)
        inputs = torch_model.finish(outputs, "model").specs
        built = Keras(Source(found, config), keras)
        symbolic = Walk(built).model(config, "", "", None, found.second)
    except UnknownError as reason:
        raise InputError(
            f"{found.name}: Keras is given only models whose layers are all known here: {reason}"
        ) from None
    model = keras.Model(built.inputs, symbolic)
    for layer, arrays in built.weights:
        _set(layer, arrays)

    def run(arrays: Sequence[Any]) -> Sequence[Any]:
        made = model([keras.ops.convert_to_tensor(a) for a in arrays], training=False)
        # Not keras.ops.convert_to_numpy, which warns of torch's tensors under numpy 2.
        return [t.detach().cpu().numpy() if isinstance(t, Tensor) else t.__array__() for t in keras.tree.flatten(made)]

    return Runtime(f"Keras {keras.__version__} on {keras.backend.backend()}", inputs, run)  # type: ignore[arg-type]


def _set(layer: Any, arrays: Sequence[Tensor]) -> None:
    values = [a.float().numpy() if a.dtype == torch.bfloat16 else a.numpy() for a in arrays]
    layer.set_weights(values)


class Keras:
    """Builds the model of Keras's own layers."""

    def __init__(self, source: Source, keras: Any) -> None:
        self.source, self.keras, self.second = source, keras, source.second
        self.inputs: list[Any] = []
        self.made: dict[str, Any] = {}
        self.weights: list[tuple[Any, list[Tensor]]] = []

    def input(self, config: Config, shape: Sequence[int | None], dtype: str) -> Any:
        self.inputs.append(self.keras.Input(tuple(shape[1:]), dtype=dtype))
        return self.inputs[-1]

    def layer(self, config: Config, path: str, name: str, values: Sequence[Any], states: Sequence[Any]) -> list[Any]:
        first = path not in self.made
        if first:
            self.made[path] = self._layer(config, path)
        layer = self.made[path]
        given = values[0] if len(values) == 1 else list(values)
        made = layer(given, initial_state=list(states)) if states else layer(given)
        if first and layer.weights:
            self.weights.append((layer, self._arrays(config, path)))
        return list(self.keras.tree.flatten(made))

    def operation(self, config: Config, arguments: Sequence[Any]) -> Any:
        name, options = OPERATIONS[config.kind][0] if config.kind in OPERATIONS else "", settings(config)
        if config.kind == "GetItem":
            return arguments[0][tuple(arguments[1]) if isinstance(arguments[1], list) else arguments[1]]
        return getattr(self.keras.ops, name)(*arguments, **options)

    def masked(self, config: Config, value: Any, mask: Any) -> Any:
        # Keras hands the mask that a tensor carries to the layer, and behind it.
        twin = self.keras.layers.Identity()(value)
        twin._keras_mask = mask
        return twin

    def _layer(self, config: Config, path: str) -> Any:
        layers = self.keras.layers
        if config.foreign:
            raise UnknownError(f"{config}, a class of its author's own")
        if config.kind == "Bidirectional":
            one, two, merge = directions(config)
            return layers.Bidirectional(self._layer(one, path), merge_mode=None if merge == "none" else merge,
                                        backward_layer=self._layer(two, path))  # fmt: skip
        if recurrent(config):
            return self._recurrent(config, path)
        if config.kind == "TimeDistributed":
            return layers.TimeDistributed(self._layer(config.inner("layer"), f"{path}/layer"))
        if config.kind == "Masking":
            return layers.Masking(config.real("mask_value", 0.0))
        if config.kind not in ROWS:
            raise UnknownError(f"{config}, a layer that is not in the table")
        if ROWS[config.kind].trains or config.kind == "Dropout":
            return layers.Identity()
        settings = {k: config.settings[k] for k in ROWS[config.kind].settings if k in config.settings}
        if "activation" in settings:
            settings["activation"] = self._function(activation(config, self.second))
        if config.kind == "LeakyReLU":
            settings = {"negative_slope": config.real("alpha" if "alpha" in settings else "negative_slope")}
        if config.kind == "ReLU":
            settings = {k: v for k, v in settings.items() if v is not None}
        plain = (int, float, str, bool, list, type(None))
        if wrong := [k for k, v in settings.items() if not isinstance(v, plain) and k != "activation"]:
            raise config.bad(f"{wrong[0]} is no plain value")
        if isinstance(settings.get("axis"), list) and len(settings["axis"]) == 1:
            settings["axis"] = settings["axis"][0]
        return getattr(layers, config.kind)(**settings)

    def _recurrent(self, config: Config, path: str) -> Any:
        layers = self.keras.layers
        options = {k: config.flag(k, False) for k in OPTIONS}
        if config.flag("time_major", False):
            raise UnknownError("time_major, which Keras 3 does not have")
        if config.kind == "RNN":
            stacked = cell_config(config).kind == "StackedRNNCells"
            cells = [getattr(layers, f"{KINDS[c.kind]}Cell")(**self._cell(c)) for _, c in cells_of(config, path)]
            return layers.RNN(cells if stacked else cells[0], **options)
        return getattr(layers, KINDS[config.kind].removeprefix("CuDNN"))(**self._cell(config), **options)

    def _cell(self, config: Config) -> dict[str, Any]:
        """A cell's settings."""
        made: dict[str, Any] = {"units": config.number("units"), "use_bias": config.flag("use_bias", True)}
        if config.kind.startswith("CuDNN"):
            return made | ({"reset_after": True} if "GRU" in config.kind else {})
        for key in ("activation", "recurrent_activation"):
            if key in config.settings and not (key[0] == "r" and KINDS[config.kind] == "SimpleRNN"):
                made[key] = self._function(config.activation(key))
        return made | ({"reset_after": config.flag("reset_after", False)} if KINDS[config.kind] == "GRU" else {})

    def _function(self, name: str) -> str | Callable[[Any], Any]:
        """An activation: Keras's own of this name, or what Keras 2 meant by it."""
        if name == "hard_sigmoid" and self.second:
            return lambda a: self.keras.ops.clip(0.2 * a + 0.5, 0.0, 1.0)
        return name

    def _arrays(self, config: Config, path: str) -> list[Tensor]:
        """A layer's arrays in Keras 3's layout."""
        found = [self.source.arrays.of(config, slot.path, slot.names) for slot in slots(config, path)]
        flat = [array for part in found for array in part]
        if config.kind.startswith("CuDNN"):
            return self._unfused(config, flat)
        if config.kind == "Bidirectional" and config.inner("layer").kind.startswith("CuDNN"):
            one, two, _ = directions(config)
            half = len(flat) // 2
            return self._unfused(one, flat[:half]) + self._unfused(two, flat[half:])
        return flat

    def _unfused(self, config: Config, arrays: Sequence[Tensor]) -> list[Tensor]:
        """cuDNN's arrays as Keras's loader turned them into those of LSTM and GRU."""
        units = config.number("units")
        layer_of(config, arrays, self.second)  # which checks the shapes
        kernel = torch.cat([k.reshape(units, -1).t() for k in arrays[0].split(units, 1)], 1)
        recurrent = torch.cat([k.t() for k in arrays[1].split(units, 1)], 1)
        bias = arrays[2].reshape(2, -1)
        return [kernel, recurrent, bias if "GRU" in config.kind else bias.sum(0)]
