"""A graph -> the source of its GPU kernel in Triton.

Each program of a launch has a tile of rows (samples) x units for all steps, and of the weights what makes these units,
which stays on the chip. Element-wise nodes are a line each. A product or a mean reads a value of all units: where a
program has them all, from its registers; else the programs that share rows exchange the value through memory.

An exchange needs no lock. Its buffer has a place for each step, and "not there yet", all bits set, in every place: a
NaN that arithmetic never makes. Each program stores its part, and reads the whole again and again until nothing is
missing. What was read is then what was stored, whatever the order in which the stores became visible.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from gatewise.graph.graph import Graph, closure
from gatewise.graph.ops import OPS
from gatewise.graph.rules import MASKS, shared_nodes
from gatewise.scan.plan import backward_plan, gate_rank
from gatewise.scan.program import PARAMETERS, sizes_of

PRODUCTS = ("project", "unproject", "output", "unoutput")


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


NUMBERS = ("start", "stop", "batch", "groups", "x_step", "x_row", "parts", "turns")  # after the arrays


class Writer:
    """One kernel on its way to source."""

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
        self.lines: list[str] = []
        self.depth = 0
        self.arrays: dict[str, None] = {}
        self.exchanged: dict[str, None] = {}
        self.constants: dict[str, str] = {}
        self.asked: dict[int, str] = {}  # how the parts of what is awaited are read
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

    # --- the parts of a kernel ---------------------------------------------------------------------------

    def write(self) -> Kernel:
        body = self.body()
        backward = self.wish.backward
        name = f"{words(self.cell.name)}_{'backward' if backward else 'forward'}"
        prologue = self.prologue()
        arguments = ", ".join([*self.arrays, *NUMBERS])
        title = f'"""{"Backward" if backward else "Forward"} scan, {self.wish.type}."""'
        lines = ["@triton.jit", f"def {name}({arguments}):", f"    {title}", *prologue, *body]
        return Kernel("\n".join(lines) + "\n", tuple(self.arrays), tuple(self.exchanged), len(self.weights))

    def captured(self, depth: int) -> list[str]:
        """Begin to collect lines anew."""
        self.lines, self.depth = [], depth
        return self.lines

    def prologue(self) -> list[str]:
        """What comes before the first step; written last, when it is known what is needed."""
        w, t, lines = self.wish, self.tiling, self.captured(1)
        numbers = {
            "H": w.hidden, "P": w.output, "ROWS": t.rows, "UNITS": t.units, "OUTPUTS": t.outputs, "TILES": t.tiles,
            "SPLITS": t.splits, "GATES_HH": len(self.cell.hidden_gates),
        }  # fmt: skip
        for name, number in numbers.items():
            self.line(f"{name}: tl.constexpr = {number}")
        self.line(f"F: tl.constexpr = tl.{'float64' if w.type == 'float64' else 'float32'}")
        self.line(f"D: tl.constexpr = tl.{w.type}")
        for text, name in self.constants.items():
            self.line(f"{name} = tl.full((), {text}, F)")
        self.line("tile = tl.program_id(0) % TILES")
        self.line("part = tl.program_id(0) // TILES % parts")
        self.line("group = tl.program_id(0) // TILES // parts")
        self.line("all_rows = tl.cast(groups * batch, tl.int64)")
        sized = ["H", "P"] if self.cell.projects_output else ["H"]
        for size in sized:
            self.line(f"{size.lower()}s = (tile * {tile(size)} + tl.arange(0, {tile(size)}))[None, :]")
            self.line(f"in_{size.lower()} = {size.lower()}s < {size}")
        widths = {"weight_hh": "GATES_HH * H * P", "bias_hh": "GATES_HH * H", "weight_hr": "P * H"}
        widths |= {"vectors": f"{len(self.cell.vectors)} * H", "initial": " + ".join(self.state_sizes)}
        for name, width in widths.items():
            if name in self.arrays:
                self.line(f"{name} += group * ({width})")
        for size in sized if self.weights else ():
            low = size.lower()
            self.line(f"DEPTH_{size}: tl.constexpr = {self.terms_at_once(size)}")
            if t.splits > 1:
                self.line(f"terms_{low} = tl.arange(0, SPLITS)[:, None, None] * (DEPTH_{size} // SPLITS)")
                self.line(f"down_{low} = terms_{low} + tl.arange(0, DEPTH_{size} // SPLITS)[None, :, None]")
                self.line(f"along_{low} = terms_{low} + tl.arange(0, DEPTH_{size} // SPLITS)[None, None, :]")
            else:
                self.line(f"down_{low} = tl.arange(0, DEPTH_{size})[:, None]")
                self.line(f"along_{low} = tl.arange(0, DEPTH_{size})[None, :]")
        for gate in self.cell.hidden_gates if "bias_hh" in self.arrays else ():
            k = self.cell.hidden_gates.index(gate)
            self.line(f"bias{k} = tl.load(bias_hh + {k} * H + hs, mask=in_h, other=0.0).to(F)", gate)
        for i in self.live:
            if self.nodes[i].op == "vector":
                k = self.cell.vectors.index(self.nodes[i].key)
                self.line(f"v{i} = tl.load(vectors + {k} * H + hs, mask=in_h, other=0.0).to(F)", self.nodes[i].key)
            elif self.nodes[i].op == "const":
                self.line(f"v{i} = {self.number(self.nodes[i].params[0][1])}")
        for text in list(self.weights.values())[: t.resident]:
            self.line(text)
        return lines

    def body(self) -> list[str]:
        lines = self.captured(1)
        for i in self.live:  # so that the prologue knows them
            if self.nodes[i].op == "const":
                self.number(self.nodes[i].params[0][1])
            elif self.nodes[i].op == "vector":
                self.array("vectors")
        turns = self.tiling.turns
        if not turns:
            self.rows("part")
            self.carries("load")
        with self.block("for tick in range(start, stop):"):
            self.line(f"t = tl.cast({'stop - 1 - (tick - start)' if self.wish.backward else 'tick'}, tl.int64)")
            if turns:
                with self.block("for turn in range(turns):"):
                    self.rows("part + turn * parts")
                    self.carries("load")
                    self.step()
                    self.carries("store")
                    self.line("tl.debug_barrier()  # the next step's loads may be other threads'")
            else:
                self.step()
        if not turns:
            self.carries("store")
        return lines

    def rows(self, which: str) -> None:
        self.line(f"row = ({which}) * ROWS + tl.arange(0, ROWS)")
        self.line("alive = row < batch")
        self.line("live = alive[:, None]")
        self.line("row = group * batch + row")
        self.line("rows = row[:, None]")

    def carries(self, what: str) -> None:
        """Load or store what goes from step to step: the states or their gradients, and what resets cut off."""
        for k, size in enumerate(self.state_sizes):
            names = [f"carry{k}"] + [f"total{k}"] * (self.wish.backward and self.wish.resets)
            for name in names:
                variable = name.replace("carry", "s" if not self.wish.backward else "g").replace("total", "cut")
                self.array(name)
                if what == "load":
                    self.line(f"{variable} = {self.load(name, size, size)}")
                else:
                    self.store(name, variable, size, size)

    def step(self) -> None:
        """One step of one tile of rows."""
        wish = self.wish
        self.line("step = t * all_rows")
        if wish.resets:
            self.line(f"reset = tl.load({self.array('resets')} + step + row, mask=alive, other=0)[:, None] != 0")
        if wish.active:
            self.line(f"taken = tl.load({self.array('active')} + step + row, mask=alive, other=0)[:, None] != 0")
        self.states()
        for i in self.live:
            self.leaf(i)
        for level in range(max(self.level.values(), default=0) + 1):
            here = [i for i in self.live if self.level[i] == level and self.nodes[i].op in (*PRODUCTS, *OPS)]
            if self.spread:
                self.exchange([i for i in here if self.exchanges(i)])
                here = [i for i in here if not self.exchanges(i)]
            for i in here:
                self.node(i)
            if self.spread:
                self.publish([i for i in self.live if self.level[i] == level + 1 and self.exchanges(i)])
        self.finish()

    # --- leaves ----------------------------------------------------------------------------------------

    def states(self) -> None:
        """The states before the step, after resets."""
        wish, begin = self.wish, 0
        offsets = []
        for size in self.state_sizes:
            offsets.append(begin)
            begin += wish.hidden if size == "H" else wish.output
        self.offsets = offsets
        needed = {self.nodes[i].key for i in self.live if self.nodes[i].op == "state"}
        for k, (state, size) in enumerate(zip(self.cell.states, self.state_sizes, strict=True)):
            if wish.backward:
                if state not in needed:
                    continue
                self.before(k, size)
                self.line(f"s{k} = {self.load(f'before{k}', size, size)}")
            elif self.spread and any(self.from_before(i) and self.reads(i) == state for i in self.live):
                self.before(k, size)
            if wish.resets:
                low = size.lower()
                fresh = f"{self.array('initial')} + {offsets[k]} + {low}s, mask=in_{low}, other=0.0"
                self.line(f"s{k} = tl.where(reset, tl.load({fresh}).to(F), s{k})")

    def reads(self, i: int) -> str:
        return self.nodes[self.nodes[i].args[0]].key

    def before(self, k: int, size: str) -> None:
        """Where the states before the step lie."""
        with self.block("if t > 0:"):
            self.line(f"before{k} = {self.array(f'new{k}')} + (step - all_rows) * {size}")
        with self.block("else:"):
            self.line(f"before{k} = {self.array(f'first{k}')}")

    def leaf(self, i: int) -> None:
        node, cell, size = self.nodes[i], self.cell, self.sizes[i]
        if node.op == "input":
            gate = cell.input_gates.index(node.key)
            place = f"{self.array('x')} + t * x_step + tl.cast(rows, tl.int64) * x_row + {gate} * H + hs"
            text = f"tl.load({place}, mask=live & in_h, other=0.0).to(F)"
        elif node.op == "state":
            text = f"s{cell.states.index(node.key)}"
        elif node.op in MASKS:
            name = self.array(f"mask{[cell.nodes[j].key for j in cell.masks].index(node.key)}")
            text = self.load(name if node.op == "sequence_mask" else self.step_of(name, size), size, size)
        elif node.op == "grad" and node.key.startswith("%"):
            seed = [cell.outputs[0][1], *cell.watched].index(int(node.key[1:]))
            text = self.load(self.step_of(self.array(f"seed{seed}"), size), size, size)
        elif node.op == "grad":
            text = f"g{cell.states.index(node.key)}"
        elif node.op == "saved":
            saved, made = int(node.key[1:]), [j for _, j in cell.outputs]
            extra = self.plan.extras.index(saved) if saved in self.plan.extras else -1
            name = self.array(f"keep{extra}" if extra >= 0 else f"new{made.index(saved)}")
            if saved in cell.shared and extra >= 0:
                text = f"tl.load({self.step_of(name, '1')} + rows, mask=live, other=0.0).to(F)"
            else:
                text = self.load(self.step_of(name, size), size, size)
        else:
            return
        self.line(f"v{i} = {text}", f"{node.op} {node.key}")

    # --- element-wise nodes, and products and means within a program ------------------------------------

    def node(self, i: int) -> None:
        node = self.nodes[i]
        if node.op in PRODUCTS:
            self.product([i], None)
        elif node.op == "mean" and node.args[0] not in self.shared:
            size = self.sizes[node.args[0]]
            value = f"tl.where(in_{size.lower()}, {self.full(node.args[0])}, 0.0)"
            self.line(f"v{i} = tl.sum({value}, 1)[:, None] / {size}")
        else:
            self.line(f"v{i} = {self.expression(i)}", self.named(i))

    def named(self, i: int) -> str:
        return next((name for name, j in self.graph.names if j == i), "")

    def expression(self, i: int) -> str:
        node = self.nodes[i]
        if node.op == "mean":  # of what all units share already
            return f"v{node.args[0]}"
        given = dict(node.params)
        defaults = dict(PARAMETERS.get(node.op, ()))
        parameters = {name: self.number(given.get(name, default)) for name, default in defaults.items()}
        return OPS[node.op].triton.format(*(f"v{a}" for a in node.args), **parameters)

    # --- products --------------------------------------------------------------------------------------

    def product(self, made: Sequence[int], base: str | None) -> None:
        """The products of one value: from registers, or from memory where its rows are awaited."""
        node = self.nodes[made[0]]
        inner = {"project": "P" if self.cell.projects_output else "H", "output": "H", "unoutput": "P"}.get(node.op, "H")
        outer = self.sizes[made[0]]
        terms = self.wish.hidden if inner == "H" else self.wish.output
        sums = dict.fromkeys(made, 0)
        operands = [(0, node.args[0])] if node.op != "unproject" else list(enumerate(node.args))
        width = f"{len(node.args)} * {inner}" if len(node.args) > 1 else inner
        steps = [
            (part, operand, begin) for part, operand in operands for begin in range(0, terms, self.terms_at_once(inner))
        ]
        blocks = [[self.weight(i, part, begin, inner, outer) for i in made] for part, _, begin in steps]
        if base is not None:
            for n, (part, _, begin) in enumerate(steps):
                offset = f" + {part} * {inner}" if part else ""
                self.ask(f"a{made[0]}_{n}", f"{base} + @ * ({width}){offset}", begin, inner, n < self.tiling.ahead)
        for n, ((_, operand, begin), names) in enumerate(zip(steps, blocks, strict=True)):
            value = f"a{made[0]}_{n}"
            if base is None:
                inside = f"tl.where(in_{inner.lower()}, {self.full(operand)}, 0.0).to(D)"
                split = f"tl.permute(tl.reshape({inside}, (ROWS, SPLITS, DEPTH_{inner} // SPLITS)), (1, 0, 2))"
                self.line(f"{value} = {split if self.tiling.splits > 1 else inside}")
            else:
                self.wait(value, n)
                if n + self.tiling.ahead < len(steps):
                    self.line(
                        f"{value.rpartition('_')[0]}_{n + self.tiling.ahead} = {self.asked[n + self.tiling.ahead]}"
                    )
                self.after_reset(value, begin, inner, operand)
            for i, name in zip(made, names, strict=True):
                plus = f", sum{i}" if sums[i] else ""
                wide = ".to(F)" if self.wish.widen else ""
                self.line(f'sum{i} = tl.dot({value}{wide}, {name}{wide}{plus}, input_precision="{self.wish.precision}", out_dtype=F)')
                sums[i] = 1
        for i in made:
            whole = f"tl.sum(sum{i}, 0)" if self.tiling.splits > 1 else f"sum{i}"
            bias = f" + bias{self.cell.hidden_gates.index(self.nodes[i].key)}" if node.op == "project" else ""
            if bias:
                self.array("bias_hh")
            self.line(f"v{i} = {whole}{bias}", self.named(i) or f"{self.nodes[i].op} {self.nodes[i].key}")

    def terms_at_once(self, inner: str) -> int:
        """How many terms of a product's sum are multiplied at a time."""
        return self.tiling.depth if self.spread else self.tiling.units if inner == "H" else self.tiling.outputs

    def index(self, axis: str, inner: str, begin: int) -> str:
        """The terms of a sum over H or P, from `begin` on, along an axis of what is multiplied."""
        index = f"{axis}_{inner.lower()}"
        return f"({index} + {begin})" if begin else index

    def weight(self, i: int, part: int, begin: int, inner: str, outer: str) -> str:
        """The name of a block of weights, terms x units; one that is not on the chip is loaded here."""
        node, low = self.nodes[i], outer.lower()
        down = self.index("down", inner, begin)
        units = f"{low}s[None]" if self.tiling.splits > 1 else f"{low}s"
        inside = f"in_{low}[None]" if self.tiling.splits > 1 else f"in_{low}"
        if node.op == "project":
            gate = self.cell.hidden_gates.index(node.key)
            name, place = f"w{gate}_{begin}", f"weight_hh + ({gate} * H + {units}) * {inner} + {down}"
        elif node.op == "unproject":
            gate = self.cell.hidden_gates.index(node.key.split()[part])
            name, place = f"w{gate}_{begin}", f"weight_hh + ({gate} * H + {down}) * {outer} + {units}"
        elif node.op == "output":
            name, place = f"w_hr_{begin}", f"weight_hr + {units} * H + {down}"
        else:
            name, place = f"w_hr_{begin}", f"weight_hr + {down} * H + {units}"
        self.array("weight_hh" if "hh" in place else "weight_hr")
        text = f"{name} = tl.load({place}, mask=({down} < {inner}) & {inside}, other=0.0)"
        if name not in self.weights:
            self.weights[name] = text
        if list(self.weights).index(name) >= self.tiling.resident:
            self.line(text)
        return name

    def ask(self, value: str, base: str, begin: int, inner: str, now: bool) -> None:
        """Begin to read a value of all units."""
        along, wide = self.index("along", inner, begin), self.tiling.splits > 1
        n = value.rpartition("_")[2]
        self.line(f"there{n} = {base.replace('@', 'rows[None]' if wide else 'rows')} + {along}")
        self.line(f"inside{n} = {'live[None]' if wide else 'live'} & ({along} < {inner})")
        self.asked[int(n)] = f"tl.load(there{n}, mask=inside{n}, other=0.0, volatile=True)"
        if now:
            self.line(f"{value} = {self.asked[int(n)]}")

    def wait(self, value: str, n: int) -> None:
        """Read again and again until every program has stored its part."""
        with self.block(f"while missing({value}):"):
            self.line(f"{value} = {self.asked[n]}")

    def after_reset(self, value: str, begin: int, inner: str, operand: int) -> None:
        """What was read of the state before the step, with the initial state where it is reset."""
        if self.wish.resets and not self.wish.backward and self.nodes[operand].op == "state":
            k, along = self.cell.states.index(self.nodes[operand].key), self.index("along", inner, begin)
            fresh = f"tl.load(initial + {self.offsets[k]} + {along}, mask={along} < {inner}, other=0.0)"
            self.line(f"{value} = tl.where({'reset[None]' if self.tiling.splits > 1 else 'reset'}, {fresh}, {value})")

    # --- exchange ----------------------------------------------------------------------------------------

    def medium(self, i: int) -> tuple[str, str]:
        """The array by way of which a product's value is exchanged, and its width."""
        node = self.nodes[i]
        if self.wish.backward:
            for c, column in enumerate(self.plan.columns):
                if column.nodes == node.args:
                    return self.array(f"column{c}", True), f"({len(column.nodes)} * {column.size})"
            raise AssertionError("a product's gradients are a column")
        operand = node.args[0]
        return self.array(f"whole{operand}", True), "H" if node.op == "output" or not self.cell.projects_output else "P"

    def publish(self, readers: Iterable[int]) -> None:
        """Store this program's part of what these nodes read."""
        stored = set()
        for i in readers:
            node = self.nodes[i]
            if node.op == "mean":
                size = self.sizes[node.args[0]]
                value = f"tl.sum(tl.where(in_{size.lower()}, {self.full(node.args[0])}, 0.0), 1)"
                place = f"{self.partial(i)} + tile * all_rows + row"
                self.line(f"tl.store({place}, plain({value}), mask=alive)")
                continue
            name, width = self.medium(i)
            if name in stored:
                continue
            stored.add(name)
            if self.wish.backward:
                self.column(int(name.removeprefix("column")))
            else:
                size = "H" if width == "H" else "P"
                self.store(
                    self.step_of(name, width, "(step - start * all_rows)"), self.clean(node.args[0]), size, width
                )
        if stored or any(True for _ in readers):
            self.line("tl.debug_barrier()  # stored before anything is awaited")

    def partial(self, i: int) -> str:
        """Where this step's parts of a mean lie, (tiles, rows)."""
        return f"{self.array(f'mean{i}', True)} + (t - start) * (TILES * all_rows)"

    def clean(self, i: int) -> str:
        return f"plain({self.full(i)}).to(D)"

    def exchange(self, nodes: Sequence[int]) -> None:
        """Make the nodes that read a value of all units; the gates that project one value are one reading."""
        done: set[int] = set()
        for i in nodes:
            node = self.nodes[i]
            if node.op == "mean":
                size, count = self.sizes[node.args[0]], 1 << (self.tiling.tiles - 1).bit_length()
                self.line(f"each = tl.arange(0, {count})[None, :]")
                self.line(f"there = {self.partial(i)} + each * all_rows + rows")
                load = f"a{i} = tl.load(there, mask=live & (each < TILES), other=0.0, volatile=True)"
                self.line(load)
                with self.block(f"while missing(a{i}):"):
                    self.line(load)
                self.line(f"v{i} = tl.sum(a{i}, 1)[:, None] / {size}")
            elif i not in done:
                together = [
                    j for j in nodes if self.nodes[j].op == node.op == "project" and self.nodes[j].args == node.args
                ]
                together = sorted(together, key=lambda j: gate_rank(self.graph, j)) or [i]
                done.update(together)
                if self.from_before(i):
                    k = self.cell.states.index(self.reads(i))
                    self.array(f"new{k}", True)
                    base = f"before{k}"
                else:
                    name, width = self.medium(i)
                    base = self.step_of(name, width, "step" if self.wish.backward else "(step - start * all_rows)")
                self.product(together, base)

    # --- the end of a step ---------------------------------------------------------------------------------

    def column(self, c: int) -> None:
        """Store a column of what backward makes at each step; zeros where a step is not taken."""
        column = self.plan.columns[c]
        width = f"({len(column.nodes)} * {column.size})"
        base = self.step_of(self.array(f"column{c}"), width)
        for part, i in enumerate(column.nodes):
            value = f"tl.where(taken, {self.full(i)}, 0.0)" if self.wish.active else self.full(i)
            self.store(base, f"plain({value}).to(D)", column.size, width, part)
        self.stored.add(c)

    def finish(self) -> None:
        wish = self.wish
        if wish.backward:
            for k, i in enumerate(self.made):
                value = self.full(i)
                if wish.active:
                    seed = self.step_of(self.array("seed0"), self.state_sizes[0])
                    kept = f"g{k} + {self.load(seed, *self.state_sizes[:1] * 2)}" if k == 0 else f"g{k}"
                    value = f"tl.where(taken, {value}, {kept})"
                self.line(f"next{k} = {value}")
            for c in range(len(self.plan.columns)):
                if c not in self.stored:
                    self.column(c)
            for k in range(len(self.made)):
                if wish.resets:
                    self.line(f"cut{k} += tl.where(reset, next{k}, 0.0)")
                    self.line(f"next{k} = tl.where(reset, 0.0, next{k})")
                self.line(f"g{k} = next{k}")
            return
        awaited = {self.cell.states.index(self.reads(i)) for i in self.live if self.spread and self.from_before(i)}
        for k, i in enumerate(self.made):
            value = self.full(i)
            self.line(f"next{k} = {f'tl.where(taken, {value}, s{k})' if wish.active else value}")
        for k, size in sorted(enumerate(self.state_sizes), key=lambda pair: pair[0] not in awaited):
            if k == 0 or wish.keep or k in awaited:
                self.store(self.step_of(self.array(f"new{k}"), size), f"plain(next{k}).to(D)", size, size)
        for k in range(len(self.made)):
            self.line(f"s{k} = next{k}")
        for k, i in enumerate(wish.extras):
            name = self.array(f"keep{k}")
            if i in self.cell.shared:
                place = f"{self.step_of(name, '1')} + rows"
                self.line(f"tl.store({place}, v{i}.to(D), mask=live & (tile == 0))")
            else:
                self.store(self.step_of(name, self.sizes[i]), f"{self.full(i)}.to(D)", self.sizes[i], self.sizes[i])


def words(text: str) -> str:
    """What of a text a name and a comment can have in them: a cell's may come from anywhere."""
    return re.sub(r"[^0-9A-Za-z_]+", "_", text).strip("_")


def tile(size: str) -> str:
    return "OUTPUTS" if size == "P" else "UNITS"


@lru_cache(maxsize=512)
def write(wish: Wish, tiling: Tiling) -> Kernel:
    """The kernel for a wish, divided like this."""
    return Writer(wish, tiling).write()
