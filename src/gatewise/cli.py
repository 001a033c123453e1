"""The command line: `gatewise train text`, `generate`, `shapes`, `equations`, `explore`. A skin over the package."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gatewise.tasks.errors import InputError, MissingPackageError, choose
from gatewise.tasks.settings import ACCELERATORS, OPTIMIZERS, PRECISIONS, positive
from gatewise.tasks.text.settings import INITS, RECIPES, SAMPLINGS, TextSettings

try:
    import typer
except ImportError:
    sys.exit('gatewise: the command line needs typer, which is not installed: pip install "gatewise[train]"')

if TYPE_CHECKING:
    from gatewise.tasks.fit import Result

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

DEFAULTS = TextSettings()
DTYPES = ("float64", "float32", "bfloat16", "float16")


def _choice(flag: str, panel: str, text: str, metavar: str | None = None) -> Any:
    """An option whose default comes from the settings, so that a recipe can change it, and is shown from there."""
    default = DEFAULTS.flag(flag)
    return typer.Option(
        f"--{flag}",
        help=text,
        rich_help_panel=panel,
        metavar=metavar,
        show_default="no limit" if default is None else str(default),
    )


@train.command("text")
def train_text(
    data: Annotated[
        str | None,
        _choice(
            "data",
            "Data",
            "[b]python-docs[/], the language reference inside CPython; [b]time-machine[/], H. G. Wells' novel"
            " (downloaded once); or the path of any UTF-8 file.",
            "NAME|FILE",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of downloaded texts.", rich_help_panel="Data", show_default="~/.cache/gatewise"),
    ] = None,
    holdout: Annotated[
        float | None,
        _choice(
            "holdout", "Data", "Share at the text's end that is not learned but tells how well new text is predicted."
        ),
    ] = None,
    steps: Annotated[
        int | None, _choice("steps", "Data", "T: characters in a window; gradients reach back as far.")
    ] = None,
    batch: Annotated[
        int | None, _choice("batch", "Data", "B: windows side by side in one step of the optimizer.")
    ] = None,
    sampling: Annotated[
        str | None,
        _choice(
            "sampling",
            "Data",
            "[b]sequential[/] carries the state from window to window; [b]random[/] shuffles them.",
            "|".join(SAMPLINGS),
        ),
    ] = None,
    cell: Annotated[
        str | None,
        _choice(
            "cell",
            "Model",
            "A built-in cell, such as [b]gru[/], [b]lstm[/], [b]rnn[/]; or your own equations.",
            "NAME|FILE.py:NAME",
        ),
    ] = None,
    hidden: Annotated[int | None, _choice("hidden", "Model", "H: units of the state.")] = None,
    layers: Annotated[int | None, _choice("layers", "Model", "Recurrent layers on top of each other.")] = None,
    dropout: Annotated[
        float | None,
        _choice("dropout", "Model", "Share of units silenced between layers in training."),
    ] = None,
    init: Annotated[
        str | None,
        _choice(
            "init",
            "Model",
            "First weights: as [b]torch[/] draws them, or as the [b]d2l[/] book does from scratch, N(0, 0.01²)"
            " with one zero bias a gate.",
            "|".join(INITS),
        ),
    ] = None,
    optimizer: Annotated[
        str | None, _choice("optimizer", "Training", "The rule that turns gradients into steps.", "|".join(OPTIMIZERS))
    ] = None,
    lr: Annotated[float | None, _choice("lr", "Training", "Learning rate.")] = None,
    clip: Annotated[
        float | None, _choice("clip", "Training", "Largest norm of all gradients together; 0 for no limit.")
    ] = None,
    epochs: Annotated[
        int | None, _choice("epochs", "Training", "Passes over the text; --minutes replaces them.")
    ] = None,
    minutes: Annotated[
        float | None, _choice("minutes", "Training", "End with the first epoch after so many minutes.")
    ] = None,
    seed: Annotated[
        int | None, _choice("seed", "Training", "Of first weights, order and dropout: the same seed, the same run.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Other defaults for all of the above. [b]d2l[/]: the experiment of the book Dive into Deep Learning,"
            " exactly. Options given beside it win.",
            rich_help_panel="Run",
            metavar="|".join(RECIPES),
        ),
    ] = None,
    precision: Annotated[
        str | None, _choice("precision", "Run", "Numbers to compute with.", "|".join(PRECISIONS))
    ] = None,
    devices: Annotated[int | None, _choice("devices", "Run", "Devices that share each batch.")] = None,
    accelerator: Annotated[
        str | None, _choice("accelerator", "Run", "Where to compute; auto takes a GPU.", "|".join(ACCELERATORS))
    ] = None,
    threads: Annotated[
        int | None,
        _choice("threads", "Run", "CPU threads; more pay off from some 500 units on, and change the last bits."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the run, new or empty.", rich_help_panel="Run", show_default="next free runs/text-N"
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with the run in this folder, stopped or killed; needs no other option, and"
            " --epochs or --minutes set a new limit.",
            rich_help_panel="Run",
            metavar="RUN",
        ),
    ] = None,
) -> None:
    """Train a language model on the characters of a text.

    It learns to predict the next character. Perplexity says how many characters it hesitates between: 1 is
    certainty. Ctrl-C stops after the step at hand, saved; --resume goes on to the very same weights.
    """
    flags = {
        "data": data, "holdout": holdout, "steps": steps, "batch": batch, "sampling": sampling,
        "cell": cell, "hidden": hidden, "layers": layers, "dropout": dropout, "init": init,
        "optimizer": optimizer, "lr": lr, "clip": clip, "epochs": epochs, "minutes": minutes, "seed": seed,
        "precision": precision, "devices": devices, "accelerator": accelerator, "threads": threads,
    }  # fmt: skip
    with _one_line_errors():
        if resume is not None and (out is not None or recipe is not None):
            raise InputError("--resume takes folder and recipe from the run: leave --out and --recipe out")
        settings = TextSettings.of(recipe, **flags)  # wrong values are refused before torch is loaded
        from gatewise.tasks import text

        if resume is not None:
            result = text.resume(resume, data_dir, **flags)
        else:
            result = text.train(settings, out, data_dir)
        _summarise(result)


@app.command()
def generate(
    run: Annotated[Path, typer.Argument(help="Folder that a training wrote.", metavar="RUN")],
    prompt: Annotated[
        str | None, typer.Option(help="What is continued.", show_default="the first words of the held-out text")
    ] = None,
    length: Annotated[int, typer.Option(help="Characters to write.")] = 400,
    temperature: Annotated[
        float, typer.Option(help="0 takes the likeliest character each time, 1 draws as predicted, more dares more.")
    ] = 0.5,
    seed: Annotated[int | None, typer.Option(help="Of the drawing.", show_default="another one each time")] = None,
    checkpoint: Annotated[str, typer.Option(help="Which weights.", metavar="best|last")] = "best",
) -> None:
    """Continue a prompt with a trained model, character by character."""
    with _one_line_errors():
        from gatewise.tasks.text.model import stream
        from gatewise.tasks.text.saved import load, prompt_of

        model = load(run, checkpoint)
        prompt = prompt_of(run) if prompt is None else prompt
        characters = stream(model, prompt, length, temperature=temperature, seed=seed)
        print(prompt, end="", flush=True)
        for character in characters:
            print(character, end="", flush=True)
        print(flush=True)


@app.command("shapes")
def show_shapes(
    name: Annotated[
        str | None, typer.Argument(help="A built-in cell, such as gru; or your own.", metavar="CELL")
    ] = None,
    cell: Annotated[str | None, typer.Option(help="The same as CELL.", metavar="NAME|FILE.py:NAME")] = None,
    input: Annotated[int, typer.Option(help="I: features of x at each step.")] = 28,
    hidden: Annotated[int, typer.Option(help="H: units of the state.")] = 256,
    layers: Annotated[int, typer.Option(help="L: layers on top of each other.")] = 1,
    bidirectional: Annotated[bool, typer.Option("--bidirectional", help="A second direction, from the end.")] = False,
    batch: Annotated[int, typer.Option(help="B: samples side by side.")] = 32,
    steps: Annotated[int, typer.Option(help="T: steps of a sequence.")] = 35,
    proj: Annotated[int, typer.Option(help="P: size of the projected output, as torch's proj_size; 0 for none.")] = 0,
    bias: Annotated[bool, typer.Option(help="Two biases a gate, as torch has them, or none.")] = True,
    batch_first: Annotated[bool, typer.Option("--batch-first", help="x and output are (B, T, …).")] = False,
    dtype: Annotated[str, typer.Option(help="Of parameters and tensors.", metavar="|".join(DTYPES))] = "float32",
) -> None:
    """Show a layer's shapes: parameters, output and final states, what they hold, and what it all costs."""
    with _one_line_errors():
        if (name is None) == (cell is None):
            raise InputError("name one cell, such as gru or FILE.py:NAME")
        sizes = {"input": input, "hidden": hidden, "layers": layers, "batch": batch, "steps": steps}
        for flag, size in sizes.items():
            positive(f"--{flag}", size)
        choose("--dtype", dtype, DTYPES)
        if not 0 <= proj < hidden:
            raise InputError(f"--proj must be from 0 (none) to less than --hidden {hidden}; got {proj}")
        import torch
        from rich.console import Console

        from gatewise import cells
        from gatewise.inspect import shapes
        from gatewise.inspect.shapes_text import rich_text
        from gatewise.tasks.find_cell import find_cell

        graph = find_cell(name or cell or "")
        if proj and graph is cells.lstm:
            graph = cells.lstm_projected  # as torch.nn.LSTM(proj_size=P)
        if bool(proj) != graph.projects_output:
            fix = "give its size, --proj P" if graph.projects_output else "leave --proj out, or take lstm"
            has = "projects its output with .hr" if graph.projects_output else "has no output projection, .hr"
            raise InputError(f"{graph.name} {has}: {fix}")
        found = shapes(
            graph, input, hidden, num_layers=layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional,
            proj_size=proj, dtype=getattr(torch, dtype), batch=batch, steps=steps,
        )  # fmt: skip
        Console().print(rich_text(found), soft_wrap=True)


@app.command()
def equations(
    name: Annotated[
        str | None, typer.Argument(help="A built-in cell, such as gru or lstm.", metavar="NAME", show_default=False)
    ] = None,
    cell: Annotated[
        str | None, typer.Option(help="A cell of your own, in place of NAME.", metavar="FILE.py:NAME")
    ] = None,
    latex: Annotated[bool, typer.Option("--latex", help="As LaTeX.")] = False,
    against: Annotated[str | None, typer.Option(help="Compare with another cell.", metavar="NAME|FILE.py:NAME")] = None,
) -> None:
    """Show a cell's equations, or how two cells differ and whether they are the same function."""
    with _one_line_errors():
        if name is not None and cell is not None:
            raise InputError(f"equations: NAME {name} and --cell {cell} are two cells: compare them with --against")
        wanted = name or cell
        if wanted is None:
            raise InputError("equations: name a cell, such as gru, or give your own with --cell FILE.py:NAME")
        if latex and against is not None:
            raise InputError("equations: --latex shows one cell: leave --against out")
        from rich.console import Console

        from gatewise.inspect import compare
        from gatewise.tasks.find_cell import find_cell

        found = find_cell(wanted)
        if against is not None:
            Console(highlight=False).print(compare(found, find_cell(against)), soft_wrap=True)
        else:
            print(found.latex() if latex else found.equations())


@app.command()
def explore(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders that trainings wrote; several are compared.", metavar="RUN…")
    ],
    text: Annotated[
        str | None, typer.Option(help="What the model reads.", show_default="what the run wrote as its sample")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="The same, from a UTF-8 file.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The page, written anew each time.", show_default="RUN/explore.html")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="Which weights.", metavar="best|last")] = "best",
) -> None:
    """Write a web page that shows the gates while a trained model reads a text, and moves.

    One file that needs no network: open it in a browser.
    """
    with _one_line_errors():
        from gatewise.inspect.explorer import from_runs
        from gatewise.tasks.run import write

        if text is not None and file is not None:
            raise InputError("--text and --file exclude each other: give one of them")
        if file is not None:
            from gatewise.tasks.text import read

            text = read(str(file))
        page = from_runs(runs, text, checkpoint)
        out = runs[0] / "explore.html" if out is None else out
        write(out, page)
        print(f"{out}: {len(page.encode()) / 1e6:.1f} MB; open it in a browser")


@app.command()
def diagram(
    cell: Annotated[
        str,
        typer.Argument(help="A built-in cell, such as [b]gru[/]; or your own equations.", metavar="NAME|FILE.py:NAME"),
    ],
    out: Annotated[Path, typer.Argument(help="The picture: .svg, .png or .pdf.", metavar="FILE")],
    dark: Annotated[bool, typer.Option("--dark", help="Light lines on a dark background.")] = False,
) -> None:
    """Draw a cell as the block diagram of the textbooks."""
    with _one_line_errors():
        from gatewise.tasks.find_cell import find_cell

        find_cell(cell).diagram(dark).save(out)
        print(out)


def _summarise(result: "Result") -> None:
    """How it went and where it lies, after a training."""
    from gatewise.tasks.fit import is_first_process

    if not is_first_process():
        return
    run, best, last = result.run, result.best, result.history[-1]
    print(f"\n{run.sample.read_text(encoding='utf-8')}")
    if "held_out_perplexity" in best:
        perplexity, bits = best["held_out_perplexity"], best["held_out_bits_per_char"]
        print(f"held-out perplexity {perplexity:.3f} ({bits:.3f} bits a character), best after epoch", end=" ")
        print(f"{best['epoch']:.0f} of {last['epoch']:.0f}")
    else:
        print(f"training perplexity {last['train_perplexity']:.3f} in epoch {last['epoch']:.0f}")
    for file in (run.best, run.last, run.metrics, run.curves, run.sample):
        print(f"  {file}")
    print(f"more text: gatewise generate {run.path} --temperature 0.5")


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Within: what the user can mend is told in one line, with exit code 2; a stop ends with 130, as in a shell."""
    try:
        try:
            yield
        except (InputError, MissingPackageError, OSError):
            raise
        except ValueError as error:
            from gatewise import CellError

            if not isinstance(error, CellError):
                raise
            raise InputError(str(error)) from error
        except (MemoryError, RuntimeError) as error:
            # torch's allocators raise RuntimeError, and a subclass of it on a GPU; only the text tells.
            if not isinstance(error, MemoryError) and not re.search("allocate memory|out of memory", str(error)):
                raise
            raise InputError(
                "not enough memory for this model: lower --hidden, --layers, --batch or --steps"
            ) from error
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (InputError, MissingPackageError) as error:
        _fail(str(error))
    except KeyboardInterrupt as stop:
        print(f"\ngatewise: {str(stop) or 'stopped'}", file=sys.stderr)
        raise typer.Exit(130) from None


def _fail(line: str) -> None:
    print(f"gatewise: {line}", file=sys.stderr)
    raise typer.Exit(2) from None


def main() -> None:
    """The console command `gatewise`."""
    app()


if __name__ == "__main__":
    main()
