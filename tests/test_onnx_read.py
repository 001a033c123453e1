"""ONNX in: recurrent nodes and simple graphs against onnxruntime itself, the standard's cases, and hostile files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close
from tolerances import FLOAT32

import gatewise
from gatewise.convert.report import Layers
from gatewise.errors import InputError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_models import model_of, recurrent, saved  # noqa: E402

from gatewise.convert import onnx as kind  # noqa: E402

DATA = Path(__file__).parents[1] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")


def compare(model: Any, folder: Path, inputs: list[np.ndarray], tolerance: float = FLOAT32) -> Any:
    """Our module against onnxruntime; the module."""
    path = saved(model, folder)
    found = kind.read(path)
    assert not found.left, found.left
    expected = kind.runtime(path).run(inputs)
    with torch.no_grad():
        made = found.module(*map(torch.from_numpy, inputs))
    made = made if isinstance(made, tuple) else (made,)
    assert len(made) == len(expected)
    for k, (a, b) in enumerate(zip(made, expected, strict=True)):
        assert_close(a, torch.from_numpy(np.array(b)), tolerance, f"output {k}")
    return found.module


def random_inputs(model: Any, steps: int, batch: int) -> list[np.ndarray]:
    random = np.random.default_rng(steps)
    sizes = {"T": steps, "B": batch}
    made = []
    for given in model.graph.input:
        kind_of = given.type.tensor_type
        shape = [d.dim_value or sizes[d.dim_param] for d in kind_of.shape.dim]
        if given.name == "sequence_lens":
            made.append(random.integers(1, steps + 1, shape).astype(np.int32))
        else:
            made.append(random.normal(size=shape).astype(helper.tensor_dtype_to_np_dtype(kind_of.elem_type)))
    return made


# --- recurrent nodes -----------------------------------------------------------------------------------------

LSTM3 = ["HardSigmoid", "ScaledTanh", "Affine"]
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("RNN", {}, {}),
    ("RNN", {"activations": ["Relu"]}, {"bias": False, "h": True}),
    ("RNN", {"clip": 0.4, "direction": "reverse"}, {"lengths": True, "h": True}),
    ("RNN", {"direction": "bidirectional", "activations": ["Tanh", "Relu"]}, {"lengths": True, "h": True}),
    ("GRU", {}, {}),
    ("GRU", {"linear_before_reset": 1}, {"h": True}),
    ("GRU", {"linear_before_reset": 1, "clip": 0.3, "direction": "bidirectional"}, {"lengths": True, "h": True}),
    ("GRU", {"linear_before_reset": 0, "clip": 0.3, "direction": "reverse"}, {"bias": False}),
    ("GRU", {"activations": ["HardSigmoid", "Softsign"]}, {"outputs": ["", "Y_h"]}),
    ("GRU", {"activations": ["sigmoid", "LEAKYRELU"], "activation_alpha": [0.3]}, {"outputs": ["Y"]}),
    (
        "GRU",
        {
            "direction": "bidirectional",
            "activations": ["HardSigmoid", "Elu", "Sigmoid", "ThresholdedRelu"],
            "activation_alpha": [0.3, 0.7, 0.1],
            "activation_beta": [0.4],
            "linear_before_reset": 1,
        },
        {"lengths": True, "h": True},
    ),
    ("LSTM", {}, {"h": True, "c": True}),
    ("LSTM", {"input_forget": 1}, {"c": True}),
    ("LSTM", {"clip": 0.5}, {"peepholes": True, "h": True}),
    ("LSTM", {"input_forget": 1, "clip": 0.5}, {"peepholes": True, "h": True, "c": True, "lengths": True}),
    ("LSTM", {"direction": "reverse"}, {"peepholes": True, "bias": False, "lengths": True, "h": True, "c": True}),
    ("LSTM", {"direction": "bidirectional", "clip": 0.6}, {"peepholes": True, "lengths": True, "h": True, "c": True}),
    (
        "LSTM",
        {"activations": LSTM3, "activation_alpha": [0.3, 1.2, 0.7], "activation_beta": [0.4, 0.5, 0.1]},
        {"outputs": ["", "Y_h", "Y_c"]},
    ),
    (
        "LSTM",
        {"direction": "bidirectional", "activations": ["Sigmoid", "Tanh", "Tanh", "HardSigmoid", "Relu", "Softplus"]},
        {"outputs": ["Y", "", "Y_c"], "h": True, "c": True},
    ),
]


@pytest.mark.parametrize(("op", "attributes", "options"), CASES, ids=lambda v: str(v).replace(" ", ""))
def test_a_recurrent_node_is_what_onnxruntime_runs(
    op: str, attributes: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    model = recurrent(op, attributes, seed=len(str(options)), **options)
    for steps, batch in ((5, 3), (1, 1), (4, 2)):
        compare(model, tmp_path, random_inputs(model, steps, batch))


ALPHA, BETA = (
    {"LeakyRelu", "ThresholdedRelu", "Elu", "HardSigmoid", "Affine", "ScaledTanh"},
    {
        "HardSigmoid",
        "Affine",
        "ScaledTanh",
    },
)


@pytest.mark.parametrize(
    "name",
    [
        "Relu",
        "Tanh",
        "Sigmoid",
        "Affine",
        "LeakyRelu",
        "ThresholdedRelu",
        "ScaledTanh",
        "HardSigmoid",
        "Elu",
        "Softsign",
        "Softplus",
    ],
)
def test_every_activation_with_and_without_its_numbers(name: str, tmp_path: Path) -> None:
    attributes: dict[str, Any] = {"activations": [name]}
    numbers = ({"activation_alpha": [0.6]} if name in ALPHA else {}) | (
        {"activation_beta": [0.4]} if name in BETA else {}
    )
    model = recurrent("RNN", attributes | numbers)
    compare(model, tmp_path, random_inputs(model, 4, 2))
    model = recurrent("RNN", attributes)
    if name in ("Affine", "ThresholdedRelu", "ScaledTanh"):  # onnxruntime's defaults are zeros, the standard's are not
        with pytest.raises(InputError, match=f"does not tell the alpha of {name}"):
            kind.read(saved(model, tmp_path))
    else:
        compare(model, tmp_path, random_inputs(model, 4, 2))


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_layout_1_is_layout_0_with_the_batch_first(op: str, tmp_path: Path) -> None:
    """onnxruntime refuses layout 1, so the same weights with layout 0 are the judge."""
    options: dict[str, Any] = {"lengths": True, "h": True, "c": op == "LSTM"}
    plain, first = (recurrent(op, {"direction": "bidirectional", "layout": layout}, **options) for layout in (0, 1))
    inputs = random_inputs(plain, 5, 3)
    expected = compare(plain, tmp_path, inputs)(*map(torch.from_numpy, inputs))
    x, lengths, *states = map(torch.from_numpy, inputs)
    module = kind.read(saved(first, tmp_path, "first.onnx")).module
    y, *after = module(x.transpose(0, 1), lengths, *(s.transpose(0, 1) for s in states))
    assert_close(y, expected[0].permute(2, 0, 1, 3), FLOAT32)
    for made, state in zip(after, expected[1:], strict=True):
        assert_close(made, state.transpose(0, 1), FLOAT32)


def test_weights_of_nodes_constant_and_float64(tmp_path: Path) -> None:
    model = recurrent("LSTM", {}, h=True, c=True, dtype=np.float64)
    for tensor in model.graph.initializer:
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[:]
    module = kind.read(saved(model, tmp_path)).module
    single = recurrent("LSTM", {}, h=True, c=True)
    for tensor in single.graph.initializer:
        wide = next(n.attribute[0].t for n in model.graph.node if n.output[0] == tensor.name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(wide).astype(np.float32), tensor.name))
    inputs = [torch.from_numpy(x) for x in random_inputs(model, 4, 2)]
    twin = compare(single, tmp_path, [x.float().numpy() for x in inputs])
    for made, expected in zip(module(*inputs), twin.double()(*inputs), strict=True):
        assert made.dtype == torch.float64
        assert_close(made, expected, FLOAT32)  # the twin's weights have been rounded to float32


def test_the_layers_are_gatewises_own_where_they_can_be(tmp_path: Path) -> None:
    for op, attributes, cls in (
        ("RNN", {"activations": ["Relu"]}, gatewise.RNN),
        ("GRU", {"linear_before_reset": 1}, gatewise.GRU),
        ("GRU", {}, gatewise.GRU),
        ("LSTM", {"direction": "bidirectional"}, gatewise.LSTM),
        ("LSTM", {"input_forget": 1}, gatewise.Recurrent),
    ):
        found = kind.read(saved(recurrent(op, attributes), tmp_path))
        layer = found.module.get_submodule("net_cell.layer")
        assert type(layer) is cls
        assert getattr(layer, "reset_after", True) == bool(op != "GRU" or attributes)
        assert found.mapped[0].source == f"net/cell ({op})"


@needs_data
def test_the_standards_node_cases(tmp_path: Path) -> None:
    paths = sorted((DATA / "onnx_node").glob("*.onnx"))
    if not paths:
        pytest.skip("needs ../shared/data/onnx_node")
    for path in paths:
        model, arrays = onnx.load(path), np.load(path.with_suffix(".npz"))
        weights = [i for i in model.graph.input if i.name in ("W", "R", "B", "P")]
        for given in weights:  # which are inputs there
            model.graph.initializer.append(numpy_helper.from_array(arrays[f"in_{given.name}"], given.name))
            model.graph.input.remove(given)
        if path.stem == "test_gru_defaults":
            with pytest.raises(InputError, match="its weights are inputs, or computed from them"):
                kind.read(path)
        module = kind.read(saved(model, tmp_path)).module
        made = module(*(torch.from_numpy(arrays[f"in_{i.name}"]) for i in model.graph.input))
        made = made if isinstance(made, tuple) else (made,)
        for output, value in zip(model.graph.output, made, strict=True):
            assert_close(value, torch.from_numpy(arrays[f"out_{output.name}"]), FLOAT32, path.stem)


@needs_data
def test_dtlns_first_core(tmp_path: Path) -> None:
    path = DATA / "models/dtln/model_1.onnx"
    if not path.is_file():
        pytest.skip("needs ../shared/data/models/dtln")
    golden, module, runtime = np.load(path.with_name("golden.npz")), kind.read(path).module, kind.runtime(path)
    state, theirs = torch.zeros(1, 2, 128, 2), np.zeros((1, 2, 128, 2), np.float32)
    for frame, mask in zip(golden["mag"], golden["mask"], strict=True):
        x = torch.from_numpy(frame).reshape(1, 1, -1)
        with torch.no_grad():
            y, state = module(x, state)
        expected, theirs = runtime.run([x, theirs])
        assert_close(y, torch.from_numpy(expected), FLOAT32)
        assert_close(state, torch.from_numpy(theirs), FLOAT32)
        assert_close(y.reshape(-1), torch.from_numpy(mask).reshape(-1), FLOAT32)


# --- other operators -----------------------------------------------------------------------------------------

rng = np.random.default_rng(0)
A, I64 = (lambda *s: rng.normal(size=s).astype(np.float32)), (lambda *v: np.array(v, np.int64))


def op(name: str, opset: int, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
    """A model of one node: the first input is x (2, 3, 4, 5) or what is given as an array with a leading "x"."""
    return name, opset, inputs, outputs, attributes


X = "x"
OPERATORS = [
    *(
        op(n, 14, X)
        for n in (
            "Abs",
            "Neg",
            "Exp",
            "Floor",
            "Ceil",
            "Round",
            "Sign",
            "Sin",
            "Cos",
            "Erf",
            "Relu",
            "Sigmoid",
            "Tanh",
            "Softsign",
            "Softplus",
            "Reciprocal",
            "Identity",
            "Selu",
            "Elu",
            "LeakyRelu",
            "HardSigmoid",
            "ThresholdedRelu",
            "HardSwish",
            "GlobalAveragePool",
            "GlobalMaxPool",
        )
    ),
    *(op(n, 14, X, A(3, 1, 5)) for n in ("Add", "Sub", "Mul", "Div", "PRelu", "Max", "Min", "Mean", "Sum")),
    op("Mish", 18, X),
    op("Gelu", 20, X),
    op("Gelu", 20, X, approximate="tanh"),
    op("Celu", 14, X, alpha=0.7),
    op("Selu", 14, X, alpha=1.3, gamma=0.6),
    op("Elu", 14, X, alpha=0.4),
    op("LeakyRelu", 14, X, alpha=0.3),
    op("HardSigmoid", 14, X, alpha=0.3, beta=0.4),
    op("ThresholdedRelu", 14, X, alpha=0.4),
    op("Max", 14, X, A(5), A(4, 1)),
    op("Pow", 14, X, np.float32(3.0)),
    op("MatMul", 14, X, A(2, 3, 5, 4)),
    op("MatMul", 14, X, A(5, 3)),
    op("Softmax", 11, X),
    op("Softmax", 11, X, axis=2),
    op("Softmax", 13, X),
    op("Softmax", 13, X, axis=1),
    op("LogSoftmax", 11, X, axis=2),
    op("LogSoftmax", 13, X),
    op("Clip", 10, X, min=-0.3, max=0.5),
    op("Clip", 12, X, np.float32(-0.3), np.float32(0.5)),
    op("Clip", 12, X, None, np.float32(0.5)),
    op("Clip", 12, X),
    op("Reshape", 14, X, I64(0, -1, 2)),
    op("Reshape", 14, X, I64(6, 20), allowzero=1),
    op("Transpose", 14, X),
    op("Transpose", 14, X, perm=[2, 0, 3, 1]),
    op("Unsqueeze", 11, X, axes=[0, 3]),
    op("Unsqueeze", 13, X, I64(3, -1)),
    op("Flatten", 14, X),
    op("Flatten", 14, X, axis=-1),
    op("Concat", 14, X, A(2, 1, 4, 5), axis=1),
    op("Split", 11, X, outputs=2, axis=2),
    op("Split", 11, X, outputs=2, axis=2, split=[1, 3]),
    op("Split", 13, X, I64(1, 3), outputs=2, axis=-2),
    op("Split", 18, X, outputs=2, axis=3, num_outputs=2),
    op("Slice", 9, X, starts=[0, 1], ends=[-1, 100], axes=[2, 3]),
    op("Slice", 11, X, I64(1, 0), I64(3, 2)),
    op("Slice", 13, X, I64(-1, 3), I64(-100, 0), I64(3, 2), I64(-1, -2)),
    op("Slice", 13, X, I64(1), I64(2**63 - 1), I64(-1), I64(2)),
    op("Gather", 14, X, I64(2, -1, 0), axis=-1),
    op("Gather", 14, X, np.int64(1), axis=2),
    op("Gather", 14, X, I64(0, 1, 1, 0).reshape(2, 2)),
    op("GatherElements", 14, X, rng.integers(-3, 3, (2, 2, 4, 5)), axis=1),
    op("Expand", 14, X, I64(3, 2, 1, 4, 1)),
    op("Tile", 14, X, I64(1, 2, 1, 3)),
    *(
        op(n, 11, X, axes=[1, -1], keepdims=k)
        for k in (0, 1)
        for n in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceSumSquare")
    ),
    op("ReduceMean", 11, X),
    op("ReduceSum", 13, X, I64(1, 3), keepdims=0),
    op("ReduceSum", 13, X),
    op("ReduceSum", 13, X, noop_with_empty_axes=1),
    op("ReduceMax", 18, X, I64(2)),
    op("Pad", 10, X, pads=[0, 0, 1, 2, 0, 1, 0, 3], value=0.7),
    op("Pad", 13, X, I64(0, 0, 1, 2, 0, 1, 0, 3), np.float32(0.7)),
    op("Pad", 13, X, I64(0, 1, 2, 1, 0, 2, 1, 3), mode="reflect"),
    op("Pad", 13, X, I64(0, 1, 2, 1, 0, 2, 1, 3), mode="edge"),
    op("Pad", 18, X, I64(1, 2), np.float32(0.7), I64(-1)),
    op("CumSum", 14, X, np.int64(2)),
    op("CumSum", 14, X, np.int64(-1), exclusive=1, reverse=1),
    op("BatchNormalization", 14, X, A(3), A(3), A(3), np.abs(A(3)) + 0.5, epsilon=0.01),
    op("LayerNormalization", 17, X, A(4, 5), A(4, 5), axis=-2),
    op("LayerNormalization", 17, X, A(5), epsilon=0.1),
    op("Conv", 14, X, A(4, 3, 2, 3), A(4), pads=[1, 0, 2, 1], strides=[2, 1], dilations=[1, 2]),
    op("Conv", 14, X, A(6, 1, 3, 3), group=3, auto_pad="SAME_LOWER", strides=[2, 2]),
    op("Conv", 14, X, A(4, 3, 3, 2), auto_pad="SAME_UPPER", kernel_shape=[3, 2]),
    op("MaxPool", 14, X, kernel_shape=[2, 3], pads=[1, 1, 0, 1], strides=[1, 2]),
    op("MaxPool", 14, X, kernel_shape=[2, 2], auto_pad="SAME_UPPER", strides=[2, 2]),
    op("AveragePool", 14, X, kernel_shape=[2, 3], pads=[1, 0, 0, 1]),
    op("AveragePool", 14, X, kernel_shape=[2, 3], pads=[1, 1, 0, 1], count_include_pad=1, strides=[2, 1]),
    op("Dropout", 13, X),
    op("Dropout", 10, X, ratio=0.3),
    op("Einsum", 14, X, A(5, 2), equation="bcij,jk->bkic"),
    op("Mod", 14, X, A(5), fmod=1),
]


@pytest.mark.parametrize(
    "case", OPERATORS, ids=lambda c: f"{c[0]}-{c[1]}-{len(c[2])}-{','.join(map(str, c[4].values()))}"
)
def test_an_operator_is_what_onnxruntime_runs(case: Any, tmp_path: Path) -> None:
    name, opset, inputs, outputs, attributes = case
    names = ["" if v is None else "x" if v is X else f"w{k}" for k, v in enumerate(inputs)]
    weights = {n: np.asarray(v) for n, v in zip(names, inputs, strict=True) if n.startswith("w")}
    results = [f"y{k}" for k in range(outputs)]
    nodes = [helper.make_node(name, names, results, **attributes)]
    model = model_of(nodes, {"x": ("f", (2, 3, 4, 5))}, results, weights, opset)
    compare(model, tmp_path, [A(2, 3, 4, 5)])


def test_a_net_with_shapes_that_it_computes(tmp_path: Path) -> None:
    """Embedding, LSTM, attention-like arithmetic on sizes, Gemm: what exporters of other frameworks write."""
    node = helper.make_node
    lstm = recurrent("LSTM", {"direction": "bidirectional"}, I=4, h=True, c=True)
    weights = {t.name: numpy_helper.to_array(t) for t in lstm.graph.initializer}
    weights |= {
        "E": A(7, 4),
        "D": A(5, 6),
        "d": A(5),
        "m1": I64(-1),
        "two": I64(2),
        "three": I64(3),
        "one": I64(1),
        "zero": I64(0),
    }
    weights |= {
        "half": np.float32(0.5),
        "depth": np.int64(5),
        "onoff": A(2),
        "s0": np.int64(0),
        "s1": np.int64(1),
        "axes": I64(0),
    }
    nodes = [
        node("Gather", ["E", "tokens"], ["X"]),
        node("Shape", ["tokens"], ["TB"]),
        node("Gather", ["TB", "one"], ["B1"]),
        node("Concat", ["two", "B1", "three"], ["size"], axis=0),
        node("ConstantOfShape", ["size"], ["initial_h"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.25])),
        node("Expand", ["half", "size"], ["initial_c"]),
        node(
            "LSTM",
            ["X", "W", "R", "B", "", "initial_h", "initial_c"],
            ["Y", "Y_h"],
            hidden_size=3,
            direction="bidirectional",
        ),
        node("Transpose", ["Y"], ["Yt"], perm=[0, 2, 1, 3]),
        node("Reshape", ["Yt", "flat"], ["Yr"]),
        node("Reshape", ["Yr", "rows"], ["rows_of"]),
        node("Gemm", ["rows_of", "D", "d"], ["scores"], transB=1, alpha=0.5, beta=2.0),
        node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0),
        node("OneHot", ["best", "depth", "onoff"], ["chosen"]),
        node("Greater", ["scores", "half"], ["where"]),
        node("Where", ["where", "scores", "chosen"], ["picked"]),
        node("Gather", ["TB", "s0"], ["T0"]),
        node("Range", ["s0", "T0", "s1"], ["steps"]),
        node("Cast", ["steps"], ["numbers"], to=1),
        node("ReduceMean", ["numbers"], ["mean"], keepdims=0),
        node("Mul", ["picked", "mean"], ["result"]),
        node("Squeeze", ["first"], ["last"], axes=[0]),
        node("Slice", ["Y_h", "m1", "two", "axes"], ["first"]),
    ]
    nodes[-1], nodes[-2] = nodes[-2], nodes[-1]
    weights |= {"flat": I64(0, 0, 6), "rows": I64(-1, 6)}
    model = model_of(nodes, {"tokens": ("i", ("T", "B"))}, ["result", "last", "Y_h"], weights, 12)
    for steps, batch in ((5, 3), (1, 1), (8, 2)):
        module = compare(model, tmp_path, [rng.integers(0, 7, (steps, batch))])
    assert module.specs[0].shape == ("T", "B")
    assert module.specs[0].high == 7


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (helper.make_node("Hardmax", ["x"], ["y"]), "Hardmax 'n': this operator is not known here"),
        (
            helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2], ceil_mode=1),
            "MaxPool 'n': its attribute ceil_mode = 1",
        ),
        (helper.make_node("MaxPool", ["x"], ["y", "places"], kernel_shape=[2]), "MaxPool 'n': its output 'places'"),
        (helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft"), "Gelu 'n': an operator of com.microsoft"),
        (helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING), "Cast 'n': its attribute to = 8"),
    ],
    ids=str,
)
def test_what_is_not_known_is_left_by_name_and_the_layers_are_there(node: Any, why: str, tmp_path: Path) -> None:
    model = recurrent("GRU", {"linear_before_reset": 1}, outputs=["Y"])
    node.name, node.input[0], node.output[0] = "n", "Y", "Z"
    model.graph.node.append(node)
    model.graph.node.append(helper.make_node("Relu", ["Z"], ["last"]))
    model.graph.output[0].name = "last"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    module = kind.read(saved(model, tmp_path)).module
    assert isinstance(module, Layers)
    assert list(module) == ["net/cell"]
    assert list(module.left) == [why]
    (layer,) = gatewise.convert.layers(tmp_path / "model.onnx").values()
    assert layer is not None
    x = torch.from_numpy(random_inputs(model, 4, 2)[0])
    expected = kind.runtime(saved(recurrent("GRU", {"linear_before_reset": 1}), tmp_path)).run([x])
    for made, theirs in zip(module["net/cell"](x), expected, strict=True):
        assert_close(made.detach(), torch.from_numpy(theirs), FLOAT32)


# --- what is refused ------------------------------------------------------------------------------------------


def changed(model: Any, name: str, array: np.ndarray) -> Any:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return model


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (lambda: recurrent("GRU", {"activations": ["Sigmoid", "Swish"]}), "activation 'Swish' is unknown"),
        (lambda: recurrent("GRU", {"activations": ["Sigmoid"]}), "1 activations, expected 2 for forward"),
        (
            lambda: recurrent(
                "LSTM", {"activations": ["Sigmoid", "Tanh", "LeakyRelu"], "activation_alpha": [0.1, 0.2, 0.3]}
            ),
            "activation_alpha has 3 numbers, expected 1",
        ),
        (
            lambda: recurrent("LSTM", {"hidden_size": 4}),
            r"W has shape \(1, 12, 2\), expected \(1, 16, 2\) for hidden_size 4",
        ),
        (lambda: changed(recurrent("LSTM", {}), "B", A(1, 12)), r"B has shape \(1, 12\), expected \(1, 24\)"),
        (lambda: changed(recurrent("LSTM", {}), "R", A(1, 12, 4)), r"R has shape \(1, 12, 4\), expected \(1, 12, 3\)"),
        (lambda: changed(recurrent("RNN", {}), "W", A(2, 3, 2)), r"W has shape \(2, 3, 2\), expected \(1, 3, 2\)"),
        (
            lambda: changed(recurrent("RNN", {}), "B", A(1, 6).astype(np.float64)),
            "B is torch.float64, W is torch.float32",
        ),
        (lambda: recurrent("RNN", {"direction": "sideways"}), "direction 'sideways'"),
        (lambda: recurrent("RNN", {"layout": 2}), "layout 2"),
        (lambda: recurrent("GRU", {"clip": -1.0}), "clip is -1.0, expected a number above 0"),
    ],
)
def test_contradictions_are_refused(model: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=why) as caught:
        kind.read(saved(model(), tmp_path))
    assert "\n" not in str(caught.value)


def external(location: str, **entries: int) -> Any:
    model = recurrent("GRU", {})
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    return model


def test_tensors_beside_the_model_are_read_from_its_folder_alone(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "weights").mkdir(parents=True)
    plain = recurrent("GRU", {})
    data = plain.graph.initializer[0].raw_data
    (folder / "weights/w.bin").write_bytes(b"\0" * 8 + data + b"\0")
    (tmp_path / "secret.bin").write_bytes(data)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    found = kind.read(saved(external("weights/w.bin", offset=8, length=len(data)), folder)).module
    x = torch.from_numpy(random_inputs(plain, 4, 2)[0])
    for made, expected in zip(found(x), kind.runtime(saved(plain, folder)).run([x]), strict=True):
        assert_close(made.detach(), torch.from_numpy(expected), FLOAT32)
    for location, why in (
        ("../secret.bin", "not in the model's folder"),
        (str(tmp_path / "secret.bin"), "not in the model's folder"),
        ("link.bin", "not in the model's folder"),
        ("weights/../../secret.bin", "not in the model's folder"),
        ("..\\secret.bin", "not in the model's folder"),
        ("", "not in the model's folder"),
        ("absent.bin", "there is no such file"),
        ("weights", "there is no such file"),
    ):
        for use in (kind.read, kind.runtime):
            with pytest.raises(InputError, match=why):
                use(saved(external(location), folder))
    for entries in ({"offset": 8, "length": 10**9}, {"offset": -1}, {"offset": 10**9}, {"length": -1}):
        with pytest.raises(InputError, match="sizes that don't fit"):
            kind.read(saved(external("weights/w.bin", **entries), folder))
    with pytest.raises(InputError, match="raw_data size"):
        kind.read(saved(external("weights/w.bin", offset=8, length=4), folder))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    whole = recurrent("LSTM", {}).SerializeToString()
    for data in (b"", b"hello world", os.urandom(200), whole[: len(whole) // 2], whole[:-3], b"\x80\x04\x95" * 20):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"model\.onnx"):
            kind.read(path)
    with pytest.raises(InputError, match="can't be read"):
        kind.read(tmp_path / "absent.onnx")
    model = recurrent("LSTM", {})
    model.graph.initializer[0].dims[1] = 2**40
    with pytest.raises(InputError, match=r"model\.onnx"):
        kind.read(saved(model, tmp_path))
    model = recurrent("LSTM", {})
    model.graph.node[0].input[0] = "nothing"
    with pytest.raises(InputError, match="no valid ONNX model"):
        kind.read(saved(model, tmp_path))
    with pytest.raises(InputError, match="leave like= out"):
        kind.read(saved(recurrent("LSTM", {}), tmp_path), torch.nn.Linear(1, 1))


def test_a_model_that_would_fill_the_memory_is_not_computed_while_it_is_read(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Expand", ["one", "size"], ["large"]),
        helper.make_node("MatMul", ["large", "wide"], ["larger"]),
        helper.make_node("ReduceSum", ["larger"], ["sum"]),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    weights = {"one": A(1, 1), "size": I64(2**20, 1), "wide": A(1, 2**18)}
    module = kind.read(saved(model_of(nodes, {"x": ("f", ("B",))}, ["y"], weights, 12), tmp_path)).module
    assert sum(b.numel() for b in module.buffers()) < 2**22


def test_a_thrown_dice_is_not_exact(tmp_path: Path) -> None:
    model = model_of(
        [helper.make_node("Dropout", ["x", "", "on"], ["y"])], {"x": ("f", (2, 3))}, ["y"], {"on": np.array(True)}, 13
    )
    with pytest.raises(
        InputError, match=r"no recurrent layer that is known here: Dropout 'dropout_0': .*training_mode"
    ):
        kind.read(saved(model, tmp_path))


def test_odd_names_are_names(tmp_path: Path) -> None:
    """Of Python's own, of methods, and what would be code if it were pasted into any."""
    node, code = helper.make_node, "x): pass\nimport os  #"
    nodes = [
        node("Relu", ["self"], ["__class__"]),
        node("Tanh", ["__class__"], ["forward"], name="training"),
        node("Add", ["forward", code], ["_forward"], name="import os"),
        node("Add", ["_forward", "w.1"], ["y_1"]),
        node("Add", ["y_1", "w-1"], ["y"]),
    ]
    weights = {"w.1": A(3), "w-1": A(3)}
    compare(model_of(nodes, {"self": ("f", (2, 3)), code: ("f", (3,))}, ["y"], weights, 14), tmp_path, [A(2, 3), A(3)])


def test_odd_constants_are_refused_by_name(tmp_path: Path) -> None:
    add = helper.make_node("Add", ["x", "c"], ["y"])
    for opset, nodes, why in (
        (14, [helper.make_node("Constant", [], ["c"]), add], "Constant 'constant_0': its attributes are none"),
        (99, [helper.make_node("Add", ["x", "x"], ["y"])], "an operator of version 99, expected 7 to 28"),
    ):
        with pytest.raises(InputError, match=why):
            kind.read(saved(model_of(nodes, {"x": ("f", (3,))}, ["y"], {}, opset), tmp_path))
    node = helper.make_node("OneHot", ["x", "depth", "values"], ["y"])
    for depth in (np.float32(np.inf), np.int64(-5), np.int64(2**40)):
        model = model_of([node], {"x": ("i", (3,))}, ["y"], {"depth": depth, "values": A(2)}, 14)
        assert kind.read(saved(model, tmp_path)).module.specs[0].high == 0


def test_a_long_graph_is_read_in_time_that_grows_with_its_length(tmp_path: Path) -> None:
    """Names that differ in what Python has no letters for get numbers; each is looked for once."""
    count = 1500
    nodes = [helper.make_node("Add", [f"v{k}", "w" + "." * k], [f"v{k + 1}"]) for k in range(count)]
    weights = {"w" + "." * k: A(1) for k in range(count)} | {"w_1": A(1)}
    model = model_of(nodes, {"v0": ("f", (3,))}, [f"v{count}"], weights, 14)
    path = saved(model, tmp_path)
    taken = []

    class Names(set):  # type: ignore[type-arg]
        def __contains__(self, name: object) -> bool:
            taken.append(name)
            return super().__contains__(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gatewise.convert.network.set", Names, raising=False)
        module = kind.read(path).module
    assert len(dict(module.named_buffers())) == count
    assert len(taken) < 3 * count
