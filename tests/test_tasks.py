"""What every task can do: a run of each is killed again and again, and ends with the very same weights."""

import json
import random
import subprocess
import sys

import pytest
from helpers import assert_same_run

from gatewise.errors import InputError
from gatewise.tasks import checkpoint, text, translate

# Each task on little data; two epochs.
CASES = {
    "text": [
        {"sampling": "sequential", "layers": 2, "dropout": 0.4, "cell": "lstm"},
        {"sampling": "random", "layers": 2, "dropout": 0.4},
        {"sampling": "sequential", "optimizer": "sgd", "lr": 0.5, "holdout": 0.0},
    ],
    "forecast": [{"decode": "autoregressive"}],
    "translate": [{"layers": 2, "dropout": 0.2, "cell": "lstm"}],
    "classify": [{"layers": 2, "dropout": 0.2, "schedule": "linear"}],
}
COMMON = {
    "text": {"data": "source.txt", "hidden": 16, "steps": 8, "batch": 4, "epochs": 2},
    "forecast": {"data": "nile", "horizon": 2, "window": 8, "hidden": 8, "batch": 8, "test": 0.0, "epochs": 2},
    "translate": {"pairs": 64, "hidden": 12, "embedding": 8, "batch": 8, "longest": 30, "epochs": 2},
    "classify": {"data": "digits", "hidden": 8, "batch": 128, "epochs": 2},
}

KILL = """
import importlib, json, os, random, signal, sys, time, traceback
from pathlib import Path

from gatewise.tasks import fit, keeper

keeper.BATCH_PAUSE = keeper.EPOCH_PAUSE = 0.0
chance = random.Random()


def start(work):
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


for number, (name, flags) in enumerate(json.loads(sys.argv[1])):
    task = importlib.import_module(f"gatewise.tasks.{name}.task").TASK
    settings = task.Settings.of(**flags)
    begun = time.monotonic()
    assert os.waitpid(start(lambda: task.train(settings, Path(f"whole-{number}"))), 0)[1] == 0
    spent = time.monotonic() - begun
    killed, run = 0, Path(f"killed-{number}")
    while True:
        begun_yet = (run / "settings.json").exists()
        pid = start(lambda: task.resume(run) if begun_yet else task.train(settings, run))
        if killed < 3:
            while not (run / "last.safetensors").exists() and os.waitpid(pid, os.WNOHANG)[0] == 0:
                time.sleep(0.005)
            time.sleep(chance.uniform(0.1, 0.6) * spent)
            os.kill(pid, signal.SIGKILL)
        if os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
            killed += 1
        else:
            break
    print(killed, flush=True)
"""


# In two processes: importing Lightning takes as long as a case.
# Text's runs are stopped and resumed in test_train.py as well, so that here it is for the nightly tests.
@pytest.mark.parametrize(
    "tasks",
    [pytest.param(("text",), marks=pytest.mark.slow), ("forecast", "translate", "classify")],
    ids=" ".join,
)
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, tasks):
    chosen = random.Random(0)
    (tmp_path / "source.txt").write_text("".join(chosen.choices("abcdefgh \n", k=700)))
    cases = [(task, {**COMMON[task], **flags}) for task in tasks for flags in CASES[task]]
    command = [sys.executable, "-c", KILL, json.dumps(cases)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    kills = [int(line) for line in done.stdout.split()]
    assert len(kills) == len(cases)
    assert sum(kills) >= len(cases), "the kills came too late to show anything"
    for number in range(len(cases)):
        assert_same_run(tmp_path / f"whole-{number}", tmp_path / f"killed-{number}")


@pytest.fixture
def begun(tmp_path):
    """A language model's run from Python, and what it was begun with."""
    data = text.TextData("abcdefgh" * 60, steps=8, batch=4)
    model = text.LanguageModel("gru", data.vocabulary, hidden_size=4)
    text.fit(model, data, epochs=1, lr=0.02, out=tmp_path / "run")
    return tmp_path / "run", model, data


def test_a_run_goes_on_with_its_own_model_and_choices_or_not_at_all(begun):
    folder, model, data = begun
    before = (folder / "settings.json").read_bytes()
    vocabulary = data.vocabulary
    for other, choices, message in [
        (text.LanguageModel("gru_reset_before", vocabulary, hidden_size=4), {}, "the model's cell is not that of"),
        (
            text.LanguageModel("gru", vocabulary, hidden_size=8),
            {},
            "hidden_size 8 contradicts the run .*, begun with 4",
        ),
        (model, {"lr": 0.5}, r"lr 0\.5 contradicts the run .*, begun with 0\.02"),
        (model, {"optimizer": "sgd"}, "optimizer sgd contradicts the run .*, begun with adam"),
        (model, {"colour": 1}, "colour 1 contradicts"),
    ]:
        with pytest.raises(InputError, match=message):
            text.fit(other, data, resume=True, out=folder, epochs=2, **choices)
    shorter = text.TextData("abcdefgh" * 60, steps=4, batch=4)
    with pytest.raises(InputError, match=r"steps 4 contradicts the run .*, begun with 8"):
        text.fit(model, shorter, resume=True, out=folder, epochs=2)
    assert (folder / "settings.json").read_bytes() == before
    assert len(text.fit(model, data, resume=True, out=folder, epochs=2).history) == 2
    kept = json.loads((folder / "settings.json").read_text())["fit"]
    assert (kept["lr"], kept["epochs"]) == (0.02, 2)


def test_a_model_of_other_data_is_refused(tmp_path):
    one, other = (text.TextData(letters * 60, steps=8, batch=4) for letters in ("abcdefgh", "abcdefgx"))
    with pytest.raises(InputError, match="not made for these data, the vocabulary differs"):
        text.fit(text.LanguageModel("gru", one.vocabulary, hidden_size=4), other, epochs=1, out=tmp_path / "run")
    pairs = [translate.PairData([(f"a {k}", f"{word} {k}") for k in range(40)]) for word in ("b", "c")]
    model = translate.Translator("gru", pairs[0].source, pairs[0].target, hidden_size=4, embedding_size=4)
    with pytest.raises(InputError, match="not made for these data, the vocabulary differs"):
        translate.fit(model, pairs[1], epochs=1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_damaged_files_of_a_run_are_one_line_and_no_training(begun):
    folder, model, data = begun
    settings = json.loads((folder / "settings.json").read_text())
    for section, name, value in [
        ("model", "hidden_size", 4.5),
        ("model", "num_layers", True),
        ("data", "source", 5),
        ("fit", "seed", 1.5),
        ("fit", "epochs", "2"),
        ("sample", "prompts", 5),
        ("sample", "prompts", [5]),
    ]:
        damaged = {**settings, section: {**settings[section], name: value}}
        (folder / "settings.json").write_text(json.dumps(damaged))
        for use in (lambda: text.load(folder), lambda: text.resume(folder)):
            with pytest.raises(InputError, match=rf"the settings in .* are damaged \({section}\.{name} is "):
                use()
    (folder / "settings.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match=r"settings\.json is damaged"):
        text.load(folder)
    (folder / "settings.json").write_text(json.dumps(settings))
    for content in ("[" * 200_000, "", '["a"]', "5", '{"a": null}'):
        (folder / "vocabulary.json").write_text(content)
        with pytest.raises(InputError, match=r"vocabulary\.json is damaged"):
            text.fit(model, data, resume=True, out=folder, epochs=2)
    assert len(checkpoint.load(folder / "last.safetensors")["callbacks"]["Keeper"]["rows"]) == 1


def test_a_choice_that_does_not_exist_is_told():
    with pytest.raises(TypeError, match="TextSettings: there is no choice 'colour', expected one of cell, hidden"):
        text.TextSettings.of(colour="red")
    with pytest.raises(InputError, match="threads must be at most 1024; got 100000"):
        text.TextSettings.of(threads=100_000)
    with pytest.raises(InputError, match=r"hidden must be above 0 and below 2147483648; got 1000000000000"):
        text.TextSettings.of(hidden=10**12)
