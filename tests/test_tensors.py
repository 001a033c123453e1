"""Files of named tensors, and runs: what comes back is what was written, and what cannot be read safely is refused."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_close, randomize
from tolerances import FLOAT32
from torch import Tensor, nn

import gatewise
from gatewise import cells, convert
from gatewise.errors import InputError
from gatewise.tasks import text

np = pytest.importorskip("numpy")
pytest.importorskip("safetensors")

ENDINGS = (".safetensors", ".pt", ".npz")


@gatewise.cell(gates="a b")
def own(x: Any, h: Any, c: Any, *, p: Any = 0.5) -> Any:
    a = torch.sigmoid(x.a + h.a + p * c)
    c = a * c + (1 - a) * torch.tanh(c.b)
    return torch.relu(c), c


LAYERS = [
    lambda: gatewise.LSTM(3, 5, 2, bidirectional=True, batch_first=True, dropout=0.25),
    lambda: gatewise.LSTM(3, 5, proj_size=2, learn_state=True),
    lambda: gatewise.GRU(1, 1, bias=False),
    lambda: gatewise.GRU(3, 17, reset_after=False),
    lambda: gatewise.RNN(3, 5, nonlinearity="relu", dtype=torch.float64),
    lambda: gatewise.Recurrent(own, 3, 5, 2, bidirectional=True, bias="input"),
    lambda: gatewise.Recurrent(gatewise.zoneout(gatewise.layer_norm(cells.gru_reset_before), 0.1), 3, 5),
    lambda: gatewise.GRUCell(3, 5),
    lambda: gatewise.GRUCell(3, 5, reset_after=False),
    lambda: gatewise.LSTMCell(3, 5, bias=False),
    lambda: nn.GRU(3, 5, 2),
]


def same(one: nn.Module, other: nn.Module) -> None:
    """The same parameters by name, and the same output and states for one input."""
    assert list(one.state_dict()) == list(other.state_dict())
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    parameter = next(one.parameters())
    x = torch.randn((3, parameter.shape[1]) if "Cell" in type(one).__name__ else (4, 3, parameter.shape[1]))
    made, expected = (list(flat(m.eval()(x.to(parameter.dtype)))) for m in (one, other))
    assert len(made) == len(expected)
    for k, (got, wanted) in enumerate(zip(made, expected, strict=True)):
        assert_close(got, wanted, FLOAT32, f"output {k}")


def flat(made: Any) -> Any:
    if isinstance(made, Tensor):
        return [made.detach()]
    return [t for part in made for t in flat(part)]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("make", LAYERS)
def test_a_layer_comes_back_as_it_was(make: Any, ending: str, tmp_path: Path) -> None:
    layer = randomize(make())
    path = tmp_path / f"layer{ending}"
    written = convert.save(layer, path)
    assert written.module is layer
    back = convert.load(path)
    assert not back.training
    assert isinstance(back, gatewise.layer.Layer)
    ours = gatewise.convert.arrays.ours(layer)
    assert (type(back), repr(back), back.cell) == (type(ours), repr(ours), ours.cell)
    assert all(p.requires_grad for p in back.parameters())
    same(layer, back)
    again = tmp_path / f"again{ending}"
    convert.save(back, again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_model_comes_back_by_like_and_its_layers_without(ending: str, tmp_path: Path) -> None:
    def model() -> nn.Module:
        parts = {"encoder": nn.Sequential(gatewise.GRU(3, 5, reset_after=False)), "norm": nn.BatchNorm1d(5)}
        return nn.ModuleDict({**parts, "decoder": gatewise.LSTM(5, 2)})

    one, other = randomize(model(), 1), randomize(model(), 2)
    path = tmp_path / f"model{ending}"
    assert "5 more tensors" in convert.save(one, path).notes[0]
    assert convert.load(path, like=other) is other
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    found = convert.load(path)
    assert isinstance(found, convert.Layers)
    assert list(found) == ["encoder/0", "decoder"]
    same(found["encoder/0"], one["encoder"][0])
    same(found["decoder"], one["decoder"])
    assert {line.split(" ")[0] for line in found.left} == {f"norm.{n}" for n in one["norm"].state_dict()}


@pytest.mark.parametrize("save", [torch.save, None, "npz"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LSTM(3, 7, 2, bidirectional=True),
        lambda: nn.LSTM(3, 7, proj_size=2),
        lambda: nn.GRU(3, 1, bias=False),
        lambda: nn.GRU(1, 3),
        lambda: nn.RNN(3, 7, 3),
        lambda: nn.LSTMCell(3, 7),
        lambda: nn.RNNCell(3, 7, bias=False),
    ],
)
def test_torchs_own_files_are_told_by_their_names(make: Any, save: Any, tmp_path: Path) -> None:
    layer = randomize(make())
    path = tmp_path / "state"
    if save == "npz":
        np.savez_compressed(path, **{n: p.numpy() for n, p in layer.state_dict().items()})
        path = path.with_suffix(".npz")
    elif save is None:
        from safetensors.torch import save_file

        save_file(layer.state_dict(), path)
    else:
        save(layer.state_dict(), path)
    back = convert.load(path)
    assert isinstance(back, getattr(gatewise, type(layer).__name__))
    same(layer, back)
    proof = convert.prove(back, path)
    assert proof.ok
    assert "torch.nn" in str(proof)


def test_a_checkpoint_is_searched_for_its_weights(tmp_path: Path) -> None:
    model = randomize(nn.Sequential(nn.LSTM(3, 5), nn.Linear(5, 2)))
    optimizer = torch.optim.Adam(model.parameters())
    path = tmp_path / "c.pt"
    torch.save({"epoch": 3, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    found = convert.read(path)
    same(found.module["0"], model[0])
    assert any("epoch" in line for line in found.left)
    assert any("1.weight" in line for line in found.left)
    assert convert.layers(path)["0"].hidden_size == 5


def test_the_place_of_the_reset_gate_is_not_lost(tmp_path: Path) -> None:
    before = randomize(gatewise.GRU(3, 5, reset_after=False))
    for ending in ENDINGS:
        path = tmp_path / f"gru{ending}"
        convert.save(before, path)
        for other in (gatewise.GRU(3, 5), nn.GRU(3, 5)):
            kept = {n: p.clone() for n, p in other.state_dict().items()}
            with pytest.raises(InputError, match="saved with the cell gru_reset_before, and `like` has gru there"):
                convert.load(path, like=other)
            assert all(torch.equal(kept[n], p) for n, p in other.state_dict().items())
        same(convert.load(path, like=gatewise.GRU(3, 5, reset_after=False)), before)
    torch.save(before.state_dict(), tmp_path / "plain.pt")  # torch's own way tells nothing: so it is said
    assert any("reset gate" in note for note in convert.read(tmp_path / "plain.pt").notes)
    found = convert.read(tmp_path / "plain.pt", like=gatewise.GRU(3, 5, reset_after=False))
    assert any("does not tell which GRU" in note for note in found.notes)


def test_like_is_changed_only_if_all_fits(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(nn.LSTM(3, 5, bias=False).state_dict() | {"extra": torch.ones(1)}, path)
    like = nn.LSTM(4, 5)
    kept = {n: p.clone() for n, p in like.state_dict().items()}
    with pytest.raises(InputError) as caught:
        convert.load(path, like=like)
    for part in ("missing: bias_ih_l0, bias_hh_l0", "not expected: extra", "weight_ih_l0 is (20, 3), expected (20, 4)"):
        assert part in str(caught.value)
    assert all(torch.equal(kept[n], p) for n, p in like.state_dict().items())
    torch.save(nn.LSTM(3, 5, dtype=torch.float64).state_dict(), path)
    assert convert.read(path, like=nn.LSTM(3, 5)).notes == [
        "numbers became those of `like`: torch.float64 to torch.float32"
    ]


def test_tied_weights_and_half_precision(tmp_path: Path) -> None:
    model = nn.Sequential(gatewise.GRU(3, 3), gatewise.GRU(3, 3)).bfloat16()
    model[1].weight_hh_l0 = model[0].weight_hh_l0
    for ending in (".safetensors", ".pt"):
        convert.save(model, tmp_path / f"tied{ending}")
        found = convert.load(tmp_path / f"tied{ending}")
        assert torch.equal(found["0"].weight_hh_l0, found["1"].weight_hh_l0)
        assert found["0"].weight_hh_l0.dtype == torch.bfloat16
    with pytest.raises(InputError, match="numpy has no torch"):
        convert.save(model, tmp_path / "tied.npz")
    assert not (tmp_path / "tied.npz").exists()


def test_a_layer_that_cannot_be_told_says_so(tmp_path: Path) -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(gatewise.GRU(3, 5), "weight_hh_l0")
    assert any("by `like` alone" in note for note in convert.save(layer, tmp_path / "w.pt").notes)
    convert.load(tmp_path / "w.pt", like=layer)
    with pytest.raises(InputError, match="weight_hh_l0 is missing"):
        convert.load(tmp_path / "w.pt")


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def test_pickles_are_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(nn.LSTM(3, 5), "module.pt")
    torch.save({"weight_ih_l0": torch.ones(2), "evil": Evil()}, "evil.pt")
    torch.save({"evil": Evil()}, "old.pt", _use_new_zipfile_serialization=False)
    Path("plain.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    np.savez("evil.npz", weight_ih_l0=np.array([Evil()], dtype=object))
    for name in ("module.pt", "evil.pt", "old.pt", "plain.pt", "evil.npz"):
        for like in (None, nn.LSTM(3, 5)):
            with pytest.raises(InputError, match=r"Python objects|damaged") as caught:
                convert.load(name, like=like)
            assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"never loaded.*torch.save\(module.state_dict\(\), path\)"):
        convert.load("module.pt")
    assert not Path("executed").exists()


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w", force_zip64=True) as f:
        for _ in range(270):
            f.write(bytes(1 << 20))


def lying(path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weight_ih_l0.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64))


def claims(path: Path) -> None:
    header = json.dumps({"weight_ih_l0": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))


def repeats(path: Path) -> None:
    torch.save({"weight_ih_l0": torch.ones(1).expand(1 << 40)}, path)


def compressed(path: Path) -> None:
    torch.save({"weight_ih_l0": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def sparse(path: Path) -> None:
    torch.save({"weight_ih_l0": torch.eye(3).to_sparse()}, path)


def number(path: Path) -> None:
    torch.save(7, path)


def strings(path: Path) -> None:
    np.savez(path, weight_ih_l0=np.array(["a"]))


def twice(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", b"")


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("bomb.npz", bomb, "would unpack to"),
        ("lying.npz", lying, r"an array of float32 \(1000000000000,\) in"),
        ("strings.npz", strings, "expected numbers"),
        ("twice.npz", twice, "two parts of one name"),
        ("claims.safetensors", claims, "damaged file of safetensors"),
        ("repeats.pt", repeats, "more than the file holds"),
        ("compressed.pt", compressed, "compressed parts"),
        ("sparse.pt", sparse, "sparse"),
        ("number.pt", number, "holds a int, expected a state_dict"),
    ],
)
def test_hostile_files_are_refused(name: str, make: Any, message: str, tmp_path: Path) -> None:
    make(tmp_path / name)
    with pytest.raises(InputError, match=message) as caught:
        convert.load(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_cut_short_or_changed_are_refused_or_read(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    convert.save(randomize(gatewise.LSTM(3, 5)), path)
    whole = path.read_bytes()
    for end in (0, 1, 9, 17, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError):
            convert.load(path)
    random = np.random.default_rng(0)
    for _ in range(60):  # a changed byte may lie in a number; no other error may come of it
        damaged = bytearray(whole)
        damaged[random.integers(min(len(whole), 1200))] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            assert isinstance(convert.load(path), nn.Module)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017  # either is right


def told(**changes: Any) -> str:
    layer: dict[str, Any] = {"class": "GRU", "cell": cells.gru.text}
    options = {"input_size": 3, "hidden_size": 5, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0,
               "bidirectional": False, "learn_state": False, "reset_after": True}  # fmt: skip
    layer |= {k: v for k, v in changes.items() if k in layer}
    layer["options"] = {**options, **{k: v for k, v in changes.items() if k not in layer}}
    return json.dumps({"format": 1, "layers": {"": layer}})


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ("[" * 100_000, "damaged"),
        ('{"format": 2, "layers": {}}', "expected 1: update gatewise"),
        (told(**{"class": "Sequential"}), "damaged"),
        (told(cell="cell x\n%0 = exec"), "damaged"),
        (told(cell=cells.lstm.text), "is a GRU of lstm"),
        (told(reset_after=False), "is a GRU of gru"),
        (told(hidden_size=4), "expected"),
        (told(hidden_size=10**30), "damaged"),
        (told(hidden_size="5"), "damaged"),
        (told(num_layers=10**9), "damaged"),
        (told(device="cuda"), "damaged"),
    ],
)
def test_what_a_file_tells_of_its_layers_is_checked(told: str, message: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_file(gatewise.GRU(3, 5).state_dict(), path, metadata={"gatewise": told})
    with pytest.raises(InputError, match=message) as caught:
        convert.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_hh_l0": None}, "weight_hh_l0 is missing"),
        ({"bias_hh_l0": None}, "missing: bias_hh_l0"),
        ({"weight_ih_l0_reverse": None}, "not expected: weight_hh_l0_reverse"),
        ({"weight_hh_l0": (10, 5)}, r"expected 1 \(RNN\), 3 \(GRU\) or 4 \(LSTM\) times 5 rows"),
        ({"weight_hh_l0": (15, 5)}, r"weight_ih_l0 is \(20, 3\), expected \(15, 3\)"),
        ({"bias_ih_l1": (20,)}, "missing: weight_ih_l1"),
        ({"weight_ih_l0": (20, 3, 1)}, "no weight of a layer"),
        ({"weight_hh_l0": (20, 0)}, "0 units"),
        ({"weight_ih_l900": (20, 5)}, "not expected: weight_ih_l900"),
    ],
)
def test_sets_that_contradict_themselves_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    state: dict[str, Tensor] = dict(nn.LSTM(3, 5, bidirectional=True).state_dict())
    for name, shape in change.items():
        state.pop(name, None)
        if shape is not None:
            state[name] = torch.ones(shape)
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(InputError, match=message):
        convert.load(tmp_path / "a.pt")


def test_other_tensors_need_like(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 5).state_dict(), tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"has no recurrent layer by its names.*like=module"):
        convert.load(tmp_path / "a.pt")


# --- d2l ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", ["list.pt", "names.pt", "list.npz", "names.safetensors"])
def test_parameters_of_d2l_from_scratch(save: str, tmp_path: Path) -> None:
    from gatewise.convert import d2l

    layer = randomize(gatewise.GRU(3, 5, reset_after=False))
    params, names = d2l.to_params(layer), d2l.names(layer)
    path = tmp_path / save
    if save == "list.pt":
        torch.save(params, path)
    elif save == "names.pt":
        torch.save(dict(zip([f"rnn.{n}" for n in names], params, strict=True)), path)
    elif save == "list.npz":
        np.savez(path, *[p.numpy() for p in params])
    else:
        from safetensors.torch import save_file

        save_file(dict(zip(names, params, strict=True)), path)
    found = convert.load(path)
    assert repr(found) == "GRU(3, 5, reset_after=False)"
    x = torch.randn(4, 2, 3)
    assert_close(found(x)[0].detach(), layer(x)[0].detach(), FLOAT32)
    like = gatewise.GRU(3, 5, reset_after=False)
    assert convert.load(path, like=like) is like
    assert_close(like(x)[0].detach(), layer(x)[0].detach(), FLOAT32)
    for other in (gatewise.GRU(3, 5), nn.GRU(3, 5)):
        with pytest.raises(InputError, match="reset"):
            convert.load(path, like=other)


def test_d2ls_output_layer_is_left_and_named(tmp_path: Path) -> None:
    from gatewise.convert import d2l

    layer = randomize(gatewise.LSTM(3, 5))
    torch.save(d2l.to_params(layer, nn.Linear(5, 2)), tmp_path / "a.pt")
    found = convert.load(tmp_path / "a.pt")
    assert list(found) == ["layer"]
    assert "W_hq, b_q" in found.left[0]
    torch.save([torch.ones(2)] * 4, tmp_path / "a.pt")
    with pytest.raises(InputError, match="4 parameters, expected 3 of an RNN, 9 of a GRU or 12 of an LSTM"):
        convert.load(tmp_path / "a.pt")


# --- runs --------------------------------------------------------------------------------------------


def test_a_run_is_its_model(tmp_path: Path) -> None:
    data = text.TextData("what a piece of work " * 40, steps=8, batch=4)
    model = text.LanguageModel("gru", data.vocabulary, hidden_size=7)
    text.fit(model, data, epochs=1, out=tmp_path / "run")
    found = convert.read(tmp_path / "run")
    assert found.kind == "run"
    best = text.load(tmp_path / "run")
    assert isinstance(found.module, text.LanguageModel)
    for name, value in best.state_dict().items():
        assert torch.equal(value, found.module.state_dict()[name])
    assert next(m.target for m in found.mapped).startswith("Recurrent(gru, ")
    convert.save(found.module, tmp_path / "run.safetensors")
    same(convert.layers(tmp_path / "run.safetensors")["layer"], best.layer)
    with pytest.raises(InputError, match="leave `like` out"):
        convert.load(tmp_path / "run", like=model)
    with pytest.raises(InputError, match="a checkpoint of a run that gatewise trained: give the run's folder"):
        convert.load(tmp_path / "run" / "best.safetensors")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        convert.load(tmp_path)
    (tmp_path / "settings.json").write_text('{"task": "os", "format": 1}')
    with pytest.raises(InputError, match="a run of the task 'os', expected one of text, forecast"):
        convert.load(tmp_path)
