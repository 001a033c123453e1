"""What cpu.py and gpu.py share: the tables that they print, and the lines that they write.

A section yields tables, titles and rows; a row is measured when it is asked for, and shown at once.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, int, int, int]  # T, B, I and the output's size
Row = tuple[str, dict[str, float] | str]  # a case and its figures by column, or why it has none
Tables = Iterator[tuple[str, Iterator[Row]]]


def text(shape: Shape) -> str:
    return ", ".join(map(str, shape))


def sequences(shape: Shape, **options: Any) -> tuple[Tensor, Tensor]:
    """x (T, B, I), and the gradient of the output (T, B, H); options: where, and of which dtype."""
    steps, batch, inputs, hidden = shape
    return torch.randn(steps, batch, inputs, **options), torch.randn(steps, batch, hidden, **options)


def randomized(layer: nn.Module) -> Any:
    """The layer, its biases and learned vectors all different and not zero."""
    with torch.no_grad():
        for vector in (p for p in layer.parameters() if p.dim() == 1):
            vector.add_(0.1 * torch.randn_like(vector))
    return layer


def with_mean(rows: Iterator[Row], columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows, then the geometric mean of each column, or of some, unless a row has no figures."""
    found: dict[str, list[float]] = {}
    failed = False
    for case, figures in rows:
        yield case, figures
        if isinstance(figures, str):
            failed = True
            continue
        for name in figures if columns is None else columns:
            found.setdefault(name, []).append(figures[name])
    if not failed:
        yield "geometric mean", {name: statistics.geometric_mean(column) for name, column in found.items()}


def versions(*packages: str) -> dict[str, str]:
    """Those of the packages that are installed."""
    return {d.name: d.version for d in distributions() if d.name in packages}


def commit() -> str:
    if not shutil.which("git"):
        return "unknown"
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"


def show(section: str, tables: Tables, given: dict[str, Any], json_lines: Path | None) -> int:
    """Print a section row by row, and append a line for each figure; gives the number of rows without figures."""
    failed = 0
    for title, rows in tables:
        print(f"\n## {title}\n", flush=True)
        columns: list[str] = []
        for case, figures in rows:
            found: dict[str, Any]
            if isinstance(figures, str):
                failed += 1
                print(f"| {case} | {figures} |", flush=True)
                found = {"failure": figures}
            else:
                if not columns:
                    columns = list(figures)
                    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
                print(f"| {case} | {' | '.join(number(figures.get(c, math.nan)) for c in columns)} |", flush=True)
                found = {column: figure for column, figure in figures.items() if figure == figure}
            if json_lines:
                with json_lines.open("a", encoding="utf-8") as file:
                    for column, figure in found.items():
                        line = {"section": section, "table": title, "case": case, "column": column, "figure": figure}
                        file.write(json.dumps(line | given) + "\n")
    return failed


def number(figure: float) -> str:
    if figure != figure:
        return "-"
    return f"{figure:.2f}" if figure == 0 or figure >= 0.01 else f"{figure:.1e}"
