import math
import random

import pytest

from gatewise.errors import InputError, MissingPackageError
from gatewise.tasks.table import check_columns, numbers, place, read_table

pandas = pytest.importorskip("pandas")

TEXT = "day,shop,sales\n2024-01-01,a,3\n2024-01-02,a,\n2024-01-03,b,1.5\n"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_is_read_whatever_stands_between_the_columns(tmp_path, separator):
    file = tmp_path / "sales.csv"
    file.write_text("\ufeff" + TEXT.replace(",", separator), encoding="utf-8")
    table = read_table(file, "forecast")
    assert list(table.columns) == ["day", "shop", "sales"]
    assert [value if value == value else None for value in numbers(table, "sales", file)] == [3.0, None, 1.5]


def test_numbers_are_read_to_the_last_digit(tmp_path):
    generator = random.Random(0)
    drawn = [generator.gauss(0, 1) for _ in range(500)]
    (tmp_path / "drawn.csv").write_text("\n".join(["x", *map(repr, drawn)]))
    assert numbers(read_table(tmp_path / "drawn.csv", "forecast"), "x", tmp_path).tolist() == drawn


def test_parquet_gives_the_same_table(tmp_path):
    (tmp_path / "sales.csv").write_text(TEXT)
    table = read_table(tmp_path / "sales.csv", "forecast")
    table.to_parquet(tmp_path / "sales.parquet")
    assert read_table(tmp_path / "sales.parquet", "forecast").equals(table)


def test_what_is_no_table_is_one_line(tmp_path):
    for name, content, message in [
        ("empty.csv", b" \n", r"empty\.csv is empty: give a file with a header and rows"),
        ("header.csv", b"a,b\n", r"header\.csv has no rows below its header"),
        ("latin.csv", b"a,b\n\xe9,1\n", r"latin\.csv is not UTF-8 text \(byte 4\): save it as UTF-8"),
        ("ragged.csv", b"a,b\n1,2\n1,2,3\n", r"ragged\.csv, line 3 has 3 values, expected 2"),
        ("broken.csv", b'\na,b\n\n"1\n",2\n1,2,3\n', r"broken\.csv, line 6 has 3 values, expected 2"),
        ("quote.csv", b'a,b\n1,"2\n', r"quote\.csv cannot be read as CSV: .*EOF"),
        ("longer.csv", b"a,b\n1,2,3\n4,5,6\n", r"longer\.csv, line 2 has 3 values, expected 2"),
        ("twice.csv", b"a, a\n1,2\n", r"twice\.csv has two columns 'a': rename one"),
        ("again.csv", b"a,a\n1,2\n", r"again\.csv has two columns 'a': rename one"),
        ("text.parquet", b"a,b\n1,2\n", r"text\.parquet cannot be read as Parquet"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            read_table(tmp_path / name, "forecast")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="there is no file"):
        read_table(tmp_path / "absent.csv", "forecast")


NAMES = ["007", "7", "NA", "None", "null", "nan", "1.0", "True"]


def test_names_and_labels_are_text_as_it_is_written(tmp_path):
    file = tmp_path / "names.csv"
    file.write_text("\n".join(["x, name", *(f"1,{name}" for name in NAMES), '2," "', '3,""', "NA,a"]))
    table = read_table(file, "forecast", text=["name", "other"])
    assert table["name"].tolist() == [*NAMES, None, None, "a"]
    assert math.isnan(numbers(table, "x", file)[-1])  # elsewhere, NA is a gap


def test_the_groups_of_a_forecast_are_such_names(tmp_path):
    from gatewise.tasks import forecast

    file = tmp_path / "names.csv"
    file.write_text("\n".join(["name,t,y", *(f"{name},{k},{k}" for name in NAMES for k in range(2))]))
    assert [series.name for series in forecast.read(str(file), time="t", target="y", group="name").series] == NAMES


def test_names_and_labels_of_a_parquet_file(tmp_path):
    file = tmp_path / "names.parquet"
    columns = {"text": ["NA", "", None], "whole": [3.0, float("nan"), 1.5], "flag": [True, False, True]}
    pandas.DataFrame({**columns, "list": [list(range(99))] * 3, "dict": [{"a": 1}] * 3}).to_parquet(file)
    table = read_table(file, "forecast", text=list(columns))
    assert table["text"].tolist() == ["NA", None, None]
    assert table["whole"].tolist() == ["3", None, "1.5"]
    assert table["flag"].tolist() == ["True", "False", "True"]
    for column in ("list", "dict"):
        with pytest.raises(InputError, match=f"row 1: {column} is .{{4,60}}, expected text or a number"):
            read_table(file, "forecast", text=[column])
        with pytest.raises(InputError, match=f"row 1: {column} is .{{4,60}}, expected a number"):
            numbers(table, column, file)


def test_columns_without_a_name_are_left_out(tmp_path):
    file = tmp_path / "sales.csv"
    for text in (",a,\n0,1,\n1,2,\n", "Unnamed: 0,a\n0,1\n1,2\n"):
        file.write_text(text)
        assert list(read_table(file, "forecast").columns) == ["a"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_are_those_of_the_file(tmp_path, end):
    file = tmp_path / "sales.csv"
    lines = ["", '"the', 'name",sales', "", "  ", '"a', "", 'b",1', "c,2", "", "d,many"]
    file.write_bytes(end.join(lines).encode())
    table = read_table(file, "forecast")
    assert list(table["sales"]) == ["1", "2", "many"]
    assert [place(file, row) for row in range(3)] == [f"{file}, line {line}" for line in (6, 9, 11)]
    with pytest.raises(InputError, match=r"line 11: sales is 'many', expected a number: mend it, or read other"):
        numbers(table, "sales", file)
    file.write_text('a;b\n1;"2,5"\n')
    with pytest.raises(InputError, match="line 2: b is '2,5', expected a number with a decimal point"):
        numbers(read_table(file, "forecast"), "b", file)


def test_a_missing_column_or_number_is_told_with_its_place(tmp_path):
    file = tmp_path / "sales.csv"
    file.write_text("day,sales\n1,2\n2,many\n3,inf\n")
    table = read_table(file, "forecast")
    with pytest.raises(InputError, match=r"has no column 'date' \(--time\); its columns are day, sales"):
        check_columns(table, [("--target", "sales"), ("--time", "date")], file)
    with pytest.raises(InputError, match=r"sales\.csv, line 3: sales is 'many', expected a number"):
        numbers(table, "sales", file)
    file.write_text("day,sales\n1,2\n3,inf\n")
    with pytest.raises(InputError, match=r"line 3: sales is (np\.float64\()?inf\)?, expected a number"):
        numbers(read_table(file, "forecast"), "sales", file)
    assert math.isnan(numbers(pandas.DataFrame({"sales": ["1", None]}), "sales", file)[1])


def test_without_pandas_the_extra_is_named(tmp_path, monkeypatch):
    from gatewise import errors

    monkeypatch.setattr(errors.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r'needs pandas, .*: pip install "gatewise\[forecast\]"'):
        read_table(tmp_path / "sales.csv", "forecast")
