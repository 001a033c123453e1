"""`gatewise train classify` and `gatewise classify`: a skin over `gatewise.tasks.classify`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatewise.cli.errors import one_line_errors
from gatewise.cli.train import CHECKPOINT, FORCE, Flag, helped, list_files, train_command
from gatewise.tasks.classify.settings import PERS, POOLS, READS, ClassifySettings

if TYPE_CHECKING:
    from gatewise.tasks.fit import Result

FLAGS = {
    "data": Flag(
        "Data",
        "[b]japanese-vowels[/], utterances of nine speakers, inside sktime; [b]digits[/], handwritten ones, inside"
        " scikit-learn; or a CSV or Parquet file with one row a step (or a .ts file).",
        "NAME|FILE",
    ),
    "test": Flag(
        "Data",
        "A second file for the final test, or the share of the sequences that is split off for it.",
        "FILE|SHARE",
        "0.2; japanese-vowels has a test part of its own",
    ),
    "sequence": Flag("Data", "Column that names the sequence of each row.", "COLUMN"),
    "time": Flag(
        "Data",
        "Column that orders a sequence's rows: numbers or dates.",
        "COLUMN",
        "a column time, else the order in the file",
    ),
    "label": Flag("Data", "Column of the labels.", "COLUMN"),
    "features": Flag("Data", "Column to read; given once for each.", "COLUMN", "all other columns that hold numbers"),
    "per": Flag("Data", "One label for each [b]sequence[/], or one for each [b]step[/].", "|".join(PERS)),
    "read": Flag("Data", "Read digits row by row, 8 steps of 8, or pixel by pixel, 64 steps of 1.", "|".join(READS)),
    "holdout": Flag("Data", "Share of the sequences that is not learned but tells the best epoch; 0 takes the last."),
    "split-seed": Flag("Data", "Of the splits into sequences to learn, held out, and to test."),
    "batch": Flag("Data", "B: sequences side by side in one step of the optimizer."),
    "bidirectional": Flag("Model", "Read each sequence from its end as well."),
    "pool": Flag(
        "Model", "What is classified: the [b]last[/] states, or the [b]mean[/] output over the steps.", "|".join(POOLS)
    ),
    "noise": Flag("Model", "Standard deviation of noise on the standardised inputs in training."),
}


def _summarise(result: "Result") -> None:
    """How it went and where it lies, after a training."""
    print(f"\n{result.run.report.read_text(encoding='utf-8')}")
    list_files(result, "confusion.png", "confusion.csv", "predictions.csv")
    print(f"label new sequences: gatewise classify {result.run.path} FILE")


train_classify = train_command(
    "classify",
    ClassifySettings,
    FLAGS,
    _summarise,
    """Train a model that labels sequences, or each of their steps.

    Sequences may have unequal lengths; none is cut, and padding is never read. At the end the test sequences are
    judged once: accuracy, F1, and a picture of what is taken for what. A file of your own has one row a step, with
    a column for its sequence and one for the label. Ctrl-C stops after the step at hand, saved; --resume goes on to
    the very same weights.
    """,
)


def classify(
    run: Annotated[Path, typer.Argument(help="Folder that a training wrote.", metavar="RUN")],
    file: Annotated[
        str,
        typer.Argument(
            help="CSV or Parquet file with the columns that the run was trained on; the label may be absent."
            " Or japanese-vowels (their test part) or digits (all).",
            metavar="FILE",
        ),
    ],
    out: Annotated[Path | None, typer.Option(help=helped("CSV file to write.", "standard output"))] = None,
    force: FORCE = False,
    checkpoint: CHECKPOINT = None,
) -> None:
    """Label new sequences with a trained model: a line each, with the probability of every class."""
    with one_line_errors():
        from gatewise.tasks.run import free, write

        if out is not None:
            free(out, force)
        from gatewise.tasks import classify as task
        from gatewise.tasks.classify.task import TASK

        model = task.load(run, checkpoint)
        sequences = task.read_for(run, file)
        found = model.predict_proba(sequences)
        labelled = task.predictions(model, sequences, found)
        if out is None:
            print(labelled, end="")
        else:
            write(out, labelled, force)
            print(f"{len(sequences):,} sequences labelled: {out}")
        if sequences.y is not None:
            truth, named = sequences.all_labels, _flat(model.named(found))
            right = sum(one == other for one, other in zip(truth, named, strict=True))
            print(
                f"accuracy {100 * right / len(truth):.1f} % ({right:,} of {len(truth):,} {model.facts.per}s)",
                file=sys.stderr,
            )
            if unseen := sum(label not in model.facts.labels for label in truth):
                print(f"{unseen:,} of them have a label that was not learned, and count as wrong", file=sys.stderr)
            if _learned(file, TASK.settings_of(TASK.open(run)).data.source):
                print(f"sequences that the run learned are among them: {file} is its own source", file=sys.stderr)


def _learned(file: str, source: str) -> bool:
    return file != "japanese-vowels" and bool(source) and Path(file).resolve() == Path(source).resolve()


def _flat(labels: list[Any]) -> list[str]:
    return [label for item in labels for label in (item if isinstance(item, list) else [item])]
