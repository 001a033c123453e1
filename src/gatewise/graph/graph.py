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
    sequence_mask m, step_mask m    `scale` with probability `keep`, else 0: drawn for each unit, once a
                                    sequence or at every step

A mask is random in training only: in evaluation a cell is its `expected` one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gatewise.graph.rules import (
    MASKS,
    CellError,
    check_cell,
    check_names,
    check_node,
    check_watched,
    infer_sizes,
    shared_nodes,
)

if TYPE_CHECKING:
    from gatewise.inspect.diagram import Diagram


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


@dataclass(frozen=True, eq=False)
class Graph:
    """A cell as a graph of values; what `@gatewise.cell` returns.

    name: the cell's name. gates, states, vectors: their names, in order.
    nodes: the values of one step, in an order in which they can be computed.
    outputs: pairs (label, node). Of a cell: each state's name and its new value, in the order of `states`.
    names: pairs (local variable, node), for those who watch; a state's name means its new value.
    watched: nodes whose values of every step a scan gives out besides the output, as `gatewise.record` asks.

    `print(cell)` shows its equations. `cell.text` is the canonical text and `Graph.parse` its inverse; graphs are
    equal, and have equal hashes, if their texts are (names of local variables included). Called inside another
    cell's equations, a cell inlines its own there.
    """

    name: str
    gates: tuple[str, ...]
    states: tuple[str, ...]
    vectors: tuple[str, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[tuple[str, int], ...]
    names: tuple[tuple[str, int], ...] = ()
    watched: tuple[int, ...] = ()
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
        check_watched(self)
        object.__setattr__(self, "text", self._text())  # at once, since TorchDynamo can't trace its making

    # By text: -0.0 is not 0.0 there, nan is nan, and a string remembers its hash, by which plans are looked up
    # in every call of a layer.
    def __eq__(self, other: object) -> bool:
        return self.text == other.text if isinstance(other, Graph) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)

    def __copy__(self) -> Graph:
        return self

    def __deepcopy__(self, memo: object) -> Graph:
        return self  # immutable

    # --- what a cell reads and makes -------------------------------------------------------------

    @property
    def is_cell(self) -> bool:
        """Whether it makes a new value of each state, as a cell does and a backward graph does not."""
        return tuple(label for label, _ in self.outputs) == self.states

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

    @cached_property
    def shared(self) -> frozenset[int]:
        """The nodes whose value all units of a sample share, and of which one number is kept; not what is given out."""
        return shared_nodes(self.nodes, whole=[*self.watched, *(i for _, i in self.outputs)])

    @cached_property
    def named(self) -> dict[str, int]:
        """The nodes that have a name: local variables, and states, which mean their new values."""
        return {**dict(self.names), **dict(self.outputs)}

    @cached_property
    def masks(self) -> tuple[int, ...]:
        """The nodes of the random masks, in the order in which a layer draws them."""
        return tuple(i for i, node in enumerate(self.nodes) if node.op in MASKS)

    @cached_property
    def expected(self) -> Graph:
        """The cell of evaluation: each random mask is replaced by its expectation, keep * scale."""
        from gatewise.graph.change import expected

        return expected(self) if self.masks else self

    def watching(self, nodes: Iterable[int]) -> Graph:
        """The cell with these nodes watched, each once."""
        return replace(self, watched=tuple(dict.fromkeys(nodes)))

    # --- equations ---------------------------------------------------------------------------------

    def equations(self) -> str:
        """The equations of a step in plain text, as a textbook writes them; what `print(cell)` shows.

            h_t = tanh(W_in x_t + b_in + W_hn h_{t-1} + b_hn)

        A line for each named local, in the order of the code; under them what needs to be said about the symbols.
        ⊙ is the product unit by unit, σ the logistic function. See `gatewise.inspect.equations`.
        """
        from gatewise.inspect import equations

        return equations.text(self)

    def latex(self) -> str:
        """The equations in LaTeX, as an `aligned` block for `$$…$$` or an `equation`; needs amsmath, nothing else."""
        from gatewise.inspect import equations

        return equations.latex(self)

    def _repr_latex_(self) -> str:
        return f"$${self.latex()}$$"

    def __str__(self) -> str:
        return self.equations() if self.is_cell else self.text

    # --- text ------------------------------------------------------------------------------------

    def _text(self) -> str:
        lines = [f"cell {self.name}"]
        for title in ("gates", "states", "vectors"):
            if words := getattr(self, title):
                lines.append(f"{title} {' '.join(words)}")
        lines += [f"%{i} = {node}" for i, node in enumerate(self.nodes)]
        lines += [f"name {name} %{i}" for name, i in self.names]
        lines += [f"new {label} %{i}" for label, i in self.outputs]
        lines += [f"watch %{i}" for i in self.watched]
        return "\n".join(lines) + "\n"

    def __repr__(self) -> str:
        return f"<cell {self.name}(x, {', '.join(self.states)}): gates {' '.join(self.gates)}>"

    @staticmethod
    def parse(text: str) -> Graph:
        """The cell whose canonical text this is: `Graph.parse(cell.text) == cell`.

        Nothing is executed, and every rule is checked, so the text may come from anywhere.
        Raises CellError, which names the line or the node that is not right.
        """
        from gatewise.graph.text import parse

        graph = parse(text)
        check_cell(graph)
        return graph

    def diagram(self, dark: bool = False) -> Diagram:
        """The cell as the block diagram of the textbooks, for notebooks, `.svg()` and `.save("cell.png")`.

        Args:
            dark: light lines on a dark background.

        Raises:
            MissingPackageError: matplotlib is not installed.
        """
        from gatewise.inspect.diagram import Diagram

        return Diagram(self, dark)

    def __reduce__(self) -> tuple[Callable[[str], Graph], tuple[str]]:
        from gatewise.graph.text import parse

        return parse, (self.text,)

    def __call__(self, x: Any, *states: Any, **vectors: Any) -> Any:
        """Inside another cell's equations: this cell's new states for these values, as if written there."""
        from gatewise.graph.trace import inline

        return inline(self, x, states, vectors)


def walk(graph: Graph, op: str) -> Iterator[tuple[int, Node]]:
    """The nodes of one op, with their indices."""
    return ((i, node) for i, node in enumerate(graph.nodes) if node.op == op)


def summed(cell: Graph, gate: str) -> int | None:
    """The node x.g + h.g, if nothing else is made of the two; of a gate with one of them alone, that one."""
    halves = {i for op in ("input", "project") for i, node in walk(cell, op) if node.key == gate}
    if len(halves) == 1:
        return halves.pop()
    readers = {j for j, node in enumerate(cell.nodes) if halves & set(node.args)}
    j = min(readers, default=-1)
    whole = len(readers) == 1 and cell.nodes[j].op == "add" and set(cell.nodes[j].args) == halves
    return j if whole and not halves & {i for _, i in cell.outputs} else None
