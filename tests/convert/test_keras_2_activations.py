"""What a name meant in Keras 2, in each layer and wrapper: proved by Keras, which is given the older function."""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gatewise import convert
from gatewise.convert.keras import activations
from gatewise.convert.proof import runtime_of

np = pytest.importorskip("numpy")
h5py = pytest.importorskip("h5py")
os.environ.setdefault("KERAS_BACKEND", "torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what Keras imports
    keras = pytest.importorskip("keras")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

Config = dict[str, Any]
GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}
UNITS = 3
# Which of a layer's activations have the name, and what the others are.
PLACES = {"activation": (True, False), "recurrent_activation": (False, True), "both": (True, True)}


# --- a model as Keras 2 writes it --------------------------------------------------------------------


def layer(kind: str, name: str, **settings: Any) -> Config:
    return {"class_name": kind, "config": {"name": name, "trainable": True, **settings}}


def recurrent(old: str, place: str, kind: str, name: str, **settings: Any) -> Config:
    """A recurrent layer or cell, `old` in that place."""
    first, second = PLACES[place]
    made = {"units": UNITS, "use_bias": True, "activation": old if first else "tanh"}
    if not kind.startswith("SimpleRNN"):
        made["recurrent_activation"] = old if second else "sigmoid"
    if not kind.endswith("Cell"):
        made |= {"return_sequences": True, "return_state": False, "go_backwards": False}
    return layer(kind, name, **made | settings)


Make = Callable[..., Config]  # `recurrent` with its first two arguments given


def rnn(name: str, *cells: Config, backwards: bool = False) -> Config:
    cell = cells[0] if len(cells) == 1 else layer("StackedRNNCells", f"{name}_cells", cells=list(cells))
    return layer("RNN", name, cell=cell, return_sequences=True, return_state=False, go_backwards=backwards)


def sequential(name: str, *layers: Config) -> Config:
    return {"class_name": "Sequential", "config": {"name": name, "layers": list(layers)}}


def functional(name: str, size: int, inner: Config) -> Config:
    """A model of one layer, as Functional models of Keras 2 are written."""
    first = {"name": f"{name}_in", "batch_input_shape": [None, None, size], "dtype": "float32"}
    layers = [
        {"class_name": "InputLayer", "name": first["name"], "config": first, "inbound_nodes": []},
        {**inner, "name": inner["config"]["name"], "inbound_nodes": [[[first["name"], 0, 0, {}]]]},
    ]
    ends = {"input_layers": [[first["name"], 0, 0]], "output_layers": [[inner["config"]["name"], 0, 0]]}
    return {"class_name": "Model", "config": {"name": name, "layers": layers, **ends}}


def both(name: str, inner: Config, **settings: Any) -> Config:
    return layer("Bidirectional", name, layer=inner, merge_mode="concat", **settings)


def in_time(name: str, inner: Config) -> Config:
    return layer("TimeDistributed", name, layer=inner)


# Wrappers, each around layers of all kinds; what comes out is (B, T, features).
WRAPPERS: dict[str, Callable[[Make], list[Config]]] = {
    "none": lambda m: [m("SimpleRNN", "s"), m("GRU", "g"), m("GRU", "a", reset_after=True), m("LSTM", "l")],
    "Bidirectional": lambda m: [both("bg", m("GRU", "g")), both("bl", m("LSTM", "l")), both("bs", m("SimpleRNN", "s"))],
    "Bidirectional, each way its own": lambda m: [
        both("b", m("LSTM", "l"), backward_layer=m("LSTM", "k", go_backwards=True)),
    ],
    "RNN": lambda m: [rnn("rs", m("SimpleRNNCell", "s")), rnn("rg", m("GRUCell", "g")), rnn("rl", m("LSTMCell", "l"))],
    "RNN of stacked cells": lambda m: [rnn("r", m("LSTMCell", "l"), m("GRUCell", "g"), m("SimpleRNNCell", "s"))],
    "Bidirectional of RNN": lambda m: [both("b", rnn("r", m("LSTMCell", "l")))],
    "Bidirectional of stacked cells": lambda m: [both("b", rnn("r", m("GRUCell", "g"), m("LSTMCell", "l")))],
    "a model inside": lambda m: [sequential("inside", m("LSTM", "l"), both("b", m("GRU", "g")))],
    "a Functional model inside": lambda m: [functional("inside", 4, both("b", m("LSTM", "l")))],
    "models in models": lambda m: [sequential("one", sequential("two", both("b", rnn("r", m("GRUCell", "g")))))],
}  # fmt: skip


def arrays_of(config: Config, size: int) -> tuple[list[tuple[str, Any]], int]:
    """Random arrays of a layer in Keras 2's order, and how many features it gives."""
    kind, settings = config["class_name"], config["config"]
    plain = kind.removesuffix("Cell")
    if plain in GATES:
        width = GATES[plain] * UNITS
        bias = (2, width) if settings.get("reset_after") else (width,)
        shapes = {"kernel": (size, width), "recurrent_kernel": (UNITS, width), "bias": bias}
        return [(f"{settings['name']}/{n}:0", numbers(*s)) for n, s in shapes.items()], UNITS
    if kind in ("Dense", "Conv1D"):
        kernel = (size, UNITS) if kind == "Dense" else (2, size, UNITS)
        return [
            (f"{settings['name']}/kernel:0", numbers(*kernel)),
            (f"{settings['name']}/bias:0", numbers(UNITS)),
        ], UNITS
    if kind == "Bidirectional":
        one, width = arrays_of(settings["layer"], size)
        other, more = arrays_of(settings.get("backward_layer", settings["layer"]), size)
        return [*one, *other], width + more
    if kind in ("RNN", "TimeDistributed"):
        return arrays_of(settings["cell" if kind == "RNN" else "layer"], size)
    found = []
    for inner in settings.get("layers", settings.get("cells", [])):
        more, size = arrays_of(inner, size)
        found += more
    return found, size


RANDOM = np.random.default_rng(0)


def numbers(*shape: int) -> Any:
    return RANDOM.normal(0, 0.6, shape).astype("float32")


def write(path: Path, layers: list[Config], shape: tuple[int | None, ...] = (None, None, 4)) -> Path:
    """A model of Keras 2.2 with these layers one after the other."""
    first = layers[0]["config"]
    while "layers" in first and "input_layers" not in first:  # within a Sequential it is the first layer that tells
        first = first["layers"][0]["config"]
    first["batch_input_shape"] = list(shape)
    size = shape[-1]
    assert size is not None
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": layers}).encode()
        top = file.create_group("model_weights")
        file.attrs["keras_version"] = top.attrs["keras_version"] = b"2.2.4"
        top.attrs["layer_names"] = [config["config"]["name"].encode() for config in layers]
        for config in layers:
            arrays, size = arrays_of(config, size)
            group = top.create_group(config["config"]["name"])
            names = [f"{k}_{name}" for k, (name, _) in enumerate(arrays)]  # two directions may have one name
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, (_, array) in zip(names, arrays, strict=True):
                group[name] = array
    return path


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def check(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras proves it, by the weights that it reads itself; read with Keras 3's meaning, it fails."""
    found, runtime = convert.read(path), runtime_of(path)
    assert not found.left
    proof = convert.prove(found, runtime)
    assert proof.ok, str(proof)
    assert not proof.unproved
    assert proof.runtimes == (f"Keras {keras.__version__} on torch",)
    monkeypatch.setattr(activations, "KERAS_2", {})
    wrong = convert.prove(convert.read(path), runtime)
    assert any(d.wrong for d in wrong.differences), str(wrong)


@pytest.mark.parametrize("old", activations.KERAS_2)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_recurrent_layers_in_wrappers(
    wrapper: str, place: str, old: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(kind: str, name: str, **settings: Any) -> Config:
        return recurrent(old, place, kind, name, **settings)

    check(write(tmp_path / "old.h5", WRAPPERS[wrapper](make)), monkeypatch)


def dense(old: str, name: str) -> Config:
    return layer("Dense", name, units=UNITS, use_bias=True, activation=old)


OTHERS: dict[str, Callable[[str], list[Config]]] = {
    "Dense": lambda old: [dense(old, "d")],
    "Dense in time": lambda old: [in_time("t", dense(old, "d"))],
    "Dense of a model inside": lambda old: [sequential("inside", in_time("t", dense(old, "d")))],
    "Activation": lambda old: [layer("Activation", "a", activation=old)],
    "Conv1D": lambda old: [
        layer("Conv1D", "c", filters=UNITS, kernel_size=[2], padding="same", use_bias=True, activation=old)
    ],
}


@pytest.mark.parametrize("old", activations.KERAS_2)
@pytest.mark.parametrize("kind", OTHERS)
def test_other_layers(kind: str, old: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(write(tmp_path / "old.h5", OTHERS[kind](old)), monkeypatch)


@pytest.mark.parametrize("old", activations.KERAS_2)
@pytest.mark.parametrize("wrapped", ["GRU", "LSTM"])
def test_recurrent_layers_inside_of_time(
    wrapped: str, old: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer for each of the steps, which are sequences themselves; both ways."""
    layers = [in_time("t", both("b", recurrent(old, "both", wrapped, "l")))]
    check(write(tmp_path / "old.h5", layers, (None, None, 6, 4)), monkeypatch)


@pytest.mark.parametrize("old", activations.KERAS_2)
@pytest.mark.parametrize("place", PLACES)
def test_layers_alone(place: str, old: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model with another part that is unknown, Keras runs the layers alone, both directions among them."""
    layers = [recurrent(old, place, "GRU", "g"), both("b", recurrent(old, place, "LSTM", "l")), layer("Mystery", "m")]
    path = write(tmp_path / "old.h5", layers)
    found = convert.read(path)
    assert list(found.module) == ["g", "b"]  # type: ignore[call-overload]
    proof = convert.prove(found, path)
    assert proof.ok, str(proof)
    assert [name.rpartition(", ")[2] for name in proof.runtimes] == ["g alone", "b alone"]
    monkeypatch.setattr(activations, "KERAS_2", {})
    wrong = convert.prove(convert.read(path), path)
    assert {d.runtime for d in wrong.differences if d.wrong} == set(proof.runtimes)


@pytest.mark.parametrize("old", activations.KERAS_2)
def test_the_keras_files_of_tensorflow_2(old: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow 2.13 to 2.15 write .keras, and mean what Keras 2 meant."""
    k = keras.layers
    options: Any = {"recurrent_activation": old, "return_sequences": True}
    inner = [k.Bidirectional(k.LSTM(3, **options)), k.RNN([k.GRUCell(2, recurrent_activation=old)])]
    model = keras.Sequential([keras.Input((None, 4)), k.Bidirectional(k.GRU(3, **options)), keras.Sequential(inner)])
    model.set_weights([numbers(*w.shape) for w in model.get_weights()])
    model.save(tmp_path / "three.keras")
    with (
        zipfile.ZipFile(tmp_path / "three.keras") as source,
        zipfile.ZipFile(tmp_path / "old.keras", "w") as target,
    ):
        for name in source.namelist():
            told = name == "metadata.json"
            target.writestr(name, json.dumps({"keras_version": "2.15.0"}) if told else source.read(name))
    check(tmp_path / "old.keras", monkeypatch)
