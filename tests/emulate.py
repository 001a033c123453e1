"""Run layers' compiled GPU kernels in the emulator: `python emulate.py < runs.json > results.json`.

A process of its own, as compile_kernels.py is, by which kernels are compiled. The layer's whole way is taken, on CPU
tensors, forward and backward, but for the launch itself.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import ptx
import torch
from compile_kernels import TYPES, Case, Compiling, NoGPU
from tiled import results_of
from torch import Tensor

import gatewise
from gatewise.scan import cuda
from gatewise.scan.gpu.source import Tiling
from gatewise.scan.gpu.tiling import Device


@dataclass(frozen=True)
class Run(Case):
    """A layer to run; groups: its directions.

    tiling: how the work is divided, as `Tiling` has it; else as for the device, of so many processors. seeds: orders
    of the programs and warps, all of which make the same bits. races: whether these are looked for. capability: of the
    device, for which is compiled.
    """

    steps: int = 3
    tiling: tuple[Any, ...] = ()
    processors: int = 132
    seeds: tuple[int, ...] = (0,)
    races: bool = True
    inputs_size: int = 3
    capability: int = 90

    def layer(self) -> gatewise.Recurrent:
        torch.manual_seed(0)
        graph = self.graph()
        proj = self.proj if graph.projects_output else 0
        options = {"bidirectional": self.groups == 2, "learn_state": self.ragged, "dtype": torch.float64}
        layer = gatewise.Recurrent(graph, self.inputs_size, self.hidden, proj_size=proj, **options)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1 / max(1, parameter.shape[-1]) ** 0.5)
        return layer.to(TYPES[self.type])

    def given(self, layer: gatewise.Recurrent) -> tuple[Tensor, tuple[Tensor, ...], dict[str, Tensor]]:
        """x, the states before the first step, lengths and resets."""
        like = layer.weight_hh_l0
        x = torch.randn(self.steps, self.batch, self.inputs_size, dtype=torch.float64).to(like.dtype)
        hx = tuple(torch.randn(shape, dtype=torch.float64).to(like.dtype) for shape in layer.state_shapes(self.batch))
        options = {}
        if self.ragged:
            options["lengths"] = torch.randint(1, self.steps + 1, (self.batch,))
            options["resets"] = torch.rand(self.steps, self.batch) > 0.6
        return x, hx, options


@dataclass
class Emulating(Compiling):
    """Stands for a kernel: compiles it, and runs it in the emulator."""

    function: Any
    made: list[Any]
    options: dict[str, Any]
    seen: list[ptx.Seen] = field(default_factory=list)

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        compile_ = super().__getitem__(grid)

        def launch(*args: Any, **options: Any) -> None:
            compile_(*args, **options)
            kernel = self.made[-1][0]
            constant = {place[0] for place in kernel.src.constants}
            given = [a for k, a in enumerate(args) if k not in constant]
            threads, shared = 32 * kernel.metadata.num_warps, kernel.metadata.shared
            # After the arguments two pointers to memory that a kernel may ask for; none does.
            self.seen.append(
                ptx.run(kernel.asm["ptx"], grid[0], threads, [*given, 0, 0], shared=shared, **self.options)
            )

        return launch


@contextmanager
def emulated(run: Run, seed: int) -> Iterator[tuple[list[Any], list[ptx.Seen], list[Tiling]]]:
    """Kernels launched here run in the emulator. Gives those made, what was seen of each, and how it was divided."""
    made: list[Any] = []
    seen: list[ptx.Seen] = []
    tilings: list[Tiling] = []
    compiled, launch = cuda.compiled, cuda.launch
    options = {"seed": seed, "races": run.races}

    def launching(kernel: Any, tiles: Tiling, *rest: Any) -> None:
        tilings.append(tiles)
        launch(kernel, tiles, *rest)

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(NoGPU, "capability", run.capability))
        for name, value in (
            ("why_not", lambda *given: ""),
            ("precision", lambda like: run.precision if like.dtype is torch.float32 else "ieee"),
            ("compiled", lambda source: Emulating(compiled(source), made, options, seen)),
            ("launch", launching),
            ("force", Tiling(*run.tiling) if run.tiling else None),
            ("H100", Device(run.processors, 227 * 1024)),
        ):
            patches.enter_context(mock.patch.object(cuda, name, value))
        yield made, seen, tilings


def errors(made: list[Tensor], expected: list[Tensor]) -> list[float]:
    """Of each result the largest difference, relative to the largest number, or to 1; NaN if it has NaNs."""
    found = []
    for a, b in zip(made, expected, strict=True):
        assert a.shape == b.shape
        difference = (a.double() - b).abs()
        found.append((difference.max() / b.abs().max().clamp_min(1.0)).item() if b.numel() else 0.0)
    return found


def result(run: Run) -> dict[str, Any]:
    """How far a run's results are off, whether they are the same for all seeds, and what each launch was."""
    layer = run.layer()
    x, hx, options = run.given(layer)
    exact = [t.double() for t in hx]
    expected = results_of(copy.deepcopy(layer).double(), "reference", x.double(), exact, **options)
    results, facts = [], []
    for seed in run.seeds:
        with emulated(run, seed) as (made, seen, tilings):
            results.append(results_of(layer, "cuda", x, hx, **options))
        for (kernel, grid, _, seconds), launch, tiling in zip(made, seen, tilings, strict=True):
            facts.append({
                "name": kernel.metadata.name, "grid": grid[0], "seconds": seconds, "tiling": vars(tiling),
                "instructions": int(launch.instructions.max()), "barriers": int(launch.barriers.max()),
                "mean": float(launch.instructions.mean()), "choices": launch.choices,
            })  # fmt: skip
    same = all(torch.equal(_bits(a), _bits(b)) for other in results[1:] for a, b in zip(results[0], other, strict=True))
    return {"errors": errors(results[0], expected), "same": same, "launches": facts}


def _bits(a: Tensor) -> Tensor:
    return a.contiguous().view(cuda.BITS[a.element_size()])


def small(name: str, seed: int) -> dict[str, Any]:
    """How far a kernel of a few lines is off."""
    from small_kernels import SMALL

    def launch(function: Any, grid: int, arguments: list[Any], options: dict[str, Any]) -> None:
        Emulating(function, [], {"seed": seed})[(grid,)](*arguments, **options)

    torch.manual_seed(0)
    return {"off": SMALL[name][0](launch)}


def main() -> None:
    from triton.runtime import driver

    driver.set_active(NoGPU())
    for line in sys.stdin:
        start, what = time.perf_counter(), json.loads(line)
        try:
            made = small(**what) if "name" in what else result(Run(**what))
        except Exception:
            made = {"fault": traceback.format_exc()}
        print(json.dumps({**made, "seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    assert os.environ.get("TRITON_INTERPRET") == "0", "expected TRITON_INTERPRET=0 in the environment"
    main()
