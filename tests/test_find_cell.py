import pytest
from helpers import OWN

import gatewise
from gatewise.errors import InputError
from gatewise.tasks.find_cell import find_cell


def test_built_in_cells_are_found_by_name():
    assert find_cell("lstm") is gatewise.cells.lstm
    assert find_cell("LSTM") is gatewise.cells.lstm
    with pytest.raises(
        InputError, match=r"there is no cell 'gruu': choose one of gru, .* or FILE.py:NAME.*; did you mean gru"
    ):
        find_cell("gruu")


def test_a_cell_of_a_file_is_found(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    assert find_cell(f"{file}:light").name == "light"
    with pytest.raises(InputError, match="has no cell 'lite'; its cells are light"):
        find_cell(f"{file}:lite")
    with pytest.raises(InputError, match="there is no file"):
        find_cell(f"{tmp_path}/absent.py:light")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("", "it has no cell: write one with @gatewise.cell"),
        ("x = 1\nx +\n", r"own\.py, line 2: invalid syntax"),
        ("import math\n\nmath.sqrt(-1)\n", r"own\.py, line 3: ValueError: math domain error"),
        ("import absent_package", r"own\.py, line 1: ModuleNotFoundError: No module named 'absent_package'"),
        ("raise SystemExit(3)", r"own\.py, line 1: SystemExit: 3"),
    ],
)
def test_faults_of_a_file_are_told_with_their_line(tmp_path, code, message):
    file = tmp_path / "own.py"
    file.write_text(code)
    with pytest.raises(InputError, match=message):
        find_cell(f"{file}:light")


def test_faults_of_equations_are_told_with_their_line(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN.replace("h.n)", "h.m)"))
    with pytest.raises(gatewise.CellError, match=r"own\.py, line 7") as caught:
        find_cell(f"{file}:light")
    assert "\n" not in str(caught.value)
