"""`gatewise equations`, `shapes`, `diagram` and `explore`: what a cell is, and what a layer does."""

from pathlib import Path
from typing import Annotated

import typer

from gatewise.cli.errors import one_line_errors
from gatewise.cli.train import CHECKPOINT, FORCE, helped
from gatewise.errors import InputError, choose
from gatewise.tasks.settings import positive

DTYPES = ("float64", "float32", "bfloat16", "float16")


def shapes(
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
    with one_line_errors():
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

        from gatewise import cells, inspect
        from gatewise.inspect.shapes_text import rich_text
        from gatewise.tasks.find_cell import find_cell

        graph = find_cell(name or cell or "")
        if proj and graph is cells.lstm:
            graph = cells.lstm_projected  # as torch.nn.LSTM(proj_size=P)
        if bool(proj) != graph.projects_output:
            fix = "give its size, --proj P" if graph.projects_output else "leave --proj out, or take lstm"
            has = "projects its output with .hr" if graph.projects_output else "has no output projection, .hr"
            raise InputError(f"{graph.name} {has}: {fix}")
        try:
            found = inspect.shapes(
                graph, input, hidden, num_layers=layers, bias=bias, batch_first=batch_first,
                bidirectional=bidirectional, proj_size=proj, dtype=getattr(torch, dtype), batch=batch, steps=steps,
            )  # fmt: skip
        except RuntimeError as error:  # torch's, of a size beyond 64 bits
            raise InputError("these sizes are beyond what can be counted: lower --input or --hidden") from error
        Console().print(rich_text(found), soft_wrap=True)


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
    with one_line_errors():
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


def explore(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders that trainings wrote; several are compared.", metavar="RUN…")
    ],
    text: Annotated[
        str | None, typer.Option(help=helped("What the model reads.", "what the run wrote as its sample"))
    ] = None,
    file: Annotated[Path | None, typer.Option(help="The same, from a UTF-8 file.")] = None,
    out: Annotated[
        Path | None, typer.Option(help=helped("The page.", "RUN/explore.html, written anew each time"))
    ] = None,
    force: FORCE = False,
    checkpoint: CHECKPOINT = None,
) -> None:
    """Write a web page that shows the gates while a trained model reads a text, and moves.

    One file that needs no network: open it in a browser.
    """
    with one_line_errors():
        from gatewise.tasks.run import free, write

        if text is not None and file is not None:
            raise InputError("--text and --file exclude each other: give one of them")
        if out is not None:
            free(out, force)
        from gatewise.inspect.explorer import from_runs

        if file is not None:
            from gatewise.tasks.text import read

            text = read(str(file))
        page = from_runs(runs, text, checkpoint)
        if out is None:
            out, force = runs[0] / "explore.html", True
        write(out, page, force)
        print(f"{out}: {len(page.encode()) / 1e6:.1f} MB; open it in a browser")


def diagram(
    cell: Annotated[
        str,
        typer.Argument(help="A built-in cell, such as [b]gru[/]; or your own equations.", metavar="NAME|FILE.py:NAME"),
    ],
    out: Annotated[Path, typer.Argument(help="The picture: .svg, .png or .pdf.", metavar="FILE")],
    dark: Annotated[bool, typer.Option("--dark", help="Light lines on a dark background.")] = False,
    force: FORCE = False,
) -> None:
    """Draw a cell as the block diagram of the textbooks."""
    with one_line_errors():
        from gatewise.tasks.find_cell import find_cell
        from gatewise.tasks.run import free

        free(out, force)
        find_cell(cell).diagram(dark).save(out, force=force)
        print(out)
