"""What a cell becomes: equations -> Graph (`trace`), Graph -> backward Graph (`grad`)."""

from gatewise.graph.grad import backward
from gatewise.graph.graph import Graph, Node
from gatewise.graph.rules import CellError
from gatewise.graph.trace import cell

__all__ = ["CellError", "Graph", "Node", "backward", "cell"]
