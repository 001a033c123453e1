"""Graph -> blocks: what of a cell is drawn as one shape, and which shapes a line joins.

    gate     a learned layer: σ, tanh … of weighted x_t and states, with the bias; or the product W alone
    circle   ⊙, +, 1−
    box      any other op, with its numbers
    join     lines that run together, for several gates that weight the same values
    source   x_t, a state's old value, a learned vector or mask that is no part of another label
    result   a state's new value

A gate's inputs are weighted and summed; one that is marked + is added as it is. A projection of what the step has
made, `(r * h).n`, has a box W of its own; of the old state alone it is the gate's. Numbers, and vectors and masks
that meet a value, stand in the label of their op. A normalisation, (a - mean a) / √(var a + ε), is one box, found
by this structure; of values that are normalised together the line out of it has them all, and each gate takes its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gatewise.graph.graph import Graph, Node
from gatewise.graph.rules import MASKS
from gatewise.inspect.diagram.labels import binary, function, number, ordered, subscripted, symbol
from gatewise.inspect.diagram.norms import Norm, find_norms

# Functions of one value that a gate's sum may go into, and so be drawn as one box with it.
FUNCTIONS = (
    "sigmoid", "tanh", "relu", "exp", "log", "sqrt", "abs", "softplus", "elu", "leaky_relu", "softsign",
    "hardsigmoid", "clamp",
)  # fmt: skip


@dataclass(frozen=True)
class Wire:
    """A line's end at a block: the block it comes from, and what is written there (+, −, ÷, if, else …)."""

    source: int
    mark: str = ""


@dataclass(frozen=True)
class Block:
    """One shape. covers: the graph's nodes that it stands for. name: of its value, written beside it."""

    kind: str
    label: str
    inputs: tuple[Wire, ...] = ()
    covers: tuple[int, ...] = ()
    name: str = ""
    state: str = ""


def blocks_of(graph: Graph) -> tuple[Block, ...]:
    """The blocks of a cell, each after those that it reads; together they cover every node."""
    return _Blocks(graph).made()


class _Blocks:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.nodes = graph, graph.nodes
        self.blocks: list[Block] = []
        self.of_node: dict[int, int] = {}
        self.shared: dict[tuple[object, ...], int] = {}  # x, joins and norms, made once
        self.readers = [0] * len(self.nodes)
        for node in self.nodes:
            for a in node.args:
                self.readers[a] += 1
        for _, i in graph.outputs:
            self.readers[i] += 1
        made = {i for _, i in graph.outputs}
        self.names = {i: name for name, i in reversed(graph.names) if i not in made and name not in graph.states}
        self.norms: dict[int, Norm] = {i: norm for norm in find_norms(graph) for i in norm.results}
        self.new = self._depends_on_input()

    def made(self) -> tuple[Block, ...]:
        graph = self.graph
        for i, node in enumerate(self.nodes):  # sources first, in the order of the states
            if node.op == "state":
                self.of_node[i] = self._add(Block("source", subscripted(node.key, "t-1"), (), (i,), "", node.key))
        gathered = self._join_counts()
        self.joined = {key for key, count in gathered.items() if count > 1}
        roots = [i for _, i in graph.outputs] + [i for _, i in graph.names]
        results = []
        for root in roots:
            self.value(root)
        for state, i in graph.outputs:
            block = Block("result", subscripted(state, "t"), (Wire(self.value(i)),), (), "", state)
            results.append(self._add(block))
        return tuple(self.blocks)

    def _add(self, block: Block) -> int:
        self.blocks.append(block)
        return len(self.blocks) - 1

    def _depends_on_input(self) -> list[bool]:
        new: list[bool] = []
        for node in self.nodes:
            new.append(node.op == "input" or any(new[a] for a in node.args))
        return new

    def _private(self, i: int) -> bool:
        """Whether one node alone reads this one, and nobody watches it."""
        return self.readers[i] == 1 and i not in self.names

    # --- labels of numbers, vectors and masks ---------------------------------------------------------

    def leaf(self, i: int) -> str:
        """What a node is called in the label of an op that reads it; "" if it is to be drawn."""
        node = self.nodes[i]
        if node.op == "const":
            return number(dict(node.params)["value"])
        if node.op in ("vector", *MASKS):
            return symbol(node.key)
        if node.op == "sub" and self.nodes[node.args[0]].op == "const" and i not in self.names:
            inner = self.nodes[node.args[1]]
            if inner.op in ("vector", *MASKS):
                return f"({self.leaf(node.args[0])} - {symbol(inner.key)})"
        return ""

    def _leaf_nodes(self, i: int) -> tuple[int, ...]:
        return (i, *self.nodes[i].args)

    # --- gates -----------------------------------------------------------------------------------------

    def _terms(self, i: int) -> tuple[list[int], list[int]]:
        """The terms of a sum, flattened, and the nodes + between them."""
        node = self.nodes[i]
        if node.op != "add" or any(self.leaf(a) for a in node.args) or i in self.norms:
            return [i], []
        terms, sums = [], [i]
        for a in node.args:
            if self._private(a):
                inner, between = self._terms(a)
                terms += inner
                sums += between
            else:
                terms.append(a)
        return terms, sums

    def _weighted(self, i: int, alone: bool = False) -> bool:
        """Whether a term of a gate's sum is a product with weights that the gate itself stands for."""
        node = self.nodes[i]
        if i in self.norms:
            return bool(self.norms[i].weighted)
        if not (alone or self._private(i)):
            return False
        return node.op == "input" or (node.op == "project" and not self.new[node.args[0]])

    def _origin(self, i: int) -> object:
        """What a weighted term weights, before any block is made."""
        node = self.nodes[i]
        return self.norms[i] if i in self.norms else "x" if node.op == "input" else node.args[0]

    def _origin_block(self, origin: object) -> int:
        if isinstance(origin, Norm):
            return self.norm(origin)
        return self.value(origin) if isinstance(origin, int) else self._x()

    def _x(self) -> int:
        if ("x",) not in self.shared:
            self.shared["x",] = self._add(Block("source", "$x_t$", (), (), "", "x"))
        return self.shared["x",]

    def _gate_of(self, i: int) -> tuple[list[int], list[int], list[int]] | None:
        """(weighted terms, other terms, nodes + between) if node i's value is a gate's sum."""
        if not (self.nodes[i].op == "add" or self._weighted(i)):
            return None
        terms, sums = self._terms(i)
        weighted = [t for t in terms if self._weighted(t)]
        return (weighted, [t for t in terms if t not in weighted], sums) if weighted else None

    def _key(self, weighted: Sequence[int]) -> tuple[object, ...]:
        return tuple(sorted({self._origin(t) for t in weighted}, key=lambda o: (o == "x", str(o))))

    def _join_counts(self) -> dict[tuple[object, ...], int]:
        """How many gates weight the same values."""
        counts: dict[tuple[object, ...], int] = {}
        inside: set[int] = set()
        for i in reversed(range(len(self.nodes))):
            found = self._gate_of(i) if i not in inside and i not in self.norms else None
            if found and self.nodes[i].op == "add":
                inside.update(found[2])
                key = self._key(found[0])
                counts[key] = counts.get(key, 0) + 1
        return counts

    def _gather(self, weighted: Sequence[int], room: int) -> list[Wire]:
        """The lines that bring the weighted values: joined into one where several gates share them."""
        key = self._key(weighted)
        sources = [self._origin_block(origin) for origin in key]
        if len(sources) > 1 and (key in self.joined or len(sources) > room):
            if key not in self.shared:
                joined = sources[0]
                for k in range(1, len(sources)):
                    joined = self._add(Block("join", "", (Wire(joined), Wire(sources[k]))))
                self.shared[key] = joined
            sources = [self.shared[key]]
        return [Wire(source) for source in sources]

    def _gate(self, label: str, found: tuple[list[int], list[int], list[int]], covers: Sequence[int]) -> Block:
        weighted, others, sums = found
        added = [Wire(self.value(t), "+") for t in others]
        while len(added) > 2:  # a box has four sides
            added[:2] = [Wire(self._add(Block("circle", "+", (Wire(added[0].source), Wire(added[1].source)))), "+")]
        inputs = (*self._gather(weighted, 3 - len(added)), *added)
        own = [t for t in weighted if t not in self.norms]
        return Block("gate", label, inputs, (*covers, *sums, *own))

    # --- any node ----------------------------------------------------------------------------------------

    def value(self, i: int) -> int:
        """The block that makes the value of node i."""
        if i not in self.of_node:
            if i in self.norms:
                self.of_node[i] = self.norm(self.norms[i])
            else:
                block = self._block(i, self.nodes[i])
                name = subscripted(self.names[i], "t") if i in self.names else ""
                covers = tuple(dict.fromkeys(block.covers))
                self.of_node[i] = self._add(Block(block.kind, block.label, block.inputs, covers, name))
        return self.of_node[i]

    def _block(self, i: int, node: Node) -> Block:
        if node.op in ("vector", *MASKS):
            return Block("source", f"${symbol(node.key)}$", (), (i,))
        if node.op == "const":
            return Block("source", f"${self.leaf(i)}$", (), (i,))
        if node.op == "output":
            return Block("gate", "$W_{hr}$", (Wire(self.value(node.args[0])),), (i,))
        if node.op == "input":
            return Block("gate", f"$W_{{i{node.key}}}$", (Wire(self._x()),), (i,))
        if node.op == "project":
            return Block("gate", f"$W_{{h{node.key}}}$", (Wire(self.value(node.args[0])),), (i,))
        if found := self._gate_of(i):
            keys = {self.nodes[t].key for t in found[0] if t not in self.norms}
            return self._gate(f"$W_{{{keys.pop()}}}$" if len(keys) == 1 else "$W$" if keys else "$+$", found, [])
        if block := self._function(i, node):
            return block
        return self._op(i, node)

    def _function(self, i: int, node: Node) -> Block | None:
        """σ and the like, with a minus before or after it, and with the gate's sum that it reads."""
        covers, before, after = [i], "", ""
        if node.op == "neg" and self.nodes[node.args[0]].op in FUNCTIONS and self._private(node.args[0]):
            after, i = "-", node.args[0]
            node = self.nodes[i]
            covers.append(i)
        if node.op not in FUNCTIONS:
            return None
        (a,) = node.args
        if self.nodes[a].op == "neg" and self._private(a):
            covers.append(a)
            before, a = "-", self.nodes[a].args[0]
        label = after + function(node, before)
        found = self._gate_of(a) if self._private(a) or a in self.norms else None
        if found:
            return self._gate(f"${label}$", found, covers)
        return Block("box", f"${label}$", (Wire(self.value(a)),), tuple(covers))

    def _op(self, i: int, node: Node) -> Block:
        if len(node.args) == 2 and node.args[0] == node.args[1] and node.op in ("mul", "add"):
            label = "$(\\cdot)^2$" if node.op == "mul" else "$\\times\\,2$"
            return Block("box", label, (Wire(self.value(node.args[0])),), (i,))
        leaves = [self.leaf(a) for a in node.args]
        if len(node.args) > 1 and all(leaves):  # of vectors and masks alone
            leaves = [leaf if self.nodes[a].op == "const" else "" for a, leaf in zip(node.args, leaves, strict=True)]
        covers = [i] + [n for a, leaf in zip(node.args, leaves, strict=True) if leaf for n in self._leaf_nodes(a)]
        drawn = [a for a, leaf in zip(node.args, leaves, strict=True) if not leaf]
        if len(node.args) == 1:
            kind, label = ("circle", "$-$") if node.op == "neg" else ("box", f"${function(node)}$")
            return Block(kind, label, (Wire(self.value(node.args[0])),), (i,))
        if len(node.args) == 2 and len(drawn) == 1:
            label = binary(node.op, *leaves)
            kind = "circle" if label == "1{-}" else "box"
            return Block(kind, f"${label}$", (Wire(self.value(drawn[0])),), tuple(covers))
        kind, label, marks = ordered(node.op, leaves)
        wires = [Wire(self.value(a), mark) for a, mark, leaf in zip(node.args, marks, leaves, strict=True) if not leaf]
        return Block(kind, label, tuple(wires), tuple(covers))

    def norm(self, norm: Norm) -> int:
        """The block of a normalisation, with the gains and biases after it and the weights before it."""
        if ("norm", norm) not in self.shared:
            if norm.weighted:
                origins = self._key_of_inputs(norm.inputs)
                inputs = tuple(Wire(self._origin_block(origin)) for origin in origins)
                covers = (*norm.covers, *norm.inputs)
            else:
                inputs = tuple(Wire(block) for block in dict.fromkeys(self.value(i) for i in norm.inputs))
                covers = norm.covers
            block = Block("gate", norm.label, inputs, covers)
            self.shared["norm", norm] = self._add(block)
        return self.shared["norm", norm]

    def _key_of_inputs(self, inputs: Sequence[int]) -> list[object]:
        return list(dict.fromkeys("x" if self.nodes[i].op == "input" else self.nodes[i].args[0] for i in inputs))
