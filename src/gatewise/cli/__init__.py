"""The command line, a thin skin over the library: one module for each group of commands."""

import io
import sys
from collections.abc import Callable

try:
    import typer
except ImportError:
    sys.exit('gatewise: the command line needs typer, which is not installed: pip install "gatewise[train]"')

from gatewise.cli import classify, convert, forecast, inside, text, translate

# torch and Lightning take seconds to import: the commands import them when they run.
app = typer.Typer(
    name="gatewise",
    help="Recurrent layers whose equations you can read, change and watch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train = typer.Typer(
    help="Train a model: a task's data, any cell, one folder with all that came of it.", no_args_is_help=True
)
app.add_typer(train, name="train")

train.command("text")(text.train_text)
train.command("forecast")(forecast.train_forecast)
train.command("translate")(translate.train_translate)
train.command("classify")(classify.train_classify)
COMMANDS: tuple[Callable[..., None], ...] = (
    *(text.generate, forecast.forecast, translate.translate, classify.classify),
    *(inside.equations, inside.shapes, inside.diagram, inside.explore),
    convert.convert,
)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """The console command `gatewise`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal lacks is no reason to stop
            stream.reconfigure(errors="replace")
    app()
