"""The choice of the executor that runs a scan."""

from __future__ import annotations

from types import ModuleType

from gatewise.graph.graph import Graph
from gatewise.scan import cpu, reference
from gatewise.scan.plan import Inputs

EXECUTORS = ("auto", "reference", "cpu")


def choose(executor: str, graph: Graph, inputs: Inputs) -> tuple[ModuleType, str]:
    """The executor, and why it is this one.

    Args:
        executor: "auto" takes the fastest that can run the graph; a name takes this one or fails.

    Raises:
        ValueError: there is no such executor. RuntimeError: it can't run this.
    """
    if executor not in EXECUTORS:
        raise ValueError(f"executor is {executor!r}, expected one of: {' '.join(EXECUTORS)}")
    if executor == "reference":
        return reference, "it was asked for"
    reason = cpu.why_not(graph, inputs)
    if not reason:
        return cpu, f"C++ kernels, {cpu.instruction_set()}"
    if executor == "cpu":
        raise RuntimeError(f"executor 'cpu' can't run {graph.name}: {reason}")
    return reference, reason
