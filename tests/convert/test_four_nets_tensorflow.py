"""The four nets trained by Keras on TensorFlow, which the texts ask for: the same losses, weights and saved models.

TensorFlow is none of the packages that tests need: the test installs it from PyPI into an environment of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nets_in_keras as theirs
import numpy as np
import pytest
import torch
from four_nets import OPTIMIZERS, batches, gatewise_net, keras_weights, train
from helpers import assert_close
from tolerances import FLOAT32, FLOAT64

from gatewise import convert

pytestmark = pytest.mark.slow
pytest.importorskip("h5py")

# TensorFlow with wheels for Python 3.11; tf_keras is Keras 2, which was TensorFlow's own Keras up to 2.15.
PACKAGES = ["tensorflow==2.21.0", "tf_keras==2.21.0", "keras==3.15.1", "numpy==2.4.6", "h5py==3.14.0"]
VERSIONS = {"keras": "keras 3.15.1 on tensorflow", "tf_keras": "tf_keras 2.21.0 on tensorflow"}
TOLERANCE = {"float32": FLOAT32, "float64": FLOAT64}


@pytest.fixture(scope="module")
def python() -> Iterator[Path]:
    """A Python that has TensorFlow; its two gigabytes go when the tests end."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        found = Path(folder) / ("Scripts" if os.name == "nt" else "bin") / "python"
        pip = [str(found), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, *PACKAGES], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{PACKAGES[0]} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
        yield found


@pytest.fixture(scope="module")
def beginnings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The batches, and the weights of all nets."""
    file = tmp_path_factory.mktemp("nets") / "beginnings.npz"
    weights = {
        f"{cell}/{name}/{k}": array
        for cell in theirs.CELLS
        for name in theirs.NETS
        for k, array in enumerate(keras_weights(gatewise_net(cell, name), cell))
    }
    np.savez(file, **batches(), **weights)
    return file


@pytest.fixture(scope="module", params=VERSIONS)
def trained(request: Any, python: Path, beginnings: Path) -> Path:
    """A folder of what TensorFlow trained."""
    folder = beginnings.parent / request.param
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KERAS"))}
    environment |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    command = [str(python), theirs.__file__, request.param, str(beginnings), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().splitlines()[-1] == VERSIONS[request.param]
    return folder


def all_nets(trained: Path, optimizer: str) -> Any:
    """Cell and name of each net, gatewise's net before it is trained, and TensorFlow's numbers."""
    with np.load(trained / f"{optimizer}.npz") as results:
        for cell in theirs.CELLS:
            for name in theirs.NETS:
                start = f"{cell}/{name}/"
                values = {k.removeprefix(start): results[k] for k in results.files if k.startswith(start)}
                yield cell, name, gatewise_net(cell, name), values


def numbers(values: Any) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("optimizer", "dtype"), theirs.RUNS.items())
def test_the_same_losses_and_weights(trained: Path, optimizer: str, dtype: str) -> None:
    tolerance = TOLERANCE[dtype]
    for cell, name, net, values in all_nets(trained, optimizer):
        losses = train(net, OPTIMIZERS[optimizer], batches())
        assert_close(numbers(values["losses"]), numbers(losses), tolerance, f"{cell}, {name}: losses")
        for k, ours in enumerate(keras_weights(net, cell)):
            assert_close(numbers(values[str(k)]), numbers(ours), tolerance, f"{cell}, {name}: weight {k}")
        output = net(torch.from_numpy(batches()["x"][0])).detach()
        assert_close(numbers(values["output"]), output, tolerance, f"{cell}, {name}: output")


@pytest.mark.parametrize("ending", theirs.ENDINGS)
@pytest.mark.parametrize(("optimizer", "dtype"), theirs.RUNS.items())
def test_the_models_that_tensorflow_saved(trained: Path, optimizer: str, dtype: str, ending: str) -> None:
    for cell, name, _, values in all_nets(trained, optimizer):
        module = convert.load(trained / f"{cell} {name} {optimizer}{ending}")
        output = module(torch.from_numpy(batches()["x"][0].astype(dtype))).detach()
        assert_close(output, torch.from_numpy(values["output"]), TOLERANCE[dtype], f"{cell}, {name}")
