"""Our layers on a GPU beside torch.nn (cuDNN), a plain torch loop and FlashRNN's published figures.

    .venv/bin/python benchmarks/gpu.py                              all of it, many minutes
    .venv/bin/python benchmarks/gpu.py --only gru,lstm --quick      some sections, fewer sizes and rounds

Rows are printed and appended to results/gpu.jsonl one by one, so a run that is stopped keeps what it has. A column with
"/ ours" in its name is a ratio, the other's time divided by ours, so above 1 we are faster: that of the medians over
rounds in which all are timed in turn by CUDA events, and the least and the most of a single round. MB is what a call
adds to the device's memory at its peak. Cases are T, B, I, H.

A row is timed after a check against float64 on the same weights: the relative errors ‖made - exact‖ / ‖exact‖ of our
output and of each of our gradients may be at most FACTOR (device.py) times those of who is beside us. Else, and where
anything fails, the row says so, and the next is measured. Backward makes the gradients of x and of all parameters, on
both sides; float32 is "ieee" or "tf32" by torch's switches, on both sides.
"""

from __future__ import annotations

import argparse
import faulthandler
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import device
import peers
import torch
from device import (
    Measure,
    NotTheSameError,
    Plan,
    attempt,
    by_cudnn,
    by_reference,
    compare,
    megabytes,
    ours_of,
    summary,
    timed,
)
from peers import BACKWARD_X, FORWARD, Call
from tables import Shape, Tables, commit, sequences, show, text, versions
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from user_cells import mgu, slstm

import gatewise
from gatewise import cells

RESULTS = Path(__file__).parent / "results" / "gpu.jsonl"

PRECISIONS: dict[str, tuple[torch.dtype, bool]] = {
    "bf16": (torch.bfloat16, False), "fp16": (torch.float16, False),
    "ieee": (torch.float32, False), "tf32": (torch.float32, True),
}  # fmt: skip
FLASHRNN = {FORWARD: 4.8, BACKWARD_X: 13.3}  # µs a step: arXiv 2412.07752, its fused CUDA kernel, on an H100
SHAPES: list[Shape] = [(512, 1, 256, 256), (512, 16, 512, 512), (512, 64, 1024, 1024)]


# --- the tables --------------------------------------------------------------------------------------

RATIO = "torch.nn / ours"


def backend(kind: type[nn.GRU] | type[nn.LSTM], dtype: torch.dtype) -> str:
    """What torch.nn runs here, for a title: its bfloat16 was not cuDNN's in every version."""
    layer = kind(8, 8, device=device.DEVICE, dtype=dtype)
    cudnn = by_cudnn(layer(torch.randn(2, 2, 8, device=device.DEVICE, dtype=dtype))[0])
    return f"torch.nn.{kind.__name__}, which {'runs' if cudnn else 'does not run'} cuDNN here"


def beside_torch(kind: Any, shape: Shape, measure: str, plan: Plan, **options: Any) -> dict[str, float]:
    steps, batch, inputs, hidden = shape
    layer = ours_of(kind, inputs, hidden, dtype=plan.dtype, **options)
    width = (options.get("proj_size") or hidden) * (2 if layer.bidirectional else 1)
    x, g = sequences((steps, batch, inputs, width), device=device.DEVICE, dtype=plan.dtype)
    ours, theirs = (peers.by_module(m, x, g, measure) for m in (layer, peers.torchs_twin(layer)))
    exact = peers.by_module(peers.torchs_twin(layer).double(), x.double(), g.double(), measure)
    figures = compare(ours, {"torch.nn": theirs}, exact, steps, plan)
    return figures | {"ours, MB": megabytes(ours), "torch.nn, MB": megabytes(theirs)}


def gru(mean: float, least: dict[str, float], plan: Plan) -> Tables:
    sizes, batches = ((256, 1024), (1, 64)) if plan.quick else ((256, 512, 768, 1024), (1, 16, 64, 128))
    for measure in (BACKWARD_X, FORWARD):
        cases = (
            (text(shape), partial(beside_torch, gatewise.GRU, shape, measure, plan))
            for shape in ((512, b, h, h) for h in sizes for b in batches)
        )
        title = f"GRU, {measure}, beside {backend(nn.GRU, plan.dtype)}"
        if measure == BACKWARD_X:
            title += f"; goal of the geometric mean: {mean}"
        yield title, summary(attempt(cases), [RATIO], least if measure == BACKWARD_X else {})


def lstm(plan: Plan) -> Tables:
    shape = (1024, 16, 768, 768)

    def measured(measure: str) -> dict[str, float]:
        published = {"FlashRNN, µs a step, published, on an H100": FLASHRNN[measure]}
        return published | beside_torch(gatewise.LSTM, shape, measure, plan)

    cases = ((f"{text(shape)}, {m}", partial(measured, m)) for m in (FORWARD, BACKWARD_X))
    yield f"LSTM, beside {backend(nn.LSTM, plan.dtype)}, and FlashRNN", summary(attempt(cases), [], {RATIO: 0.5})


def beside_loop(cell: Any, shape: Shape, plan: Plan) -> dict[str, float]:
    x, g = sequences(shape, device=device.DEVICE, dtype=plan.dtype)
    layer = ours_of(gatewise.Recurrent, cell, *shape[2:], dtype=plan.dtype)
    plain = ours_of(gatewise.LSTM if len(cell.gates) == 4 else gatewise.GRU, *shape[2:], dtype=plan.dtype)
    ours, others = (peers.by_module(m, x, g, BACKWARD_X) for m in (layer, plain))
    exact = peers.by_module(by_reference(layer, torch.float64), x.double(), g.double(), BACKWARD_X)
    loop = peers.by_torch_loop(layer, x, g, BACKWARD_X)
    return compare(ours, {"loop": loop}, exact, shape[0], plan, {"our GRU or LSTM": others})


def own_cells(plan: Plan) -> Tables:
    def cases(*some: Any) -> Iterator[tuple[str, Measure]]:
        for cell in some:
            for shape in SHAPES[1:2] if plan.quick else SHAPES:
                yield f"{cell.name}: {text(shape)}", partial(beside_loop, cell, shape, plan)

    title = f"{BACKWARD_X}, beside a plain torch loop, and our GRU (up to 3 gates) or LSTM (4) of the same sizes"
    goals = {"loop / ours": 30.0, "our GRU or LSTM / ours": 1 / 1.3}
    found = attempt(cases(cells.gru_reset_before, cells.lstm_peephole, mgu, slstm))
    yield f"Any cell, {title}", summary(found, [], goals)
    yield f"Layer norm, {title}", attempt(cases(gatewise.layer_norm(cells.gru), gatewise.layer_norm(cells.lstm)))


def beside_packed(shape: Shape, measure: str, plan: Plan) -> dict[str, float]:
    """torch.nn on the packed sequence, which is made beforehand; and packing and padding, from what we read to what
    we make."""
    steps, batch, *_ = shape
    layer = ours_of(gatewise.GRU, *shape[2:], dtype=plan.dtype)
    x, g = sequences(shape, device=device.DEVICE, dtype=plan.dtype)
    lengths = torch.randint(steps // 4, steps + 1, (batch,))
    lengths[0] = steps

    def pack(padded: Tensor) -> PackedSequence:
        return pack_padded_sequence(padded, lengths, enforce_sorted=False)

    def packed(made: list[Tensor]) -> list[Tensor]:
        """Output and x's gradient, which is last."""
        return [pack(t).data if t.dim() == 3 else t for t in made]

    def of_packed(twin: nn.Module, x: Tensor, g: Tensor) -> Call:
        data, *order = pack(x)
        return peers.by_autograd(
            lambda data: twin(PackedSequence(data, *order))[0].data, twin.parameters(), data, pack(g).data, measure
        )

    twin = peers.torchs_twin(layer)
    same = {
        "torch.nn, packed": of_packed(twin, x, g),
        "torch.nn, packing and padding": peers.by_autograd(
            lambda x: pad_packed_sequence(twin(pack(x))[0])[0], twin.parameters(), x, g, measure
        )._replace(read=packed),
    }
    exact = of_packed(peers.torchs_twin(layer).double(), x.double(), g.double())
    ours = peers.by_autograd(lambda x: layer(x, lengths=lengths)[0], layer.parameters(), x, g, measure)
    dense = {"ours, dense": peers.by_module(layer, x, g, measure)}
    return compare(ours._replace(read=packed), same, exact, steps, plan, dense)


def with_lengths(plan: Plan) -> Tables:
    for measure in (BACKWARD_X, FORWARD):
        shapes: list[Shape] = SHAPES[1:2] if plan.quick else [(512, 16, 512, 512), (512, 64, 512, 512), SHAPES[2]]
        cases = ((text(shape), partial(beside_packed, shape, measure, plan)) for shape in shapes)
        title = f"GRU, lengths from T/4 to T, {measure}, beside {backend(nn.GRU, plan.dtype)}, and our own dense run"
        yield title, summary(attempt(cases), [], {"torch.nn, packed / ours": 2.0, "ours, dense / ours": 1 / 1.1})


def beside_plain(
    run: Callable[[Any, Tensor, Tensor, str], Call], shape: Shape, measure: str, plan: Plan
) -> dict[str, float]:
    """The layer run in some way, `run` of it, beside the specification run so, and the layer's plain run."""
    layer = ours_of(gatewise.GRU, *shape[2:], dtype=plan.dtype)
    x, g = sequences(shape, device=device.DEVICE, dtype=plan.dtype)
    exact = run(by_reference(layer, torch.float64), x.double(), g.double(), measure)
    same = {"reference": run(by_reference(layer, plan.dtype), x, g, measure)}
    plain = {"ours, plain": peers.by_module(layer, x, g, measure)}
    return compare(run(layer, x, g, measure), same, exact, shape[0], plan, plain)


def with_resets(plan: Plan) -> Tables:
    def run(resets: Tensor, layer: Any, x: Tensor, g: Tensor, measure: str) -> Call:
        return peers.by_autograd(lambda x: layer(x, resets=resets)[0], layer.parameters(), x, g, measure)

    for measure in (BACKWARD_X, FORWARD):
        cases = []
        for shape in SHAPES[1:2] if plan.quick else SHAPES:
            resets = torch.rand(shape[:2], device=device.DEVICE) < 0.01
            cases.append((text(shape), partial(beside_plain, partial(run, resets), shape, measure, plan)))
        title = f"GRU, resets at 1 % of the steps, {measure}, beside our own run without"
        yield title, summary(attempt(cases), [], {"ours, plain / ours": 1 / 1.1})


def recorded(plan: Plan) -> Tables:
    def run(layer: Any, x: Tensor, g: Tensor, measure: str) -> Call:
        plain = peers.by_module(layer, x, g, measure)

        def watched() -> list[Tensor]:
            with gatewise.record(layer, ["r", "z", "n"]) as seen:
                made = plain.run()
            return [*made, *(values.detach() for values in seen["l0"].values())]

        return Call(watched)

    for measure in (BACKWARD_X, FORWARD):
        shapes = SHAPES[1:2] if plan.quick else SHAPES
        cases = ((text(shape), partial(beside_plain, run, shape, measure, plan)) for shape in shapes)
        yield f"GRU, all gates recorded, {measure}, beside our own run without", attempt(cases)


def directions(plan: Plan) -> Tables:
    kinds: list[tuple[str, Any, Callable[[int], dict[str, Any]]]] = [
        ("GRU, two directions", gatewise.GRU, lambda hidden: {"bidirectional": True}),
        ("LSTM, two directions", gatewise.LSTM, lambda hidden: {"bidirectional": True}),
        ("LSTM, proj_size = H / 2", gatewise.LSTM, lambda hidden: {"proj_size": hidden // 2}),
    ]
    cases = (
        (f"{name}: {text(shape)}", partial(beside_torch, kind, shape, BACKWARD_X, plan, **options(shape[3])))
        for name, kind, options in kinds
        for shape in (SHAPES[1:2] if plan.quick else SHAPES)
    )
    title = f"Two directions, and the projected LSTM, {BACKWARD_X}, beside {backend(nn.LSTM, plan.dtype)}"
    yield title, attempt(cases)


def length(plan: Plan) -> Tables:
    def measured(measure: str) -> dict[str, float]:
        layer, runs = ours_of(gatewise.GRU, 512, 512, dtype=plan.dtype), {}
        for steps in (1000, 10_000):
            x, g = sequences((steps, 16, 512, 512), device=device.DEVICE, dtype=plan.dtype)
            runs[steps] = peers.by_module(layer, x, g, measure)
        found = timed({"ours": runs[1000], "long": runs[10_000]}, plan)
        short, long = (statistics.median(ms) for ms in found.values())
        return {"T = 1000, µs a step": short, "T = 10,000, µs a step": long / 10, "ratio": long / 10 / short}

    cases = ((f"T, 16, 512, 512, {m}", partial(measured, m)) for m in (FORWARD, BACKWARD_X))
    yield "GRU, the cost of one of T steps", attempt(cases)


def repeated(plan: Plan) -> Tables:
    """The same call again and again: every bit of output and gradients."""
    runs = 5 if plan.quick else 20

    def measured(cell: Any, shape: Shape) -> dict[str, float]:
        layer = ours_of(gatewise.Recurrent, cell, *shape[2:], dtype=plan.dtype)
        call = peers.by_module(layer, *sequences(shape, device=device.DEVICE, dtype=plan.dtype), BACKWARD_X)
        first = call.run()
        if not all(t.isfinite().all() for t in first):
            raise NotTheSameError("a result is not finite")
        same = sum(all(map(torch.equal, first, call.run())) for _ in range(runs))
        return {"runs": runs + 1, "runs that differ from the first": runs - same}

    cases = (
        (f"{cell.name}: {text(shape)}", partial(measured, cell, shape))
        for cell in (cells.gru, cells.lstm, cells.gru_reset_before)
        for shape in SHAPES
    )
    yield f"The same bits from run to run, {BACKWARD_X}", attempt(cases)


def first_call(
    where: str, executor: str, dtype: torch.dtype, cell: str, shape: Shape, cache: str
) -> tuple[float, float]:
    """Seconds of the first training step and of the second, the device itself being awake; for a fresh process."""
    faulthandler.dump_traceback_later(device.WAIT, exit=True)
    os.environ["TRITON_CACHE_DIR"] = cache
    layer = gatewise.Recurrent(gatewise.Graph.parse(cell), *shape[2:], device=where, dtype=dtype)
    layer.executor = executor
    x, g = sequences(shape, device=where, dtype=dtype)
    (x[0] @ x[0].t()).sum().item()  # the context, cuBLAS

    def seconds() -> float:
        begin = time.perf_counter()
        grads = torch.autograd.grad(layer(x)[0], list(layer.parameters()), g)
        grads[1][0, 0].item()  # waits
        return time.perf_counter() - begin

    return seconds(), seconds()


def first(plan: Plan) -> Tables:
    def measured(cell: Any, shape: Shape) -> dict[str, float]:
        found: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as cache:
            for name in ("empty", "filled"):
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
                    given = (device.DEVICE, device.EXECUTOR, plan.dtype, cell.text, shape, cache)
                    found[f"{name} cache, s"], second = fresh.submit(first_call, *given).result()
        return found | {"the call after, s": second}

    cases = (
        (f"{cell.name}: {text(shape)}", partial(measured, cell, shape))
        for cell, shape in zip((cells.gru, cells.gru_reset_before, cells.lstm), SHAPES, strict=True)
    )
    yield (
        f"The first call of a process, {BACKWARD_X}; goal: at most 10 s, and little with a filled cache",
        attempt(cases),
    )


SECTIONS: dict[str, tuple[str, Callable[[Plan], Tables]]] = {
    "gru": ("bf16", partial(gru, 1.5, {RATIO: 1.0})),
    "lstm": ("fp16", lstm),
    "repeated": ("bf16", repeated),
    "cells": ("bf16", own_cells),
    "lengths": ("bf16", with_lengths),
    "resets": ("bf16", with_resets),
    "first": ("bf16", first),
    "gru-tf32": ("tf32", partial(gru, 1.3, {})),
    "gru-ieee": ("ieee", partial(gru, 1.3, {})),
    "directions": ("bf16", directions),
    "record": ("bf16", recorded),
    "length": ("bf16", length),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, of: %(default)s")
    parser.add_argument("--quick", action="store_true", help="fewer sizes, three rounds each")
    parser.add_argument("--budget", type=float, default=0.5, help="seconds for each time that is taken")
    parser.add_argument("--json", type=Path, metavar="FILE", default=RESULTS, help="gets a line for each figure")
    parser.add_argument("--commit", default=commit(), help="of the code, where git is not there to tell: %(default)s")
    options = parser.parse_args()
    sections = options.only.split(",")
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"--only has {min(unknown)!r}, expected some of {','.join(SECTIONS)}")
    if not torch.cuda.is_available():
        raise SystemExit("gpu.py: torch finds no CUDA device (torch.cuda.is_available() is False): nothing to measure")
    given: dict[str, Any] = {
        "machine": torch.cuda.get_device_name(),
        "versions": versions("torch", "triton")
        | {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())},
        "commit": options.commit,
        "quick": options.quick,
    }
    installed = ", ".join(f"{name} {version}" for name, version in given["versions"].items())
    print(f"{given['machine']}, commit {given['commit']}, {installed}")
    failed = 0
    for section in sections:
        precision, tables = SECTIONS[section]
        dtype, tf32 = PRECISIONS[precision]
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.manual_seed(0)
        plan = Plan(dtype, 0.0 if options.quick else options.budget, 3 if options.quick else 5, options.quick)
        print(f"\n# {section}, {precision}")
        failed += show(section, tables(plan), given | {"precision": precision}, options.json)
    if failed:
        print(f"\nRows without figures: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
