"""Our layers beside torch.nn's on the CPU: ratios (torch's time / ours), from interleaved pairs.

    .venv/bin/python benchmarks/cpu.py            prints the table of docs/speed.md

Each pair is checked for equal outputs and gradients before it is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

import gatewise

SHAPES = [(35, 32, 28, 256), (35, 32, 28, 512), (100, 1, 64, 128), (1, 1, 64, 128), (128, 64, 256, 256)]
LAYERS = ("GRU", "LSTM", "RNN")


def seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def ratio(ours: Callable[[], object], theirs: Callable[[], object], budget: float) -> float:
    """The median over pairs of theirs / ours."""
    pair = seconds(ours) + seconds(theirs)
    ratios = []
    for _ in range(max(5, min(200, int(budget / pair)))):
        mine = seconds(ours)
        ratios.append(seconds(theirs) / mine)
    return statistics.median(ratios)


def check_parity(ours: nn.Module, theirs: nn.Module, x: torch.Tensor) -> None:
    made = []
    for layer in (ours, theirs):
        output, _ = layer(x)
        made.append((output, *torch.autograd.grad(output.square().mean(), list(layer.parameters()))))
    for a, b in zip(*made, strict=True):
        assert (a - b).abs().max() <= 1e-4 * max(1e-3, b.abs().max().item()), "not the same function: nothing to time"


def table(budget: float) -> str:
    lines = ["| layer | T, B, I, H | forward | forward + backward |", "|---|---|---|---|"]
    for name in LAYERS:
        for steps, batch, inputs, hidden in SHAPES:
            theirs = getattr(nn, name)(inputs, hidden)
            ours = getattr(gatewise, name)(inputs, hidden)
            ours.load_state_dict(theirs.state_dict())
            x = torch.randn(steps, batch, inputs)
            g = torch.randn(steps, batch, hidden)
            check_parity(ours, theirs, x)

            def forward(layer: nn.Module, x: torch.Tensor = x) -> None:
                with torch.no_grad():
                    layer(x)

            def both(layer: nn.Module, x: torch.Tensor = x, g: torch.Tensor = g) -> None:
                layer.zero_grad()
                layer(x)[0].backward(g)

            figures = [
                ratio(lambda run=run, ours=ours: run(ours), lambda run=run, theirs=theirs: run(theirs), budget)
                for run in (forward, both)
            ]
            lines.append(f"| {name} | {steps}, {batch}, {inputs}, {hidden} | {figures[0]:.2f} | {figures[1]:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for each figure")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"{options.threads} thread(s), {capability}, float32, torch {torch.__version__}\n\n{table(options.budget)}")
