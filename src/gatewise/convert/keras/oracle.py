"""The model of a file as Keras itself runs it, to compare with; of its configuration only what is known is made.

Keras reads the weights with its own loader. Where it cannot (what only Keras 2 read, CuDNN's layouts), it is given
the numbers that gatewise read, and the runtime's name says so.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gatewise.convert.keras import cleaned
from gatewise.convert.keras.apart import copy
from gatewise.convert.keras.config import Config, UnknownError
from gatewise.convert.keras.files import WEIGHTS, Contents, contents, is_archive, members, on_disk
from gatewise.convert.keras.graph import Walk, every_config
from gatewise.convert.keras.model import Source, Torch, cells_of, directions, every_layer, whole
from gatewise.convert.keras.operations import OPERATIONS, settings
from gatewise.convert.keras.recurrent import KINDS, layer_of, variables
from gatewise.convert.keras.slots import Arrays, layers_of, slots
from gatewise.convert.keras.weights import Sides, recurrent_in
from gatewise.convert.keras.writing import library
from gatewise.convert.network import Spec
from gatewise.convert.report import Runtime
from gatewise.errors import InputError, one_line

OURS = "with the weights as gatewise read them"


def runtime(source: Any) -> Runtime:
    """Keras, running the model of a file, or a live one as it is.

    Args: source: as `read` takes it.

    Raises:
        InputError: the file tells no architecture, or the model has something that is not known here.
        MissingPackageError: Keras is not installed.
    """
    keras = library()
    if not isinstance(source, (str, os.PathLike)):
        found = contents(source)
        return _runtime(keras, source, _specs(found, whole(found)), "")
    with tempfile.TemporaryDirectory() as folder:
        # What is checked is what Keras reads, whatever becomes of the file meanwhile.
        path = Path(folder) / Path(source).name
        shutil.copyfile(source, path)
        found = contents(path)
        if found.config is None:
            raise InputError(f"{found.name} tells no architecture, so Keras cannot run it")
        config = whole(found)
        try:
            inputs = _specs(found, config)
            try:
                model, note = _loaded(keras, path, found, config, inputs), ""
            except (InputError, UnknownError):
                raise
            except Exception as error:  # whatever Keras raises on what it does not read: it is told
                model, note = _built(keras, found, config), f", {OURS}: its own loader says {one_line(error)[:80]}"
        except UnknownError as reason:
            raise InputError(
                f"{found.name}: Keras is given only models whose layers are all known here: {reason}"
            ) from None
    return _runtime(keras, model, inputs, note)


def _runtime(keras: Any, model: Any, inputs: Sequence[Spec], note: str) -> Runtime:
    """A model or layer of Keras's that is ready."""

    def run(arrays: Sequence[Any]) -> Sequence[Any]:
        given = [keras.ops.convert_to_tensor(a) for a in arrays]
        for layer in model._flatten_layers():
            if getattr(layer, "stateful", False) and hasattr(layer, "reset_states"):
                layer.reset_states()
        many = hasattr(model, "input") and isinstance(model, keras.Model)  # a Sequential or a layer has but one
        made = model(keras.tree.pack_sequence_as(model.input, given) if many else given[0], training=False)
        return [_numpy(t) for t in keras.tree.flatten(made)]

    return Runtime(f"Keras {keras.__version__} on {keras.backend.backend()}{note}", inputs, run)


def _numpy(tensor: Any) -> Any:
    # Not keras.ops.convert_to_numpy, which warns of torch's tensors under numpy 2.
    return tensor.detach().cpu().numpy() if isinstance(tensor, Tensor) else tensor.__array__()


def _specs(found: Contents, config: Config) -> list[Spec]:
    """The inputs of a model; those of a stateful one have its batch size."""
    torch_model = Torch(Source(found, config))
    outputs = Walk(torch_model).model(config, "", "", None, found.second)
    specs: list[Spec] = list(torch_model.finish(outputs, "model").specs)  # type: ignore[arg-type]
    batch = _batch(config)
    return specs if batch is None else [replace(s, shape=(batch, *s.shape[1:])) for s in specs]


def _batch(config: Config) -> int | None:
    """The batch size of a model that keeps states from call to call."""
    every = list(every_config(config))
    if not any(c.settings.get("stateful") is True for c in every):
        return None
    shapes = [c.settings.get(key) for c in every for key in ("batch_shape", "batch_input_shape")]
    sizes = [s[0] for s in shapes if isinstance(s, list) and s and isinstance(s[0], int)]
    return sizes[0] if sizes else None


def _loaded(keras: Any, path: Path, found: Contents, config: Config, inputs: Sequence[Spec]) -> Any:
    """The model, its weights read by Keras.

    Raises: UnknownError: of something nothing is known. InputError: the file is hostile. Others: Keras cannot.
    """
    if any(c.kind.startswith("CuDNN") for c in every_config(config)):
        raise ValueError("Keras 3 has no CuDNN layers")
    first = [None if isinstance(s, str) else s for s in inputs[0].shape]
    made = cleaned.model(config, found.second, first)
    # Keras reads in this process, where nothing could stop it: so it is given a copy, which our HDF5 library wrote.
    weights = path.with_name("clean.weights.h5" if path.name.endswith(".weights.h5") else "clean.h5")
    if not is_archive(path):
        with open(path, "rb") as file:
            copy(file, found.name, weights)
        with cleaned.known(keras):
            model = keras.saving.deserialize_keras_object(made, safe_mode=True)
        model.load_weights(weights)
        return model
    with on_disk(members(path)[WEIGHTS]) as file:
        copy(file, found.name, weights)
    clean = path.with_name("clean.keras")
    with zipfile.ZipFile(clean, "w") as archive:
        archive.writestr("config.json", json.dumps(made))
        archive.writestr("metadata.json", json.dumps({"keras_version": found.version}))
        archive.write(weights, WEIGHTS)
    with cleaned.known(keras):
        return keras.saving.load_model(clean, compile=False, safe_mode=True)


def _built(keras: Any, found: Contents, config: Config) -> Any:
    """The model, put together and given its weights by gatewise."""
    built = Keras(Source(found, config), keras)
    outputs = Walk(built).model(config, "", "", None, found.second)
    model = keras.Model(built.inputs, outputs)
    for layer, arrays in built.weights:
        layer.set_weights([cleaned.casts(a) for a in arrays])
    return model


class Keras:
    """Builds the model of Keras's own layers."""

    def __init__(self, source: Source, keras: Any) -> None:
        self.source, self.keras, self.second = source, keras, source.second
        self.batch = _batch(source.config)
        self.inputs: list[Any] = []
        self.made: dict[str, Any] = {}
        self.weights: list[tuple[Any, list[Tensor]]] = []

    def input(self, config: Config, shape: Sequence[int | None], dtype: str) -> Any:
        self.inputs.append(self.keras.Input(batch_shape=(self.batch, *shape[1:]), dtype=dtype))
        return self.inputs[-1]

    def layer(self, config: Config, path: str, name: str, values: Sequence[Any], states: Sequence[Any]) -> list[Any]:
        first = path not in self.made
        if first:
            self.made[path] = _layer(self.keras, config, self.second)
        layer = self.made[path]
        given = values[0] if len(values) == 1 else list(values)
        made = layer(given, initial_state=list(states)) if states else layer(given)
        if first and layer.weights:
            self.weights.append((layer, self._arrays(config, path)))
        return list(self.keras.tree.flatten(made))

    def operation(self, config: Config, arguments: Sequence[Any]) -> Any:
        options = settings(config)  # which refuses what is not in the table
        if config.kind == "GetItem":
            return arguments[0][tuple(arguments[1]) if isinstance(arguments[1], list) else arguments[1]]
        return getattr(self.keras.ops, OPERATIONS[config.kind][0])(*arguments, **options)

    def masked(self, config: Config, value: Any, mask: Any) -> Any:
        # Keras hands the mask that a tensor carries to the layer, and behind it.
        twin = self.keras.layers.Identity()(value)
        twin._keras_mask = mask
        return twin

    def _arrays(self, config: Config, path: str) -> list[Tensor]:
        """A layer's arrays in Keras 3's layout, what is trained first."""
        wanted = list(slots(config, path))
        flat = [a for slot in wanted for a in self.source.arrays.of(config, slot.path, slot.names)]
        if config.kind.startswith("CuDNN"):
            return _unfused(config, flat, self.second)
        if config.kind == "Bidirectional" and config.inner("layer").kind.startswith("CuDNN"):
            one, two, _ = directions(config)
            half = len(flat) // 2
            return _unfused(one, flat[:half], self.second) + _unfused(two, flat[half:], self.second)
        trained = [t for slot in wanted for t in slot.trained]
        return [flat[k] for k in sorted(range(len(flat)), key=lambda k: not trained[k])]


def _layer(keras: Any, config: Config, second: bool) -> Any:
    """A layer of Keras's, made of what is known of its configuration."""
    made = cleaned.layer(config, second)
    with cleaned.known(keras):
        return keras.saving.deserialize_keras_object(made, safe_mode=True)


def _unfused(config: Config, arrays: Sequence[Tensor], second: bool) -> list[Tensor]:
    """cuDNN's arrays as Keras's loader turned them into those of LSTM and GRU."""
    units = config.number("units")
    layer_of(config, arrays, second)  # which checks the shapes
    kernel = torch.cat([k.reshape(units, -1).t() for k in arrays[0].split(units, 1)], 1)
    recurrent = torch.cat([k.t() for k in arrays[1].split(units, 1)], 1)
    bias = arrays[2].reshape(2, -1)
    return [kernel, recurrent, bias if "GRU" in config.kind else bias.sum(0)]


# --- layers alone ------------------------------------------------------------------------------------


def layer_runtimes(source: Any, names: Sequence[str]) -> Iterator[Runtime]:
    """Keras, running recurrent layers of a file of which the whole is not known.

    Its own layer of that class is given the arrays as they are stored, and returns the outputs of all steps and the
    states in the order of gatewise's layer.

    Args: names: which, as `Layers` has them.

    Raises: as `runtime`.
    """
    keras = library()
    found = contents(source)
    every = recurrent_in(found)
    if found.config is not None:
        every |= _recurrent(found, whole(found))
    for name in names:
        if name not in every:
            continue
        sides = every[name]
        made = [_alone(keras, config, found.second, bool(k)) for k, (config, _) in enumerate(sides)]
        with cleaned.known(keras):
            layer = made[0] if len(made) == 1 else keras.layers.Bidirectional(made[0], backward_layer=made[1])
        size = sides[0][1][0].shape[0]
        layer.build((None, None, size))
        stored = [_unfused(c, a, found.second) if c.kind.startswith("CuDNN") else a for c, a in sides]
        layer.set_weights([cleaned.casts(array) for part in stored for array in part])
        note = f", {OURS}" if sides[0][0].kind.startswith("CuDNN") else ""
        yield _layer_runtime(keras, name, note, layer, size, len(made))


def _layer_runtime(keras: Any, name: str, note: str, layer: Any, size: int, sides: int) -> Runtime:
    def run(arrays: Sequence[Any]) -> Sequence[Any]:
        output, *states = layer(keras.ops.convert_to_tensor(arrays[0]), training=False)
        each = len(states) // sides  # Keras tells all states of one direction, gatewise one state of all directions
        ordered = [states[d * each + k] for k in range(each) for d in range(sides)]
        return [_numpy(t) for t in (output, *ordered)]

    library = f"Keras {keras.__version__} on {keras.backend.backend()}, {name} alone{note}"
    return Runtime(library, [Spec("x", ("B", "T", size))], run, name)


def _recurrent(found: Contents, config: Config) -> dict[str, Sides]:
    """The recurrent layers of a model, by the names that `Layers` has: one direction, or two of one kind."""
    arrays = Arrays(found, layers_of(config, ""))
    made: dict[str, Sides] = {}
    for path, layer, name in every_layer(config, ""):
        key = name.replace(".", "_")
        try:
            if layer.kind != "Bidirectional":
                made |= {f"{key}/{n}" if n else key: [side] for n, side in _cells(arrays, layer, path).items()}
                continue
            one, two, _ = directions(layer)
            halves = {"forward_layer": _cells(arrays, one, f"{path}/forward_layer"),
                      "backward_layer": _cells(arrays, two, f"{path}/backward_layer")}  # fmt: skip
        except UnknownError:
            continue
        for half, cells in halves.items():
            made |= {f"{key}/{half}" + n.removeprefix("layer"): [side] for n, side in cells.items()}
        if all(len(cells) == 1 for cells in halves.values()):
            made[key] = [side for cells in halves.values() for side in cells.values()]
    return made


def _cells(arrays: Arrays, layer: Config, path: str) -> dict[str, tuple[Config, list[Tensor]]]:
    """The cell of a recurrent layer by no name, those of an RNN by layer_0 and so on, each with its arrays."""
    if layer.foreign:
        return {}
    if layer.kind == "RNN":
        places = {f"layer_{k}": (c, p) for k, (p, c) in enumerate(cells_of(layer, path))}
    elif layer.kind in KINDS:
        places = {"": (layer, path if layer.kind.startswith("CuDNN") else f"{path}/cell")}
    else:
        return {}
    return {name: (c, arrays.of(c, p, variables(c))) for name, (c, p) in places.items()}


def _alone(keras: Any, config: Config, second: bool, backwards: bool) -> Any:
    options = {"return_sequences": True, "return_state": True, "go_backwards": backwards, "stateful": False}
    return _layer(keras, config.copy(**options), second)
