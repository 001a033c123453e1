"""ONNX files, read without trust: what is in them is data, and lies in the model's own folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from gatewise.convert.network import Spec
from gatewise.errors import InputError, one_line

LIMIT = 2**31 - 1  # bytes, the most that protobuf reads; and the most that a model may have in files beside it
DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32, TensorProto.DOUBLE: torch.float64, TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16, TensorProto.INT64: torch.int64, TensorProto.INT32: torch.int32,
    TensorProto.INT16: torch.int16, TensorProto.INT8: torch.int8, TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}  # fmt: skip


def load(path: Path) -> onnx.ModelProto:
    """A model, checked, with the tensors of files beside it inside.

    Raises: InputError: it is absent, too large, damaged or no valid model; or it names a file outside its folder.
    """
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= LIMIT and path.is_file() else b""
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from None
    if size > LIMIT:
        raise InputError(f"{path} has {size} bytes, and an ONNX file at most {LIMIT}: larger ones keep tensors beside")
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise InputError(f"{path} is no ONNX model, or a damaged one: {one_line(error)}") from None
    if not model.ir_version or not model.graph.output or not model.opset_import:
        raise InputError(f"{path} is no ONNX model: it has no version, no operators or no outputs")
    if not all(isinstance(name, str) for name in _names(model.graph)):  # protobuf gives bytes for what is no text
        raise InputError(f"{path} is a damaged ONNX model: it has names that are no text")
    left = LIMIT - size
    for tensor in _tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            left -= _fetch(path, tensor, left)
    # Outputs of unknown rank run everywhere, and only the checker minds.
    kinds = [given.type.tensor_type for given in model.graph.output if given.type.HasField("tensor_type")]
    unknown = [kind for kind in kinds if not kind.HasField("shape")]
    for kind in unknown:
        kind.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is no valid ONNX model: {one_line(error)}") from None
    for kind in unknown:
        kind.ClearField("shape")
    return model


def _names(graph: onnx.GraphProto) -> Iterator[object]:
    """Every name in a graph."""
    yield graph.name
    for part in (*graph.input, *graph.output, *graph.initializer):
        yield part.name
    for given in graph.input:
        yield from (dim.dim_param for dim in given.type.tensor_type.shape.dim)
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Every tensor of a graph and of the graphs within."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for within in (attribute.g, *attribute.graphs):
                yield from _tensors(within)


def _fetch(path: Path, tensor: TensorProto, left: int) -> int:
    """Put a tensor's bytes, which lie in a file beside the model, into the model; how many they are."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    where = f"{path}: the tensor {tensor.name!r} lies in {location!r}"
    folder = path.parent.resolve()
    plain = location and not location.startswith(("/", "\\")) and ".." not in Path(location.replace("\\", "/")).parts
    file = folder / location
    if not plain or "\0" in location or not file.resolve().is_relative_to(folder):
        raise InputError(f"{where}, which is not in the model's folder; only files there are read")
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
    except ValueError:
        raise InputError(f"{where}, at a place that is no number") from None
    if not file.is_file():
        raise InputError(f"{where}, and there is no such file; it belongs to the model")
    size = file.stat().st_size
    length = size - offset if "length" not in entries else length
    if not (offset >= 0 and length >= 0 and offset + length <= size and length <= left):
        raise InputError(f"{where}, {length} bytes from byte {offset} of a file of {size}; sizes that don't fit")
    with file.open("rb") as opened:
        opened.seek(offset)
        tensor.raw_data = opened.read(length)
    del tensor.external_data[:]
    tensor.data_location = TensorProto.DEFAULT
    return length


def value(tensor: TensorProto, what: str) -> torch.Tensor:
    """A tensor of the file.

    Raises: InputError: sizes that don't fit the data. NotImplementedError: numbers that torch does not have.
    """
    if tensor.data_type not in DTYPES:
        known = TensorProto.DataType.items()
        raise NotImplementedError(
            f"numbers of type {({n: k for k, n in known}).get(tensor.data_type, tensor.data_type)}"
        )
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise InputError(f"{what} has sizes {list(tensor.dims)}, which its data don't fit: {one_line(error)}") from None
    if DTYPES[tensor.data_type] == torch.bfloat16:
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(np.array(array, order="C"))


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python's values; tensors as torch's, graphs as they are."""
    found = {}
    for attribute in node.attribute:
        given = helper.get_attribute_value(attribute)
        if isinstance(given, bytes):
            given = given.decode("utf-8", "replace")
        elif isinstance(given, TensorProto):
            given = value(given, f"{node.op_type} {node.name!r}: {attribute.name}")
        elif isinstance(given, Sequence):
            given = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in given]
        found[attribute.name] = given
    return found


def inputs_of(model: onnx.ModelProto, path: Path) -> list[Spec]:
    """What a model reads, its weights left out."""
    weights = {tensor.name for tensor in model.graph.initializer}
    highs = _highs(model.graph)
    specs = []
    for given in model.graph.input:
        kind = given.type.tensor_type
        if given.name in weights:
            continue  # up to version 3 of the format weights were listed here, too
        if not given.type.HasField("tensor_type") or kind.elem_type not in DTYPES:
            raise InputError(f"{path}: the input {given.name!r} is no tensor of numbers")
        if not kind.HasField("shape"):
            raise InputError(f"{path}: the input {given.name!r} does not tell how many axes it has")
        shape = [
            int(d.dim_value) if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param or f"{given.name}_{k}"
            for k, d in enumerate(kind.shape.dim)
        ]
        dtype = DTYPES[kind.elem_type]
        specs.append(Spec(given.name, tuple(shape), dtype, 0 if dtype.is_floating_point else highs.get(given.name, 0)))
    return specs


def _highs(graph: onnx.GraphProto) -> dict[str, int]:
    """By the inputs that are indices, the first that is too large: they gather rows of a constant, or are one-hot."""
    constants = {t.name: t for t in graph.initializer}
    constants |= {
        n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    }
    origin = {given.name: given.name for given in graph.input if given.name not in constants}
    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in ("Cast", "Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"):
            if node.input[0] in constants and node.op_type == "Transpose":
                perm = {a.name: list(a.ints) for a in node.attribute}.get("perm")
                dims = constants[node.input[0]].dims
                order = perm or list(range(len(dims)))[::-1]
                constants[node.output[0]] = TensorProto(dims=[dims[k] for k in order if k < len(dims)])
            elif node.input[0] in origin:
                origin[node.output[0]] = origin[node.input[0]]
        elif node.op_type == "Gather" and node.input[0] in constants and node.input[1] in origin:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            dims = constants[node.input[0]].dims
            if -len(dims) <= axis < len(dims):
                found.setdefault(origin[node.input[1]], dims[axis])
        elif node.op_type == "OneHot" and node.input[0] in origin and node.input[1] in constants:
            depth = numpy_helper.to_array(constants[node.input[1]]).reshape(-1)
            if depth.size == 1 and 0 < depth[0] <= 2**31:
                found.setdefault(origin[node.input[0]], int(depth[0]))
        elif node.op_type == "Equal" and node.input[0] in origin and node.input[1] in constants:
            numbers = numpy_helper.to_array(constants[node.input[1]])  # one-hot, as torch's exporter writes it
            if numbers.ndim == 1 and np.array_equal(numbers, np.arange(numbers.size)):
                found.setdefault(origin[node.input[0]], numbers.size)
    return found
