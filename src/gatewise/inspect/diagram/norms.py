"""Normalisations in a graph, found by their structure: (a_k - mean) / √(variance + ε), over one value or several."""

from __future__ import annotations

from dataclasses import dataclass

from gatewise.graph.graph import Graph, closure, walk


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
    watched = {i for _, i in (*graph.outputs, *graph.names)}
    found = [_norm_at(graph, readers, watched, i) for i, _ in walk(graph, "sqrt")]
    return [norm for norm in found if norm]


def _norm_at(graph: Graph, readers: list[list[int]], watched: set[int], root: int) -> Norm | None:
    nodes = graph.nodes
    results = [i for i in readers[root] if nodes[i].op == "div" and nodes[i].args[1] == root]
    centred = [nodes[i].args[0] for i in results]
    if not results or len(results) < len(readers[root]) or any(nodes[c].op != "sub" for c in centred):
        return None
    inputs = [nodes[c].args[0] for c in centred]
    averages = {nodes[c].args[1] for c in centred}
    inside = nodes[root].args[0]
    if nodes[inside].op != "add" or nodes[nodes[inside].args[1]].op != "const" or len(averages) != 1:
        return None
    average = averages.pop()
    squares = _averaged(graph, nodes[inside].args[0])
    if _averaged(graph, average) != inputs or [_square_of(graph, s) for s in squares] != centred:
        return None
    covers = set(closure(nodes, results)) - set(closure(nodes, inputs))
    covers = {i for i in covers if nodes[i].op != "const"} | {nodes[inside].args[1]}
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


def _averaged(graph: Graph, i: int) -> list[int]:
    """The values whose mean over all their units this node is; empty if it is no such mean."""
    nodes = graph.nodes
    if nodes[i].op == "mul" and nodes[nodes[i].args[1]].op == "const":
        parts = _means(graph, nodes[i].args[0])
        share = dict(nodes[nodes[i].args[1]].params)["value"]
        return parts if parts and abs(share * len(parts) - 1.0) < 1e-9 else []
    return _means(graph, i) if nodes[i].op == "mean" else []


def _means(graph: Graph, i: int) -> list[int]:
    """The values in a sum of means, in order; empty if it is none."""
    node = graph.nodes[i]
    if node.op == "mean":
        return [node.args[0]]
    if node.op != "add":
        return []
    left, right = _means(graph, node.args[0]), _means(graph, node.args[1])
    return left + right if left and right else []


def _square_of(graph: Graph, i: int) -> int:
    node = graph.nodes[i]
    return node.args[0] if node.op == "mul" and node.args[0] == node.args[1] else -1
