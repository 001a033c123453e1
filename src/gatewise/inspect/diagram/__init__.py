"""A cell as the block diagram of the textbooks, laid out from its graph: `cell.diagram()`."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

from gatewise.errors import InputError, require
from gatewise.graph.graph import Graph

KINDS = ("svg", "png", "pdf")


class Diagram:
    """A cell's block diagram; a notebook shows it.

    Time runs from left to right: states come in at the left and leave at the right, x_t comes from below. A shaded
    box is a learned layer of what goes into it: σ of the weighted sum and a bias. Circles and white boxes act element
    by element. A dot is where a value goes two ways; lines that cross without one do not meet.
    """

    def __init__(self, graph: Graph, dark: bool = False) -> None:
        require("matplotlib")
        self.graph, self.dark = graph, dark

    def svg(self) -> str:
        """The picture as SVG, whose text is text."""
        return self._bytes("svg").decode()

    def _repr_svg_(self) -> str:
        return self.svg()

    def save(self, path: str | Path, dpi: float = 200, *, force: bool = True) -> None:
        """Write the picture to a file whose name ends in .svg, .png or .pdf, whole or not at all.

        Args:
            path: the file. dpi: of a PNG, in pixels an inch; text is 12 points high.
            force: whether a file that is there is overwritten, as by matplotlib's savefig.

        Raises:
            gatewise.tasks.InputError: the name has another ending; or the file is there, and `force` is false.
        """
        from gatewise.tasks.run import write

        kind = Path(path).suffix.lower().removeprefix(".")
        if kind not in KINDS:
            raise InputError(f"{path}: a diagram is saved as .svg, .png or .pdf; end the file's name in one of them")
        write(Path(path), self._bytes(kind, dpi), force)

    def _bytes(self, kind: str, dpi: float = 200) -> bytes:
        return _drawn(self.graph, self.dark, kind, dpi)

    def __repr__(self) -> str:
        return f"<diagram of {self.graph.name}: .svg(), .save('{self.graph.name}.png')>"


@lru_cache(maxsize=64)
def _layout(graph: Graph) -> Any:
    from gatewise.inspect.diagram.blocks import blocks_of
    from gatewise.inspect.diagram.draw import measure
    from gatewise.inspect.diagram.layout import lay_out

    return lay_out(blocks_of(graph), measure)


@lru_cache(maxsize=64)
def _drawn(graph: Graph, dark: bool, kind: str, dpi: float) -> bytes:
    from gatewise.inspect.diagram.draw import draw

    file = io.BytesIO()
    draw(_layout(graph), file, kind, dark, dpi)
    return file.getvalue()
