"""How good a layout is, in numbers; all but `crossings` and `bends` are 0 in a sound one."""

from __future__ import annotations

from itertools import combinations

from gatewise.inspect.diagram.layout import Layout, Line, Point, Rect

Stretch = tuple[int, Point, Point]  # of a net: (source, from, to)


def stretches(lines: tuple[Line, ...]) -> list[Stretch]:
    """The straight pieces of all lines, those that two lines of a net share once."""
    found = {
        (line.source, *sorted((a, b))) for line in lines for a, b in zip(line.points, line.points[1:], strict=False)
    }
    return sorted(found)


def crossings(layout: Layout) -> int:
    """Points where two nets cross."""
    points = set()
    for (net, a, b), (other, c, d) in combinations(stretches(layout.lines), 2):
        if net != other and (a[0] == b[0]) != (c[0] == d[0]):
            (p, q), (r, s) = ((a, b), (c, d)) if a[0] == b[0] else ((c, d), (a, b))  # upright, level
            if r[0] < p[0] < s[0] and p[1] < r[1] < q[1]:
                points.add((p[0], r[1]))
    return len(points)


def touches(layout: Layout) -> int:
    """Pairs of nets that meet in another way than by crossing: along a stretch, at an end or at a bend."""
    shared = 0
    for (net, a, b), (other, c, d) in combinations(stretches(layout.lines), 2):
        if net == other or not _meet(Rect(*a, *b), Rect(*c, *d), 0.5):
            continue
        crossed = (a[0] == b[0]) != (c[0] == d[0]) and not any(
            _near(p, q) for p in (a, b) for q in (_corner(a, b, c, d),)
        )
        crossed = crossed and not any(_near(p, _corner(a, b, c, d)) for p in (c, d))
        joined = {net, other} & _joined(layout, net, other)
        shared += not crossed and not joined
    return shared


def _corner(a: Point, b: Point, c: Point, d: Point) -> Point:
    return (a[0], c[1]) if a[0] == b[0] else (c[0], a[1])


def _near(p: Point, q: Point) -> bool:
    return abs(p[0] - q[0]) + abs(p[1] - q[1]) < 0.5


def _joined(layout: Layout, net: int, other: int) -> set[int]:
    """The nets that run into each other at a join, if these two do."""
    groups = [{v, *(w.source for w in s.block.inputs)} for v, s in enumerate(layout.shapes) if s.block.kind == "join"]
    return next((group for group in groups if {net, other} <= group), set())


def lines_through_shapes(layout: Layout) -> int:
    """Lines that go over a shape which is not their end."""
    found = 0
    for line in layout.lines:
        for a, b in zip(line.points, line.points[1:], strict=False):
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
    return (
        a.left < b.right + room and b.left < a.right + room and a.bottom < b.top + room and b.bottom < a.top + room
    )
