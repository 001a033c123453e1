"""How good a layout is, in numbers; all but `crossings` and `bends` are 0 in a sound one."""

from __future__ import annotations

from itertools import combinations, pairwise

from gatewise.inspect.diagram.layout import Layout, Line, Point, Rect

Stretch = tuple[int, Point, Point]  # of a net: (source, from, to)


def stretches(lines: tuple[Line, ...]) -> list[Stretch]:
    """The straight pieces of all lines, those that two lines of a net share once."""
    return sorted({(line.source, min(a, b), max(a, b)) for line in lines for a, b in pairwise(line.points)})


def crossings(layout: Layout) -> int:
    """How many points there are where two nets cross."""
    return len(crossing_points(layout))


def crossing_points(layout: Layout) -> list[Point]:
    """The points where two nets cross."""
    points = set()
    for (net, a, b), (other, c, d) in combinations(stretches(layout.lines), 2):
        if net != other and (a[0] == b[0]) != (c[0] == d[0]):
            (p, q), (r, s) = ((a, b), (c, d)) if a[0] == b[0] else ((c, d), (a, b))  # upright, level
            if r[0] < p[0] < s[0] and p[1] < r[1] < q[1]:
                points.add((p[0], r[1]))
    return sorted(points)


def touches(layout: Layout) -> int:
    """Pairs of stretches of two nets that meet in another way than by crossing or, at its centre, in a join."""
    joins = [shape.centre for shape in layout.shapes if shape.block.kind == "join"]
    found = 0
    for (net, a, b), (other, c, d) in combinations(stretches(layout.lines), 2):
        if net == other or not _meet(Rect(*a, *b), Rect(*c, *d), 0.5):
            continue
        crossed = (a[0] == b[0]) != (c[0] == d[0])
        if crossed:
            corner = (a[0], c[1]) if a[0] == b[0] else (c[0], a[1])
            crossed = not any(_near(corner, p) for p in (a, b, c, d))
        ends = [p for p in (a, b) for q in (c, d) if _near(p, q)]
        runs_in = any(_near(p, centre) for p in ends for centre in joins) and not _overlap(a, b, c, d)
        found += not crossed and not runs_in
    return found


def _near(p: Point, q: Point) -> bool:
    return abs(p[0] - q[0]) + abs(p[1] - q[1]) < 0.5


def _overlap(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether two stretches share more than a point."""
    width = min(b[0], d[0]) - max(a[0], c[0])
    height = min(b[1], d[1]) - max(a[1], c[1])
    return max(width, height) > 0.5


def lines_through_shapes(layout: Layout) -> int:
    """Lines that go over a shape which is not their end."""
    found = 0
    for line in layout.lines:
        for a, b in pairwise(line.points):
            rect = Rect(*map(min, a, b), *map(max, a, b))
            for k, shape in enumerate(layout.shapes):
                own = shape.block.kind == "join" or k in (line.source, line.target)
                found += _meet(rect, shape.rect, -0.5 if own else 1.0)
    return found


def labels_in_the_way(layout: Layout) -> int:
    """Labels that meet each other, a shape, or a line."""
    found = 0
    rects = [label.rect for label in layout.labels]
    found += sum(_meet(a, b, 0.0) for a, b in combinations(rects, 2))
    found += sum(_meet(a, shape.rect, 0.0) for a in rects for shape in layout.shapes if shape.block.kind != "join")
    pieces = [Rect(*map(min, a, b), *map(max, a, b)) for _, a, b in stretches(layout.lines)]
    return found + sum(_meet(a, b, 0.0) for a in rects for b in pieces)


def bends(layout: Layout) -> int:
    """Corners of all lines."""
    return sum(len(line.points) - 2 for line in layout.lines)


def _meet(a: Rect, b: Rect, room: float) -> bool:
    """Whether two rectangles come nearer than `room`; if it is negative, by how much they may overlap."""
    return a.left < b.right + room and b.left < a.right + room and a.bottom < b.top + room and b.bottom < a.top + room
