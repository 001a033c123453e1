"""Timing on a GPU, after a check: one row of gpu.py."""

from __future__ import annotations

import copy
import faulthandler
import math
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from peers import Call
from tables import Row, randomized, with_mean
from torch import Tensor

DEVICE, EXECUTOR = "cuda", "cuda"  # the executor is named, so that nothing falls back unseen
REGION = 5.0  # ms between two events, at least: their resolution is half a microsecond
FACTOR = 3.0  # what rounding elsewhere may cost: to truncate to tf32 errs twice as much as to round to it
WAIT = 180  # seconds for a row, which takes some: blocks that wait for one another for ever would take the whole run


class Plan(NamedTuple):
    """How much is measured."""

    dtype: torch.dtype
    seconds: float  # for each call of a row
    rounds: int  # at least
    quick: bool


def milliseconds(call: Call, times: int) -> float:
    """How long a call takes on the device, waits for the next launch included."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(times):
        call.run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / times


def wait() -> None:
    """Until the device has done all; raises what has gone wrong there."""
    torch.cuda.synchronize()


def megabytes(call: Call) -> float:
    """What a call adds to the device's memory at its peak, its results included."""
    wait()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call.run()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def by_cudnn(output: Tensor) -> bool:
    """Whether cuDNN made an output of torch.nn's, which depends on dtype and version: what autograd will call tells."""
    nodes: dict[Any, None] = {}
    found = [output.grad_fn]
    while found:
        node = found.pop()
        if node is not None and node not in nodes:
            nodes[node] = None
            found += [other for other, _ in node.next_functions]
    return any("CudnnRnn" in node.name() for node in nodes)


# --- one row -----------------------------------------------------------------------------------------


class NotTheSameError(Exception):
    """Ours is wrong, so there is nothing to time."""


def parity(ours: Call, same: Mapping[str, Call], exact: Call) -> dict[str, float]:
    """The largest relative errors, of ours and of the others, of which the first says what ours may be."""
    expected = exact.read(exact.run())

    def errors(name: str, call: Call) -> list[float]:
        made = call.read(call.run())
        if [t.shape for t in made] != [t.shape for t in expected]:
            raise NotTheSameError(f"{name}: shapes {[tuple(t.shape) for t in made]}")
        return [((a.double() - e).norm() / e.norm()).item() for a, e in zip(made, expected, strict=True)]

    found = {name: errors(name, call) for name, call in same.items()}
    for name, each in found.items():
        if not all(error < 0.5 for error in each):  # NaN is not
            raise NotTheSameError(f"{name} itself is off by {max(each):.1e} of the exact result")
    beside, bounds = next(iter(found.items()))
    mine = errors("ours", ours)
    # The result's own rounding, and some of sums in float32, which come out nearer beside us by chance.
    smallest = torch.finfo(ours.run()[0].dtype).eps / 4 + 4 * torch.finfo(torch.float32).eps
    for k, (error, bound) in enumerate(zip(mine, bounds, strict=True)):
        if not error <= max(FACTOR * bound, smallest):
            what = f"result {k} of 0 to {len(mine) - 1} (the output, the parameters' gradients, x's)"
            raise NotTheSameError(f"our {what} is off by {error:.1e}, that of {beside} by {bound:.1e}")
    return {"ours, error": max(mine)} | {f"{name}, error": max(each) for name, each in found.items()}


def timed(calls: Mapping[str, Call], plan: Plan) -> dict[str, list[float]]:
    """The milliseconds of each call in each round; a round times all of them, one after the other."""
    times = {}
    for name, call in calls.items():
        for _ in range(2):
            call.run()  # what is done once, such as to compile
        times[name] = math.ceil(REGION / milliseconds(call, 1))
    found: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + plan.seconds * len(calls)
    while len(found["ours"]) < plan.rounds or time.perf_counter() < end:
        for name, call in calls.items():
            found[name].append(milliseconds(call, times[name]))
    return found


def compare(
    ours: Call,
    same: Mapping[str, Call],
    exact: Call,
    steps: int,
    plan: Plan,
    others: Mapping[str, Call] | None = None,
) -> dict[str, float]:
    """A row's figures: of ours, of who makes the same, and of others, which are another function and just timed."""
    errors = parity(ours, same, exact)
    calls = {"ours": ours, **same, **(others or {})}
    found = timed(calls, plan)
    middle = {name: statistics.median(ms) for name, ms in found.items()}
    figures = {f"{name}, µs a step": 1000 * ms / steps for name, ms in middle.items()}
    for name in [*same, *(others or {})]:
        ratios = [theirs / mine for mine, theirs in zip(found["ours"], found[name], strict=True)]
        figures[f"{name} / ours"] = middle[name] / middle["ours"]
        figures |= {f"{name} / ours, least": min(ratios), f"{name} / ours, most": max(ratios)}
    return figures | errors


def ours_of(kind: Callable[..., Any], *sizes: Any, dtype: torch.dtype, **options: Any) -> Any:
    layer = randomized(kind(*sizes, device=DEVICE, dtype=dtype, **options))
    layer.executor = EXECUTOR
    return layer


def by_reference(layer: Any, dtype: torch.dtype) -> Any:
    """The layer with the same weights, run by the specification."""
    other = copy.deepcopy(layer).to(dtype)
    other.executor = "reference"
    return other


Measure = Callable[[], dict[str, float]]


def attempt(cases: Iterable[tuple[str, Measure]]) -> Iterator[Row]:
    """The rows; of one that fails, why."""
    for case, measure in cases:
        faulthandler.dump_traceback_later(WAIT, exit=True)
        figures: dict[str, float] | str
        broken = False
        try:
            figures = measure()
        except NotTheSameError as error:
            figures = f"not the same: {error}"
        except Exception as error:
            traceback.print_exc()
            figures, broken = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}", True
        faulthandler.cancel_dump_traceback_later()
        yield case, figures
        if broken:
            wait()  # raises after a fault on the device, as all that follows would
        torch.cuda.empty_cache()


def summary(rows: Iterator[Row], mean: Sequence[str], least: Mapping[str, float]) -> Iterator[Row]:
    """The rows, then the geometric means of some columns, and the smallest of those that have a goal."""
    kept: list[dict[str, float]] = []

    def seen() -> Iterator[Row]:
        for case, figures in rows:
            if isinstance(figures, dict):
                kept.append(figures)
            yield case, figures

    yield from with_mean(seen(), mean) if mean else seen()
    for column, goal in least.items():
        if kept:
            yield f"smallest of {len(kept)} (goal: {goal:.2f})", {column: min(figures[column] for figures in kept)}
