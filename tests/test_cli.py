import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from helpers import OWN

import gatewise
from gatewise.tasks import text
from gatewise.tasks.text import training

TEXT = "".join(random.Random(0).choices("abcdefgh \n", k=1500))
SMALL = ["--hidden=16", "--steps=8", "--batch=4", "--epochs=2"]


@pytest.fixture(autouse=True)
def in_a_folder_with_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)


def refused(run, *arguments):
    """The one line of a refusal."""
    code, _, err = run(*arguments)
    assert code == 2
    assert err.startswith("gatewise: ")
    assert err.count("\n") == 1
    return err


def test_help_loads_neither_torch_nor_lightning_and_teaches():
    code = "import sys; from gatewise import cli\ntry: cli.main()\nfinally: print(sorted(sys.modules))"
    for arguments in ([], ["--help"], ["train", "text", "--help"], ["generate", "--help"], ["equations", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        loaded = set(re.findall(r"'(\w+)'", done.stdout))
        assert "gatewise" in loaded
        assert not loaded & {"torch", "lightning", "matplotlib", "numpy", "safetensors"}
    done = subprocess.run([sys.executable, "-c", code, "train", "text", "--help"], capture_output=True, text=True)
    for word in ("Data", "Model", "Training", "Run", "python-docs", "next free"):
        assert word in done.stdout


def test_training_and_generating(run, tmp_path):
    code, out, err = run("train", "text", "--data", "text.txt", *SMALL)
    assert (code, err) == (0, "")
    assert re.search(r"text +text\.txt: 1,350 characters to learn, 150 held out, 10 different", out)
    assert re.search(r"held-out perplexity \d+\.\d+ \(\d\.\d+ bits a character\), best after epoch [12] of 2", out)
    for name in ("best.safetensors", "last.safetensors", "metrics.csv", "curves.png", "sample.txt"):
        assert f"runs/text-1/{name}" in out
        assert os.path.exists(f"runs/text-1/{name}")
    assert (tmp_path / "runs/text-1/sample.txt").read_text() in out
    assert "\x1b" not in out
    assert "\r" not in out
    once, again = (run("generate", "runs/text-1", "--prompt=abc", "--length=50", "--seed=1") for _ in range(2))
    assert once == again
    assert once[0] == 0
    assert re.fullmatch(r"abc(.|\n){50}\n", once[1])
    code, out, _ = run("generate", "runs/text-1", "--length=0", "--checkpoint=last")
    assert code == 0
    assert (
        out[:-1] == text.TextData(TEXT, steps=8, batch=4).opening()
    )  # no prompt takes the one of the run's own sample


def test_a_second_run_takes_the_next_folder_and_out_is_never_overwritten(run):
    for number in (1, 2):
        assert f"run    runs/text-{number}\n" in run("train", "text", "--data=text.txt", *SMALL)[1]
    line = refused(run, "train", "text", "--data=text.txt", *SMALL, "--out=runs/text-1")
    assert "runs/text-1 already holds a run: choose another folder with --out, or continue it with --resume" in line


def test_the_recipe_prints_the_books_continuations(run):
    path = os.path.join(os.path.dirname(__file__), "..", "..", "shared", "data", "text")
    if not os.path.exists(os.path.join(path, "timemachine.txt")):
        pytest.skip("needs ../shared/data/text/timemachine.txt")
    arguments = ["--recipe=d2l", f"--data-dir={path}", "--epochs=2", "--out=run"]
    code, out, err = run("train", "text", *arguments, "--sampling=random", "--cell=gru_reset_before")
    assert (code, err) == (0, "")
    assert "time-machine: 10,000 characters to learn, 28 different" in out
    assert "226,076 parameters" in out  # 3 (28 + 256 + 1) 256 + 257 * 28: one bias a gate
    assert re.search(r"\ntime traveller.{50}\n\ntraveller.{50}\n", out)
    assert "training perplexity" in out


def test_a_cell_of_a_file_trains_and_generates_without_the_file(run, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    assert run("train", "text", "--data=text.txt", "--cell=own.py:light", "--out=run", *SMALL)[0] == 0
    (tmp_path / "own.py").unlink()
    assert run("generate", "run", "--prompt=abc", "--length=5")[0] == 0
    assert run("train", "text", "--resume=run", "--epochs=3")[0] == 0


def test_equations(run, tmp_path):
    cells = gatewise.cells
    assert run("equations", "gru") == (0, f"{cells.gru.equations()}\n", "")
    assert run("equations", "GRU") == run("equations", "gru")
    assert run("equations", "lstm", "--latex") == (0, f"{cells.lstm.latex()}\n", "")
    code, out, err = run("equations", "gru", "--against", "gru_reset_before")
    assert (code, err) == (0, "")
    assert out == f"{gatewise.inspect.compare(cells.gru, cells.gru_reset_before)}\n"  # whole lines, marks, no colours
    (tmp_path / "own.py").write_text(OWN)
    assert run("equations", "--cell=own.py:light")[1].startswith("z_t = σ(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)\n")
    code, out, _ = run("equations", "gru", "--against=own.py:light")
    assert code == 0
    assert "gru has the gates r z n, light has the gates z n" in out


def test_resuming(run, monkeypatch):
    run("train", "text", "--data=text.txt", *SMALL, "--out=run")
    line = refused(run, "train", "text", "--resume=run")
    assert "run has done its 2 epochs: raise the limit to go on, --epochs 4" in line
    assert "--lr 0.5 contradicts the run" in refused(run, "train", "text", "--resume=run", "--epochs=3", "--lr=0.5")
    assert "leave --out and --recipe out" in refused(run, "train", "text", "--resume=run", "--recipe=d2l")
    code, out, _ = run("train", "text", "--resume=run", "--epochs=3", "--hidden=16")
    assert code == 0
    assert "of 3" in out


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(run, monkeypatch):
    loss = training.TextTrainee.loss

    def stop(self, batch, state):
        if self.global_step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self, batch, state)

    with monkeypatch.context() as patch:
        patch.setattr(training.TextTrainee, "loss", stop)
        code, _, err = run("train", "text", "--data=text.txt", *SMALL, "--out=run")
    assert code == 130
    assert err == "\ngatewise: stopped; to go on: --resume run\n"
    assert run("train", "text", "--resume=run")[0] == 0


def test_ctrl_c_outside_the_training_is_no_traceback(run, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(text, "train", interrupted, raising=False)
    assert run("train", "text") == (130, "", "\ngatewise: stopped\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "text", "--data=absent.txt"], "there is no file absent.txt"),
        (["train", "text", "--data=empty.txt"], "empty.txt is empty"),
        (["train", "text", "--data=binary"], "binary is not UTF-8 text"),
        (["train", "text", "--data=short.txt"], "the text has 5 characters to learn, and one batch"),
        (["train", "text", "--cell=nope"], "there is no cell 'nope': choose one of gru"),
        (["train", "text", "--cell=own.py:light"], "own.py, line 7"),
        (["train", "text", "--cell=lstm_projected"], "proj_size is 0"),
        (["train", "text", "--lr=0"], "lr must be above 0; got 0.0"),
        (["train", "text", "--sampling=both"], "sampling is one of sequential, random; got 'both'"),
        (["train", "text", "--recipe=d3l"], "recipe is one of d2l"),
        (["train", "text", "--devices=3", "--data=text.txt", *SMALL], "must be a multiple of 3; got 4"),
        (["train", "text", "--resume=absent"], "there is no folder absent"),
        (["train", "text", "--resume=."], "holds no run"),
        (["train", "text", "--data=text.txt", "--out=.", *SMALL], "is not an empty folder"),
        (["train", "text", "--data=text.txt", "--out=text.txt/run", *SMALL], "Not a directory"),
        (["train", "text", "--data=text.txt", "--cell=own.py"], "own.py is a file: name the cell in it, own.py:NAME"),
        (["train", "text", "--data=text.txt", *SMALL, "--layers=1", "--hidden=100000000"], "not enough memory"),
        (["generate", "absent"], "there is no folder absent"),
        (["equations"], "name a cell, such as gru"),
        (["equations", "lsmt"], "lstm_projected, rnn, rnn_relu, or FILE.py:NAME for your own; did you mean lstm?"),
        (["equations", "zoneout(gru,0.1)"], "there is no cell 'zoneout(gru,0.1)': choose one of gru"),
        (["equations", "gru", "--cell=own.py:light"], "are two cells: compare them with --against"),
        (["equations", "gru", "--against=lstm", "--latex"], "--latex shows one cell: leave --against out"),
        (["equations", "gru", "--against=nope"], "there is no cell 'nope'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, tmp_path, arguments, message):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("short")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "own.py").write_text(OWN.replace("h.n)", "h.m)"))
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert message in refused(run, *arguments)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_bad_questions_to_a_model_are_one_line(run, tmp_path):
    run("train", "text", "--data=text.txt", *SMALL, "--out=run")
    assert "the model never saw 'x' in 'xa'" in refused(run, "generate", "run", "--prompt=xa")
    assert "temperature must be 0" in refused(run, "generate", "run", "--temperature=-1")
    for seed in (-1, 2**63):
        assert "seed must be from 0" in refused(run, "generate", "run", f"--seed={seed}")
    assert "checkpoint is one of best, last; got 'worst'" in refused(run, "generate", "run", "--checkpoint=worst")
    best = tmp_path / "run" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:-10])
    assert "is damaged" in refused(run, "generate", "run")
    best.unlink()
    assert "has no best checkpoint" in refused(run, "generate", "run")


def test_a_missing_package_is_one_line(run, monkeypatch):
    from gatewise import errors

    def find_spec(name):
        return None if name == "lightning" else object()

    monkeypatch.delitem(vars(text), "train", raising=False)  # not from an earlier use
    monkeypatch.setattr(errors.importlib.util, "find_spec", find_spec)
    line = refused(run, "train", "text", "--data=text.txt")
    assert 'this needs lightning, which is not installed: pip install "gatewise[train]"' in line


def test_characters_come_one_by_one_and_a_closed_pipe_is_quiet(run):
    run("train", "text", "--data=text.txt", *SMALL, "--out=run")
    command = [sys.executable, "-m", "gatewise.cli", "generate", "run", "--prompt=abc", "--length=1000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        begun = time.monotonic()
        assert process.stdout.read(20).startswith(b"abc")  # long before a million characters
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == b""
        assert time.monotonic() - begun < 60
