"""Files of other frameworks as torch modules, and back: which reader and writer a file gets."""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from gatewise.convert import archive
from gatewise.convert.report import Conversion, Layers, NoRuntime
from gatewise.errors import InputError, MissingPackageError
from gatewise.layer import Layer

if TYPE_CHECKING:
    from gatewise.convert.report import Proof

# The module of each kind of file, which has `read(source, like)`, `write(module, path, …)` and `runtime(source)`; and
# `layer_runtimes(source, names)` where it runs recurrent layers alone.
HOME = {
    "Keras": "gatewise.convert.keras",
    "ONNX": "gatewise.convert.onnx",
    "tensors": "gatewise.convert.tensors",
    "run": "gatewise.convert.runs",
}
ENDINGS = {
    ".keras": "Keras", ".h5": "Keras", ".hdf5": "Keras", ".onnx": "ONNX", ".safetensors": "tensors", ".pt": "tensors",
    ".pth": "tensors", ".npz": "tensors",
}  # fmt: skip

Source = str | os.PathLike[str] | Any


def read(source: Source, like: nn.Module | None = None) -> Conversion:
    """What `load` does, with its report: the module, and what became what.

    Args, Raises: as `load`.
    """
    home = importlib.import_module(HOME[kind_of(source)])
    found = home.read(source, like)
    assert isinstance(found, Conversion)
    return found


def load(source: Source, like: nn.Module | None = None) -> nn.Module:
    """A model of another framework as a torch module, its recurrent layers gatewise's; no code of a file is run.

    Args:
        source: a file of Keras (`.keras`, `.h5`, `.weights.h5`), ONNX (`.onnx`), torch (`.safetensors`, `.pt` with a
            state_dict) or numpy (`.npz`), told by what is in it; the folder of a run that gatewise trained; or a live
            Keras layer or model.
        like: for a file that holds weights but no architecture: the module that they are for, which is filled in and
            returned.

    Returns:
        The model, in evaluation mode. Of a file that has no architecture, without `like`, or of a graph of which
        other parts are unknown here: its recurrent layers by name, as `Layers`, whose `left` tells the rest.

    Raises:
        InputError: the file is absent, damaged, hostile or of no known kind; it holds something that would not be
            exactly the same here; or it does not fit `like`.
        MissingPackageError: a package that reads such files is not installed.
    """
    return read(source, like).module


def layers(source: Source) -> Layers:
    """The recurrent layers of a file by their names there, whatever else is in it.

    Args, Raises: as `load`.
    """
    return recurrent_layers(read(source).module)


def recurrent_layers(module: nn.Module) -> Layers:
    """The recurrent layers of what was read, by name."""
    if isinstance(module, Layers):
        return module
    found = Layers()
    for name, child in module.named_modules():
        if isinstance(child, Layer):
            name = name.removesuffix(".layer")  # of what Keras and ONNX do around a recurrent layer
            found[name.replace(".", "/") or "layer"] = child
    return found


def save(module: nn.Module, path: str | os.PathLike[str], **options: Any) -> Conversion:
    """Write a module as a file of another framework; the path's ending tells which. Written whole or not at all.

    A file of that name is overwritten, as by torch.save, numpy.save, Keras and safetensors: a training saves its model
    under one name again and again. `file` and the command `gatewise convert`, whose target is named once, ask first.

    Args:
        module: a recurrent layer; a model that `load` gave; `nn.Sequential` and other modules as far as the framework
            has what they are made of.
        path: `.keras`, `.h5` (Keras), `.onnx`, `.safetensors`, `.pt`, `.npz`.
        options: of the kind of file; see `gatewise.convert.onnx.write` and `gatewise.convert.keras.write`.

    Returns: what became what.

    Raises:
        InputError: the framework has nothing that computes the same; the ending is unknown.
        MissingPackageError: the package that writes such files is not installed.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module is a {type(module).__name__}, expected a module of torch, and then the path")
    path = Path(path)
    made = importlib.import_module(HOME[kind_of_name(path)]).write(module, path, **options)
    assert isinstance(made, Conversion)
    return made


def file(
    source: Source,
    target: str | os.PathLike[str] | None = None,
    like: nn.Module | None = None,
    *,
    layer: str | None = None,
    seed: int = 0,
    force: bool = False,
    **options: Any,
) -> tuple[Conversion, Conversion | None, Proof]:
    """From one kind of file to another, and the proof: both libraries and gatewise on the same random input.

    Args:
        source, like: as of `load`. target, options: as of `save`; None reads and proves, and writes nothing.
        layer: one of the source's recurrent layers, by its name in `layers`, where it alone is wanted.
        seed: of the proof's random input.
        force: whether a target that is there already is overwritten.

    Returns:
        What became what in reading and in writing, and the proof. Where it failed (`proof.state` is "failed") no
        target is written, and one that was there stays as it was. Where it could not be made ("not proved", for the
        reason in `proof.reason`) the target is written: the writer refuses what is not exact, but nothing else has
        confirmed it.

    Raises:
        InputError, MissingPackageError: as `load` and `save`; the target is there already; or the source tells several
            layers and not the whole, and `layer` does not say which.
    """
    from gatewise.convert.proof import prove, runtime_of  # which imports this module
    from gatewise.tasks.run import write

    path = None if target is None else Path(target)
    if path is not None:
        _check_target(source, path, force)
    found = whole = read(source, like)
    if layer is not None:
        found = _one_layer(whole, layer, source)
    # A layer of a file is proved alone where its own library runs it alone; else within the whole, if that was read.
    home = importlib.import_module(HOME[kind_of(source)])
    alone = hasattr(home, "layer_runtimes") or isinstance(whole.module, Layers)
    first = prove(Layers({layer: found.module}) if layer is not None and alone else whole, source, seed=seed)
    if path is None:
        return found, None, first
    if isinstance(found.module, Layers) and not found.module:
        raise InputError(f"{source} has no recurrent layer that is known here: {'; '.join(found.left) or 'none'}")
    if isinstance(found.module, Layers) and kind_of_name(path) != "tensors":
        names = ", ".join(found.module)
        why = f" ({found.left[0]})" if found.left else ""
        raise InputError(
            f"{source} can't be written whole, since what it is made of is not in it or not known here{why}; "
            f"one of its recurrent layers can, with --layer (layer=): {names}"
        )
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / path.name
        try:
            written = save(found.module, made, **options)
            target_runs: Any = made
            with contextlib.suppress(NoRuntime, MissingPackageError):  # which the proof tells
                target_runs = runtime_of(made)  # what its own library refuses is no file to write
        except InputError as error:
            raise InputError(str(error).replace(str(made), str(path))) from error
        proof = first + prove(found, target_runs, seed=seed)
        if proof.state != "failed":
            write(path, made.read_bytes(), force)
    return found, written, proof


def _one_layer(found: Conversion, name: str, source: Source) -> Conversion:
    """What is read, as one of its recurrent layers alone."""
    every = recurrent_layers(found.module)
    if name not in every:
        raise InputError(f"{source} has no recurrent layer {name!r}, expected one of: {', '.join(every) or 'none'}")
    rest = f"all but {name}: one layer is asked for"
    return Conversion(every[name], found.kind, found.mapped, [*found.left, rest], found.notes)


def _check_target(source: Source, path: Path, force: bool) -> None:
    """What would fail after the reading is better refused before."""
    from gatewise.tasks.run import free

    kind_of_name(path)
    if isinstance(source, (str, os.PathLike)) and Path(source).exists() and path.exists() and path.samefile(source):
        raise InputError(f"{path} is the source itself: give another name to write to")
    free(path, force)


def kind_of_name(path: Path) -> str:
    """The kind of file that a path's ending asks for."""
    kind = ENDINGS.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path}: the ending tells the kind of file, expected one of {', '.join(ENDINGS)}")
    return kind


def kind_of(source: Source) -> str:
    """The kind of a file, by its first bytes where they tell; of a live model, by its class."""
    if not isinstance(source, (str, os.PathLike)):
        home = {cls.__module__.partition(".")[0] for cls in type(source).__mro__}
        if home & {"keras", "tf_keras"}:
            return "Keras"
        raise InputError(
            f"a {type(source).__name__} is no path and no model of Keras; parameters have convert.d2l.from_params, "
            "convert.flax.from_params and convert.from_arrays"
        )
    path = Path(source)
    if path.is_dir():
        return "run"
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "Keras"
    if start.startswith(b"PK"):
        with archive.opened(path) as opened:
            return "Keras" if "config.json" in opened.namelist() else "tensors"
    if start[8:9] == b"{" or start.startswith(b"\x80"):
        return "tensors"  # safetensors, or a pickle, which is refused there with its reason
    if start[:1] == b"\x08" and 0 < int.from_bytes(start[1:2], "big") < 32:
        return "ONNX"  # its first field as everybody writes it: the version of the format
    kind = ENDINGS.get(path.suffix.lower())
    if kind is None or kind == "Keras":
        expected = "HDF5 or a zip archive" if kind == "Keras" else f"one of {', '.join(ENDINGS)}"
        raise InputError(f"{path} is no file that is known here: expected {expected}")
    return kind
