"""README's section on weights runs as it is shown."""

from __future__ import annotations

import os
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[2] / "README.md"

os.environ.setdefault("KERAS_BACKEND", "torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what Keras imports
    pytest.importorskip("keras")
for package in ("h5py", "onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch.onnx.export's own
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_the_model_and_its_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., tuple[Any, str, str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    section = README.read_text(encoding="utf-8").partition("\n## Weights in and out\n")[2].partition("\n## ")[0]
    shown = section.partition("```\n")[2].partition("```")[0].splitlines()
    blocks: list[list[str]] = [[]]
    for line in section.splitlines():
        if line.startswith("    ") or (not line and blocks[-1]):
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    made, command, loaded = (textwrap.dedent("\n".join(block)) for block in blocks if block)
    exec(made)
    program, *arguments = command.split()
    assert program == "gatewise"
    code, out, _ = run(*arguments)
    assert code == 0
    for line in shown:
        expected = line.partition(": the largest difference is")[0]
        if line.startswith("proved"):  # whatever the versions
            assert f"proved: {line.split()[1]} " in out
        else:
            assert line == "…" or expected in out.splitlines(), line
    exec(loaded)
    assert (tmp_path / "moods.onnx").exists()
