"""Graph and Node: a cell after tracing, immutable, validated, with one canonical text form.

A graph is a list of nodes in an order in which they can be computed; a node names an op and the
earlier nodes that it reads. Besides the element-wise ops of `ops.py` there are leaves and products:

    in a cell                                       in a backward graph, besides
    input r      x.r = W_ir x_t + b_ir              grad h     the gradient that reaches the new h
    state h      h_{t-1}                            grad %7    the gradient that node 7 of the cell got
    vector p     a learned vector of size (H,)      saved %7   the value of node 7 of the cell
    const        a number                           unproject  sum over gates of W_hg^T d_g
    project r    W_hr a + b_hr for any a            unoutput   W_hr^T d, of the output projection
    output       W_hr a, torch's output projection
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gatewise.graph.ops import OPS

LEAVES = ("input", "state", "vector", "const", "grad", "saved")
PRODUCTS = ("project", "output", "unproject", "unoutput")
BACKWARD_ONLY = ("grad", "saved", "unproject", "unoutput")
KEYED = ("input", "state", "vector", "grad", "saved", "project", "unproject")
OUTPUT_PROJECTION = "hr"  # torch's name for it: weight_hr


class CellError(ValueError):
    """A cell's equations, or the text of a graph, break a rule; the message says which, where, and the fix."""

    __module__ = "gatewise"  # where users find it, and so what a traceback should say


@dataclass(frozen=True, slots=True)
class Node:
    """One value of a step.

    op: a leaf, a product, or the name of a row of `ops.py`.
    args: the indices of the nodes that it reads, all smaller than its own.
    key: which gate, state, vector or node a leaf or product is about ("" for the rest).
    params: the op's numbers by name, such as (("min", -1.0), ("max", 1.0)) of clamp.
    """

    op: str
    args: tuple[int, ...] = ()
    key: str = ""
    params: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        words = [self.op, self.key, *(f"%{a}" for a in self.args), *(f"{k}={v!r}" for k, v in self.params)]
        return " ".join(word for word in words if word)


def closure(nodes: Sequence[Node], roots: Iterable[int]) -> list[int]:
    """The nodes that `roots` are computed from, themselves included, in order."""
    wanted = set(roots)
    for i in range(len(nodes) - 1, -1, -1):
        if i in wanted:
            wanted.update(nodes[i].args)
    return sorted(wanted)


@dataclass(frozen=True, eq=True)
class Graph:
    """A cell as a graph of values; what `@gatewise.cell` returns.

    name: the cell's name. gates, states, vectors: their names, in order.
    nodes: the values of one step, in an order in which they can be computed.
    outputs: pairs (label, node). Of a cell: each state's name and its new value, in the order of `states`.
    names: pairs (local variable, node), for those who watch; a state's name means its new value.

    Equal equations make equal graphs, with equal hashes. `str(graph)` is the canonical text and
    `Graph.parse` its inverse. Called inside another cell's equations, a cell inlines its own there.
    """

    name: str
    gates: tuple[str, ...]
    states: tuple[str, ...]
    vectors: tuple[str, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[tuple[str, int], ...]
    names: tuple[tuple[str, int], ...] = ()
    # The canonical text, derived from the above.
    text: str = field(init=False, compare=False, repr=False)
    # The function that was traced, for inspect.getsource and help; no part of the graph's identity.
    __wrapped__: Callable[..., Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_names(self)
        for i, node in enumerate(self.nodes):
            check_node(self, i, node)
        for label, i in (*self.outputs, *self.names):
            if not 0 <= i < len(self.nodes):
                raise CellError(f"{self.name}: {label} is node %{i}, expected one of the {len(self.nodes)} nodes")
        object.__setattr__(self, "text", self._text())  # at once, since TorchDynamo can't trace its making

    def __hash__(self) -> int:
        # Plans are looked up by graph in every call of a layer, and a string remembers its hash.
        return hash(self.text)

    # --- what a cell reads and makes -------------------------------------------------------------

    @cached_property
    def input_gates(self) -> tuple[str, ...]:
        """The gates that are read from x, in the order of `gates`: the row blocks of weight_ih."""
        return self._gates_of("input")

    @cached_property
    def hidden_gates(self) -> tuple[str, ...]:
        """The gates that are projected from states, in the order of `gates`: the row blocks of weight_hh."""
        return self._gates_of("project")

    def _gates_of(self, op: str) -> tuple[str, ...]:
        used = {node.key for node in self.nodes if node.op == op}
        return tuple(gate for gate in self.gates if gate in used)

    @cached_property
    def projects_output(self) -> bool:
        """Whether the cell has torch's output projection (`.hr`), and so two sizes, H and P."""
        return any(node.op == "output" for node in self.nodes)

    @cached_property
    def sizes(self) -> tuple[str, ...]:
        """Each node's size: "H" (hidden_size), "P" (proj_size), or "1" of a constant."""
        return infer_sizes(self)

    @cached_property
    def state_sizes(self) -> tuple[str, ...]:
        """Each state's size, "H" or "P", in the order of `states`."""
        return tuple(self.sizes[i] for _, i in self.outputs)

    # --- text ------------------------------------------------------------------------------------

    def __str__(self) -> str:
        return self.text

    def _text(self) -> str:
        lines = [f"cell {self.name}"]
        for title in ("gates", "states", "vectors"):
            if words := getattr(self, title):
                lines.append(f"{title} {' '.join(words)}")
        lines += [f"%{i} = {node}" for i, node in enumerate(self.nodes)]
        lines += [f"name {name} %{i}" for name, i in self.names]
        lines += [f"new {label} %{i}" for label, i in self.outputs]
        return "\n".join(lines) + "\n"

    def __repr__(self) -> str:
        return f"<cell {self.name}(x, {', '.join(self.states)}): gates {' '.join(self.gates)}>"

    @staticmethod
    def parse(text: str) -> Graph:
        """The cell whose canonical text this is: `Graph.parse(str(cell)) == cell`.

        Nothing is executed, and every rule is checked, so the text may come from anywhere.
        Raises CellError with the number of the first line that is not right.
        """
        graph = parse(text)
        check_cell(graph)
        return graph

    def __reduce__(self) -> tuple[Callable[[str], Graph], tuple[str]]:
        return parse, (str(self),)

    def __call__(self, x: Any, *states: Any, **vectors: Any) -> Any:
        """Inside another cell's equations: this cell's new states for these values, as if written there."""
        from gatewise.graph.trace import inline

        return inline(self, x, states, vectors)


# --- rules -----------------------------------------------------------------------------------------


def check_names(graph: Graph) -> None:
    """Raise CellError unless the names of gates, states and vectors are plain, different and free."""
    seen: dict[str, str] = {"x": "the input"}
    for title, words in (("gate", graph.gates), ("state", graph.states), ("vector", graph.vectors)):
        for word in words:
            if not word.isidentifier() or keyword.iskeyword(word) or word.startswith("_"):
                raise CellError(f"{graph.name}: {title} {word!r} is not a plain name; use letters and digits")
            if title == "gate" and word == OUTPUT_PROJECTION:
                raise CellError(f"{graph.name}: gate 'hr' would hide torch's output projection .hr; rename the gate")
            # A gate may share its letter with a state or a vector: they are written in different places.
            if title != "gate" and word in seen:
                raise CellError(f"{graph.name}: {word!r} is {seen[word]} and a {title} as well; rename one")
            if title != "gate":
                seen[word] = f"a {title}"
        if len(set(words)) < len(words):
            raise CellError(f"{graph.name}: a {title} is named twice in {' '.join(words)!r}")


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
        allowed: tuple[str, ...] = ("value",) if node.op == "const" else ()
        if node.op == "const" and given != ["value"]:
            raise fault("a constant has one value")
    elif node.op in OPS:
        arity, allowed = OPS[node.op].arity, tuple(OPS[node.op].params)
    else:
        raise fault(f"unknown op {node.op!r}, expected one of: {' '.join(OPS)}")
    if len(node.args) != arity:
        raise fault(f"reads {len(node.args)} values, expected {arity}")
    if unknown := set(given) - set(allowed):
        raise fault(f"unknown parameter {min(unknown)!r}")
    if node.op in OPS:
        for k, a in enumerate(node.args):
            wanted = k in OPS[node.op].conditions
            if graph.nodes[a].op in OPS and OPS[graph.nodes[a].op].boolean != wanted:
                raise fault(f"value {k + 1} must {'' if wanted else 'not '}be a comparison")
            if wanted and graph.nodes[a].op not in OPS:
                raise fault(f"value {k + 1} must be a comparison")


def check_cell(graph: Graph) -> None:
    """Raise CellError unless the graph is a cell: states in, new states out, every gate used, sizes that fit."""
    if tuple(label for label, _ in graph.outputs) != graph.states or not graph.states:
        made = " ".join(label for label, _ in graph.outputs) or "nothing"
        raise CellError(f"{graph.name}: makes {made}, expected new values of: {' '.join(graph.states) or 'a state'}")
    for node in graph.nodes:
        if node.op in BACKWARD_ONLY:
            raise CellError(f"{graph.name}: {node.op!r} belongs to a backward graph, not to a cell")
    for gate in graph.gates:
        if gate not in graph.input_gates and gate not in graph.hidden_gates:
            raise CellError(f"{graph.name}: gate {gate!r} is never used; read x.{gate} or project h.{gate}, or drop it")
    for vector in set(graph.vectors) - {node.key for _, node in walk(graph, "vector")}:
        raise CellError(f"{graph.name}: the learned vector {vector!r} is never used; use it or drop the argument")
    if not graph.input_gates:
        raise CellError(f"{graph.name}: reads nothing from x; read a gate of it, such as x.{(*graph.gates, 'n')[0]}")
    for state, i in graph.outputs:
        if graph.nodes[i].op == "const" or graph.sizes[i] == "1":
            raise CellError(f"{graph.name}: the new {state} is a constant, expected a value of the step")
        if graph.nodes[i].op in OPS and OPS[graph.nodes[i].op].boolean:
            raise CellError(f"{graph.name}: the new {state} is a comparison; write torch.where(condition, a, b)")
    # What layers read of a cell is made now: TorchDynamo can't trace the first use of a cached_property.
    _ = graph.input_gates, graph.hidden_gates, graph.projects_output, graph.state_sizes


def infer_sizes(graph: Graph) -> tuple[str, ...]:
    """Each node's size, "H", "P" or "1" (constant); raises CellError where H and P meet.

    Without `.hr` there is one size, H. With it, `.hr` takes H and makes P, gates are H, what is
    projected onto a gate is P (weight_hh is (G*H, P)), vectors are H, and a state is as large as its
    new value, so the sizes are unified rather than computed in order.
    """
    constant = [False] * len(graph.nodes)
    for i, node in enumerate(graph.nodes):
        constant[i] = node.op == "const" or (node.op in OPS and all(constant[a] for a in node.args))
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


class SizeError(CellError):
    """H and P meet in a node; `node` is its index, from which the tracer finds the cell's line."""

    def __init__(self, message: str, node: int) -> None:
        super().__init__(message)
        self.node = node


# --- the text's parser -----------------------------------------------------------------------------


def parse(text: str) -> Graph:
    """The graph of a canonical text, a cell's or a backward graph's."""
    lines = iter(enumerate((line.split() for line in text.splitlines()), start=1))
    fields: dict[str, Any] = {"gates": (), "states": (), "vectors": ()}
    nodes: list[Node] = []
    marks: dict[str, list[tuple[str, int]]] = {"name": [], "new": []}
    try:
        for number, words in lines:  # noqa: B007 -- the error below names it
            _parse_line(words, fields, nodes, marks)
    except (ValueError, IndexError) as error:
        why = f": {error}" if isinstance(error, CellError) else ""
        raise CellError(f"line {number}: {' '.join(words)!r} is no line of a graph's text{why}") from error
    if "name" not in fields:
        raise CellError("the text of a graph begins with 'cell NAME'; this one does not")
    return Graph(nodes=tuple(nodes), outputs=tuple(marks["new"]), names=tuple(marks["name"]), **fields)


def _parse_line(
    words: list[str], fields: dict[str, Any], nodes: list[Node], marks: dict[str, list[tuple[str, int]]]
) -> None:
    match words:
        case []:
            pass
        case ["cell", name]:
            fields["name"] = name
        case ["gates" | "states" | "vectors" as title, *names]:
            fields[title] = tuple(names)
        case ["name" | "new" as title, *label, node]:
            marks[title].append((" ".join(label), _index(node)))
        case [node, "=", op, *rest]:
            if _index(node) != len(nodes):
                raise CellError(f"expected %{len(nodes)}")
            nodes.append(_parse_node(op, rest))
        case _:
            raise CellError("expected 'cell', 'gates', 'states', 'vectors', '%N = …', 'name' or 'new'")


def _parse_node(op: str, words: list[str]) -> Node:
    if op == "saved" or (op == "grad" and words[0].startswith("%")):  # their key is a node of the cell
        return Node(op, (), words[0])
    keys = [word for word in words if "=" not in word and not word.startswith("%")]
    args = tuple(_index(word) for word in words if word.startswith("%"))
    pairs = (word.split("=") for word in words if "=" in word)
    return Node(op, args, " ".join(keys), tuple((name, float(value)) for name, value in pairs))


def _index(word: str) -> int:
    if not word.startswith("%") or not word[1:].isdecimal():
        raise CellError(f"{word!r} is no node, expected % and a number")
    return int(word[1:])


def walk(graph: Graph, op: str) -> Iterator[tuple[int, Node]]:
    """The nodes of one op, with their indices."""
    return ((i, node) for i, node in enumerate(graph.nodes) if node.op == op)
