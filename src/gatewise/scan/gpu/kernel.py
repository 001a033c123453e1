"""A graph -> the source of its GPU kernel in Triton.

Each program of a launch has a tile of rows (samples) x units for all steps, and of the weights what makes these units,
which stays on the chip. Element-wise nodes are a line each; products.py writes the rest.
"""

from __future__ import annotations

from functools import lru_cache

from gatewise.graph.ops import OPS
from gatewise.graph.rules import MASKS
from gatewise.scan.gpu.products import Products
from gatewise.scan.gpu.source import NUMBERS, PRODUCTS, Kernel, Tiling, Wish, tile, words
from gatewise.scan.program import PARAMETERS


class Writer(Products):
    """A kernel: what comes before the steps, and a step."""

    # --- the parts of a kernel ---------------------------------------------------------------------------

    def write(self) -> Kernel:
        body = self.body()
        backward = self.wish.backward
        # No digit comes first, and no file that Triton keeps gets too long a name.
        name = f"{'backward' if backward else 'forward'}_{words(self.cell.name)[:80]}"
        prologue = self.prologue()
        arguments = ", ".join([*self.arrays, *NUMBERS])
        title = f'"""{"Backward" if backward else "Forward"} scan, {self.wish.type}."""'
        lines = [f"def {name}({arguments}):", f"    {title}", *prologue, *body]
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
            "SPLITS": t.splits, "WARPS": t.warps, "GATES_HH": len(self.cell.hidden_gates),
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
        widths |= {"turned_hh": widths["weight_hh"], "turned_hr": widths["weight_hr"]}
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
        self.products_of_initial()
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
        wish = self.wish
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
                fresh = f"{self.array('initial')} + {self.offsets[k]} + {low}s, mask=in_{low}, other=0.0"
                self.line(f"s{k} = tl.where(reset, tl.load({fresh}).to(F), s{k})")

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
            self.line(f"v{i} = {self.sum_of_tile(node.args[0])}[:, None] / {self.sizes[node.args[0]]}")
        else:
            self.line(f"v{i} = {self.expression(i)}", self.named(i))

    def expression(self, i: int) -> str:
        node = self.nodes[i]
        if node.op == "mean":  # of what all units share already
            return f"v{node.args[0]}"
        given = dict(node.params)
        defaults = dict(PARAMETERS.get(node.op, ()))
        parameters = {name: self.number(given.get(name, default)) for name, default in defaults.items()}
        return OPS[node.op].triton.format(*(f"v{a}" for a in node.args), **parameters)

    # --- the end of a step ---------------------------------------------------------------------------------

    def finish(self) -> None:
        wish = self.wish
        if wish.backward:
            for k, i in enumerate(self.made):
                value = self.full(i)
                if wish.active:
                    seed = self.step_of(self.array("seed0"), self.state_sizes[0])
                    kept = f"g{k} + {self.load(seed, self.state_sizes[0], self.state_sizes[0])}" if k == 0 else f"g{k}"
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


@lru_cache(maxsize=512)
def write(wish: Wish, tiling: Tiling) -> Kernel:
    """The kernel for a wish, divided like this."""
    return Writer(wish, tiling).write()
