"""The equations of two cells one under the other: which line is which, and where they differ in more than names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from gatewise.graph.graph import Graph
from gatewise.graph.rules import fresh_names
from gatewise.inspect.equations import Line, lines
from gatewise.inspect.matching import ROUNDING, WHOLE, Match, values
from gatewise.inspect.trials import KIND, Symbol

# One row: whose it is ("both", or a cell's name), the equation, and the spans that differ from its counterpart's in
# more than names; None for an equation that has no counterpart.
Span = tuple[int, int]
Row = tuple[str, str, list[Span] | None]


def rows(a: Graph, b: Graph, match: Match | None) -> list[Row]:
    """The lines of both in b's order, each under its counterpart; a's others stand after their predecessors.

    Args:
        match: which name is which; None if the cells don't have the same, and lines of the same symbol are paired.
    """
    ours, theirs = lines(a), lines(b)
    pairs = _pairs(a, b, match)
    in_their_names = lines(_renamed(a, b, match, pairs)) if match else ours
    own = {j: i for i, j in pairs.items()}
    other, after, at_start = other_name(a, b), dict[int, list[Row]](), list[Row]()
    alone = at_start
    for i, line in enumerate(ours):
        if i in pairs:
            alone = after.setdefault(pairs[i], [])
        else:
            alone.append((a.name, line.text, None))
    shown = at_start
    for j, line in enumerate(theirs):
        i = own.get(j, -1)
        if i < 0:
            shown.append((other, line.text, None))
        elif ours[i].text == line.text:
            shown.append(("both", line.text, []))
        else:
            spans = _different(ours[i].text, in_their_names[i].text, line.text)
            shown += [(a.name, ours[i].text, spans[0]), (other, line.text, spans[1])]
        shown += after.get(j, [])
    return shown


def other_name(a: Graph, b: Graph) -> str:
    """b's name, which is to be another than a's."""
    return b.name if b.name != a.name else f"{b.name} (2)"


def _pairs(a: Graph, b: Graph, match: Match | None) -> dict[int, int]:
    """The lines of b that are a's, by their numbers: those of one state, one value, the same gates or one symbol."""
    ours, theirs = lines(a), lines(b)
    pairs: dict[int, int] = {}

    def pair(alike: Callable[[Line, Line], bool]) -> None:
        for i, one in enumerate(ours):
            free = [j for j in range(len(theirs)) if j not in pairs.values() and alike(one, theirs[j])]
            if i not in pairs and free:
                pairs[i] = min(free, key=lambda j: theirs[j].symbol.text != one.symbol.text)

    if match is not None:
        names = match.names
        state = {s.name: other.name for s, other in names.items() if s.kind == "state"}
        gate = {s.name: other.name for s, other in names.items() if s.kind == "gate"}
        nodes = [line.node for line in ours], [line.node for line in theirs]
        left, right = values(a, b, match, WHOLE._replace(steps=1), *nodes)
        gates = [_own_gates(cell) for cell in (a, b)]
        pair(lambda one, other: one.name in state and state[one.name] == other.name)
        pair(lambda one, other: _same_value(left[one.node], right[other.node]))
        pair(
            lambda one, other: (
                bool(gates[0][one.node]) and {gate[g] for g in gates[0][one.node]} == gates[1][other.node]
            )
        )
    pair(lambda one, other: one.symbol.text == other.symbol.text)
    return pairs


def _same_value(one: Tensor, other: Tensor) -> bool:
    """Whether a value is the other, its negation, or 1 minus it, as that of a negated gate is."""
    if one.shape != other.shape:
        return False
    return any(bool((distance.abs() <= ROUNDING).all()) for distance in (one - other, one + other, one + other - 1))


def _own_gates(cell: Graph) -> dict[int, set[str]]:
    """The gates that each line reads itself, by the node that it makes."""
    made = {line.node for line in lines(cell)}
    read: list[set[str]] = []
    own = {}
    for i, node in enumerate(cell.nodes):
        gates = {node.key} if node.op in ("input", "project") else set()
        gates = gates.union(*(read[a] for a in node.args))
        own[i] = gates
        read.append(set() if i in made else gates)
    return own


def _renamed(a: Graph, b: Graph, match: Match, pairs: Mapping[int, int]) -> Graph:
    """a in b's names, those of local variables included."""

    def named(kind: str, name: str) -> str:
        symbol = Symbol(kind, name)
        return match.names[symbol].name if symbol in match.names else name

    def of_node(op: str, key: str) -> str:
        return named(KIND.get(op, "mask"), key) if key else key

    ours, theirs = lines(a), lines(b)
    local = {ours[i].name: theirs[j].name for i, j in pairs.items() if ours[i].name and theirs[j].name}
    states = {state: named("state", state) for state in a.states}
    taken, names = set(states.values()), []
    for name, i in a.names:
        if name in states:
            names.append((states[name], i))
        else:
            names.append((next(n for n in fresh_names(local.get(name, name)) if n not in taken), i))
            taken.add(names[-1][0])
    return replace(
        a,
        gates=tuple(named("gate", gate) for gate in a.gates),
        states=tuple(states.values()),
        vectors=tuple(named("vector", vector) for vector in a.vectors),
        nodes=tuple(replace(node, key=of_node(node.op, node.key)) for node in a.nodes),
        outputs=tuple((states[state], i) for state, i in a.outputs),
        names=tuple(names),
    )


def _different(ours: str, in_their_names: str, theirs: str) -> tuple[list[Span], list[Span]]:
    """Where two equations differ, token by token, but for names: the spans in `ours` and in `theirs`."""
    words = [list(re.finditer(r"[\w']+(\{[^}]*\})?|[^\w\s]", text)) for text in (ours, in_their_names, theirs)]
    one, other = ([word.group() for word in found] for found in words[1:])
    spans: tuple[list[Span], list[Span]] = ([], [])
    for kind, *ranges in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        for shown, found, begin, end in zip(spans, (words[0], words[2]), ranges[::2], ranges[1::2], strict=True):
            if kind != "equal" and begin < end:
                shown.append((found[begin].start(), found[end - 1].end()))
    return spans
