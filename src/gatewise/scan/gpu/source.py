"""What a GPU kernel is generated from and for, and how its source is written line by line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

from gatewise.graph.graph import Graph, closure
from gatewise.graph.ops import OPS
from gatewise.graph.rules import shared_nodes
from gatewise.scan.plan import backward_plan
from gatewise.scan.program import sizes_of

PRODUCTS = ("project", "unproject", "output", "unoutput")
NUMBERS = ("start", "stop", "batch", "groups", "x_step", "x_row", "parts", "turns")  # after the arrays


@dataclass(frozen=True)
class Tiling:
    """How a launch divides the work.

    rows, units, outputs: the tile of a program: of samples, of H and of P, powers of two.
    tiles: how many programs share a tile of rows, each with its own units; 1: there is nothing to exchange.
    turns: whether a program has several tiles of rows, one after the other in each step.
    depth: how many terms of a product's sum are loaded at a time; they are summed in `splits` parts side by side.
    ahead: how many such loads are under way before the first is waited for.
    resident: how many blocks of weights, of `depth` x a tile's units, stay on the chip; the others come from the L2
        cache at each step.
    warps: of 32 threads, of a program.
    """

    rows: int
    units: int
    outputs: int
    tiles: int
    turns: bool
    depth: int
    splits: int
    ahead: int
    resident: int
    warps: int


@dataclass(frozen=True)
class Wish:
    """What a kernel is generated for.

    cell: the cell. backward: whether it is the backward scan. extras: the nodes that forward gives out besides the
    new states. keep: whether forward gives out all new states, or only the first. hidden, output: H and P (H without a
    projection). type: the tensors' type. precision: of float32 products, "ieee" or "tf32". resets, active: whether
    there are any. widen: whether products' operands are made float32 first, for Triton's interpreter, which multiplies
    bfloat16's bits as integers (3.7).
    """

    cell: Graph
    backward: bool
    extras: tuple[int, ...]
    keep: bool
    hidden: int
    output: int
    type: str
    precision: str
    resets: bool
    active: bool
    widen: bool = False

    @property
    def on_tensor_cores(self) -> bool:
        """Whether products are, as all but float32's in full precision."""
        return self.type != "float32" or self.precision == "tf32"


@dataclass(frozen=True)
class Kernel:
    """The source, and what it is given.

    arrays: the names of the tensors, which lead its arguments. exchanged: those of them in which values are awaited.
    blocks: how many blocks of weights there are.
    """

    source: str
    arrays: tuple[str, ...]
    exchanged: tuple[str, ...]
    blocks: int


class Source:
    """A kernel on its way to source: what is known of its graph, and its lines so far."""

    def __init__(self, wish: Wish, tiling: Tiling) -> None:
        self.wish, self.tiling = wish, tiling
        self.cell = cell = wish.cell
        self.plan = backward_plan(cell)
        self.graph = graph = self.plan.graph if wish.backward else cell
        self.nodes = graph.nodes
        self.sizes = sizes_of(cell, graph)
        self.shared = shared_nodes(graph.nodes, cell.shared if wish.backward else ())
        self.spread = tiling.tiles > 1
        if wish.backward:
            self.made = list(self.plan.states)
            roots = [*self.made, *(i for c in self.plan.columns for i in c.nodes)]
        else:
            self.made = [i for _, i in cell.outputs]
            roots = [*self.made, *wish.extras]
        self.live = closure(graph.nodes, roots)
        self.state_sizes = cell.state_sizes
        widths = [wish.hidden if size == "H" else wish.output for size in self.state_sizes]
        self.offsets = list(accumulate(widths[:-1], initial=0))  # of each state in `Inputs.initial`
        self.lines: list[str] = []
        self.depth = 0
        self.arrays: dict[str, None] = {}
        self.exchanged: dict[str, None] = {}
        self.constants: dict[str, str] = {}
        self.weights: dict[str, str] = {}  # each block's name and how it is loaded
        self.stored: set[int] = set()  # columns, by the step that is being written
        self.level = self.levels()
        self.kinds = self.find_kinds()

    # --- what is known beforehand --------------------------------------------------------------------

    def levels(self) -> dict[int, int]:
        """After how many exchanges of a step each node is made."""
        level: dict[int, int] = {}
        for i in self.live:
            node = self.nodes[i]
            after = max((level[a] for a in node.args), default=0)
            level[i] = after + (self.spread and self.exchanges(i) and not self.from_before(i))
        return level

    def exchanges(self, i: int) -> bool:
        """Whether a node reads its argument as a whole."""
        node = self.nodes[i]
        return node.op in PRODUCTS or (node.op == "mean" and node.args[0] not in self.shared)

    def from_before(self, i: int) -> bool:
        """Whether a node is a product of a state before the step, which was exchanged with the step before."""
        node = self.nodes[i]
        return node.op in PRODUCTS and not self.wish.backward and self.nodes[node.args[0]].op == "state"

    def reads(self, i: int) -> str:
        """The name of the leaf that a product reads."""
        return self.nodes[self.nodes[i].args[0]].key

    def find_kinds(self) -> dict[int, str]:
        """The shape of each node's value: a tile, a row (1, units), a column (rows, 1) or a number."""
        kinds: dict[int, str] = {}
        for i in self.live:
            node = self.nodes[i]
            if node.op == "const":
                kinds[i] = "number"
            elif node.op == "vector":
                kinds[i] = "row"
            elif i in self.shared:
                kinds[i] = "column"
            elif node.op in OPS and node.op != "mean":
                read = {kinds[a] for a in node.args} - {"number"}
                kinds[i] = read.pop() if len(read) == 1 else "tile"
            else:
                kinds[i] = "tile"
        return kinds

    def named(self, i: int) -> str:
        """The name that the cell's author gave a node, if any."""
        return next((name for name, j in self.graph.names if j == i), "")

    # --- text ----------------------------------------------------------------------------------------

    def line(self, text: str, about: str = "") -> None:
        """Add a line, and a comment: a name of the cell's, of which no more than words gets into source."""
        self.lines.append("    " * self.depth + text + (f"  # {words(about)}" if about else ""))

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        self.line(head)
        self.depth += 1
        yield
        self.depth -= 1

    def array(self, name: str, exchanged: bool = False) -> str:
        self.arrays[name] = None
        if exchanged and self.spread:
            self.exchanged[name] = None
        return name

    def number(self, value: float) -> str:
        """The name of a number in the kernel's own type; a literal would be float32 in a float64 kernel."""
        text = repr(float(value))
        text = text if text.lstrip("-")[0].isdigit() else f'float("{text}")'
        return self.constants.setdefault(text, f"k{len(self.constants)}")

    def full(self, i: int) -> str:
        """A node's value as a tile of numbers."""
        value = f"v{i}.to(F)" if self.nodes[i].op in OPS and OPS[self.nodes[i].op].boolean else f"v{i}"
        return value if self.kinds[i] == "tile" else f"({value} + tl.zeros((ROWS, {tile(self.sizes[i])}), F))"

    def place(self, size: str, width: str, part: int = 0) -> str:
        """Where a tile lies in a step's rows of this width."""
        begin = f" + {part} * {size}" if part else ""
        return f"rows * {width}{begin} + {size.lower()}s"

    def load(self, base: str, size: str, width: str, part: int = 0) -> str:
        return f"tl.load({base} + {self.place(size, width, part)}, mask=live & in_{size.lower()}, other=0.0).to(F)"

    def store(self, base: str, value: str, size: str, width: str, part: int = 0) -> None:
        self.line(f"tl.store({base} + {self.place(size, width, part)}, {value}, mask=live & in_{size.lower()})")

    def step_of(self, name: str, width: str, time: str = "step") -> str:
        """Where a step's rows begin in an array (T, R, width)."""
        return f"{name} + {time} * {width}" if width != "1" else f"{name} + {time}"


def words(text: str) -> str:
    """What of a text a name and a comment can have in them: a cell's may come from anywhere."""
    return re.sub(r"[^0-9A-Za-z_]+", "_", text).strip("_")


def tile(size: str) -> str:
    return "OUTPUTS" if size == "P" else "UNITS"
