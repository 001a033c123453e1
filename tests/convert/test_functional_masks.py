"""Functional models of Keras with masks: read, written back, and read again; Keras itself says what is right."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_close, drawn
from tolerances import FLOAT32
from torch import Tensor

from gatewise import convert
from gatewise.errors import InputError

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
pytest.importorskip("h5py")
from gatewise.convert.keras import read, to_keras, write  # noqa: E402

k, ops = keras.layers, keras.ops
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning",
    # What Keras says where a layer lets go of a mask.
    "ignore:.*does not support masking:UserWarning",
)
Make = Callable[..., Any]
Tensors = Callable[[Any], Any]


# --- models ------------------------------------------------------------------------------------------


def row(*layers: Any) -> Tensors:
    def call(x: Any) -> Any:
        for layer in layers:
            x = layer(x)
        return x

    return call


def plain(call: Tensors) -> Any:
    x = keras.Input((None, 5))
    return keras.Model(x, call(x))


def masking(*layers: Any) -> Any:
    return plain(lambda x: row(*layers)(k.Masking(0.0)(x)))


def tokens(call: Tensors) -> Any:
    x = keras.Input((None,), dtype="int32")
    return keras.Model(x, call(x))


def embedded(*layers: Any) -> Any:
    return tokens(lambda x: row(*layers)(k.Embedding(9, 5, mask_zero=True)(x)))


def both(call: Callable[[Any, Any], Any]) -> Any:
    """Two sequences, each with a mask of its own."""
    a, b = keras.Input((None, 5)), keras.Input((None, 5))
    return keras.Model([a, b], call(k.Masking(0.0)(a), k.Masking(0.0)(b)))


def told(call: Callable[[Any, Any], Any]) -> Any:
    """A mask that is an input of the model."""
    x, mask = keras.Input((None, 5)), keras.Input((None,), dtype="bool")
    return keras.Model([x, mask], call(x, mask))


def lstm(units: int = 4, **options: Any) -> Any:
    return k.LSTM(units, return_sequences=True, **options)


def states(x: Any) -> Any:
    return k.LSTM(3, return_state=True)(x)[1:]


def present(x: Any) -> Any:
    return ops.any(ops.not_equal(x, 0.0), axis=-1)


def inner() -> Any:
    x = keras.Input((None, 5))
    return keras.Model(x, lstm()(k.Masking(0.0)(x)))


def encoder_decoder() -> Any:
    a, b = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    encoded = k.LSTM(4, return_state=True)(k.Embedding(9, 3, mask_zero=True)(a))[1:]
    return keras.Model([a, b], k.Dense(2)(lstm()(k.Embedding(9, 4, mask_zero=True)(b), initial_state=encoded)))


def shared_embedding() -> Any:
    a, b = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    embedding = k.Embedding(9, 5, mask_zero=True)
    return keras.Model([a, b], [k.LSTM(3)(embedding(a)), k.GRU(2)(embedding(b))])


def shared_layer(a: Any, b: Any) -> Any:
    layer = k.LSTM(3)
    return k.Add()([layer(a), layer(b)])


# What makes a mask, and what passes, stops or reads it.
LAYERS: dict[str, Callable[[], Sequence[Any]]] = {
    "SimpleRNN": lambda: [k.SimpleRNN(4)],
    "GRU": lambda: [k.GRU(4, return_sequences=True)],
    "LSTM": lambda: [k.LSTM(4)],
    "zeros": lambda: [lstm(zero_output_for_mask=True)],
    "backwards": lambda: [lstm(go_backwards=True)],
    "Bidirectional": lambda: [k.Bidirectional(lstm(3)), k.GRU(2)],
    "Bidirectional apart": lambda: [k.Bidirectional(lstm(3), merge_mode=None)],
    "Bidirectional sum": lambda: [k.Bidirectional(k.GRU(3), merge_mode="sum")],
    "Dense": lambda: [k.Dense(4), k.LSTM(3)],
    "Dropout": lambda: [k.Dropout(0.2), k.SpatialDropout1D(0.2), k.GaussianNoise(0.1), k.LSTM(3)],
    "TimeDistributed": lambda: [k.TimeDistributed(k.Dense(3)), k.GRU(2)],
    "TimeDistributed at the end": lambda: [lstm(), k.TimeDistributed(k.Dense(3))],
    "norms": lambda: [k.LayerNormalization(), k.BatchNormalization(), k.LSTM(3)],
    "activations": lambda: [
        k.Activation("tanh"), k.LeakyReLU(), k.ReLU(), k.ELU(), k.PReLU(shared_axes=[1]), k.Rescaling(2.0),
        k.Identity(), k.LSTM(3),
    ],
    "GlobalAveragePooling1D": lambda: [lstm(), k.GlobalAveragePooling1D()],
    "GlobalAveragePooling1D, keepdims": lambda: [lstm(), k.GlobalAveragePooling1D(keepdims=True)],
    "GlobalMaxPooling1D": lambda: [lstm(), k.GlobalMaxPooling1D()],
    "Reshape": lambda: [k.Reshape((-1, 5)), k.LSTM(3)],
    "Permute": lambda: [k.Permute((1, 2)), k.LSTM(3)],
    "Conv1D": lambda: [k.Conv1D(4, 3, padding="same"), k.LSTM(3)],
    "RepeatVector": lambda: [k.LSTM(3), k.RepeatVector(4), k.LSTM(2)],
    "Masking again": lambda: [lstm(3), k.Masking(0.0), k.GRU(2)],
    "nothing": list,
}  # fmt: skip
MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate")
MODELS: dict[str, Callable[[], Any]] = {
    **{f"Masking, {name}": lambda made=made: masking(*made()) for name, made in LAYERS.items()},
    **{f"Embedding, {name}": lambda made=made: embedded(*made()) for name, made in LAYERS.items()},
    **{f"{name} of two masks": lambda name=name: both(lambda a, b: k.LSTM(3)(getattr(k, name)()([a, b])))
       for name in MERGES},
    **{f"{name} of one mask": lambda name=name: plain(lambda x: k.LSTM(3)(getattr(k, name)()([k.Masking(0.0)(x), x])))
       for name in MERGES},
    **{f"{name} of three masks": lambda name=name: both(
        lambda a, b: k.LSTM(3)(getattr(k, name)()([a, b, k.Dense(5)(b)]))) for name in ("Multiply", "Maximum")},
    **{f"{name} of a mask and none": lambda name=name: told(
        lambda x, mask: k.LSTM(3)(getattr(k, name)()([lstm()(x, mask=mask), k.Dense(4)(x)]))) for name in MERGES},
    **{f"{name} of none and a mask": lambda name=name: told(
        lambda x, mask: k.LSTM(3)(getattr(k, name)()([k.Dense(4)(x), lstm()(x, mask=mask)]))) for name in MERGES},
    "Add of three": lambda: both(lambda a, b: k.LSTM(3)(k.Add()([a, b, k.Dense(5)(a)]))),
    "Concatenate of three": lambda: both(lambda a, b: k.LSTM(3)(k.Concatenate()([a, b, k.Dense(5)(a)]))),
    "Concatenate of three, one without": lambda: plain(
        lambda x: k.LSTM(3)(k.Concatenate()([k.Masking(0.0)(x), x, k.Masking(1.0)(x)]))
    ),
    "Concatenate of steps": lambda: both(lambda a, b: k.LSTM(3)(k.Concatenate(axis=1)([a, b]))),
    "Concatenate of steps, one without": lambda: plain(
        lambda x: k.LSTM(3)(k.Concatenate(axis=1)([k.Masking(0.0)(x), x]))
    ),
    "Concatenate of embeddings": lambda: tokens(lambda t: k.LSTM(3)(k.Concatenate()(
        [k.Embedding(9, 4, mask_zero=True)(t), k.Embedding(9, 3, mask_zero=True)(t)]))),
    "Concatenate of embeddings, one without": lambda: tokens(lambda t: k.LSTM(3)(k.Concatenate()(
        [k.Embedding(9, 4, mask_zero=True)(t), k.Embedding(9, 3)(t)]))),
    "Add behind no mask": lambda: plain(lambda x: k.GRU(2)(k.Add()(
        [k.Dense(5)(k.Concatenate()([k.Masking(0.0)(x), x])), k.Masking(0.0)(x)]))),
    "Dot": lambda: both(lambda a, b: k.Dot(axes=[2, 2])([lstm(3)(a), lstm(3)(b)])),
    "residual": lambda: plain(lambda x: (lambda y: k.LSTM(3)(k.Add()([y, lstm(5)(y)])))(k.Masking(0.0)(x))),
    "two readers": lambda: plain(lambda x: (lambda y: [k.LSTM(3)(y), k.GRU(2)(y)])(k.Masking(0.0)(x))),
    "one layer, two masks": lambda: both(shared_layer),
    "one embedding, two masks": shared_embedding,
    "two embeddings, one mask": lambda: tokens(
        lambda t: [k.LSTM(3)(k.Embedding(9, 4, mask_zero=True)(t)), k.GRU(2)(k.Embedding(9, 4)(t))]
    ),
    "states given out": lambda: masking(k.LSTM(3, return_state=True)),
    "states taken in": lambda: plain(
        lambda x: (lambda y: k.LSTM(3)(y, initial_state=states(y)))(k.Masking(0.0)(x))
    ),
    "encoder and decoder": encoder_decoder,
    "a Sequential inside": lambda: plain(row(keras.Sequential([k.Masking(0.0), lstm()]), k.GRU(2))),
    "a Functional inside": lambda: plain(row(inner(), k.GRU(2))),
    # Masks that a call names.
    "told": lambda: told(lambda x, mask: lstm()(x, mask=mask)),
    "told, states": lambda: told(lambda x, mask: k.LSTM(3)(x, initial_state=states(x), mask=mask)),
    "told, states of what is masked": lambda: plain(
        lambda x: (lambda y: k.LSTM(3)(y, initial_state=states(y), mask=present(x)))(k.Masking(0.0)(x))
    ),
    "told, Bidirectional": lambda: told(lambda x, mask: k.GRU(2)(k.Bidirectional(lstm(3))(x, mask=mask))),
    "told, GlobalAveragePooling1D": lambda: told(lambda x, mask: k.GlobalAveragePooling1D()(x, mask=mask)),
    "told, TimeDistributed": lambda: told(lambda x, mask: k.GRU(2)(k.TimeDistributed(k.Dense(3))(x, mask=mask))),
    "told, then passed": lambda: told(lambda x, mask: k.GRU(2)(k.Dense(3)(lstm(3)(x, mask=mask)))),
    "told, in place of another": lambda: told(lambda x, mask: lstm(3)(k.Masking(0.0)(x), mask=mask)),
    "told, a model inside": lambda: told(lambda x, mask: keras.Sequential([lstm()])(x, mask=mask)),
    "told, Add": lambda: told(
        lambda x, mask: k.LSTM(3)(k.Add()([lstm()(x, mask=mask), lstm()(k.Masking(0.0)(x))]))
    ),
    "told, Add of two": lambda: told(
        lambda x, mask: k.LSTM(3)(k.Add()([lstm()(x, mask=mask), lstm()(x, mask=ops.logical_not(mask))]))
    ),
    "told, Concatenate of one": lambda: told(
        lambda x, mask: k.LSTM(3)(k.Concatenate()([lstm()(x, mask=mask), lstm()(x)]))
    ),
    "told, Concatenate of steps": lambda: told(
        lambda x, mask: k.LSTM(3)(k.Concatenate(axis=1)([lstm()(x, mask=mask), lstm()(x)]))
    ),
    "computed": lambda: plain(lambda x: k.LSTM(3)(x, mask=present(x))),
    "computed, not": lambda: told(lambda x, mask: k.LSTM(3)(x, mask=ops.logical_not(mask))),
    "computed, and": lambda: told(lambda x, mask: k.LSTM(3)(x, mask=ops.logical_and(mask, present(x)))),
    "computed, or": lambda: told(lambda x, mask: k.LSTM(3)(x, mask=ops.logical_or(mask, present(x)))),
    "computed, of one feature": lambda: plain(lambda x: k.LSTM(3)(x, mask=ops.greater(x[:, :, 0], 0.1))),
    "computed, of tokens": lambda: tokens(
        lambda t: (lambda e: [k.LSTM(3)(e, mask=ops.not_equal(t, 0)), k.GRU(2)(e)])(k.Embedding(9, 4)(t))
    ),
}  # fmt: skip


def inputs_of(model: Any) -> list[Tensor]:
    """Sequences with masked steps in front, at the end, in the middle and all through; the last has none."""
    generator, made = torch.Generator().manual_seed(1), []
    for x in model.inputs:
        shape = (5, *(7 if n is None else n for n in x.shape[1:]))
        if "float" in x.dtype:
            made.append(torch.randn(shape, generator=generator))
        else:
            made.append(torch.randint(1, 9, shape, generator=generator).to(getattr(torch, x.dtype)))
        made[-1][0, :2] = made[-1][1, 4:] = made[-1][2, 3] = made[-1][3] = 0
    made[-1][0, 5] = 0  # so that masks of two inputs differ
    return made


def flat(made: Any) -> list[Tensor]:
    return [
        t.detach() if isinstance(t, Tensor) else torch.as_tensor(keras.ops.convert_to_numpy(t))
        for t in keras.tree.flatten(made)
    ]


def run(model: Any, given: list[Tensor]) -> list[Tensor]:
    return flat(model(*given) if isinstance(model, torch.nn.Module) and hasattr(model, "specs") else (
        model(given if len(given) > 1 else given[0])
    ))  # fmt: skip


def assert_same(made: list[Tensor], expected: list[Tensor]) -> None:
    assert len(made) == len(expected)
    for one, two in zip(made, expected, strict=True):
        assert torch.equal(one.isnan(), two.isnan())  # the mean of no step
        assert_close(one.nan_to_num(), two.nan_to_num(), FLOAT32)


# Each takes a third of a second, so two of three are slow.
@pytest.mark.parametrize(
    "name", [n if k % 3 == 0 else pytest.param(n, marks=pytest.mark.slow) for k, n in enumerate(MODELS)]
)
def test_to_torch_to_keras_to_torch(name: str) -> None:
    model = drawn(MODELS[name]())
    given = inputs_of(model)
    expected = run(model, given)
    module = read(model).module
    assert_same(run(module, given), expected)
    again = to_keras(module)
    assert_same(run(again, given), expected)
    back = read(again).module
    assert_same(run(back, given), expected)
    assert_same(run(to_keras(back), given), expected)


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("Masking, ")])
def test_a_functional_model_is_read_as_the_same_sequential_is(name: str) -> None:
    model = drawn(masking(*LAYERS[name.removeprefix("Masking, ")]()))
    if any(isinstance(layer.output, (list, tuple)) for layer in model.layers):
        return  # which a Sequential can't have
    sequential = keras.Sequential([keras.Input((None, 5)), *model.layers[1:]])
    one, two = read(model).module, read(sequential).module
    assert [node.target for node in one.graph.nodes][1:] == [node.target for node in two.graph.nodes][1:]


@pytest.mark.parametrize("name", ["Add of two masks", "encoder and decoder", "told, states", "computed, of tokens"])
def test_through_a_file_that_keras_proves(name: str, tmp_path: Path) -> None:
    model = drawn(MODELS[name]())
    given = inputs_of(model)
    expected = run(model, given)
    model.save(tmp_path / "one.keras")
    _, _, proof = convert.file(tmp_path / "one.keras", tmp_path / "two.keras")
    assert proof.ok
    assert not proof.unproved
    assert_same(run(keras.saving.load_model(tmp_path / "two.keras", compile=False), given), expected)
    assert_same(run(convert.load(tmp_path / "two.keras"), given), expected)


@pytest.mark.parametrize(
    "name",
    [n if n == "told, states" else pytest.param(n, marks=pytest.mark.slow) for n in MODELS],
)
def test_to_onnx_that_onnxruntime_proves(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = drawn(MODELS[name]())
    if not model.weights:
        pytest.skip("a file without any weights is not read")
    model.save(tmp_path / "one.keras")
    convert.file(tmp_path / "one.keras", tmp_path / "two.keras")
    _, _, proof = convert.file(tmp_path / "two.keras", tmp_path / "three.onnx")
    assert proof.ok, str(proof)
    assert any("onnxruntime" in name for name in proof.runtimes)


def test_what_keras_can_not_be_told_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds layers alone|cannot read it|write a \.keras file"):
        write(read(drawn(MODELS["Add of two masks"]())).module, tmp_path / "model.h5")
    assert not list(tmp_path.iterdir())
    # A module that was changed: its second layer reads no mask, and Keras would hand it the first one's.
    module = read(drawn(masking(lstm(4), k.GRU(3)))).module
    rnns = [node for node in module.graph.nodes if node.op == "call_module"]
    rnns[1].kwargs = {}
    module.recompile()
    with pytest.raises(InputError, match=r"gru.*: it reads no mask, and Keras would hand it"):
        to_keras(module)
