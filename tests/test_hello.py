"""The example of ten lines."""

import runpy
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[1] / "examples" / "hello.py"


@pytest.mark.parametrize("seed", range(5))
def test_hello_becomes_ohlol_within_15_epochs(capsys, seed):
    torch.manual_seed(seed)
    runpy.run_path(str(EXAMPLE))
    answers = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == 15
    assert answers[0] != "ohlol" == answers[-1]
