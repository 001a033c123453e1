"""HDF5 files of strangers: what is in them is read, and nothing that they point at, and no more than they hold."""

from __future__ import annotations

import itertools
import math
import mmap
import re
from collections.abc import Iterator
from contextlib import nullcontext
from io import BufferedReader
from typing import Any, BinaryIO

import torch
from torch import Tensor

from gatewise.convert.arrays import tensor
from gatewise.errors import InputError

# HDF5's own filters: deflate, shuffle, fletcher32, szip, nbit, scaleoffset, and lzf, which h5py has. Any other is a
# plugin, that is, a library which HDF5 would load.
FILTERS = (1, 2, 3, 4, 5, 6, 32000)
DEPTH, OBJECTS, NAMES = 32, 100_000, 50_000
# What is compressed, arrays and the members of an archive, may grow to 64 MiB, since few bytes may be many zeros; else
# to 100 times its size.
FLOOR, GROWTH = 1 << 26, 100


def check_heaps(file: BinaryIO, name: str) -> None:
    """Check the heaps in which HDF5 keeps strings: in one whose objects have no end, the library itself turns for ever.

    Raises: InputError: a heap's objects do not fill it. Source: HDF5 file format 3.0, III.E, global heap.
    """
    with (
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if isinstance(file, BufferedReader)
        else nullcontext(
            file.getbuffer()  # type: ignore[attr-defined]
        ) as view
    ):
        for found in re.finditer(rb"GCOL\x01\0\0\0", view):
            start = found.start()
            size = int.from_bytes(view[start + 8 : start + 16], "little")
            place, end = start + 16, start + size
            while place + 16 <= end <= len(view):
                number = int.from_bytes(view[place : place + 2], "little")
                length = int.from_bytes(view[place + 8 : place + 16], "little")
                step = length if number == 0 else 16 + -(-length // 8) * 8  # object 0 is the free rest, header included
                if step < 16 or place + step > end:
                    raise InputError(f"{name} is a damaged HDF5 file: a heap of it holds an object of {length} bytes")
                place += step
            if end > len(view):
                raise InputError(f"{name} is a damaged or truncated HDF5 file: a heap of it ends behind the file")


class Reader:
    """An HDF5 file's groups, attributes and arrays.

    Args:
        file: an open h5py.File. name: of the file, for errors. size: its bytes.

    Every method raises InputError for what is not plainly in the file.
    """

    def __init__(self, file: Any, name: str, size: int) -> None:
        self.root, self.name, self.size = file, name, size
        self.budget = FLOOR + GROWTH * size

    def bad(self, what: str) -> InputError:
        return InputError(f"{self.name}: {what}")

    def child(self, group: Any, path: str) -> Any:
        """What lies at a path below a group, by hard links only; None if there is nothing."""
        import h5py

        found = group
        for part in path.split("/"):
            if part in ("", ".", ".."):
                raise self.bad(f"the path {path!r} in it is no path of names")
            link = found.get(part, getlink=True) if isinstance(found, h5py.Group) and part in self.keys(found) else None
            if link is None:
                return None
            if not isinstance(link, h5py.HardLink):
                kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
                raise self.bad(f"{part} in it is {kind}, expected the thing itself; links are not followed")
            found = found[part]
        return found

    def group(self, parent: Any, path: str) -> Any:
        """The group at a path, which must be there."""
        import h5py

        found = self.child(parent, path)
        if not isinstance(found, h5py.Group):
            raise self.bad(f"there is no group {path} in it, of which its own table of contents speaks")
        return found

    def keys(self, group: Any) -> list[str]:
        """The names in a group."""
        if len(group) > OBJECTS:
            raise self.bad(f"a group in it has {len(group)} members, expected at most {OBJECTS}")
        return list(group.keys())

    def groups(self, group: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
        """All groups below one, each with its path, that one first."""
        import h5py

        if depth > DEPTH:
            raise self.bad(f"its groups lie more than {DEPTH} deep, or in a circle")
        self.budget -= 1024
        if self.budget < 0:
            raise self.bad("it has more groups than fit into its size, or they lie in a circle")
        yield path, group
        for name in self.keys(group):
            found = self.child(group, name)
            if isinstance(found, h5py.Group):
                yield from self.groups(found, f"{path}/{name}" if path else name, depth + 1)

    def array(self, data: Any, path: str) -> Tensor:
        """An array of numbers."""
        import numpy as np

        self.check(data, path)
        try:
            numbers = np.asarray(data[()])
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            raise self.bad(f"the array {path} cannot be read: {' '.join(str(error).split())}") from None
        if self._half(data):
            return torch.from_numpy(numbers.view(np.int16).reshape(numbers.shape).copy()).view(torch.bfloat16)
        return tensor(numbers, path)

    def _half(self, data: Any) -> bool:
        """Whether it is bfloat16, which HDF5 has no type for."""
        return self.text(data, "dtype") == "bfloat16" and data.dtype.itemsize == 2

    def check(self, data: Any, path: str) -> None:
        """Whether an array is one, is in the file, and is of a size that fits into it."""
        import h5py

        if not isinstance(data, h5py.Dataset):
            raise self.bad(f"{path} is no array, of which its own table of contents speaks")
        if data.is_virtual or data.external:
            raise self.bad(f"the array {path} lies in another file, which is not opened")
        if data.dtype.kind not in "fiu" and not self._half(data):
            raise self.bad(f"the array {path} is of {data.dtype}, expected numbers")
        if data.shape is None:
            raise self.bad(f"the array {path} is empty, without a shape")
        plist = data.id.get_create_plist()
        filters = [plist.get_filter(k)[0] for k in range(plist.get_nfilters())]
        if unknown := [f for f in filters if f not in FILTERS]:
            raise self.bad(f"the array {path} is stored with filter {unknown[0]}, which HDF5 itself does not have")
        declared, stored = math.prod(data.shape) * data.dtype.itemsize, data.id.get_storage_size()
        if (declared and not stored) or (declared > stored and not filters):
            raise self.bad(f"the array {path} of shape {data.shape} needs {declared} bytes, and {stored} are stored")
        self.budget -= declared
        if self.budget < 0:
            raise self.bad(f"the arrays up to {path} are larger than {GROWTH} times the file: refused as a bomb")

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
        made: list[str] = []
        for part in parts:
            found = self._strings(group, part)
            if found is None:
                raise self.bad(f"the attribute {part} is something else than a list of names")
            made += found
        return made

    def _strings(self, group: Any, name: str) -> list[str] | None:
        """The strings of an attribute; None if there is none, or something else."""
        import h5py

        try:
            if name not in group.attrs:
                return None
            found = group.attrs.get_id(name)
            count = math.prod(found.shape or (1,)) if found.shape is not None else 0
            if count == 0:
                return []  # an empty list has no type of strings
            if h5py.check_string_dtype(found.dtype) is None and found.dtype.kind != "S":
                return None
            if count > NAMES or count * found.dtype.itemsize > self.size:
                raise self.bad(f"the attribute {name} has {count} strings of {found.dtype.itemsize} bytes, "
                               "more than the file")  # fmt: skip
            value = group.attrs[name]
            every = [value] if isinstance(value, (str, bytes)) else list(value.reshape(-1))
            return [v.decode() if isinstance(v, bytes) else str(v) for v in every]
        except InputError:
            raise
        except (OSError, ValueError, RuntimeError, UnicodeError, TypeError, MemoryError, OverflowError) as error:
            raise self.bad(f"the attribute {name} cannot be read: {' '.join(str(error).split())}") from None
