"""Whole trainings: what they compute, what they leave behind, how they stop and go on."""

import csv
import errno
import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import assert_same_run, interrupt_at, state_of_run
from torch.nn import functional as F

import gatewise
from gatewise.errors import InputError
from gatewise.tasks import checkpoint, keeper, run, text
from gatewise.tasks.text import training

TEXT = "".join(random.Random(0).choices("abcdefgh \n", k=1200)) + "".join(random.Random(1).choices("abc", k=300))
SMALL = {"hidden": 16, "layers": 1, "steps": 8, "batch": 4, "epochs": 2}


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "source.txt"
    file.write_text(TEXT)
    return str(file)


def test_a_run_from_python_leaves_all_that_is_promised(tmp_path):
    data = text.TextData("abcdefgh" * 200, steps=8, batch=4)
    model = text.LanguageModel("gru", data.vocabulary, hidden_size=16)
    result = text.fit(model, data, epochs=3, lr=0.02, out=tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "best.safetensors", "last.safetensors", "settings.json", "cell.txt", "vocabulary.json",
        "metrics.csv", "curves.png", "sample.txt",
    }  # fmt: skip
    rows = list(csv.DictReader(result.run.metrics.read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for row in rows:
        for part in ("train", "held_out"):
            loss = float(row[f"{part}_loss"])
            assert float(row[f"{part}_perplexity"]) == pytest.approx(math.exp(loss))
            assert float(row[f"{part}_bits_per_char"]) == pytest.approx(loss / math.log(2))
    assert result.best["held_out_perplexity"] == min(float(row["held_out_perplexity"]) for row in rows) < 1.5
    assert text.generate(model, "cde", 10, temperature=0) == "fghabcdefg"
    assert text.generate(text.load(result.run.path, "last"), "cde", 10, temperature=0) == "fghabcdefg"
    assert result.run.curves.read_bytes().startswith(b"\x89PNG")
    assert gatewise.Graph.parse((tmp_path / "run" / "cell.txt").read_text()) == gatewise.cells.gru


@pytest.fixture
def one_thread():
    """For nets as small as these, a second thread only waits for a busy core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("sampling", ["sequential", "random"])
def test_the_training_is_the_books(tmp_path, sampling):
    """Loss, clipping, steps, carried state and perplexity against the d2l book's loop with torch's own GRU."""
    data = text.TextData(TEXT, steps=8, batch=4, sampling=sampling, holdout=0.2)
    model = text.LanguageModel("gru", data.vocabulary, hidden_size=16)
    size = len(data.vocabulary)
    gru, output = torch.nn.GRU(size, 16), torch.nn.Linear(16, size)
    gru.load_state_dict(model.layer.state_dict())
    output.load_state_dict(model.output.state_dict())
    result = text.fit(model, data, epochs=3, optimizer="sgd", lr=1.0, clip=0.25, out=tmp_path / "run", seed=5)

    parameters = [*gru.parameters(), *output.parameters()]
    sgd = torch.optim.SGD(parameters, lr=1.0)
    norms = []
    for epoch, row in enumerate(result.history):
        windows = data.training(seed=5)
        windows.set_epoch(epoch)
        hidden, total, count = None, 0.0, 0
        for x, y, _ in windows:
            hidden = hidden.detach() if hidden is not None and sampling == "sequential" else None
            out, hidden = gru(F.one_hot(x, size).float(), hidden)
            loss = F.cross_entropy(output(out).reshape(-1, size), y.reshape(-1))
            sgd.zero_grad()
            loss.backward()
            norm = torch.sqrt(sum(p.grad.square().sum() for p in parameters))
            norms.append(norm.item())
            if norm > 0.25:
                for p in parameters:
                    p.grad.mul_(0.25 / norm)
            sgd.step()
            total, count = total + loss.item() * y.numel(), count + y.numel()
        assert row["train_perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)
        with torch.no_grad():
            out, _ = gru(F.one_hot(torch.cat([w.x for w in data.held_out()]), size).float())
            held_out = F.cross_entropy(output(out).flatten(0, 1), torch.cat([w.y for w in data.held_out()]).flatten())
        assert row["held_out_loss"] == pytest.approx(held_out.item(), rel=1e-4)
    assert min(norms) < 0.25 < max(norms)  # the clipping was seen at work, and idle


@pytest.mark.parametrize("batch", [1, 17, 41])  # 41 is an epoch's last
def test_ctrl_c_finishes_the_batch_saves_and_the_run_goes_on(source, tmp_path, monkeypatch, batch):
    settings = text.TextSettings.of(data=source, **SMALL)
    text.train(settings, tmp_path / "whole")
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        interrupt_at(patch, training.TextTrainee, batch)
        with pytest.raises(KeyboardInterrupt, match=f"stopped; to go on: --resume {tmp_path / 'run'}"):
            text.train(settings, tmp_path / "run")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert checkpoint.load(tmp_path / "run" / "last.safetensors")["global_step"] == batch
    text.resume(tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_second_ctrl_c_stops_at_once(source, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, training.TextTrainee, 5, times=2)
    with pytest.raises(KeyboardInterrupt, match="stopped before the first checkpoint"):
        text.train(text.TextSettings.of(data=source, **SMALL), tmp_path / "run")
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_a_raised_limit_goes_on_as_if_it_had_been_higher_from_the_start(source, tmp_path):
    text.train(text.TextSettings.of(data=source, **{**SMALL, "epochs": 3}), tmp_path / "whole")
    text.train(text.TextSettings.of(data=source, **{**SMALL, "epochs": 1}), tmp_path / "run")
    with pytest.raises(InputError, match="has done its 1 epochs: raise the limit to go on, --epochs 2"):
        text.resume(tmp_path / "run")
    text.resume(tmp_path / "run", epochs=2)
    settings = (tmp_path / "run" / "settings.json").read_text()
    with pytest.raises(InputError, match="has done its 2 epochs"):
        text.resume(tmp_path / "run", epochs=1)
    assert (tmp_path / "run" / "settings.json").read_text() == settings
    text.resume(tmp_path / "run", epochs=3)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert text.load(tmp_path / "run").training is False


def test_a_run_killed_before_its_sample_was_written_is_finished(source, tmp_path):
    text.train(text.TextSettings.of(data=source, **SMALL, holdout=0.0), tmp_path / "run")
    sample = (tmp_path / "run" / "sample.txt").read_text()
    (tmp_path / "run" / "sample.txt").unlink()
    text.resume(tmp_path / "run")
    assert (tmp_path / "run" / "sample.txt").read_text() == sample


def test_minutes_end_an_epoch_and_count_earlier_sittings(source, tmp_path):
    settings = text.TextSettings.of(data=source, **{**SMALL, "epochs": None}, minutes=1e-4)
    assert len(text.train(settings, tmp_path / "run").history) == 1
    with pytest.raises(InputError, match=r"has had its 0\.\d minutes: raise the limit"):
        text.resume(tmp_path / "run")
    first = keeper.Keeper(run.Run(tmp_path), 1.0)
    first.load_state_dict({"rows": [], "best": 1.0, "seconds": 100.0})
    assert 100 <= first.seconds < 130


def test_the_steps_that_are_saved_within_an_epoch_carry_the_state_and_the_place(source, tmp_path, monkeypatch):
    monkeypatch.setattr(keeper, "BATCH_PAUSE", 0.0)
    interrupt_at(monkeypatch, training.TextTrainee, 10)
    with pytest.raises(KeyboardInterrupt):
        text.train(text.TextSettings.of(data=source, **SMALL, cell="lstm"), tmp_path / "run")
    kept = checkpoint.load(tmp_path / "run" / "last.safetensors")
    h, c = kept["processes"]["carried"]
    assert h.shape == c.shape == (1, 1, 4, 16)  # processes, then (L, B, H)
    assert h.any()
    assert kept["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [{"epoch": 0, "batch": 10}]


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stands(source, tmp_path, monkeypatch):
    settings = text.TextSettings.of(data=source, **{**SMALL, "epochs": 1})
    text.train(settings, tmp_path / "run")
    before = state_of_run(tmp_path / "run")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", lambda path, data: full(0))
        with pytest.raises(InputError, match=r"No space left on device; .* free some space, then go on with --resume"):
            text.resume(tmp_path / "run", epochs=2)
    after = state_of_run(tmp_path / "run")
    assert before[1] == after[1]
    assert len(text.resume(tmp_path / "run").history) == 2


def test_a_diverged_training_is_told(source, tmp_path):
    settings = text.TextSettings.of(data=source, **SMALL, optimizer="sgd", lr=1e38, clip=0)
    with pytest.raises(InputError, match=r"the loss is (nan|inf) after epoch 1: begin anew with a lower --lr"):
        text.train(settings, tmp_path / "run")
    settings = text.TextSettings.of(data=source, **SMALL, lr=1e10)  # a finite loss of an infinite perplexity
    with pytest.raises(InputError, match=r"the loss is \d.* after epoch 1: begin anew with a lower --lr"):
        text.train(settings, tmp_path / "another")


def test_what_does_not_fit_the_run_is_refused_when_it_goes_on(source, tmp_path):
    run_folder = tmp_path / "run"
    text.train(text.TextSettings.of(data=source, **{**SMALL, "epochs": 1}), run_folder)
    with pytest.raises(InputError, match=r"--hidden 32 contradicts the run in .*, begun with 16: leave it out"):
        text.resume(run_folder, epochs=2, hidden=32, lr=None)
    Path(source).write_text(TEXT + "more")
    with pytest.raises(InputError, match=r"source\.txt is not what the run in .* was begun with"):
        text.resume(run_folder, epochs=2)
    Path(source).write_text(TEXT)
    for name, content, message in [
        ("last.safetensors", b"x" * 99, "is damaged or no checkpoint"),
        ("cell.txt", b"nonsense", r"cell\.txt is damaged"),
        ("settings.json", b'{"task": "text", "format": 1, "data": {}}', "the settings in .* are damaged"),
    ]:
        whole = (run_folder / name).read_bytes()
        (run_folder / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            text.resume(run_folder, epochs=2)
        (run_folder / name).write_bytes(whole)


def test_a_run_from_python_with_a_text_of_its_own_goes_on_from_python(tmp_path):
    data = text.TextData(TEXT, steps=8, batch=4)

    def model():
        torch.manual_seed(1)
        return text.LanguageModel(gatewise.LSTM(len(data.vocabulary), 8, 2, dropout=0.3), data.vocabulary)

    text.fit(model(), data, epochs=2, out=tmp_path / "whole")
    text.fit(model(), data, epochs=1, out=tmp_path / "run")
    with pytest.raises(InputError, match="go on there"):
        text.resume(tmp_path / "run", epochs=2)
    with pytest.raises(InputError, match="needs out="):
        text.fit(model(), data, epochs=2, resume=True)
    text.fit(model(), data, epochs=2, out=tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert text.load(tmp_path / "run")(torch.zeros(3, 2, dtype=torch.int64))[0].shape == (3, 2, len(data.vocabulary))


def test_weights_that_do_not_fit_are_told(source, tmp_path):
    for name, hidden in (("a", 16), ("b", 24)):
        text.train(text.TextSettings.of(data=source, **{**SMALL, "epochs": 1, "hidden": hidden}), tmp_path / name)
    (tmp_path / "a" / "best.safetensors").write_bytes((tmp_path / "b" / "best.safetensors").read_bytes())
    with pytest.raises(InputError, match="does not fit the settings of its run"):
        text.load(tmp_path / "a")


def test_other_precisions_train(source, tmp_path):
    for precision in ("64-true", "bf16-mixed"):
        settings = text.TextSettings.of(data=source, **SMALL, precision=precision, accelerator="cpu")
        result = text.train(settings, tmp_path / precision)
        assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
        assert text.load(result.run.path).output.weight.dtype == torch.float32


def test_the_threads_are_the_settings_and_come_back(source, tmp_path, monkeypatch):
    Path(source).write_text(TEXT[:100])
    seen = []
    loss = training.TextTrainee.loss

    def looking(self, batch, state):
        seen.append(torch.get_num_threads())
        return loss(self, batch, state)

    monkeypatch.setattr(training.TextTrainee, "loss", looking)
    before = torch.get_num_threads()
    for threads in (1, 2):
        text.train(
            text.TextSettings.of(data=source, **{**SMALL, "epochs": 1}, threads=threads), tmp_path / str(threads)
        )
        assert seen[-1] == threads
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_two_devices_share_the_batches_and_learn_the_same(source, tmp_path):
    """Lightning starts the second process as a copy of the first, so this takes a command line."""
    flags = {**SMALL, "data": source, "accelerator": "cpu"}
    text.train(text.TextSettings.of(**flags), tmp_path / "one")
    command = [sys.executable, "-m", "gatewise.cli", "train", "text", "--devices=2", f"--out={tmp_path / 'two'}"]
    command += [f"--{flag}={value}" for flag, value in flags.items()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    one, two = ([row["train_loss"] for row in state_of_run(tmp_path / name)[1]] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-5)
    assert len(checkpoint.load(tmp_path / "two" / "last.safetensors")["processes"]["random"]) == 2
