"""What pytest is told once."""

from __future__ import annotations

import pytest
import torch


def pytest_report_header() -> str:
    from gatewise.scan import cpu

    return f"gatewise: the C++ kernels use {cpu.instruction_set() or 'no compiler was there; reference only'}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
