"""What pytest is told once."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    # Triton decides at its first import, which torch.compile may be the one to make, whether kernels are interpreted.
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_report_header() -> str:
    from gatewise.scan import cpu

    return f"gatewise: the C++ kernels use {cpu.instruction_set() or 'no compiler was there; reference only'}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str, str]]:
    """Run a command in this process; gives exit code, standard output and standard error."""

    def command(*arguments: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["gatewise", *arguments])
        with pytest.raises(SystemExit) as caught:
            importlib.import_module("gatewise.cli").main()
        return caught.value.code, *capsys.readouterr()

    return command


@pytest.fixture
def warm_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests with hundreds of files of HDF5: they are read by forks of one process, and a hang is soon ended."""
    from gatewise.convert.keras import apart

    monkeypatch.setattr(apart, "SILENCE", 1.0)
    if hasattr(os, "fork"):
        import warm

        monkeypatch.setattr(apart, "subprocess", warm)
