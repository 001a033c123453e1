"""Whole trainings of classifiers: what they learn, leave behind, and how they stop and go on."""

import csv
import json
import random

import pytest
import torch
from helpers import assert_same_run, interrupt_at

from gatewise.errors import InputError
from gatewise.tasks import checkpoint, classify
from gatewise.tasks.classify import training
from gatewise.tasks.classify.settings import ClassifySettings


@pytest.fixture(autouse=True)
def one_thread():
    """For nets as small as these, a second thread only waits for a busy core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_switches(path, count=80, seed=0, labels=True):
    """A switch that each press turns on or off: the label of a step is the parity of the presses so far."""
    draw = random.Random(seed)
    with path.open("w") as file:
        print("box", "second", "press", "hum", *(["state"] if labels else []), sep=",", file=file)
        for k in range(count):
            on = False
            for t in range(draw.randint(1, 12)):
                press = draw.random() < 0.4
                on ^= press
                print(f"b{k}", t, int(press), f"{draw.gauss(0, 1):.3f}", *(["on" if on else "off"] if labels else []),
                      sep=",", file=file)  # fmt: skip
    return str(path)


SWITCHES = {"sequence": "box", "time": "second", "label": "state", "per": "step"}
SMALL = {**SWITCHES, "hidden": 8, "epochs": 2, "batch": 8}


def test_tagging_a_file_from_the_command_line(tmp_path, run):
    pytest.importorskip("pandas")
    data, new = write_switches(tmp_path / "a.csv"), write_switches(tmp_path / "b.csv", 20, seed=1)
    folder = tmp_path / "run"
    flags = [f"--{name}={value}" for name, value in SWITCHES.items()]
    size = ["--hidden=16", "--no-bidirectional", "--noise=0", "--epochs=40", "--lr=0.02", "--holdout=0.2"]
    code, out, err = run("train", "classify", f"--data={data}", f"--out={folder}", *flags, *size)
    assert code == 0, err
    assert "2 features: press, hum" in out
    assert "51 sequences to learn, 13 held out, 16 to test, of 1 to 12 steps" in out
    assert {path.name for path in folder.iterdir()} == {
        "best.safetensors", "last.safetensors", "settings.json", "cell.txt", "classes.json", "metrics.csv",
        "curves.png", "confusion.png", "confusion.csv", "predictions.csv", "report.txt",
    }  # fmt: skip
    rows = list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))
    right = [row["label"] == row["predicted"] for row in rows]
    assert sum(right) / len(right) > 0.95  # naming the most frequent one: about 0.6
    assert f"({sum(right)} of {len(right)})" in (folder / "report.txt").read_text()
    for row in rows:
        assert row["predicted"] == max(("off", "on"), key=lambda label: float(row[f"p {label}"]))
    history = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    best = min(history, key=lambda row: float(row["held_out_loss"]))
    assert float(best["held_out_accuracy"]) > 0.95
    assert f"by the held-out ones, {best['epoch']}\n" in (folder / "report.txt").read_text()

    code, out, err = run("classify", str(folder), new)
    assert code == 0
    assert out.splitlines()[0] == "sequence,step,label,predicted,p off,p on"
    assert float(err.split()[1]) > 95
    code, unlabelled, _ = run("classify", str(folder), write_switches(tmp_path / "c.csv", 20, seed=1, labels=False))
    assert unlabelled.splitlines()[0] == "sequence,step,predicted,p off,p on"
    assert [line.split(",")[-2:] for line in unlabelled.splitlines()] == [
        line.split(",")[-2:] for line in out.splitlines()
    ]
    assert run("classify", str(folder), new, "--out", str(tmp_path / "labels.csv"))[0] == 0
    assert (tmp_path / "labels.csv").read_text() == out
    (tmp_path / "labels.csv").write_text("mine")
    assert run("classify", str(folder), new, "--out", str(tmp_path / "labels.csv"))[0] == 2
    assert (tmp_path / "labels.csv").read_text() == "mine"
    assert run("classify", str(folder), new, "--out", str(tmp_path / "labels.csv"), "--force")[0] == 0
    assert (tmp_path / "labels.csv").read_text() == out
    assert "checkpoint is one of best, last" in run("classify", str(folder), new, "--checkpoint", "first")[2]

    (tmp_path / "d.csv").write_text("box,second,press\nb,0,1\n")
    code, out, err = run("classify", str(folder), str(tmp_path / "d.csv"))
    assert (code, out) == (2, "")
    assert "has no column 'hum' (--features)" in err
    assert err.count("\n") == 1
    (tmp_path / "d.csv").write_text("box,second,press,hum,state\nb,0,1,0,broken\n")
    code, out, err = run("classify", str(folder), str(tmp_path / "d.csv"))  # the labels do not matter to the model
    assert code == 0
    assert out.splitlines()[1].startswith("b,1,broken,o")
    assert err == "accuracy 0.0 % (0 of 1 steps)\n1 of them have a label that was not learned, and count as wrong\n"
    (tmp_path / "d.csv").write_text("box,second,press,hum,state\nb,0,1,0,\n")
    code, out, err = run("classify", str(folder), str(tmp_path / "d.csv"))
    assert (code, out.splitlines()[0], err) == (0, "sequence,step,predicted,p off,p on", "")
    assert f"the run learned are among them: {data} is its own" in run("classify", str(folder), data)[2]
    assert "digits has a label a sequence, none a step" in run("classify", str(folder), "digits")[2]
    (tmp_path / "d.csv").write_text("box,second,press,hum\nb,0,1,0\nb,1,0,\n")
    assert "line 3: hum is missing" in run("classify", str(folder), str(tmp_path / "d.csv"))[2]


@pytest.mark.parametrize("batch", [3, 8])  # of 6 an epoch
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, monkeypatch, batch):
    pytest.importorskip("pandas")
    data = write_switches(tmp_path / "a.csv", 60)
    settings = ClassifySettings.of(data=data, layers=2, dropout=0.4, cell="lstm", **SMALL)
    classify.train(settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_at(patch, training.ClassifyTrainee, batch)
        with pytest.raises(KeyboardInterrupt, match="to go on: --resume"):
            classify.train(settings, tmp_path / "run")
    assert checkpoint.load(tmp_path / "run" / "last.safetensors")["global_step"] == batch
    assert not (tmp_path / "run" / "report.txt").exists()
    classify.resume(tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    for name in ("report.txt", "predictions.csv", "confusion.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    write_switches(tmp_path / "a.csv", seed=5)
    with pytest.raises(InputError, match="is not what the run in"):
        classify.resume(tmp_path / "run", epochs=3)


def test_from_python_with_sequences_of_ones_own(tmp_path):
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 9, (80,), generator=random).tolist()
    x = [100 + 20 * torch.randn(n, 2, generator=random) for n in lengths]
    y = [int(steps[0, 1] > 100) for steps in x]  # what comes first decides
    data = classify.ClassifyData(classify.Sequences(x, y), test=0.25, batch=10)
    torch.manual_seed(0)
    model = classify.Classifier("gru", data, hidden_size=8, bidirectional=True)
    result = classify.fit(model, data, epochs=25, lr=0.03, out=tmp_path / "run")
    assert result.history[-1]["train_accuracy"] > 0.95
    loaded = classify.load(tmp_path / "run")
    found = loaded.predict(data.test)
    assert found == model.eval().predict(data.test)  # nothing was held out: the last weights
    assert sum(a == b for a, b in zip(found, data.test.y, strict=True)) >= 18
    assert loaded.predict([[[90, 150]], [[90, 50], [80, 150]]]) == ["1", "0"]
    file = tmp_path / "run" / "classes.json"
    facts = json.loads(file.read_text())
    faults = {"mean": (["x", "x"], None), "std": ([0, 0], [None, 1], [1]), "per": ("foo",)}
    faults |= {"labels": (["1", "1"], ["1"], [0, 1], {"0": 0, "1": 1}), "features": (["a", "a"], [])}
    damages = [{**facts, name: value} for name, values in faults.items() for value in values]
    for damaged in ("{", *map(json.dumps, [[], {"labels": ["0", "1"]}, *damages])):
        file.write_text(damaged)
        with pytest.raises(InputError, match=r"damaged.*restore") as caught:
            classify.load(tmp_path / "run")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="begun from Python with data of its own"):
        classify.resume(tmp_path / "run", epochs=30)


def test_the_first_lines_tell_of_all_sequences():
    given = classify.Sequences([[1.0] * 3, [2.0] * 4, [3.0] * 4], "aba", rising=["x1"])
    data = classify.ClassifyData(given, classify.Sequences([[1.0] * 9, [1.0] * 2], "ab"))
    trainee = training.ClassifyTrainee(classify.Classifier("rnn", data, hidden_size=2), data, ClassifySettings.of())
    assert "3 sequences to learn, 2 to test, of 2 to 9 steps" in trainee.data_line()
    assert trainee.data_line().endswith("\n       x1 rises in every sequence: if it is a clock, --time x1")


def test_the_rate_falls_linearly_and_what_goes_with_it(tmp_path, monkeypatch):
    rates = []
    loss = training.ClassifyTrainee.loss

    def watched(self, batch, state):
        rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss(self, batch, state)

    monkeypatch.setattr(training.ClassifyTrainee, "loss", watched)
    data = classify.ClassifyData(classify.Sequences([[1.0], [2.0], [3.0], [4.0]] * 3, "abab" * 3), batch=16)
    for schedule, expected in (("linear", [0.4, 0.3, 0.2, 0.1]), ("constant", [0.4] * 4)):
        model = classify.Classifier("rnn", data, hidden_size=2)
        classify.fit(model, data, epochs=4, lr=0.4, schedule=schedule, out=tmp_path / schedule)
        assert rates == pytest.approx(expected)
        rates.clear()
    assert ClassifySettings.of().fit.schedule == "linear"
    assert (
        ClassifySettings.of(minutes=1.0).fit.schedule
        == ClassifySettings.fit_settings(minutes=1.0).schedule
        == "constant"
    )
    assert ClassifySettings.of(minutes=1.0, epochs=5).fit.schedule == "linear"
    with pytest.raises(InputError, match="a linear schedule ends with the last epoch: give epochs too"):
        ClassifySettings.of(minutes=1.0, schedule="linear")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data", "absent.csv"], "there is no file absent.csv"),
        (["--data", "digit"], "no file digit: give japanese-vowels, digits or the path of"),
        (["--test", "0"], "test must be a share above 0 and below 1, or a file; got 0"),
        (["--test", "0.3"], "japanese-vowels has a test part of its own"),
        (["--data", "digits", "--test", "other.csv"], "of digits a share is split off"),
        (["--data", "digits", "--per", "step"], "digits has a label a sequence, none a step"),
        (["--holdout", "1"], "holdout must be a share from 0 to below 1"),
        (["--per", "word"], "per is one of sequence, step; got 'word'"),
        (["--pool", "max"], "pool is one of last, mean; got 'max'"),
        (["--noise", "-1"], "noise must be 0 (none) or more; got -1.0"),
        (["--dropout", "0.3"], "dropout acts between layers and there is one"),
        (["--cell", "gro"], "did you mean gru?"),
    ],
)
def test_wrong_choices_end_in_a_line(run, tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("train", "classify", *flags)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_tells_speakers_apart(tmp_path, seed):
    """The goal: at least 97 % of the test utterances, on each seed."""
    classify.train(ClassifySettings.of(seed=seed, accelerator="cpu"), tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run" / "predictions.csv").read_text().splitlines()))
    assert sum(row["label"] == row["predicted"] for row in rows) / len(rows) >= 0.97
