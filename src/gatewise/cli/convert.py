"""`gatewise convert`: a skin over `gatewise.convert.file`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gatewise.cli.errors import one_line_errors
from gatewise.cli.train import FORCE

if TYPE_CHECKING:
    from gatewise.convert import Conversion


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="A model of Keras (.keras, .h5), ONNX (.onnx), torch (.pt, .safetensors) or numpy (.npz), told by what"
            " is in it; or the folder that a training wrote.",
            metavar="IN",
        ),
    ],
    target: Annotated[
        Path | None,
        typer.Argument(
            help="The file to write; its ending tells the kind. Left out, IN is read and proved.", metavar="OUT"
        ),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="One of the recurrent layers of IN, by its name there.", metavar="NAME")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the proof's random input.", min=0, max=2**32)] = 0,
    force: FORCE = False,
) -> None:
    """Convert a model from one framework to another, exactly or not at all, and prove it.

    It shows what became what. Then gatewise and the frameworks' own runtimes, where installed, read random input.

    No code of a file is run.

    The exit code is 0 where it is proved; 1 where a number differs by more than rounding, and nothing is written; 2
    where IN or OUT is refused; 3 where OUT is written, but the proof could not be made.
    """
    with one_line_errors():
        from gatewise.convert import file

        found, written, proof = file(source, target, layer=layer, seed=seed, force=force)
        _show(f"{source}, {found.kind}", found)
        if written is not None:
            _show(f"{target}, {written.kind}", written)
        print(proof)
        if proof.state == "failed":
            print("the proof failed" + (f": {target} is not written" if target else ""))
            raise typer.Exit(1)
        if proof.state == "not proved":
            print(f"written, NOT PROVED: {target}: {proof.reason}" if target else f"NOT PROVED: {proof.reason}")
            raise typer.Exit(3)
        if target is not None:
            print(f"written: {target}")


def _show(title: str, conversion: "Conversion") -> None:
    print(title)
    for line in str(conversion).splitlines():
        print(f"  {line}")
    print()
