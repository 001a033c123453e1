"""`gatewise train TASK`: a command whose options come from the task's settings."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args, get_type_hints

import typer

from gatewise.cli.errors import one_line_errors
from gatewise.errors import InputError
from gatewise.tasks.settings import ACCELERATORS, OPTIMIZERS, PRECISIONS, SCHEDULES, TaskSettings

if TYPE_CHECKING:
    from gatewise.tasks.fit import Result


def helped(text: str, default: str) -> str:
    """The help of an option with its default; typer would put parentheses around a default that it is told."""
    return f"{text} [dim]\\[default: {default}][/]"


class Flag(NamedTuple):
    """How an option is shown; its type and its default are those of the settings.

    Args:
        panel: under which heading.
        help: one sentence.
        metavar: what stands for the value; None takes the type's name.
        default: what is shown for a default of None; None takes "none".
    """

    panel: str
    help: str
    metavar: str | None = None
    default: str | None = None


CELL = Flag(
    "Model",
    "A built-in cell, such as [b]gru[/], [b]lstm[/], [b]rnn[/]; or your own equations.",
    "NAME|FILE.py:NAME",
)
# What every task has; a task's own flags come behind them.
COMMON = {
    "cell": CELL,
    "hidden": Flag("Model", "H: units of the state."),
    "layers": Flag("Model", "Recurrent layers on top of each other."),
    "dropout": Flag("Model", "Share of units silenced between layers in training."),
    "optimizer": Flag("Training", "The rule that turns gradients into steps.", "|".join(OPTIMIZERS)),
    "lr": Flag("Training", "Learning rate."),
    "schedule": Flag(
        "Training",
        "[b]linear[/] lets the rate fall to 0 over the epochs, so that the last ones settle.",
        "|".join(SCHEDULES),
    ),
    "clip": Flag("Training", "Largest norm of all gradients together; 0 for no limit."),
    "epochs": Flag("Training", "Passes over the training data."),
    "minutes": Flag("Training", "End with the first epoch after so many minutes; alone, there is no other limit."),
    "seed": Flag("Training", "Of first weights, order and dropout: the same seed, the same run."),
    "precision": Flag("Run", "Numbers to compute with.", "|".join(PRECISIONS)),
    "devices": Flag("Run", "Devices that share each batch."),
    "accelerator": Flag("Run", "Where to compute; auto takes a GPU.", "|".join(ACCELERATORS)),
    "threads": Flag("Run", "CPU threads; more pay off from some 500 units on, and change the last bits."),
}
CHECKPOINT = Annotated[
    str | None,
    typer.Option(help=helped("Which weights.", "best; last where nothing was held out"), metavar="best|last"),
]
# Of each command that writes a file which the user names.
FORCE = Annotated[bool, typer.Option("--force", help="Overwrite a file that is there already.")]
PANELS = ("Data", "Model", "Training", "Run")


def train_command(
    name: str,
    settings: type[TaskSettings],
    flags: Mapping[str, Flag],
    summarise: Callable[["Result"], None],
    help: str,
    *,
    recipe: str | None = None,
    downloads: str | None = None,
) -> Callable[..., None]:
    """The function of `gatewise train NAME`, for typer.

    Args:
        name: the task's.
        settings: the class of its settings.
        flags: its own flags; one of `COMMON` by the same name is replaced.
        summarise: prints what came of it.
        help: what the command does, a first line and more.
        recipe: the help of `--recipe`, for a task that has recipes.
        downloads: what `--data-dir` holds, for a task that downloads.

    Raises:
        KeyError: a flag has no place in the settings.
    """
    shown = {**COMMON, **flags}
    defaults = settings.of()
    options: dict[str, Any] = {}
    for panel in PANELS:
        for flag, form in shown.items():
            if form.panel == panel:
                options[flag] = _option(settings, defaults, flag, form)
        if panel == "Data" and downloads:
            options["data_dir"] = Annotated[
                Path | None,
                typer.Option(help=helped(downloads, "~/.cache/gatewise"), rich_help_panel=panel),
            ]
        if panel == "Training" and recipe:
            options["recipe"] = Annotated[
                str | None,
                typer.Option(help=recipe, rich_help_panel="Run", metavar="|".join(settings.RECIPES)),
            ]
    options["out"] = Annotated[
        Path | None,
        typer.Option(
            help=helped("Folder for the run, new or empty.", f"next free runs/{name}-N"), rich_help_panel="Run"
        ),
    ]
    options["resume"] = Annotated[
        Path | None,
        typer.Option(
            help="Go on with the run in this folder, stopped or killed; needs no other option, and"
            " --epochs or --minutes set a new limit.",
            rich_help_panel="Run",
            metavar="RUN",
        ),
    ]

    def command(**given: Any) -> None:
        out, resume, chosen = given.pop("out"), given.pop("resume"), given.pop("recipe", None)
        places = (given.pop("data_dir"),) if downloads else ()
        with one_line_errors():
            if resume is not None and (out is not None or chosen is not None):
                raise InputError("--resume takes folder and recipe from the run: leave --out and --recipe out")
            if resume is not None:
                result = _task(name).resume(resume, *places, **given)
            else:
                wanted = settings.of(chosen, **given)  # wrong values are refused before torch is loaded
                result = _task(name).train(wanted, out, *places)
            from gatewise.tasks.fit import is_first_process

            if is_first_process():
                summarise(result)
                _hint(name, result)

    parameters = {flag.replace("-", "_"): option for flag, option in options.items()}
    command.settings = settings  # type: ignore[attr-defined]  # for whoever asks the command, as a test does
    # Typer keeps the breaks of lines, which are ours, within paragraphs.
    command.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in help.split("\n\n"))
    command.__annotations__ = {**parameters, "return": None}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what typer reads the options from
        [
            inspect.Parameter(parameter, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
            for parameter, option in parameters.items()
        ]
    )
    return command


def _task(name: str) -> Any:
    """The task's module, with `train` and `resume`; imported when its command runs."""
    return importlib.import_module(f"gatewise.tasks.{name}")


def _option(settings: type[TaskSettings], defaults: TaskSettings, flag: str, form: Flag) -> Any:
    """A flag as typer wants it: None where it is not given, so that a recipe can change its default."""
    section, field = settings.FLAGS[flag]
    kind = get_type_hints(type(getattr(defaults, section)))[field]
    kinds = [part for part in get_args(kind) if part is not type(None)] if type(None) in get_args(kind) else [kind]
    kind = list[get_args(kinds[0])[0]] if get_args(kinds[0]) else kinds[0]  # type: ignore[misc]  # of a tuple
    default = defaults.flag(flag)
    shown = form.default or ("no limit" if flag in ("epochs", "minutes") else "none")
    if default not in (None, (), ""):
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    name = f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}"
    option = typer.Option(name, help=helped(form.help, shown), rich_help_panel=form.panel, metavar=form.metavar)
    return Annotated[kind | None, option]


def _hint(name: str, result: "Result") -> None:
    """Say so where longer training would have gone on to learn."""
    last = result.history[-1]
    if "held_out_loss" in last and len(result.history) > 1 and result.best is last:
        more = f"gatewise train {name} --resume {result.run.path} --epochs {2 * int(last['epoch'])}"
        print(f"the held-out loss was lowest in the last epoch; to learn on: {more}")


def list_files(result: "Result", *names: str) -> None:
    """Name the files of a run, for the end of a summary."""
    run = result.run
    for path in (run.best, run.last, run.metrics, run.curves, *(run.path / name for name in names), run.report):
        print(f"  {path}")
