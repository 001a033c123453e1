"""Keras in and out again: the model that is written computes what the one that was read did, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_close, drawn, randomize
from tolerances import FLOAT32

import gatewise
from gatewise.errors import InputError

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
pytest.importorskip("h5py")
from gatewise.convert.keras import read, to_keras, write  # noqa: E402

k = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def line(*parts: Any, shape: tuple[Any, ...] = (None, 5), dtype: str = "float32") -> Any:
    return keras.Sequential([keras.Input(shape, dtype=dtype), *parts])


def attention() -> Any:
    one, two = keras.Input((None, 5)), keras.Input((None, 3))
    sequence, h, c = k.LSTM(4, return_sequences=True, return_state=True)(one)
    decoded = k.LSTM(4, return_sequences=True)(two, initial_state=[h, c])
    scores = k.Softmax()(k.Dot(axes=[2, 2])([decoded, sequence]))
    read_ = k.Dot(axes=[2, 1])([scores, sequence])
    return keras.Model([one, two], [k.Dense(2)(k.Concatenate()([read_, decoded])), h])


def merges() -> Any:
    x = keras.Input((None, 5))
    shared, dense = k.LSTM(4, return_sequences=True), k.Dense(4)
    kinds = (k.Add, k.Subtract, k.Multiply, k.Average, k.Maximum, k.Minimum)
    return keras.Model(x, [kind()([shared(x), dense(shared(x))]) for kind in kinds])


MODELS: dict[str, Callable[[], Any]] = {
    "simple": lambda: line(k.SimpleRNN(4, return_sequences=True, activation="relu6"), k.SimpleRNN(3)),
    "gru": lambda: line(k.GRU(4, return_sequences=True), k.GRU(3, go_backwards=True)),
    "reset before": lambda: line(k.GRU(4, reset_after=False, recurrent_activation="hard_sigmoid", activation="selu")),
    "lstm": lambda: line(k.LSTM(4, use_bias=False, return_sequences=True, go_backwards=True), k.LSTM(3)),
    "concat": lambda: line(k.Bidirectional(k.LSTM(4, return_sequences=True)), k.Bidirectional(k.GRU(3))),
    "sum": lambda: line(k.Bidirectional(k.GRU(4, return_sequences=True), "sum"), k.Bidirectional(k.LSTM(3), "mul")),
    "ave": lambda: line(k.Bidirectional(k.SimpleRNN(4), "ave"), k.Dense(2, activation="softplus")),
    "two sizes": lambda: line(k.Bidirectional(k.GRU(4), backward_layer=k.GRU(3, go_backwards=True))),
    "embedding's mask": lambda: line(
        k.Embedding(9, 5, mask_zero=True), k.Bidirectional(k.LSTM(4, return_sequences=True)), k.Dropout(0.2),
        k.GRU(3, return_sequences=True), k.GlobalAveragePooling1D(), k.Dense(2, activation="softmax"),
        shape=(None,), dtype="int32",
    ),
    "masking": lambda: line(
        k.Masking(0.0), k.LSTM(4, return_sequences=True), k.Dense(3, activation="tanh"),
        k.GRU(3, zero_output_for_mask=True),
    ),
    "convolutions": lambda: line(
        k.Conv1D(4, 3, padding="causal", activation="relu"), k.MaxPooling1D(2, padding="same"), k.BatchNormalization(),
        k.LayerNormalization(), k.LSTM(3, return_sequences=True), k.GlobalMaxPooling1D(), k.LeakyReLU(), k.ELU(0.5),
        k.ReLU(3.0, negative_slope=0.1), k.Softmax(), shape=(12, 5),
    ),
    "shapes": lambda: line(
        k.TimeDistributed(k.Dense(4, activation="gelu")), k.Permute((2, 1)), k.UpSampling1D(2), k.ZeroPadding1D((1, 2)),
        k.Cropping1D((1, 0)), k.PReLU(shared_axes=[1]), k.Reshape((-1, 4)), k.AveragePooling1D(2, padding="same"),
        k.Flatten(), k.RepeatVector(3), k.GRU(2), shape=(4, 5),
    ),
    "images": lambda: line(
        k.Conv2D(3, (3, 2), padding="same", activation="relu"), k.MaxPooling2D(2), k.ZeroPadding2D(((1, 0), (2, 1))),
        k.GlobalAveragePooling2D(keepdims=True), k.Flatten(), shape=(6, 7, 2),
    ),
    "attention": attention,
    "merges": merges,
}  # fmt: skip


def inputs_of(model: Any) -> list[Any]:
    made = []
    for x in model.inputs:
        shape = (3, *(7 if n is None else n for n in x.shape[1:]))
        made.append(torch.randint(0, 9, shape) if "int" in x.dtype else torch.randn(shape))
        made[-1][0, :2] = made[-1][1, 4:] = 0  # what is masked, at the front and at the end
    return made


def outputs(model: Any, given: list[Any]) -> list[torch.Tensor]:
    made = model(given if len(given) > 1 else given[0])
    return [
        torch.as_tensor(keras.ops.convert_to_numpy(t)) for t in (made if isinstance(made, (list, tuple)) else [made])
    ]


@pytest.mark.parametrize("name", MODELS)
def test_keras_to_torch_to_keras(name: str) -> None:
    model = drawn(MODELS[name]())
    again = to_keras(read(model).module)
    kinds = [[type(layer).__name__ for layer in m.layers if type(layer) is not k.InputLayer] for m in (model, again)]
    assert sorted(kinds[0]) == sorted(kinds[1])
    assert type(model) is type(again)
    given = inputs_of(model)
    for one, two in zip(outputs(model, given), outputs(again, given), strict=True):
        assert torch.equal(one, two)
        assert one.abs().max() > 0.01


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_through_a_file(ending: str, tmp_path: Path) -> None:
    model = drawn(MODELS["embedding's mask"]())
    write(read(model).module, tmp_path / f"model{ending}")
    again = keras.saving.load_model(tmp_path / f"model{ending}", compile=False)
    given = inputs_of(model)
    assert torch.equal(*(outputs(m, given)[0] for m in (model, again)))


@pytest.mark.parametrize("make", [gatewise.RNN, gatewise.GRU, gatewise.LSTM])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_torch_to_keras_to_torch(make: Any, bidirectional: bool, tmp_path: Path) -> None:
    layer = randomize(make(3, 4, 2, bidirectional=bidirectional))
    write(layer, tmp_path / "model.keras")
    again = read(tmp_path / "model.keras").module
    x = torch.randn(5, 2, 3)
    output, state = layer(x)
    states = [part for s in (state if isinstance(state, tuple) else (state,)) for part in s]
    made = again(x.transpose(0, 1))
    if not bidirectional:  # in Keras's order: h and c of one layer, then those of the next
        states = states if not isinstance(state, tuple) else [s[j] for j in range(2) for s in state]
    assert_close(made[0], output.transpose(0, 1), FLOAT32)
    assert {tuple(t.shape) for t in made[1:]} == {(2, 4)}
    for expected in states:
        assert min((expected - t).abs().max().item() for t in made[1:]) < FLOAT32


def test_what_keras_3_has_not() -> None:
    def told(model: Any) -> torch.nn.Module:
        return read(model).module

    steady = keras.Sequential([keras.Input((None, 5), batch_size=2), k.GRU(3, stateful=True)])
    with pytest.raises(InputError, match="stateful"):
        to_keras(told(steady))
    cells = line(k.RNN([k.GRUCell(3), k.GRUCell(4)]))
    with pytest.raises(InputError, match="cells on top of each other"):
        to_keras(told(cells))
