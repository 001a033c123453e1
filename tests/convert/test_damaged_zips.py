"""Zip files of every kind that is read, damaged in each field of their format."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import randomize
from test_keras_files import PLAIN, sequential, weights, write

import gatewise
from gatewise import convert
from gatewise.errors import InputError

pytestmark = pytest.mark.usefixtures("warm_reader")
ENDINGS = (".pt", ".npz", ".keras")
CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"


def honest(ending: str, folder: Path) -> Path:
    path = folder / f"a{ending}"
    if ending == ".keras":
        pytest.importorskip("h5py")
        config = sequential(("LSTM", PLAIN | {"units": 3, "name": "l"}))
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", json.dumps(config))
            archive.writestr("metadata.json", '{"keras_version": "2.4.0"}')
            archive.write(write(folder / "w.h5", {"l": weights(4, 4, 3)}), "model.weights.h5")
    else:
        convert.save(randomize(gatewise.LSTM(4, 3)), path)
    return path


def field(header: bytes, offset: int, form: str, value: int) -> Callable[[bytearray], None]:
    """Write a value into a field of every header of a kind. Source: PKWARE's APPNOTE 4.3."""

    def damage(data: bytearray) -> None:
        place = data.find(header)
        while place >= 0:
            struct.pack_into(form, data, place + offset, value)
            place = data.find(header, place + 4)

    return damage


def deflated(change: Callable[[bytes], bytes]) -> Callable[[bytearray], None]:
    """Compress every part, change the compressed bytes, and leave the sizes and sums that were told."""

    def damage(data: bytearray) -> None:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {info.filename: archive.read(info) for info in archive.infolist()}
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, part in parts.items():
                archive.writestr(name, part)
        made = bytearray(stream.getvalue())
        with zipfile.ZipFile(stream) as archive:
            for info in archive.infolist():
                start = info.header_offset + 30 + len(info.filename.encode())
                made[start : start + info.compress_size] = change(bytes(made[start : start + info.compress_size]))
        data[:] = made

    return damage


def names(data: bytearray) -> None:
    """Names that are said to be UTF-8, and are not."""
    field(CENTRAL, 8, "<H", 0x800)(data)
    field(CENTRAL, 46, "<B", 0xFF)(data)


DAMAGE: dict[str, Callable[[bytearray], None]] = {
    "version 6.5": field(CENTRAL, 6, "<H", 65),
    "version 6.5 in all headers": lambda d: (field(CENTRAL, 6, "<H", 65)(d), field(LOCAL, 4, "<H", 65)(d))[0],
    "version 255": field(CENTRAL, 6, "<H", 255),
    "encrypted": lambda d: (field(CENTRAL, 8, "<H", 1)(d), field(LOCAL, 6, "<H", 1)(d))[0],
    "strongly encrypted": lambda d: (field(CENTRAL, 8, "<H", 0x41)(d), field(LOCAL, 6, "<H", 0x41)(d))[0],
    "patched": lambda d: (field(CENTRAL, 8, "<H", 0x20)(d), field(LOCAL, 6, "<H", 0x20)(d))[0],
    "no such method": field(CENTRAL, 10, "<H", 77),
    "bzip2": field(CENTRAL, 10, "<H", 12),
    "lzma": field(CENTRAL, 10, "<H", 14),
    "zstandard": field(CENTRAL, 10, "<H", 93),
    "deflated, it says": field(CENTRAL, 10, "<H", 8),
    "another sum": field(CENTRAL, 16, "<I", 7),
    "sizes of zip64 that are not there": field(CENTRAL, 24, "<I", 0xFFFFFFFF),
    "too large": field(CENTRAL, 24, "<I", 0x7FFFFFFF),
    "too small": field(CENTRAL, 24, "<I", 3),
    "long names": field(CENTRAL, 28, "<H", 0xFFFF),
    "long extra fields": field(CENTRAL, 30, "<H", 0xFFF0),
    "far away": field(CENTRAL, 42, "<I", 0x7FFFFFFF),
    "all in one place": field(CENTRAL, 42, "<I", 0),
    "a disk of many": field(CENTRAL, 34, "<H", 3),
    "names that are no text": names,
    "another local header": field(LOCAL, 0, "<I", 7),
    "a table of contents that is too long": field(END, 12, "<I", 0x7FFFFFFF),
    "a table of contents that is elsewhere": field(END, 16, "<I", 0x7FFFFFFF),
    "no deflate": deflated(lambda data: b"\xff" * len(data)),
    "cut": deflated(lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2)),
}
HARMLESS = {"a disk of many", "long extra fields"}  # zipfile does not mind; nor do we


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_zips_are_refused(what: str, ending: str, tmp_path: Path) -> None:
    path = honest(ending, tmp_path)
    data = bytearray(path.read_bytes())
    DAMAGE[what](data)
    path.write_bytes(data)
    try:
        convert.load(path)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017  # which it is, is the kind's
        assert str(error).startswith(str(tmp_path)) or path.name in str(error)  # noqa: PT017
    else:
        # torch's own reader looks at other fields than zipfile, and reads the right numbers all the same.
        assert what in HARMLESS or ending == ".pt", "it was read"


def test_a_part_that_unpacks_to_more_than_it_says_is_not_unpacked(tmp_path: Path) -> None:
    """zipfile's own `read` unpacks up to 2 GiB before it looks at the size that was told."""
    resource = pytest.importorskip("resource")
    most = 300 << 20
    raw = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = b"".join([*(raw.compress(bytes(1 << 20)) for _ in range(most >> 20)), raw.flush()])
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("weight_ih_l0.npy", body)
    data = bytearray(path.read_bytes())
    for header, method, size in ((CENTRAL, 10, 24), (LOCAL, 8, 22)):
        field(header, method, "<H", 8)(data)
        field(header, size, "<I", 100)(data)
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"another size|damaged"):
        convert.load(path)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < most // 2


def test_numpys_headers_are_no_code(tmp_path: Path) -> None:
    """numpy reads an array's header as literals of Python's, which raise what they like."""
    for k, header in enumerate((b"(" * 5000, b"{" * 200, b"{'descr': '<f4'", b"-" * 9000, b"\x00", b"{}", b"9" * 6000)):
        path = tmp_path / f"{k}.npz"
        body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("weight_ih_l0.npy", body)
        with pytest.raises(InputError, match="damaged"):
            convert.load(path)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("number", [0x110000, 0x7FFFFFFF, 0xD800])
def test_numpys_strings_may_be_no_text(order: str, number: int, tmp_path: Path) -> None:
    path = honest(".npz", tmp_path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    stream = io.BytesIO()
    text = np.load(io.BytesIO(parts["gatewise.npy"])).astype(f"{order}U9000")
    np.save(stream, text)
    place = stream.getvalue().index("class".encode(f"utf-32-{'lb'[order == '>']}e"))
    for told, match in ((None, ""), (number, "is no text")):
        data = bytearray(stream.getvalue())
        if told is not None:
            struct.pack_into(f"{order}I", data, place, told)
        with zipfile.ZipFile(path, "w") as archive:
            for name, part in (parts | {"gatewise.npy": bytes(data)}).items():
                archive.writestr(name, part)
        if told is None:
            assert isinstance(convert.load(path), gatewise.LSTM)
        else:
            with pytest.raises(InputError, match=match):
                convert.load(path)


def test_an_honest_file_is_read(tmp_path: Path) -> None:
    for ending in ENDINGS:
        assert convert.load(honest(ending, tmp_path)) is not None
    np.savez_compressed(tmp_path / "c.npz", **{k: v.numpy() for k, v in gatewise.LSTM(4, 3).state_dict().items()})
    assert isinstance(convert.load(tmp_path / "c.npz"), gatewise.LSTM)
