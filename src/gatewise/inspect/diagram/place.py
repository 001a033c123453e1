"""Blocks -> places on a grid: columns from left to right as the step goes on, rows from x_t at the bottom upwards.

A state that is carried on element by element keeps its line: the blocks on the way from its old value to its new one
lie in one row, the line of the first such state along the top. Gates that read x_t lie in one row if they can. The
rest is found by simulated annealing, over a cost that counts what a reader minds: lines that pass behind a block or
run backwards, crossings, bends, length. Its random numbers are always the same ones.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from gatewise.inspect.diagram.blocks import Block
from gatewise.inspect.diagram.plan import BUS, GATES, RIGHT, ROWS, SIDE, Place, Plan, plan, ways

STEPS, STARTS = 400, 10  # steps for each block
BLOCKED, CROSSED, SHARED, BACK, OFF_ROW = 9.0, 8.0, 0.5, 14.0, 4.0
OFF_BUS, ORDER, HEAT, WORSE = 0.6, 0.05, 4.0, 9.0


def searches(blocks: Sequence[Block], effort: float = 1.0) -> Iterator[Search]:
    """A search that has ended, for each start; with its places, which differ."""
    shape = plan(blocks)
    seen: set[tuple[Place, ...]] = set()
    for seed in range(max(1, round(STARTS * effort))):
        search = Search(shape, random.Random(seed))
        search.run(max(60, round(STEPS * len(blocks) * effort)))
        if tuple(search.places()) not in seen:
            seen.add(tuple(search.places()))
            yield search


class Search:
    """Places of a cell's blocks that get better."""

    def __init__(self, shape: Plan, rng: random.Random) -> None:
        self.plan, self.rng, self.kept = shape, rng, False
        blocks = shape.blocks
        depth = [0] * len(blocks)
        for v, block in enumerate(blocks):
            depth[v] = max((depth[w.source] + 1 for w in block.inputs), default=0)
        inner = max(len(blocks), 1)
        self.top = max(5 + len(shape.lanes) - 1, GATES + 2 + math.isqrt(inner // 2))
        self.lane_rows = [self.top - k for k in range(len(shape.lanes))]
        self.col = [2 * d for d in depth]
        self.row = [0] * len(blocks)
        used: set[Place] = set()
        for v, block in enumerate(blocks):
            if block.state == "x":
                self.col[v] = 1
                continue
            self.row[v] = GATES if v in shape.gates else BUS if block.kind in ("join", "source") else GATES + 1
            if block.state and block.kind == "source":
                self.col[v] = 0
        for k, lane in enumerate(shape.lanes):
            for v in lane:
                self.row[v] = self.lane_rows[k]
        self.results = [v for v, block in enumerate(blocks) if block.kind == "result"]
        sources = [v for v, b in enumerate(blocks) if b.kind == "source" and b.state not in ("", "x")]
        for ends in (sources, self.results):
            rows = (r for r in range(BUS, ROWS) if r not in self.lane_rows)
            for v in ends:
                if shape.lane_of[v] < 0:
                    self.row[v] = next(rows)
        for v in range(len(blocks)):
            if v not in self.results:
                while (self.col[v], self.row[v]) in used:
                    self.col[v] += 1
                used.add((self.col[v], self.row[v]))
        self._fix()

    def _fix(self) -> None:
        """Results stand in one column at the right end, each in a row of its own."""
        last = 1 + max(self.col[v] for v in range(len(self.col)) if v not in self.results)
        for v in self.results:
            self.col[v] = last

    def run(self, steps: int) -> None:
        """Simulated annealing; the best places that it came by are kept."""
        rng = self.rng
        cost = self.cost()
        best, kept = cost, (self.col[:], self.row[:], self.lane_rows[:])
        for k in range(steps):
            heat = HEAT * (0.03 ** (k / steps))
            before = (self.col[:], self.row[:], self.lane_rows[:])
            if not self._move():
                self.col, self.row, self.lane_rows = before
                continue
            self._fix()
            bound = cost - heat * math.log(1.0 - rng.random())
            new = self.cost(bound)
            if new <= bound:
                cost = new
                if cost < best - 1e-9:
                    best, kept = cost, (self.col[:], self.row[:], self.lane_rows[:])
            else:
                self.col, self.row, self.lane_rows = before
        self.col, self.row, self.lane_rows = kept

    def places(self) -> list[Place]:
        """The place of each block, without empty columns and rows."""
        return compact(list(zip(self.col, self.row, strict=True)))

    # --- moves ------------------------------------------------------------------------------------------

    def _move(self) -> bool:
        rng, shape = self.rng, self.plan
        kind = rng.random()
        if kind < 0.08:
            return self._shift_columns()
        if kind < 0.14:
            return self._move_end()
        if kind < 0.18:
            return len(shape.lanes) > 1 and self._move_lane()
        v = rng.choice(shape.movable) if shape.movable and kind < 0.97 else self._x()
        if v < 0:
            return False
        if kind < 0.55:  # beside, above or below a neighbour
            near = [w.source for w in shape.blocks[v].inputs] + [t for u, ts in shape.nets if u == v for t in ts]
            if not near:
                return False
            u = rng.choice(near)
            c, r = self.col[v], self.row[v]
            if rng.random() < 0.5:
                c = self.col[u]
                if rng.random() < 0.5:
                    r = self.row[u] + rng.choice((-1, 1))
            else:
                r = self.row[u]
                if rng.random() < 0.5:
                    c = self.col[u] + rng.choice((-1, 1))
        else:
            c = self.col[v] + rng.choice((-2, -1, 0, 1, 2))
            r = self.row[v] + rng.choice((-2, -1, 0, 0, 1, 2))
        return self._put(v, c, r)

    def _x(self) -> int:
        return next((v for v, b in enumerate(self.plan.blocks) if b.state == "x"), -1)

    def _put(self, v: int, c: int, r: int) -> bool:
        """Block v to this cell, where its row allows; a block that is there goes where v was."""
        shape = self.plan
        if shape.blocks[v].state == "x":
            r = 0
        elif shape.lane_of[v] >= 0:
            r = self.row[v]
        elif r < 1 or r > self.top:
            return False
        if c < 1 or (c, r) == (self.col[v], self.row[v]):
            return False
        for u in range(len(self.col)):
            if self.col[u] == c and self.row[u] == r and u not in self.results:
                if u not in shape.movable or shape.blocks[u].state == "x":
                    return False
                if r != self.row[v] and (shape.lane_of[u] >= 0 or shape.lane_of[v] >= 0):
                    return False
                self.col[u], self.row[u] = self.col[v], self.row[v]
                break
        self.col[v], self.row[v] = c, r
        return True

    def _shift_columns(self) -> bool:
        """An empty column is put in or taken out."""
        columns = sorted(set(self.col))
        c = self.rng.choice(columns)
        if c < 1:
            return False
        by = self.rng.choice((-1, 1))
        if by < 0 and c - 1 in columns:
            return False
        self.col = [k + by if k >= c else k for k in self.col]
        return True

    def _move_end(self) -> bool:
        """The row of a state's source or result that is on no lane."""
        blocks = self.plan.blocks
        ends = [
            v
            for v, b in enumerate(blocks)
            if b.kind in ("source", "result") and b.state not in ("", "x") and self.plan.lane_of[v] < 0
        ]
        if not ends:
            return False
        v = self.rng.choice(ends)
        near = [w.source for w in blocks[v].inputs] + [t for u, ts in self.plan.nets if u == v for t in ts]
        r = self.row[self.rng.choice(near)] if near and self.rng.random() < 0.6 else self.rng.randint(1, self.top)
        for u in range(len(self.col)):
            if u != v and self.col[u] == self.col[v] and self.row[u] == r:
                if self.plan.lane_of[u] >= 0 or u not in ends:
                    return False
                self.row[u] = self.row[v]
        if r < 1:
            return False
        self.row[v] = r
        return True

    def _move_lane(self) -> bool:
        """A lane to another row; the blocks of that row take its own."""
        rng, shape = self.rng, self.plan
        k = rng.randrange(1, len(shape.lanes)) if rng.random() < 0.8 else 0
        old, new = self.lane_rows[k], rng.randint(1, self.top)
        if old == new or (k == 0 and new not in self.lane_rows):
            return False
        if k > 0 and new == self.lane_rows[0]:
            return False
        swapped = {old: new, new: old}
        x = self._x()
        self.row = [row if v == x else swapped.get(row, row) for v, row in enumerate(self.row)]
        self.lane_rows = [swapped.get(row, row) for row in self.lane_rows]
        return True

    def tries(self, count: int) -> Iterator[list[Place]]:
        """Places one move away from those that `keep` was last called after."""
        kept = (self.col[:], self.row[:], self.lane_rows[:])
        bound = self.cost() + WORSE
        seen: set[tuple[Place, ...]] = set()
        for _ in range(count):
            if self.kept:
                kept, self.kept = (self.col[:], self.row[:], self.lane_rows[:]), False
                bound = self.cost() + WORSE
            self.col, self.row, self.lane_rows = (some[:] for some in kept)
            if not all(self._move() for _ in range(self.rng.choice((1, 1, 2)))):
                continue
            self._fix()
            if self.cost(bound) <= bound:
                found = self.places()
                if tuple(found) not in seen:
                    seen.add(tuple(found))
                    yield found

    def keep(self) -> None:
        """The places that `tries` gave last are those to go on from."""
        self.kept = True

    # --- cost --------------------------------------------------------------------------------------------

    def misalignment(self) -> float:
        """How far gates are from one row and the cell's order, and joins from theirs."""
        col, row, shape = self.col, self.row, self.plan
        total = OFF_ROW * sum(abs(row[v] - GATES) for v in shape.gates)
        total += OFF_BUS * sum(abs(row[v] - BUS) for v in shape.joins)
        return total + ORDER * sum(col[u] > col[v] for k, v in enumerate(shape.gates) for u in shape.gates[:k])

    def cost(self, bound: float = math.inf) -> float:
        """How the drawing would read, if each line went with at most one bend; above the bound only that it is."""
        col, row, shape = self.col, self.row, self.plan
        occupied = {c * ROWS + r for c, r in zip(col, row, strict=True)}
        if len(occupied) < len(col):
            return 1e9
        total = self.misalignment()
        owned: set[int] = set()  # unit edges, and the cells that lines cross upwards and sideways
        upright: set[int] = set()
        level: set[int] = set()
        sides: dict[int, int] = {}  # block * 4 + side -> net
        for u, sinks in shape.nets:
            if total > bound:
                return total
            here = col[u] * ROWS + row[u]
            mine: set[int] = set()
            my_upright: set[int] = set()
            my_level: set[int] = set()
            if len(sinks) > 1:
                sinks = tuple(sorted(sinks, key=lambda v: abs(col[v] - col[u]) + abs(row[v] - row[u])))
            for v in sinks:
                same_lane = shape.lane_of[u] >= 0 and shape.lane_of[u] == shape.lane_of[v]
                blocked = 4 * BLOCKED if same_lane else BLOCKED
                dx = col[v] - col[u]
                if dx < 0 or (not dx and u in shape.joins):
                    total += BACK - 3.0 * dx
                best, taken = math.inf, None
                for way in ways(here, col[v] * ROWS + row[v]):
                    new = way.edges - mine
                    cost = len(new) + SHARED * len(new & owned) + way.cost + blocked * len(way.inside & occupied)
                    cost += CROSSED * (len(way.level & upright) + len(way.upright & level))
                    if sides.get(4 * u + way.leave, u) != u:
                        cost += SIDE
                    if 4 * v + way.enter in sides:
                        cost += SIDE
                    if way.leave != RIGHT and u in shape.joins:
                        cost += SIDE
                    if cost < best:
                        best, taken = cost, way
                assert taken is not None
                total += best
                mine |= taken.edges
                my_level |= taken.level
                my_upright |= taken.upright
                sides.setdefault(4 * u + taken.leave, u)
                sides[4 * v + taken.enter] = -1
            owned |= mine
            level |= my_level
            upright |= my_upright
        return total


def compact(found: Sequence[Place]) -> list[Place]:
    """The same places without empty columns and rows."""
    columns = {c: k for k, c in enumerate(sorted({c for c, _ in found}))}
    rows = {r: k for k, r in enumerate(sorted({r for _, r in found}))}
    return [(columns[c], rows[r]) for c, r in found]
