"""A checkpoint as one safetensors file: tensors, and in its header the rest as JSON. Nothing is unpickled.

Lightning's checkpoints are nested dicts, lists and tuples with tensors and plain values at the leaves.
`encode` replaces each tensor by a reference and each thing that JSON lacks by a tagged dict:

    tensor                {"$tensor": name in the file}
    tuple                 {"$tuple": [items]}
    dict, other keys      {"$dict": [[key, value], ...]}

Anything else is refused rather than turned into something that resembles it. safetensors has no checksum,
so the header also holds the SHA-256 of the rest.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from gatewise.errors import InputError
from gatewise.tasks.run import write

FORMAT = "gatewise checkpoint 1"


def save(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        checkpoint: nested dicts, lists and tuples of tensors, str, int, float, bool and None.
        path: the file.

    Raises:
        TypeError: it holds something else; the text says what and where.
        OSError: the disk is full or the like; the old file still stands.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_pack(checkpoint, "checkpoint", tensors))
    header = {"format": FORMAT, "tree": tree, "sha256": _digest(tree, tensors)}
    write(path, save_tensors(tensors, metadata=header))


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint that `save` wrote; tensors come on the CPU.

    Raises:
        InputError: the file is absent, truncated, changed, or something else than a checkpoint.
    """
    damaged = InputError(
        f"{path} is damaged or no checkpoint of gatewise: use another checkpoint of the run, restore it, or train anew"
    )
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no checkpoint {path}") from None
    try:
        # A safetensors file: the header's length in 8 bytes, the header as JSON, the tensors.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        tensors = load_tensors(data)
        tree, digest = header["tree"], header["sha256"]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise damaged from error
    if header.get("format") != FORMAT or digest != _digest(tree, tensors):
        raise damaged
    checkpoint = _unpack(json.loads(tree), tensors)
    assert isinstance(checkpoint, dict)
    return checkpoint


def _pack(value: Any, where: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        # A copy: safetensors refuses tensors that share memory, and carried states are views of outputs.
        name = where
        while name in tensors:  # the keys 1 and "1" of one dict
            name += "'"
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"$tensor": name}
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, list):
        return [_pack(item, f"{where}.{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"$tuple": [_pack(item, f"{where}.{i}", tensors) for i, item in enumerate(value)]}
    if isinstance(value, dict):
        items = [(key, _pack(item, f"{where}.{key}", tensors)) for key, item in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return dict(items)
        return {"$dict": [[_pack(key, where, tensors), item] for key, item in items]}
    raise TypeError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}; a checkpoint holds tensors, str, int,"
        " float, bool, None, and dicts, lists and tuples of them"
    )


def _unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$tensor": name}:
            return tensors[name]
        case {"$tuple": items}:
            return tuple(_unpack(item, tensors) for item in items)
        case {"$dict": pairs}:
            return {_unpack(key, tensors): _unpack(item, tensors) for key, item in pairs}
    return {key: _unpack(item, tensors) for key, item in value.items()}


def _digest(tree: str, tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
