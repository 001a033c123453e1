"""The parser of a graph's canonical text, which `Graph` writes."""

from __future__ import annotations

from typing import Any

from gatewise.graph.graph import Graph, Node
from gatewise.graph.rules import CellError


def parse(text: str) -> Graph:
    """The graph of a canonical text, a cell's or a backward graph's; see `Graph.parse`."""
    if not isinstance(text, str):
        raise CellError(f"the text of a graph is a str, got {type(text).__name__}")
    fields: dict[str, Any] = {"gates": (), "states": (), "vectors": ()}
    nodes: list[Node] = []
    marks: dict[str, list[tuple[str, int]]] = {"name": [], "new": [], "watch": []}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        try:
            _parse_line(words, fields, nodes, marks)
        except (ValueError, IndexError) as error:
            why = f": {error}" if isinstance(error, CellError) else ""
            raise CellError(f"line {number}: {' '.join(words)!r} is no line of a graph's text{why}") from error
    if "name" not in fields:
        raise CellError("the text of a graph begins with 'cell NAME'; this one does not")
    fields |= {"outputs": tuple(marks["new"]), "names": tuple(marks["name"])}
    graph = Graph(nodes=tuple(nodes), watched=tuple(i for _, i in marks["watch"]), **fields)
    for number, (line, canonical) in enumerate(zip(text.splitlines(), graph.text.splitlines(), strict=False), start=1):
        if line.split() != canonical.split():
            raise CellError(f"line {number}: {line!r} is not canonical, expected {canonical!r}")
    return graph


def _parse_line(
    words: list[str], fields: dict[str, Any], nodes: list[Node], marks: dict[str, list[tuple[str, int]]]
) -> None:
    match words:
        case []:
            pass
        case ["cell", name]:
            fields["name"] = name
        case ["gates" | "states" | "vectors" as title, *names]:
            fields[title] = tuple(names)
        case ["name" | "new" | "watch" as title, *label, node]:
            marks[title].append((" ".join(label), _index(node)))
        case [node, "=", op, *rest]:
            if _index(node) != len(nodes):
                raise CellError(f"expected %{len(nodes)}")
            nodes.append(_parse_node(op, rest))
        case _:
            raise CellError("expected 'cell', 'gates', 'states', 'vectors', '%N = …', 'name', 'new' or 'watch'")


def _parse_node(op: str, words: list[str]) -> Node:
    if op == "saved" or (op == "grad" and words[0].startswith("%")):  # their key is a node of the cell
        return Node(op, (), words[0])
    keys = [word for word in words if "=" not in word and not word.startswith("%")]
    args = tuple(_index(word) for word in words if word.startswith("%"))
    pairs = (word.split("=") for word in words if "=" in word)
    return Node(op, args, " ".join(keys), tuple((name, float(value)) for name, value in pairs))


def _index(word: str) -> int:
    if not word.startswith("%") or not (word[1:].isascii() and word[1:].isdecimal()):
        raise CellError(f"{word!r} is no node, expected % and a number")
    return int(word[1:])
