"""`gatewise convert`: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import randomize
from torch import nn

import gatewise
from gatewise import convert

pytest.importorskip("safetensors")
Run = Callable[..., tuple[Any, str, str]]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_it_prints_what_became_what_and_the_proof(run: Run) -> None:
    layer = randomize(nn.GRU(3, 5, 2, bidirectional=True))
    torch.save(layer.state_dict(), "gru.pt")
    code, out, err = run("convert", "gru.pt", "gru.safetensors")
    assert (code, err) == (0, "")
    read, written, proof = out.split("\n\n")
    assert read.splitlines()[:2] == [
        "gru.pt, tensors",
        "  * (16 tensors)  -> GRU(3, 5, num_layers=2, bidirectional=True)  gru: gates r z n, two biases a gate",
    ]
    assert "  note: names of parameters do not tell whether a GRU's reset gate" in read
    assert written.startswith("gru.safetensors, tensors\n  the layer: GRU(3, 5, num_layers=2, bidirectional=True)")
    wanted = r"proved: torch.nn of torch .* 2 shapes, 2 outputs: the largest difference is \d\.\de-\d\d"
    assert re.match(wanted, proof)
    assert proof.endswith("\nwritten: gru.safetensors\n")
    assert torch.equal(convert.load("gru.safetensors").weight_hh_l1, layer.weight_hh_l1)
    # Without OUT it reads and proves; with another seed the input is another one.
    code, alone, _ = run("convert", "gru.pt", "--seed=1")
    assert code == 0
    assert alone.startswith(read)
    assert "written" not in alone


def test_a_failed_proof_ends_with_1_and_writes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(nn.GRU(3, 5).state_dict(), "gru.pt")
    runtime = convert.proof.runtime_of

    def wrong(source: Any) -> Any:
        made = runtime(source)
        return type(made)(made.name, made.inputs, lambda arrays: [a + 0.1 for a in made.run(arrays)])

    monkeypatch.setattr(convert.proof, "runtime_of", wrong)
    code, out, err = run("convert", "gru.pt", "b.pt")
    assert (code, err) == (1, "")
    assert "FAILED: torch.nn of torch" in out
    assert out.endswith("the proof failed: b.pt is not written\n")
    assert [path.name for path in Path().iterdir()] == ["gru.pt"]
    assert run("convert", "gru.pt")[0] == 1


def test_one_layer_of_a_model(run: Run) -> None:
    torch.save(nn.ModuleDict({"a": nn.GRU(3, 5), "b": nn.LSTM(3, 5), "c": nn.Linear(2, 1)}).state_dict(), "m.pt")
    code, out, _ = run("convert", "m.pt")
    assert code == 0
    assert "  left: c.weight (1, 2): no recurrent layer's\n" in out
    assert "\nnot compared: how the layers are connected, which was not read\n" in out
    assert run("convert", "m.pt", "b.npz", "--layer=b")[0] == 0
    assert isinstance(convert.load("b.npz"), gatewise.LSTM)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.pt", "b.onnx"], "there is no file absent.pt"),
        (["good.pt", "b.txt"], "b.txt: the ending tells the kind of file, expected one of .keras"),
        (["good.pt", "no/b.pt"], "there is no folder no"),
        (["good.pt", "good.pt"], "is the source itself"),
        (["good.pt", "b.pt", "--layer=x"], "has no recurrent layer 'x', expected one of: layer"),
        (["module.pt"], "holds Python objects (a whole pickled module?), which are never loaded"),
        (["empty.pt"], "empty.pt is damaged"),
        (["short.npz"], "short.npz is a damaged zip file"),
        (["text.txt"], "text.txt is no file that is known here"),
        (["."], "holds no run"),
        (["model"], "model is no ONNX model"),
        (["one"], "one is no file that is known here"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run: Run, arguments: list[str], message: str) -> None:
    torch.save(nn.GRU(3, 5).state_dict(), "good.pt")
    torch.save(nn.GRU(3, 5), "module.pt")
    Path("empty.pt").touch()
    Path("short.npz").write_bytes(b"PK\x03\x04")
    Path("text.txt").write_text("what a piece of work")
    Path("model").write_bytes(b"\x08\x07: and so on")  # it begins as ONNX's files do
    Path("one").write_bytes(b"\x08")
    before = sorted(path.name for path in Path().rglob("*"))
    code, out, err = run("convert", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("gatewise: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(path.name for path in Path().rglob("*")) == before


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999"])
def test_a_seed_that_is_none_is_refused(run: Run, seed: str) -> None:
    torch.save(nn.GRU(3, 5).state_dict(), "good.pt")
    code, _, err = run("convert", "good.pt", f"--seed={seed}")
    assert code == 2
    assert "Traceback" not in err


def test_help_loads_no_torch() -> None:
    code = "import sys; from gatewise import cli\ntry: cli.main()\nfinally: print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, "convert", "--help"], capture_output=True, text=True)
    assert "No code of a file is run." in done.stdout
    assert not set(re.findall(r"'(\w+)'", done.stdout)) & {"torch", "numpy", "keras", "onnx", "safetensors"}
