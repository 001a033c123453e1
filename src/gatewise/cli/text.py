"""`gatewise train text` and `gatewise generate`: a skin over `gatewise.tasks.text`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gatewise.cli.errors import one_line_errors
from gatewise.cli.train import CHECKPOINT, Flag, helped, list_files, train_command
from gatewise.tasks.text.settings import INITS, SAMPLINGS, TextSettings

if TYPE_CHECKING:
    from gatewise.tasks.fit import Result

FLAGS = {
    "data": Flag(
        "Data",
        "[b]python-docs[/], the language reference inside CPython; [b]time-machine[/], H. G. Wells' novel (downloaded"
        " once); or the path of any UTF-8 file.",
        "NAME|FILE",
    ),
    "holdout": Flag("Data", "Share at the text's end that is not learned but tells how well new text is predicted."),
    "steps": Flag("Data", "T: characters in a window; gradients reach back as far."),
    "batch": Flag("Data", "B: windows side by side in one step of the optimizer."),
    "sampling": Flag(
        "Data",
        "[b]sequential[/] carries the state from window to window; [b]random[/] shuffles them.",
        "|".join(SAMPLINGS),
    ),
    "init": Flag(
        "Model",
        "First weights: as [b]torch[/] draws them, or as the [b]d2l[/] book does from scratch, N(0, 0.01²) with one"
        " zero bias a gate.",
        "|".join(INITS),
    ),
}


def _summarise(result: "Result") -> None:
    """How it went and where it lies, after a training."""
    run, best, last = result.run, result.best, result.history[-1]
    print(f"\n{run.report.read_text(encoding='utf-8')}")
    if "held_out_perplexity" in best:
        perplexity, bits = best["held_out_perplexity"], best["held_out_bits_per_char"]
        print(f"held-out perplexity {perplexity:.3f} ({bits:.3f} bits a character), best after epoch", end=" ")
        print(f"{best['epoch']:.0f} of {last['epoch']:.0f}")
    else:
        print(f"training perplexity {last['train_perplexity']:.3f} in epoch {last['epoch']:.0f}")
    list_files(result)
    print(f"more text: gatewise generate {run.path} --temperature 0.5")


train_text = train_command(
    "text",
    TextSettings,
    FLAGS,
    _summarise,
    """Train a language model on the characters of a text.

    It learns to predict the next character. Perplexity says how many characters it hesitates between: 1 is
    certainty. Ctrl-C stops after the step at hand, saved; --resume goes on to the very same weights.
    """,
    recipe="Other defaults for all of the above. [b]d2l[/]: the experiment of the book Dive into Deep Learning,"
    " exactly. Options given beside it win.",
    downloads="Folder of downloaded texts.",
)


def generate(
    run: Annotated[Path, typer.Argument(help="Folder that a training wrote.", metavar="RUN")],
    prompt: Annotated[
        str | None, typer.Option(help=helped("What is continued.", "the first words of the held-out text"))
    ] = None,
    length: Annotated[int, typer.Option(help="Characters to write.")] = 400,
    temperature: Annotated[
        float, typer.Option(help="0 takes the likeliest character each time, 1 draws as predicted, more dares more.")
    ] = 0.5,
    seed: Annotated[int | None, typer.Option(help=helped("Of the drawing.", "another one each time"))] = None,
    checkpoint: CHECKPOINT = None,
) -> None:
    """Continue a prompt with a trained model, character by character."""
    with one_line_errors():
        from gatewise.tasks.text.model import stream
        from gatewise.tasks.text.task import load, prompt_of

        model = load(run, checkpoint)
        prompt = prompt_of(run) if prompt is None else prompt
        characters = stream(model, prompt, length, temperature=temperature, seed=seed)
        print(prompt, end="", flush=True)
        for character in characters:
            print(character, end="", flush=True)
        print(flush=True)
