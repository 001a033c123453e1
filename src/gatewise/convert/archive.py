"""Zip files of strangers: .keras, .npz and .pt are such. Whatever is wrong with one is an InputError."""

from __future__ import annotations

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from gatewise.errors import InputError, one_line

# What zipfile raises, depending on where the damage lies: of versions, methods and encryption that it does not know
# (NotImplementedError, RuntimeError), of names that are no text (ValueError), of sizes and places (the others).
DAMAGE = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError,
    KeyError, IndexError, OverflowError, MemoryError,
)  # fmt: skip


@contextlib.contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """An archive, to be read. Within, what is raised of its damage becomes an InputError."""
    with _damage(path), zipfile.ZipFile(path) as archive:
        yield archive


def entries(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """An archive's table of contents, by name.

    Raises: InputError: two entries have one name.
    """
    every = archive.infolist()
    named = {entry.filename: entry for entry in every}
    if len(named) < len(every):
        raise InputError(f"{path} is a damaged zip file: it has two parts of one name")
    return named


def unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> bytes:
    """An entry's bytes, no more than the table of contents says: a caller looks there for bombs.

    Raises: InputError: it has other bytes than it says, is encrypted or compressed otherwise than by deflate.
    """
    if entry.flag_bits & 1:
        raise InputError(f"{path}: {entry.filename} is encrypted")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{path}: {entry.filename} is compressed in a way that such a file does not use")
    with archive.open(entry) as member:
        data = member.read(entry.file_size + 1)  # `read()` would unpack up to 2 GiB before it looks at the size
    if len(data) != entry.file_size:
        raise InputError(f"{path}: {entry.filename} has another size than the {entry.file_size} bytes it says")
    return data


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (InputError, FileNotFoundError, PermissionError):
        raise
    except DAMAGE as error:
        raise InputError(f"{path} is a damaged zip file: {one_line(error)}") from None
