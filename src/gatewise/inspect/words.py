"""What the values of a cell do, in words, found in its graph: what a gate lets through, and what it shuts out."""

from __future__ import annotations

from dataclasses import dataclass

from gatewise import cells
from gatewise.graph.graph import Graph

# What people call the gates of the built-in cells, and of what is made from them.
TITLES = {
    "r": "reset gate", "z": "update gate", "n": "candidate", "i": "input gate", "f": "forget gate", "g": "candidate",
    "o": "output gate", "c": "cell state", "h": "state",
}  # fmt: skip
REST = "what it multiplies"
GATES = ("sigmoid", "hardsigmoid")
KINDS = {**dict.fromkeys(GATES, "gate"), **dict.fromkeys(("relu", "exp", "softplus", "abs", "sqrt"), "positive")}


@dataclass(frozen=True)
class Words:
    """What is said about one named value.

    kind: "gate" from 0 to 1, "signed", "positive". title: what people call it, or "".
    opens, shuts: what it multiplies, and what 1 minus it does. about: a sentence.
    """

    kind: str
    title: str
    opens: str
    shuts: str
    about: str


def describe(cell: Graph) -> dict[str, Words]:
    """What each named value of a cell does, its states included, by name in the order of the code."""
    named = cell.named
    known = [graph for graph in vars(cells).values() if isinstance(graph, Graph)]
    built_in = any((graph.gates, graph.states) == (cell.gates, cell.states) for graph in known)  # or a change of one
    return {name: _describe(cell, name, i, built_in) for name, i in named.items()}


def _describe(cell: Graph, name: str, i: int, built_in: bool) -> Words:
    kind = KINDS.get(cell.nodes[i].op, "signed")
    title = TITLES.get(name, "") if built_in or name in cell.states else ""
    if kind != "gate" or name in cell.states:
        return Words(kind, title, "", "", _about_value(cell, name, title))
    opens: list[str] = []
    shuts: list[str] = []
    for factor, other in _factors(cell, i):
        what = _name(cell, other)
        (opens if factor == i else shuts).append(what)
    opens, shuts = list(dict.fromkeys(opens)), list(dict.fromkeys(shuts))
    if len(opens) > 1 or len(shuts) > 1:
        factors = [what for what in dict.fromkeys([*opens, *shuts]) if what != REST]
        return Words(kind, title, "", "", f"A factor of {', of '.join(factors) or 'several sums'}.")
    kept, lost = "".join(opens), "".join(shuts)
    if kept and lost:
        about = f"1 takes {kept}, 0 takes {lost}; between them it mixes."
    elif kept:
        about = f"1 lets through {kept}; 0 shuts it out."
    elif lost:
        about = f"0 lets through {lost}; 1 shuts it out."
    else:
        about = "Between 0 and 1."
    return Words(kind, title, kept, lost, about)


def _about_value(cell: Graph, name: str, title: str) -> str:
    if name == cell.states[0]:
        return "What the unit gives out, and knows at the next step."
    if name in cell.states:
        return "What the unit keeps for the next step, and for itself."
    bounded = any(i for n, i in cell.names if n == name and cell.nodes[i].op in ("tanh", "softsign"))
    what = "What the unit would take in" if title == "candidate" else "A value on the way"
    return f"{what}, from −1 to 1." if bounded else f"{what}."


def _factors(cell: Graph, gate: int) -> list[tuple[int, int]]:
    """The products that the gate, or 1 minus it, is a factor of: pairs of that factor and the other one."""
    turned = {
        i for i, node in enumerate(cell.nodes)
        if node.op == "sub" and node.args[1] == gate and cell.nodes[node.args[0]].op == "const"
        and dict(cell.nodes[node.args[0]].params)["value"] == 1.0
    }  # fmt: skip
    pairs = []
    for node in cell.nodes:
        if node.op == "mul":
            for factor, other in (node.args, node.args[::-1]):
                if factor == gate or factor in turned:
                    pairs.append((factor, other))
    return pairs


def _name(cell: Graph, i: int) -> str:
    """A node in a few words."""
    node = cell.nodes[i]
    for name, j in (*cell.outputs, *cell.names):
        if i == j:
            return f"the {TITLES[name]} {name}" if TITLES.get(name) == "candidate" else name
    if node.op == "state":
        return f"the old {node.key}"
    if node.op == "clip_grad":  # the value itself
        return _name(cell, node.args[0])
    if node.op in ("project", "output"):
        return "what all units said before"
    if node.op == "input":
        return "the input"
    inner = _name(cell, node.args[0]) if len(node.args) == 1 else REST
    return REST if inner == REST else f"{node.op}({inner})"
