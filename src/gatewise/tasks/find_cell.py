"""A cell by the name that the user gave: a built-in one, or one from a file of their own."""

import difflib
import runpy
import traceback
from pathlib import Path
from typing import Any

import gatewise
from gatewise.errors import InputError


def find_cell(name: str) -> "gatewise.Graph":
    """The cell of a name.

    Args:
        name: a built-in cell such as `"gru"`, in capitals or not, or `"FILE.py:NAME"`. The file is run, as by
            `python FILE.py`.

    Raises:
        InputError: there is no such cell, or the file cannot be run; the text names file and line.
        gatewise.CellError: the equations break a rule.
    """
    if ":" in name:
        file, _, attribute = name.rpartition(":")
        return _cell_of_file(Path(file), attribute)
    built_in = _graphs(vars(gatewise.cells))
    if name.endswith(".py"):
        raise InputError(f"{name} is a file: name the cell in it, {name}:NAME")
    if name.lower() not in built_in:
        near = difflib.get_close_matches(name.lower(), built_in, n=1)
        raise InputError(
            f"there is no cell {name!r}: choose one of {', '.join(sorted(built_in))}, or FILE.py:NAME for your own"
            + "".join(f"; did you mean {guess}?" for guess in near)
        )
    return built_in[name.lower()]


def _cell_of_file(file: Path, name: str) -> "gatewise.Graph":
    if not file.is_file():
        raise InputError(f"there is no file {file}: the cell is given as FILE.py:NAME")
    try:
        found = _graphs(runpy.run_path(str(file)))
    except SyntaxError as error:
        raise InputError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except gatewise.CellError:  # tells file and line itself
        raise
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f", line {lines[-1]}" if lines else ""
        raise InputError(f"{file}{where}: {type(error).__name__}: {error}") from error
    if name not in found:
        cells = (
            f"its cells are {', '.join(found)}" if found else "it has no cell: write one with @gatewise.cell(gates=…)"
        )
        raise InputError(f"{file} has no cell {name!r}; {cells}")
    return found[name]


def _graphs(namespace: dict[str, Any]) -> dict[str, "gatewise.Graph"]:
    return {name: value for name, value in namespace.items() if isinstance(value, gatewise.Graph)}
