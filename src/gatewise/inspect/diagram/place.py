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
from dataclasses import dataclass

from gatewise.inspect.diagram.blocks import Block

STEPS, STARTS = 400, 6  # steps for each block
BLOCKED, CROSSED, BENT, SHARED, SIDE, BACK, OFF_ROW = 7.0, 5.0, 1.3, 0.5, 6.0, 14.0, 4.0
ORDER = 0.05
BUS, GATES = 1, 2  # rows; x_t has row 0
_ROWS = 64  # more than there ever are: cells are numbered column * _ROWS + row
RIGHT, UP, LEFT, DOWN = range(4)

Place = tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """What of the blocks the search needs: lines by source, lines along rows, and who may move where."""

    blocks: tuple[Block, ...]
    nets: tuple[tuple[int, tuple[int, ...]], ...]  # (source, sinks)
    lanes: tuple[tuple[int, ...], ...]  # each from a source to a result
    lane_of: tuple[int, ...]  # -1: none
    gates: tuple[int, ...]  # gates that read x_t
    movable: tuple[int, ...]
    joins: frozenset[int]


def plan(blocks: Sequence[Block]) -> Plan:
    sinks: list[list[int]] = [[] for _ in blocks]
    for v, block in enumerate(blocks):
        for wire in block.inputs:
            sinks[wire.source].append(v)
    lanes: list[tuple[int, ...]] = []
    taken: set[int] = set()
    for state in [b.state for b in blocks if b.kind == "result"]:
        lane = _lane(blocks, state, taken)
        if lane:
            lanes.append(lane)
            taken.update(lane)
    lanes.sort(key=len, reverse=True)
    lane_of = [next((k for k, lane in enumerate(lanes) if i in lane), -1) for i in range(len(blocks))]
    in_lane = {i for lane in lanes for i in lane}
    x = {i for i, b in enumerate(blocks) if b.state == "x"}
    joins = x | {i for i, b in enumerate(blocks) if b.kind == "join"}
    gates = [i for i, b in enumerate(blocks) if b.kind == "gate" and any(w.source in joins for w in b.inputs)]
    gates.sort(key=lambda i: min(blocks[i].covers, default=0))
    order = sorted((u for u in range(len(blocks)) if sinks[u]), key=lambda u: (u not in in_lane, u))
    return Plan(
        tuple(blocks),
        tuple((u, tuple(sinks[u])) for u in order),
        tuple(lanes),
        tuple(lane_of),
        tuple(gates),
        tuple(i for i, b in enumerate(blocks) if b.kind not in ("source", "result") or not b.state),
        frozenset(joins - x),
    )


def _lane(blocks: Sequence[Block], state: str, taken: set[int]) -> tuple[int, ...]:
    """The longest way from a state's old value to its new one through blocks without weights."""
    best: dict[int, tuple[int, ...]] = {}
    for v, block in enumerate(blocks):
        if block.kind == "source" and block.state == state:
            best[v] = (v,)
        elif block.kind in ("box", "circle") or (block.kind == "result" and block.state == state):
            ways = [best[w.source] for w in block.inputs if w.source in best]
            if ways and v not in taken:
                best[v] = (*max(ways, key=len), v)
                if block.kind == "result":
                    return best[v]
    return ()


def places(blocks: Sequence[Block], starts: int = STARTS, steps: int = STEPS) -> Iterator[tuple[float, list[Place]]]:
    """(cost, the place of each block), one for each start of the search."""
    shape = plan(blocks)
    for seed in range(starts):
        yield _Search(shape, random.Random(seed)).run(steps * len(blocks))


class _Search:
    def __init__(self, shape: Plan, rng: random.Random) -> None:
        self.plan, self.rng = shape, rng
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
        results = [v for v, block in enumerate(blocks) if block.kind == "result"]
        for v in range(len(blocks)):
            if v in results:
                continue
            free = 0
            while (self.col[v], self.row[v]) in used:
                free += 1
                if blocks[v].kind == "source" and blocks[v].state not in ("", "x"):
                    self.row[v] = (self.row[v] + 1) % (self.top + 1)
                else:
                    self.col[v] += 1
            used.add((self.col[v], self.row[v]))
        self.results = results
        for k, v in enumerate(results):
            if shape.lane_of[v] < 0:
                self.row[v] = BUS + k
        self._fix()
        self.lane_set = [set(lane) for lane in shape.lanes]

    def _fix(self) -> None:
        """Results stand in one column at the right end, each in a row of its own."""
        last = 1 + max(self.col[v] for v in range(len(self.col)) if v not in self.results)
        for v in self.results:
            self.col[v] = last

    def run(self, steps: int) -> tuple[float, list[Place]]:
        rng = self.rng
        cost = self.cost()
        best, kept = cost, (self.col[:], self.row[:])
        for k in range(steps):
            heat = 6.0 * (0.02 ** (k / steps))
            before = (self.col[:], self.row[:], self.lane_rows[:])
            if not self._move():
                self.col, self.row, self.lane_rows = before
                continue
            self._fix()
            new = self.cost()
            if new <= cost or rng.random() < math.exp((cost - new) / heat):
                cost = new
                if cost < best - 1e-9:
                    best, kept = cost, (self.col[:], self.row[:])
            else:
                self.col, self.row, self.lane_rows = before
        self.col, self.row = kept
        return best, compact(list(zip(self.col, self.row, strict=True)))

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

    # --- cost --------------------------------------------------------------------------------------------

    def cost(self) -> float:
        """How the drawing would read, if each line went with at most one bend."""
        col, row, shape = self.col, self.row, self.plan
        occupied = {c * _ROWS + r for c, r in zip(col, row, strict=True)}
        if len(occupied) < len(col):
            return 1e9
        total = 0.0
        owner: dict[int, int] = {}  # unit edges; several nets count once more each
        across: dict[int, list[int]] = {}
        along: dict[int, list[int]] = {}
        sides: dict[int, int] = {}  # block * 4 + side -> net
        for u, sinks in shape.nets:
            cu, ru = col[u], row[u]
            mine: set[int] = set()
            if len(sinks) > 1:
                sinks = tuple(sorted(sinks, key=lambda v: abs(col[v] - cu) + abs(row[v] - ru)))
            for v in sinks:
                dx, dy = col[v] - cu, row[v] - ru
                if dx < 0:
                    total += BACK - 3.0 * dx
                best, way = math.inf, None
                for flat_first in (True, False) if dx and dy else (bool(dx),):
                    found = self._way(u, v, flat_first, mine, occupied, owner, across, along, sides)
                    if found[0] < best:
                        best, way = found[0], found
                assert way is not None
                total += best
                _, edges, flat, steep, leave, enter = way
                for e in edges:
                    owner.setdefault(e, u)
                mine.update(edges)
                for cell in flat:
                    along.setdefault(cell, []).append(u)
                for cell in steep:
                    across.setdefault(cell, []).append(u)
                sides.setdefault(4 * u + leave, u)
                sides[4 * v + enter] = -1
        for v in shape.gates:
            total += OFF_ROW * abs(row[v] - GATES)
        for k, v in enumerate(shape.gates):  # else as the cell names them
            total += ORDER * sum(col[u] > col[v] for u in shape.gates[:k])
        for v, block in enumerate(shape.blocks):
            if block.kind == "join":
                total += 0.6 * abs(row[v] - BUS)
        return total

    def _way(self, u, v, flat_first, mine, occupied, owner, across, along, sides):  # type: ignore[no-untyped-def]
        cu, ru, cv, rv = self.col[u], self.row[u], self.col[v], self.row[v]
        step_c = 1 if cv > cu else -1
        step_r = 1 if rv > ru else -1
        cost = 0.0
        edges: list[int] = []
        flat: list[int] = []
        steep: list[int] = []
        # The horizontal run lies in row h, the vertical one in column k.
        h, k = (ru, cv) if flat_first else (rv, cu)
        if cu != cv:
            for c in range(cu, cv, step_c):
                e = 2 * ((c if step_c > 0 else c - 1) * _ROWS + h)
                if e not in mine:
                    edges.append(e)
                    cost += 1.0 + (SHARED if e in owner else 0.0)
                cell = c * _ROWS + h
                if c != cu:
                    flat.append(cell)
                    if cell in occupied:
                        cost += BLOCKED
                    for other in across.get(cell, ()):
                        if other != u:
                            cost += CROSSED
        if ru != rv:
            for r in range(ru, rv, step_r):
                e = 2 * (k * _ROWS + (r if step_r > 0 else r - 1)) + 1
                if e not in mine:
                    edges.append(e)
                    cost += 1.0 + (SHARED if e in owner else 0.0)
                cell = k * _ROWS + r
                if r != ru:
                    steep.append(cell)
                    if cell in occupied:
                        cost += BLOCKED
                    for other in along.get(cell, ()):
                        if other != u:
                            cost += CROSSED
        if cu != cv and ru != rv:
            cost += BENT
            if k * _ROWS + h in occupied:
                cost += BLOCKED
        flat_out = cu != cv and (flat_first or ru == rv)
        flat_in = cu != cv and (not flat_first or ru == rv)
        leave = (RIGHT if step_c > 0 else LEFT) if flat_out else (UP if step_r > 0 else DOWN)
        enter = (LEFT if step_c > 0 else RIGHT) if flat_in else (DOWN if step_r > 0 else UP)
        if leave == LEFT or enter == RIGHT or (leave != RIGHT and u in self.plan.joins):
            cost += SIDE
        if sides.get(4 * u + leave, u) != u:
            cost += SIDE
        if 4 * v + enter in sides:
            cost += SIDE
        return cost, edges, flat, steep, leave, enter


def compact(found: Sequence[Place]) -> list[Place]:
    """The same places without empty columns and rows."""
    columns = {c: k for k, c in enumerate(sorted({c for c, _ in found}))}
    rows = {r: k for k, r in enumerate(sorted({r for _, r in found}))}
    return [(columns[c], rows[r]) for c, r in found]
