"""The choice of the executor that runs a scan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

from torch import Tensor

from gatewise.graph.graph import Graph
from gatewise.scan import cpu, cuda, reference
from gatewise.scan.plan import Inputs

EXECUTORS = ("auto", "reference", "cpu", "cuda")
_watched: ContextVar[list[str] | None] = ContextVar("watched", default=None)


def choose(executor: str, graph: Graph, inputs: Inputs) -> tuple[ModuleType, str]:
    """The executor, and why it is this one.

    Args:
        executor: "auto" takes the fastest that can run the graph; a name takes this one or fails.

    Raises:
        ValueError: there is no such executor. RuntimeError: it can't run this.
    """
    chosen, reason = pick(executor, graph, inputs)
    for _ in range(inputs.groups):
        note(graph, chosen, reason)
    return chosen, reason


def at_once(chosen: ModuleType, graph: Graph, inputs: Inputs) -> bool:
    """Whether one call of an executor takes samples of all groups, see `Inputs`; else each has its own."""
    return inputs.groups == 1 or (chosen is cuda and cuda.together(graph, inputs))


def note(graph: Graph, chosen: ModuleType, reason: str) -> None:
    """Tell `watch` what runs."""
    if (watched := _watched.get()) is not None:
        watched.append(f"{graph.name} runs on {chosen.__name__.rpartition('.')[2]}: {reason}")


def watching() -> bool:
    """Whether `watch` collects."""
    return _watched.get() is not None


@contextmanager
def watch() -> Iterator[list[str]]:
    """Collects what was chosen, a line a scan."""
    lines: list[str] = []
    token = _watched.set(lines)
    try:
        yield lines
    finally:
        _watched.reset(token)


def pick(executor: str, graph: Graph, inputs: Inputs, others: Sequence[Tensor | None] = ()) -> tuple[ModuleType, str]:
    """`choose`, unseen by `watch`; others are weight_ih and bias_ih, where x is not projected yet."""
    if executor not in EXECUTORS:
        raise ValueError(f"executor is {executor!r}, expected one of: {' '.join(EXECUTORS)}")
    if executor == "reference":
        return reference, "it was asked for"
    fused = cuda if executor == "cuda" or (executor == "auto" and inputs.x.device.type == "cuda") else cpu
    reason = fused.why_not(graph, inputs, others)
    if not reason:
        return fused, fused.reason(graph, inputs)
    if executor != "auto":
        raise RuntimeError(f"executor {executor!r} can't run {graph.name}: {reason}")
    return reference, reason
