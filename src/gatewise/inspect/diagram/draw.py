"""A layout -> a picture, by matplotlib."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import IO, Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path
from matplotlib.textpath import TextToPath

from gatewise.inspect.diagram.layout import RADIUS, TEXT, Layout, Line, Point, Shape

_LIGHT = {
    "paper": "#ffffff", "frame": "#f4f6f8", "edge": "#d5dbe1", "ink": "#1f2933", "gate": "#fde9c4",
    "gate_edge": "#b7791f", "box": "#ffffff", "box_edge": "#52606d", "circle": "#ffffff", "name": "#9a3412",
}  # fmt: skip
_DARK = {
    "paper": "#111418", "frame": "#1b2027", "edge": "#39424d", "ink": "#e4e7eb", "gate": "#4a3713",
    "gate_edge": "#e0b252", "box": "#262d36", "box_edge": "#9aa5b1", "circle": "#262d36", "name": "#fdba74",
}  # fmt: skip
_WIDTH, _CORNER, _MERGE, _ARROW, _DOT = 1.3, 6.0, 9.0, (7.0, 2.9), 2.3
_STYLE: Any = {
    "font.family": "DejaVu Sans", "mathtext.fontset": "dejavuserif", "svg.fonttype": "none", "svg.hashsalt": "gatewise",
    "pdf.fonttype": 42, "path.simplify": False, "path.snap": False,
}  # fmt: skip
_METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "png": {}, "pdf": {"CreationDate": None}}


@lru_cache(maxsize=4096)
def measure(text: str, size: float) -> tuple[float, float]:
    """A text's width and height in points."""
    with matplotlib.rc_context(_STYLE):
        width, height, _ = TextToPath().get_text_width_height_descent(text, FontProperties(size=size), True)
    return float(width), float(height)


def draw(layout: Layout, file: IO[bytes], kind: str, dark: bool, dpi: float) -> None:
    """Write the picture, the same bytes each time."""
    colours = _DARK if dark else _LIGHT
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(layout.width / 72, layout.height / 72), facecolor=colours["paper"])
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, layout.width), ylim=(0, layout.height))
        axes.set_axis_off()
        _Pen(axes, colours).draw(layout)
        made = io.BytesIO()
        figure.savefig(made, format=kind, dpi=dpi, metadata=_METADATA[kind])
    # Where DejaVu is not installed another font with serifs is to take its place.
    serif = b"font-family: 'DejaVu Serif'"
    file.write(made.getvalue().replace(serif, serif + b", serif") if kind == "svg" else made.getvalue())


class _Pen:
    def __init__(self, axes: Any, colours: dict[str, str]) -> None:
        self.axes, self.colours = axes, colours

    def draw(self, layout: Layout) -> None:
        frame = layout.frame
        self._box(frame.left, frame.bottom, frame.right - frame.left, frame.top - frame.bottom, "frame", "edge", 10, 0)
        for line in layout.lines:
            self._line(line, layout)
        for point in layout.dots:
            self.axes.add_patch(Circle(point, _DOT, color=self.colours["ink"], linewidth=0, zorder=4))
        for shape in layout.shapes:
            self._shape(shape)
        for label in layout.labels:
            named = any(label.text == shape.block.name for shape in layout.shapes)
            self._text(label.centre, label.text, label.size, "name" if named else "ink")

    def _text(self, at: Point, text: str, size: float, colour: str = "ink") -> None:
        self.axes.text(*at, text, size=size, color=self.colours[colour], ha="center", va="center", zorder=6)

    def _box(self, x: float, y: float, w: float, h: float, face: str, edge: str, corner: float, z: int) -> None:
        style = f"round,pad=0,rounding_size={corner}"
        patch = FancyBboxPatch((x, y), w, h, style, fc=self.colours[face], ec=self.colours[edge], lw=1.1, zorder=z)
        self.axes.add_patch(patch)

    def _shape(self, shape: Shape) -> None:
        block, (x, y), rect = shape.block, shape.centre, shape.rect
        if block.kind in ("gate", "box"):
            edge = f"{block.kind}_edge"
            self._box(rect.left, rect.bottom, shape.width, shape.height, block.kind, edge, 4, 5)
            self._text(shape.centre, block.label, TEXT)
        elif block.kind == "circle":
            ink = self.colours["ink"]
            self.axes.add_patch(Circle((x, y), RADIUS, fc=self.colours["circle"], ec=ink, lw=1.1, zorder=5))
            if block.label == "·":
                self.axes.add_patch(Circle((x, y), 1.9, color=ink, lw=0, zorder=6))
            elif block.label == "+":
                r = RADIUS * 0.55
                self.axes.plot([x - r, x + r], [y, y], color=ink, lw=1.2, zorder=6)
                self.axes.plot([x, x], [y - r, y + r], color=ink, lw=1.2, zorder=6)
            else:
                self._text(shape.centre, block.label, TEXT - 2.5)
        elif block.kind in ("source", "result"):
            self._text(shape.centre, block.label, TEXT)

    def _line(self, line: Line, layout: Layout) -> None:
        """The line, with an arrow at its end unless it runs into others there."""
        target = layout.shapes[line.target]
        points = list(line.points)
        if layout.shapes[line.source].block.kind == "join" and not line.branches:
            straight_in = [o for o in layout.lines if o.target == line.source and o.points[-2][1] == points[0][1]]
            if not straight_in:  # it begins where those that run into it have turned
                points[0] = (points[0][0] + _MERGE, points[0][1])
        joins = target.block.kind == "join"
        if not joins:
            (x, y), (px, py) = points[-1], points[-2]
            dx, dy = (px > x) - (px < x), (py > y) - (py < y)
            points[-1] = (x + dx * _ARROW[0] * 0.7, y + dy * _ARROW[0] * 0.7)
            ax, ay, half = x + dx * _ARROW[0], y + dy * _ARROW[0], _ARROW[1]
            tip = [(x, y), (ax + dy * half, ay + dx * half), (ax - dy * half, ay - dx * half)]
            self.axes.add_patch(Polygon(tip, closed=True, color=self.colours["ink"], lw=0, zorder=4))
        if joins and points[-1][0] == points[-2][0]:  # it runs into the line that goes on to the right
            points.append((points[-1][0] + 2 * _MERGE, points[-1][1]))
        self._stroke(points, "ink", _WIDTH, 3, _MERGE if joins else _CORNER)

    def _stroke(self, points: list[Point], colour: str, width: float, z: int, radius: float) -> None:
        vertices, codes = [points[0]], [Path.MOVETO]
        for a, b, c in zip(points, points[1:], points[2:], strict=False):
            near = [_towards(b, end, min(radius, _length(b, end) / 2)) for end in (a, c)]
            vertices += [near[0], b, near[1]]
            codes += [Path.LINETO, Path.CURVE3, Path.CURVE3]
        path = Path([*vertices, points[-1]], [*codes, Path.LINETO])
        ink = self.colours[colour]
        self.axes.add_patch(PathPatch(path, fc="none", ec=ink, lw=width, zorder=z, capstyle="butt"))


def _length(a: Point, b: Point) -> float:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def _towards(a: Point, b: Point, by: float) -> Point:
    share = by / (_length(a, b) or 1.0)
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share
