"""What a graph must be: the rules of names, nodes and cells, and the sizes of values."""

from __future__ import annotations

import itertools
import keyword
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from gatewise.graph.ops import OPS

if TYPE_CHECKING:
    from gatewise.graph.graph import Graph, Node

MASKS = ("sequence_mask", "step_mask")
LEAVES = ("input", "state", "vector", "const", "grad", "saved", *MASKS)
PRODUCTS = ("project", "output", "unproject", "unoutput")
BACKWARD_ONLY = ("grad", "saved", "unproject", "unoutput")
KEYED = ("input", "state", "vector", "grad", "saved", "project", "unproject", *MASKS)
# The numbers that go with a leaf: those it must have, and those it may have.
LEAF_NUMBERS = {"const": ("value",), **dict.fromkeys(MASKS, ("keep", "scale"))}
LEAF_OPTIONS = {"vector": ("initial",)}
OUTPUT_PROJECTION = "hr"  # torch's name for it: weight_hr
PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")  # of every layer


class CellError(ValueError):
    """A cell's equations, or the text of a graph, break a rule; the message says which, where, and the fix."""

    __module__ = "gatewise"  # where users find it, and so what a traceback should say


class SizeError(CellError):
    """H and P meet in a node; `node` is its index, from which the tracer finds the cell's line."""

    def __init__(self, message: str, node: int) -> None:
        super().__init__(message)
        self.node = node


def is_plain(word: str) -> bool:
    """Whether a word is a Python name that reads as it is written (identifiers may hold invisible letters)."""
    return word.isidentifier() and word.isprintable() and not keyword.iskeyword(word)


def fresh_names(name: str) -> Iterator[str]:
    """The name, name_2, name_3 …"""
    yield name
    for k in itertools.count(2):
        yield f"{name}_{k}"


def check_names(graph: Graph) -> None:
    """Raise CellError unless the names of gates, states and vectors are plain, different and free."""
    if graph.name.split() != [graph.name]:
        raise CellError(f"a cell is named {graph.name!r}, expected a name without spaces")
    seen: dict[str, str] = {"x": "the input"}
    for title, words in (("gate", graph.gates), ("state", graph.states), ("vector", graph.vectors)):
        for word in words:
            if not is_plain(word) or word.startswith("_"):
                raise CellError(f"{graph.name}: {title} {word!r} is not a plain name; use letters and digits")
            if title == "vector" and word in PARAMETERS:
                raise CellError(f"{graph.name}: a layer has a parameter {word!r} already; rename the vector")
            if title == "gate" and word == OUTPUT_PROJECTION:
                raise CellError(f"{graph.name}: gate 'hr' would hide torch's output projection .hr; rename the gate")
            # A gate may share its letter with a state or a vector: they are written in different places.
            if title != "gate" and word in seen:
                raise CellError(f"{graph.name}: {word!r} is {seen[word]} and a {title} as well; rename one")
            if title != "gate":
                seen[word] = f"a {title}"
        if len(set(words)) < len(words):
            raise CellError(f"{graph.name}: a {title} is named twice in {' '.join(words)!r}")
    labels = [name for name, _ in graph.names]
    if len(set(labels)) < len(labels) or not all(map(is_plain, labels)):
        raise CellError(f"{graph.name}: names of values must be plain and different, got {' '.join(labels)!r}")


def check_node(graph: Graph, i: int, node: Node) -> None:
    """Raise CellError unless the node is well-formed at this place of the graph."""

    def fault(what: str) -> CellError:
        return CellError(f"{graph.name}: node %{i} = {node}: {what}")

    if any(not 0 <= a < i for a in node.args):
        raise fault("a node reads earlier nodes only")
    if (node.op in KEYED) != bool(node.key):
        raise fault("a name is missing" if node.op in KEYED else "it takes no name")
    known = {"input": graph.gates, "project": graph.gates, "state": graph.states, "vector": graph.vectors}
    if node.op in known and node.key not in known[node.op]:
        raise fault(f"unknown {node.key!r}, expected one of: {' '.join(known[node.op])}")
    given = [name for name, _ in node.params]
    if node.op in LEAVES or node.op in PRODUCTS:
        arity = {"project": 1, "output": 1, "unoutput": 1, "unproject": len(node.key.split())}.get(node.op, 0)
        required = LEAF_NUMBERS.get(node.op, ())
        allowed: tuple[str, ...] = (*required, *LEAF_OPTIONS.get(node.op, ()))
    elif node.op in OPS:
        row = OPS[node.op]
        arity, allowed = row.arity, tuple(row.params)
        required = tuple(name for name, default in row.params.items() if default is not None)
    else:
        raise fault(f"unknown op {node.op!r}, expected one of: {' '.join(OPS)}")
    if len(node.args) != arity:
        raise fault(f"reads {len(node.args)} values, expected {arity}")
    if unknown := set(given) - set(allowed):
        raise fault(f"unknown parameter {min(unknown)!r}")
    if len(set(given)) < len(given):
        raise fault("a parameter is given twice")
    if missing := set(required) - set(given):
        raise fault(f"the parameter {min(missing)!r} is missing")
    if node.op in MASKS and not (0 <= dict(node.params)["keep"] <= 1 and is_plain(node.key)):
        raise fault("a mask has a plain name and a probability, keep, in [0, 1]")
    conditions: tuple[int, ...] = ()
    if node.op in OPS:
        conditions = OPS[node.op].conditions
        if OPS[node.op].params and not given:
            raise fault(f"needs one of: {' '.join(OPS[node.op].params)}")
    if node.args and all(graph.nodes[a].op == "const" for a in node.args):
        raise fault("reads numbers only; write the number that it makes")
    for k, a in enumerate(node.args):
        if is_comparison(graph.nodes[a]) != (k in conditions):
            raise fault(f"value {k + 1} must {'' if k in conditions else 'not '}be a comparison")


def shared_nodes(nodes: Sequence[Node], saved: Collection[int] = (), whole: Collection[int] = ()) -> frozenset[int]:
    """The nodes whose value all units of a sample share: means, what is made of these and numbers alone, and, in a
    backward graph, the saved ones of these nodes; without those of which each unit's is wanted, `whole`."""
    shared: set[int] = set()
    for i, node in enumerate(nodes):
        given = [a for a in node.args if nodes[a].op != "const"]
        # A clip_grad has the gradient of each unit to clip.
        made = node.op in OPS and node.op != "clip_grad" and bool(given) and all(a in shared for a in given)
        if i not in whole and (node.op == "mean" or made or (node.op == "saved" and int(node.key[1:]) in saved)):
            shared.add(i)
    return frozenset(shared)


def is_comparison(node: Node) -> bool:
    """Whether the node's values are truths, not numbers."""
    return node.op in OPS and OPS[node.op].boolean


def check_watched(graph: Graph) -> None:
    """Raise CellError unless what is watched is there, once, and is not the layer's output, which all see."""
    for k, i in enumerate(graph.watched):
        if not 0 <= i < len(graph.nodes) or graph.nodes[i].op == "const":
            raise CellError(f"{graph.name}: watches %{i}, expected one of the {len(graph.nodes)} nodes, no constant")
        if i == graph.outputs[0][1] or i in graph.watched[:k]:
            raise CellError(f"{graph.name}: watches %{i}, which is given out already; drop it")


def check_cell(graph: Graph) -> None:
    """Raise CellError unless the graph is a cell: states in, new states out, every gate used, sizes that fit."""
    if not graph.is_cell or not graph.states:
        made = " ".join(label for label, _ in graph.outputs) or "nothing"
        raise CellError(f"{graph.name}: makes {made}, expected new values of: {' '.join(graph.states) or 'a state'}")
    for node in graph.nodes:
        if node.op in BACKWARD_ONLY:
            raise CellError(f"{graph.name}: {node.op!r} belongs to a backward graph, not to a cell")
    for gate in graph.gates:
        if gate not in graph.input_gates and gate not in graph.hidden_gates:
            raise CellError(f"{graph.name}: gate {gate!r} is never used; read x.{gate} or project h.{gate}, or drop it")
    for vector in set(graph.vectors) - {node.key for node in graph.nodes if node.op == "vector"}:
        raise CellError(f"{graph.name}: the learned vector {vector!r} is never used; use it or drop the argument")
    for title, ops in (("vector", ("vector",)), ("mask", MASKS)):
        keys = [node.key for node in graph.nodes if node.op in ops]
        if len(set(keys)) < len(keys):
            raise CellError(f"{graph.name}: a {title} stands there twice with different numbers: {' '.join(keys)}")
    if not graph.input_gates:
        raise CellError(f"{graph.name}: reads nothing from x; read a gate of it, such as x.{(*graph.gates, 'n')[0]}")
    for state, i in graph.outputs:
        if graph.nodes[i].op == "const":
            raise CellError(f"{graph.name}: the new {state} is a constant, expected a value of the step")
        if is_comparison(graph.nodes[i]):
            raise CellError(f"{graph.name}: the new {state} is a comparison; write torch.where(condition, a, b)")
    if graph.projects_output and graph.state_sizes[0] != "P":
        raise CellError(f"{graph.name}: .hr makes the layer's output; return what it made as the first state")
    # What layers read of a cell is made now: TorchDynamo can't trace the first use of a cached_property.
    _ = graph.input_gates, graph.hidden_gates, graph.projects_output, graph.state_sizes, graph.masks, graph.expected
    _ = graph.shared


def infer_sizes(graph: Graph) -> tuple[str, ...]:
    """Each node's size, "H", "P" or "1" (constant); raises CellError where H and P meet.

    Without `.hr` there is one size, H. With it, `.hr` takes H and makes P, gates are H, what is
    projected onto a gate is P (weight_hh is (G*H, P)), vectors are H, and a state is as large as its
    new value, so the sizes are unified rather than computed in order.
    """
    constant = [node.op == "const" for node in graph.nodes]
    if not graph.projects_output:
        return tuple("1" if c else "H" for c in constant)

    parent: dict[object, object] = {}

    def find(a: object) -> object:
        while a in parent:
            a = parent[a]
        return a

    def same(i: int, a: object, b: object) -> None:
        a, b = find(a), find(b)
        if {a, b} == {"H", "P"}:
            raise SizeError(
                f"{graph.name}: values of size H (hidden_size) and P (proj_size, made by .hr) meet in "
                f"{graph.nodes[i].op}; expected one size, project only states and use .hr on the output alone",
                i,
            )
        if a != b:  # a size is never given a parent, so that it stays the root
            if a in ("H", "P"):
                a, b = b, a
            parent[a] = b

    for i, node in enumerate(graph.nodes):
        if constant[i]:
            continue
        if node.op in ("input", "vector", "project"):
            same(i, i, "H")
        if node.op == "project":
            same(i, node.args[0], "P")
        elif node.op == "output":
            same(i, node.args[0], "H")
            same(i, i, "P")
        elif node.op == "state":
            same(i, i, ("state", node.key))
        elif node.op in OPS:
            for a in node.args:
                if not constant[a]:
                    same(i, i, a)
    for state, i in graph.outputs:
        same(i, i, ("state", state))
    return tuple("1" if constant[i] else "P" if find(i) == "P" else "H" for i in range(len(graph.nodes)))
