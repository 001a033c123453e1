"""Products with the weights, and how programs exchange what these read.

Where a program has all units of its rows, a product reads its registers. Else the programs that share rows exchange
the value through memory, without a lock: a buffer has a place for each step, and "not there yet", all bits set, in
every place, which is a NaN that arithmetic never makes. Each program stores its part, and reads the whole again and
again until nothing is missing. What was read is then what was stored, whatever the order in which the stores became
visible.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gatewise.scan.gpu.source import Source, tile
from gatewise.scan.plan import gate_rank


class Products(Source):
    """The products and means of a step."""

    # --- products --------------------------------------------------------------------------------------

    def product(self, made: Sequence[int], base: str | None) -> None:
        """The products of one value: from registers, or from memory where its rows are awaited."""
        node = self.nodes[made[0]]
        inner, terms = self.inner(node.op)
        outer = self.sizes[made[0]]
        operands = [(0, node.args[0])] if node.op != "unproject" else list(enumerate(node.args))
        width = f"{len(node.args)} * {inner}" if len(node.args) > 1 else inner
        steps = [
            (part, operand, begin) for part, operand in operands for begin in range(0, terms, self.terms_at_once(inner))
        ]
        values = [f"a{made[0]}_{n}" for n in range(len(steps))]
        rows = "rows[None]" if self.tiling.splits > 1 else "rows"
        for n, (part, _, begin) in enumerate(steps if base is not None else ()):
            offset = f" + {part} * {inner}" if part else ""
            self.ask(values, n, f"{base} + {rows} * ({width}){offset}", begin, inner)
        for n, (part, operand, begin) in enumerate(steps):
            self.operand(values, n, base, begin, inner, operand)
            if n > 0 and base is not None and not self.wish.on_tensor_cores:
                self.hold([*(f"sum{i}" for i in made), values[n]])
            self.multiply(values[n], made, [self.weight(i, part, begin, inner, outer) for i in made], n == 0)
        self.sum_up(made)
        for i in made:
            value = self.finished(i)
            if self.wish.resets and self.spread and self.from_before(i):
                value = f"tl.where(reset, fresh{i}, {value})"
            self.line(f"v{i} = {value}", self.named(i) or f"{self.nodes[i].op} {self.nodes[i].key}")

    def inner(self, op: str) -> tuple[str, int]:
        """Over what a product sums, H or P, and how many terms these are."""
        inner = {"project": "P" if self.cell.projects_output else "H", "output": "H", "unoutput": "P"}.get(op, "H")
        return inner, self.wish.hidden if inner == "H" else self.wish.output

    def sum_up(self, made: Sequence[int]) -> None:
        """Add up the parts of each product's sum, which go through shared memory, two products' at once."""
        for k in range(0, len(made), 2) if self.tiling.splits > 1 else ():
            sums = ", ".join(f"sum{i}" for i in made[k : k + 2])
            self.line(f"{sums} = {'totals' if ',' in sums else 'total'}({sums})")

    def finished(self, i: int) -> str:
        """A product, its bias added."""
        if self.nodes[i].op != "project":
            return f"sum{i}"
        self.array("bias_hh")
        return f"sum{i} + bias{self.cell.hidden_gates.index(self.nodes[i].key)}"

    def operand(self, values: Sequence[str], n: int, base: str | None, begin: int, inner: str, operand: int) -> None:
        """Have the n-th part of what a product reads at hand."""
        if base is None:
            inside = f"tl.where(in_{inner.lower()}, {self.full(operand)}, 0.0).to(D)"
            split = f"tl.permute(tl.reshape({inside}, (ROWS, SPLITS, DEPTH_{inner} // SPLITS)), (1, 0, 2))"
            self.line(f"{values[n]} = {split if self.tiling.splits > 1 else inside}")
            return
        if n % self.tiling.ahead == 0:
            self.wait(values, n, base.startswith("before"))
        if (later := n + self.tiling.ahead) < len(values):
            self.read(values, later)

    def hold(self, values: Sequence[str]) -> None:
        """Keep multiply-adds that no tensor core does where they stand, before the next part is at hand.

        LLVM would move them to the end of the step, but not what they read from shared memory, which then is in
        registers; and Triton would copy all parts to shared memory first, where the weights leave no room for them. The
        interpreter has no assembler, and needs none.
        """
        for value in values if not self.wish.widen else ():
            self.line(f"{value} = held({value})")

    def multiply(self, value: str, made: Sequence[int], weights: Sequence[str], first: bool) -> None:
        """Add a part's products to each sum."""
        wide = ".to(F)" if self.wish.widen else ""
        how = f'input_precision="{self.wish.precision}", out_dtype=F'
        for i, weight in zip(made, weights, strict=True):
            self.line(f"sum{i} = tl.dot({value}{wide}, {weight}{wide}{'' if first else f', sum{i}'}, {how})")

    def terms_at_once(self, inner: str) -> int:
        """How many terms of a product's sum are multiplied at a time."""
        return self.tiling.depth if self.spread else self.tiling.units if inner == "H" else self.tiling.outputs

    def index(self, axis: str, inner: str, begin: int) -> str:
        """The terms of a sum over H or P, from `begin` on, along an axis of what is multiplied."""
        index = f"{axis}_{inner.lower()}"
        return f"({index} + {begin})" if begin else index

    def weight(self, i: int, part: int, begin: int, inner: str, outer: str) -> str:
        """The name of a block of weights, terms x units; one that is not on the chip is loaded here.

        Where no tensor core multiplies, it comes from a copy with units side by side, as it then is in shared memory:
        else a warp's threads, each of which reads another unit's weights, would all read from one bank of it.
        """
        node, low = self.nodes[i], outer.lower()
        down = self.index("down", inner, begin)
        units = f"{low}s[None]" if self.tiling.splits > 1 else f"{low}s"
        inside = f"in_{low}[None]" if self.tiling.splits > 1 else f"in_{low}"
        turned = ""
        if node.op == "project":
            gate = self.cell.hidden_gates.index(node.key)
            name, place = f"w{gate}_{begin}", f"weight_hh + ({gate} * H + {units}) * {inner} + {down}"
            turned = f"turned_hh + ({gate} * {inner} + {down}) * H + {units}"
        elif node.op == "unproject":
            gate = self.cell.hidden_gates.index(node.key.split()[part])
            name, place = f"w{gate}_{begin}", f"weight_hh + ({gate} * H + {down}) * {outer} + {units}"
        elif node.op == "output":
            name, place = f"w_hr_{begin}", f"weight_hr + {units} * H + {down}"
            turned = f"turned_hr + {down} * P + {units}"
        else:
            name, place = f"w_hr_{begin}", f"weight_hr + {down} * H + {units}"
        place = place if self.wish.on_tensor_cores else turned or place
        self.array(place.partition(" ")[0])
        text = f"{name} = tl.load({place}, mask=({down} < {inner}) & {inside}, other=0.0)"
        if name not in self.weights:
            self.weights[name] = text
        if list(self.weights).index(name) >= self.tiling.resident:
            self.line(text)
        return name

    def ask(self, values: Sequence[str], n: int, rows: str, begin: int, inner: str) -> None:
        """Say where the n-th part of a value of all units lies, and begin to read it, if it is one of the first."""
        along, live = self.index("along", inner, begin), "live[None]" if self.tiling.splits > 1 else "live"
        self.line(f"there{n} = {rows} + {along}")
        self.line(f"inside{n} = {live} & ({along} < {inner})")
        if n < self.tiling.ahead:
            self.read(values, n)

    def read(self, values: Sequence[str], n: int) -> None:
        self.line(f"{values[n]} = tl.load(there{n}, mask=inside{n}, other=0.0, volatile=True)")

    def wait(self, values: Sequence[str], first: int, before: bool) -> None:
        """Read what is under way again and again until every program has stored its part; the states before the first
        step are there, whatever their bits.

        One look at all of it, not one each: a look takes barriers, and what was read too early is read anew at once,
        not part after part. No warp waits here before all warps of its program have stored their part.
        """
        under_way = range(first, min(first + self.tiling.ahead, len(values)))
        with self.block(f"while {self.any_missing(values[n] for n in under_way)}{' & (t > 0)' if before else ''}:"):
            for n in under_way:
                self.read(values, n)

    def any_missing(self, values: Iterable[str]) -> str:
        return f"missing(({', '.join(values)},), WARPS)"

    def products_of_initial(self) -> None:
        """Before the first step: the products of states before a step, made of the initial ones.

        A reset then is a choice of what a product made, a tile's units, and not of what it reads, all units.
        """
        for i in self.live if self.wish.resets and self.spread else ():
            if not self.from_before(i):
                continue
            node, k = self.nodes[i], self.cell.states.index(self.reads(i))
            inner, terms = self.inner(node.op)
            wide = f"(SPLITS, ROWS, DEPTH_{inner} // SPLITS)" if self.tiling.splits > 1 else f"(ROWS, DEPTH_{inner})"
            for begin in range(0, terms, self.terms_at_once(inner)):
                along = self.index("along", inner, begin)
                load = (
                    f"tl.load({self.array('initial')} + {self.offsets[k]} + {along}, mask={along} < {inner}, other=0.0)"
                )
                self.line(f"a = tl.broadcast_to({load}, {wide})")
                self.multiply("a", [i], [self.weight(i, 0, begin, inner, self.sizes[i])], begin == 0)
            self.sum_up([i])
            self.line(f"fresh{i} = {self.finished(i)}")

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

    def publish(self, readers: Sequence[int]) -> None:
        """Store this program's part of what these nodes read."""
        stored = set()
        for i in readers:
            node = self.nodes[i]
            if node.op == "mean":
                value = self.sum_of_tile(node.args[0])
                low = self.sizes[node.args[0]].lower()
                # As a tile, of which a column is stored: one of rows alone would go through shared memory.
                place = f"{self.parts_of_mean(i)} + tile + 0 * {low}s"
                first = f"live & ({low}s == tile * {tile(self.sizes[node.args[0]])})"
                self.line(f"tl.store({place}, plain({value})[:, None], mask={first})")
                continue
            name, width = self.medium(i)
            if name in stored:
                continue
            stored.add(name)
            if self.wish.backward:
                self.column(int(name.removeprefix("column")))
            else:
                size = "H" if width == "H" else "P"
                value = f"plain({self.full(node.args[0])}).to(D)"
                self.store(self.step_of(name, width, "(step - start * all_rows)"), value, size, width)

    def parts_of_mean(self, i: int) -> str:
        """Where this step's parts of a mean lie, one of each tile; the means of a level lie side by side, so that one
        address serves all."""
        level = self.level[i]
        means = [j for j in self.live if self.level[j] == level and self.nodes[j].op == "mean" and self.exchanges(j)]
        name, width = self.array(f"means{level}x{len(means)}", True), f"({len(means)} * TILES)"
        return f"{name} + ((t - start) * all_rows + rows) * {width} + {means.index(i)} * TILES"

    def sum_of_tile(self, i: int) -> str:
        """The sum of a value over this program's units, of each row.

        Adding 0 ends a value that is a product. Else the sum's first addition is a fused one that rounds the product of
        the other thread but not its own; threads that all store the sum then have different ones.
        """
        return f"tl.sum(tl.where(in_{self.sizes[i].lower()}, {self.full(i)}, 0.0) + 0.0, 1)"

    def exchange(self, nodes: Sequence[int]) -> None:
        """Make the nodes that read a value of all units; the gates that project one value are one reading."""
        means = [i for i in nodes if self.nodes[i].op == "mean"]
        loads = {i: f"a{i} = tl.load(there{i}, mask=live & (each < TILES), other=0.0, volatile=True)" for i in means}
        if means:
            # As many numbers as threads at least: of fewer each warp loads a copy, `missing` sees one, sums another.
            across = max(1 << (self.tiling.tiles - 1).bit_length(), 32 * self.tiling.warps // self.tiling.rows)
            self.line(f"each = tl.arange(0, {across})[None, :]")
            for i in means:
                self.line(f"there{i} = {self.parts_of_mean(i)} + each")
                self.line(loads[i])
            with self.block(f"while {self.any_missing(f'a{i}' for i in means)}:"):
                for i in means:
                    self.line(loads[i])
        for i in means:
            self.line(f"v{i} = tl.sum(a{i}, 1)[:, None] / {self.sizes[self.nodes[i].args[0]]}", self.named(i))
        done: set[int] = set(means)
        for i in nodes:
            node = self.nodes[i]
            if i not in done:
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

    def column(self, c: int) -> None:
        """Store a column of what backward makes at each step; zeros where a step is not taken."""
        column = self.plan.columns[c]
        width = f"({len(column.nodes)} * {column.size})"
        base = self.step_of(self.array(f"column{c}"), width)
        for part, i in enumerate(column.nodes):
            value = f"tl.where(taken, {self.full(i)}, 0.0)" if self.wish.active else self.full(i)
            self.store(base, f"plain({value}).to(D)", column.size, width, part)
        self.stored.add(c)
