"""A proof is proved, failed or not proved: what each comes of. What was not compared never counts as proved."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import randomize
from torch import nn

import gatewise
from gatewise import cells, convert
from gatewise.convert import proof as module
from gatewise.convert.network import Spec
from gatewise.convert.report import Difference, Runtime

np = pytest.importorskip("numpy")
pytest.importorskip("safetensors")

os.environ.setdefault("KERAS_BACKEND", "torch")

ENDINGS = (".safetensors", ".pt", ".npz")
X = Spec("input", ("T", "B", 3))


def gru(seed: int = 0, **options: Any) -> gatewise.GRU:
    layer = randomize(gatewise.GRU(3, 5, **options), seed)
    assert isinstance(layer, gatewise.GRU)
    return layer


def library(layer: nn.Module, outputs: int = 2, takes: Callable[[int], bool] = lambda steps: True) -> Runtime:
    """A layer as if another library ran it, with its first outputs, on so many steps as it takes."""

    def run(arrays: Sequence[Any]) -> list[Any]:
        if not takes(len(arrays[0])):
            raise ValueError(f"{len(arrays[0])} steps are not for me")
        with torch.no_grad():
            return [t.numpy() for t in layer(torch.from_numpy(arrays[0]))][:outputs]

    return Runtime("other 1.0", [X], run)


def empty_run(folder: Path) -> Path:
    (folder / "run").mkdir()
    return folder / "run"


def weights_alone(folder: Path) -> Path:
    """A model in a file that holds another module's names: nothing can be told of it."""
    torch.save(nn.Sequential(nn.Linear(2, 3)).state_dict(), folder / "linear.pt")
    return folder / "linear.pt"


def damaged(folder: Path) -> Path:
    convert.save(gru(reset_after=False), folder / "whole.npz")
    (folder / "half.npz").write_bytes((folder / "whole.npz").read_bytes()[:300])
    return folder / "half.npz"


def of_the_book(folder: Path) -> Path:
    torch.save(convert.d2l.to_params(gru(reset_after=False), nn.Linear(5, 2)), folder / "book.pt")
    return folder / "book.pt"


# What nothing is known of, and the reason that is told.
NOT_PROVED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a run has no library": (empty_run, "a run has no runtime but gatewise"),
    "a file of other tensors": (weights_alone, "has no recurrent layer by its names"),
    "a damaged file": (damaged, "is a damaged zip file"),
    "a list of the book's": (of_the_book, "d2l's parameters are run by the book's code alone"),
    "fewer outputs there": (lambda folder: library(gru(), outputs=1), "1 output of 2: other 1.0 gives 1, gatewise 2"),
    "no outputs there": (lambda folder: library(gru(), outputs=0), "2 outputs of 2: other 1.0 gives 0, gatewise 2"),
    "one step alone": (lambda folder: library(gru(), takes=lambda t: t == 1), "other 1.0 does not run input (11"),
    "too large": (
        lambda folder: Runtime("other 1.0", [Spec("x", ("T", "B", 1 << 27))], lambda a: a),
        "other 1.0 reads 134217728 numbers at once, expected at most",
    ),
    "no model at all": (lambda folder: 3, "a int is no path and no model of Keras"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_PROVED)
def test_what_was_not_compared_is_not_proved(name: str, tmp_path: Path) -> None:
    make, reason = NOT_PROVED[name]
    proof = convert.prove(gru(), make(tmp_path))
    assert (proof.state, proof.ok) == ("not proved", False)
    assert reason in proof.reason
    assert not proof.reason.startswith("not ")
    assert proof.reason in str(proof)


@pytest.mark.parametrize("output", [None, nn.Linear(5, 2)], ids=["alone", "with the output layer"])
@pytest.mark.parametrize("make", [gatewise.RNN, gatewise.LSTM])
def test_torch_is_no_witness_of_the_books_lists(make: Any, output: nn.Module | None, tmp_path: Path) -> None:
    """torch.nn, given the weights as gatewise read them, would agree however they were read."""
    layer = randomize(make(3, 5))
    params = convert.d2l.to_params(layer, output)
    names = convert.d2l.names(layer, output)
    torch.save(params if output is None else dict(zip(names, params, strict=True)), tmp_path / "book.pt")
    read, _, proof = convert.file(tmp_path / "book.pt")
    assert any("d2l" in m.source for m in read.mapped)
    assert (proof.state, proof.differences) == ("not proved", [])
    assert convert.file(tmp_path / "book.pt", tmp_path / "a.npz")[2].ok  # of what is written, torch.nn is one


def test_what_another_library_raises_as_it_reads_is_not_proved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(source: Any) -> Any:
        raise KeyError("no such thing")

    torch.save(gru().state_dict(), tmp_path / "a.pt")
    monkeypatch.setattr(module, "runtime_of", broken)
    proof = convert.prove(gru(), tmp_path / "a.pt")
    assert (proof.state, proof.reason) == ("not proved", "KeyError: 'no such thing'")


PROVED: dict[str, Callable[[Path], Any]] = {
    "all of it": lambda folder: library(gru()),
    "a step is refused": lambda folder: library(gru(), takes=lambda steps: steps > 1),
    "eleven steps are refused": lambda folder: library(gru(), takes=lambda steps: steps != 11),
    "many steps alone": lambda folder: library(gru(), takes=lambda steps: steps == 40),
}


@pytest.mark.parametrize("name", PROVED)
def test_a_shape_that_is_refused_beside_others_changes_nothing(name: str, tmp_path: Path) -> None:
    proof = convert.prove(gru(), PROVED[name](tmp_path))
    assert (proof.state, proof.ok, proof.reason) == ("proved", True, "")
    assert not proof.unproved
    assert bool(proof.notes) == (name != "all of it")


DIFFERENCE = {
    wrong: convert.Proof([Difference("other", "x", "output 1", 0.0, 0.0, 0.0, wrong)]) for wrong in ("", "off")
}
UNPROVED, NOTE, BACK = convert.Proof(unproved=["not proved: why"]), convert.Proof(notes=["not compared: it"]), \
    convert.Proof(read_back=["it is the same"])  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "state", "reason"),
    [
        ([], "not proved", "nothing was compared"),
        ([NOTE], "not proved", "it"),
        ([DIFFERENCE[""]], "proved", ""),
        ([BACK], "proved", ""),
        ([NOTE, DIFFERENCE[""]], "proved", ""),
        ([NOTE, BACK], "proved", ""),
        ([DIFFERENCE[""], UNPROVED], "not proved", "why"),
        ([NOTE, UNPROVED, BACK], "not proved", "why"),
        ([DIFFERENCE["off"], DIFFERENCE[""]], "failed", "other, x, output 1: off"),
        ([BACK, DIFFERENCE["off"]], "failed", "other, x, output 1: off"),
        ([UNPROVED, DIFFERENCE["off"]], "failed", "other, x, output 1: off"),
    ],
)
def test_a_sum_is_as_good_as_its_worst_part(parts: list[convert.Proof], state: str, reason: str) -> None:
    for order in (parts, parts[::-1]):
        proof = sum(order, convert.Proof())
        assert (proof.state, proof.ok, proof.reason) == (state, state == "proved", reason)


# --- files of tensors, read again --------------------------------------------------------------------


@gatewise.cell(gates="a b")
def own(x: Any, h: Any, c: Any, *, p: Any = 0.5) -> Any:
    a = torch.sigmoid(x.a + h.a + p * c)
    c = a * c + (1 - a) * torch.tanh(c.b)
    return torch.relu(c), c


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.first = gatewise.Recurrent(own, 3, 5, bidirectional=True)
        self.second = nn.LSTM(10, 4)
        self.last = nn.Linear(4, 2)


# Modules of which torch.nn does not run the whole.
MODULES: dict[str, Callable[[], nn.Module]] = {
    "an own cell": lambda: gatewise.Recurrent(own, 3, 5, 2, bidirectional=True, bias="input"),
    "a reset gate before": lambda: gatewise.GRU(3, 5, reset_after=False, batch_first=True),
    "learned states": lambda: gatewise.LSTM(3, 5, proj_size=2, learn_state=True),
    "one step": lambda: gatewise.GRUCell(3, 5, reset_after=False),
    "zoneout": lambda: gatewise.Recurrent(gatewise.zoneout(cells.gru, 0.1), 3, 5),
    "float64": lambda: gatewise.Recurrent(own, 3, 5, dtype=torch.float64),
    "float16": lambda: gatewise.GRU(3, 5, reset_after=False, dtype=torch.float16),
    "a net": Net,
    "layers": lambda: convert.Layers({"a/b": gru(reset_after=False), "c": gatewise.Recurrent(own, 3, 5)}),
    "no recurrent layer": lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)),
}  # fmt: skip


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", MODULES)
def test_tensors_are_proved_by_reading_them_again(name: str, ending: str, tmp_path: Path) -> None:
    model = randomize(MODULES[name]())
    path = tmp_path / f"m{ending}"
    if isinstance(model, convert.Layers):
        convert.save(nn.ModuleDict({"a": nn.ModuleDict({"b": model["a/b"]}), "c": model["c"]}), path)
    else:
        convert.save(model, path)
    proof = convert.prove(model, path)
    assert proof.state == "proved", str(proof)
    assert not proof.runtimes
    assert f"proved: m{ending}, read again, has the module's {len(model.state_dict())} tensors" in str(proof)
    for parameter in [*model.parameters()][::4]:
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.view(-1)[-1] += 0.01
        assert convert.prove(model, path).state == "failed", "one number of one tensor is another"
        with torch.no_grad():
            parameter.copy_(kept)
    assert convert.prove(model, path).ok


def test_bfloat16_and_nan_are_held_against_each_other_bit_for_bit(tmp_path: Path) -> None:
    layer = gru(reset_after=False).bfloat16()
    with torch.no_grad():
        layer.weight_ih_l0[0, 0] = float("nan")
    convert.save(layer, tmp_path / "a.pt")
    assert convert.prove(layer, tmp_path / "a.pt").ok


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "another cell": lambda: gatewise.GRU(3, 5, batch_first=True),
    "batch second": lambda: gatewise.GRU(3, 5, reset_after=False),
    "a function of the gates": lambda: gatewise.Recurrent(
        gatewise.activations(cells.gru_reset_before, n="relu"), 3, 5, batch_first=True
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_same_numbers_of_another_function_fail(name: str, tmp_path: Path) -> None:
    layer, other = gru(reset_after=False, batch_first=True), OTHERS[name]()
    other.load_state_dict(layer.state_dict())
    convert.save(layer, tmp_path / "a.npz")
    proof = convert.prove(other, tmp_path / "a.npz")
    assert (proof.state, proof.read_back) == ("failed", [])
    assert "the recurrent layer 'layer' is another function" in proof.reason


def test_a_state_dict_of_a_module_is_proved_by_its_names(tmp_path: Path) -> None:
    """torch's own file, which tells no layers, and numbers that `like` rounds."""
    net, like = randomize(Net()).double(), Net()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    read, written, proof = convert.file(tmp_path / "net.pt", tmp_path / "net.npz", like)
    assert (read.module, proof.state, len(proof.read_back)) == (like, "proved", 2)
    assert written is not None


def test_layers_of_a_state_dict_are_proved_by_torchs_own(tmp_path: Path) -> None:
    model = randomize(nn.ModuleDict({"a": nn.GRU(3, 5, 2), "b": nn.LSTM(3, 5), "c": nn.Linear(2, 1)}))
    torch.save(model.state_dict(), tmp_path / "m.pt")
    read, _, proof = convert.file(tmp_path / "m.pt", tmp_path / "m.npz")
    assert proof.ok
    assert [name.rpartition(", ")[2] for name in proof.runtimes] == ["a alone", "b alone"]
    assert len({d.input for d in proof.differences}) == 4  # each in two shapes, in both files
    with torch.no_grad():
        read.module["b"].weight_hh_l0 += 0.1  # type: ignore[index,union-attr,operator]
    assert convert.prove(read, tmp_path / "m.npz").state == "failed"


def test_a_layer_that_torch_lacks_is_no_obstacle_to_the_others(tmp_path: Path) -> None:
    model = randomize(nn.ModuleDict({"a": nn.GRU(3, 5), "b": gatewise.Recurrent(own, 3, 5)}))
    convert.save(model, tmp_path / "told.pt")
    proof = convert.prove(convert.read(tmp_path / "told.pt"), tmp_path / "told.pt")
    assert (proof.state, len(proof.runtimes), len(proof.read_back)) == ("proved", 1, 1)


# --- from file to file -------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "package"), [(".onnx", "onnxruntime"), (".keras", "keras")])
def test_without_the_targets_library_it_is_written_and_not_proved(
    ending: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for needed in {"onnx", "onnxscript", "onnxruntime"} if ending == ".onnx" else {"keras", "h5py"}:
        pytest.importorskip(needed)
    source, target = tmp_path / "a.pt", tmp_path / f"b{ending}"
    torch.save(gru().state_dict(), source)
    find, home = importlib.util.find_spec, f"gatewise.convert.{ending[1:]}"
    runtime = importlib.import_module(home).runtime

    def without(path: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
            return runtime(path)

    monkeypatch.setattr(f"{home}.runtime", without)
    read, written, proof = convert.file(source, target)
    assert written is not None
    assert target.exists()
    assert (proof.state, proof.ok) == ("not proved", False)
    assert proof.reason.startswith(f"this needs {package}, which is not installed")
    assert [d.wrong for d in proof.differences] == [""] * 4  # of the source
    monkeypatch.undo()
    assert convert.prove(read, target).ok


@pytest.mark.parametrize("ending", [".onnx", ".keras"])
def test_the_layer_of_a_run_is_proved_by_the_target(ending: str, tmp_path: Path) -> None:
    """A run has no library, which is no obstacle to what is written of it."""
    pytest.importorskip("onnxruntime" if ending == ".onnx" else "keras")
    pytest.importorskip("onnxscript" if ending == ".onnx" else "h5py")
    from gatewise.tasks import text

    data = text.TextData("what a piece of work " * 40, steps=8, batch=4)
    text.fit(text.LanguageModel("gru", data.vocabulary, hidden_size=5), data, epochs=1, out=tmp_path / "run")
    _, _, proof = convert.file(tmp_path / "run", tmp_path / f"layer{ending}", layer="layer")
    assert proof.state == "proved", str(proof)
    assert proof.notes == ["not compared: a run has no runtime but gatewise"]
    assert convert.file(tmp_path / "run", tmp_path / "run.npz")[2].ok
    assert convert.file(tmp_path / "run")[2].state == "not proved"
