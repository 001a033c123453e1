"""Named tensors in files of safetensors, torch and numpy: read without running anything, written whole or not at all.

Beside the tensors each of the three can carry a text, in which `write` tells the layers: in safetensors' metadata, in
the `_metadata` that torch keeps with every state_dict, in an array of numpy that is called `gatewise`.
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gatewise.convert import archive
from gatewise.errors import InputError, one_line, require

KEY = "gatewise"  # of the text that tells the layers
# What an archive may unpack to: weights are numbers that hardly shrink, so 100 times its size is no honest one.
MOST_TIMES, MOST_BYTES = 100, 1 << 28


@dataclass(frozen=True)
class Contents:
    """What is in a file.

    tensors: by name; of a plain list, by its numbers from 0, and `listed` is true. text: what tells the layers, or "".
    left: what was not read, and why.
    """

    tensors: dict[str, Tensor]
    text: str = ""
    listed: bool = False
    left: tuple[str, ...] = ()


def read(path: Path) -> Contents:
    """The tensors of a file, told by what is in it; on the CPU, in their own dtypes.

    Raises: InputError: it is damaged, unpacks to far more than it is, or holds Python objects.
    """
    with open(path, "rb") as file:
        start = file.read(16)
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if start.startswith(b"PK"):
        with archive.opened(path) as opened:
            entries = list(archive.entries(opened, path).values())
        if entries and all(entry.filename.endswith(".npy") for entry in entries):
            return _read_npz(path, entries)
        if not any(entry.filename.endswith("/data.pkl") for entry in entries):
            raise InputError(f"{path} is a zip file with neither numpy's arrays (.npz) nor torch's tensors (.pt) in it")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise InputError(f"{path} has compressed parts, which torch.save does not write: save the state_dict anew")
    return _read_torch(path)


def write(path: Path, tensors: Mapping[str, Tensor], text: str) -> bytes:
    """The bytes of a file with these tensors, its kind told by the ending.

    Raises: InputError: the kind has no such tensors.
    """
    # Copies: tied weights share their memory, which safetensors refuses.
    own = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    if path.suffix.lower() == ".safetensors":
        require("safetensors")
        from safetensors.torch import save

        return save(own, metadata={KEY: text} if text else None)
    stream = io.BytesIO()
    if path.suffix.lower() == ".npz":
        require("numpy")
        import numpy as np

        if KEY in own:
            raise InputError(f"{path}: a tensor is named {KEY!r}, as the text that tells the layers is: rename it")
        with zipfile.ZipFile(stream, "w") as written:
            for name, value in own.items():
                try:
                    array = value.numpy()
                except TypeError as error:
                    raise InputError(f"{path}: numpy has no {value.dtype}, as {name} is: write .safetensors") from error
                _add(written, name, array)
            if text:
                _add(written, KEY, np.array(text))
    else:
        state = OrderedDict(own)
        if text:
            state._metadata = {"": {"version": 1, KEY: text}}  # type: ignore[attr-defined]  # as Module.state_dict has it
        torch.save(state, stream)
    return stream.getvalue()


def _add(written: zipfile.ZipFile, name: str, array: Any) -> None:
    from numpy.lib import format as npy

    # A ZipInfo without a date, so that the same weights are the same bytes.
    with written.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
        npy.write_array(file, array, allow_pickle=False)


def _read_safetensors(path: Path) -> Contents:
    require("safetensors")
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = path.read_bytes()
    try:
        tensors = load(data)
        # The header's length in 8 bytes, then the header as JSON; `load` has checked it.
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise InputError(f"{path} is a damaged file of safetensors: {one_line(error)}") from error
    if "sha256" in metadata:
        raise InputError(f"{path} is a checkpoint of a run that gatewise trained: give the run's folder instead")
    return Contents(tensors, metadata.get(KEY, ""))


def _read_npz(path: Path, entries: list[zipfile.ZipInfo]) -> Contents:
    require("numpy")
    import numpy as np

    packed, unpacked = path.stat().st_size, sum(entry.file_size for entry in entries)
    if unpacked > MOST_BYTES and unpacked > MOST_TIMES * packed:
        raise InputError(
            f"{path} has {packed:,} bytes and would unpack to {unpacked:,}, more than {MOST_TIMES} times as many:"
            " that is no file of weights, and it is not unpacked"
        )
    arrays: dict[str, Any] = {}
    with archive.opened(path) as opened:
        for entry in entries:
            # Unpacked before numpy looks: it would make room for whatever shape the header claims.
            data = archive.unpacked(opened, entry, path)
            try:
                _check_header(data)
                arrays[entry.filename.removesuffix(".npy")] = np.load(io.BytesIO(data), allow_pickle=False)
            except Exception as error:  # numpy evaluates the header as Python's literals, and raises what that does
                raise InputError(f"{path} is damaged, or holds Python objects: {one_line(error)}") from error
    text = ""
    if KEY in arrays and arrays[KEY].dtype.kind == "U" and arrays[KEY].shape == ():
        text = _text(arrays.pop(KEY), path)
    try:
        tensors = {name: _plain(name, array) for name, array in arrays.items()}
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    numbered = [f"arr_{k}" for k in range(len(tensors))]  # np.savez(path, *list)
    if sorted(tensors) == sorted(numbered):
        return Contents({str(k): tensors[name] for k, name in enumerate(numbered)}, text, listed=True)
    return Contents(tensors, text)


def _text(array: Any, path: Path) -> str:
    """A string of numpy's, which makes strings of numbers that are no characters, and Python breaks on them later.

    Raises: InputError: it is no text.
    """
    try:
        codec = {"<": "utf-32-le", ">": "utf-32-be"}[array.dtype.str[0]]
        return str(array.tobytes().decode(codec)).rstrip("\0")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged: {KEY} in it is no text: {one_line(error)}") from None


def _plain(name: str, array: Any) -> Tensor:
    """The array as a tensor; integers stay integers, as counters of batch normalisation are."""
    if array.dtype.kind in "fciub":
        with contextlib.suppress(TypeError):  # numpy's longest floats, which torch does not know
            return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    raise ValueError(f"{name} is an array of {array.dtype}, expected numbers")


def _check_header(data: bytes) -> None:
    """ValueError where an .npy file's header claims more than is there."""
    from numpy.lib import format as npy

    stream = io.BytesIO(data)
    version = npy.read_magic(stream)
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = header(stream)
    claimed = dtype.itemsize
    for size in shape:
        claimed *= size
    if dtype.hasobject or claimed != len(data) - stream.tell():
        raise ValueError(f"an array of {dtype} {shape} in {len(data)} bytes")


def _read_torch(path: Path) -> Contents:
    size = path.stat().st_size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle's protocols, and of TorchScript, which is refused below
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle makes torch raise whatever its bytes lead to
        why = str(error)
        if "Unsupported" in why or "TorchScript" in why:
            raise InputError(
                f"{path} holds Python objects (a whole pickled module?), which are never loaded, since that runs code;"
                " save the weights alone: torch.save(module.state_dict(), path)"
            ) from error
        what = "file that torch.save wrote" if path.suffix in (".pt", ".pth") else f"{path.suffix} file"
        raise InputError(f"{path} is damaged, or no {what}") from error
    left: list[str] = []
    listed = isinstance(found, (list, tuple))
    values: Any = dict(enumerate(found)) if listed else found
    if isinstance(values, Mapping) and not _is_flat(values):
        inner = [key for key, value in values.items() if isinstance(value, Mapping) and _is_flat(value)]
        if len(inner) == 1:  # a checkpoint: {"epoch": 3, "state_dict": {…}, "optimizer": {…}}
            left = [f"{key}: not among the weights, {inner[0]}" for key in values if key != inner[0]]
            found = values = values[inner[0]]
    if not isinstance(values, Mapping) or not _is_flat(values):
        raise InputError(f"{path} holds a {type(found).__name__}, expected a state_dict: names and their tensors")
    for name, value in values.items():
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise InputError(f"{path}: {name} is a sparse, quantized or empty tensor, which is not read")
        if value.numel() * value.itemsize > size:  # a view that repeats what is there but once
            raise InputError(f"{path}: {name} has {value.numel():,} numbers, more than the file holds")
    metadata = getattr(found, "_metadata", None)
    told = metadata.get("", {}) if isinstance(metadata, Mapping) else {}
    text = told.get(KEY, "") if isinstance(told, Mapping) else ""
    tensors = {str(name): value.detach() for name, value in values.items()}
    return Contents(tensors, text if isinstance(text, str) else "", listed, tuple(left))


def _is_flat(values: Mapping[Any, Any]) -> bool:
    """Whether all of them are tensors; an empty mapping holds no weights."""
    return bool(values) and all(isinstance(value, Tensor) for value in values.values())
