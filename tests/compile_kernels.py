"""Compile the GPU kernels for an H100 where there may be no GPU: `python compile_kernels.py < cases.json > facts.json`.

A process of its own, since Triton decides at its first import whether kernels are interpreted, as they are in the rest
of the tests. The executor itself runs, on tensors without data, up to where Triton would launch.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from helpers import EVERY_OP

import gatewise
from gatewise.scan import cuda
from gatewise.scan.gpu.source import Kernel, Tiling
from gatewise.scan.plan import Inputs, backward_plan

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}


@dataclass(frozen=True)
class Case:
    """A scan to compile for: of a cell by its name, or of what `change` makes of it."""

    cell: str
    hidden: int
    batch: int
    type: str = "bf16"
    precision: str = "ieee"
    backward: bool = False
    proj: int = 0
    groups: int = 1
    ragged: bool = False  # with resets and with lengths
    change: str = ""

    def graph(self) -> gatewise.Graph:
        graph = EVERY_OP.cell() if self.cell == "every_op" else getattr(gatewise.cells, self.cell)
        return getattr(gatewise, self.change)(graph) if self.change else graph

    def inputs(self, graph: gatewise.Graph) -> Inputs:
        like = torch.empty((), dtype=TYPES[self.type], device="meta")
        H, P, B, T = self.hidden, self.proj or self.hidden, self.batch * self.groups, 3
        own = (self.groups,) if self.groups > 1 else ()
        sizes = [P if size == "P" else H for size in graph.state_sizes]
        flags = like.new_empty((T, B) if self.ragged else (0, 0), dtype=torch.bool)
        rows = len(graph.hidden_gates) * H
        return Inputs(
            like.new_empty(T, B, len(graph.input_gates) * H),
            like.new_empty(*own, rows, P),
            like.new_empty(*own, rows),
            like.new_empty(*own, P if graph.projects_output else 0, H),
            like.new_empty(*own, len(graph.vectors), H),
            like.new_empty(*own, sum(sizes) if self.ragged else 0),
            tuple(like.new_empty(B, n) for n in sizes),
            flags,
            flags,
            (),
        )


class NoGPU:
    """Stands for Triton's driver: an H100, of which nothing but its kind is asked before a launch."""

    capability = 90

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)


class Compiling:
    """Stands for a kernel: compiles it for the arguments with which it would be launched."""

    def __init__(self, function: Any, made: list[Any]) -> None:
        self.function, self.made = function, made

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*args: Any, **options: Any) -> None:
            start = time.perf_counter()
            kernel = self.function.run(*args, grid=grid, warmup=True, **options)
            self.made.append((kernel, grid, options, time.perf_counter() - start))

        return launch


def facts(case: Case) -> dict[str, Any]:
    """What is known of the case's kernel."""
    graph = case.graph()
    inputs, plan = case.inputs(graph), backward_plan(graph)
    made: list[Any] = []
    launched: list[Any] = []
    compiled, launch = cuda.compiled, cuda.launch

    def launching(kernel: Kernel, tiles: Tiling, *rest: Any) -> None:
        launched.append((kernel, tiles))
        launch(kernel, tiles, *rest)

    with (
        mock.patch.object(cuda, "precision", return_value=case.precision),
        mock.patch.object(cuda, "compiled", lambda source: Compiling(compiled(source), made)),
        mock.patch.object(cuda, "launch", launching),
    ):
        if case.backward:
            like = inputs.x
            kept = [like.new_empty(*like.shape[:2], s.shape[1]) for s in inputs.states]
            kept += [like.new_empty(*like.shape[:2], inputs.kept_width(graph, i)) for i in plan.extras]
            seeds = [kept[0], *(like.new_empty(*like.shape[:2], inputs.width(graph, i)) for i in graph.watched)]
            cuda.reverse(graph, inputs, kept, inputs.states, seeds)
        else:
            cuda.forward(graph, inputs, plan.extras, True)
    ((kernel, tiles),), ((binary, grid, options, seconds),) = launched, made
    sass, usage = disassembled(binary.asm["cubin"])
    return {
        "tiling": asdict(tiles),
        "blocks": kernel.blocks,
        "exchanged": kernel.exchanged,
        "source": kernel.source,
        "grid": grid,
        "options": options,
        "seconds": seconds,
        "hash": binary.hash,
        "shared": binary.metadata.shared,
        "scratch": binary.metadata.global_scratch_size,
        "ttgir": binary.asm["ttgir"],
        "ptx": binary.asm["ptx"],
        "sass": sass,
        "registers": int(re.findall(r"REG:(\d+)", usage)[0]),
        "stack": int(re.findall(r"STACK:(\d+)", usage)[0]),
        "local": int(re.findall(r"LOCAL:(\d+)", usage)[0]),
    }


def disassembled(cubin: bytes) -> tuple[str, str]:
    """The machine code and what it uses."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        commands = ([tools / "nvdisasm", "-c", file.name], [tools / "cuobjdump", "-res-usage", file.name])
        sass, usage = (subprocess.run(c, capture_output=True, text=True, check=True).stdout for c in commands)
    return sass, usage


def answers(script: Path, questions: Sequence[dict[str, Any]], cache: Path) -> list[dict[str, Any]]:
    """What a script such as this one prints for these, in a process of its own, with Triton's cache in a folder."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)}
    lines = "\n".join(map(json.dumps, questions))
    ran = subprocess.run([sys.executable, script], input=lines, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return [json.loads(line) for line in ran.stdout.splitlines()]


def main() -> None:
    from triton.runtime import driver

    driver.set_active(NoGPU())
    for line in sys.stdin:
        print(json.dumps(facts(Case(**json.loads(line)))), flush=True)


if __name__ == "__main__":
    assert os.environ.get("TRITON_INTERPRET") == "0", "expected TRITON_INTERPRET=0 in the environment"
    main()
