import math
import random

import pytest

from gatewise.tasks.errors import InputError, MissingPackageError
from gatewise.tasks.table import check_columns, numbers, read_table

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
        ("ragged.csv", b"a,b\n1,2\n1,2,3\n", r"ragged\.csv cannot be read as CSV: .*line 3"),
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
    from gatewise.tasks import errors

    monkeypatch.setattr(errors.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r'needs pandas, .*: pip install "gatewise\[forecast\]"'):
        read_table(tmp_path / "sales.csv", "forecast")
