"""The folder of a run that `gatewise train` wrote, as its model."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import NoReturn

from torch import nn

from gatewise.convert.report import Conversion, Mapped, NoRuntime
from gatewise.errors import InputError
from gatewise.layer import Layer
from gatewise.tasks.run import SETTINGS, Run

TASKS = ("text", "forecast", "translate", "classify")


def read(source: str | os.PathLike[str], like: nn.Module | None = None) -> Conversion:
    """The trained model of a run, in evaluation mode, with its best weights (its last where nothing was held out).

    Raises: InputError: the folder holds no run, or a damaged one.
    """
    path = Path(source)
    if like is not None:
        raise InputError(f"{path} is a run, which tells its model itself: leave `like` out")
    if not (path / SETTINGS).exists():
        raise InputError(f"{path} holds no run (it has no {SETTINGS}): give the folder that a training wrote")
    task = Run(path).settings()["task"]
    if task not in TASKS:
        raise InputError(f"{path} holds a run of the task {task!r}, expected one of {', '.join(TASKS)}")
    model = importlib.import_module(f"gatewise.tasks.{task}").load(path)
    assert isinstance(model, nn.Module)
    mapped = [
        Mapped(f"{name}, of {type(model).__name__}", repr(child), child.cell.name if isinstance(child, Layer) else "")
        for name, child in model.named_modules()
        if name and not list(child.children())
    ]
    return Conversion(model, "run", mapped)


def write(module: nn.Module, path: Path) -> NoReturn:
    """A run is written by a training, and by nothing else."""
    raise InputError(f"{path}: a run's folder comes of a training alone: gatewise train")


def runtime(source: str | os.PathLike[str]) -> NoReturn:
    raise NoRuntime("a run has no runtime but gatewise")
