"""The user's files of text."""

from pathlib import Path

from gatewise.errors import InputError


def read_text(path: Path, newline: str | None = None) -> str:
    """The text of a UTF-8 file that is there, with or without a byte order mark.

    Args:
        path: the file.
        newline: as of `open`: None makes every line's end a `\\n`, "" leaves them.

    Raises:
        InputError: it is not UTF-8, or holds a zero byte, as binary files do.
    """
    try:
        with open(path, encoding="utf-8-sig", newline=newline) as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    if "\0" in text:
        raise InputError(f"{path} is a binary file (it holds a zero byte), expected UTF-8 text")
    return text
