"""Labelled sequences: files read, refused, split, standardised, put side by side."""

import random
from dataclasses import replace
from itertools import permutations

import pytest
import torch

from gatewise.errors import InputError
from gatewise.tasks.classify.data import NO_LABEL, ClassifyData, Samples, read, split
from gatewise.tasks.classify.sequences import Facts, Sequences, _sorted
from gatewise.tasks.classify.settings import DataSettings
from gatewise.tasks.classify.sources import japanese_vowels, read_new

pandas = pytest.importorskip("pandas")


def recordings(count=12, per="sequence", seed=0):
    """A table of recordings, with their rows mixed up: the label is what the first feature's sign tells."""
    draw = random.Random(seed)
    rows = []
    for k in range(count):
        sign = 1 if k % 2 else -1
        rows += [
            {
                "sequence": f"r{k}",
                "time": t / 10,
                "label": "up" if sign > 0 else "down",
                "a": sign * draw.uniform(1, 2),
                "b": draw.gauss(0, 1),
                "device": "x7",
            }
            for t in range(draw.randint(2, 6))
        ]
    draw.shuffle(rows)
    return pandas.DataFrame(rows)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "recordings.csv"
    recordings().to_csv(path, index=False)
    return path


def settings(path, **choices):
    return DataSettings(source=str(path), **choices)


def test_a_table_becomes_sequences_in_the_order_of_time(file):
    table = pandas.read_csv(file, float_precision="round_trip")
    data = read(settings(file, test="0.25", holdout=0.2))
    parts = [data.learned, data.held_out_part, data.test]
    assert [len(part) for part in parts] == [7, 2, 3]
    assert data.facts.features == ["a", "b"]
    assert data.learned.left_out == ["device"]  # it holds no numbers
    assert sorted(name for part in parts for name in part.names) == sorted(set(table["sequence"]))
    for part in parts:
        for name, x, y in zip(part.names, part.x, part.y, strict=True):
            rows = table[table["sequence"] == name].sort_values("time")
            assert x.tolist() == rows[["a", "b"]].values.tolist()
            assert {y} == set(rows["label"])


def test_parquet_holds_what_csv_holds(file, tmp_path):
    pytest.importorskip("pyarrow")
    pandas.read_csv(file, float_precision="round_trip").to_parquet(tmp_path / "recordings.parquet")
    one, other = read(settings(file)), read(settings(tmp_path / "recordings.parquet"))
    assert one.sha256 == other.sha256
    assert one.test.names == other.test.names


def test_columns_by_other_names_and_dates_as_times(file, tmp_path):
    table = pandas.read_csv(file, float_precision="round_trip")
    table["when"] = pandas.Timestamp("2024-01-31 23:59:59") + pandas.to_timedelta(table.pop("time"), unit="s")
    table = table.rename(columns={"sequence": "id", "label": "class"})
    table.to_csv(tmp_path / "other.csv", index=False)
    one = read(settings(file))
    other = read(settings(tmp_path / "other.csv", sequence="id", label="class", time="when"))
    torch.testing.assert_close(one.learned.x, other.learned.x)
    assert one.learned.y == other.learned.y
    assert read(settings(file, features=("b",))).facts.features == ["b"]


def test_a_second_file_is_the_test_and_new_files_need_no_labels(file, tmp_path):
    recordings(5, seed=1)[["b", "time", "label", "sequence", "a"]].to_csv(tmp_path / "test.csv", index=False)
    data = read(settings(file, test=str(tmp_path / "test.csv")))
    assert len(data.learned) == 12
    assert len(data.test) == 5
    assert all(x[0, 0] > 0 if y == "up" else x[0, 0] < 0 for x, y in zip(data.test.x, data.test.y, strict=True))
    recordings(5, seed=1).drop(columns="label").to_csv(tmp_path / "new.csv", index=False)
    new = read_new(str(tmp_path / "new.csv"), data.settings, data.facts)
    assert new.y is None
    assert sorted(x.sum().item() for x in new.x) == sorted(x.sum().item() for x in data.test.x)
    steps = read_new(str(tmp_path / "test.csv"), data.settings, replace(data.facts, per="step"))
    assert steps.per == "step"  # as the model's, whatever the settings of data from Python say


def test_labels_and_names_are_text_as_it_is_written(tmp_path):
    names = ["None", "NA", "null", "007", "7", "7.0"]
    (tmp_path / "a.csv").write_text("\n".join(["sequence,label,a", *(f"{n},{n},{k}" for k, n in enumerate(names))]))
    given = read_new(str(tmp_path / "a.csv"), DataSettings(), Facts(["0", "1"], ["a"], [0.0], [1.0], "sequence"))
    assert given.names == given.y == names


def change(table, row, column, value):
    table = table.astype({column: object})
    table.loc[row, column] = value
    return table


@pytest.mark.parametrize(
    ("mistake", "choices", "words"),
    [
        (lambda t: t.drop(columns="sequence"), {}, r"no column 'sequence' \(--sequence\)"),
        (lambda t: t.drop(columns="label"), {}, r"no column 'label' \(--label\)"),
        (lambda t: t, {"time": "when"}, r"no column 'when' \(--time\)"),
        (lambda t: t, {"features": ("c",)}, r"no column 'c' \(--features\)"),
        (lambda t: change(t, 3, "b", "12.a"), {}, r"line 5: b is '12\.a', expected a number: mend it"),
        (lambda t: t.assign(b=t["b"].astype(str).str.replace(".", ",")), {}, "line 2: b is .*with a decimal point"),
        (lambda t: t, {"features": ("a,b",)}, r"no column 'a,b' \(--features\): give --features once for each column"),
        (lambda t: t, {"features": ("a", "a")}, "--features a has been given before"),
        (lambda t: t, {"features": ("label",)}, "--features label names the sequence or the label"),
        (lambda t: t, {"features": ("device",)}, "device is 'x7', expected a number"),
        (lambda t: t.drop(columns=["a", "b"]), {}, "no column with numbers"),
        (lambda t: change(t, 3, "b", None), {}, "line 5: b is missing, expected a number"),
        (lambda t: change(t, 3, "b", "?"), {"features": ("b",)}, r"line 5: b is '\?', expected a number"),
        (lambda t: change(t, 3, "label", None), {}, "line 5: label is missing"),
        (lambda t: change(t, 3, "sequence", None), {}, "line 5: sequence is missing"),
        (lambda t: change(t, 3, "time", "noon"), {}, "line 5: time is 'noon', expected a number"),
        (lambda t: t.assign(time="noon"), {}, "line 2: time is 'noon', expected a number, or a date such as"),
        (lambda t: pandas.concat([t, t.iloc[[3]]]), {}, ": sequence r.* has time .* twice"),
        (lambda t: change(t, 3, "label", "sideways"), {}, "a sequence has two labels, '.*' and '.*', .*--per step"),
        (lambda t: change(t, slice(None), "label", "up"), {}, "have one label, 'up', expected two"),
        (lambda t: t, {"test": "0.01"}, "a share of 0.01 of 12 sequences is 0"),
        (lambda t: t.iloc[:0], {}, "no rows below its header"),
    ],
)
def test_a_bad_table_is_refused_in_a_line(tmp_path, mistake, choices, words):
    path = tmp_path / "bad.csv"
    mistake(recordings()).to_csv(path, index=False)
    with pytest.raises(InputError, match=words) as caught:
        read(settings(path, **choices))
    assert "\n" not in str(caught.value)


def test_read_from_python_takes_a_path_and_choices_as_they_come(file):
    data = read(file, test=0.25, features=["b"], holdout=0.2)
    assert data.settings == settings(file, test="0.25", features=("b",), holdout=0.2)
    assert data.sha256 == read(data.settings).sha256
    assert read(str(file), features="b").facts.features == ["b"]
    with pytest.raises(TypeError, match="settings or keyword arguments, not both; got batch"):
        read(data.settings, batch=3)
    for source in ("japanese-vowel", "no/such"):
        with pytest.raises(InputError, match=f"no file {source}: give japanese-vowels, digits or the path of a CSV"):
            read(source)


def test_what_may_be_a_clock_is_told(tmp_path):
    path = tmp_path / "a.csv"
    rows = [
        "r,t,up,flat,label",
        "p,0,1,1,x",
        "p,1,2,2,x",
        "q,5,3,4,y",
        "q,6,4,4,y",
        "s,0,0,0,x",
        "u,0,1,0,y",
        "v,1,1,0,y",
    ]
    path.write_text("\n".join([*rows, "q,7,2,5,y"]))
    data = read(path, sequence="r")
    assert data.learned.rising == ["t"]
    assert read(path, sequence="r", time="t").learned.rising == []
    assert read(path, sequence="r", features=["t"]).learned.rising == []
    path.write_text("\n".join([*rows, "q,7,5,5,y"]).replace("t,", "time,", 1))
    assert read(path, sequence="r").learned.rising == []  # a column `time` orders the rows already


def test_labels_that_were_not_learned_are_named(file, tmp_path):
    table = recordings(4, seed=1).replace("up", "sideways")
    table.to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(InputError, match=r"has the label 'sideways' \(sequence r\d .*those learned are 'down', 'up'"):
        read(settings(file, test=str(tmp_path / "test.csv")))


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([torch.ones(3, 2), torch.ones(0, 2)], None, "sequence 2 is empty"),
        ([torch.ones(3, 2), torch.ones(3, 1)], None, r"sequence 2 has shape \(3, 1\), expected \(steps, 2\)"),
        ([[[1.0], [float("nan")]]], None, "sequence 1, step 2: x1 is nan, expected a finite number"),
        ([[1.0, 2.0]], ["a", "b"], "2 labels for 1 sequences"),
        ([[1.0, 2.0]], [["a"]], "sequence 1 has 2 steps and 1 labels"),
        ([[1.0, 2.0]], [["a", None]], "sequence 1, step 2 has no label"),
    ],
)
def test_bad_sequences_are_refused_in_a_line(x, y, words):
    with pytest.raises(InputError, match=words):
        Sequences(x, y)


def test_labels_are_text_in_the_order_of_numbers():
    given = Sequences([[0.0], [1.0], [2.0]], torch.tensor([10, 9, 9]))
    assert Facts.of(given).labels == ["9", "10"]
    assert given.y == ["10", "9", "9"] == Sequences(given.x, [10.0, 9.0, "9"]).y
    assert Facts.of(Sequences([[0.0], [1.0]], ["b", "10"])).labels == ["10", "b"]
    for labels in (["+1", "01", "1", "1.0", "2"], ["1", "10", "2", "nan"]):  # in an order that sets cannot change
        assert all(_sorted(order) == labels for order in permutations(labels))


def test_splits_keep_each_class_its_share_and_singles_are_learned():
    y = ["a"] * 40 + ["b"] * 20 + ["c"]
    given = Sequences([[float(i)] for i in range(61)], y)
    seen = set()
    for seed in range(20):
        rest, part = split(given, 0.2, seed)
        assert len(part) == 12
        assert part.y.count("a") == 8
        assert part.y.count("b") == 4
        assert {int(x) for x in rest.x} | {int(x) for x in part.x} == set(range(61))
        assert part.names == [str(int(x) + 1) for x in part.x]
        seen.add(tuple(part.names))
    assert len(seen) == 20
    assert split(given, 0.2, 3)[1].names == split(given, 0.2, 3)[1].names


def test_standardised_by_what_is_learned_alone():
    draw = torch.Generator().manual_seed(0)
    x = [
        torch.randn(5, 3, generator=draw) * 0.01 + torch.tensor([1e9, 0.0, 7.0]) * torch.tensor([1, 1, 0])
        for _ in range(8)
    ]
    x = [torch.cat((s[:, :2].double(), torch.full((5, 1), 0.1, dtype=torch.float64)), 1) for s in x]
    x = [s + torch.randn(5, 1, generator=draw).double() * torch.tensor([1.0, 0.0, 0.0]) for s in x]
    data = ClassifyData(Sequences(x, "abababab"), Sequences([torch.full((2, 3), 1e6)], ["a"]))
    learned = torch.cat(data.facts.inputs(data.learned))
    torch.testing.assert_close(learned[:, :2].mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(learned[:, :2].std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    assert learned[:, 2].abs().max() < 1e-9  # a constant feature says nothing


def test_batches_are_padded_behind_the_ends():
    given = Sequences([[1.0, 2.0, 3.0], [4.0]], [["a", "b", "a"], ["b"]])
    samples = Samples(given, Facts(["a", "b"], ["x1"], [0.0], [2.0], "step"))
    x, lengths, y = samples.batch(torch.tensor([1, 0]))
    assert x.squeeze(2).tolist() == [[2.0, 0.5], [0.0, 1.0], [0.0, 1.5]]
    assert lengths.tolist() == [1, 3]
    assert y.tolist() == [[1, 0], [NO_LABEL, 1], [NO_LABEL, 0]]


def test_japanese_vowels_are_those_of_the_archive():
    pytest.importorskip("sktime")
    train, test = japanese_vowels.read()
    assert (len(train), len(test)) == (270, 370)
    assert sorted(train.y) == sorted("123456789" * 30)
    assert [test.y.count(label) for label in "123456789"] == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    assert {x.shape[1] for x in train.x} == {12}
    assert {min(map(len, test.x)), max(map(len, test.x))} == {7, 29}
    assert train.x[0][:2, :2].tolist() == [[1.860936, -0.207383], [1.891651, -0.193249]]


def test_digits_row_by_row_and_pixel_by_pixel():
    pytest.importorskip("sklearn")
    rows, pixels = (read(source="digits", read=how) for how in ("rows", "pixels"))
    assert rows.learned.x[0].shape == (8, 8)
    assert pixels.learned.x[0].shape == (64, 1)
    assert rows.learned.y == pixels.learned.y
    assert torch.equal(rows.learned.x[5].flatten(), pixels.learned.x[5].flatten())
    assert (len(rows.learned), len(rows.test)) == (1438, 359)


def test_ts_files(tmp_path):
    path = tmp_path / "a.ts"
    path.write_text("@timeStamps false\n@classLabel true a b\n@data\n1,2:3,4:a\n5:6:b\n\n1:2:a\n7:8:b\n")
    data = read(settings(path, test=str(path)))
    assert [x.tolist() for x in data.learned.x] == [[[1, 3], [2, 4]], [[5, 6]], [[1, 2]], [[7, 8]]]
    path.write_text("@classLabel true a b\n@data\n1,2:3:a\n")
    with pytest.raises(InputError, match="line 3 is damaged"):
        read(settings(path))
    path.write_text("@data\n1,2:3,4\n")
    with pytest.raises(InputError, match="no labelled sequences"):
        read(settings(path))
