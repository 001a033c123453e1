"""An ONNX model as a torch module: its RNN, GRU and LSTM nodes as layers, the rest as functions of `ops.py`."""

from __future__ import annotations

import inspect
import math
import operator
import os
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, fx, nn

from gatewise.convert.network import Network
from gatewise.convert.onnx import files, sizes
from gatewise.convert.onnx.ops import ONLY, OPS, PLAIN, SIZES
from gatewise.convert.onnx.recurrent import GATES, Weights, recurrent_node
from gatewise.convert.onnx.shapes import ints
from gatewise.convert.report import Conversion, Layers, Mapped
from gatewise.errors import InputError

OLDEST, NEWEST = 7, 28  # versions of the operators: the first with today's broadcasting, the last that was looked at
FOLDED = 2**28  # bytes that are computed while a model is read, at most
Value = fx.Node | Tensor


def read(source: str | os.PathLike[str], like: nn.Module | None = None) -> Conversion:
    """An ONNX model as a torch module.

    Args:
        source: the file; tensors that it keeps in files beside it are read from its folder alone.
        like: not for ONNX, whose files tell the architecture.

    Returns:
        A `torch.fx.GraphModule` with the model's inputs and outputs, a `RecurrentNode` for each RNN, GRU and LSTM. If
        the graph has anything that is not known here: these nodes by name, as `Layers`, and the rest in `left`.

    Raises:
        InputError: the file is damaged or hostile, sizes contradict each other, an activation is unknown; or there is
            something that is not known here, and no layer beside it.
    """
    if like is not None:
        raise InputError("an ONNX file tells its architecture; leave like= out and copy the parameters that you need")
    path = Path(source)
    model = files.load(path)
    found = _Reader(model, path)
    notes = [f"{path.name} was written by {model.producer_name}"] if model.producer_name else []
    if found.left and not found.layers:
        more = f" and {len(found.left) - 3} more" if len(found.left) > 3 else ""
        raise InputError(f"{path} has no recurrent layer that is known here: {'; '.join(found.left[:3])}{more}")
    if found.left:
        layers = Layers(found.layers)
        layers.left = tuple(found.left)
        module: nn.Module = layers.eval()
    else:
        names = [given.name for given in model.graph.output]
        if absent := [name for name in names if name not in found.values]:
            raise InputError(f"{path}: nothing makes the output {absent[0]!r}")
        outputs = [found.node(name) for name in names]
        module = found.network.finish(outputs, model.graph.name or "Model")
    return Conversion(module, "ONNX", found.mapped(), tuple(found.left), notes)


class _Reader:
    """A graph, read node by node."""

    def __init__(self, model: onnx.ModelProto, path: Path) -> None:
        self.path, self.network = path, Network()
        self.values: dict[str, Value | None] = {"": None}  # absent for what a node computes that is left
        self.constants: dict[str, fx.Node] = {}
        self.sizes: dict[str, fx.Node] = {}  # values that are sizes, as integers
        self.layers: dict[str, nn.Module] = {}
        self.left: list[str] = []
        self.recurrent: list[Mapped] = []
        self.counts: Counter[str] = Counter()
        self.folded = 0
        versions = {entry.domain: entry.version for entry in model.opset_import}
        self.opset = versions.get("", versions.get("ai.onnx", 1))
        if model.graph.sparse_initializer:
            self.left.append("weights stored as sparse tensors")
        for tensor in model.graph.initializer:
            try:
                self.values[tensor.name] = files.value(tensor, f"{path}: {tensor.name!r}")
            except NotImplementedError as error:
                self.left.append(f"the tensor {tensor.name!r}: {error}")
        for spec in files.inputs_of(model, path):
            self.values[spec.name] = self.network.input(spec)
        for k, node in enumerate(model.graph.node):
            name = node.name or f"{node.op_type.lower()}_{k}"
            try:
                if node.domain not in ("", "ai.onnx"):
                    raise NotImplementedError(f"an operator of {node.domain}")
                if node.op_type in GATES:
                    self.add_layer(node, name)
                else:
                    self.add(node, name)
            except NotImplementedError as error:
                self.left.append(f"{node.op_type} {name!r}: {error}")

    def mapped(self) -> list[Mapped]:
        counts = self.counts.items()
        return [*self.recurrent, *(Mapped(f"{count} {op}", "a function of torch") for op, count in counts)]

    def node(self, name: str) -> fx.Node:
        """A value as a node of the network; a constant becomes a buffer where it is first read."""
        value = self.values[name]
        if name in self.sizes:  # where a tensor is expected
            return self.network.call(sizes.as_tensor, self.sizes[name])
        if isinstance(value, Tensor):
            if name not in self.constants:
                self.constants[name] = self.network.constant(name, value)
            return self.constants[name]
        assert value is not None
        return value

    def argument(self, name: str) -> fx.Node | None:
        return self.node(name) if name else None

    def add_layer(self, node: onnx.NodeProto, name: str) -> None:
        """An RNN, GRU or LSTM."""
        inputs = [*node.input, *[""] * (8 - len(node.input))]
        x, w, r, b, lengths, h, c, p = inputs
        given = [self.values.get(n) for n in (w, r, b, p)]
        if any(n and not isinstance(value, Tensor) for n, value in zip((w, r, b, p), given, strict=True)):
            raise NotImplementedError(
                "its weights are inputs, or computed from them; a layer's are constants of the file (initializers)"
            )
        made, how = recurrent_node(node.op_type, name, files.attributes_of(node), Weights(*given))  # type: ignore[arg-type]
        self.layers[_free(name, self.layers)] = made
        layer = made.layer
        self.recurrent.append(Mapped(f"{name} ({node.op_type})", f"{type(layer).__name__}({layer.extra_repr()})", how))
        if self._known(node):
            args = [self.node(x), *(self.argument(n) for n in (lengths, h, c))]
            self._give(node, self.network.module(name, made, *args))

    def add(self, node: onnx.NodeProto, name: str) -> None:
        """Any other operator."""
        op, attributes = node.op_type, files.attributes_of(node)
        if not OLDEST <= self.opset <= NEWEST:
            raise NotImplementedError(f"an operator of version {self.opset}, expected {OLDEST} to {NEWEST}")
        if op == "Constant":
            self.values[node.output[0]] = _constant(attributes)
            return
        function = OPS.get(op) or PLAIN.get(op) or sizes.SOURCES.get(op)
        if function is None:
            raise NotImplementedError("this operator is not known here")
        taken = _attributes(op)
        for key, value in attributes.items():
            if key not in taken:
                raise NotImplementedError(f"its attribute {key}")
            allowed = ONLY.get(op, {}).get(key) or ONLY[""].get(key)
            if allowed is not None and value not in allowed:
                raise NotImplementedError(f"its attribute {key} = {value!r}")
        if sum(map(bool, node.output)) > 1 and op != "Split":
            raise NotImplementedError(f"its output {node.output[1]!r}")
        if not self._known(node):
            return  # of something that is left itself
        training = self.values[node.input[2]] if op == "Dropout" and len(node.input) > 2 else None
        if training is not None and not (isinstance(training, Tensor) and not training.any()):
            raise NotImplementedError("its input training_mode, which draws")
        self.counts[op] += 1
        if op in sizes.SOURCES:
            self._give_sizes(node, self.network.call(function, self.node(node.input[0]), **attributes))
        elif (arguments := self._as_sizes(node, attributes)) is not None:
            self._give_sizes(node, self.network.call(sizes.OPS[op], *arguments, **attributes))
        else:
            self._call(node, name, function, attributes, taken)

    def _call(
        self, node: onnx.NodeProto, name: str, function: Callable[..., Any], attributes: dict[str, Any],
        taken: frozenset[str],
    ) -> None:  # fmt: skip
        """An operator on tensors."""
        attributes |= {"opset": self.opset} if "opset" in taken else {}
        attributes |= {"outputs": len(node.output)} if "outputs" in taken else {}
        places = SIZES.get(node.op_type, ())
        values = [self.values[n] for n in node.input]
        lists = [ints(v.reshape(-1)) if k in places and isinstance(v, Tensor) else None for k, v in enumerate(values)]
        if all(v is None or isinstance(v, Tensor) for v in values):
            constants = [v if made is None else made for v, made in zip(values, lists, strict=True)]
            if (result := self._fold(function, constants, attributes)) is not None:
                self.values |= dict(zip(node.output, result, strict=True))
                return
        args: list[Any] = []
        for k, (n, made) in enumerate(zip(node.input, lists, strict=True)):
            of_sizes = k in places and n in self.sizes
            args.append(self.sizes[n] if of_sizes else self.argument(n) if made is None else made)
        attributes = {
            key: self.network.constant(f"{name}_{key}", v) if isinstance(v, Tensor) else v
            for key, v in attributes.items()
        }
        self._give(node, self.network.call(function, *args, **attributes))

    def _as_sizes(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[Any] | None:
        """The arguments of an operator on sizes and constants, if it is one: integers and lists of them."""
        if node.op_type not in sizes.OPS or not any(n in self.sizes for n in node.input):
            return None
        if node.op_type == "Cast" and attributes.get("to") not in (6, 7):
            return None
        arguments: list[Any] = []
        for n in node.input:
            value = self.values[n]
            if isinstance(value, Tensor):
                if value.is_floating_point() or value.dim() > 1:
                    return None
                arguments.append(value.tolist())
            elif n and n not in self.sizes:
                return None
            else:
                arguments.append(self.sizes.get(n))
        return arguments

    def _give_sizes(self, node: onnx.NodeProto, made: fx.Node) -> None:
        self.sizes[node.output[0]] = made
        self.values[node.output[0]] = made

    def _known(self, node: onnx.NodeProto) -> bool:
        return all(n in self.values for n in node.input)

    def _give(self, node: onnx.NodeProto, made: fx.Node) -> None:
        several = node.op_type in GATES or node.op_type == "Split"
        for k, name in enumerate(node.output):
            if name:
                self.values[name] = self.network.call(operator.getitem, made, k) if several else made

    def _fold(
        self, function: Callable[..., Any], values: list[Any], attributes: dict[str, Any]
    ) -> tuple[Tensor, ...] | None:
        """What a function makes of constants; None where it cannot be told beforehand how large that is."""
        meta = [v.to("meta") if isinstance(v, Tensor) else v for v in values]
        attributes_meta = {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in attributes.items()}
        try:
            with torch.device("meta"):
                shapes = function(*meta, **attributes_meta)
        except (RuntimeError, NotImplementedError, ValueError, IndexError, TypeError):
            return None  # it looks at values, or is at fault, which it tells where it runs
        shapes = shapes if isinstance(shapes, tuple) else (shapes,)
        self.folded += sum(math.prod(s.shape) * s.element_size() for s in shapes)
        if self.folded > FOLDED or any(s.device.type != "meta" for s in shapes):
            return None
        try:
            made = function(*values, **attributes)
        except (RuntimeError, ValueError, IndexError):
            return None  # at fault
        return made if isinstance(made, tuple) else (made,)


@lru_cache(maxsize=256)
def _attributes(op: str) -> frozenset[str]:
    """The attributes that an operator's function takes."""
    if op in PLAIN:
        return frozenset()
    parameters = inspect.signature(OPS.get(op) or sizes.SOURCES[op]).parameters.values()
    return frozenset(p.name for p in parameters if p.kind == p.KEYWORD_ONLY)


def _constant(attributes: dict[str, Any]) -> Tensor:
    """What a node Constant holds."""
    key, value = next(iter(attributes.items()), ("", None))
    if len(attributes) != 1 or key not in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        raise NotImplementedError(f"its attributes {', '.join(attributes) or 'are none'}")
    if isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=torch.float32 if "float" in key else torch.int64)


def _free(name: str, taken: Any) -> str:
    """A name that nn.ModuleDict takes."""
    plain = name.replace(".", "_") or "layer"
    while plain in taken or hasattr(nn.ModuleDict, plain):
        plain += "_"
    return plain
