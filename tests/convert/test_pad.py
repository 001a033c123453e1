"""ONNX's Pad, in and out: every mode, axis and way of writing it, for every size, against onnxruntime and numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_models import model_of, saved  # noqa: E402

from gatewise.convert import load, save  # noqa: E402
from gatewise.convert import onnx as kind  # noqa: E402

MODES = {"constant": "constant", "edge": "edge", "reflect": "reflect", "wrap": "wrap"}  # as numpy has them
FORMS = {"attributes": 10, "input, 11": 11, "input, 13": 13, "axes": 18, "axes, 21": 21}
SIDES = ((2, 1), (0, 3), (1, 0), (4, 5), (-1, 0), (-1, 2), (2, -1))


def node(
    mode: str, sides: dict[int, tuple[int, int]], form: str, fill: float | None = None, name: str = "y"
) -> tuple[Any, dict[str, np.ndarray]]:
    """A Pad of three axes, and its constants."""
    pads = [sides.get(a, (0, 0))[end] for end in (0, 1) for a in range(3)]
    if form == "attributes":
        more = {} if fill is None else {"value": fill}
        return helper.make_node("Pad", ["x"], [name], mode=mode, pads=pads, **more), {}
    names, constants = ["x", f"pads_{name}", f"fill_{name}" if fill is not None else ""], {}
    if form.startswith("axes"):
        pads = [s[end] for end in (0, 1) for s in sides.values()]
        constants[f"axes_{name}"] = np.array([a - 3 for a in sides])
        names.append(f"axes_{name}")
    constants[f"pads_{name}"] = np.array(pads)
    if fill is not None:
        constants[f"fill_{name}"] = np.array(fill, np.float32)
    while not names[-1]:
        names.pop()
    return helper.make_node("Pad", names, [name], mode=mode), constants


def run(runtime: Any, *inputs: Tensor) -> list[Tensor] | str:
    """What a runtime makes, or that it refuses."""
    try:
        return [torch.from_numpy(y) for y in runtime.run([x.numpy() for x in inputs])]
    except Exception as error:  # onnxruntime's have no class of their own
        return str(error)


def padded(x: Tensor, mode: str, axis: int, sides: tuple[int, int], fill: float | None) -> Tensor:
    """The same by numpy, which takes any size; what is negative is cropped first."""
    a = np.take(x.numpy(), range(max(-sides[0], 0), x.shape[axis] + min(sides[1], 0)), axis)
    around = [(max(sides[0], 0), max(sides[1], 0)) if k == axis else (0, 0) for k in range(x.dim())]
    more = {"constant_values": fill or 0} if mode == "constant" else {}
    return torch.from_numpy(np.pad(a, around, MODES[mode], **more))  # type: ignore[call-overload]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", MODES)
def test_pad_is_read_as_onnxruntime_and_numpy_have_it(mode: str, form: str, tmp_path: Path) -> None:
    ran = 0
    if mode == "wrap" and form == "attributes":
        pytest.skip("Pad of version 2 has no such mode")
    for sides in SIDES:
        for axis in range(3):
            fill = 0.5 if mode == "constant" and axis else None
            made, constants = node(mode, {axis: sides}, form, fill)
            path = saved(model_of([made], {"x": ("f", ("B", "T", "F"))}, ["y"], constants, FORMS[form]), tmp_path)
            module, runtime = load(path), kind.runtime(path)
            for size in (1, 2, 3, 7):
                x = torch.randn([size if k == axis else 2 for k in range(3)])
                theirs = run(runtime, x)
                if size + min(sides) < 1 and mode != "constant":  # nothing is left that could be repeated
                    assert isinstance(theirs, str)
                    if max(sides) > 0:
                        with pytest.raises((RuntimeError, IndexError)):
                            module(x)
                    else:
                        assert module(x).shape[axis] == 0
                    continue
                assert torch.equal(module(x), padded(x, mode, axis, sides, fill)), (sides, axis, size)
                if isinstance(theirs, list):
                    ran += 1
                    assert torch.equal(module(x), theirs[0]), (sides, axis, size)
                else:  # which refuses to reflect twice
                    assert mode == "reflect"
                    assert max(sides) >= size + min(*sides, 0)
    assert ran > 30


def test_every_mode_and_axis_is_written_again_for_any_size(tmp_path: Path) -> None:
    nodes, weights = [], {}
    for mode in MODES:
        for k, sides in enumerate(({0: (2, 1)}, {1: (4, 3)}, {2: (1, 2)}, {1: (1, 1), 2: (3, 0)})):
            made, constants = node(mode, sides, "axes", 0.5 if mode == "constant" and k else None, f"{mode}_{k}")
            nodes.append(made)
            weights |= constants
    names = [made.output[0] for made in nodes]
    one = saved(model_of(nodes, {"x": ("f", ("B", "T", 4))}, names, weights, 18), tmp_path)
    module, two = load(one), tmp_path / "two.onnx"
    save(module, two)
    first, second = kind.runtime(one), kind.runtime(two)
    assert [spec.shape for spec in second.inputs] == [("B", "T", 4)]
    for sizes in ((5, 7), (3, 5), (2, 3), (1, 1), (1, 8)):
        x = torch.randn(*sizes, 4)
        made, expected = run(second, x), module(x)
        assert isinstance(made, list)
        for name, a, b in zip(names, made, expected, strict=True):
            assert torch.equal(a, b), (name, sizes)
        if sizes == (5, 7):
            theirs = run(first, x)
            assert isinstance(theirs, list)
            assert all(map(torch.equal, made, theirs))


def test_a_fill_that_the_model_computes(tmp_path: Path) -> None:
    pads, _ = node("constant", {1: (2, 1)}, "input, 13", 0.0)
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["whole"], keepdims=0),
        helper.make_node("Pad", ["x", "pads_y", "whole"], ["y"]),
    ]
    weights = {"pads_y": np.array([0, 2, 0, 0, 1, 0])}
    assert list(pads.input) == ["x", "pads_y", "fill_y"]
    one = saved(model_of(nodes, {"x": ("f", ("B", "T", 4))}, ["y"], weights, 13), tmp_path)
    save(load(one), tmp_path / "two.onnx")
    x = torch.randn(2, 3, 4)
    expected = run(kind.runtime(one), x)
    assert isinstance(expected, list)
    for made in (load(one)(x), run(kind.runtime(tmp_path / "two.onnx"), x)[0]):
        assert torch.equal(made, expected[0])
    assert expected[0][0, 0, 0] == x.max()


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.bool_, np.float16], ids=lambda d: d.__name__)
def test_pad_of_other_numbers(dtype: Any, tmp_path: Path) -> None:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    fill = np.array(1, dtype)
    graph = helper.make_graph(
        [helper.make_node("Pad", ["x", "pads", "fill"], ["y"])], "test",
        [helper.make_tensor_value_info("x", element, ["B", 3])],
        [helper.make_tensor_value_info("y", element, [None, None])],
        [numpy_helper.from_array(np.array([1, 0, 0, 2]), "pads"), numpy_helper.from_array(fill, "fill")],
    )  # fmt: skip
    path = saved(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path)
    x = torch.from_numpy((np.random.default_rng(0).normal(0, 3, (2, 3)) > 0.3).astype(dtype))
    made, expected = load(path)(x), run(kind.runtime(path), x)
    assert isinstance(expected, list)
    assert made.dtype == expected[0].dtype
    assert torch.equal(made, expected[0])
    assert TensorProto.DataType.Name(element)


class Padded(nn.Module):
    """One axis of three padded by torch: batch, time or features."""

    def __init__(self, axis: int, *layers: Any) -> None:
        super().__init__()
        self.axis, self.layers = axis, layers

    def forward(self, x: Tensor) -> list[Tensor]:
        x = x.movedim(self.axis, -1)
        return [layer(x).movedim(-1, self.axis) for layer in self.layers]


LAYERS = (
    nn.ReflectionPad1d((2, 1)), nn.ReplicationPad1d((2, 1)), nn.CircularPad1d((2, 1)), nn.ZeroPad1d((2, 1)),
    nn.ConstantPad1d((-1, 2), 0.5), lambda x: F.pad(x, (1, 2), "reflect"), lambda x: F.pad(x, (1, 2), "replicate"),
    lambda x: F.pad(x, (1, 2), "circular"), lambda x: F.pad(x, (1, 2)),
)  # fmt: skip


@pytest.mark.parametrize("axis", [0, 1, pytest.param(2, marks=pytest.mark.slow)], ids=["batch", "time", "features"])
def test_torchs_padding_of_any_axis_is_written_for_all_sizes_that_torch_takes(axis: int, tmp_path: Path) -> None:
    module, path = Padded(axis, *LAYERS), tmp_path / "model.onnx"
    save(module, path, example=(torch.randn(4, 5, 6),))
    runtime = kind.runtime(path)
    assert [isinstance(size, str) for size in runtime.inputs[0].shape] == [True, True, False]
    for sizes in ((4, 5), (3, 3), (9, 4), (3, 8)):
        x = torch.randn(*sizes, 6)
        made = run(runtime, x)
        assert isinstance(made, list), made
        assert all(map(torch.equal, made, module(x)))
    for sizes in ((2, 2), (1, 1)):
        x = torch.randn(*sizes, 6)
        if axis == 2:
            assert all(map(torch.equal, run(runtime, x), module(x)))
        else:  # too short to be reflected, there and here
            with pytest.raises(RuntimeError):
                module(x)
            assert isinstance(run(runtime, x), str)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ReflectionPad", "ReplicationPad", "CircularPad", "ZeroPad"])
@pytest.mark.parametrize("rank", [2, 3])
def test_torchs_padding_of_several_axes(name: str, rank: int, tmp_path: Path) -> None:
    layer = getattr(nn, f"{name}{rank}d")(tuple(1 + k % 2 for k in range(2 * rank)))
    path = tmp_path / "model.onnx"
    save(layer, path, example=(torch.randn(3, 4, *(5, 6, 7)[:rank]),))
    for sizes in ((3, 4), (1, 1), (2, 7)):
        x = torch.randn(*sizes, *(5, 6, 7)[:rank])
        made = run(kind.runtime(path), x)
        assert isinstance(made, list)
        assert torch.equal(made[0], layer(x))


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 19, 21, 23])
def test_older_and_newer_operators_pad_the_same(opset: int, tmp_path: Path) -> None:
    module, path = Padded(2, *LAYERS), tmp_path / "model.onnx"
    save(module, path, example=(torch.randn(4, 5, 6),), opset=opset)
    x = torch.randn(2, 3, 6)
    made = run(kind.runtime(path), x)
    assert isinstance(made, list), made
    assert all(map(torch.equal, made, module(x)))
