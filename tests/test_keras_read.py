"""Keras's models as torch modules, against Keras itself: every option, random weights, masks of every kind."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close
from tolerances import FLOAT32
from torch import Tensor, nn

import gatewise
from gatewise import convert
from gatewise.convert.keras import read, runtime
from gatewise.convert.keras.activations import IN_CELLS
from gatewise.convert.keras.running import KerasRNN
from gatewise.convert.keras.slots import Arrays
from gatewise.errors import InputError
from gatewise.layer import Layer

pytest.importorskip("h5py")


@pytest.fixture(scope="session")
def keras() -> Any:
    if "KERAS_BACKEND" not in os.environ:
        os.environ["KERAS_BACKEND"] = "torch"
    found = pytest.importorskip("keras")
    if found.backend.backend() != "torch":
        pytest.skip("Keras runs on another backend here")
    return found


@pytest.fixture(autouse=True)
def quiet(keras: Any) -> Iterator[None]:
    keras.utils.set_random_seed(0)
    with torch.no_grad(), warnings.catch_warnings():
        # Keras says of layers that do not support masks that they lose them, which is what is tested here.
        warnings.filterwarnings("ignore", message="Layer .* does not support masking")
        warnings.filterwarnings("ignore", message=".*was passed an input with a mask attached")
        yield


def numbers(*shape: int, seed: int = 1) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(0, 1, shape).astype("float32")


def randomized(model: Any) -> Any:
    """Every weight random, a variance positive."""
    random = np.random.default_rng(2)
    values = [random.normal(0, 0.6, w.shape) for w in model.weights]
    model.set_weights(
        [np.abs(v) + 0.1 if "variance" in w.name else v for v, w in zip(values, model.weights, strict=True)]
    )
    return model


def flat(value: Any) -> list[Tensor]:
    if isinstance(value, dict):
        return [t for key in sorted(value) for t in flat(value[key])]
    return [t for v in value for t in flat(v)] if isinstance(value, (list, tuple)) else [value]


def assert_same(module: nn.Module, model: Any, *inputs: np.ndarray[Any, Any], what: str = "") -> None:
    """The torch module and the Keras model give the same outputs."""
    given = [torch.from_numpy(x) for x in inputs]
    ours = flat(module(*given))
    theirs = flat(model(given if len(given) > 1 else given[0]))
    assert len(ours) == len(theirs)
    for k, (one, two) in enumerate(zip(ours, theirs, strict=True)):
        assert_close(one, two, FLOAT32, f"{what} output {k}")


def masked_input(width: int = 4) -> np.ndarray[Any, Any]:
    """Six sequences: whole, padded in front, padded behind, with holes, with one step, masked throughout."""
    x = numbers(6, 7, width)
    for sample, steps in ((1, [0, 1, 2]), (2, [5, 6]), (3, [0, 2, 3, 6]), (4, [0, 1, 2, 4, 5, 6]), (5, range(7))):
        x[sample, list(steps)] = 0
    return x


def chain(keras: Any, *layers: Any, width: int = 4, mask: bool = False) -> Any:
    first = [keras.layers.Masking()] if mask else []
    return randomized(keras.Sequential([keras.Input((None, width)), *first, *layers]))


BOTH = {"return_sequences": True, "return_state": True}
RECURRENT: dict[str, Callable[[Any], Any]] = {
    "rnn": lambda L: L.SimpleRNN(3, **BOTH),
    "rnn relu last": lambda L: L.SimpleRNN(3, activation="relu"),
    "gru": lambda L: L.GRU(3, **BOTH),
    "gru before": lambda L: L.GRU(3, reset_after=False, **BOTH),
    "gru last": lambda L: L.GRU(1),
    "gru no bias": lambda L: L.GRU(3, use_bias=False, return_sequences=True),
    "gru before no bias": lambda L: L.GRU(3, use_bias=False, reset_after=False),
    "gru backwards": lambda L: L.GRU(3, go_backwards=True, **BOTH),
    "lstm": lambda L: L.LSTM(3, **BOTH),
    "lstm last state": lambda L: L.LSTM(3, return_state=True),
    "lstm no bias": lambda L: L.LSTM(3, use_bias=False, unit_forget_bias=False),
    "lstm backwards": lambda L: L.LSTM(3, go_backwards=True, return_sequences=True),
    "lstm unrolled": lambda L: L.LSTM(3, return_sequences=True, unit_forget_bias=False, implementation=1),
    "lstm zero output": lambda L: L.LSTM(3, zero_output_for_mask=True, **BOTH),
    "lstm zero output last": lambda L: L.LSTM(3, zero_output_for_mask=True),
    "cell": lambda L: L.RNN(L.GRUCell(3, reset_after=False), **BOTH),
    "cells": lambda L: L.RNN([L.GRUCell(2), L.LSTMCell(3), L.SimpleRNNCell(2)], **BOTH),
    "cells backwards": lambda L: L.RNN([L.LSTMCell(3), L.LSTMCell(3)], go_backwards=True, return_sequences=True),
    "bi concat": lambda L: L.Bidirectional(L.GRU(3, return_sequences=True)),
    "bi lstm": lambda L: L.Bidirectional(L.LSTM(3, **BOTH), merge_mode="sum"),
    "bi mul last": lambda L: L.Bidirectional(L.LSTM(3), merge_mode="mul"),
    "bi ave": lambda L: L.Bidirectional(L.SimpleRNN(3, return_sequences=True), merge_mode="ave"),
    "bi both": lambda L: L.Bidirectional(L.LSTM(3, **BOTH), merge_mode=None),
    "bi own": lambda L: L.Bidirectional(
        L.GRU(3, **BOTH), backward_layer=L.GRU(3, reset_after=False, go_backwards=True, **BOTH)
    ),
    "bi kinds": lambda L: L.Bidirectional(L.GRU(3), merge_mode="sum", backward_layer=L.LSTM(3, go_backwards=True)),
    "bi cells": lambda L: L.Bidirectional(L.RNN([L.GRUCell(2), L.LSTMCell(3)], return_sequences=True)),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers(keras: Any, name: str) -> None:
    model = chain(keras, RECURRENT[name](keras.layers))
    found = read(model)
    assert not found.left
    assert any(isinstance(m, Layer) for m in found.module.modules())
    assert_same(found.module, model, numbers(3, 5, 4), what=name)
    assert_same(found.module, model, numbers(1, 1, 4), what=f"{name}, one step")


@pytest.mark.parametrize("name", RECURRENT)
def test_masks(keras: Any, name: str) -> None:
    model = chain(keras, RECURRENT[name](keras.layers), mask=True)
    assert_same(read(model).module, model, masked_input(), what=name)


@pytest.mark.parametrize("name", sorted(IN_CELLS))
def test_activations(keras: Any, name: str) -> None:
    layers = [
        keras.layers.SimpleRNN(3, activation=name, return_sequences=True),
        keras.layers.LSTM(3, activation=name, recurrent_activation=name, return_sequences=True),
        keras.layers.GRU(3, recurrent_activation=name, reset_after=False, return_sequences=True),
        keras.layers.GRU(3, activation=name, recurrent_activation=name),
        keras.layers.Dense(2, activation=name),
    ]
    for layer, width in zip(layers, (4, 4, 4, 4, 4), strict=True):
        model = chain(keras, layer, width=width)
        steps = 2 if name == "exponential" else 4  # which grows beyond all bounds
        assert_same(read(model).module, model, 0.3 * numbers(2, steps, width), what=f"{layer.name} {name}")


def test_one_layer_alone_and_its_names(keras: Any) -> None:
    layer = keras.layers.Bidirectional(keras.layers.LSTM(3))
    with pytest.raises(InputError, match="has no weights yet"):
        read(layer)
    x = torch.from_numpy(numbers(2, 5, 4))
    layer(x)
    randomized(layer)
    found = read(layer)
    assert_close(found.module(x), layer(x), FLOAT32)
    (own,) = convert.layers(layer).values()
    assert isinstance(own, gatewise.LSTM)
    assert own.bidirectional
    assert [m.how for m in found.mapped] == ["gates i f c o are i f g o, one bias"] * 2


def test_stateful(keras: Any) -> None:
    layers = keras.layers
    model = randomized(
        keras.Sequential([keras.Input(batch_shape=(2, 3, 4)), layers.LSTM(3, stateful=True, return_sequences=True)])
    )
    module = read(model).module
    for seed in (1, 2):
        assert_same(module, model, numbers(2, 3, 4, seed=seed))
    with pytest.raises(ValueError, match="batch size"):
        module(torch.zeros(5, 3, 4))


def everything(keras: Any) -> tuple[Any, list[np.ndarray[Any, Any]]]:
    """One model of nearly all layers: several inputs and outputs, masks that meet, states that are handed on."""
    L = keras.layers
    ids, b = keras.Input((None,), name="ids"), keras.Input((None, 4), name="b")
    words = L.Bidirectional(L.GRU(3, return_sequences=True), merge_mode="sum")(L.Embedding(5, 4, mask_zero=True)(ids))
    words = L.TimeDistributed(L.Dense(3, activation="relu"))(words)
    y, h, c = L.LSTM(3, return_sequences=True, return_state=True)(L.Masking()(b))
    z = L.LSTM(3, return_sequences=True)(words, initial_state=[h, c])
    met = L.Concatenate()([L.Add()([y, z]), words])
    met = L.Dense(3)(L.Dropout(0.3)(L.LayerNormalization()(L.BatchNormalization()(met))))
    p, q = L.GlobalAveragePooling1D()(met), L.GlobalMaxPooling1D()(met)
    causal = L.Conv1D(4, 2, padding="causal", dilation_rate=2)(b)
    outputs = [
        L.GRU(2)(met),
        p,
        q,
        L.Conv1D(3, 3, padding="same", strides=2, activation="gelu")(met),
        L.Dot(axes=1)([p, q]),
        L.GRU(2)(L.Concatenate(axis=1)([L.PReLU(shared_axes=[1])(causal), L.Masking()(b)])),
        L.MaxPooling1D(3, 2, padding="same")(causal),
        L.AveragePooling1D(2, 2)(causal),
        L.Subtract()([p, q]),
        L.Conv1D(4, 3, groups=2)(causal),
        L.GRU(2)(L.Concatenate()([met, b])),
        L.Softmax()(p),
        L.Multiply()([p, q]),
        L.Maximum()([p, q]),
        L.Minimum()([p, q]),
        L.Average()([p, q]),
        L.RepeatVector(3)(p),
        L.ReLU(max_value=0.5, negative_slope=0.1, threshold=0.1)(p),
        L.LeakyReLU(negative_slope=0.2)(p),
        L.ELU(alpha=0.5)(p),
        L.ZeroPadding1D((1, 2))(causal),
        L.Cropping1D((1, 2))(causal),
        L.UpSampling1D(2)(causal),
        L.GaussianNoise(0.5)(p),
        L.Activation("softmax")(p),
        L.TimeDistributed(L.LSTM(2))(L.ZeroPadding2D(1)(L.Reshape((3, 1, 1))(p))),
    ]
    ids_given = np.array([[1, 2, 0, 3, 0, 0], [0, 0, 1, 4, 2, 1], [1, 1, 1, 1, 1, 1]])
    x = numbers(3, 6, 4)
    x[0, 4:] = x[1, 2:4] = 0
    return randomized(keras.Model([ids, b], outputs)), [ids_given, x]


@pytest.mark.parametrize("kind", ["live", "keras", "h5"])
def test_a_model_of_nearly_everything(keras: Any, tmp_path: Path, kind: str) -> None:
    model, inputs = everything(keras)
    source: Any = model
    if kind != "live":
        source = tmp_path / f"model.{kind}"
        save(model, source)
    found = read(source)
    assert not found.left
    assert [(s.name, s.shape, s.high) for s in found.module.specs] == [("ids", ("B", "T"), 5), ("b", ("B", "T", 4), 0)]  # type: ignore[attr-defined, union-attr]
    assert_same(found.module, model, *inputs)
    assert any("acts in training only" in note for note in found.notes)


def save(model: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.name.endswith(".weights.h5"):
            model.save_weights(path)
        else:
            model.save(path)


def test_keras_itself_runs_a_file(keras: Any, tmp_path: Path) -> None:
    model, inputs = everything(keras)
    save(model, tmp_path / "model.keras")
    made = runtime(tmp_path / "model.keras")
    assert "Keras" in made.name
    assert [spec.name for spec in made.inputs] == ["ids", "b"]
    for one, two in zip(made.run(inputs), flat(model(inputs)), strict=True):
        assert_close(torch.from_numpy(one), two, FLOAT32)


def test_images(keras: Any, tmp_path: Path) -> None:
    L = keras.layers
    image = keras.Input((6, 8, 3))
    x = L.Conv2D(4, 3, strides=2, padding="same", activation="elu")(image)
    x = L.AveragePooling2D(2)(L.ZeroPadding2D(((1, 2), (0, 2)))(x))
    rows = L.Reshape((3, 8))(L.Dense(24)(L.Flatten()(x)))
    outputs = [L.GRU(2)(L.Permute((2, 1))(rows)), L.GlobalAveragePooling2D()(x), L.BatchNormalization(axis=1)(x)]
    outputs += [L.MaxPooling2D((2, 1), padding="same")(x), L.LayerNormalization(axis=-1, scale=False)(x)]
    model = randomized(keras.Model(image, outputs))
    save(model, tmp_path / "model.keras")
    assert_same(read(tmp_path / "model.keras").module, model, numbers(2, 6, 8, 3))


def nested(keras: Any) -> Any:
    """Models inside of models, one called twice, one with a frozen half, outputs as a dictionary."""
    L = keras.layers
    inner = keras.Sequential(
        [keras.Input((4, 3)), L.LSTM(2, return_sequences=True, trainable=False), L.BatchNormalization()], name="inner"
    )
    x = keras.Input((4, 2))
    two = keras.Model(x, [L.GRU(2)(x), L.Dense(3)(x)], name="two")
    a, b = keras.Input((4, 3), name="a"), keras.Input((4, 3), name="b")
    one, other = inner(a), inner(b)
    p, q = two(one)
    r, s = two(other)
    shared = L.Dense(2)
    outputs = {"x": shared(p), "y": shared(r), "z": s, "w": q, "v": L.Add()([one, other]), "u": other}
    return randomized(keras.Model([a, b], outputs))


@pytest.mark.parametrize("kind", ["live", "keras", "h5"])
def test_models_inside_of_models(keras: Any, tmp_path: Path, kind: str) -> None:
    model = nested(keras)
    source: Any = model
    if kind != "live":
        source = tmp_path / f"model.{kind}"
        save(model, source)
    module = read(source).module
    inputs = [numbers(2, 4, 3), numbers(2, 4, 3, seed=3)]
    assert_same(module, model, *inputs)
    assert sum(isinstance(m, Layer) for m in module.modules()) == 2  # shared, not copied


def test_a_layer_that_is_not_known_leaves_the_recurrent_ones(keras: Any, tmp_path: Path) -> None:
    ran = []

    def own(x: Tensor) -> Tensor:
        ran.append(1)
        return 2 * x

    L = keras.layers
    model = keras.Sequential(
        [keras.Input((None, 4)), L.GRU(3, return_sequences=True, name="first"), L.Lambda(own), L.LSTM(2, name="second")]
    )
    save(randomized(model), tmp_path / "model.keras")
    ran.clear()
    found = read(tmp_path / "model.keras")
    assert isinstance(found.module, convert.Layers)
    assert list(found.module) == ["first", "second"]
    assert any("Lambda" in line for line in found.left)
    x = numbers(2, 5, 4)
    assert_close(found.module["first"](torch.from_numpy(x))[0], model.layers[0](x), FLOAT32)
    assert not ran
    with pytest.raises(InputError, match="Lambda"):
        runtime(tmp_path / "model.keras")


# --- weights alone -----------------------------------------------------------------------------------


def test_weights_alone_by_name(keras: Any, tmp_path: Path) -> None:
    L = keras.layers
    layers = [
        L.SimpleRNN(4, return_sequences=True),
        L.GRU(4, return_sequences=True),
        L.GRU(4, reset_after=False, return_sequences=True),
        L.Bidirectional(L.LSTM(3, return_sequences=True)),
        L.LSTM(2, use_bias=False),
        L.Dense(3),
    ]
    model = chain(keras, *layers)
    save(model, tmp_path / "model.weights.h5")
    found = read(tmp_path / "model.weights.h5")
    assert set(found.module) == {"simple_rnn", "gru", "gru_1", "bidirectional", "lstm"}
    assert len(found.left) == 1
    assert found.left[0].startswith("dense")
    assert "activations" in found.notes[0]
    x = numbers(2, 5, 4)
    theirs = torch.from_numpy(x)
    ours = theirs
    for name, layer in zip(("simple_rnn", "gru", "gru_1", "bidirectional", "lstm"), model.layers, strict=False):
        ours, theirs = found.module[name](ours)[0], layer(theirs)  # type: ignore[index]
        assert_close(ours if name != "lstm" else ours[:, -1], theirs, FLOAT32, name)


def test_weights_into_a_module(keras: Any, tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self, reset_after: bool = True, hidden: int = 3) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, hidden, 2, batch_first=True, bidirectional=True)
            self.gru = gatewise.GRU(2 * hidden, 2, batch_first=True, reset_after=reset_after)
            self.dense = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.dense(self.gru(self.lstm(x)[0])[0])
            return out

    L = keras.layers
    model = chain(
        keras,
        *(L.Bidirectional(L.LSTM(3, return_sequences=True)) for _ in range(2)),
        L.GRU(2, return_sequences=True),
        L.Dense(3),
    )
    save(model, tmp_path / "model.weights.h5")
    save(model, tmp_path / "model.h5")
    for name in ("model.weights.h5", "model.h5"):
        net = Net()
        assert read(tmp_path / name, like=net).module is net
        assert_same(net, model, numbers(2, 5, 4))
        for wrong, match in (
            (Net(hidden=5), "shape"),
            (Net(reset_after=False), "two different functions"),
            (Net().lstm, "no layer|order"),
        ):
            before = [p.clone() for p in wrong.parameters()]
            with pytest.raises(InputError, match=match):
                read(tmp_path / name, like=wrong)
            assert all(torch.equal(p, q) for p, q in zip(before, wrong.parameters(), strict=True))


def test_indexing_and_rescaling(keras: Any, tmp_path: Path) -> None:
    L = keras.layers
    x = keras.Input((None, 5))
    y = L.GRU(4, return_sequences=True)(L.Rescaling([0.5, 1.0, 2.0, 0.1, 3.0], offset=-0.5)(x))
    last = L.Rescaling(1 / 7, offset=0.25)(y[:, -1])
    outputs = [last, y[:, -1, :], y[..., :2], y[:, ::2, 1:3], y[:, None], y[..., -1], y[:, 1:-1]]
    model = randomized(keras.Model(x, outputs))
    save(model, tmp_path / "model.keras")
    found = read(tmp_path / "model.keras")
    assert not found.left
    assert_same(found.module, model, numbers(3, 6, 5))
    proof = convert.prove(found, tmp_path / "model.keras")
    assert proof.ok
    assert len(proof.differences) == 2 * len(outputs)


def test_a_stateful_model_is_proved(keras: Any, tmp_path: Path) -> None:
    L = keras.layers
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(3, None, 4)),
            L.LSTM(3, stateful=True, return_sequences=True),
            L.GRU(2, stateful=True),
        ]
    )
    save(randomized(model), tmp_path / "model.keras")
    found = read(tmp_path / "model.keras")
    x = torch.from_numpy(numbers(3, 2, 4))
    before = found.module(x)
    kept = [m.kept for m in found.module.modules() if isinstance(m, KerasRNN)]
    proof = convert.prove(found, tmp_path / "model.keras")
    assert proof.ok
    assert not proof.unproved
    assert len(proof.differences) == 2
    assert [m.kept for m in found.module.modules() if isinstance(m, KerasRNN)] == kept  # as if nothing had run
    assert not torch.equal(found.module(x), before)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_the_proof_is_of_keras_s_own_reading(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """A reader that deals arrays to the wrong layers fails its proof."""
    model = chain(keras, *(keras.layers.LSTM(4, return_sequences=True) for _ in range(2)))
    path = tmp_path / f"model{ending}"
    save(model, path)
    assert convert.prove(read(path), path).ok
    own = Arrays.of

    def swapped(self: Arrays, config: Any, path: str, names: Any) -> list[Tensor]:
        return own(self, config, path.replace("lstm_1", "lstm") if "lstm_1" in path else f"{path[:-5]}_1/cell", names)

    monkeypatch.setattr(Arrays, "of", swapped)
    proof = convert.prove(read(path), path)
    assert proof.runtimes == (f"Keras {keras.__version__} on torch",)
    assert not proof.ok


def test_a_configuration_is_written_anew_for_keras(keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras is handed no class, module or initializer that the file names."""
    model = chain(keras, keras.layers.GRU(3, kernel_regularizer="l2"), keras.layers.Dense(2))
    save(model, tmp_path / "model.keras")
    seen = []
    load = keras.saving.load_model

    def spy(path: Path, **options: Any) -> Any:
        with zipfile.ZipFile(path) as archive:
            seen.append(archive.read("config.json").decode())
        return load(path, **options)

    monkeypatch.setattr(keras.saving, "load_model", spy)
    assert convert.prove(read(tmp_path / "model.keras"), tmp_path / "model.keras").ok
    (text,) = seen
    assert "L2" not in text
    assert "initializer" not in text


def test_layers_alone_are_proved(keras: Any, tmp_path: Path) -> None:
    L = keras.layers
    x = keras.Input((None, 4))
    y = L.GRU(4, return_sequences=True, go_backwards=True, name="g")(x)
    y = L.Bidirectional(L.LSTM(3, activation="relu", return_sequences=True), name="b")(L.UnitNormalization()(y))
    y = L.SimpleRNN(2, name="s")(y)
    model = randomized(keras.Model(x, L.RNN(L.GRUCell(2), name="r")(L.Reshape((1, 2))(y))))
    for name in ("model.keras", "model.h5", "model.weights.h5"):
        save(model, tmp_path / name)
        found = read(tmp_path / name)
        assert isinstance(found.module, convert.Layers)
        if name == "model.weights.h5":
            del found.module["bidirectional"]  # of which the file does not tell that it has relu
        proof = convert.prove(found, tmp_path / name)
        assert proof.ok, str(proof)
        assert len(proof.runtimes) == len(found.module)
        assert any("connected" in line for line in proof.notes)
        layer = next(m for m in found.module.values() if isinstance(m, gatewise.GRU))
        with torch.no_grad():
            layer.weight_hh_l0 += 0.1
        assert not convert.prove(found, tmp_path / name).ok
