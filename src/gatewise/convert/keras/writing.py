"""torch modules -> models and files of Keras 3, which Keras itself saves."""

from __future__ import annotations

import importlib
import inspect
import operator
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from gatewise.convert.keras.back import known
from gatewise.convert.keras.builder import Builder
from gatewise.convert.keras.inputs import Inputs
from gatewise.convert.keras.rows import MODULES
from gatewise.convert.report import Conversion
from gatewise.errors import InputError, MissingPackageError, one_line, require
from gatewise.layer import Layer
from gatewise.tasks.models import evaluating
from gatewise.tasks.run import write as write_whole
from gatewise.tasks.text.model import LanguageModel

Example = Tensor | Sequence[Tensor] | None


def write(module: nn.Module, path: Path, *, example: Example = None, states: bool = False) -> Conversion:
    """Write a module as a file of Keras: whole or not at all.

    Args:
        module: a recurrent layer of gatewise's or torch.nn's, `nn.Sequential`, a model that `load` gave, or any module
            that torch.fx can trace and whose parts Keras has.
        path: `.keras`; `.h5`, of older versions; or `.weights.h5`, which holds no architecture.
        example: a tensor as the module reads it, or one for each of its inputs: where its first layers do not tell
            their shapes, and for integers that mean one-hot vectors. Times and batches may be of any size.
        states: whether the states before the first step are inputs of the model, too, for each layer and direction on
            its own; else they are zeros, unless the module has no default for them.

    Returns: what became what. The model is batch-first, and gives out the states of each layer and direction on their
    own, (B, H), all h before all c.

    Raises:
        InputError: Keras has nothing that computes the same; the text names the part and says why.
        MissingPackageError: Keras 3 is not installed.
    """
    path = Path(path)
    if not path.name.endswith((".keras", ".h5", ".hdf5")):
        raise InputError(f"{path}: expected a name that ends in .keras, .h5 or .weights.h5")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    model, made = build(module, example, states)
    with tempfile.TemporaryDirectory() as folder:
        ending = next(e for e in (".weights.h5", ".keras", path.suffix) if path.name.endswith(e))
        file = Path(folder) / f"model{ending}"
        notes = list(made.notes)
        if ending == ".weights.h5":
            model.save_weights(file)
            notes.append("the file holds weights alone: whoever reads it has to know the architecture")
        else:
            if ending != ".keras":
                _check_old(model, path)
            model.save(file)
            _check(model, file, path)
        write_whole(path, file.read_bytes())
    return Conversion(module, "Keras", made.mapped, made.left, notes)


def to_keras(module: nn.Module, *, example: Example = None, states: bool = False) -> Any:
    """A module as a live model of Keras, `keras.Model`, with copies of its weights.

    Args, Raises: as `write`.
    """
    return build(module, example, states)[0]


def build(module: nn.Module, example: Example, states: bool) -> tuple[Any, Conversion]:
    """The model of Keras, and what became what."""
    keras = library()
    if example is None and isinstance(module, LanguageModel):
        example = torch.zeros(2, 1, dtype=torch.int64)
    whole = _alone(module) if isinstance(module, (Layer, nn.RNNBase)) else module
    graph = traced(whole, states)
    inputs = Inputs(graph, dict(whole.named_modules()), getattr(module, "specs", None), example)
    builder = Builder(keras, whole, graph, inputs, states)
    model = builder.run()
    return model, Conversion(module, "Keras", tuple(builder.mapped), (), tuple(builder.notes))


def library() -> Any:
    """Keras 3, on torch if nothing has imported it yet and nothing says otherwise."""
    require("keras", extra="keras")
    unset = "keras" not in sys.modules and "KERAS_BACKEND" not in os.environ
    if unset:
        os.environ["KERAS_BACKEND"] = "torch"
    try:
        keras = importlib.import_module("keras")
    finally:
        if unset:
            del os.environ["KERAS_BACKEND"]
    if int(keras.__version__.partition(".")[0]) < 3:
        raise MissingPackageError(f'this needs Keras 3, found {keras.__version__}: pip install "gatewise[keras]"')
    return keras


def _alone(layer: nn.Module) -> fx.GraphModule:
    """A module that is one layer, as a module that has it."""
    root, graph, name = nn.Module(), fx.Graph(), type(layer).__name__.lower()
    root.add_module(name, layer)
    graph.output(graph.call_module(name, (graph.placeholder("input"),)))
    return fx.GraphModule(root, graph)


class _Tracer(fx.Tracer):
    """What Keras may have is not looked into: recurrent layers, and torch's modules."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            isinstance(m, (Layer, nn.RNNBase))
            or known(m)
            or type(m) in MODULES
            or super().is_leaf_module(m, module_qualified_name)
        )


def traced(module: nn.Module, states: bool) -> fx.Graph:
    """The module's computation in evaluation, arguments that have defaults left out.

    Raises: InputError: torch.fx cannot trace it.
    """
    if isinstance(module, fx.GraphModule):
        return module.graph
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if parameter.default is not inspect.Parameter.empty and not (states and parameter.default is None)
    }
    try:
        with evaluating(module):
            graph = _Tracer().trace(module, concrete_args=defaults)
    except Exception as error:  # whatever the module's own code raises on what stands for tensors
        raise InputError(
            f"{type(module).__name__}: torch.fx cannot trace it: {one_line(error)}; expected a forward whose path does "
            "not depend on values, or recurrent layers one by one"
        ) from error
    for node in reversed(graph.nodes):
        # What fx checks defaults with.
        unused = node.op == "placeholder" and not node.users and node.name.rpartition("_")[0] in defaults
        if (
            getattr(node.target, "__name__", "") in ("_assert_is_none", "_assert")
            or unused
            or (node.target is operator.eq and not node.users)
        ):
            graph.erase_node(node)
    return graph


def _check_old(model: Any, path: Path) -> None:
    """Refuse what Keras writes into .h5 and cannot read from there."""
    keras = library()
    for layer in getattr(model, "operations", model.layers):
        if not isinstance(layer, keras.layers.Layer):
            raise InputError(
                f"{path}: the older file holds layers alone, and the model has the operation {type(layer).__name__}; "
                "write a .keras file"
            )


def _check(model: Any, file: Path, path: Path) -> None:
    """Read the file again: Keras writes some models that it cannot read."""
    try:
        again = library().saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:
        raise InputError(f"{path}: Keras wrote the model, and cannot read it: {one_line(error)}") from error
    pairs = zip(model.get_weights(), again.get_weights(), strict=True)
    if not all((one == two).all() for one, two in pairs):
        raise InputError(f"{path}: Keras wrote other weights than the model's; write a .keras file")
