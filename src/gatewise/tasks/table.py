"""Tables of the user: CSV or Parquet files, read by pandas, refused in one line."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gatewise.tasks.errors import InputError, require

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

PARQUET = (".parquet", ".pq")


def read_table(path: Path, extra: str) -> "pd.DataFrame":
    """The table of a file.

    Args:
        path: a Parquet file by its ending, `.parquet` or `.pq`, else UTF-8 text with a header and commas between the
            columns (semicolons or tabs are recognised).
        extra: the extra of gatewise that brings pandas, for the message where it is missing.

    Raises:
        InputError: there is no such file, it is empty, or no such table.
        MissingPackageError: pandas, or pyarrow for Parquet, is not installed.
    """
    require("pandas", extra=extra)
    import pandas as pd

    if not path.is_file():
        raise InputError(f"there is no file {path}: give a CSV or Parquet file")
    if path.suffix.lower() in PARQUET:
        require("pyarrow", extra=extra)
        try:
            table = pd.read_parquet(path)
        except (ValueError, OSError) as error:  # pyarrow's ArrowInvalid is a ValueError
            raise InputError(f"{path} cannot be read as Parquet: {_one_line(error)}") from error
    else:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
        if not text.strip():
            raise InputError(f"{path} is empty: give a file with a header and rows")
        lines = text.lstrip("\n").split("\n", 2)
        separator = max(",;\t", key=lines[0].count)
        names, first = (next(csv.reader([line], delimiter=separator), []) for line in [*lines, ""][:2])
        _check_names(names, path)  # pandas gives the second one another name
        if len(first) > len(names):  # pandas takes what has no name for names of the rows
            raise InputError(f"{path}, line 2 has {len(first)} values, expected {len(names)}, as the header has names")
        try:
            # pandas' own way of reading floats is off in the last digit now and then.
            table = pd.read_csv(path, sep=separator, encoding="utf-8-sig", float_precision="round_trip")
        except ValueError as error:  # pandas' ParserError and EmptyDataError are ValueErrors
            raise InputError(f"{path} cannot be read as CSV: {_one_line(error)}") from error
    table.columns = [str(name).strip() for name in table.columns]
    _check_names(list(table.columns), path)
    if not len(table):
        raise InputError(f"{path} has no rows below its header")
    return table


def _check_names(names: Sequence[str], path: Path) -> None:
    names = [name.strip() for name in names]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path} has two columns {name!r}: rename one")


def check_columns(table: "pd.DataFrame", wanted: Sequence[tuple[str, str]], path: Path) -> None:
    """Check that columns are there.

    Args:
        table: the table.
        wanted: (flag, column) pairs, such as ("--time", "date").
        path: its file, for the message.

    Raises:
        InputError: at the first that is absent.
    """
    for flag, column in wanted:
        if column not in table.columns:
            raise InputError(f"{path} has no column {column!r} ({flag}); its columns are {', '.join(table.columns)}")


def numbers(table: "pd.DataFrame", column: str, path: Path) -> "np.ndarray":
    """A column as float64; a value that is missing is NaN.

    Raises:
        InputError: a value is no number, or is infinite; the text names its row.
    """
    import numpy as np
    import pandas as pd

    values: np.ndarray = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    bad = (np.isnan(values) & table[column].notna().to_numpy()) | np.isinf(values)
    if bad.any():
        row = int(bad.argmax())
        raise InputError(f"{place(path, row)}: {column} is {table[column].iloc[row]!r}, expected a number")
    return values


def place(path: Path, row: int) -> str:
    """Where a row of a table stands: the line of a CSV file, or the row of a Parquet file, counted from 1."""
    return f"{path}, row {row + 1}" if path.suffix.lower() in PARQUET else f"{path}, line {row + 2}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
