"""Random damage to files of every kind: each is read, or refused in one line, soon, and within the memory."""

from __future__ import annotations

import functools
import os
import shutil
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import randomize
from test_keras_files import PLAIN, sequential, weights, write
from torch import nn

import gatewise
from gatewise import cells, convert
from gatewise.errors import InputError

os.environ.setdefault("KERAS_BACKEND", "torch")  # read when Keras is first imported
pytestmark = pytest.mark.usefixtures("warm_reader")

SECONDS, MEMORY = 10, 1 << 30  # what a file of some kB may take
FEW, MANY = 25, 2000  # mutations of a kind, of which there are 16

Random = np.random.Generator


# --- honest files, a few kB each ---------------------------------------------------------------------


def net() -> nn.Module:
    return randomize(nn.Sequential(gatewise.LSTM(4, 3, batch_first=True), gatewise.GRU(3, 2, batch_first=True)))


def of_keras(path: Path, weights_only: bool = False) -> None:
    pytest.importorskip("keras")
    model = convert.save(randomize(gatewise.LSTM(4, 3, batch_first=True)), path.with_name("m.keras"))
    if path.name == "m.keras":
        return
    from gatewise.convert.keras.writing import library

    loaded = library().saving.load_model(path.with_name("m.keras"))
    assert model
    loaded.save_weights(path) if weights_only else loaded.save(path)


def of_keras_2(path: Path) -> None:
    pytest.importorskip("h5py")
    layers = {"l": weights(4, 4, 3), "g": weights(3, 3, 2)}
    config = sequential(("LSTM", PLAIN | {"units": 3, "name": "l"}), ("GRU", PLAIN | {"units": 2, "name": "g"}))
    write(path, layers, config)


def with_heap(path: Path) -> None:
    """Weights alone, their names as strings of any length, which HDF5 keeps in a heap."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["l"]
        group = file.create_group("l")
        group.attrs["weight_names"] = list(weights(4, 4, 3))
        for name, array in weights(4, 4, 3).items():
            group.create_dataset(name, data=array, compression="gzip", shuffle=True, fletcher32=True)


def of_onnx(path: Path) -> None:
    pytest.importorskip("onnx")
    convert.save(randomize(gatewise.LSTM(4, 3)), path)


def of_torch(path: Path, old: bool = False) -> None:
    state = {"epoch": 3, "state_dict": randomize(nn.LSTM(4, 3)).state_dict()}
    torch.save(state, path, _use_new_zipfile_serialization=not old)


def saved(path: Path) -> None:
    convert.save(net(), path)


def of_numpy(path: Path) -> None:
    np.savez_compressed(path, **{k: v.numpy() for k, v in net().state_dict().items()})


def of_a_run(path: Path) -> None:
    pytest.importorskip("lightning")
    from gatewise.tasks import text

    data = text.TextData("what a piece of work " * 40, steps=8, batch=4)
    text.fit(text.LanguageModel(cells.gru, data.vocabulary, hidden_size=7), data, epochs=1, out=path)


KINDS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "keras 2": ("a.h5", of_keras_2),
    "keras 2, strings in a heap": ("w.h5", with_heap),
    "keras 3, .h5": ("a.h5", of_keras),
    "keras 3, weights": ("a.weights.h5", functools.partial(of_keras, weights_only=True)),
    "keras 3": ("m.keras", of_keras),
    "onnx": ("a.onnx", of_onnx),
    "torch": ("a.pt", of_torch),
    "torch before 1.6": ("a.pt", functools.partial(of_torch, old=True)),
    "torch, ours": ("a.pt", saved),
    "safetensors": ("a.safetensors", saved),
    "numpy": ("a.npz", saved),
    "numpy, compressed": ("a.npz", of_numpy),
}


# --- damage ------------------------------------------------------------------------------------------


def part(data: bytearray, random: Random) -> slice:
    """A part of a file, mostly small, anywhere in it."""
    size = int(min(len(data), 2 ** random.uniform(0, 13)))
    start = int(random.integers(len(data) - size + 1))
    return slice(start, start + size)


def bits(data: bytearray, random: Random) -> None:
    for place in random.integers(len(data), size=random.integers(1, 9)):
        data[place] ^= 1 << int(random.integers(8))


def some(data: bytearray, random: Random) -> None:
    for place in random.integers(len(data), size=random.integers(1, 25)):
        data[place] = int(random.choice([0, 1, 127, 128, 255, int(random.integers(256))]))


def cut(data: bytearray, random: Random) -> None:
    del data[int(random.integers(len(data))) :]


def removed(data: bytearray, random: Random) -> None:
    del data[part(data, random)]


def doubled(data: bytearray, random: Random) -> None:
    where = part(data, random)
    data[where.start : where.start] = data[where]


def zeroed(data: bytearray, random: Random) -> None:
    where = part(data, random)
    data[where] = bytes(where.stop - where.start)


def large(data: bytearray, random: Random) -> None:
    """A number that is no honest size, into a field of 2, 4 or 8 bytes."""
    width = int(random.choice([2, 4, 8]))
    top = 2 ** (8 * width)
    values = [top - 1, top // 2 - 1, top // 2, top // 4, 0, len(data) % top, 65]
    place = int(random.integers(max(1, len(data) - width)))
    order = "little" if random.random() < 0.8 else "big"
    data[place : place + width] = values[random.integers(len(values))].to_bytes(width, order)


def spliced(data: bytearray, random: Random) -> None:
    """A part in another's place."""
    where, other = part(data, random), part(data, random)
    data[where] = data[other]


DAMAGE = (bits, some, cut, removed, doubled, zeroed, large, large, spliced)


def damaged(data: bytes, random: Random) -> tuple[bytes, str]:
    """A file with one to three kinds of damage, and which."""
    made, names = bytearray(data), []
    for _ in range(int(random.choice([1, 1, 1, 2, 3]))):
        damage = DAMAGE[random.integers(len(DAMAGE))]
        if made:
            damage(made, random)
            names.append(damage.__name__)
    return bytes(made), "+".join(names)


# --- the test ----------------------------------------------------------------------------------------


def fault(source: Path) -> str:
    """What is wrong about how a file is read or refused, or ''."""
    resource = pytest.importorskip("resource")
    memory, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    wrong = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that overflow; a warning is no error
            module = convert.load(source)
        if not isinstance(module, nn.Module):
            wrong = f"gave a {type(module).__name__}"
    except InputError as error:
        if "\n" in str(error) or not str(error) or len(str(error)) > 2000:
            wrong = f"a message of several lines, or too long: {error!r:.300}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "gatewise" in f.filename][-1]
        wrong = f"{error!r:.200} at {where.filename}:{where.lineno}, from {ours.filename}:{ours.lineno}"
    if (seconds := time.monotonic() - started) > SECONDS:
        wrong += f" {seconds:.0f} s"
    if (more := (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) << 10) > MEMORY:
        wrong += f" {more >> 20} MiB of memory"
    return wrong


def check(
    source: Path, numbers: Sequence[int], read: Callable[[], bytes], write: Callable[[bytes], object], name: str
) -> None:
    """Damage a file in many ways; one that hangs for ever lies in the test's folder, to look at."""
    whole = read()
    assert fault(source) == "", "as it is"
    wrong = []
    for number in numbers:
        data, how = damaged(whole, np.random.default_rng([17, number]))
        write(data)
        if what := fault(source):
            wrong.append(f"mutation {number} of {name} ({how}): {what}")
    write(whole)
    assert not wrong, f"{len(wrong)} of {len(numbers)}:\n" + "\n".join(wrong[:40])


def check_inside(path: Path, numbers: Sequence[int]) -> None:
    """Damage each part of a zip, in an archive that is whole: its sums would tell of all other damage."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}

    def write(name: str, data: bytes) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for other, part in parts.items():
                archive.writestr(other, data if other == name else part)

    each = -(-len(numbers) // len(parts))
    for name, part in parts.items():
        if part:
            check(path, numbers[:each], functools.partial(parts.get, name), functools.partial(write, name), name)


def check_kind(kind: str, folder: Path, numbers: Sequence[int]) -> None:
    name, make = KINDS[kind.removesuffix(INSIDE)]
    path = folder / name
    make(path)
    if kind.endswith(INSIDE):
        check_inside(path, numbers)
    else:
        check(path, numbers, path.read_bytes, path.write_bytes, name)


INSIDE = ", inside"
ALL = [*KINDS, f"keras 3{INSIDE}", f"torch{INSIDE}", f"numpy{INSIDE}"]


@pytest.mark.parametrize("kind", ALL)
def test_damaged_files_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    check_kind(kind, tmp_path, range(FEW))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL)
def test_many_damaged_files_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    check_kind(kind, tmp_path, range(FEW, FEW + MANY))


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("fuzz") / "run"
    of_a_run(path)
    yield path
    shutil.rmtree(path)


def files_of(run: Path) -> list[Path]:
    return sorted(p for p in run.iterdir() if p.suffix != ".png")


@pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_damaged_runs_are_read_or_refused(many: bool, a_run: Path) -> None:
    files: list[Any] = files_of(a_run)
    assert len(files) > 3
    each = -(-(MANY if many else FEW) // len(files))
    for file in files:
        check(a_run, range(each), file.read_bytes, file.write_bytes, file.name)
