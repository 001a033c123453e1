"""A file of Keras's, or a live layer or model, as its configuration and its arrays; nothing in it is trusted or run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

from torch import Tensor

from gatewise.convert import archive
from gatewise.convert.arrays import tensor
from gatewise.convert.keras import apart
from gatewise.convert.keras.hdf5 import FLOOR, GROWTH
from gatewise.errors import InputError, one_line, require

WEIGHTS = "model.weights.h5"
SMALL = 1 << 20  # what the other members of an archive may unpack to, however few bytes they are


@dataclass(frozen=True)
class Contents:
    """What is in a file.

    name: of the file or object. config: {"class_name", "config"} of the model, or None. version: Keras's, as it wrote
    it, such as "2.2.4-tf", or "". tree: arrays by the path of their owner, as Keras 3 stores them. flat: arrays by
    layer, in order, with their names, as Keras 2 stores them. One of the two is empty.
    """

    name: str
    config: dict[str, Any] | None
    version: str
    tree: dict[str, list[Tensor]] = field(default_factory=dict)
    flat: dict[str, list[tuple[str, Tensor]]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)  # the names of layers by path, where the tree tells them

    @property
    def second(self) -> bool:
        """Whether Keras 2 wrote it, in which some things mean something else."""
        return not re.match(r"[3-9]|\d\d", self.version) if self.version else not self.tree

    @property
    def multi_backend(self) -> bool:
        """Whether it is of Keras 2 before it was a part of TensorFlow."""
        numbers = tuple(map(int, re.findall(r"\d+", self.version)[:2]))
        return self.second and "tf" not in self.version and numbers < (2, 4)


def contents(source: Any) -> Contents:
    """What is in a file, or in a live layer or model.

    Raises: InputError: it is damaged, hostile, or not Keras's. MissingPackageError: h5py is not installed.
    """
    if not isinstance(source, (str, os.PathLike)):
        return _live(source)
    path = Path(source)
    require("h5py", extra="keras")
    try:
        if is_archive(path):
            return _archive(path)
        with open(path, "rb") as file:
            return _hdf5(file, path.name, None, "")
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, expected a file of Keras") from None


def _archive(path: Path) -> Contents:
    """A .keras file."""
    unpacked = members(path)
    config = parsed(unpacked["config.json"], f"config.json of {path.name}")
    metadata = parsed(unpacked.get("metadata.json", b"{}"), f"metadata.json of {path.name}")
    version = metadata.get("keras_version")
    with on_disk(unpacked.pop(WEIGHTS)) as file:
        return _hdf5(file, path.name, config, version if isinstance(version, str) else "")


def is_archive(path: Path) -> bool:
    """Whether a file is a .keras file, or else HDF5."""
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def members(path: Path) -> dict[str, bytes]:
    """What a .keras file holds of what is read, unpacked.

    Raises: InputError: it is damaged or hostile.
    """
    with archive.opened(path) as opened:
        infos = archive.entries(opened, path)
        for name in infos:
            parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
            if ".." in parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or "\\" in name:
                raise InputError(f"{path}: the member {name!r} would lie outside of this archive")
        if "model.weights.json" in infos:
            raise InputError(f"{path}: its weights are in several files; save it again without max_shard_size")
        if missing := [name for name in ("config.json", WEIGHTS) if name not in infos]:
            raise InputError(f"{path}: this archive has no {missing[0]}, expected a model saved by Keras")
        wanted = [infos[name] for name in ("metadata.json", "config.json", WEIGHTS) if name in infos]
        for info in wanted:
            most = (FLOOR if info.filename == WEIGHTS else SMALL) + GROWTH * info.compress_size
            if info.file_size > most or info.compress_size > path.stat().st_size:
                raise InputError(f"{path}: {info.filename} unpacks from {info.compress_size} to {info.file_size} bytes,"
                                 f" expected at most {most}: refused as a bomb")  # fmt: skip
        return {info.filename: archive.unpacked(opened, info, path) for info in wanted}


@contextlib.contextmanager
def on_disk(data: bytes) -> Iterator[BinaryIO]:
    """A file without a name that holds these bytes, as another process can read them."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        del data
        file.flush()
        yield file


def _hdf5(file: BinaryIO, name: str, config: dict[str, Any] | None, version: str) -> Contents:
    """The arrays of an HDF5 file, and its configuration, if that is in it."""
    stored = apart.read(file, name, told=config is not None)
    if stored.config is not None:
        config = parsed(stored.config.encode(), f"model_config of {name}")
    version = version or stored.version
    if stored.flat:
        return Contents(name, config, version, flat=stored.arrays)
    tree = {owner: [array for _, array in arrays] for owner, arrays in stored.arrays.items()}
    return Contents(name, config, version, tree=tree, labels=stored.labels)


def parsed(text: bytes, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises: InputError: it is none.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is no JSON: {one_line(error)}") from None
    if not isinstance(found, dict):
        raise InputError(f"{what} is a {type(found).__name__}, expected an object")
    return found


def _live(source: Any) -> Contents:
    """A layer or model in memory."""
    import importlib.metadata

    name = str(getattr(source, "name", type(source).__name__))
    if not hasattr(source, "get_config") or not hasattr(source, "weights"):
        raise InputError(f"a {type(source).__name__} of Keras is no layer and no model")
    home = next(
        (c.__module__.partition(".")[0] for c in type(source).__mro__ if c.__module__.startswith("tf_keras")), "keras"
    )
    try:
        config = json.loads(json.dumps(source.get_config(), default=_plain))
    except (NotImplementedError, TypeError, ValueError) as error:
        raise InputError(
            f"{name}: this {type(source).__name__} does not tell its configuration: {one_line(error)}"
        ) from None
    layers = (
        source.layers if hasattr(source, "layers") and isinstance(config, Mapping) and "layers" in config else [source]
    )
    if not source.built or (layers == [source] and not source.weights):
        raise InputError(f"{name}: this {type(source).__name__} has no weights yet; call it once on some input")
    flat = {}
    for layer in layers:
        weights = layer.trainable_weights + layer.non_trainable_weights  # the order in files of Keras 2
        flat[str(layer.name)] = [(str(getattr(w, "path", w.name)), _numbers(w)) for w in weights]
    kind = type(source).__name__
    if isinstance(config, dict) and "layers" in config and kind not in ("Functional", "Sequential", "Model"):
        kind = "Functional" if "input_layers" in config else "Sequential"
    version = importlib.metadata.version("tf_keras" if home == "tf_keras" else "keras")
    return Contents(name, {"class_name": kind, "config": config}, version, flat=flat)


def _plain(value: Any) -> Any:
    """What json does not know, of a configuration: shapes, numpy's numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "__iter__"):
        return list(value)
    raise TypeError(f"{value!r} is no plain value")


def _numbers(variable: Any) -> Tensor:
    """A variable's value, whatever backend holds it."""
    value = variable.value if not callable(variable.value) else variable.value()
    return tensor(value if isinstance(value, Tensor) else value.__array__(), str(variable.name))
