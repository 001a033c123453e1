"""A torch module as an ONNX file: torch.onnx.export with names, any number of steps and samples, and one file."""

from __future__ import annotations

import json
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gatewise.convert.arrays import ours
from gatewise.convert.network import Spec
from gatewise.convert.onnx.export import native
from gatewise.convert.onnx.files import LIMIT
from gatewise.convert.report import Conversion, Mapped
from gatewise.errors import InputError, one_line
from gatewise.layer import Layer
from gatewise.single_step import SingleStep
from gatewise.tasks.models import evaluating
from gatewise.tasks.run import write as write_whole
from gatewise.tasks.text import LanguageModel


class _Flat(nn.Module):
    """A module whose inputs and outputs are tensors in a row."""

    def __init__(self, module: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(pytree.tree_leaves(self.call(self.module, *inputs)))


def write(
    module: nn.Module, path: Path, *, example: Sequence[Tensor] | None = None, opset: int | None = None
) -> Conversion:
    """A module as an ONNX file, as it computes in evaluation mode, for any number of steps and samples.

    Args:
        module: a recurrent layer of gatewise's or torch.nn's: inputs x and, by its states' names, h_0 (c_0 …), outputs
            output and h_n (c_n …), shaped as the layer has them; a cell of one step has no output. A language model of
            `gatewise train text`: the same, x (T, B) characters as numbers and scores (T, B, V) of the next ones in
            place of output. A model that `gatewise.convert.load` gave. Any other module that takes and gives tensors,
            with `example`.
        path: the file to write; whole or not at all.
        example: for another module its inputs, of two or more steps and samples. Their first two axes may then vary,
            as far as the module's arithmetic lets them; the notes say which do.
        opset: the version of ONNX's operators; the exporter's own, if not given.

    Returns: what became what: each recurrent layer its nodes.

    Raises: InputError: the module has something that ONNX or torch's exporter has not, or is larger than one file may
        be; `example` is missing, or given for a module that tells its inputs.
    """
    layer, call, specs, outputs = _signature(module)
    if (example is None) != (specs is not None):
        wants = "tells its inputs; leave example= out" if specs is not None else "needs example=(tensors), its inputs"
        raise InputError(f"{type(module).__name__} {wants}")
    if specs is not None:
        inputs, axes = _examples(specs, layer)
        names = [spec.name for spec in specs]
    else:
        inputs = tuple(example or ())
        if not all(isinstance(x, Tensor) for x in inputs):
            raise InputError(f"example is {[type(x).__name__ for x in inputs]}, expected tensors, one for each input")
        axes = [dict.fromkeys(range(min(2, x.dim())), torch.export.Dim.AUTO) for x in inputs]
        names = [] if len(inputs) == 0 else [f"input_{k}" for k in range(len(inputs))] if len(inputs) > 1 else ["x"]
    made = _exported(_Flat(layer, call), inputs, axes, names, outputs, opset, type(module).__name__)
    model = _tidied(made)
    if model.ByteSize() > LIMIT:
        raise InputError(f"{type(module).__name__} has {model.ByteSize()} bytes, and an ONNX file at most {LIMIT}")
    if isinstance(module, LanguageModel):  # without which the numbers mean nothing
        onnx.helper.set_model_props(model, {"vocabulary": json.dumps(list(module.vocabulary.tokens))})
    write_whole(path, model.SerializeToString())
    return Conversion(module, "ONNX", _mapped(layer), (), _notes(model))


def _signature(module: nn.Module) -> tuple[nn.Module, Callable[..., Any], list[Spec] | None, list[str]]:
    """The module that runs, how it is called with tensors in a row, its inputs, and its outputs' names."""
    if isinstance(module, (Layer, nn.RNNBase, nn.RNNCellBase)):
        layer = ours(module)
        if isinstance(layer, SingleStep):
            x = Spec("x", ("B", layer.input_size), layer._weight.dtype)
            before = [Spec(f"{s}_0", ("B", layer.hidden_size), x.dtype) for s in layer.cell.states]
            return layer, _call_with_states, [x, *before], [f"{s}_n" for s in layer.cell.states]
        shape: tuple[int | str, ...] = ("B", "T") if layer.batch_first else ("T", "B")
        x = Spec("x", (*shape, layer.input_size), layer._weight.dtype)
        return layer, _call_with_states, [x, *_states(layer)], ["output", *(f"{s}_n" for s in layer.cell.states)]
    if isinstance(module, LanguageModel):
        layer = module.layer
        x = Spec("x", ("T", "B"), torch.int64, high=layer.input_size)
        return module, _call_with_states, [x, *_states(layer)], ["scores", *(f"{s}_n" for s in layer.cell.states)]
    specs = getattr(module, "specs", None)
    return module, lambda module, *inputs: module(*inputs), None if specs is None else list(specs), []


def _call_with_states(module: nn.Module, x: Tensor, *states: Tensor) -> Any:
    return module(x, states[0] if len(states) == 1 else states)


def _states(layer: Layer) -> list[Spec]:
    shapes = [(shape[0], "B", shape[2]) for shape in layer.state_shapes(1)]
    return [Spec(f"{s}_0", shape, layer._weight.dtype) for s, shape in zip(layer.cell.states, shapes, strict=True)]


def _examples(specs: Sequence[Spec], module: nn.Module) -> tuple[tuple[Tensor, ...], list[dict[int, Any]]]:
    """Inputs to export with, and which of their axes may vary."""
    names = list(dict.fromkeys(size for spec in specs for size in spec.shape if isinstance(size, str)))
    plain = [re.sub(r"\W", "_", name, flags=re.ASCII) for name in names]
    unique = [name if name.isidentifier() and plain.count(name) == 1 else f"axis_{k}" for k, name in enumerate(plain)]
    dims = {name: torch.export.Dim(made, min=1) for name, made in zip(names, unique, strict=True)}
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    inputs = []
    for spec in specs:
        shape = [size if isinstance(size, int) else 3 + names.index(size) for size in spec.shape]
        if spec.dtype.is_floating_point:
            inputs.append(torch.randn(shape, device=device).to(spec.dtype))
        else:
            inputs.append(
                (torch.arange(math.prod(shape), device=device) % (spec.high or 2)).reshape(shape).to(spec.dtype)
            )
    axes = [{k: dims[size] for k, size in enumerate(spec.shape) if isinstance(size, str)} for spec in specs]
    return tuple(inputs), axes


def _exported(
    module: nn.Module, inputs: tuple[Tensor, ...], axes: Sequence[dict[int, Any]], names: Sequence[str],
    outputs: Sequence[str], opset: int | None, what: str,
) -> onnx.ModelProto:  # fmt: skip
    try:
        with evaluating(module), _quiet(), torch.no_grad():
            if not outputs:
                count = len(module(*inputs))
                outputs = ["output"] if count == 1 else [f"output_{k}" for k in range(count)]
            program = torch.onnx.export(
                module, inputs, dynamo=True, verbose=False, opset_version=opset, input_names=list(names),
                output_names=list(outputs), dynamic_shapes={"inputs": tuple(axes)},
            )  # fmt: skip
            assert program is not None
            return program.model_proto
    except (torch.onnx.errors.OnnxExporterError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise InputError(f"{what} can't be written as ONNX: {_short(cause)}") from error


def _short(error: BaseException) -> str:
    line = one_line(Exception(str(error).split("\n\n")[0]))
    return line if len(line) <= 300 else f"{line[:300]}…"


@contextmanager
def _quiet() -> Iterator[None]:
    """Within: what torch's exporter says of itself and of absent packages is not shown."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for module in (r"torch\.onnx", r"torch\.export", r"torch\._export", "onnxscript", "onnx_ir", "copyreg"):
                warnings.filterwarnings("ignore", module=module)
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without what the exporter tells of the source: paths, stack traces, versions."""
    model.producer_name, model.producer_version = "gatewise", ""
    del model.metadata_props[:]

    def tidy(graph: onnx.GraphProto) -> None:
        for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
            del part.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    tidy(attribute.g)

    tidy(model.graph)
    found = [node for node in model.graph.node if node.op_type in ("RNN", "GRU", "LSTM", "Scan")]
    for k, node in enumerate(found):
        node.name = f"{node.op_type.lower()}_{k}"
    onnx.checker.check_model(model)
    return model


def _mapped(module: nn.Module) -> list[Mapped]:
    made = []
    for name, layer in module.named_modules():
        if isinstance(layer, Layer):
            found = native(layer.cell.expected)
            count = layer.num_layers * (1 if found or not layer.bidirectional else 2)
            kind = f"{type(layer).__name__} of {layer.cell.name}"
            how = f"gates {' '.join(layer.cell.gates)} here are {' '.join(found[0].gates)} of ONNX" if found else (
                "the body is one step of the cell's graph"
            )  # fmt: skip
            target = f"{count} {found[0].op if found else 'Scan'} node{'s' * (count > 1)}"
            made.append(Mapped(f"{name} ({kind})" if name else kind, target, how))
    return made


def _notes(model: onnx.ModelProto) -> list[str]:
    notes = [f"operators of version {next(entry.version for entry in model.opset_import if not entry.domain)}"]
    for what, values in (("reads", model.graph.input), ("gives", model.graph.output)):
        for value in values:
            sizes = [d.dim_param or str(d.dim_value) for d in value.type.tensor_type.shape.dim]
            kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
            notes.append(f"{what} {value.name} {kind} ({', '.join(sizes)})")
    return notes
