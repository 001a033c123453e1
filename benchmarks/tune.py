"""How a scan is best divided among a GPU's programs: the tilings that scan/gpu/tiling.py ranks first, timed.

    .venv/bin/python benchmarks/tune.py                         the sizes of gpu.py's first table, some minutes
    .venv/bin/python benchmarks/tune.py --only lstm --count 20  one cell, more tilings of each size

A row is one case, T, B, H, in one direction of the scan, and tells what the first choice costs beside the best of those
that were tried: 1 is right. Its line in results/tune.jsonl has every tiling with the model's cycles and the measured
microseconds a step, to which the model's constants can be fitted. Only the scan is timed, on random inputs; that its
results are right is for gpu.py to check.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import device
import torch
from peers import Call
from tables import commit, versions
from torch import Tensor

from gatewise import Graph, cells
from gatewise.scan import cuda
from gatewise.scan.gpu.source import Tiling
from gatewise.scan.gpu.tiling import candidates
from gatewise.scan.plan import Inputs, backward_plan

RESULTS = Path(__file__).parent / "results" / "tune.jsonl"
STEPS = 256
SIZES = [(batch, hidden) for hidden in (256, 512, 768, 1024) for batch in (1, 16, 64, 128)]
CELLS = {"gru": cells.gru, "lstm": cells.lstm, "gru_reset_before": cells.gru_reset_before}
TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def scans(cell: Graph, batch: int, hidden: int, dtype: torch.dtype) -> tuple[Inputs, dict[bool, Callable[[], Any]]]:
    """A scan's inputs, and the scan in both directions: False is forward."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device.DEVICE).div(hidden**0.5).to(dtype)

    rows, none = len(cell.hidden_gates) * hidden, torch.zeros(0, 0, dtype=torch.bool, device=device.DEVICE)
    inputs = Inputs(
        normal(STEPS, batch, len(cell.input_gates) * hidden), normal(rows, hidden), normal(rows), normal(0, hidden),
        normal(len(cell.vectors), hidden), normal(0), tuple(normal(batch, hidden) for _ in cell.states), none, none, (),
    )  # fmt: skip
    extras = backward_plan(cell).extras
    cuda.force = None
    _, kept = cuda.forward(cell, inputs, extras, True)
    g_states, g_seen = tuple(torch.zeros_like(s) for s in inputs.states), (normal(STEPS, batch, hidden),)
    return inputs, {
        False: lambda: cuda.forward(cell, inputs, extras, True),
        True: lambda: cuda.reverse(cell, inputs, kept, g_states, g_seen),
    }


def timed(run: Callable[[], Any], tiling: Tiling) -> float:
    """Microseconds a step, the median of five."""
    cuda.force = tiling
    call = Call(run=run, read=list)
    run()
    times = max(1, round(5.0 / device.milliseconds(call, 1)))
    return 1000 * statistics.median(device.milliseconds(call, times) for _ in range(5)) / STEPS


def case(cell: Graph, batch: int, hidden: int, dtype: torch.dtype, count: int) -> Iterator[dict[str, Any]]:
    """One size in both directions."""
    inputs, runs = scans(cell, batch, hidden, dtype)
    for backward, run in runs.items():
        cuda.force = None
        work = cuda.work_of(cell, inputs, backward, 1)
        cycles = {tiling: n for n, tiling in candidates(work, cuda.device_of(inputs.x))}
        tried = []
        for tiling in cuda.tilings(cell, inputs, backward, 1)[:count]:
            row = {**asdict(tiling), "cycles": cycles.get(tiling)}
            try:
                tried.append({**row, "microseconds": timed(run, tiling)})
            except Exception as error:  # one that does not fit is a result, too
                tried.append({**row, "error": f"{type(error).__name__}: {error}"})
        cuda.force = None
        yield {"backward": backward, "tried": tried}


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    words.add_argument("--only", choices=sorted(CELLS), default="gru")
    words.add_argument("--type", choices=sorted(TYPES), default="bfloat16")
    words.add_argument("--count", type=int, default=8, help="tilings of each case")
    words.add_argument("--json", type=Path, default=RESULTS)
    given = words.parse_args()
    if not torch.cuda.is_available():
        print("tune.py measures on a CUDA device, and torch finds none")
        return 1
    known = {"device": torch.cuda.get_device_name(), "commit": commit(), "versions": versions("torch", "triton")}
    for batch, hidden in SIZES:
        for row in case(CELLS[given.only], batch, hidden, TYPES[given.type], given.count):
            times = [one["microseconds"] for one in row["tried"] if "microseconds" in one]
            first = row["tried"][0].get("microseconds", float("nan"))
            direction = "backward" if row["backward"] else "forward"
            best = min(times, default=float("nan"))
            where = f"{given.only} {STEPS}, {batch}, {hidden} {direction}"
            print(f"{where}: {first:.2f} µs a step, {first / best:.2f} x the best")
            line = {"cell": given.only, "type": given.type, "T": STEPS, "B": batch, "H": hidden, **row, **known}
            with given.json.open("a") as lines:
                lines.write(json.dumps(line) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
