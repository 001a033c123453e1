"""`gatewise train text` and `gatewise generate`: a skin over `gatewise.tasks.text`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatewise.cli.errors import one_line_errors
from gatewise.tasks.errors import InputError
from gatewise.tasks.settings import ACCELERATORS, OPTIMIZERS, PRECISIONS
from gatewise.tasks.text.settings import INITS, RECIPES, SAMPLINGS, TextSettings

if TYPE_CHECKING:
    from gatewise.tasks.fit import Result

DEFAULTS = TextSettings()


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
    with one_line_errors():
        if resume is not None and (out is not None or recipe is not None):
            raise InputError("--resume takes folder and recipe from the run: leave --out and --recipe out")
        settings = TextSettings.of(recipe, **flags)  # wrong values are refused before torch is loaded
        from gatewise.tasks import text

        if resume is not None:
            result = text.resume(resume, data_dir, **flags)
        else:
            result = text.train(settings, out, data_dir)
        _summarise(result)


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
    with one_line_errors():
        from gatewise.tasks.text.model import stream
        from gatewise.tasks.text.saved import load, prompt_of

        model = load(run, checkpoint)
        prompt = prompt_of(run) if prompt is None else prompt
        characters = stream(model, prompt, length, temperature=temperature, seed=seed)
        print(prompt, end="", flush=True)
        for character in characters:
            print(character, end="", flush=True)
        print(flush=True)


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
