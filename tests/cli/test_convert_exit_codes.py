"""`gatewise convert`: 0 it is proved, 1 the proof failed, 2 bad input, 3 not proved; the last line says which."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import randomize
from torch import nn

import gatewise
from gatewise import convert
from gatewise.convert.report import NoRuntime

pytest.importorskip("safetensors")
Run = Callable[..., tuple[Any, str, str]]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(randomize(nn.GRU(3, 5)).state_dict(), "gru.pt")


def off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other library gives something else."""
    runtime = convert.proof.runtime_of

    def wrong(source: Any) -> Any:
        made = runtime(source)
        return type(made)(made.name, made.inputs, lambda arrays: [a + 0.1 for a in made.run(arrays)])

    monkeypatch.setattr(convert.proof, "runtime_of", wrong)


def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other library is not installed."""

    def missing(source: Any) -> Any:
        raise gatewise.errors.MissingPackageError("this needs a library, which is not installed")

    monkeypatch.setattr("gatewise.convert.tensors.runtime", missing)


def none_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """No library runs such a file, and reading it again tells nothing either."""

    def nothing(source: Any) -> Any:
        raise NoRuntime("nothing runs it")

    monkeypatch.setattr("gatewise.convert.tensors.runtime", nothing)
    monkeypatch.setattr("gatewise.convert.tensors.read_back", lambda module, source, seed: (0, ""))


CASES: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], int, str, str]] = {
    "proved": (lambda patch: None, 0, "written: b.npz", "rounding: sums in another order"),
    "failed": (off, 1, "the proof failed: b.npz is not written", "the proof failed"),
    "not proved": (
        absent,
        3,
        "written, NOT PROVED: b.npz: this needs a library, which is not installed",
        "NOT PROVED: this needs a library, which is not installed",
    ),
    "nothing to prove it with": (
        none_known,
        3,
        "written, NOT PROVED: b.npz: nothing runs it",
        "NOT PROVED: nothing runs it",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_exit_codes_and_last_lines(name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    change, wanted, last, last_without = CASES[name]
    change(monkeypatch)
    code, out, err = run("convert", "gru.pt", "b.npz")
    assert (code, err, out.splitlines()[-1]) == (wanted, "", last)
    assert Path("b.npz").exists() == (wanted != 1)
    code, out, err = run("convert", "gru.pt")
    assert (code, err) == (wanted, "")
    assert out.splitlines()[-1].endswith(last_without)


@pytest.mark.parametrize("name", CASES)
def test_what_was_there_is_overwritten_with_force_and_where_it_did_not_fail(
    name: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, wanted, _, _ = CASES[name]
    Path("b.npz").write_bytes(b"mine")
    change(monkeypatch)
    assert run("convert", "gru.pt", "b.npz")[0] == 2
    assert Path("b.npz").read_bytes() == b"mine"
    assert run("convert", "gru.pt", "b.npz", "--force")[0] == wanted
    assert (Path("b.npz").read_bytes() == b"mine") == (wanted == 1)


def test_the_source_is_not_overwritten_even_with_force(run: Run) -> None:
    before = Path("gru.pt").read_bytes()
    Path("link.pt").symlink_to("gru.pt")
    for target in ("gru.pt", "link.pt", "./gru.pt"):
        code, _, err = run("convert", "gru.pt", target, "--force")
        assert (code, "is the source itself" in err) == (2, True)
    assert Path("gru.pt").read_bytes() == before


def test_save_overwrites_as_torch_does() -> None:
    convert.save(gatewise.GRU(1, 2), "a.npz")
    convert.save(gatewise.GRU(3, 4), "a.npz")
    assert convert.load("a.npz").hidden_size == 4


def test_a_run_alone_is_read_and_not_proved(run: Run) -> None:
    from gatewise.tasks import text

    for package in ("lightning", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    data = text.TextData("what a piece of work " * 40, steps=8, batch=4)
    text.fit(text.LanguageModel("gru", data.vocabulary, hidden_size=5), data, epochs=1, out="run")
    code, out, _ = run("convert", "run")
    assert (code, out.splitlines()[-1]) == (3, "NOT PROVED: a run has no runtime but gatewise")
    assert run("convert", "run", "run.npz")[0] == 0
