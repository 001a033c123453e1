"""HDF5 files of strangers: what is in them is read, and nothing that they point at, and no more than they hold.

`apart.py` runs this file as the program of a process of its own, since the HDF5 library hangs or crashes on some
damaged files. So it imports the standard library, numpy and h5py alone, and the last two late. It says what it reads
on its standard output: lines of JSON, and behind the line of an array its bytes.
"""

from __future__ import annotations

import faulthandler
import itertools
import json
import math
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

# HDF5's own filters: deflate, shuffle, fletcher32, szip, nbit, scaleoffset, and lzf, which h5py has. Any other is a
# plugin, that is, a library which HDF5 would load.
FILTERS = (1, 2, 3, 4, 5, 6, 32000)
DEPTH, OBJECTS, NAMES = 32, 100_000, 50_000
# What is compressed, arrays and the members of an archive, may grow to 64 MiB, since few bytes may be many zeros; else
# to 100 times its size.
FLOOR, GROWTH = 1 << 26, 100
DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


class RefusedError(ValueError):
    """The file is damaged, hostile or not Keras's; the text says why."""


class Reader:
    """An HDF5 file's groups, attributes and arrays.

    Args:
        file: an open h5py.File. size: its bytes.

    Every method raises RefusedError for what is not plainly in the file.
    """

    def __init__(self, file: Any, size: int) -> None:
        self.root, self.size = file, size
        self.budget = FLOOR + GROWTH * size

    def child(self, group: Any, path: str) -> Any:
        """What lies at a path below a group, by hard links only; None if there is nothing."""
        import h5py

        found = group
        for part in path.split("/"):
            if part in ("", ".", ".."):
                raise RefusedError(f"the path {path!r} in it is no path of names")
            link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
            if link is None:
                return None
            if not isinstance(link, h5py.HardLink):
                kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
                raise RefusedError(f"{part} in it is {kind}, expected the thing itself; links are not followed")
            found = found[part]
        return found

    def group(self, parent: Any, path: str) -> Any:
        """The group at a path, which must be there."""
        import h5py

        found = self.child(parent, path)
        if not isinstance(found, h5py.Group):
            raise RefusedError(f"there is no group {path} in it, of which its own table of contents speaks")
        return found

    def keys(self, group: Any) -> list[str]:
        """The names in a group."""
        if len(group) > OBJECTS:
            raise RefusedError(f"a group in it has {len(group)} members, expected at most {OBJECTS}")
        return [_text(name) for name in group]

    def groups(self, group: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
        """All groups below one, each with its path, that one first."""
        import h5py

        if depth > DEPTH:
            raise RefusedError(f"its groups lie more than {DEPTH} deep, or in a circle")
        self.budget -= 1024
        if self.budget < 0:
            raise RefusedError("it has more groups than fit into its size, or they lie in a circle")
        yield path, group
        for name in self.keys(group):
            found = self.child(group, name)
            if isinstance(found, h5py.Group):
                yield from self.groups(found, f"{path}/{name}" if path else name, depth + 1)

    def array(self, data: Any, path: str) -> Any:
        """An array of numbers, in the machine's own order of bytes; of bfloat16 as it is stored, in any two bytes."""
        import numpy as np

        self.check(data, path)
        try:
            numbers = np.asarray(data[()])
        except (OSError, ValueError, RuntimeError) as error:
            raise RefusedError(f"the array {path} cannot be read: {error}") from None
        return np.array(numbers, numbers.dtype.newbyteorder("="), order="C", copy=None)

    def half(self, data: Any) -> bool:
        """Whether it is bfloat16, which HDF5 has no type for."""
        return data.dtype.itemsize == 2 and self.text(data, "dtype") == "bfloat16"

    def check(self, data: Any, path: str) -> None:
        """Whether an array is one, is in the file, and is of a size that fits into it."""
        import h5py

        if not isinstance(data, h5py.Dataset):
            raise RefusedError(f"{path} is no array, of which its own table of contents speaks")
        if data.is_virtual or data.external:
            raise RefusedError(f"the array {path} lies in another file, which is not opened")
        if data.dtype.name not in DTYPES and not self.half(data):
            raise RefusedError(f"the array {path} is of {data.dtype}, expected numbers")
        if data.shape is None:
            raise RefusedError(f"the array {path} is empty, without a shape")
        plist = data.id.get_create_plist()
        filters = [plist.get_filter(k)[0] for k in range(plist.get_nfilters())]
        if unknown := [f for f in filters if f not in FILTERS]:
            raise RefusedError(f"the array {path} is stored with filter {unknown[0]}, which HDF5 itself does not have")
        declared, stored = math.prod(data.shape) * data.dtype.itemsize, data.id.get_storage_size()
        if (declared and not stored) or (declared > stored and not filters):
            raise RefusedError(
                f"the array {path} of shape {data.shape} needs {declared} bytes, and {stored} are stored"
            )
        self.budget -= declared
        if self.budget < 0:
            raise RefusedError(f"the arrays up to {path} are larger than {GROWTH} times the file: refused as a bomb")

    def text(self, group: Any, name: str) -> str | None:
        """A string attribute; None if there is none, or something else."""
        found = self._strings(group, name)
        return found[0] if found is not None and len(found) == 1 else None

    def names(self, group: Any, name: str) -> list[str] | None:
        """A list of strings, which Keras splits into {name}0, {name}1 … where it is long; None if there is none."""
        parts = [name]
        if name not in group.attrs:
            parts = list(
                itertools.takewhile(lambda part: part in group.attrs, (f"{name}{k}" for k in itertools.count()))
            )
        if not parts:
            return None
        every: list[str] = []
        for part in parts:
            found = self._strings(group, part)
            if found is None:
                raise RefusedError(f"the attribute {part} is something else than a list of names")
            every += found
        return every

    def _strings(self, group: Any, name: str) -> list[str] | None:
        """The strings of an attribute; None if there is none, or something else."""
        import h5py

        try:
            if name not in group.attrs:
                return None
            found = group.attrs.get_id(name)
            if self.count(found, name) == 0:
                return []  # an empty list has no type of strings
            if h5py.check_string_dtype(found.dtype) is None and found.dtype.kind != "S":
                return None
            value = group.attrs[name]
            every = [value] if isinstance(value, (str, bytes)) else list(value.reshape(-1))
            return [v.decode() if isinstance(v, bytes) else _text(v) for v in every]
        except (OSError, ValueError, RuntimeError, TypeError, OverflowError) as error:
            if isinstance(error, RefusedError):
                raise
            raise RefusedError(f"the attribute {name} cannot be read: {error}") from None

    def count(self, attribute: Any, name: str) -> int:
        """How many values an attribute has, no more than fit into the file."""
        count = math.prod(attribute.shape or (1,)) if attribute.shape is not None else 0
        if count > NAMES or count * attribute.dtype.itemsize > self.size:
            raise RefusedError(f"the attribute {name} has {count} values of {attribute.dtype.itemsize} bytes, "
                               "more than the file")  # fmt: skip
        return count


def _text(name: Any) -> str:
    """A name, if it is text: h5py gives what is no UTF-8 as lone surrogates, which nothing can print."""
    str(name).encode()
    return str(name)


# --- Keras's weights ---------------------------------------------------------------------------------


def keras(reader: Reader, say: Say, told: bool) -> None:
    """Say the weights of a file of Keras's, each array behind its owner.

    Args: told: whether the configuration is known, so that the file's own is not wanted.
    """
    root = reader.root
    config = None if told else reader.text(root, "model_config")
    if not told and config is None and "model_config" in root.attrs:
        raise RefusedError("its model_config is no string")
    top = reader.group(root, "model_weights") if "model_weights" in root else root
    version = reader.text(top, "keras_version") or reader.text(root, "keras_version") or ""
    names = reader.names(top, "layer_names")
    say(config=config, version=version, flat=names is not None)
    if names is None:
        _tree(reader, top, say)
        return
    for layer in names:
        group = reader.group(top, layer)
        weights = reader.names(group, "weight_names") or []
        say(owner=layer, label="")
        for name in weights:
            say.array(reader, reader.child(group, name), name, f"{layer}/{name}")


def _tree(reader: Reader, top: Any, say: Say) -> None:
    """The arrays in groups called `vars`, by the path of their owner; the optimizer's are left out."""
    empty = True
    for path, group in reader.groups(top):
        say(group=path)
        owner, _, last = path.rpartition("/")
        if last != "vars" or path.startswith("optimizer"):
            continue
        owner = re.sub(r"(^|/)_layer_checkpoint_dependencies(?=/|$)", r"\1layers", owner)  # TensorFlow 2.13's name
        keys = reader.keys(group)
        if sorted(keys) != sorted(map(str, range(len(keys)))):
            raise RefusedError(f"{path} has the arrays {', '.join(keys[:20])}, expected 0, 1, 2 …")
        say(owner=owner, label=reader.text(group, "name") or "")
        for k in range(len(keys)):
            empty = False
            say.array(reader, reader.child(group, str(k)), str(k), f"{path}/{k}")
    if empty:
        raise RefusedError("it is HDF5, but holds no weights of Keras: neither layer_names nor groups `vars`")


# --- a copy ------------------------------------------------------------------------------------------


def copy(reader: Reader, say: Say, target: str) -> None:
    """Write a file anew, all that is in it: whoever opens it next meets what the HDF5 library of here wrote.

    Raises: RefusedError: there is a link, an array that is not plainly in the file, or an attribute that is neither
        text nor numbers.
    """
    import h5py

    with h5py.File(target, "w", libver="latest") as file:
        for path, group in reader.groups(reader.root):
            say(group=path)
            own = file.require_group(f"/{path}")
            _copy_attributes(reader, group, own)
            for name in reader.keys(group):
                found = reader.child(group, name)
                if not isinstance(found, h5py.Group):
                    say(array=name)
                    numbers = reader.array(found, f"{path}/{name}")
                    _copy_attributes(reader, found, own.create_dataset(name, data=numbers))


def _copy_attributes(reader: Reader, source: Any, target: Any) -> None:
    for name in source.attrs:
        attribute = source.attrs.get_id(_text(name))
        reader.count(attribute, name)
        if attribute.dtype.kind not in "biufcSO" or (attribute.dtype.kind == "O") != _is_text(attribute.dtype):
            raise RefusedError(f"the attribute {name} is of {attribute.dtype}, expected text or numbers")
        target.attrs[name] = source.attrs[name]


def _is_text(dtype: Any) -> bool:
    import h5py

    return dtype.kind == "O" and h5py.check_string_dtype(dtype) is not None


# --- the process -------------------------------------------------------------------------------------


class Say:
    """Writes what is read: a line of JSON each, and the bytes of arrays."""

    def __init__(self, out: BinaryIO) -> None:
        self.out = out

    def __call__(self, **line: Any) -> None:
        self.out.write(json.dumps(line).encode() + b"\n")
        self.out.flush()

    def array(self, reader: Reader, data: Any, name: str, path: str) -> None:
        numbers = reader.array(data, path)
        self(array=name, dtype="bfloat16" if reader.half(data) else numbers.dtype.name, shape=numbers.shape)
        self.out.write(numbers.reshape(-1).view("u1").data)


def limit_memory(most: int) -> None:
    """Allow this process so many bytes more than it has, where the system tells and limits (Linux)."""
    try:
        import resource

        with open("/proc/self/statm", "rb") as file:
            pages = int(file.read().split()[0])
    except (ImportError, OSError):
        return
    allowed, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [pages * resource.getpagesize() + most, *(n for n in (allowed, hard) if n != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))


def main() -> None:
    """Read the file that is the standard input; the argument is JSON and says how, see `apart.py`."""
    task = json.loads(sys.argv[1])
    say = Say(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)  # so that nothing which libraries print is taken for an answer
    sys.path += task["path"]
    import h5py
    import numpy  # noqa: F401  # both before the limits, which are the file's

    faulthandler.dump_traceback_later(task["seconds"], exit=True, file=2)  # should nobody be left to stop this
    limit_memory(task["memory"])
    say(ready=True)
    try:
        with open(0, "rb", closefd=False) as file, h5py.File(file, "r") as opened:
            reader = Reader(opened, task["size"])
            if task["copy"]:
                copy(reader, say, task["copy"])
            else:
                keras(reader, say, task["told"])
        say(end=True)
    except RefusedError as error:
        say(refused=str(error))
    except MemoryError:
        say(refused=f"it needs more memory than the {task['memory']:,} bytes that a file of its size may take")
    except BrokenPipeError:
        raise
    except Exception as error:  # h5py tells of damage by whatever its place in the file leads to
        say(damaged=str(error))


if __name__ == "__main__":
    main()
