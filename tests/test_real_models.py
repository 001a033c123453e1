"""Trained models of other toolkits, with the outputs that their own runtimes gave."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gatewise
from gatewise import cells
from gatewise.convert import from_arrays, load, stacked, to_arrays
from gatewise.convert.arrays import tensor
from gatewise.errors import InputError

MODELS = Path(__file__).parents[2] / "shared" / "data" / "models"
pytestmark = pytest.mark.skipif(not MODELS.exists(), reason="../shared/data/models is absent")

# What single precision in another order of sums leaves of these nets' outputs, absolute. rnnoise's own C code takes
# tanh and the logistic function from a table of 201 values.
CLOSE = 1e-5
TABLES = 1e-4


def assert_near(actual: Tensor, wanted: np.ndarray, most: float = CLOSE) -> None:
    assert tuple(actual.shape) == wanted.shape
    assert (actual.detach() - torch.tensor(wanted)).abs().max().item() <= most


# --- RTNeural: Keras's arrays, and torch's, in JSON ------------------------------------------------------------

KERAS = {"gru": (cells.gru, "z r n"), "lstm": (cells.lstm, "i f g o")}
FUNCTIONS = {"": nn.Identity, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


class Output(nn.Module):
    """A layer of which the next one reads the outputs alone."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


def dense(kernel: Any, bias: Any) -> nn.Linear:
    """Keras's, whose kernel is (inputs, units)."""
    kernel, bias = tensor(kernel, "kernel"), tensor(bias, "bias")
    made = nn.Linear(*kernel.shape)
    made.load_state_dict({"weight": kernel.t(), "bias": bias})
    return made


def from_json(net: Mapping[str, Any]) -> nn.Sequential:
    made: list[nn.Module] = []
    size = net["in_shape"][-1]
    for layer in net["layers"]:
        units = layer["shape"][-1]
        if layer["type"] in KERAS:
            assert layer["activation"] in ("", "tanh")
            cell, gates = KERAS[layer["type"]]
            kernel, recurrent, bias = layer["weights"]
            found = from_arrays(
                cell, input=kernel, recurrent=recurrent, bias=bias, gates=gates, layout="i (g h)", input_size=size,
                hidden_size=units,
            )  # fmt: skip
            made.append(Output(found))
        else:
            assert layer["type"] in ("dense", "time-distributed-dense")
            made += [dense(*layer["weights"]), FUNCTIONS[layer["activation"]]()]
        size = units
    return nn.Sequential(*made)


def series(name: str) -> tuple[Tensor, np.ndarray]:
    """(T, 1) what a net read, and what it gave."""
    x, y = (np.loadtxt(MODELS / "rtneural" / f"{name}_{which}.csv", dtype=np.float32).reshape(-1, 1) for which in "xy")
    return torch.tensor(x), y


def json_of(name: str) -> Any:
    return json.loads((MODELS / "rtneural" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["gru", "gru_1d", "lstm", "lstm_1d"])
def test_rtneurals_nets_of_keras(name: str) -> None:
    x, y = series(name)
    assert_near(from_json(json_of(name))(x), y)


@pytest.mark.parametrize("name", ["gru_torch", "lstm_torch"])
def test_rtneurals_nets_of_torch(name: str) -> None:
    x, y = series(name)
    state = {key: tensor(value, key) for key, value in json_of(name).items()}
    kind = name.removesuffix("_torch")
    cls = {"gru": gatewise.GRU, "lstm": gatewise.LSTM}[kind]
    parts = [cls(1, 8), cls(8, 8, 3)]
    for part, prefix in zip(parts, (f"{kind}.", f"{kind}2."), strict=True):
        part.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    linear = nn.Linear(8, 1)
    linear.load_state_dict({k.removeprefix("dense."): v for k, v in state.items() if k.startswith("dense.")})
    assert_near(linear(parts[1](parts[0](x)[0])[0]), y)
    assert_near(linear(stacked(parts)(x)[0]), y)


def test_a_file_whose_sizes_contradict_its_arrays_is_refused() -> None:
    with pytest.raises(InputError, match=r"hidden_size is 16, and input, in layout 'i \(g h\)', says 20"):
        from_json(json_of("bad_lstm"))


# --- rnnoise: flat arrays of C, three GRUs that reset before, with ReLU -----------------------------------------


def test_rnnoise() -> None:
    stored = np.load(MODELS / "rnnoise" / "weights_and_golden.npz")
    cell = gatewise.activations(cells.gru_reset_before, n="relu")

    def gru(name: str, x: Tensor, size: int) -> Tensor:
        layer = from_arrays(
            cell, input=stored[f"{name}_gru_weights"], recurrent=stored[f"{name}_gru_recurrent_weights"],
            bias=stored[f"{name}_gru_bias"], gates="z r n", layout="i (g h)", input_size=x.shape[-1], hidden_size=size,
        )  # fmt: skip
        output = layer(x)[0]
        assert_near(output, stored[f"h_{name}"], TABLES)
        return output

    def linear(name: str, x: Tensor) -> Tensor:
        bias = stored[f"{name}_bias"]
        return dense(stored[f"{name}_weights"].reshape(-1, len(bias)), bias)(x)

    features = torch.tensor(stored["features"])
    first = torch.tanh(linear("input_dense", features))
    vad = gru("vad", first, 24)
    noise = gru("noise", torch.cat([first, vad, features], -1), 48)
    denoise = gru("denoise", torch.cat([vad, noise, features], -1), 96)
    assert_near(torch.sigmoid(linear("vad_output", vad))[:, 0], stored["vad"], TABLES)
    assert_near(torch.sigmoid(linear("denoise_output", denoise)), stored["gains"], TABLES)


# --- nagisa: DyNet's bidirectional LSTM --------------------------------------------------------------------------


def test_nagisa() -> None:
    stored = np.load(MODELS / "nagisa" / "weights_and_golden.npz")
    names = {"input": "WxT", "recurrent": "WhT", "bias": "b"}
    one, two = ({n: stored[f"{d}_{theirs}"] for n, theirs in names.items()} for d in ("fwd", "bwd"))
    layer = from_arrays(cells.lstm, **one, reverse=two, gates="i f o g", layout="i (g h)")
    assert isinstance(layer, gatewise.LSTM)
    assert_near(layer(torch.tensor(stored["x"]))[0], stored["y"])

    # As the toolkit's file has it, which does not store the 1 that it adds to the forget gate's bias.
    plain = [{**part, "bias": part["bias"] - np.repeat([0, 1, 0, 0], 50).astype(np.float32)} for part in (one, two)]
    how = {"gates": "i f o g", "layout": "i (g h)", "add": {"f": 1.0}}
    again = from_arrays(cells.lstm, **plain[0], reverse=plain[1], **how)
    assert_near(again(torch.tensor(stored["x"]))[0], stored["y"])
    back = to_arrays(again, reverse=True, biases=1, **how)
    assert_near(back.bias, plain[1]["bias"])
    assert np.array_equal(back.input, two["input"])


# --- chars2vec: Keras 2.2, two layers ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [50, 100])
def test_chars2vec(size: int) -> None:
    pytest.importorskip("h5py")
    found = load(MODELS / "chars2vec" / f"eng_{size}_weights.h5")
    letters = json.loads((MODELS / "chars2vec" / "char_to_ix.json").read_text())
    golden = np.load(MODELS / "chars2vec" / f"eng_{size}_golden.npz")
    words = [[letters[c] for c in word.lower() if c in letters] for word in golden["words"].tolist()]
    x = torch.zeros(len(words), 20, len(letters))  # the longest word of the list of which these were taken
    for row, word in zip(x, words, strict=True):
        row[len(row) - len(word) :] = torch.eye(len(letters))[word]
    layer = stacked(list(found.values()))
    assert (layer.input_size, layer.hidden_size, layer.num_layers) == (59, size, 2)
    assert_near(layer(x)[0][:, -1], golden["vectors"])


# --- DTLN: one net as Keras's weights and as ONNX -----------------------------------------------------------------


class Core(nn.Module):
    """The first half of DTLN: magnitudes of a frame's spectrum to a mask."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.recurrent = stacked(layers)
        self.dense = nn.Linear(128, 257)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        output, state = self.recurrent(x, state)
        return torch.sigmoid(self.dense(output)), state


def test_dtlns_first_core_from_keras() -> None:
    h5py = pytest.importorskip("h5py")
    path = MODELS / "dtln" / "model.h5"
    found = load(path)
    core = Core([found["lstm"], found["lstm_1"]])
    with h5py.File(path) as file:
        part = file["dense/dense"]
        core.dense = dense(part["kernel:0"][()], part["bias:0"][()])
    golden = np.load(MODELS / "dtln" / "golden.npz")
    frames = torch.tensor(golden["mag"]).unsqueeze(0)
    assert_near(core(frames)[0][0], golden["mask"])
    masks, state = [], None
    for frame in frames.unbind(1):  # as it runs on a stream of sound
        mask, state = core(frame.unsqueeze(1), state)
        masks.append(mask[0, 0])
    assert_near(torch.stack(masks), golden["mask"])


def test_dtlns_first_core_from_onnx() -> None:
    pytest.importorskip("onnx")
    net = load(MODELS / "dtln" / "model_1.onnx")
    golden = np.load(MODELS / "dtln" / "golden.npz")
    state, masks = torch.zeros(1, 2, 128, 2), []
    for frame in torch.tensor(golden["mag"]):
        mask, state = net(frame.reshape(1, 1, 257), state)
        masks.append(mask.reshape(257))
    assert_near(torch.stack(masks), golden["mask"])


def test_dtlns_two_files_are_one_net() -> None:
    for package in ("h5py", "onnx"):
        pytest.importorskip(package)
    golden = np.load(MODELS / "dtln" / "golden.npz")
    net, found = load(MODELS / "dtln" / "model_1.onnx"), load(MODELS / "dtln" / "model.h5")
    layers = [m for m in net.modules() if isinstance(m, gatewise.LSTM)]
    assert len(layers) == 2
    x = torch.tensor(golden["mag"]).unsqueeze(0)
    a, b = (found[name] for name in ("lstm", "lstm_1"))
    wanted = b(a(x)[0])[0]
    time_major = x.transpose(0, 1)
    for layer in layers:
        x = layer(x if layer.batch_first else x.transpose(0, 1))[0]
        x = x if layer.batch_first else x.transpose(0, 1)
    assert time_major.shape[0] == x.shape[1]
    assert_near(x, wanted.detach().numpy())
