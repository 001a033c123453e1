"""Files of Keras 2, written by hand as it wrote them, and hostile files of every kind."""

from __future__ import annotations

import copy
import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close
from tolerances import FLOAT32

import gatewise
from gatewise import cells, convert
from gatewise.convert.keras import read
from gatewise.errors import InputError

h5py = pytest.importorskip("h5py")
pytestmark = pytest.mark.usefixtures("warm_reader")

Array = np.ndarray[Any, Any]


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).normal(0, 0.6, shape).astype("float32")


def write(
    path: Path,
    weights: Mapping[str, Mapping[str, Array]],
    config: Any = None,
    version: str = "2.0.8",
    split: bool = False,
) -> Path:
    """A file as Keras 2 writes it: with a configuration as `save`, without as `save_weights`."""
    with h5py.File(path, "w") as file:
        top = file
        if config is not None:
            file.attrs["model_config"] = json.dumps(config).encode()
            file.attrs["keras_version"] = version.encode()
            top = file.create_group("model_weights")
        top.attrs["keras_version"] = version.encode()
        names = [name.encode() for name in weights]
        for k, part in enumerate(np.array_split(names, 2) if split else [names]):
            top.attrs[f"layer_names{k}" if split else "layer_names"] = list(part)
        for layer, arrays in weights.items():
            group = top.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/{name}:0".encode() for name in arrays]
            for name, array in arrays.items():
                group[f"{layer}/{name}:0"] = array
    return path


def sequential(*layers: tuple[str, Mapping[str, Any]], shape: Sequence[int | None] = (None, None, 4)) -> dict[str, Any]:
    """A model as Keras 2.0 has it: a list of layers, the first of which tells the input's shape."""
    made = [{"class_name": kind, "config": dict(settings)} for kind, settings in layers]
    made[0]["config"]["batch_input_shape"] = list(shape)  # type: ignore[index]
    return {"class_name": "Sequential", "config": made}


PLAIN = {
    "activation": "tanh",
    "recurrent_activation": "hard_sigmoid",
    "use_bias": True,
    "return_sequences": True,
    "go_backwards": False,
    "stateful": False,
    "unroll": False,
    "implementation": 0,
    "trainable": True,
    "kernel_initializer": {"class_name": "VarianceScaling", "config": {}},
    "unit_forget_bias": True,
}


def sigmoid(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def hard(a: Array) -> Array:
    return np.clip(0.2 * a + 0.5, 0, 1)


def lstm(x: Array, kernel: Array, recurrent: Array, bias: Array, gate: Callable[[Array], Array]) -> Array:
    """Keras's LSTM, step by step: gates i f c o."""
    h = c = np.zeros((len(x), recurrent.shape[0]))
    outputs = []
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ kernel + h @ recurrent + bias, 4, 1)
        c = gate(f) * c + gate(i) * np.tanh(g)
        h = gate(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, 1)


def gru(x: Array, kernel: Array, recurrent: Array, bias: Array, gate: Callable[[Array], Array], after: bool) -> Array:
    """Keras's GRU, step by step: gates z r h; bias (3H,), or (2, 3H) if the reset gate acts after the product."""
    units = recurrent.shape[0]
    h = np.zeros((len(x), units))
    outputs = []
    for t in range(x.shape[1]):
        z, r, n = np.split(x[:, t] @ kernel + (bias[0] if after else bias), 3, 1)
        rz, rr, rn = np.split(recurrent, 3, 1)
        bz, br, bn = np.split(bias[1], 3) if after else (0, 0, 0)
        z, r = gate(z + h @ rz + bz), gate(r + h @ rr + br)
        n = np.tanh(n + (r * (h @ rn + bn) if after else (r * h) @ rn))
        h = z * h + (1 - z) * n
        outputs.append(h)
    return np.stack(outputs, 1)


def agree(module: Any, x: Array, expected: Array) -> None:
    with torch.no_grad():
        assert_close(module(torch.from_numpy(x)), torch.from_numpy(expected.astype("float32")), FLOAT32)


def weights(gates: int, inputs: int, units: int, bias: tuple[int, ...] | None = None) -> dict[str, Array]:
    shape = (gates * units,) if bias is None else bias
    return {
        "kernel": numbers(inputs, gates * units),
        "recurrent_kernel": numbers(units, gates * units),
        "bias": numbers(*shape),
    }


@pytest.mark.parametrize("split", [False, True])
def test_keras_2_0(tmp_path: Path, split: bool) -> None:
    """No reset_after, the old hard_sigmoid, a Sequential that is a list."""
    first, second, dense = weights(3, 4, 3), weights(4, 3, 2), {"kernel": numbers(2, 5), "bias": numbers(5)}
    config = sequential(
        ("GRU", PLAIN | {"units": 3, "name": "g"}),
        ("LSTM", PLAIN | {"units": 2, "name": "l"}),
        ("Dense", {"units": 5, "activation": "hard_sigmoid", "use_bias": True, "name": "d"}),
    )
    path = write(tmp_path / "old.h5", {"g": first, "l": second, "d": dense}, config, split=split)
    found = read(path)
    x = numbers(2, 6, 4)
    inner = lstm(gru(x, *first.values(), hard, after=False), *second.values(), hard)
    agree(found.module, x, hard(inner @ dense["kernel"] + dense["bias"]))
    layers = convert.layers(path)
    assert layers["g"].cell.name.startswith("activations(gru_reset_before")
    assert "reset gate before the product" in found.mapped[0].how
    assert "(0.2x + 0.5)" in found.mapped[0].how


def test_keras_2_with_reset_after(tmp_path: Path) -> None:
    config = sequential(
        ("GRU", PLAIN | {"units": 3, "name": "g", "reset_after": True, "recurrent_activation": "sigmoid"})
    )
    first = weights(3, 4, 3, (2, 9))
    x = numbers(2, 6, 4)
    agree(
        read(write(tmp_path / "a.h5", {"g": first}, config, "2.4.0")).module, x, gru(x, *first.values(), sigmoid, True)
    )


@pytest.mark.parametrize("version", ["2.1.3", "2.4.0"])
def test_cudnn(tmp_path: Path, version: str) -> None:
    """A gate's kernel holds cuDNN's (H, inputs) in memory's order, its recurrent kernel cuDNN's own; two biases."""
    settings = {"return_sequences": True, "name": "c", "units": 3}
    one, two = weights(4, 4, 3, (24,)), weights(3, 3, 3, (18,))

    def theirs(w: dict[str, Array], gates: int) -> tuple[Array, Array]:
        blocks = [b.reshape(3, -1).T for b in np.split(w["kernel"], gates, 1)]
        return np.hstack(blocks), np.hstack([b.T for b in np.split(w["recurrent_kernel"], gates, 1)])

    config = sequential(("CuDNNLSTM", settings), ("CuDNNGRU", settings | {"name": "d"}))
    x = numbers(2, 6, 4)
    between = lstm(x, *theirs(one, 4), one["bias"].reshape(2, -1).sum(0), sigmoid)
    expected = gru(between, *theirs(two, 3), two["bias"].reshape(2, -1), sigmoid, after=True)
    path = write(tmp_path / "c.h5", {"c": one, "d": two}, config, version)
    agree(read(path).module, x, expected)
    alone = read(write(tmp_path / "w.h5", {"c": one, "d": two}, None, version)).module
    assert isinstance(alone["c"], gatewise.LSTM)  # type: ignore[index]
    assert alone["d"].cell == cells.gru  # type: ignore[index]
    agree(lambda x: alone["d"](alone["c"](x)[0])[0], x, expected)  # type: ignore[index]


def functional(version: str = "2.4.0") -> tuple[dict[str, Any], dict[str, dict[str, Array]]]:
    """A Functional model of Keras 2: masks that meet, states that are handed on, a model inside of it."""
    rnn = PLAIN | {"recurrent_activation": "sigmoid", "return_state": True}
    inside = {
        "name": "inside",
        "input_layers": [["i", 0, 0]],
        "output_layers": [["l", 0, 0]],
        "layers": [
            {
                "class_name": "InputLayer",
                "name": "i",
                "config": {"name": "i", "batch_input_shape": [None, None, 3]},
                "inbound_nodes": [],
            },
            {
                "class_name": "LSTM",
                "name": "l",
                "config": rnn | {"name": "l", "units": 2, "return_state": False},
                "inbound_nodes": [[["i", 0, 0, {}]]],
            },
        ],
    }
    layers = [
        {
            "class_name": "InputLayer",
            "name": "x",
            "config": {"name": "x", "batch_input_shape": [None, None, 4]},
            "inbound_nodes": [],
        },
        {
            "class_name": "LSTM",
            "name": "a",
            "config": rnn | {"name": "a", "units": 3},
            "inbound_nodes": [[["x", 0, 0, {}]]],
        },
        {
            "class_name": "LSTM",
            "name": "b",
            "config": rnn | {"name": "b", "units": 3, "return_state": False},
            "inbound_nodes": [[["a", 0, 0, {}], ["a", 0, 1, {}], ["a", 0, 2, {}]]],
        },
        {
            "class_name": "Model",
            "name": "inside",
            "config": inside,
            "inbound_nodes": [[["b", 0, 0, {}]], [["a", 0, 0, {}]]],
        },
        {
            "class_name": "Add",
            "name": "s",
            "config": {"name": "s", "trainable": True},
            "inbound_nodes": [[["inside", 1, 0, {}], ["inside", 2, 0, {}]]],
        },
    ]
    config = {
        "class_name": "Model",
        "config": {
            "name": "m",
            "layers": layers,
            "input_layers": [["x", 0, 0]],
            "output_layers": [["s", 0, 0], ["a", 0, 1]],
        },
    }
    return config, {"x": {}, "a": weights(4, 4, 3), "b": weights(4, 3, 3), "inside": weights(4, 3, 2), "s": {}}


def test_a_functional_model_of_keras_2(tmp_path: Path) -> None:
    config, arrays = functional()
    module = read(write(tmp_path / "f.h5", arrays, config, "2.4.0")).module
    own = {
        name: gatewise.convert.from_arrays(
            cells.lstm,
            input=w["kernel"],
            recurrent=w["recurrent_kernel"],
            bias=w["bias"],
            gates="i f g o",
            layout="i (g h)",
            batch_first=True,
        )
        for name, w in arrays.items()
        if w
    }
    x = torch.from_numpy(numbers(2, 5, 4))
    with torch.no_grad():
        first, (h, c) = own["a"](x)
        second = own["b"](first, (h, c))[0]
        expected = own["inside"](second)[0] + own["inside"](first)[0]
        given = module(x)
    assert_close(given[0], expected, FLOAT32)
    assert_close(given[1], h[0], FLOAT32)


def test_masks_of_keras_2(tmp_path: Path) -> None:
    """A step counts behind Add only if it does in all inputs; Bidirectional before TensorFlow's repeats outputs."""
    lstm_config = {"class_name": "LSTM", "config": PLAIN | {"units": 3, "name": "f", "recurrent_activation": "sigmoid"}}
    config = sequential(
        ("Masking", {"mask_value": 0.0, "name": "m"}),
        ("Bidirectional", {"layer": lstm_config, "merge_mode": "sum", "name": "b", "trainable": True}),
    )
    one, two = weights(4, 4, 3), {k: v + 0.1 for k, v in weights(4, 4, 3).items()}
    arrays = {
        "m": {},
        "b": {f"forward_f/{k}": v for k, v in one.items()} | {f"backward_f/{k}": v for k, v in two.items()},
    }
    x = numbers(1, 5, 4)
    x[0, 2] = 0
    short = np.delete(x, 2, 1)
    forward, backward = lstm(short, *one.values(), sigmoid), lstm(short[:, ::-1], *two.values(), sigmoid)[:, ::-1]
    repeated = forward[:, [0, 1, 1, 2, 3]] + backward[:, [0, 1, 2, 2, 3]]
    agree(read(write(tmp_path / "a.h5", arrays, config, "2.2.4")).module, x, repeated)
    zeros = np.where(np.arange(5)[None, :, None] == 2, 0, repeated)
    agree(read(write(tmp_path / "b.h5", arrays, config, "2.2.4-tf")).module, x, zeros)


def test_weights_alone_of_keras_2(tmp_path: Path) -> None:
    arrays = {
        "l1": weights(4, 4, 3),
        "l2": weights(4, 3, 3),
        "g": {k: v for k, v in weights(3, 3, 2).items() if k != "bias"},
    }
    found = read(write(tmp_path / "w.h5", arrays, None, "2.2.0"))
    assert list(found.module) == ["l1", "l2"]  # type: ignore[arg-type]
    assert "before or after the product" in found.left[0]
    assert "hard_sigmoid" in found.notes[0]
    with pytest.raises(InputError, match="no recurrent layer"):
        read(write(tmp_path / "d.h5", {"d": {"kernel": numbers(2, 5)}}))
    path = write(tmp_path / "two.h5", {n: arrays[n] for n in ("l1", "l2")}, None, "2.2.0")
    own = torch.nn.LSTM(4, 3, 2, batch_first=True)
    assert read(path, like=own).module is own
    x = numbers(2, 5, 4)
    agree(lambda x: own(x)[0], x, lstm(lstm(x, *arrays["l1"].values(), sigmoid), *arrays["l2"].values(), sigmoid))


# --- what contradicts itself -------------------------------------------------------------------------


def test_an_unknown_activation_or_a_wrong_shape_is_refused(tmp_path: Path) -> None:
    good = PLAIN | {"units": 3, "name": "l"}
    arrays = {"l": weights(4, 4, 3)}
    wrong: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        (good | {"activation": "magic"}, arrays, "no activation 'magic'"),
        (
            good | {"activation": {"class_name": "function", "config": "os.system", "registered_name": "my>own"}},
            arrays,
            "activation",
        ),
        (good | {"recurrent_activation": "softmax"}, arrays, "no activation 'softmax'"),
        (good | {"units": 5}, arrays, "shape"),
        (good | {"units": "many"}, arrays, "units is 'many'"),
        (good | {"units": -1}, arrays, "units is -1"),
        (good | {"use_bias": False}, arrays, "3 arrays in the file, expected 2"),
        (good | {"return_sequences": "yes"}, arrays, "return_sequences"),
        (good, {"l": weights(3, 4, 3)}, "kernel has shape"),
        (good, {"l": {**weights(4, 4, 3), "bias": numbers(24)}}, "bias has shape"),
        (good, {}, "no arrays"),
        (good, {"l": dict(reversed(weights(4, 4, 3).items()))}, "where its kernel is expected"),
    ]
    for k, (settings, stored, match) in enumerate(wrong):
        with pytest.raises(InputError, match=match) as caught:
            read(write(tmp_path / f"{k}.h5", stored, sequential(("LSTM", settings))))
        assert "\n" not in str(caught.value)


def test_a_configuration_that_is_none_is_refused(tmp_path: Path) -> None:
    config, arrays = functional()

    def changed(*path: Any, value: Any) -> Any:
        made: Any = copy.deepcopy(config)
        place = made
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        return made

    layers = ("config", "layers")
    wrong = [
        [],
        {},
        {"class_name": 3},
        {"class_name": "Sequential", "config": 3},
        {"class_name": "Sequential", "config": {"layers": []}},
        {"class_name": "Model", "config": {"layers": {}}},
        {"class_name": "Sequential", "config": {"layers": [None]}},
        changed("config", "output_layers", value=[["s", 7, 0]]),
        changed("config", "output_layers", value=None),
        changed("config", "output_layers", value=[["a", 0, 9]]),
        changed("config", "input_layers", value=[["s", 0, 0]]),
        changed(*layers, 4, "inbound_nodes", value=[[["s", 0, 0, {}]]]),
        changed(*layers, 4, "inbound_nodes", value=3),
        changed(*layers, 4, "inbound_nodes", value=[[["nobody", 0, 0, {}]]]),
        changed(*layers, 1, "inbound_nodes", value=[[3]]),
        changed(*layers, 0, "config", "batch_input_shape", value="wide"),
        changed(*layers, 2, "config", "name", value="a"),
    ]
    for k, bad in enumerate(wrong):
        with pytest.raises(InputError) as caught:
            read(write(tmp_path / f"{k}.h5", arrays, bad, "2.4.0"))
        assert "\n" not in str(caught.value)
    for text in (b"{", b"[" * 100_000, b"\xff\xfe", b"3"):
        path = write(tmp_path / "text.h5", arrays, config)
        with h5py.File(path, "a") as file:
            file.attrs["model_config"] = np.void(text) if text == b"3" else text
        with pytest.raises(InputError):
            read(path)


# --- hostile files -----------------------------------------------------------------------------------


def archive(path: Path, members: Mapping[str, bytes], kind: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


CONFIG = json.dumps({"class_name": "Sequential", "config": {"layers": []}}).encode()


def hdf5_of(fill: Callable[[Any], None]) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        fill(file)
    return stream.getvalue()


def refused(path: Path, match: str) -> None:
    """One line, nothing written beside the file."""
    before = sorted(os.listdir(path.parent))
    with pytest.raises(InputError, match=match) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(path.parent)) == before


def test_hostile_archives(tmp_path: Path) -> None:
    weights_file = hdf5_of(lambda f: f.create_dataset("layers/lstm/cell/vars/0", data=numbers(2, 8)))
    good = {"config.json": CONFIG, "metadata.json": b"{}", "model.weights.h5": weights_file}
    bomb = archive(tmp_path / "bomb.keras", good | {"config.json": b" " * 50_000_000}, zipfile.ZIP_DEFLATED)
    refused(bomb, "bomb")
    refused(
        archive(tmp_path / "bomb2.keras", good | {"model.weights.h5": bytes(80_000_000)}, zipfile.ZIP_DEFLATED), "bomb"
    )
    refused(archive(tmp_path / "out.keras", good | {"../out": b""}), "outside")
    refused(archive(tmp_path / "abs.keras", good | {"/etc/out": b""}), "outside")
    refused(archive(tmp_path / "win.keras", good | {"..\\out": b""}), "outside")
    refused(archive(tmp_path / "lzma.keras", good, zipfile.ZIP_LZMA), "does not use")
    refused(archive(tmp_path / "json.keras", good | {"config.json": b"{"}), "no JSON")
    refused(archive(tmp_path / "deep.keras", good | {"config.json": b"[" * 200_000}), "no JSON")
    refused(archive(tmp_path / "none.keras", {"config.json": CONFIG}), "no model.weights.h5")
    refused(archive(tmp_path / "pickle.keras", good | {"model.weights.h5": b"\x80\x04N."}), "damaged")
    whole = archive(tmp_path / "whole.keras", good).read_bytes()
    for k, cut in enumerate((10, len(whole) // 2, len(whole) - 30)):
        (tmp_path / f"cut{k}.keras").write_bytes(whole[:cut])
        refused(tmp_path / f"cut{k}.keras", "damaged")
    flipped = bytearray(whole)
    flipped[whole.index(CONFIG) + 3] ^= 1
    (tmp_path / "flipped.keras").write_bytes(flipped)
    refused(tmp_path / "flipped.keras", "damaged")
    lying = bytearray(whole)  # the size that the table of contents tells, of the first member
    start = lying.index(b"PK\x01\x02")
    lying[start + 24 : start + 28] = (1 << 20).to_bytes(4, "little")
    (tmp_path / "lying.keras").write_bytes(lying)
    refused(tmp_path / "lying.keras", "damaged|size")


def test_hostile_hdf5(tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = numbers(4, 12)

    def with_array(make: Callable[[Any], None]) -> bytes:
        def fill(file: Any) -> None:
            file.attrs["layer_names"] = [b"l"]
            group = file.create_group("l")
            group.attrs["weight_names"] = [b"kernel"]
            make(group)

        return hdf5_of(fill)

    def external(group: Any) -> None:
        group["kernel"] = h5py.ExternalLink(str(secret), "x")

    def soft(group: Any) -> None:
        group.file["elsewhere"] = numbers(4, 12)
        group["kernel"] = h5py.SoftLink("/elsewhere")

    def virtual(group: Any) -> None:
        layout = h5py.VirtualLayout((4, 12), "f4")
        layout[...] = h5py.VirtualSource(str(secret), "x", (4, 12))
        group.create_virtual_dataset("kernel", layout)

    def elsewhere(group: Any) -> None:
        group.create_dataset("kernel", (4, 12), "f4", external=[(str(secret), 0, 192)])

    def declared(group: Any) -> None:
        group.create_dataset("kernel", (1 << 20, 1 << 20), "f4", chunks=(64, 64))

    def huge(group: Any) -> None:
        group.create_dataset(
            "kernel", (1 << 14, 1 << 11), "f4", chunks=(1 << 10, 1 << 10), compression="gzip", fillvalue=0
        )
        group["kernel"][...] = 0

    def reference(group: Any) -> None:
        group.create_dataset("kernel", (2,), h5py.ref_dtype)

    def strings(group: Any) -> None:
        group.create_dataset("kernel", data=np.array([b"cos\nsystem\n(S'x'\ntR."]))

    def missing(group: Any) -> None:
        group["other"] = numbers(2)

    def nothing(group: Any) -> None:
        group["kernel"] = h5py.Empty("f4")

    cases = {
        "external link": external,
        "soft link": soft,
        "another file": virtual,
        "in another file": elsewhere,
        "are stored": declared,
        "bomb": huge,
        "expected numbers": reference,
        "numbers": strings,
        "no array": missing,
        "empty": nothing,
    }
    for k, (match, make) in enumerate(cases.items()):
        path = tmp_path / f"bad{k}.h5"
        path.write_bytes(with_array(make))
        refused(path, match)

    def circle(file: Any) -> None:
        group = file.create_group("layers/lstm")
        group["again"] = file["layers"]
        group.create_group("vars")["0"] = numbers(2, 8)

    def escape(file: Any) -> None:
        file.attrs["layer_names"] = [b"../.."]

    def named(file: Any) -> None:
        file.attrs["layer_names"] = np.zeros(3)

    def group_link(file: Any) -> None:
        file.attrs["layer_names"] = [b"l"]
        file["l"] = h5py.ExternalLink(str(secret), "/")

    def counted(file: Any) -> None:
        file["layers/lstm/cell/vars/0"] = numbers(2, 8)
        file["layers/lstm/cell/vars/7"] = numbers(2, 8)

    for k, (match, fill) in enumerate(
        {"circle": circle, "path": escape, "names": named, "link": group_link, "0, 1, 2": counted}.items()
    ):
        path = tmp_path / f"tree{k}.h5"
        path.write_bytes(hdf5_of(fill))
        refused(path, match)
    (tmp_path / "text.h5").write_text("hello")
    refused(tmp_path / "text.h5", "damaged")
    refused(write(tmp_path / "empty.h5", {}, None), "no recurrent layer")
    whole = write(
        tmp_path / "whole.h5", {"l": weights(4, 4, 3)}, sequential(("LSTM", PLAIN | {"units": 3, "name": "l"}))
    ).read_bytes()
    for k, cut in enumerate((9, 100, len(whole) // 2, len(whole) - 100)):
        (tmp_path / f"cut{k}.h5").write_bytes(whole[:cut])
        refused(tmp_path / f"cut{k}.h5", "damaged|cannot be read")
    with pytest.raises(InputError, match="there is no file"):
        read(tmp_path / "nowhere.h5")


def test_random_damage_is_told_or_harmless(tmp_path: Path) -> None:
    whole = write(
        tmp_path / "whole.h5", {"l": weights(4, 4, 3)}, sequential(("LSTM", PLAIN | {"units": 3, "name": "l"}))
    ).read_bytes()
    random = np.random.default_rng(0)
    told = []
    for _ in range(150):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 20):
            damaged[place] = random.integers(0, 256)
        path = tmp_path / "damaged.h5"
        path.write_bytes(damaged)
        try:
            read(path)
        except InputError as error:
            told.append(str(error))
    assert len(told) > 20
    assert not any("\n" in text for text in told)


def test_settings_that_no_layer_has_are_refused(tmp_path: Path) -> None:
    """Numbers that Python cannot hold as asked, that would fill the memory, and names of several lines."""
    gru = ("GRU", PLAIN | {"units": 3, "name": "g"})
    arrays = {"g": weights(3, 4, 3)}
    wrong = [
        [("GRU", PLAIN | {"units": float("inf"), "name": "g"})],
        [("GRU", PLAIN | {"units": float("nan"), "name": "g"})],
        [("GRU", PLAIN | {"units": 10**400, "name": "g"})],
        [("GRU", PLAIN | {"units": 3, "name": "g", "dropout": 10**400})],
        [gru, ("MaxPooling1D", {"pool_size": 10**10, "strides": 10**10, "padding": "same", "name": "p"})],
        [gru, ("ZeroPadding1D", {"padding": [10**12, 0], "name": "p"})],
        [gru, ("Rescaling", {"scale": 10**400, "name": "p"})],
        [gru, ("Rescaling", {"scale": [[1.0]], "name": "p"})],
        [gru, ("Softmax", {"axis": "a", "name": "p\nq"})],
    ]
    for k, layers in enumerate(wrong):
        with pytest.raises(InputError) as caught:
            read(write(tmp_path / f"{k}.h5", {**arrays, **{s["name"]: {} for _, s in layers[1:]}}, sequential(*layers)))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_many_zeros_are_no_bomb(tmp_path: Path) -> None:
    pytest.importorskip("keras")
    convert.save(gatewise.GRU(1200, 2), tmp_path / "m.keras", example=torch.zeros(1, 2, dtype=torch.int64))
    with zipfile.ZipFile(tmp_path / "m.keras") as saved:
        files = {name: saved.read(name) for name in saved.namelist()}
    packed = archive(tmp_path / "packed.keras", files, zipfile.ZIP_DEFLATED)  # with an embedding of the identity
    assert packed.stat().st_size * 100 < len(files["model.weights.h5"])
    read(packed)


def test_a_proof_reads_no_more_than_memory_holds(tmp_path: Path) -> None:
    pytest.importorskip("keras")
    config = sequential(("GRU", PLAIN | {"units": 3, "name": "g"}), shape=(None, 1 << 40, 4))
    path = write(tmp_path / "long.h5", {"g": weights(3, 4, 3)}, config)
    proof = convert.prove(read(path), path)
    assert not proof.differences
    assert "numbers at once" in "".join(proof.unproved)


def test_the_proof_says_whose_reading_it_is(tmp_path: Path) -> None:
    """Keras 3 reads no CuDNN layers, so it is given the arrays as gatewise has them."""
    pytest.importorskip("keras")
    arrays = {"g": weights(3, 4, 3, (18,))}
    path = write(tmp_path / "m.h5", arrays, sequential(("CuDNNGRU", {"units": 3, "name": "g"})))
    proof = convert.prove(read(path), path)
    assert proof.ok
    assert all("as gatewise read them" in name for name in proof.runtimes)
    assert len(proof.differences) == 2


def test_time_major(tmp_path: Path) -> None:
    arrays, layer = {"g": weights(3, 4, 3)}, PLAIN | {"units": 3, "name": "g"}
    first = read(write(tmp_path / "a.h5", arrays, sequential(("GRU", layer)))).module
    major = read(write(tmp_path / "b.h5", arrays, sequential(("GRU", layer | {"time_major": True})))).module
    x = numbers(2, 5, 4)
    with torch.no_grad():
        expected = first(torch.from_numpy(x)).transpose(0, 1)
    agree(major, x.swapaxes(0, 1).copy(), expected.numpy())


def test_keras_is_given_no_file_with_links(tmp_path: Path) -> None:
    """Not in what gatewise reads of it, but Keras would follow it."""
    pytest.importorskip("keras")
    path = write(tmp_path / "m.h5", {"g": weights(3, 4, 3)}, sequential(("GRU", PLAIN | {"units": 3, "name": "g"})))
    found = read(path)
    assert convert.prove(found, path).differences
    with h5py.File(path, "a") as file:
        file["model_weights/top_level_model_weights"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
    read(path)
    proof = convert.prove(found, path)
    assert not proof.differences
    assert "external link" in "".join(proof.unproved)
