"""Where labelled sequences come from, one kind of source a module."""

from dataclasses import replace
from pathlib import Path

from gatewise.errors import InputError
from gatewise.tasks.classify.sequences import Facts, Sequences
from gatewise.tasks.classify.settings import BUILT_IN, DataSettings
from gatewise.tasks.classify.sources import digits, japanese_vowels, table, ts


def read(settings: DataSettings) -> tuple[Sequences, Sequences | None]:
    """The labelled sequences of a source, and its test part where it has one.

    Args:
        settings: the source, and how it is read.

    Raises:
        InputError: there is no such file, or it cannot be used.
        MissingPackageError: a package that brings or reads the data is not installed.
    """
    source, test = settings.source, settings.test
    _check_per(source, settings)
    if source == "japanese-vowels":
        if test is not None:
            raise InputError(f"japanese-vowels has a test part of its own: leave --test {test} out")
        return japanese_vowels.read()
    if source == "digits":
        if settings.test_share is None:
            raise InputError(f"of digits a share is split off for the test, such as --test 0.2; got {test}")
        return digits.read(settings.read), None
    _check_named(source)
    given = _file(source, settings)
    if test is None or settings.test_share is not None:
        return given, None
    return given, _file(test, settings, given.features)


def read_new(source: str, settings: DataSettings, facts: Facts) -> Sequences:
    """Sequences for a trained model: with the columns that it was trained on, and labels where there are any.

    Args:
        source: a file; or `"japanese-vowels"`, which means its test part, or `"digits"`.
        settings: of the model's run.
        facts: of the model.

    Raises:
        As `read`.
    """
    settings = replace(settings, per=facts.per)  # data from Python tell it, not the settings
    _check_per(source, settings)
    if source == "japanese-vowels":
        return japanese_vowels.read()[1]
    if source == "digits":
        return digits.read(settings.read)
    _check_named(source)
    return _file(source, settings, facts.features, labels_needed=False)


def _check_per(source: str, settings: DataSettings) -> None:
    if settings.per == "step" and (source in BUILT_IN or source.lower().endswith(".ts")):
        raise InputError(f"{source} has a label a sequence, none a step: leave --per out")


def _check_named(source: str) -> None:
    path = Path(source)
    if not path.suffix and not path.exists():
        raise InputError(
            f"there is no file {source}: give {', '.join(BUILT_IN)} or the path of a CSV, Parquet or .ts file"
        )


def _file(
    source: str, settings: DataSettings, features: list[str] | None = None, labels_needed: bool = True
) -> Sequences:
    path = Path(source)
    if path.suffix.lower() == ".ts" and path.is_file():
        _check_per(source, settings)
        return ts.read(path)
    return table.read(path, settings, features, labels_needed)
