"""The error that is meant for the person at the keyboard."""

import importlib.util


class InputError(ValueError):
    """Something the user gave cannot be used: a file, a setting, a run folder, a prompt.

    Its text is one line that says what was wrong, what was expected and what to do. The command line
    prints that line and exits with code 2.
    """


class MissingPackageError(ImportError):
    """An optional package is not installed; the text names it and the command that installs it."""


def require(*packages: str, extra: str = "train") -> None:
    """Check that optional packages are installed, without importing them.

    Args:
        packages: import names, such as `"lightning"`.
        extra: the extra of gatewise that brings them.

    Raises:
        MissingPackageError: at the first one that is absent.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(f'this needs {package}, which is not installed: pip install "gatewise[{extra}]"')


def choose(what: str, value: str, choices: tuple[str, ...]) -> None:
    """Check that `value` is one of `choices`.

    Raises:
        InputError: names `what`, the choices and the value.
    """
    if value not in choices:
        raise InputError(f"{what} is one of {', '.join(choices)}; got {value!r}")


def string(value: object) -> str:
    """The value, if it is a string: what a file of JSON holds need not be.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {value!r}")
    return value


def one_line(error: Exception, most: int = 400) -> str:
    """What another library says of a fault, without its line breaks; zipfile quotes a whole damaged file."""
    text = " ".join(str(error).split())
    return text if len(text) <= most else f"{text[:most]}…"


def shortened(text: str, most: int = 40) -> str:
    """A user's text in quotation marks, cut where it is long."""
    return repr(text if len(text) <= most else f"{text[:most]}…")
