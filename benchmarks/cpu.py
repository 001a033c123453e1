"""Our layers on the CPU beside torch.nn, onnxruntime, JAX and a plain torch loop: the tables of docs/speed.md.

    .venv/bin/python benchmarks/cpu.py                              all of them, many minutes
    .venv/bin/python benchmarks/cpu.py --only gru,step --threads 2

onnxruntime and JAX come with `pip install -e '.[bench]'`. Only ratios are printed: the other's time divided by ours, so
above 1 we are faster. Each is the median over rounds in which all are timed in turn, after a check that all make the
same outputs and gradients. Cases are T, B, I, H; all is float32. Where it is otherwise the table's title says so.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import peers
import torch
import torch.nn.functional as F
from peers import BACKWARD, BACKWARD_X, FORWARD, MEASURES, Call, Peer
from tables import Row, Shape, Tables, commit, randomized, sequences, show, text, versions, with_mean
from torch import Tensor, nn
from user_cells import mgu, slstm

import gatewise
from gatewise import cells

LARGE: Shape = (64, 128, 512, 1024)
SHAPES: list[Shape] = [
    (35, 32, 28, 256), (35, 32, 28, 512), (100, 1, 64, 128), (1, 1, 64, 128), (128, 64, 256, 256), (256, 16, 512, 512),
    LARGE, (784, 64, 1, 128),
]  # fmt: skip
SMALL_BATCHES: list[Shape] = [(60, 7, 40, 200), (400, 3, 80, 320), (100, 2, 128, 256)]


# --- timing ------------------------------------------------------------------------------------------


def seconds(call: Call, enough: float = 0.005) -> float:
    """How long a call takes; of a short one, the median of several after one that wakes threads and fills caches."""
    time.sleep(0.01)  # OpenMP's threads spin for some milliseconds after the call before this one

    def once() -> float:
        begin = time.perf_counter()
        call.run()
        return time.perf_counter() - begin

    first = once()
    if first > enough:
        return first
    return statistics.median(once() for _ in range(max(3, int(enough / first))))


def ratios(ours: Call, others: Mapping[str, Call | None], budget: float) -> dict[str, float]:
    """The medians of the others' times / ours, NaN without a call: 3 rounds at least, `budget` seconds for each."""
    there = {name: call for name, call in others.items() if call}
    for call in (ours, *there.values()):
        call.run()  # what is done once, such as to compile
    end = time.perf_counter() + budget * len(there)
    rounds: list[dict[str, float]] = []
    while len(rounds) < 3 or time.perf_counter() < end:
        mine = seconds(ours)
        rounds.append({name: seconds(call) / mine for name, call in there.items()})
    return {name: statistics.median(r[name] for r in rounds) if name in there else math.nan for name in others}


def check_parity(ours: Call, other: Call, name: str, tolerance: float = 1e-4) -> None:
    for k, (a, b) in enumerate(zip(ours.read(ours.run()), other.read(other.run()), strict=True)):
        error = ((a - b).abs().max() / b.abs().max().clamp(min=1e-3)).item()
        if a.shape != b.shape or not error <= tolerance:  # NaN is not
            what = f"gradient {k}" if k else "the output"
            raise SystemExit(
                f"{name}: {what} differs from ours by {error:.1e} of its largest value, expected at most "
                f"{tolerance:.0e}: it is not the same function, so there is nothing to time"
            )


def compare(
    layer: Any, shape: Shape, measure: str, same: Mapping[str, Peer], budget: float, unlike: Iterable[nn.Module] = ()
) -> dict[str, float]:
    """The ratios of the peers, which make the same as the layer, and of layers that are another function."""
    x, g = sequences(shape)
    ours = peers.by_module(layer, x, g, measure)
    others: dict[str, Call | None] = {f"nn.{type(u).__name__}": peers.by_module(u, x, g, measure) for u in unlike}
    for name, peer in same.items():
        call = others[name] = None if name in peers.MISSING else peer(layer, x, g, measure)
        if call:
            check_parity(ours, call, name)
    return ratios(ours, others, budget)


# --- the tables: a section yields titles and rows, a row is measured when it is asked for ------------------


def gru(budget: float) -> Tables:
    def rows(measure: str) -> Iterator[Row]:
        for shape in SHAPES:
            found = compare(randomized(gatewise.GRU(*shape[2:])), shape, measure, peers.PEERS, budget)
            yield text(shape), found | {"best peer": min(f for f in found.values() if f == f)}

    for measure in MEASURES:
        yield f"GRU, {measure}", with_mean(rows(measure))


def beside_torch(name: str, budget: float) -> Tables:
    def rows() -> Iterator[Row]:
        for shape in (*SHAPES, *SMALL_BATCHES):
            layer, same = randomized(getattr(gatewise, name)(*shape[2:])), {name: peers.by_torch_nn}
            yield text(shape), {m: compare(layer, shape, m, same, budget)[name] for m in (FORWARD, BACKWARD)}

    yield f"{name}, beside torch.nn.{name}", with_mean(rows())


def step(budget: float) -> Tables:
    def rows() -> Iterator[Row]:
        layer, x, h = randomized(gatewise.GRU(64, 128)), torch.randn(1, 1, 64), torch.randn(1, 1, 128)
        x_t, twin = x[0], peers.torchs_twin(layer)
        ours = Call(lambda: layer.step(x_t, h))
        theirs = Call(lambda: twin(x, h), lambda made: [made[0][0], made[1]])
        with torch.no_grad():
            check_parity(ours, theirs, "nn.GRU")
            found = ratios(ours, {"nn.GRU": theirs}, budget)
        yield text((1, 1, 64, 128)), found

    yield "GRU, one streaming step: layer.step(x_t, state) beside nn.GRU(x, hx)", rows()


def own_cells(budget: float) -> Tables:
    def rows() -> Iterator[Row]:
        same: dict[str, Peer] = {"plain torch loop": peers.by_torch_loop, "JAX": peers.by_jax}
        for cell in (cells.gru_reset_before, cells.lstm_peephole, mgu, gatewise.layer_norm(cells.lstm), slstm):
            for shape in ((35, 32, 28, 256), (100, 1, 64, 128), (128, 64, 256, 256)):
                layer = randomized(gatewise.Recurrent(cell, *shape[2:]))
                unlike = (nn.GRU(*shape[2:]), nn.LSTM(*shape[2:]))
                yield f"{cell.name}: {text(shape)}", compare(layer, shape, BACKWARD, same, budget, unlike)

    yield f"Any cell, {BACKWARD}; nn.GRU and nn.LSTM are other functions, of the same sizes", rows()


def resets(budget: float) -> Tables:
    """Episodes that end in mid-sequence: `resets=` beside a loop that masks the state, as recurrent PPO has it."""

    def compared(name: str, shape: Shape) -> float:
        layer = randomized(getattr(gatewise, name)(*shape[2:]))
        twin, (x, g) = peers.torchs_twin(layer), sequences(shape)
        starts = (torch.rand(shape[:2]) < 0.02).float()

        def step_by_step(x: Tensor) -> Tensor:
            state: Any = torch.zeros(1, shape[1], shape[3])
            state = (state, state) if name == "LSTM" else state
            outputs = []
            for x_t, start in zip(x, starts, strict=True):
                keep = (1.0 - start).view(1, -1, 1)
                state = tuple(keep * s for s in state) if name == "LSTM" else keep * state
                output, state = twin(x_t.unsqueeze(0), state)
                outputs.append(output)
            return torch.cat(outputs)

        ours = peers.by_autograd(lambda x: layer(x, resets=starts)[0], layer.parameters(), x, g, BACKWARD_X)
        theirs = peers.by_autograd(step_by_step, twin.parameters(), x, g, BACKWARD_X)
        check_parity(ours, theirs, f"nn.{name} step by step")
        return ratios(ours, {name: theirs}, budget)[name]

    def rows() -> Iterator[Row]:
        for shape in ((128, 8, 64, 256), (24, 256, 64, 256), (128, 64, 64, 128), (512, 1, 64, 128), (16, 16, 16, 64)):
            yield text(shape), {f"nn.{name}": compared(name, shape) for name in ("LSTM", "GRU")}

    yield f"Episodes: resets= beside torch.nn's layer step by step with masked states, {BACKWARD_X}", with_mean(rows())


def rate(budget: float) -> Tables:
    steps, batch, inputs, hidden = LARGE
    own = (steps * batch, inputs + hidden, 3 * hidden)  # all the layer's products, as if they were one

    def rows() -> Iterator[Row]:
        for measure, times in ((FORWARD, 1), (BACKWARD_X, 3)):
            ours = peers.by_module(randomized(gatewise.GRU(inputs, hidden)), *sequences(LARGE), measure)
            shares = []  # of each size's rate, by each library
            for size in ((2048, 2048, 2048), own):
                work = times * math.prod(own) / math.prod(size)
                shares.append(
                    {name: work * found for name, found in ratios(ours, peers.product(*size), budget).items()}
                )
            yield measure, {name: min(share[name] for share in shares) for name in shares[0]}

    yield (
        f"GRU {text(LARGE)}: share of a product's rate, the larger of 2048 x 2048's and the layer's own size's",
        rows(),
    )


def extra_memory(library: str, shape: Shape, threads: int) -> float:
    """What a training step adds to the resident memory at its peak, in T * B * H floats; for a fresh process."""
    torch.set_num_threads(threads)
    layer = {"gatewise": gatewise, "torch.nn": nn}[library].GRU(*shape[2:])

    def kilobytes(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field))

    extra = 0
    for size in ((2, 2, *shape[2:]), shape):  # the small one loads what is loaded once
        x, g = sequences(size)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is forgotten
        before = kilobytes("VmRSS")
        layer(x)[0].backward(g)
        extra = kilobytes("VmHWM") - before
        layer.zero_grad()
    return extra * 1024 / (4 * shape[0] * shape[1] * shape[3])


def memory(budget: float) -> Tables:
    def rows() -> Iterator[Row]:
        for shape in ((784, 64, 1, 128), (2000, 8, 64, 256)):
            found: dict[str, float] = {}
            for library in ("gatewise", "torch.nn"):
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
                    found[library] = fresh.submit(extra_memory, library, shape, torch.get_num_threads()).result()
            yield text(shape), found | {"ratio": found["gatewise"] / found["torch.nn"]}

    yield "GRU, a training step's extra memory at its peak, in T * B * H floats; ratio: ours / torch.nn's", rows()


def length(budget: float) -> Tables:
    def rows() -> Iterator[Row]:
        layer = randomized(gatewise.GRU(64, 128))

        def relative(steps: int, measure: str) -> float:
            short, long = (peers.by_module(layer, *sequences((t, 1, 64, 128)), measure) for t in (1000, steps))
            return ratios(short, {"long": long}, budget)["long"] * 1000 / steps

        for steps in (100, 10_000, 100_000):
            yield text((steps, 1, 64, 128)), {m: relative(steps, m) for m in (FORWARD, BACKWARD)}

    yield "GRU, cost of one of T steps: time / T, relative to T = 1000", rows()


def bfloat16(budget: float) -> Tables:
    x, g = sequences(LARGE)
    single, half = randomized(gatewise.GRU(*LARGE[2:])), gatewise.GRU(*LARGE[2:], dtype=torch.bfloat16)
    half.load_state_dict(single.state_dict())

    def rows() -> Iterator[Row]:
        ours, theirs = (
            peers.by_module(half, x.bfloat16(), g.bfloat16(), BACKWARD),
            peers.by_module(single, x, g, BACKWARD),
        )
        check_parity(ours, theirs, "float32", tolerance=0.1)
        yield text(LARGE), ratios(ours, {"float32's time / bfloat16's": theirs}, budget)

    amx = "has" if "amx_bf16" in cpuinfo("flags").split() else "lacks"
    yield f"GRU in bfloat16, {BACKWARD} (this machine {amx} AMX; {gatewise.explain(half, x[:2].bfloat16())})", rows()


def language(budget: float) -> Tables:
    """A step of training as `gatewise train text --recipe d2l` does it; torch.nn.GRU needs its characters one-hot."""
    steps, batch, characters, hidden = 35, 32, 28, 256
    text_ = torch.randint(characters, (steps + 1, batch))

    def loop(layer: nn.Module, read: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        model = nn.ModuleList([layer, nn.Linear(hidden, characters)])
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        state = [torch.zeros(1, batch, hidden)]

        def train() -> float:
            output, after = layer(read(text_[:-1]), state[0])
            state[0] = after.detach()
            loss = F.cross_entropy(model[1](output).flatten(0, 1), text_[1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            return loss.item()

        return train

    def rows() -> Iterator[Row]:
        layer = gatewise.GRU(characters, hidden)
        twin = peers.torchs_twin(layer)
        torch.manual_seed(0)
        ours = loop(layer, lambda x: x)
        torch.manual_seed(0)
        theirs = loop(twin, lambda x: F.one_hot(x, characters).float())
        for _ in range(3):
            if abs(ours() - theirs()) > 1e-4:
                raise SystemExit("language: the losses differ, so there is nothing to compare")
        found = ratios(Call(ours), {"tokens a second, ours / nn.GRU's": Call(theirs)}, budget)
        yield text((steps, batch, characters, hidden)), found

    yield "Training the d2l book's language model, characters as integers beside one-hot vectors", rows()


SECTIONS: dict[str, Callable[[float], Tables]] = {
    "gru": gru, "lstm": partial(beside_torch, "LSTM"), "rnn": partial(beside_torch, "RNN"), "step": step,
    "cells": own_cells, "language": language, "resets": resets, "rate": rate, "memory": memory, "length": length,
    "bfloat16": bfloat16,
}  # fmt: skip


# --- running and printing ----------------------------------------------------------------------------


def cpuinfo(field: str) -> str:
    """A field of Linux's /proc/cpuinfo; empty where there is none."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def use(threads: int) -> dict[str, Any]:
    """Bind this process to so many CPUs, and give what every figure depends on."""
    if hasattr(os, "sched_setaffinity"):  # JAX has a thread for each CPU that it finds when it is first used
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    torch.set_num_threads(threads)
    return {
        "machine": f"{cpuinfo('model name') or platform.processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": threads,
        "versions": versions("torch", "onnxruntime", "jax"),
        "commit": commit(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, of: %(default)s")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for each figure, at least 3 rounds in all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append a line to it for each figure")
    options = parser.parse_args()
    sections = options.only.split(",")
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"--only has {min(unknown)!r}, expected some of {','.join(SECTIONS)}")
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= options.threads <= there:
        parser.error(f"--threads is {options.threads}, expected 1 to {there}, the CPUs that this process may use")
    torch.manual_seed(0)
    given = use(options.threads)
    installed = ", ".join(" ".join(pair) for pair in given["versions"].items())
    print(f"{given['machine']}, {options.threads} thread(s), commit {given['commit']}, {installed}")
    for peer in peers.MISSING:
        print(f"{peer} is not installed: its column is '-'.")
    for section in sections:
        show(section, SECTIONS[section](options.budget), given, options.json)


if __name__ == "__main__":
    main()
