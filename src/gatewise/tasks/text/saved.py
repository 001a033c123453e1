"""A run read back: the model of a checkpoint, with neither Lightning nor the file that its cell came from."""

import json
import os
from dataclasses import asdict

import gatewise
from gatewise.tasks import checkpoint
from gatewise.tasks.errors import InputError, choose
from gatewise.tasks.run import Run
from gatewise.tasks.text.data import Vocabulary
from gatewise.tasks.text.model import LanguageModel
from gatewise.tasks.text.settings import TextSettings

TASK = "text"
CELL = "cell.txt"
VOCABULARY = "vocabulary.json"


def load(path: str | os.PathLike[str], which: str = "best") -> LanguageModel:
    """The model of a run, from the cell's text and a checkpoint; no file of the user's is run.

    Args:
        path: the run's folder.
        which: `"best"` or `"last"`, the checkpoint.

    Raises:
        InputError: there is no such run or checkpoint, or one of its files is damaged.
    """
    run = Run.open(path, TASK)
    choose("checkpoint", which, ("best", "last"))
    file = run.best if which == "best" else run.last
    if not file.exists():
        raise InputError(f"{run.path} has no {which} checkpoint yet: train on with --resume {run.path}")
    model = build(cell_of(run), vocabulary_of(run), settings_of(run))
    weights = checkpoint.load(file)["state_dict"]
    try:
        model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in weights.items()})
    except RuntimeError as error:
        raise InputError(f"{file} does not fit the settings of its run: restore the folder, or train anew") from error
    return model.eval()


def build(cell: "gatewise.Graph", vocabulary: Vocabulary, settings: TextSettings) -> LanguageModel:
    """The model of a cell and the settings' sizes, with initial weights.

    Raises:
        InputError: they do not go together.
    """
    sizes = asdict(settings.model)
    del sizes["cell"]  # its name; the cell itself is given
    try:
        return LanguageModel(cell, vocabulary, **sizes)
    except ValueError as error:  # such as a cell with a projection
        raise InputError(str(error)) from error


def settings_of(run: Run) -> TextSettings:
    """The choices that a run was begun with, or last went on with.

    Raises:
        InputError: they are damaged.
    """
    values = run.settings()
    try:
        return TextSettings.from_dict(values)
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"the settings in {run.path} are damaged ({error}): restore them, or train anew") from error


def cell_of(run: Run) -> "gatewise.Graph":
    """The cell of a run, from its text.

    Raises:
        InputError: it is damaged.
    """
    try:
        return gatewise.Graph.parse(run.read(CELL))
    except gatewise.CellError as error:
        raise InputError(f"{run.path / CELL} is damaged ({error}): restore it, or train anew") from error


def vocabulary_of(run: Run) -> Vocabulary:
    """The characters of a run.

    Raises:
        InputError: they are damaged.
    """
    try:
        return Vocabulary(json.loads(run.read(VOCABULARY)))
    except (ValueError, TypeError) as error:
        raise InputError(f"{run.path / VOCABULARY} is damaged ({error}): restore it, or train anew") from error


def prompt_of(path: str | os.PathLike[str]) -> str:
    """The first prompt that the run itself continues."""
    return settings_of(Run.open(path, TASK)).sample.prompts[0]
