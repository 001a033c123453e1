"""HDF5 files, read in a process of its own, which can be stopped.

The HDF5 library hangs or crashes on some damaged files, and nothing in Python can interrupt it. So `hdf5.py` runs as a
program, with a time and a memory that fit the file. What it says is checked as a stranger's: nothing of it is run or
unpickled.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from gatewise.convert.arrays import tensor
from gatewise.convert.keras import hdf5
from gatewise.errors import InputError, one_line

# Seconds. Python, numpy and h5py start in 0.25; from a slow or distant disk, or on a busy machine, in many times that.
START = 60.0
# From one answer to the next, and for all of them. On a busy machine 235 MB of numbers took 2 to 4, so a disk may give
# 1 MB/s; and 15 MB of nothing but tiny arrays took 38, of the 200 that this allows.
SILENCE, RATE, ALL = 5.0, 1e6, 10.0


@dataclass
class Stored:
    """The weights of a file of Keras's.

    config: the model's configuration as the file tells it, or None. version: Keras's, or "". flat: whether the owners
    are layers in Keras 2's order, or else paths as Keras 3 has them. arrays: by owner, with their names. labels: the
    names of layers by owner, where they are told.
    """

    config: str | None
    version: str
    flat: bool
    arrays: dict[str, list[tuple[str, Tensor]]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


def read(file: BinaryIO, name: str, told: bool = False) -> Stored:
    """The weights of an HDF5 file of Keras's.

    Args:
        file: on a disk, open. name: of the file, for errors. told: whether the configuration is known already.

    Raises:
        InputError: the file is damaged, hostile or not Keras's; or no process can be started here.
    """
    with _Answers(file, name, told=told) as answers:
        line = answers.line(config=str | None, version=str, flat=bool)
        stored = Stored(line["config"], line["version"], line["flat"])
        arrays = None
        while "end" not in (line := answers.line()):
            if "owner" in line:
                owner = answers.typed(line, owner=str, label=str)["owner"]
                if owner in stored.arrays:
                    raise InputError(f"{name}: two layers of it are called {owner}")
                arrays = stored.arrays[owner] = []
                if line["label"]:
                    stored.labels[owner] = line["label"]
            elif "array" in line and arrays is not None:
                answers.typed(line, array=str, dtype=str, shape=list)
                arrays.append((line["array"], answers.array(line["dtype"], line["shape"], f"{owner}/{line['array']}")))
            elif "group" not in line:
                raise answers.garbled()
    return stored


def copy(file: BinaryIO, name: str, target: Path) -> None:
    """Write an HDF5 file anew, so that who reads the copy meets nothing that the HDF5 library did not write.

    Args: file, name: as of `read`. target: the copy; it lies in a folder that is removed whatever comes.

    Raises: InputError: as `read`; or there is a link, or what is neither text nor numbers.
    """
    with _Answers(file, name, copy=str(target)) as answers:
        while "end" not in answers.line():
            pass


class _Answers:
    """What the process says, line by line; it is stopped when its time is up or nobody listens any more."""

    def __init__(self, file: BinaryIO, name: str, told: bool = False, copy: str = "") -> None:
        self.name, self.size = name, os.fstat(file.fileno()).st_size
        self.budget = hdf5.FLOOR + hdf5.GROWTH * self.size
        self.silence = SILENCE + self.size / RATE
        # All arrays in one, as the file has it and in the machine's order of bytes.
        task = {"path": _folders(), "seconds": START + ALL * self.silence, "memory": 2 * self.budget,
                "size": self.size, "told": told, "copy": copy}  # fmt: skip
        # No folder of the user's is searched, and no file of theirs runs at the start (-I, -S).
        self.command = [_python(name), "-I", "-S", hdf5.__file__, json.dumps(task)]
        self.file = file
        self.late: float | None = None  # after how many seconds it was stopped

    def __enter__(self) -> _Answers:
        self.errors = tempfile.TemporaryFile()
        try:
            self.process = subprocess.Popen(
                self.command,
                stdin=self.file,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                env={**os.environ, "OMP_NUM_THREADS": "1"},  # numpy starts no threads for what it is not asked
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows
            )
        except OSError as error:
            self.errors.close()
            raise InputError(f"{self.name}: {_NEEDS}, and {sys.executable} does not start: {error}") from None
        assert self.process.stdout is not None
        self.out = self.process.stdout
        self.heard, self.patience, self.last, self.ended = time.monotonic(), START, math.inf, threading.Event()
        self.watch = threading.Thread(target=self._watch, daemon=True)
        self.watch.start()
        try:
            if self._raw() != b'{"ready": true}\n':
                why = self._last_words() if self.late is None else f" within {self.late:.0f} seconds"
                raise InputError(f"{self.name}: {_NEEDS}, and {sys.executable} started none{why}")
            self.patience, self.last = self.silence, self.heard + ALL * self.silence
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.ended.set()
        self.watch.join()
        self.out.close()
        self.process.wait()
        self.errors.close()

    def _watch(self) -> None:
        """Stop the process where it is silent for too long, or speaks for too long."""
        while not self.ended.wait(0.1):
            now = time.monotonic()
            if now > min(self.last, self.heard + self.patience):
                self.late = self.patience if now <= self.last else ALL * self.silence
                self.process.kill()
                return

    def _raw(self) -> bytes:
        """The next line; nothing where the process has ended."""
        line = self.out.readline(hdf5.FLOOR + 8 * self.size)  # JSON writes a byte in up to six
        self.heard = time.monotonic()
        return line if line.endswith(b"\n") else b""

    def line(self, **types: Any) -> dict[str, Any]:
        """The next line, with values of these types.

        Raises: InputError: the process ended, refuses the file, or says something else.
        """
        text = self._raw()
        if not text:
            raise self._ended()
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            raise self.garbled() from None
        if not isinstance(line, dict):
            raise self.garbled()
        if "refused" in line:
            raise InputError(f"{self.name}: {_plain(line['refused'])}")
        if "damaged" in line:
            raise InputError(f"{self.name} is a damaged or truncated HDF5 file: {_plain(line['damaged'])}")
        return self.typed(line, **types)

    def typed(self, line: dict[str, Any], **types: Any) -> dict[str, Any]:
        if not all(key in line and isinstance(line[key], kind) for key, kind in types.items()):
            raise self.garbled()
        return line

    def array(self, dtype: str, shape: list[Any], what: str) -> Tensor:
        """The array of which the line before spoke."""
        import numpy as np

        if dtype not in (*hdf5.DTYPES, "bfloat16") or not all(type(size) is int and size >= 0 for size in shape):
            raise self.garbled()
        stored = np.dtype("int16" if dtype == "bfloat16" else dtype)
        self.budget -= math.prod(shape) * stored.itemsize
        if self.budget < 0 or len(shape) > 32:
            raise self.garbled()
        numbers = np.empty(shape, stored)
        left = numbers.reshape(-1).view(np.uint8).data
        while left:
            count = self.out.readinto(left)  # type: ignore[attr-defined]  # a BufferedReader
            if not count:
                raise self._ended()
            self.heard = time.monotonic()
            left = left[count:]
        if dtype == "bfloat16":
            return torch.from_numpy(numbers).view(torch.bfloat16)
        return torch.from_numpy(numbers) if stored.kind == "f" else tensor(numbers, what)

    def garbled(self) -> InputError:
        return InputError(f"{self.name} is a damaged HDF5 file: the process that reads it says what it should not")

    def _ended(self) -> InputError:
        """Why the process ended before it had said all."""
        if self.late is not None:
            return InputError(
                f"{self.name} was not read within {self.late:.0f} seconds, so it was stopped: a damaged HDF5 file,"
                f" on which the HDF5 library hangs; or, if the disk gives less than {RATE / 1e6:.0f} MB/s, copy it to a"
                " faster one"
            )
        code = self.process.wait()
        return InputError(
            f"{self.name} is a damaged HDF5 file: the HDF5 library crashed on it, with code {code}{self._last_words()}"
        )

    def _last_words(self) -> str:
        """The end of what the process wrote to its standard error."""
        self.errors.seek(max(0, self.errors.seek(0, os.SEEK_END) - 300))
        text = " ".join(self.errors.read().decode(errors="replace").split())
        return f": {text}" if text else ""


_NEEDS = "HDF5 is read in a process of its own"


def _python(name: str) -> str:
    """The interpreter to start.

    Raises: InputError: there is none that is known.
    """
    # A program with Python inside of it is no interpreter, and would be started a second time.
    if not sys.executable or getattr(sys, "frozen", False) or "py" not in Path(sys.executable).name.lower():
        raise InputError(
            f"{name}: {_NEEDS}, and this program's sys.executable is {sys.executable!r}, which is no Python: set it to "
            "the path of a Python interpreter of the same version, or save the model as .safetensors or .onnx"
        )
    return sys.executable


def _folders() -> list[str]:
    """Where numpy and h5py lie: of the folders that are searched here, those that have them as packages.

    The working folder is none, since a stranger's files may lie in it; unless gatewise itself is in there.
    """
    with contextlib.suppress(FileNotFoundError):  # the working folder is gone
        here = os.path.realpath(os.getcwd())
        if here != os.path.realpath(Path(hdf5.__file__).parents[3]):
            return [p for p in _absolute() if os.path.realpath(p) != here]
    return _absolute()


def _absolute() -> list[str]:
    return [
        path
        for path in sys.path
        if os.path.isabs(path) and any(os.path.exists(os.path.join(path, p, "__init__.py")) for p in ("numpy", "h5py"))
    ]


def _plain(text: object) -> str:
    """What the process says of a fault: one line, and text that can be printed."""
    return one_line(Exception(text)).encode("utf-8", "backslashreplace").decode()
