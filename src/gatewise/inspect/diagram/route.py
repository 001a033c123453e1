"""Lines between placed blocks: orthogonal, each on a track of its own, with as few crossings and bends as can be.

The grid of places gets tracks between its columns and rows. Lines run along tracks and through the middle of free
cells; each takes the cheapest way, and then each in turn is taken up and laid again while that makes the whole cheaper.
Two lines never share a stretch of a track and meet only where both go straight on.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gatewise.inspect.diagram.blocks import Block
from gatewise.inspect.diagram.plan import DOWN, LEFT, RIGHT, UP, Place, plan

BENDS, CROSSES, BACKWARDS, FROM_ABOVE, BRANCHES = 18.0, 110.0, 40.0, 1.5, 1.0
PAIRS = 20  # of nets that cross, laid anew together in a round
TO_TRACK, NEXT_TRACK = 4.0, 1.0  # lengths: from the middle of a cell to the track beside it, from track to track
_TURN = (LEFT, DOWN, RIGHT, UP)  # the opposite direction
_FLAT = (1 << RIGHT) | (1 << LEFT)
_STEEP = (1 << UP) | (1 << DOWN)

End = tuple[int, int]  # (block, which of its inputs)


@dataclass(frozen=True)
class Routes:
    """cost: of all lines. tracks: in each channel. ways: for each line's end the vertices (x, y) of its way there."""

    cost: float
    tracks: int
    ways: dict[End, list[Place]]
    crossings: int


class NoWayError(RuntimeError):
    """Lines between blocks that lie so cannot all be laid."""


def route(blocks: Sequence[Block], places: Sequence[Place], tracks: int = 2, rounds: int = 3) -> Routes:
    """The lines; the channels get more tracks until all fit. Raises NoWayError if they never do."""
    for more in range(0, 10, 2):
        router = _Router(blocks, places, tracks + more)
        if router.lay(rounds):
            return router.routes()
    raise NoWayError("the lines of the diagram find no way")


class _Router:
    def __init__(self, blocks: Sequence[Block], places: Sequence[Place], tracks: int) -> None:
        self.blocks, self.tracks = blocks, tracks
        pitch = tracks + 1
        columns, rows = (1 + max(p[k] for p in places) for k in (0, 1))
        self.nx, self.ny = columns * pitch + tracks, rows * pitch + tracks
        self.at = [(r * pitch + tracks) * self.nx + c * pitch + tracks for c, r in places]
        self.block_at = {p: v for v, p in enumerate(self.at)}
        first_x, last_x, first_y = tracks, (columns - 1) * pitch + tracks, tracks
        self.lengths: list[list[float]] = [[0.0] * (self.nx * self.ny) for _ in range(4)]  # 0: no way
        for y in range(first_y, self.ny):
            for x in range(first_x, last_x + 1):
                p = y * self.nx + x
                if x < last_x and y > first_y:
                    step = TO_TRACK if tracks in (x % pitch, (x + 1) % pitch) else NEXT_TRACK
                    self.lengths[RIGHT][p] = self.lengths[LEFT][p + 1] = step
                if y + 1 < self.ny and first_x < x < last_x:
                    step = TO_TRACK if tracks in (y % pitch, (y + 1) % pitch) else NEXT_TRACK
                    self.lengths[UP][p] = self.lengths[DOWN][p + self.nx] = step
        self.along = [0.0]  # where the k-th track or middle lies, in lengths
        for k in range(max(self.nx, self.ny)):
            self.along.append(self.along[-1] + (TO_TRACK if tracks in (k % pitch, (k + 1) % pitch) else NEXT_TRACK))
        self.deltas = (1, self.nx, -1, -self.nx)
        self.steps = dict(zip(self.deltas, self.lengths, strict=True))
        self.used: list[dict[int, int]] = [{} for _ in range(self.nx * self.ny)]  # net -> directions, as bits
        self.ways: dict[End, list[int]] = {}
        self.ends: dict[int, list[End]] = {}
        for v, block in enumerate(blocks):
            for k, wire in enumerate(block.inputs):
                self.ends.setdefault(wire.source, []).append((v, k))
        self.fixed: set[End] = set()
        for lane in plan(blocks).lanes:
            for u, v in pairwise(lane):
                k = next(k for k, wire in enumerate(blocks[v].inputs) if wire.source == u)
                self.fixed.add((v, k))

    # --- laying ------------------------------------------------------------------------------------------

    def lay(self, rounds: int) -> bool:
        """Whether all lines could be laid."""
        ends = [end for some in self.ends.values() for end in some]
        ends.sort(key=lambda end: (end not in self.fixed, self._distance(end), end))
        for _ in range(6):
            stuck = next((end for end in ends if not self._lay(end)), None)
            if stuck is None:
                break
            for end in ends:
                self._take_up(end)
            ends.sort(key=lambda end: (end not in self.fixed, end != stuck))
        else:
            return False
        for _ in range(rounds):
            changed = False
            for net, all_ends in self.ends.items():
                changed |= self._lay_again(net, [end for end in all_ends if end not in self.fixed])
            for pair in self._neighbours()[:PAIRS]:
                changed |= self._lay_together(pair)
            if not changed:
                break
        return True

    def _neighbours(self) -> list[tuple[list[End], list[End]]]:
        """Pairs of nets that cross."""
        pairs = sorted({tuple(sorted(used)) for used in self.used if len(used) > 1})
        free = {net: [end for end in ends if end not in self.fixed] for net, ends in self.ends.items()}
        return [(free[pair[0]], free[pair[1]]) for pair in pairs]

    def _distance(self, end: End) -> int:
        a, b = self.at[self._net(end)], self.at[end[0]]
        return abs(a % self.nx - b % self.nx) + abs(a // self.nx - b // self.nx)

    def _net(self, end: End) -> int:
        return self.blocks[end[0]].inputs[end[1]].source

    def _lay_again(self, net: int, ends: list[End]) -> bool:
        near = sorted(ends, key=lambda end: (self._distance(end), end))
        orders = [near, near[::-1]] if len(near) > 1 else [near]
        return self._better(ends, orders)

    def _lay_together(self, pair: tuple[list[End], list[End]]) -> bool:
        return self._better([*pair[0], *pair[1]], [[*pair[0], *pair[1]], [*pair[1], *pair[0]]])

    def _better(self, ends: list[End], orders: Iterable[list[End]]) -> bool:
        before = self.cost(ends)
        kept = {end: self.ways[end] for end in ends}
        best, better = before, None
        for order in orders:
            for end in ends:
                self._take_up(end)
            if all(self._lay(end) for end in order) and (cost := self.cost(ends)) < best - 1e-6:
                best, better = cost, {end: self.ways[end] for end in order}
            for end in ends:
                self._take_up(end)
            for end, way in kept.items():
                self._put(end, way)
        if better is None:
            return False
        for end in ends:
            self._take_up(end)
        for end, way in better.items():
            self._put(end, way)
        return True

    def _put(self, end: End, way: list[int]) -> None:
        self.ways[end] = way
        self._mark(self._net(end), way)

    def _mark(self, net: int, way: list[int]) -> None:
        for p, q in pairwise(way):
            d = self.deltas.index(q - p)
            self.used[p][net] = self.used[p].get(net, 0) | 1 << d
            self.used[q][net] = self.used[q].get(net, 0) | 1 << _TURN[d]

    def _take_up(self, end: End) -> None:
        way = self.ways.pop(end, None)
        if way is None:
            return
        net = self._net(end)
        for p in {p for other in (way, *self._ways_of(net)) for p in other}:
            self.used[p].pop(net, None)
        for other in self._ways_of(net):
            self._mark(net, other)

    def _ways_of(self, net: int) -> list[list[int]]:
        return [self.ways[end] for end in self.ends[net] if end in self.ways]

    def _room(self, v: int, leaving: bool) -> bool:
        """Whether block v keeps sides enough for its other lines if one more line leaves it, or comes in."""
        masks = self.used[self.at[v]]
        taken = sum(mask.bit_count() for mask in masks.values())
        to_come = sum((v, k) not in self.ways for k in range(len(self.blocks[v].inputs)))
        if not leaving:
            to_come += (v in self.ends and v not in masks) - 1
        return taken + 1 + to_come <= 4

    # --- one line ----------------------------------------------------------------------------------------

    def _lay(self, end: End) -> bool:
        net, target = self._net(end), self.at[end[0]]
        used, lengths, deltas = self.used, self.lengths, self.deltas
        costs: dict[int, float] = {}
        before: dict[int, int] = {}
        queue: list[tuple[float, float, int]] = []  # (with the length that is left at least, so far, state)
        source = self.at[net]
        goal_x, goal_y = self.along[target % self.nx], self.along[target // self.nx]
        tree = {p for way in self._ways_of(net) for p in way} | {source}

        def offer(p: int, d: int, cost: float, last: int) -> None:
            """The step from p in direction d, if it may be taken."""
            length = lengths[d][p]
            if not length:
                return
            q = p + deltas[d]
            if q in tree and q != target:
                return
            there = used[q]
            if q == target:
                if d == LEFT and self.blocks[end[0]].kind == "join":
                    return
                if any(mask >> _TURN[d] & 1 for mask in there.values()):
                    return
                cost += BACKWARDS if d == LEFT else FROM_ABOVE if d == DOWN else 0.0
            elif q in self.block_at:
                return
            else:
                straight = _STEEP if d in (RIGHT, LEFT) else _FLAT
                for mask in there.values():
                    if mask != straight:
                        return
                    cost += CROSSES
            cost += length
            state = q * 4 + d
            if cost < costs.get(state, math.inf) - 1e-9:
                costs[state] = cost
                before[state] = last
                to_go = abs(self.along[q % self.nx] - goal_x) + abs(self.along[q // self.nx] - goal_y)
                heapq.heappush(queue, (cost + to_go, cost, state))

        room = self._room(net, True)
        for p in sorted(tree):
            if p != source and (len(used[p]) > 1 or p in self.block_at):
                continue
            mine = used[p].get(net, 0)
            for d in range(4):
                if p == source:
                    if not room and mine:
                        break
                    if d != RIGHT and self.blocks[net].kind == "join":
                        continue
                    if any(mask >> d & 1 for mask in used[p].values()):
                        continue
                    offer(p, d, (BACKWARDS if d == LEFT else 0.0) + (BRANCHES if mine else 0.0), -1 - p)
                elif not mine >> d & 1:
                    offer(p, d, BRANCHES + (0.0 if mine >> _TURN[d] & 1 else BENDS), -1 - p)
        while queue:
            _, cost, state = heapq.heappop(queue)
            if cost > costs[state]:
                continue
            p, d = state >> 2, state & 3
            if p == target:
                way = []
                while state >= 0:
                    way.append(state >> 2)
                    state = before[state]
                way.append(-1 - state)
                self._put(end, way[::-1])
                return True
            for turn in (d,) if used[p] else (d, (d + 1) % 4, (d + 3) % 4):
                offer(p, turn, cost + (BENDS if turn != d else 0.0), state)
        return False

    # --- what came of it -----------------------------------------------------------------------------------

    def cost(self, ends: Iterable[End] | None = None) -> float:
        """Of these lines, or of all, with each crossing counted once."""
        total, vertices = 0.0, set()
        for end in self.ways if ends is None else ends:
            way, source = self.ways[end], self.at[self._net(end)]
            vertices.update(way)
            steps = [q - p for p, q in pairwise(way)]
            total += sum(self.steps[d][p] for d, p in zip(steps, way, strict=False))
            bent = BENDS * (4 if end in self.fixed else 1)
            total += bent * sum(a != b for a, b in pairwise(steps))
            total += BRANCHES + BENDS if way[0] != source else BACKWARDS if steps[0] == -1 else 0.0
            total += BACKWARDS if steps[-1] == -1 else FROM_ABOVE if steps[-1] == -self.nx else 0.0
        return total + CROSSES * sum(1 for p in vertices if len(self.used[p]) > 1 and p not in self.block_at)

    def crossings(self) -> int:
        return sum(1 for p, nets in enumerate(self.used) if len(nets) > 1 and p not in self.block_at)

    def routes(self) -> Routes:
        ways = {end: [(p % self.nx, p // self.nx) for p in way] for end, way in self.ways.items()}
        return Routes(self.cost(), self.tracks, ways, self.crossings())
