"""What every task can do: a run of each is killed again and again, and ends with the very same weights."""

import json
import random
import subprocess
import sys

import pytest
from helpers import assert_same_run

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
@pytest.mark.parametrize("tasks", [("text",), ("forecast", "translate", "classify")], ids=" ".join)
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
