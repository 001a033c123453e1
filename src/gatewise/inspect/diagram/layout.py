"""Blocks -> a drawing's geometry: sizes, coordinates, lines and labels, in points, y upwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gatewise.inspect.diagram.blocks import Block
from gatewise.inspect.diagram.place import Search, searches
from gatewise.inspect.diagram.plan import Place
from gatewise.inspect.diagram.route import NoWayError, Routes, route

RADIUS, BOX_HEIGHT, BOX_WIDTH = 9.0, 24.0, 34.0
SPACING, CHANNEL, APPROACH = 12.0, 20.0, 15.0  # of tracks; of a channel without any; from a block to the next track
TEXT, NAME, MARK = 12.0, 11.0, 9.0  # font sizes

TRIES, ALIGNED = 500, 9.0  # of single moves at the end; what being out of row costs, in the lines' lengths

Point = tuple[float, float]
Measure = Callable[[str, float], tuple[float, float]]


@dataclass(frozen=True)
class Rect:
    left: float
    bottom: float
    right: float
    top: float

    @classmethod
    def around(cls, centre: Point, width: float, height: float) -> Rect:
        """The rectangle with this centre."""
        (x, y), w, h = centre, width / 2, height / 2
        return cls(x - w, y - h, x + w, y + h)


@dataclass(frozen=True)
class Shape:
    """A block in its place."""

    block: Block
    centre: Point
    width: float
    height: float

    @property
    def rect(self) -> Rect:
        return Rect.around(self.centre, self.width, self.height)


@dataclass(frozen=True)
class Line:
    """One line's way to its end. It begins at its source or branches off another line of the same source."""

    source: int
    target: int
    points: tuple[Point, ...]
    branches: bool


@dataclass(frozen=True)
class Label:
    """A text and where it stands; text is mathtext, `size` its font size."""

    text: str
    centre: Point
    width: float
    height: float
    size: float

    @property
    def rect(self) -> Rect:
        return Rect.around(self.centre, self.width, self.height)


@dataclass(frozen=True)
class Layout:
    """A drawing before it is drawn. labels: what stands beside shapes; a shape's own label is inside it."""

    shapes: tuple[Shape, ...]
    lines: tuple[Line, ...]
    dots: tuple[Point, ...]
    labels: tuple[Label, ...]
    frame: Rect
    width: float
    height: float


def lay_out(blocks: Sequence[Block], measure: Measure, effort: float = 1.0) -> Layout:
    """The best drawing found.

    Args:
        blocks: of a cell.
        measure: (mathtext, font size) -> its width and height.
        effort: how much of the usual time is spent on finding it.
    """

    def tried(search: Search, where: list[Place], rounds: int) -> tuple[float, list[Place]]:
        try:
            return route(blocks, where, rounds=rounds).cost + ALIGNED * search.misalignment(), where
        except NoWayError:
            return math.inf, where

    found = [(*tried(search, search.places(), 1), search) for search in searches(blocks, effort)]
    found.sort(key=lambda some: some[0])
    best, where = found[0][:2]
    for cost, places, search in found[:2]:
        for other in search.tries(round(TRIES * effort)):
            new, _ = tried(search, other, 1)
            if new < cost - 1e-6:
                cost, places = new, other
                search.keep()
        if cost < best - 1e-6:
            best, where = cost, places
    return _geometry(blocks, where, route(blocks, where), measure)


def _size(block: Block, measure: Measure) -> tuple[float, float]:
    if block.kind == "join":
        return 0.0, 0.0
    if block.kind == "circle":
        return 2 * RADIUS, 2 * RADIUS
    width, height = measure(block.label, TEXT)
    if block.kind in ("source", "result"):
        return width + 6, height + 6
    return max(BOX_WIDTH, width + 14), max(BOX_HEIGHT, height + 12)


def _geometry(blocks: Sequence[Block], where: Sequence[Place], routes: Routes, measure: Measure) -> Layout:
    sizes = [_size(block, measure) for block in blocks]
    names = [measure(block.name, NAME) if block.name else (0.0, 0.0) for block in blocks]
    marks = [max((measure(f"${w.mark}$", MARK)[0] - 7 for w in b.inputs if w.mark), default=0.0) for b in blocks]
    marks = [max(mark, 0.0) for mark in marks]
    pitch, tracks = routes.tracks + 1, routes.tracks
    ways = {end: _corners(way) for end, way in routes.ways.items()}
    xs = _coordinates(
        [c for c, _ in where],
        [w / 2 + mark for (w, _), mark in zip(sizes, marks, strict=True)],
        [max(w / 2, 4.5 + name[0]) for (w, _), name in zip(sizes, names, strict=True)],
        {a[0] for way in ways.values() for a, b in pairwise(way) if a[0] == b[0]},
        pitch,
    )
    ys = _coordinates(
        [r for _, r in where],
        [h / 2 for _, h in sizes],
        [h / 2 + (name[1] + 2 if name[1] else 0) for (_, h), name in zip(sizes, names, strict=True)],
        {a[1] for way in ways.values() for a, b in pairwise(way) if a[1] == b[1]},
        pitch,
    )
    shapes = tuple(
        Shape(block, (xs[c * pitch + tracks], ys[r * pitch + tracks]), *size)
        for block, (c, r), size in zip(blocks, where, sizes, strict=True)
    )
    lines, labels = [], []
    for (v, k), way in sorted(ways.items()):
        wire = blocks[v].inputs[k]
        points = [(xs[x], ys[y]) for x, y in way]
        starts = way[0] == tuple(p * pitch + tracks for p in where[wire.source])
        if starts:
            points[0] = _edge(shapes[wire.source], points[0], points[1])
        points[-1] = _edge(shapes[v], points[-1], points[-2])
        lines.append(Line(wire.source, v, tuple(points), not starts))
        if wire.mark:
            labels.append(_mark(wire.mark, points[-1], points[-2], measure))
    for shape, name in zip(shapes, names, strict=True):
        if shape.block.name:
            x, y = shape.centre[0] + 4.5 + name[0] / 2, shape.rect.top + 2 + name[1] / 2
            labels.append(Label(shape.block.name, (x, y), *name, NAME))
    inner = [s for s in shapes if s.block.kind not in ("source", "result") or not s.block.state]
    left = max(s.rect.right for s in shapes if s.block.kind == "source" and s.block.state not in ("", "x")) + 6
    right = min(s.rect.left for s in shapes if s.block.kind == "result") - 12
    below = [s.rect.top for s in shapes if s.block.state == "x"]
    points = [p for line in lines for p in line.points]
    top = max([s.rect.top for s in inner] + [p[1] for p in points] + [label.rect.top for label in labels]) + 12
    frame = Rect(left, (max(below) if below else 0.0) + 6, right, top)
    width = max(s.rect.right for s in shapes) + 8
    return Layout(shapes, tuple(lines), _dots(lines), tuple(labels), frame, width, top + 8)


def _corners(way: Sequence[Place]) -> list[Place]:
    """The way's ends and the vertices where it bends."""
    kept = [way[0]]
    for a, b, c in zip(way, way[1:], way[2:], strict=False):
        if (b[0] - a[0], b[1] - a[1]) != (c[0] - b[0], c[1] - b[1]):
            kept.append(b)
    return [*kept, way[-1]]


def _coordinates(
    cells: Sequence[int], before: Sequence[float], after: Sequence[float], used: set[int], pitch: int
) -> dict[int, float]:
    """Where each used track and each column's middle lies (or row's), from the sizes of what is in the cells."""
    tracks = pitch - 1
    at: dict[int, float] = {}
    edge = 8.0
    for k in range(max(cells) + 2):
        lines = [t for t in range(k * pitch, k * pitch + tracks) if t in used]
        if lines:
            edge += APPROACH if k else 0.0
            for t in lines:
                at[t] = edge
                edge += SPACING
            edge += APPROACH - SPACING
        elif k:
            edge += CHANNEL
        if k <= max(cells):
            edge += max((w for c, w in zip(cells, before, strict=True) if c == k), default=0.0)
            at[k * pitch + tracks] = edge
            edge += max((w for c, w in zip(cells, after, strict=True) if c == k), default=0.0)
    return at


def _edge(shape: Shape, centre: Point, towards: Point) -> Point:
    """Where a line between a shape's centre and this point meets its outline."""
    (x, y), (tx, ty) = centre, towards
    if tx != x:
        return (x + (shape.width / 2 if tx > x else -shape.width / 2), y)
    return (x, y + (shape.height / 2 if ty > y else -shape.height / 2))


def _mark(text: str, end: Point, before: Point, measure: Measure) -> Label:
    """What is written at a line's end: above a line from the left or right, beside one from above or below."""
    text = f"${text}$"
    width, height = measure(text, MARK)
    x, y = end
    if before[1] == y:
        away = -1.0 if before[0] < x else 1.0
        return Label(text, (x + away * (5 + width / 2), y + 4.5 + height / 2), width, height, MARK)
    away = -1.0 if before[1] < y else 1.0
    side = 1.0 if away < 0 else -1.0
    return Label(text, (x + side * (4.5 + width / 2), y + away * (5 + height / 2)), width, height, MARK)


def _dots(lines: Sequence[Line]) -> tuple[Point, ...]:
    """Where a line branches: points from which a net goes on in two directions or more."""
    ways: dict[tuple[int, Point], set[tuple[int, int]]] = {}
    for line in lines:
        for a, b in pairwise(line.points):
            for p, q in ((a, b), (b, a)):
                step = ((q[0] > p[0]) - (q[0] < p[0]), (q[1] > p[1]) - (q[1] < p[1]))
                ways.setdefault((line.source, p), set()).add(step)
    for line in lines:  # a branch from the middle of another's straight stretch
        for net, p in list(ways):
            if net == line.source:
                for a, b in pairwise(line.points):
                    if a[0] == b[0] == p[0] and min(a[1], b[1]) < p[1] < max(a[1], b[1]):
                        ways[net, p] |= {(0, 1), (0, -1)}
                    if a[1] == b[1] == p[1] and min(a[0], b[0]) < p[0] < max(a[0], b[0]):
                        ways[net, p] |= {(1, 0), (-1, 0)}
    return tuple(p for (_, p), steps in sorted(ways.items()) if len(steps) > 2)
