"""A run's folder, and files that are written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from gatewise.errors import InputError, one_line

SETTINGS = "settings.json"
FORMAT = 1


def free(path: Path, force: bool = False) -> None:
    """Check that a file of this name may be written, before anything is computed for it.

    Args:
        path: where a user wants it. force: whether they want what is there to be overwritten.

    Raises:
        InputError: its folder is not there, or can't be written into; a folder or a device has the name; or something
            is there, and `force` is false.
    """
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} to write {path.name} into: make it, or name another")
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a file to write")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is a device or a pipe, expected a file to write")
    if not force:
        _taken(path)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: nothing may be written into the folder {path.parent}: name another")


def _taken(path: Path) -> None:
    """Refuse a name that something has."""
    if path.is_symlink():
        gone = "" if path.exists() else ", which is not there"
        raise InputError(
            f"{path} is a link to {os.readlink(path)}{gone}: name another file, or replace the link with --force"
            " (force=True)"
        )
    if path.exists():
        raise InputError(f"{path} exists already: name another file, or overwrite it with --force (force=True)")


def write(path: Path, data: str | bytes, force: bool = True) -> None:
    """Write a file so that a kill, a full disk or a power cut leaves the old one or the new one, whole.

    A link of that name is replaced; what it leads to stays.

    Args:
        path: the file; its folder exists.
        data: bytes, or text that is written as UTF-8.
        force: whether a file that is there is overwritten.

    Raises:
        InputError: something is there, and `force` is false.
        OSError: as the system reports it, such as "No space left on device"; the old file still stands.
    """
    part = path.with_name(f".{path.name}.part")  # a killed writer's rest is overwritten by the next one
    claimed = False
    try:
        with open(part, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        if not force:
            open(path, "xb").close()  # of two that write at once, the second is refused here
            claimed = True
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if claimed:
            path.unlink(missing_ok=True)
        elif isinstance(error, FileExistsError):
            _taken(path)
        if isinstance(error, OSError) and error.filename is None:  # as of a full disk
            error.filename = str(path)
        raise
    if os.name == "posix":  # the new name reaches the disk with its folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Run:
    """A run's folder: settings, cell, checkpoints, history, curves and report of one training.

    Use `Run.create` for a new one and `Run.open` for one that exists.

    Args:
        path: the folder.
        report: the file that is written last, when all is done, such as a sample of what the model does.
    """

    def __init__(self, path: str | os.PathLike[str], report: str = "report.txt") -> None:
        self.path = Path(path)
        self.best = self.path / "best.safetensors"
        self.last = self.path / "last.safetensors"
        self.metrics = self.path / "metrics.csv"
        self.curves = self.path / "curves.png"
        self.report = self.path / report

    @classmethod
    def create(cls, path: str | os.PathLike[str] | None, task: str, report: str = "report.txt") -> "Run":
        """Make the folder of a new run.

        Args:
            path: the folder, new or empty; None takes the next free `runs/TASK-N`.
            task: the task's name.
            report: the file that is written last.

        Raises:
            InputError: the folder holds something already.
        """
        if path is None:
            return cls._next_free(Path("runs"), task, report)
        run = cls(path, report)
        if (run.path / SETTINGS).exists():
            raise InputError(
                f"{run.path} already holds a run: choose another folder with --out,"
                f" or continue it with --resume {run.path}"
            )
        if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            raise InputError(f"{run.path} is not an empty folder: choose another one with --out")
        run.path.mkdir(parents=True, exist_ok=True)
        return run

    @classmethod
    def _next_free(cls, runs: Path, task: str, report: str) -> "Run":
        runs.mkdir(exist_ok=True)
        taken = [path.name.removeprefix(f"{task}-") for path in runs.glob(f"{task}-*")]
        number = 1 + max((int(name) for name in taken if name.isdecimal()), default=0)
        while True:
            try:
                (runs / f"{task}-{number}").mkdir()
            except FileExistsError:  # another training took it between the look and the step
                number += 1
            else:
                return cls(runs / f"{task}-{number}", report)

    @classmethod
    def open(cls, path: str | os.PathLike[str], task: str, report: str = "report.txt") -> "Run":
        """Open the folder of an existing run.

        Raises:
            InputError: there is no such folder, or it holds no run of this task.
        """
        run = cls(path, report)
        if not run.path.is_dir():
            raise InputError(f"there is no folder {run.path}: give the folder that a training wrote")
        if not (run.path / SETTINGS).exists():
            raise InputError(f"{run.path} holds no run (it has no {SETTINGS}): give the folder that a training wrote")
        found = run.settings()["task"]
        if found != task:
            raise InputError(f"{run.path} holds a run of the task {found!r}, expected {task!r}")
        return run

    def write(self, name: str, data: str | bytes) -> None:
        """Write one of the run's files, whole or not at all."""
        write(self.path / name, data)

    def write_settings(self, task: str, settings: dict[str, Any]) -> None:
        """Write the settings; a run exists from here on, so this comes after all else that it needs."""
        self.write(SETTINGS, json.dumps({"task": task, "format": FORMAT, **settings}, indent=2) + "\n")

    def settings(self) -> dict[str, Any]:
        """The settings as they were written.

        Raises:
            InputError: the file is damaged, or a later gatewise wrote it.
        """
        try:
            settings = json.loads(self.read(SETTINGS))
            task, form = settings["task"], settings["format"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"{self.path / SETTINGS} is damaged ({one_line(error)}): restore it, or train anew"
            ) from error
        if not isinstance(task, str) or form != FORMAT:
            raise InputError(f"{self.path / SETTINGS} has format {form!r}, expected {FORMAT}: update gatewise")
        return dict(settings)

    def read(self, name: str) -> str:
        """One of the run's text files.

        Raises:
            InputError: it is absent or not UTF-8.
        """
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise InputError(f"{self.path} has no {name}: restore it, or train anew") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path / name} is damaged ({one_line(error)}): restore it, or train anew") from error
