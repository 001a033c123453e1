"""From one framework to another and back, as docs/convert.md says, proved by both frameworks' own runtimes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_close, randomize
from tolerances import FLOAT32

import gatewise
from gatewise import cells, convert
from gatewise.errors import InputError
from gatewise.tasks import text

os.environ.setdefault("KERAS_BACKEND", "torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what Keras imports
    keras = pytest.importorskip("keras")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
np = pytest.importorskip("numpy")
pytest.importorskip("safetensors")
pytestmark = [
    # torch.onnx.export's own.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    # Keras on numpy 2.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
]
k = keras.layers


def net() -> Any:
    """A model of Keras with random weights."""
    steps = [
        k.Masking(),
        k.LSTM(5, return_sequences=True, go_backwards=True),
        k.GRU(3, reset_after=False),
        k.Dense(2, activation="softmax"),
    ]
    model = keras.Sequential([keras.Input((None, 4)), *steps])
    random = np.random.default_rng(0)
    model.set_weights([random.normal(size=w.shape).astype("float32") * 0.5 for w in model.get_weights()])
    return model


def check(source: Path, target: Path, runtimes: set[str]) -> convert.Conversion:
    """Convert, and see that both runtimes took part in the proof."""
    read, _, proof = convert.file(source, target)
    assert proof.ok, str(proof)
    assert {name.partition(" ")[0] for name in proof.runtimes} == runtimes, str(proof)
    assert len({(d.runtime, d.input) for d in proof.differences}) == 2 * len(runtimes)
    assert target.exists()
    return read


def test_keras_to_onnx_and_tensors(tmp_path: Path) -> None:
    net().save(tmp_path / "a.keras")
    read = check(tmp_path / "a.keras", tmp_path / "a.onnx", {"Keras", "onnxruntime"})
    check(tmp_path / "a.keras", tmp_path / "a.safetensors", {"Keras"})
    kept = convert.load(tmp_path / "a.safetensors", like=convert.load(tmp_path / "a.keras"))
    x = torch.randn(3, 7, 4)
    assert_close(kept(x).detach(), read.module(x).detach(), FLOAT32)
    found = convert.layers(tmp_path / "a.safetensors")
    assert [layer.cell.states for layer in found.values()] == [("h", "c"), ("h",)]


LAYERS: dict[str, Callable[[], torch.nn.Module]] = {
    "gru": lambda: gatewise.GRU(3, 5, bidirectional=True),
    "gru_reset_before": lambda: gatewise.GRU(3, 5, reset_after=False, batch_first=True),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_layers_into_keras_and_onnx(make: Callable[[], torch.nn.Module], tmp_path: Path) -> None:
    layer = randomize(make())
    convert.save(layer, tmp_path / "a.pt")
    torchs = {"torch.nn"} if getattr(layer, "reset_after", True) else set()
    check(tmp_path / "a.pt", tmp_path / "a.onnx", {"onnxruntime", *torchs})
    check(tmp_path / "a.pt", tmp_path / "a.keras", {"Keras", *torchs})


def test_a_cell_that_keras_lacks_goes_into_onnx(tmp_path: Path) -> None:
    convert.save(randomize(gatewise.Recurrent(cells.lstm_peephole, 3, 5)), tmp_path / "a.pt")
    with pytest.raises(InputError, match="learned vectors"):
        convert.file(tmp_path / "a.pt", tmp_path / "a.keras")
    assert not (tmp_path / "a.keras").exists()
    check(tmp_path / "a.pt", tmp_path / "a.onnx", {"onnxruntime"})


def test_a_trained_run_goes_into_onnx(tmp_path: Path, run: Callable[..., Any]) -> None:
    data = text.TextData("what a piece of work " * 40, steps=8, batch=4)
    model = text.LanguageModel("lstm", data.vocabulary, hidden_size=7, num_layers=2)
    text.fit(model, data, epochs=1, out=tmp_path / "run")
    code, out, _ = run("convert", str(tmp_path / "run"), str(tmp_path / "run.onnx"))
    assert code == 0
    assert "proved: onnxruntime" in out
    assert "2 shapes, 3 outputs" in out
    assert "not compared: a run has no runtime but gatewise" in out


def test_keras_weights_alone_need_a_module(tmp_path: Path) -> None:
    net().save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(InputError, match="can't be written whole"):
        convert.file(tmp_path / "a.weights.h5", tmp_path / "a.onnx")
    name = next(iter(convert.layers(tmp_path / "a.weights.h5")))
    _, written, proof = convert.file(tmp_path / "a.weights.h5", tmp_path / "a.onnx", layer=name)
    assert written is not None
    assert proof.ok
    alone, target = proof.runtimes
    assert alone.startswith("Keras")
    assert alone.endswith(f"{name} alone")
    assert target.startswith("onnxruntime")
