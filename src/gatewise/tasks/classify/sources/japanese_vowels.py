"""JapaneseVowels: nine men say two vowels; who speaks?

12 cepstral coefficients in 7 to 29 steps; 270 utterances to learn, 30 of each speaker, and 370 to test. The files are
those of the UEA archive that sktime's wheel carries.

Source: Kudo, Toyama and Shimbo 1999, Pattern Recognition Letters 20, 1103-1111.
"""

from importlib.util import find_spec
from pathlib import Path

from gatewise.errors import InputError, require
from gatewise.tasks.classify.sequences import Sequences
from gatewise.tasks.classify.sources import ts


def read() -> tuple[Sequences, Sequences]:
    """The training and the test part.

    Raises:
        MissingPackageError: sktime is not installed.
        InputError: its wheel has no such files.
    """
    require("sktime", extra="classify")
    # Found and not imported, which takes seconds: two of its files are all that is read.
    origin = getattr(find_spec("sktime"), "origin", None) or ""
    folder = Path(origin).parent / "datasets" / "data" / "JapaneseVowels"
    files = [folder / f"JapaneseVowels_{part}.ts" for part in ("TRAIN", "TEST")]
    for file in files:
        if not file.is_file():
            raise InputError(f"the installed sktime has no {file}: install sktime 1.2, whose wheel carries it")
    train, test = map(ts.read, files)
    return train, test
