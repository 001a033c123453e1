"""A file of Keras's, or a live layer or model, as its configuration and its arrays; nothing in it is trusted or run."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from torch import Tensor

from gatewise.convert.arrays import tensor
from gatewise.convert.keras.hdf5 import FLOOR, GROWTH, Reader, check_heaps
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
        with open(path, "rb") as file:
            start = file.read(8)
        if start.startswith(b"PK"):
            return _archive(path)
        with open(path, "rb") as file:
            return _hdf5(file, path.name, path.stat().st_size, None, "")
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
    data = unpacked[WEIGHTS]
    return _hdf5(io.BytesIO(data), path.name, len(data), config, version if isinstance(version, str) else "")


def members(path: Path) -> dict[str, bytes]:
    """What a .keras file holds of what is read, unpacked.

    Raises: InputError: it is damaged or hostile.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename: info for info in archive.infolist()}
            if len(infos) < len(archive.infolist()):
                raise InputError(f"{path}: two members of this archive have one name")
            for name in infos:
                parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
                if ".." in parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or "\\" in name:
                    raise InputError(f"{path}: the member {name!r} would lie outside of this archive")
            if "model.weights.json" in infos:
                raise InputError(f"{path}: its weights are in several files; save it again without max_shard_size")
            if missing := [name for name in ("config.json", WEIGHTS) if name not in infos]:
                raise InputError(f"{path}: this archive has no {missing[0]}, expected a model saved by Keras")
            return {n: _member(archive, infos[n], path) for n in ("metadata.json", "config.json", WEIGHTS)
                    if n in infos}  # fmt: skip
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, OSError, NotImplementedError, ValueError) as error:
        if isinstance(error, (InputError, FileNotFoundError)):
            raise
        raise InputError(f"{path} is a damaged zip file: {one_line(error)}") from None


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> bytes:
    """A member's bytes, no more than it says, and it may not say too many."""
    if info.flag_bits & 1:
        raise InputError(f"{path}: {info.filename} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{path}: {info.filename} is compressed in a way that Keras does not use")
    most = (FLOOR if info.filename == WEIGHTS else SMALL) + GROWTH * info.compress_size
    if info.file_size > most or info.compress_size > path.stat().st_size:
        raise InputError(f"{path}: {info.filename} unpacks from {info.compress_size} to {info.file_size} bytes, "
                         f"expected at most {most}: refused as a bomb")  # fmt: skip
    with archive.open(info) as member:
        data = member.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise InputError(f"{path}: {info.filename} has another size than the {info.file_size} bytes it says")
    return data


def _hdf5(file: Any, name: str, size: int, config: dict[str, Any] | None, version: str) -> Contents:
    """The arrays of an HDF5 file, and its configuration, if that is in it."""
    import h5py

    try:
        if size:
            check_heaps(file, name)
        with h5py.File(file, "r") as opened:
            reader = Reader(opened, name, size)
            if (text := reader.text(opened, "model_config")) is not None and config is None:
                config = parsed(text.encode(), f"model_config of {name}")
            elif config is None and "model_config" in opened.attrs:
                raise reader.bad("its model_config is no string")
            top = reader.group(opened, "model_weights") if "model_weights" in opened else opened
            version = version or reader.text(top, "keras_version") or reader.text(opened, "keras_version") or ""
            names = reader.names(top, "layer_names")
            if names is not None:
                flat = {}
                for layer in names:
                    if layer in flat:
                        raise InputError(f"{name}: two layers of it are called {layer}")
                    group = reader.group(top, layer)
                    weights = reader.names(group, "weight_names") or []
                    flat[layer] = [(w, reader.array(reader.child(group, w), f"{layer}/{w}")) for w in weights]
                return Contents(name, config, version, flat=flat)
            tree, labels = _tree(reader, top)
    except InputError:
        raise
    # h5py tells of damage by whichever of these its place in the file leads to.
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, UnicodeError) as error:
        raise InputError(f"{name} is a damaged or truncated HDF5 file: {one_line(error)}") from None
    if not tree:
        raise InputError(f"{name} is HDF5, but holds no weights of Keras: neither layer_names nor groups `vars`")
    return Contents(name, config, version, tree=tree, labels=labels)


def check(file: Any, name: str, size: int) -> None:
    """Check an HDF5 file throughout, read or not: whoever opens it next is led to nothing outside of it.

    Raises: InputError: there is a link, or an array that is not plainly in the file.
    """
    import h5py

    check_heaps(file, name)
    with h5py.File(file, "r") as opened:
        reader = Reader(opened, name, size)
        for path, group in reader.groups(opened):
            for key in reader.keys(group):
                found = reader.child(group, key)
                if isinstance(found, h5py.Dataset):
                    reader.check(found, f"{path}/{key}")


def _tree(reader: Reader, top: Any) -> tuple[dict[str, list[Tensor]], dict[str, str]]:
    """The arrays in groups called `vars`, by the path of their owner; the optimizer's are left out."""
    tree, labels = {}, {}
    for path, group in reader.groups(top):
        owner, _, last = path.rpartition("/")
        if last != "vars" or path.startswith("optimizer"):
            continue
        owner = re.sub(r"(^|/)_layer_checkpoint_dependencies(?=/|$)", r"\1layers", owner)  # TensorFlow 2.13's name
        keys = reader.keys(group)
        if sorted(keys) != sorted(map(str, range(len(keys)))):
            raise reader.bad(f"{path} has the arrays {', '.join(keys)}, expected 0, 1, 2 …")
        tree[owner] = [reader.array(reader.child(group, str(k)), f"{path}/{k}") for k in range(len(keys))]
        if label := reader.text(group, "name"):
            labels[owner] = label
    return (tree if any(tree.values()) else {}), labels


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
