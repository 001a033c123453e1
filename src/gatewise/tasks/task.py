"""A task: what one kind of training adds to the shared way of training, keeping, resuming and reading back."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from torch import nn

import gatewise
from gatewise.errors import InputError, choose, one_line, require
from gatewise.tasks import checkpoint
from gatewise.tasks.run import Run
from gatewise.tasks.settings import TaskSettings

if TYPE_CHECKING:
    from gatewise.tasks.fit import Result
    from gatewise.tasks.trainee import Trainee

CELL = "cell.txt"


class Data(Protocol):
    """What every task's data have."""

    settings: Any  # the section `data`; its `source` is "" for data that were given from Python
    sha256: str  # of all that the training reads: a run goes on with the same data or not at all


S = TypeVar("S", bound=TaskSettings)
D = TypeVar("D", bound=Data)
M = TypeVar("M", bound=nn.Module)


class Task(Generic[S, D, M]):
    """One kind of training: of which data, which model, by which loss. A task derives from it, and has one object.

    A run's folder holds the settings, the cell as text, the facts, checkpoints, the history and the curves; a task
    adds its own files in `finish`.

    Class attributes:
        name: as in `gatewise train NAME` and `runs/NAME-1`.
        Settings: the class of its settings.
        facts_file: holds as JSON what the model needs besides settings and weights, such as a vocabulary.
        report: the file that `finish` writes last; a run without it is not finished.
        metric: the metric in the curves, one of the history's columns without `train_`.
    """

    name: str
    Settings: type[S]
    facts_file: str
    report: str
    metric: str = "loss"

    # What a task adds.

    def read(self, settings: S, data_dir: Path | None) -> D:
        """The data, made ready; what cannot be used raises InputError here, before a folder is made.

        Args:
            settings: all choices.
            data_dir: the folder of downloads; None means `~/.cache/gatewise`.
        """
        raise NotImplementedError

    def facts(self, data: D) -> Any:
        """What `build` must know of the data, as a value that JSON can hold."""
        raise NotImplementedError

    def build(self, cell: "gatewise.Graph", facts: Any, settings: S) -> M:
        """The model with initial weights; ValueError where the sizes do not go together."""
        raise NotImplementedError

    def trainee(self, model: M, data: D, settings: S) -> "Trainee":
        """The model in training."""
        raise NotImplementedError

    def model_settings(self, model: M) -> Any:
        """The section `model`: sizes from which a model with the same parameters can be built."""
        return model.settings()  # type: ignore[operator]  # every task's model has them

    def misfit(self, model: M, data: D) -> str | None:
        """What of the model belongs to other data, such as "the vocabulary"; None if it was made for these."""
        raise NotImplementedError

    def finish(self, result: "Result", model: M, data: D, settings: S) -> None:
        """Judge the trained model, and write the task's own files into the run, `report` last.

        Args:
            result: the run and its history.
            model: with the best weights where data are held out, else with the last ones; in evaluation mode.
            data: the data.
            settings: all choices.
        """
        raise NotImplementedError

    def title(self, model: M, settings: S) -> str:
        """What stands above the curves."""
        layer: Any = model.layer
        return f"{layer.cell.name}, H = {layer.hidden_size}, on {settings.data.source or self.name + ' data'}"

    def holds_out(self, settings: S) -> bool:
        """Whether some of the data is not learned, so that the best checkpoint can be chosen by it."""
        return bool(settings.data.holdout)

    def checked(self, settings: S, data: D) -> S:
        """The settings, completed from the data; what would fail after hours of training is better refused here."""
        return settings

    # What all tasks share.

    def train(self, settings: S, out: Path | None = None, data_dir: Path | None = None) -> "Result":
        """Read the data, build the model and train it, as the settings say.

        Args:
            settings: all choices.
            out: the folder, new or empty; None takes the next free `runs/NAME-N`.
            data_dir: the folder of downloads; None means `~/.cache/gatewise`.

        Raises:
            As `fit`, and InputError for data or a cell that cannot be used; nothing is written before all that can
            be checked has been.
        """
        result: Result = _training().train(self, settings, out, data_dir)
        return result

    def fit(
        self,
        model: M,
        data: D,
        *,
        out: str | os.PathLike[str] | None = None,
        resume: bool = False,
        logger: Any = False,
        **choices: Any,
    ) -> "Result":
        """Train a model, and keep the run in a folder.

        Args:
            model: the model; it is trained in place and ends with the last weights (`load` gives the best ones).
            data: the data.
            out: the folder, new or empty; None takes the next free `runs/NAME-N`.
            resume: go on with the run in `out`, whose model and data were the same.
            logger: one for Lightning's Trainer, several, or False.
            choices: `optimizer`, `lr`, `schedule`, `clip`, `epochs`, `minutes`, `seed`, `precision`, `devices`,
                `accelerator`, `threads`; see `FitSettings`. A run that goes on keeps its own; `epochs` and `minutes`
                set a new limit.

        Returns:
            The run's folder and its history.

        Raises:
            InputError: a choice is out of its range, the folder holds a run, or a run that is to go on does not fit.
            KeyboardInterrupt: stopped by Ctrl-C; the text says how to go on.
            OSError: the folder cannot be written.
        """
        result: Result = _training().fit(self, model, data, out, resume, logger, choices)
        return result

    def resume(self, path: str | os.PathLike[str], data_dir: Path | None = None, **flags: Any) -> "Result":
        """Go on with a run that was stopped or killed, from its last checkpoint; without one, from the beginning.

        Args:
            path: the run's folder.
            data_dir: the folder of downloads; None means `~/.cache/gatewise`.
            flags: as for `Settings.of`. `epochs` and `minutes` replace the run's limits; any other must be what the
                run was begun with.

        Raises:
            InputError: there is no such run, a flag contradicts it, its data have changed, or it is finished.
        """
        result: Result = _training().resume(self, path, data_dir, flags)
        return result

    def load(self, path: str | os.PathLike[str], which: str | None = None) -> M:
        """The model of a run, from the cell's text and a checkpoint; no file of the user's is run.

        Args:
            path: the run's folder.
            which: `"best"` or `"last"`, the checkpoint; None takes the best by the held-out loss, and the last one
                where nothing is held out: of what is learned, the best epoch is one among lucky ones.

        Returns:
            The model in evaluation mode.

        Raises:
            InputError: there is no such run or checkpoint, or one of its files is damaged.
        """
        run = self.open(path)
        settings = self.settings_of(run)
        which = which or ("best" if self.holds_out(settings) else "last")
        choose("checkpoint", which, ("best", "last"))
        file = run.best if which == "best" else run.last
        if not file.exists():
            raise InputError(f"{run.path} has no {which} checkpoint yet: train on with --resume {run.path}")
        cell, facts = self.cell_of(run), self.facts_of(run)
        try:
            model = self.built(cell, facts, settings)
        except (TypeError, KeyError, AttributeError, IndexError) as error:  # JSON, but not the task's
            raise _damaged(run.path / self.facts_file, error) from error
        weights = checkpoint.load(file)["state_dict"]
        try:
            model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in weights.items()})
        except RuntimeError as error:
            raise InputError(
                f"{file} does not fit the settings of its run: restore the folder, or train anew"
            ) from error
        return model.eval()

    def open(self, path: str | os.PathLike[str]) -> Run:
        """The folder of an existing run of this task.

        Raises:
            InputError: there is no such folder, or it holds no run of this task.
        """
        return Run.open(path, self.name, self.report)

    def settings_of(self, run: Run) -> S:
        """The choices that a run was begun with, or last went on with.

        Raises:
            InputError: they are damaged.
        """
        values = run.settings()
        try:
            return self.Settings.from_dict(values)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise InputError(
                f"the settings in {run.path} are damaged ({error}): restore them, or train anew"
            ) from error

    def cell_of(self, run: Run) -> "gatewise.Graph":
        """The cell of a run, from its text.

        Raises:
            InputError: it is damaged.
        """
        try:
            return gatewise.Graph.parse(run.read(CELL))
        except gatewise.CellError as error:
            raise _damaged(run.path / CELL, error) from error

    def facts_of(self, run: Run) -> Any:
        """What the run keeps of its data for the model.

        Raises:
            InputError: it is damaged.
        """
        try:
            return json.loads(run.read(self.facts_file))
        except (ValueError, RecursionError) as error:
            raise _damaged(run.path / self.facts_file, error) from error

    def built(self, cell: "gatewise.Graph", facts: Any, settings: S) -> M:
        """As `build`.

        Raises:
            InputError: the sizes do not go together.
        """
        try:
            return self.build(cell, facts, settings)
        except ValueError as error:  # such as a cell with a projection
            raise InputError(str(error)) from error


def _training() -> Any:
    """The module that trains, loaded late: Lightning takes seconds to import."""
    require("lightning", "matplotlib", "rich", "safetensors")
    from gatewise.tasks import training

    return training


def _damaged(what: Path | str, error: Exception) -> InputError:
    return InputError(f"{what} is damaged ({one_line(error)}): restore it, or train anew")
