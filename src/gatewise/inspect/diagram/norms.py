"""Normalisations as one block: what inspect/normal.py finds, with gain and bias, where nothing else reads within."""

from __future__ import annotations

from dataclasses import dataclass

from gatewise.graph.graph import Graph, closure
from gatewise.inspect.normal import normalised


@dataclass(frozen=True)
class Norm:
    """One normalisation.

    inputs: the nodes that are normalised together. results: the nodes that the rest of the cell reads, one an input,
    after gain and bias where there are any. covers: all nodes from the inputs (not among them) to the results.
    weighted: the inputs are products with weights, which nothing else reads.
    """

    inputs: tuple[int, ...]
    results: tuple[int, ...]
    covers: tuple[int, ...]
    weighted: bool

    @property
    def label(self) -> str:
        return "$\\mathrm{LN}(W\\,\\cdot)$" if self.weighted else "$\\mathrm{LN}$"


def find_norms(graph: Graph) -> list[Norm]:
    """The normalisations of a cell whose inner values nothing else reads."""
    readers: list[list[int]] = [[] for _ in graph.nodes]
    for i, node in enumerate(graph.nodes):
        for a in node.args:
            readers[a].append(i)
    watched = set(graph.named.values())
    together: dict[object, dict[int, int]] = {}  # what is normalised in one way: value -> normalised value
    for i, normal in normalised(graph).items():
        together.setdefault(normal.key if normal.key.group else i, dict.fromkeys(normal.key.group, -1))[
            normal.value
        ] = i
    found = [
        _norm_of(graph, readers, watched, list(made), list(made.values()))
        for made in together.values()
        if -1 not in made.values()
    ]
    return [norm for norm in found if norm]


def _norm_of(
    graph: Graph, readers: list[list[int]], watched: set[int], inputs: list[int], results: list[int]
) -> Norm | None:
    nodes = graph.nodes
    covers = set(closure(nodes, results)) - set(closure(nodes, inputs))
    covers = {i for i in covers if nodes[i].op != "const"}
    inner = covers - set(results)
    if any(i in watched or (set(readers[i]) - covers and nodes[i].op != "const") for i in inner):
        return None
    ends = []
    for i in results:
        end = i
        for op in ("mul", "add"):  # gain ⊙ N + bias
            after = readers[end]
            if len(after) == 1 and end not in watched and nodes[after[0]].op == op:
                (other,) = [a for a in nodes[after[0]].args if a != end] or [end]
                if nodes[other].op == "vector" and readers[other] == [after[0]]:
                    end = after[0]
                    covers |= {end, other}
        ends.append(end)
    weighted = all(
        nodes[i].op in ("input", "project") and i not in watched and set(readers[i]) <= covers for i in inputs
    )
    constants = {a for i in covers for a in nodes[i].args if nodes[a].op == "const"}
    return Norm(tuple(inputs), tuple(ends), tuple(sorted(covers | constants)), weighted)
