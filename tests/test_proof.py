"""The proof of a conversion: it passes what is right, and fails what is wrong by a gate, a bias, a NaN or a shape."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import randomize
from torch import Tensor, nn

import gatewise
from gatewise import convert
from gatewise.convert import proof as module
from gatewise.convert.network import Spec
from gatewise.convert.report import Runtime
from gatewise.errors import InputError
from gatewise.tasks.text import LanguageModel, Vocabulary

np = pytest.importorskip("numpy")
pytest.importorskip("safetensors")

SPECS = (Spec("input", ("T", "B", 3)), Spec("h_0", (1, "B", 5)), Spec("c_0", (1, "B", 5)))


def lstm(**options: Any) -> gatewise.LSTM:
    made = randomize(gatewise.LSTM(3, 5, **options))
    assert isinstance(made, gatewise.LSTM)
    return made


def as_library(layer: nn.Module, specs: Sequence[Spec] = SPECS, change: Callable[..., Any] = lambda t: t) -> Runtime:
    """A layer as if another library ran it."""

    def run(arrays: Sequence[Any]) -> list[Any]:
        x, *states = map(torch.from_numpy, arrays)
        with torch.no_grad():
            made = layer(x, tuple(states) if len(states) > 1 else states[0] if states else None)
        return [change(t).numpy() for t in flat(made)]

    return Runtime("other 1.0", specs, run)


def flat(made: Any) -> list[Tensor]:
    return [made] if isinstance(made, Tensor) else [t for part in made for t in flat(part)]


def test_the_same_layer_of_another_library_is_proved() -> None:
    layer = lstm().double()
    proof = convert.prove(layer, as_library(lstm()))
    assert {d.allowed for d in proof.differences} == {1e-5}  # of the one with fewer digits
    proof = convert.prove(layer, as_library(layer, [Spec(s.name, s.shape, torch.float64) for s in SPECS]))
    assert {d.allowed for d in proof.differences} == {1e-10}
    layer = lstm()
    theirs = nn.LSTM(3, 5)
    theirs.load_state_dict(layer.state_dict())
    proof = convert.prove(layer, as_library(theirs))
    assert proof.ok
    assert not proof.unproved
    assert proof.runtimes == ("other 1.0",)
    assert [d.output for d in proof.differences] == 2 * ["output 1", "output 2", "output 3"]
    assert {d.input for d in proof.differences} == {
        "input (1, 1, 3), h_0 (1, 1, 5), c_0 (1, 1, 5)",
        "input (11, 3, 3), h_0 (1, 3, 5), c_0 (1, 3, 5)",
    }
    assert "proved: other 1.0 and gatewise on random input, 2 shapes, 3 outputs" in str(proof)
    assert "1e-05 of the largest number is rounding" in str(proof)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype, tmp_path: Path) -> None:
    convert.save(lstm().to(dtype), tmp_path / "a.pt")
    proof = convert.prove(convert.read(tmp_path / "a.pt"), tmp_path / "a.pt")
    assert proof.ok, str(proof)
    assert len(proof.differences) == 6


def swapped(layer: gatewise.LSTM) -> None:
    w = layer.weight_hh_l0
    w.copy_(torch.cat([w[5:10], w[:5], w[10:]]))


def without_a_bias(layer: gatewise.LSTM) -> None:
    layer.bias_hh_l0.zero_()


@pytest.mark.parametrize("change", [swapped, without_a_bias])
def test_a_swapped_gate_and_a_lost_bias_fail(change: Callable[..., None]) -> None:
    other = lstm()
    with torch.no_grad():
        change(other)
    proof = convert.prove(lstm(), as_library(other))
    assert not proof.ok
    assert "FAILED: other 1.0, input (11, 3, 3)" in str(proof)
    assert "proved:" not in str(proof)
    assert max(d.relative for d in proof.differences) > 0.01


def test_a_swap_that_one_step_from_zero_cannot_show_fails() -> None:
    one, other = randomize(gatewise.GRU(3, 5)), gatewise.GRU(3, 5, reset_after=False)
    other.load_state_dict(one.state_dict())
    with torch.no_grad():  # without states and biases both GRUs agree on the first step
        for layer in (one, other):
            layer.bias_ih_l0.zero_()
            layer.bias_hh_l0.zero_()
    proof = convert.prove(one, as_library(other, SPECS[:1]))
    first, second = proof.differences[0], proof.differences[2]
    assert (first.wrong, first.input) == ("", "input (1, 1, 3)")
    assert "differs" in second.wrong


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda t: t * float("nan"), "NaN"),
        (lambda t: t / 0, "infinity"),
        (lambda t: t.unsqueeze(0), r"its shape is \(1, 1, 1, 5\) there and \(1, 1, 5\) here"),
        (lambda t: t + 1e-3, "differs by 1.0e-03"),
    ],
)
def test_nan_another_shape_and_an_offset_fail(change: Callable[..., Any], wrong: str) -> None:
    import re

    layer = lstm()
    proof = convert.prove(layer, as_library(layer, change=change))
    assert not proof.ok
    assert re.search(wrong, str(proof))


def test_nan_on_both_sides_fails() -> None:
    layer = lstm()
    with torch.no_grad():
        layer.bias_ih_l0[0] = float("nan")
    assert not convert.prove(layer, as_library(layer)).ok


def test_rounding_that_the_recurrence_amplifies_is_no_failure() -> None:
    @gatewise.cell(gates="n")
    def wild(x: Any, h: Any) -> Any:
        return 2 * torch.tanh(8 * h) + x.n

    layer = randomize(gatewise.Recurrent(wild, 3, 5))
    noisy = as_library(layer, SPECS[:2], lambda t: t * (1 + 3e-5))
    assert not convert.prove(layer, noisy).ok  # more than rounding, at the first step too
    calm = convert.prove(layer, as_library(layer, SPECS[:2]))
    assert calm.ok


def test_what_the_other_library_refuses_is_said_and_another_shape_drawn() -> None:
    layer = lstm()
    library = as_library(layer)

    def run(arrays: Sequence[Any]) -> Sequence[Any]:
        if arrays[0].shape[0] < 3:
            raise ValueError("a kernel of\n3 steps")
        return library.run(arrays)

    proof = convert.prove(layer, Runtime("other 1.0", SPECS, run))
    assert proof.ok
    assert not proof.unproved
    assert proof.notes == ["not compared: other 1.0 does not run input (1, 1, 3), h_0 (1, 1, 5), c_0 (1, 1, 5): "
                           "a kernel of 3 steps"]  # fmt: skip
    assert {d.input[:16] for d in proof.differences} == {"input (11, 3, 3)", "input (40, 2, 3)"}


def test_what_only_the_other_library_runs_is_a_failure() -> None:
    library = Runtime("other 1.0", (Spec("x", ("B", 7, 9, "T")),), lambda arrays: arrays)
    proof = convert.prove(lstm(), library)
    assert not proof.ok
    assert "gatewise does not run it" in str(proof)


def test_a_file_that_its_own_library_never_runs_is_a_failure() -> None:
    def run(arrays: Sequence[Any]) -> Sequence[Any]:
        raise RuntimeError("no such operator")

    proof = convert.prove(lstm(), Runtime("other 1.0", SPECS, run))
    assert not proof.ok
    assert "no such operator; nor the shapes before" in str(proof)


def test_outputs_without_a_counterpart_are_said() -> None:
    layer = lstm()

    def first(arrays: Sequence[Any]) -> Sequence[Any]:
        return as_library(layer).run(arrays)[:1]

    proof = convert.prove(layer, Runtime("other 1.0", SPECS, first))
    assert proof.state == "not proved"
    assert proof.unproved[0] == "not proved: 2 outputs of 3: other 1.0 gives 1, gatewise 3"


def test_states_integers_and_lengths_find_their_place() -> None:
    model = randomize(LanguageModel("lstm", Vocabulary(list("abcd")), hidden_size=5))
    specs = (Spec("x", ("T", "B"), torch.int64, 4), *SPECS[1:])
    proof = convert.prove(model, as_library(model, specs))
    assert proof.ok
    assert len(proof.differences) == 6
    layer = lstm()
    lengths = Spec("lengths", ("B",), torch.int64)

    def run(arrays: Sequence[Any]) -> Sequence[Any]:
        x, n = map(torch.from_numpy, arrays)
        assert 1 <= int(n.min()) <= int(n.max()) <= len(x)
        with torch.no_grad():
            return [t.numpy() for t in flat(layer(x, lengths=n))]

    proof = convert.prove(layer, Runtime("other 1.0", (SPECS[0], lengths), run))
    assert proof.ok
    assert len(proof.differences) == 6


@pytest.mark.parametrize("sizes", [{}, {"num_layers": 2, "bidirectional": True}])
def test_batch_first_libraries_with_states_on_their_own(sizes: Any) -> None:
    layer = lstm(**sizes)

    def run(arrays: Sequence[Any]) -> Sequence[Any]:
        x = torch.from_numpy(arrays[0])
        with torch.no_grad():
            output, (h, c) = layer(x.transpose(0, 1))
        return [t.numpy() for t in (output.transpose(0, 1), *h, *c)]

    library = Runtime("keras", (Spec("x", ("B", "T", 3)),), run)
    proof = convert.prove(layer, library)
    assert proof.ok
    assert not proof.unproved
    assert len(proof.differences) == 2 * (1 + 2 * (4 if sizes else 1))
    assert not convert.prove(layer, Runtime("keras", library.inputs, lambda a: run(a[::-1])[::-1])).ok


def test_some_steps_are_zero_so_that_masks_show() -> None:
    seen = []

    def run(arrays: Sequence[Any]) -> Sequence[Any]:
        seen.append(arrays)
        return []

    specs = (SPECS[0], Spec("ids", ("B", "T"), torch.int64, 1000), SPECS[1])
    convert.prove(lstm(), Runtime("other 1.0", specs, run))
    x, ids, h = seen[1]
    assert 0 < (x == 0).all(2).sum() < 20
    assert ((x == 0).all(2) == (x == 0).any(2)).all()
    assert 0 < (ids == 0).sum() < 20
    assert (h != 0).all()


def test_the_seed_changes_the_input() -> None:
    seen = []

    def run(arrays: Sequence[Any]) -> Sequence[Any]:
        seen.append(arrays[0])
        return []

    for seed in (0, 0, 1):
        convert.prove(lstm(), Runtime("other 1.0", SPECS, run), seed=seed)
    assert np.array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[0], seen[4])


def test_a_missing_runtime_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    folder = tmp_path / "run"
    folder.mkdir()
    proof = convert.prove(lstm(), folder)
    assert (proof.ok, proof.differences) == (False, [])
    assert str(proof) == "not compared: a run has no runtime but gatewise"
    convert.save(gatewise.GRU(3, 5), path)
    found = convert.read(path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "safetensors" else object())
    proof = convert.prove(found, path)
    assert "not proved: this needs safetensors, which is not installed: pip install" in str(proof)
    assert not proof.differences


# --- from file to file -------------------------------------------------------------------------------


def test_a_failed_proof_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "a.pt", tmp_path / "b.safetensors"
    torch.save(lstm().state_dict(), source)
    target.write_bytes(b"as it was")
    other = lstm()
    with torch.no_grad():
        swapped(other)
    with monkeypatch.context() as patch:
        patch.setattr("gatewise.convert.tensors.runtime", lambda path: as_library(other))
        read, written, proof = convert.file(source, target, force=True)
        assert not proof.ok
    assert target.read_bytes() == b"as it was"
    assert written is not None
    read, written, proof = convert.file(source, target, force=True)
    assert proof.ok
    assert len(proof.differences) == 12  # the source's and the target's runtime, two shapes, three outputs
    assert torch.equal(convert.load(target).weight_hh_l0, read.module.weight_hh_l0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b.safetensors"]


def test_what_cannot_be_written_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    source = tmp_path / "absent.pt"
    for target, message in (("b.txt", "ending"), ("no/b.pt", "there is no folder"), ("d.pt", "is a folder")):
        (tmp_path / "d.pt").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=message):
            convert.file(source, tmp_path / target)
    torch.save(lstm().state_dict(), source)
    with pytest.raises(InputError, match="is the source itself"):
        convert.file(source, tmp_path / "d.pt" / ".." / "absent.pt")


def test_one_of_several_layers(tmp_path: Path) -> None:
    source, target = tmp_path / "a.pt", tmp_path / "b.safetensors"
    model = nn.ModuleDict({"one": lstm(), "two": gatewise.GRU(3, 5)})
    torch.save(model.state_dict(), source)
    read, _, proof = convert.file(source, target, layer="one")
    assert read.left[-1] == "all but one: one layer is asked for"
    assert proof.runtimes
    assert torch.equal(convert.load(target).weight_hh_l0, model["one"].weight_hh_l0)
    with pytest.raises(InputError, match="has no recurrent layer 'three', expected one of: one, two"):
        convert.file(source, tmp_path / "c.safetensors", layer="three")
    with pytest.raises(InputError, match=r"can't be written whole, .* with --layer \(layer=\): one, two"):
        convert.file(source, tmp_path / "b.onnx")
    _, _, proof = convert.file(source)
    assert proof.ok
    assert [name.rpartition(", ")[2] for name in proof.runtimes] == ["one alone", "two alone"]
    assert proof.notes == ["not compared: how the layers are connected, which was not read"]


def test_tolerances_have_an_order() -> None:
    allowed = module.ALLOWED
    assert allowed[torch.float64] < allowed[torch.float32] < allowed[torch.float16] < allowed[torch.bfloat16]


def test_nothing_compared_is_told_and_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    proof = convert.prove(lstm())
    assert (str(proof), proof.runtimes, proof.state) == ("nothing was compared", (), "not proved")
    with pytest.raises(InputError, match=r"there is no file .*nope\.keras"):
        convert.prove(lstm(), tmp_path / "nope.keras")


def test_a_library_that_never_ran_has_no_largest_difference() -> None:
    def broken(t: Tensor) -> Tensor:
        raise RuntimeError("broken")

    proof = convert.prove(lstm(), as_library(lstm(), change=broken))
    assert not proof.ok
    assert "FAILED" in str(proof)
    assert "nan" not in str(proof)
    assert "rounding" not in str(proof)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}], ids=str)
def test_states_that_another_library_has_apart_are_joined(options: dict[str, Any]) -> None:
    layer = lstm(**options)
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    specs = [Spec("x", ("B", "T", 3)), *(Spec(f"{s}_{k}", ("B", 5)) for s in "hc" for k in range(count))]

    def run(arrays: Sequence[Any]) -> list[Any]:
        x, *states = map(torch.from_numpy, arrays)
        h, c = (torch.stack(states[k : k + count]) for k in (0, count))
        with torch.no_grad():
            output, (h, c) = layer(x if layer.batch_first else x.transpose(0, 1), (h, c))
        output = output if layer.batch_first else output.transpose(0, 1)
        return [t.numpy() for t in (output, *h.unbind(0), *c.unbind(0))]

    proof = convert.prove(layer, Runtime("other 1.0", specs, run))
    assert proof.ok, str(proof)
    assert len({d.output for d in proof.differences}) == 1 + 2 * count

    def swapped(arrays: Sequence[Any]) -> list[Any]:
        return run([arrays[0], *reversed(arrays[1:])])

    assert not convert.prove(layer, Runtime("other 1.0", specs, swapped)).ok


def test_each_part_trains_afterwards_or_not_as_before() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    model[1].eval()  # frozen, as for fine-tuning
    runtime = Runtime("other 1.0", [Spec("x", ("B", 3))], lambda arrays: [arrays[0]])
    assert not convert.prove(model, runtime).ok
    assert [part.training for part in (model, *model)] == [True, True, False, True]
