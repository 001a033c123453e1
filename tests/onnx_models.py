"""ONNX models for the tests, built by hand, and onnxruntime to run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TYPES = {
    "f": TensorProto.FLOAT,
    "i": TensorProto.INT64,
    "s": TensorProto.INT32,
    "d": TensorProto.DOUBLE,
    "b": TensorProto.BOOL,
}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
NAMES = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


def model_of(
    nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, tuple[str, Sequence[Any]]], outputs: Sequence[str],
    weights: Mapping[str, np.ndarray] | None = None, opset: int = 14, ir: int = 8,
) -> onnx.ModelProto:  # fmt: skip
    """A model; inputs by name: the letter of their type, and their shape."""
    graph = helper.make_graph(
        nodes, "test",
        [helper.make_tensor_value_info(n, TYPES[kind], shape) for n, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None) for n in outputs],
        [numpy_helper.from_array(w, n) for n, w in (weights or {}).items()],
    )  # fmt: skip
    for output in graph.output:
        output.ClearField("type")
        output.type.tensor_type.elem_type = TensorProto.FLOAT
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def recurrent(
    op: str, attributes: Mapping[str, Any], *, I: int = 2, H: int = 3, bias: bool = True, peepholes: bool = False,
    lengths: bool = False, h: bool = False, c: bool = False, seed: int = 0, outputs: Sequence[str] = (),
    dtype: Any = np.float32, opset: int = 14,
) -> onnx.ModelProto:  # fmt: skip
    """A model of one recurrent node with random weights, all different and not zero; T and B are dynamic."""
    random = np.random.default_rng(seed)
    D, G = 2 if attributes.get("direction") == "bidirectional" else 1, GATES[op]
    shapes = {"W": (D, G * H, I), "R": (D, G * H, H)} | ({"B": (D, 2 * G * H)} if bias else {})
    shapes |= {"P": (D, 3 * H)} if peepholes else {}
    weights = {n: random.normal(0, 0.7, s).astype(dtype) for n, s in shapes.items()}
    kind = "f" if dtype == np.float32 else "d"
    first = attributes.get("layout", 0)
    inputs: dict[str, tuple[str, Sequence[Any]]] = {"X": (kind, ("B", "T", I) if first else ("T", "B", I))}
    inputs |= {"sequence_lens": ("s", ("B",))} if lengths else {}
    state = (kind, ("B", D, H) if first else (D, "B", H))
    inputs |= ({"initial_h": state} if h else {}) | ({"initial_c": state} if c else {})
    there = {*weights, *inputs}
    names = [n if n in there else "" for n in NAMES]
    while not names[-1]:
        names.pop()
    given = list(outputs or ["Y", "Y_h", *(["Y_c"] if op == "LSTM" else [])])
    node = helper.make_node(op, names, given, name="net/cell", **{"hidden_size": H, **attributes})
    return model_of([node], inputs, [n for n in given if n], weights, opset)


def saved(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path
