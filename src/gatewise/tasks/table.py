"""Tables of the user: CSV or Parquet files, read by pandas, refused in one line."""

import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatewise.errors import InputError, one_line, require
from gatewise.tasks.files import read_text

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

PARQUET = (".parquet", ".pq")
_NAMELESS = re.compile(r"(Unnamed: \d+)?")  # pandas' name for a column without one; files that it wrote again have it


def read_table(path: Path, extra: str, text: Collection[str | None] = ()) -> "pd.DataFrame":
    """The table of a file. Columns without a name, such as the row numbers that pandas writes, are left out.

    Args:
        path: a Parquet file by its ending, `.parquet` or `.pq`, else UTF-8 text with a header and commas between the
            columns (semicolons or tabs are recognised).
        extra: the extra of gatewise that brings pandas, for the message where it is missing.
        text: columns of names or labels, if they are there: their values are text as it is written, such as 007 or
            NA, and None where a cell is empty.

    Raises:
        InputError: there is no such file, it is empty, or no such table; or a name or label is a list.
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
            raise InputError(f"{path} cannot be read as Parquet: {one_line(error)}") from error
    else:
        try:
            table = _read_csv(path, text)
        except csv.Error as error:
            raise InputError(f"{path} cannot be read as CSV: {one_line(error)}") from error
    table.columns = ["" if _NAMELESS.fullmatch(name := str(column).strip()) else name for column in table.columns]
    table = table.loc[:, table.columns != ""]
    _check_names(list(table.columns), path)
    if not len(table):
        raise InputError(f"{path} has no rows below its header")
    return table.assign(**{name: _as_text(table[name], path) for name in table.columns if name in text})


def _read_csv(path: Path, text: Collection[str | None]) -> "pd.DataFrame":
    import pandas as pd

    content = read_text(path)
    if not content.strip():
        raise InputError(f"{path} is empty: give a file with a header and rows")
    separator = _separator(content)
    records = _records(content)
    _, names = next(records)
    line, first = next(records, (0, []))
    _check_names(names, path)  # pandas gives the second one another name
    if len(first) > len(names):  # pandas takes what has no name for names of the rows
        raise InputError(f"{path}, line {line} has {len(first)} values, expected {len(names)}, as the header has names")
    try:
        return pd.read_csv(
            io.StringIO(content),
            sep=separator,
            float_precision="round_trip",  # pandas' own way is off in the last digit now and then
            converters={name: str for name in names if name.strip() in text},
        )
    except ValueError as error:  # pandas' ParserError and EmptyDataError are ValueErrors
        for line, record in _records(content):  # pandas counts no line breaks within quotes
            if len(record) > len(names):
                raise InputError(f"{path}, line {line} has {len(record)} values, expected {len(names)}") from error
        raise InputError(f"{path} cannot be read as CSV: {one_line(error)}") from error


def _separator(content: str) -> str:
    return max(",;\t", key=content.lstrip(" \n").split("\n", 1)[0].count)


def _records(content: str) -> Iterator[tuple[int, list[str]]]:
    """What pandas takes for the header and the rows of a CSV file, each with the line where it begins."""
    reader = csv.reader(io.StringIO(content), delimiter=_separator(content))
    line = 1
    for record in reader:
        if record and not (len(record) == 1 and record[0].isspace()):
            yield line, record
        line = reader.line_num + 1


def _as_text(column: "pd.Series[Any]", path: Path) -> "pd.Series[Any]":
    """Values as text, None where there is none; 3.0 is 3, since a column of whole numbers with gaps holds floats."""
    import pandas as pd

    found: list[str | None] = []
    for row, value in enumerate(column.astype(object)):
        if not pd.api.types.is_scalar(value):
            raise InputError(f"{place(path, row)}: {column.name} is {_shown(value)}, expected text or a number")
        whole = isinstance(value, float) and value.is_integer()
        written = "" if pd.isna(value) else str(int(value) if whole else value)
        found.append(written if written.strip() else None)
    return pd.Series(found, index=column.index, dtype=object)


def _check_names(names: Sequence[str], path: Path) -> None:
    names = [name.strip() for name in names if name.strip()]
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
        value = table[column].iloc[row]
        form = " with a decimal point" if isinstance(value, str) and "," in value else ""
        raise InputError(
            f"{place(path, row)}: {column} is {_shown(value)}, expected a number{form}: mend it, or read other columns"
        )
    return values


def place(path: Path, row: int) -> str:
    """Where a row of a table, counted from 0, stands: the line of a CSV file, else the row, counted from 1."""
    if path.suffix.lower() in PARQUET or not path.is_file():
        return f"{path}, row {row + 1}"
    lines = (line for line, _ in _records(path.read_text(encoding="utf-8-sig")))
    return f"{path}, line {next(islice(lines, row + 1, None), row + 2)}"


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())  # an array's has line breaks
    return text if len(text) <= 60 else f"{text[:59]}…"
