"""Finding normalisations in a graph: (a - mean) / √(variance + eps), taken over one value or several together.

A product with 1 / √(variance + eps) is one as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from gatewise.graph.graph import Graph


@dataclass(frozen=True)
class Key:
    """What is the same for values normalised in one way.

    group: the nodes whose units share a mean and a variance; () for one node by itself. eps: added to the variance.
    """

    group: tuple[int, ...]
    eps: float


@dataclass(frozen=True)
class Normal:
    """A node that is the normalised form of the node `value`."""

    value: int
    key: Key


def normalised(cell: Graph) -> dict[int, Normal]:
    """The nodes that are normalised values. One of whose intermediate values the code has given a name is left out."""
    found: dict[int, Normal] = {}
    if not any(node.op == "mean" for node in cell.nodes):
        return found
    named = set(cell.named.values())
    for i, node in enumerate(cell.nodes):
        if node.op in ("div", "mul") and (normal := _normal(cell, i, named)):
            found[i] = normal
    return found


def _normal(cell: Graph, i: int, named: set[int]) -> Normal | None:
    nodes = cell.nodes
    centred, deviation = nodes[i].args
    inner = {deviation}
    if nodes[i].op == "mul":  # by 1 / deviation
        one, deviation = nodes[deviation].args if nodes[deviation].op == "div" else (-1, deviation)
        if nodes[one].params != (("value", 1.0),):
            return None
    if nodes[deviation].op != "sqrt" or nodes[nodes[deviation].args[0]].op != "add":
        return None
    variance, eps = nodes[nodes[deviation].args[0]].args
    squares = _averaged(cell, variance)
    if nodes[eps].op != "const" or any(nodes[s].op != "mul" or len(set(nodes[s].args)) > 1 for s in squares):
        return None
    differences = [nodes[s].args[0] for s in squares]
    if centred not in differences or any(nodes[d].op != "sub" for d in differences):
        return None
    group, means = zip(*(nodes[d].args for d in differences), strict=True)
    if len(set(means)) > 1 or sorted(_averaged(cell, means[0])) != sorted(group):
        return None
    if named & {*inner, deviation, nodes[deviation].args[0], variance, *squares, *differences, means[0]}:
        return None
    return Normal(nodes[centred].args[0], Key(tuple(sorted(group)) if len(group) > 1 else (), nodes[eps].params[0][1]))


def _averaged(cell: Graph, i: int) -> list[int]:
    """The nodes of whose units node i is the mean, all together; none, if it is no mean."""
    nodes, count = cell.nodes, 1
    if nodes[i].op == "mul" and nodes[nodes[i].args[1]].op == "const":  # the mean of a sum, divided by its terms
        i, scale = nodes[i].args
        share = nodes[scale].params[0][1]
        count = round(1 / share) if 1e-9 < share <= 1 else 0
        if abs(count * share - 1) > 1e-12:
            return []
    if nodes[i].op != "mean":
        return []
    i, terms = nodes[i].args[0], list[int]()
    while len(terms) < count - 1 and nodes[i].op == "add":
        i, last = nodes[i].args
        terms.append(last)
    return [*terms, i] if len(terms) == count - 1 else []
