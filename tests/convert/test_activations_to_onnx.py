"""Every activation of Keras's that is known here: read from .keras, written to .onnx, proved by both libraries."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from gatewise import convert
from gatewise.convert.keras.activations import ELSEWHERE, IN_CELLS

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
pytest.importorskip("h5py")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

k = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
OLDER = ("swish", "hard_swish")  # names of Keras 2, which Keras 3 reads as those of today
NAMES = [name for name in (*IN_CELLS, *ELSEWHERE) if hasattr(keras.activations, name)]
CELLS = [name for name in NAMES if name in IN_CELLS]


def proved(outputs: Any, x: Any, folder: Path) -> None:
    model = keras.Model(x, outputs)
    generator = torch.Generator().manual_seed(0)
    for variable in model.weights:
        # Small, since exponentials and the like grow without bound over steps.
        share = 0.1 if "recurrent" in variable.path else 0.7
        variable.assign((torch.randn(tuple(variable.shape), generator=generator) * share).numpy())
    model.save(folder / "model.keras")
    _, _, proof = convert.file(folder / "model.keras", folder / "model.onnx")
    assert proof.ok, str(proof)
    assert not proof.unproved
    assert len(proof.runtimes) == 2
    count = len(outputs) if isinstance(outputs, list) else 1
    assert len(proof.differences) == 2 * 2 * count  # two libraries, two shapes


def test_the_table_is_that_of_keras() -> None:
    assert set(IN_CELLS) | set(ELSEWHERE) == {*NAMES, *OLDER}


@pytest.mark.slow
def test_every_activation_of_its_own_layer(tmp_path: Path) -> None:
    x = keras.Input((None, 5))
    scaled = k.Rescaling(3.0)(x)  # so that both sides of every kink are met
    # A file without any weights is not read, hence the Dense.
    made = [k.Activation(name)(scaled) for name in NAMES]
    proved([*made, *(k.Dense(2, activation=name)(scaled) for name in NAMES)], x, tmp_path)


def recurrent(name: str, x: Any) -> Sequence[Any]:
    return [
        k.GRU(3, activation=name, return_sequences=True)(x),
        k.LSTM(3, recurrent_activation=name)(k.Rescaling(0.3)(x)),
    ]


def test_activations_with_numbers_in_cells(tmp_path: Path) -> None:
    x = keras.Input((None, 5))
    proved([y for name in ("hard_shrink", "sparse_plus") for y in recurrent(name, x)], x, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_every_activation_of_cells(name: str, tmp_path: Path) -> None:
    x = keras.Input((None, 5))
    proved([*recurrent(name, x), k.SimpleRNN(3, activation=name, go_backwards=True)(x)], x, tmp_path)
