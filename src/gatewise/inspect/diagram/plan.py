"""What the search for places needs of the blocks: lines, lanes, rows; and the ways of a line between two cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from gatewise.inspect.diagram.blocks import Block

BENT, SIDE = 1.3, 6.0  # costs: of a bend, and of a side that a line should not take
BUS, GATES = 1, 2  # rows; x_t has row 0
ROWS = 64  # more than there ever are: cells are numbered column * ROWS + row
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
    gathered = {w.source for b in blocks if b.kind == "join" for w in b.inputs}  # normalised before they meet
    gates = [i for i, b in enumerate(blocks) if b.kind == "gate" and i not in gathered]
    gates = [i for i in gates if any(w.source in joins for w in blocks[i].inputs)]
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


@dataclass(frozen=True, slots=True)
class Way:
    """A line with at most one bend: its unit edges, the cells that it passes, the sides that it takes."""

    edges: frozenset[int]
    level: frozenset[int]
    upright: frozenset[int]
    inside: frozenset[int]
    leave: int
    enter: int
    cost: float


@lru_cache(maxsize=1 << 16)
def ways(start: int, end: int) -> tuple[Way, ...]:
    """The ways from cell to cell: first along the row, and first along the column."""
    (cu, ru), (cv, rv) = divmod(start, ROWS), divmod(end, ROWS)
    flat, steep = cu != cv, ru != rv
    found = []
    for flat_first in (True, False) if flat and steep else (flat,):
        h, k = (ru, cv) if flat_first else (rv, cu)  # the row of the level stretch, the column of the upright one
        left, right, low, high = min(cu, cv), max(cu, cv), min(ru, rv), max(ru, rv)
        edges = {2 * (c * ROWS + h) for c in range(left, right)}
        edges |= {2 * (k * ROWS + r) + 1 for r in range(low, high)}
        level = {c * ROWS + h for c in range(left + 1, right)}
        upright = {k * ROWS + r for r in range(low + 1, high)}
        bend = {k * ROWS + h} if flat and steep else set()
        sideways, updown = (RIGHT, LEFT) if cv > cu else (LEFT, RIGHT), (UP, DOWN) if rv > ru else (DOWN, UP)
        leave = sideways[0] if flat and (flat_first or not steep) else updown[0]
        enter = sideways[1] if flat and (not flat_first or not steep) else updown[1]
        cost = (BENT if bend else 0.0) + (SIDE if leave == LEFT or enter == RIGHT else 0.0)
        inside = frozenset(level | upright | bend)
        found.append(Way(frozenset(edges), frozenset(level), frozenset(upright), inside, leave, enter, cost))
    return tuple(found)
