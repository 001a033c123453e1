"""A graph -> the program that the C++ kernels run (csrc/program.h says what it consists of).

A step is cut into stages where a value is needed whole: before a product with the weights, and between products,
whose tiles have some of the units, and means over the units, whose tiles have all. All else in a stage is
element-wise, and becomes a tape of instructions whose operands are arrays, where they lie, and slots: tiles of some
rows x units in the nearest cache, given out like registers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from gatewise.graph.graph import Graph, Node, closure
from gatewise.graph.rules import LEAVES, MASKS, shared_nodes
from gatewise.scan.plan import BackwardPlan, backward_plan

OPERATIONS = (
    "COPY", "SPREAD", "MEAN", "MEAN_OF_PRODUCT", "MULTIPLY_ADD", "TOTAL", "TOTAL_OF_PRODUCT",
    "add", "sub", "mul", "div", "neg", "pow", "sigmoid", "tanh", "relu", "exp", "log", "sqrt",
    "abs", "softplus", "elu", "leaky_relu", "softsign", "hardsigmoid", "clamp", "minimum", "maximum", "where", "lt",
    "le", "gt", "ge",
)  # fmt: skip
# In the order of csrc/program.h.
CODES = {name: code for code, name in enumerate(OPERATIONS)}
# Parameters p and q of an instruction, with what stands for one that is not given.
PARAMETERS: dict[str, tuple[tuple[str, float], ...]] = {
    "clamp": (("min", float("-inf")), ("max", float("inf"))),
    "softplus": (("beta", 1.0), ("threshold", 20.0)),
    "elu": (("alpha", 1.0),),
    "leaky_relu": (("negative_slope", 0.01),),
}
KINDS = (
    "scratch", "input", "state", "new", "keep", "vector", "bias", "mask", "seed", "came", "carry", "saved", "column",
    "total",
)  # fmt: skip
# What arrays hold, in the order of csrc/program.h.
PRODUCTS = {"project": 0, "unproject": 1, "output": 2, "unoutput": 3}  # which weights, as csrc/program.h numbers them
Place = tuple[int, int]  # a slot, 1 if one vector of a row is made; or -1 - array, and which of its blocks of units
Key = tuple[str, str]  # what an array holds: ("state", "h"), ("column", "0"), …


class Store(NamedTuple):
    """A node whose value goes to an array, at the place of its `part`th block of units."""

    node: int
    array: Key
    part: int
    size: str


class Refusal(Exception):  # noqa: N818 - not an error: the reference runs instead
    """Why the kernels can't run a graph."""


@dataclass
class Stage:
    """What is done between two points at which values are whole."""

    size: str
    products: dict[tuple[object, ...], list[int]] = field(default_factory=dict)  # of what -> the nodes made
    nodes: list[int] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)


@dataclass(frozen=True)
class Compiled:
    """A program as numbers."""

    integers: bytes
    numbers: bytes


def sizes_of(cell: Graph, graph: Graph) -> list[str]:
    """The size of each node of the cell's own graph or of its backward graph."""
    if graph is cell:
        return list(cell.sizes)
    states = dict(zip(cell.states, cell.state_sizes, strict=True))
    masks = {cell.nodes[i].key: cell.sizes[i] for i in cell.masks}
    sizes: list[str] = []
    for node in graph.nodes:
        if node.op == "const":
            size = "1"
        elif node.op == "saved" or (node.op == "grad" and node.key.startswith("%")):
            size = cell.sizes[int(node.key[1:])]
        elif node.op in ("state", "grad"):
            size = states[node.key]
        elif node.op in MASKS:
            size = masks[node.key]
        elif node.op in ("input", "vector", "unoutput"):
            size = "H"
        elif node.op == "unproject":
            size = "P" if cell.projects_output else "H"
        else:
            size = next((sizes[a] for a in node.args if sizes[a] != "1"), "1")
        sizes.append(size)
    return sizes


class Compiler:
    """One graph on its way to a program."""

    def __init__(self, cell: Graph, graph: Graph, stores: Iterable[Store], extras: Sequence[int]) -> None:
        self.cell, self.graph, self.sizes = cell, graph, sizes_of(cell, graph)
        self.extras = extras  # the nodes whose values are kept besides the states
        self.nodes: tuple[Node, ...] = graph.nodes
        self.arrays: dict[Key, int] = {}
        self.numbers: list[float] = []
        self.scratch: list[tuple[Key, str, int]] = []
        self.stores = [store._replace(node=self.resolve(store.node)) for store in stores]
        self.stages: dict[tuple[int, str], Stage] = {}
        self.level: dict[int, int] = {}
        self.sums: dict[int, tuple[int, int]] = {}  # a sum that a product begins with -> the projection, the rest
        self.live = [i for i in closure(graph.nodes, [s.node for s in self.stores]) if graph.nodes[i].op != "clip_grad"]
        constants = [i for i in self.live if self.nodes[i].op == "const"]
        self.shared = shared_nodes(graph.nodes, cell.shared)
        texts = list(dict.fromkeys(str(self.nodes[i]) for i in constants))
        self.constants = {i: texts.index(str(self.nodes[i])) for i in constants}
        self.numbers += [float(text.split("=")[1]) for text in texts]
        self.count = len(texts)  # of slots
        # Where the value of a node can be read again: it is stored there anyhow.
        self.homes: dict[int, Store] = {}
        for store in self.stores:
            if store.array[0] != "total":
                self.homes.setdefault(store.node, store)

    def resolve(self, i: int) -> int:
        """The node itself; for what changes gradients alone, the one that it passes on."""
        while self.graph.nodes[i].op == "clip_grad":
            i = self.graph.nodes[i].args[0]
        return i

    def args(self, i: int) -> list[int]:
        return [self.resolve(a) for a in self.nodes[i].args]

    def array(self, key: Key) -> int:
        return self.arrays.setdefault(key, len(self.arrays))

    def leaf(self, i: int) -> Key | None:
        """The array of a leaf."""
        node = self.nodes[i]
        if node.op not in LEAVES or node.op == "const":
            return None
        return ("mask" if node.op in MASKS else node.op), node.key

    # --- stages --------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Put every node into its stage, and have stored what a later stage reads."""
        for i in self.live:
            node, args = self.nodes[i], self.args(i)
            after = max((self.level[a] for a in args), default=0)
            if node.op in PRODUCTS:  # have the even levels, means the odd ones
                after = 0 if len(args) == 1 and self.leaf(args[0]) else after // 2 * 2 + 2
            self.level[i] = after | 1 if i in self.shared else after
        products = {self.level[i] for i in self.live if self.nodes[i].op in PRODUCTS}
        for i in self.live:
            if self.level[i] not in products:
                self.level[i] |= 1
        for i in self.live:
            node = self.nodes[i]
            if node.op in LEAVES:
                continue
            stage = self.stage(self.level[i], self.sizes[i])
            if node.op in PRODUCTS:
                # The gates that project one value are one product; so are those that are summed again, already.
                gates = node.key if node.op == "unproject" else ""
                stage.products.setdefault((node.op, gates, *self.args(i)), []).append(i)
            else:
                stage.nodes.append(i)
                for a in self.args(i):
                    if self.level[a] < self.level[i] and not self.leaf(a):
                        self.keep(a)
        for stage in list(self.stages.values()):
            for made in stage.products.values():
                self.operand(made[0])
        for store in self.stores:
            self.stage(self.level[store.node], store.size).stores.append(store)
        for stage in self.stages.values():
            self.begin_with_sums(stage)

    def begin_with_sums(self, stage: Stage) -> None:
        """Have products start from what is added to them alone, such as x.g of x.g + h.g."""
        read = [a for i in self.live for a in self.args(i)] + [s.node for s in self.stores]
        for made in stage.products.values():
            for k, projection in enumerate(made):
                readers = [i for i in stage.nodes if projection in self.args(i)]
                if read.count(projection) > 1 or not readers or self.nodes[readers[0]].op != "add":
                    continue
                (rest,) = [a for a in self.args(readers[0]) if a != projection]
                at_hand = self.leaf(rest) or (rest in self.homes and self.level[rest] < self.level[projection])
                if at_hand and rest not in self.shared and self.sizes[rest] == stage.size:
                    self.sums[readers[0]] = projection, rest
                    stage.nodes.remove(readers[0])
                    made[k] = readers[0]

    def projection(self, i: int) -> int:
        """The node of the product that makes i."""
        return self.sums[i][0] if i in self.sums else i

    def stage(self, level: int, size: str) -> Stage:
        return self.stages.setdefault((level, size), Stage(size))

    def keep(self, i: int) -> None:
        """Have a value stored for later stages, unless it is kept already or can be had again."""
        if self.nodes[i].op != "const" and i not in self.homes:
            self.store(i, ("scratch", f"%{i}"), 0, 1)

    def store(self, i: int, key: Key, part: int, parts: int, whole: bool = False) -> None:
        size = self.sizes[i]
        if key not in self.arrays:
            self.scratch.append((key, "1" if i in self.shared and not whole else size, parts))
        self.array(key)
        self.stores.append(Store(i, key, part, size))
        self.homes.setdefault(i, self.stores[-1])

    def operand(self, i: int) -> Key:
        """The array of what a product reads: whole rows, several values side by side."""
        args = self.args(i)
        if len(args) == 1 and (key := self.leaf(args[0])):
            return key
        # What all units share is stored once, and a product reads it for every unit.
        homes = [
            [s for s in self.stores if s.node == a and s.array[0] != "total" and a not in self.shared] for a in args
        ]
        for first in homes[0]:  # an array that has just these values, in this order, and no others
            same = [s for s in self.stores if s.array == first.array]
            if sorted((s.part, s.node) for s in same) == list(enumerate(args)):
                return first.array
        key = ("scratch", " ".join(f"%{a}" for a in args) + " together")
        for part, a in enumerate(args):
            if self.sizes[a] == "1":
                raise Refusal("a projection of a number")
            self.store(a, key, part, len(args), whole=True)
        return key

    # --- the tape ------------------------------------------------------------------------------------

    def number(self, value: float) -> int:
        self.numbers.append(value)
        return len(self.numbers) - 1

    def fused(self, stage: Stage) -> list[tuple[int, str, list[int]]]:
        """The nodes of a stage, their operations and operands; a product that one sum or mean reads is part of it."""
        read = [a for i in self.live for a in self.args(i)] + [s.node for s in self.stores]
        inner = {i for i in stage.nodes if self.nodes[i].op == "mul" and i not in self.shared and read.count(i) == 1}
        todo: dict[int, tuple[str, list[int]]] = {}
        for i in stage.nodes:
            op, args = self.nodes[i].op, self.args(i)
            if op in ("add", "mean") and (factors := [a for a in args if a in inner]):
                rest = list(args)
                rest.remove(factors[-1])
                args = [*todo.pop(factors[-1])[1], *rest]
                op = "MULTIPLY_ADD" if rest else "MEAN_OF_PRODUCT"
            todo[i] = op.upper() if op == "mean" else op, args
        return [(i, op, args) for i, (op, args) in todo.items()]

    def tape(self, stage: Stage) -> tuple[list[list[int]], dict[int, int]]:
        """The instructions of a stage, and the slots of what its products make."""
        todo = self.fused(stage)
        reads = [a for _, _, args in todo for a in args] + [s.node for s in stage.stores]
        left = {a: reads.count(a) for a in reads}
        free: list[int] = []
        slots: dict[int, int] = dict(self.constants)
        spread: set[int] = set()
        top = len(set(self.constants.values()))
        code: list[list[int]] = []

        def take(i: int) -> int:
            nonlocal top
            if free:
                slots[i] = free.pop()
            else:
                slots[i], top = top, top + 1
                self.count = max(self.count, top)
            return slots[i]

        def line(op: str, to: Place, *given: Place, numbers: Sequence[int] = ()) -> None:
            operands = [to, *given, (0, 0), (0, 0), (0, 0)][:4]
            code.append([CODES[op], *(n for operand in operands for n in operand), *([*numbers, -1, -1][:2])])

        def have(i: int, whole: bool = True) -> Place:
            """Where a value is read: for all units, or where that is enough, for some."""
            if i in self.shared and (i not in slots or (whole and i not in spread)):
                given = (slots[i], 0) if i in slots else self.lies(i)
                line("SPREAD", (slots[i] if i in slots else take(i), int(not whole)), given)
                if whole:
                    spread.add(i)
            return (slots[i], 0) if i in slots else self.lies(i)

        def done(i: int) -> None:
            left[i] -= 1
            if not left[i] and i in slots and i not in self.constants:
                free.append(slots.pop(i))

        def copy(i: int, stores: Iterable[Store]) -> None:
            for store in stores:
                total = store.array[0] == "total"
                op = "TOTAL" if total else "SPREAD" if i in self.shared else "COPY"
                given = have(i, total)
                line(op, self.place(store), given)
                done(i)

        made = {i: take(i) for nodes in stage.products.values() for i in nodes}
        for i in made:
            if not left.get(i):
                raise Refusal("a product that nothing reads")
        for i in made:
            copy(i, [s for s in stage.stores if s.node == i])
        for i, op, args in todo:
            shared = i in self.shared and not op.startswith("MEAN")
            given = [have(a, not shared) for a in args]
            for a in args:
                done(a)
            parameters = dict(self.nodes[i].params)
            numbers = [self.number(parameters.get(n, d)) for n, d in PARAMETERS.get(op, ())]
            if op not in CODES:
                raise Refusal(f"no kernel for {op}")
            stores = [s for s in stage.stores if s.node == i]
            whole = [s for s in stores if s.array[0] != "total"]
            if op == "mul" and not shared and stores and not whole and left[i] == 1:
                line("TOTAL_OF_PRODUCT", self.place(stores[0]), *given)
                continue
            if whole and i not in self.shared:  # made where it is stored, and read from there
                line(op, self.place(whole[0]), *given, numbers=numbers)
                left[i] -= 1
                stores.remove(whole[0])
                copy(i, stores)
                continue
            line(op, (take(i), int(i in self.shared)), *given, numbers=numbers)
            copy(i, stores)
            if not left.get(i) and i in slots:  # only another size's stage reads it, from where it is stored
                free.append(slots.pop(i))
        for i in sorted({s.node for s in stage.stores} - set(made) - set(stage.nodes)):  # leaves and numbers
            copy(i, [s for s in stage.stores if s.node == i])
        return code, made

    def place(self, store: Store) -> Place:
        return -1 - self.array(store.array), store.part

    def lies(self, i: int) -> Place:
        """The array that has a leaf, or a value that is stored."""
        key = self.leaf(i)
        return (-1 - self.array(key), 0) if key else self.place(self.homes[i])

    # --- numbers -------------------------------------------------------------------------------------

    def compile(self, states: Sequence[tuple[Key, Key, str, Key | None, Key | None]]) -> Compiled:
        """The program.

        Args:
            states: of each state the arrays before and after the step, its size and, backward, the gradients that
                come to it.
        """
        self.plan()
        body: list[int] = []
        for (_, size), stage in sorted(self.stages.items()):
            code, slots = self.tape(stage)
            body += [_size(size), len(stage.products)]
            for nodes in stage.products.values():
                body += self.product(nodes, slots)
            body.append(len(code))
            for line in code:
                body += line
        tail = [len(states)]
        for before, after, size, came, seed in states:
            tail += [self.array(before), self.array(after), _size(size)]
            tail += [-1 if key is None else self.array(key) for key in (came, seed)]
        plan = backward_plan(self.cell) if self.graph is not self.cell else None
        columns = [self.array(column_key(plan, c)) for c in range(len(plan.columns))] if plan else []
        tail += [len(self.arrays), *(n for key in self.arrays for n in self.holder(key)), len(columns), *columns]
        operands = plan.operands if plan else ()
        tail.append(len(operands))
        for operand in operands:
            blocks = [self.cell.hidden_gates.index(gate) for gate in operand.gates]
            tail += [len(blocks), *blocks, operand.made, -1 if operand.read is None else operand.read]
        vectors = plan.vectors if plan else ()
        tail += [len(vectors), *vectors]
        gates = len(self.cell.input_gates), len(self.cell.hidden_gates)
        head = [
            int(bool(plan)),
            self.count,
            *gates,
            len(set(self.constants.values())),
            len(self.stages),
        ]
        integers = [*head, *body, *tail]
        return Compiled(
            struct.pack(f"{len(integers)}q", *integers), struct.pack(f"{len(self.numbers)}d", *self.numbers)
        )

    def holder(self, key: Key) -> tuple[int, int, int, int]:
        """What an array holds, as csrc/program.h has it: kind, index, size, parts."""
        cell, (kind, name) = self.cell, key
        parts, size = 1, "H"
        if kind == "scratch":
            index, (size, parts) = 0, next((size, parts) for k, size, parts in self.scratch if k == key)
        elif kind == "grad" and name.startswith("%"):
            seeds = [cell.outputs[0][1], *cell.watched]
            kind, index, size = "seed", seeds.index(int(name[1:])), cell.sizes[int(name[1:])]
        elif kind in ("state", "new", "carry", "grad"):
            kind, index = "came" if kind == "grad" else kind, cell.states.index(name)
            size = cell.state_sizes[index]
        elif kind in ("keep", "saved"):
            node = int(name[1:])
            made = [i for _, i in cell.outputs]
            index = self.extras.index(node) if node in self.extras else -1 - made.index(node)
            size = "1" if node in cell.shared and index >= 0 else cell.sizes[node]
        elif kind == "input":
            index, parts = cell.input_gates.index(name), len(cell.input_gates)
        elif kind == "vector":
            index = cell.vectors.index(name)
        elif kind == "bias":
            index = cell.hidden_gates.index(name)
        elif kind == "mask":
            index = [cell.nodes[i].key for i in cell.masks].index(name)
            size = cell.sizes[cell.masks[index]]
        else:
            index = int(name)
            column = backward_plan(cell).columns[index]
            size, parts = column.size, len(column.nodes)
        return KINDS.index(kind), index, _size(size), parts

    def product(self, nodes: list[int], slots: dict[int, int]) -> list[int]:
        node = self.nodes[self.projection(nodes[0])]
        operand = self.array(self.operand(self.projection(nodes[0])))
        rank = self.cell.hidden_gates.index
        if node.op == "project":
            nodes = sorted(nodes, key=lambda i: rank(self.nodes[self.projection(i)].key))
            gates = [self.nodes[self.projection(i)].key for i in nodes]
            blocks = [rank(gate) for gate in gates]
            bias = [self.array(("bias", gate)) for gate in gates]
        else:
            blocks = [rank(gate) for gate in node.key.split()] if node.op == "unproject" else []
            bias = [-1] * len(nodes)
        to = [slots[i] for i in nodes]
        plus = [n for i in nodes for n in (self.lies(self.sums[i][1]) if i in self.sums else (0, 0))]
        return [PRODUCTS[node.op], operand, len(blocks), *blocks, len(to), *to, len(bias), *bias, *plus]


def column_key(plan: BackwardPlan, c: int) -> Key:
    """The array of a column: one of which vectors' gradients alone are made is summed over rows and steps at once."""
    others = {0} | {operand.made for operand in plan.operands} | {operand.read for operand in plan.operands}
    return ("column" if c in others else "total"), str(c)


def _size(size: str) -> int:
    return "HP1".index(size)


@lru_cache(maxsize=256)
def forward_program(cell: Graph, extras: tuple[int, ...]) -> Compiled:
    """The program of a cell's forward scan: it stores the new states, and the extra nodes that are asked for."""
    outputs = list(cell.outputs)
    stores = [Store(i, ("new", state), 0, size) for (state, i), size in zip(outputs, cell.state_sizes, strict=True)] + [
        Store(i, ("keep", f"%{i}"), 0, cell.sizes[i]) for i in extras
    ]
    states: list[tuple[Key, Key, str, Key | None, Key | None]] = [
        (("state", s), ("new", s), size, None, None) for s, size in zip(cell.states, cell.state_sizes, strict=True)
    ]
    return Compiler(cell, cell, stores, extras).compile(states)


@lru_cache(maxsize=256)
def backward_program(cell: Graph) -> Compiled:
    """The program of a cell's backward scan: it stores the columns of its plan, and the states' gradients."""
    plan = backward_plan(cell)
    stores = [
        Store(i, column_key(plan, c), part, column.size)
        for c, column in enumerate(plan.columns)
        for part, i in enumerate(column.nodes)
    ]
    states: list[tuple[Key, Key, str, Key | None, Key | None]] = []
    for k, (state, size, i) in enumerate(zip(cell.states, cell.state_sizes, plan.states, strict=True)):
        stores.append(Store(i, ("carry", state), 0, size))
        seed = ("grad", f"%{cell.outputs[0][1]}") if k == 0 else None
        states.append((("state", state), ("carry", state), size, ("grad", state), seed))
    return Compiler(cell, plan.graph, stores, plan.extras).compile(states)
