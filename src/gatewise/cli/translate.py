"""`gatewise train translate` and `gatewise translate`: a skin over `gatewise.tasks.translate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gatewise.cli.errors import one_line_errors
from gatewise.cli.train import CHECKPOINT, FORCE, Flag, list_files, train_command
from gatewise.errors import InputError, choose
from gatewise.tasks.files import read_text
from gatewise.tasks.translate.settings import ATTENTIONS, INITS, TOKENS, TranslateSettings

if TYPE_CHECKING:
    from gatewise.tasks.fit import Result

FLAGS = {
    "data": Flag(
        "Data",
        "[b]timetable[/], English and French sentences with dates and times, made by rules; [b]fra-eng[/], the d2l"
        " book's pairs from Tatoeba (downloaded once); or a UTF-8 file with a pair a line: source, tab, target.",
        "NAME|FILE",
    ),
    "pairs": Flag("Data", "Only so many pairs, from the front.", default="all of a file, 4000 of the timetable"),
    "tokens": Flag(
        "Data",
        "[b]words[/], with , . ! ? apart; [b]pieces[/], words cut at hyphens; or [b]characters[/].",
        "|".join(TOKENS),
    ),
    "target-tokens": Flag("Data", "The same for the target.", "|".join(TOKENS), default="as --tokens"),
    "lower": Flag("Data", "Words and pieces in lower case."),
    "least": Flag("Data", "Tokens that occur less often are unknown ones."),
    "longest": Flag("Data", "Pairs with a sentence of more tokens, its end counted, are left out."),
    "batch": Flag("Data", "B: pairs side by side in one step of the optimizer."),
    "holdout": Flag("Data", "Share of the sentences that is not learned but tells how well new ones are translated."),
    "hidden": Flag("Model", "H: units of the encoder's state, and of the decoder's."),
    "embedding": Flag("Model", "E: numbers that stand for a token."),
    "attention": Flag(
        "Model",
        "[b]additive[/]: at each step the decoder looks where it wants; [b]none[/]: it has the encoder's last state.",
        "|".join(ATTENTIONS),
    ),
    "init": Flag(
        "Model", "First weights: as [b]torch[/] draws them, or matrices by [b]xavier[/]'s rule.", "|".join(INITS)
    ),
}


def _summarise(result: "Result") -> None:
    """How it went and where it lies, after a training."""
    run, best, last = result.run, result.best, result.history[-1]
    print(f"\n{run.report.read_text(encoding='utf-8')}")
    part = "held_out" if "held_out_loss" in best else "train"
    named = "held-out" if part == "held_out" else "training"
    print(
        f"{named} loss {best[f'{part}_loss']:.4f} a token, {best[f'{part}_accuracy']:.1%} of the tokens right,", end=" "
    )
    print(f"best after epoch {best['epoch']:.0f} of {last['epoch']:.0f}")
    list_files(result, *(path.name for path in [run.path / "attention.png"] if path.exists()))
    print(f'a sentence of yours: gatewise translate {run.path} "…" --attention-map look.png')


train_translate = train_command(
    "translate",
    TranslateSettings,
    FLAGS,
    _summarise,
    """Train a translator on pairs of sentences.

    An encoder reads the source, a decoder writes the target and looks back at the source as it does. Sentences
    that were held out tell how good it is: exact matches, and BLEU. Ctrl-C stops after the step at hand, saved;
    --resume goes on to the very same weights.
    """,
    recipe="Other defaults for all of the above. [b]d2l[/]: the experiment of the book Dive into Deep Learning on its"
    " first 600 pairs; add --attention none for the book's first translator. Options given beside it win.",
    downloads="Folder of downloaded files.",
)


def translate(
    run: Annotated[Path, typer.Argument(help="Folder that a training wrote.", metavar="RUN")],
    sentences: Annotated[
        list[str] | None, typer.Argument(help="What is translated, each in quotation marks.", metavar="SENTENCE…")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="The same from a UTF-8 file, a sentence a line.")] = None,
    beam: Annotated[
        int, typer.Option(help="Sentences that the search holds; 1 takes the likeliest token each time.")
    ] = 1,
    attention_map: Annotated[
        Path | None, typer.Option(help="Draw where the model looks, into a .png, .svg or .pdf.", metavar="FILE")
    ] = None,
    unknown: Annotated[bool, typer.Option("--unknown", help="Read words it never saw as <unk>.")] = False,
    force: FORCE = False,
    checkpoint: CHECKPOINT = None,
) -> None:
    """Translate sentences with a trained model, a line each."""
    with one_line_errors():
        if not run.is_dir():
            raise InputError(f"there is no folder {run}: first the folder that a training wrote, then sentences")
        texts = _texts(sentences or [], file)
        if attention_map is not None and len(texts) > 1:
            raise InputError(f"--attention-map draws one sentence; got {len(texts)}: give one of them")
        if attention_map is not None:
            from gatewise.tasks.run import free, write
            from gatewise.tasks.translate.plot import FORMATS
            from gatewise.tasks.translate.plot import attention_map as draw

            form = attention_map.suffix.removeprefix(".").lower()
            choose("the picture's format", form, FORMATS)
            free(attention_map, force)
        from gatewise.tasks.translate import load, translations

        found = translations(load(run, checkpoint), texts, beam=beam, unknown=unknown)
        if attention_map is not None:
            write(attention_map, draw(found[0], form), force)
        for translation in found:
            print(translation)


def _texts(sentences: list[str], file: Path | None) -> list[str]:
    if bool(sentences) == (file is not None):
        raise InputError("give sentences, each in quotation marks, or --file with a sentence a line; one of the two")
    if file is None:
        return sentences
    if not file.exists() or file.is_dir():
        raise InputError(f"there is no file {file}: give a UTF-8 file with a sentence a line")
    texts = read_text(file).rstrip("\n").split("\n")
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise InputError(f"{file}, line {number} is empty: give a sentence a line")
    return [text.strip() for text in texts]
