"""Two cells side by side: where their equations differ, and whether they are the same function."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from gatewise.graph.graph import Graph
from gatewise.graph.rules import MASKS
from gatewise.inspect import matching
from gatewise.inspect.matching import WHOLE, Match
from gatewise.inspect.negation import is_sigmoid
from gatewise.inspect.rows import Row, other_name, rows
from gatewise.inspect.trials import Symbol, symbols

if TYPE_CHECKING:
    from rich.text import Text


@dataclass(frozen=True)
class Comparison:
    """Two cells side by side; printed, it shows the equations and marks what differs with ~.

    a, b: the cells. same: whether they are the same function, with the same weights; None if that can't be asked, as
    they don't have the same weights and states, or is not known. difference: the largest one between their states, in 5
    steps with the same random weights. match: which of b's names is each of a's (where the functions differ, those by
    which they are compared), and what is to be negated for the two to become the same function; None if they don't
    have the same weights and states. verdict: all this in words.
    """

    a: Graph
    b: Graph
    same: bool | None
    difference: float | None
    match: Match | None
    verdict: str

    @property
    def gates(self) -> Mapping[str, str]:
        """b's name of each gate of a; empty if they don't have the same weights and states."""
        return self._names("gate")

    @property
    def states(self) -> Mapping[str, str]:
        """b's name of each state of a, likewise."""
        return self._names("state")

    @property
    def vectors(self) -> Mapping[str, str]:
        """b's name of each learned vector of a, likewise."""
        return self._names("vector")

    @property
    def negated(self) -> tuple[str, ...]:
        """The gates of a whose weights and biases are to be negated for the two to become the same function."""
        return self._negated("gate")

    @property
    def negated_vectors(self) -> tuple[str, ...]:
        """The learned vectors of a that are to be negated with them, such as a gate's peephole."""
        return self._negated("vector")

    @cached_property
    def rows(self) -> list[Row]:
        """(whose, equation, the spans that differ): lines of both once, others one under the other."""
        return rows(self.a, self.b, self.match)

    def _names(self, kind: str) -> dict[str, str]:
        names = self.match.names if self.match else {}
        return {symbol.name: other.name for symbol, other in names.items() if symbol.kind == kind}

    def _negated(self, kind: str) -> tuple[str, ...]:
        negated = self.match.negated if self.match else ()
        return tuple(symbol.name for symbol in symbols(self.a) if symbol.kind == kind and symbol in negated)

    def __str__(self) -> str:
        width = max(len(whose) for whose, _, _ in self.rows) + 2
        shown = []
        for whose, equation, spans in self.rows:
            shown.append(f"{whose:{width}}{equation}")
            if spans:
                marks = "".join("~" if any(a <= k < b for a, b in spans) else " " for k in range(len(equation)))
                shown.append(" " * width + marks.rstrip())
        return "\n".join([*shown, "", self.verdict])

    def __rich__(self) -> Text:
        """The same with colours, for rich's console."""
        from rich.text import Text

        shown = Text(str(self))
        width = max(len(whose) for whose, _, _ in self.rows) + 2
        at = 0
        for whose, equation, spans in self.rows:
            colour = {self.a.name: "red", other_name(self.a, self.b): "green"}.get(whose, "dim")
            alone = spans is None  # a line that the other cell does not have
            shown.stylize(colour, at, at + (width + len(equation) if alone else len(whose)))
            for begin, end in spans or ():
                shown.stylize(f"bold {colour}", at + width + begin, at + width + end)
            at += width + len(equation) + 1
            if spans:
                end_of_marks = width + max(end for _, end in spans)
                shown.stylize(colour, at, at + end_of_marks)
                at += end_of_marks + 1
        shown.stylize("bold", at + 1)
        return shown


def compare(a: Graph, b: Graph) -> Comparison:
    """Compare two cells: their equations line by line, and by computing whether they are the same function.

    Both are run in float64 for 5 steps, with the same random weights, biases, vectors, states and input. Where they
    differ, it is searched which gates of one could be which of the other, and so the vectors and all states but the
    first, the output; and of which gates the weights and biases could be negated: since σ(-a) = 1 - σ(a), that replaces
    an update gate z by 1 - z, which is how the GRUs of different papers differ. Random masks are the same in both if
    both have the same ones; otherwise the cells of evaluation are compared. That two functions are the same at random
    points is no proof, but no accident either, unless they differ only in a region that these points do not reach.

    Args:
        a, b: cells.

    Raises: TypeError: an argument is no cell.
    """
    for cell in (a, b):
        if not isinstance(cell, Graph):
            raise TypeError(f"compare: got {cell!r}, expected what @gatewise.cell(gates=…) makes of a function")
    if a == b:
        return Comparison(a, b, True, 0.0, matching.by_order(a, b), "The same equations.")
    if apart := _apart(a, b):
        verdict = f"They don't have the same weights and states: {'; '.join(apart)}."
        return Comparison(a, b, None, None, None, verdict)
    masks = [Counter((node.op, node.params) for node in cell.nodes if node.op in MASKS) for cell in (a, b)]
    run_a, run_b, when = (a, b, "") if masks[0] == masks[1] else (a.expected, b.expected, " in evaluation")
    same_names = a.states[0] == b.states[0] and all(
        set(names) == set(others)
        for names, others in ((a.gates, b.gates), (a.states, b.states), (a.vectors, b.vectors))
    )
    start = matching.by_order(run_a, run_b)
    if math.isinf(matching.gaps(run_a, run_b, start).largest):
        verdict = "Whether they are the same function is not known: with random weights the states are not finite."
        return Comparison(a, b, None, None, start, verdict)
    try:
        match = _found(run_a, run_b, same_names)
    except matching.UndecidedError:
        verdict = "Whether they are the same function is not known: too many of their names look alike."
        return Comparison(a, b, None, None, start, verdict)
    shown = match or (start if same_names else matching.nearest(run_a, run_b))
    gap = matching.gaps(run_a, run_b, shown._replace(negated=frozenset())).largest
    after = f"after {WHOLE.steps} steps with the same random weights the states "
    after += f"differ by up to {gap:.2g}" if gap else "are equal"
    if match is None:
        names = "" if same_names else f" under any names: with {_which_is_which(shown, 'as')},"
        verdict = f"Not the same function{when}{names or ':'} {after}."
    elif match.negated:
        verdict = f"Not the same function with the same weights{when}: {after}.\n{_how_to_negate(a, b, match)}"
    else:
        names = _which_is_which(match, "is")
        verdict = f"The same function to rounding{when}{f', with other names: {names};' if names else ':'} {after}."
    if match and when:
        verdict += " In training their random masks differ."
    compared = Comparison(a, b, match is not None and not match.negated, gap, shown, verdict)
    if match and _bounds(a, compared.states) != _bounds(b, {state: state for state in b.states}):
        compared = replace(compared, verdict=f"{verdict} Their gradients are clipped differently.")
    return compared


def _apart(a: Graph, b: Graph) -> list[str]:
    """What keeps two cells from having the same weights and states, in words."""
    apart = []
    whats = {
        "states": (a.states, b.states),
        "gates": (a.gates, b.gates),
        "gates read from x": (a.input_gates, b.input_gates),
        "projected gates": (a.hidden_gates, b.hidden_gates),
        "learned vectors": (a.vectors, b.vectors),
    }
    for what, sides in whats.items():
        if len(sides[0]) != len(sides[1]):
            has = [f"has the {what} {' '.join(side)}" if side else f"has no {what}" for side in sides]
            apart.append(f"{a.name} {has[0]}, {other_name(a, b)} {has[1]}")
            if what == "gates":  # the others say no more
                break
    if a.projects_output != b.projects_output:
        apart.append(f"only {a.name if a.projects_output else other_name(a, b)} projects its output")
    elif not apart and sorted(a.state_sizes) != sorted(b.state_sizes):
        has = [f"has {cell.state_sizes.count('P')} states of size proj_size" for cell in (a, b)]
        apart.append(f"{a.name} {has[0]}, {other_name(a, b)} {has[1]}")
    return apart


def _found(a: Graph, b: Graph, same_names: bool) -> Match | None:
    """What makes them one function: with their names, with negated weights, with other names, with both."""
    undecided: matching.UndecidedError | None = None
    for keep_names in (True, False) if same_names else (False,):
        for signs in (False, True):
            try:
                match = matching.find(a, b, signs, keep_names)
            except matching.UndecidedError as error:
                undecided = error
            else:
                if match is not None:
                    return match
    if undecided is not None:
        raise undecided
    return None


def _bounds(cell: Graph, names: Mapping[str, str]) -> Counter[tuple[str, object]]:
    """How the cell clips gradients, its states by these names."""
    read = [(cell.nodes[node.args[0]], node.params) for node in cell.nodes if node.op == "clip_grad"]
    return Counter((names[of.key] if of.op == "state" else str(of), params) for of, params in read)


# --- the verdict in words ---------------------------------------------------------------------------


def _which_is_which(match: Match, is_: str, turned: Collection[str] = ()) -> str:
    """'gate Z is 1 - z, gate R is r, state H is h': all whose names differ, "" if none do.

    turned: the gates that are 1 minus their counterparts.
    """
    phrases = []
    for symbol, other in match.names.items():
        if symbol.kind == "mask" or symbol == other:
            continue
        if match.names.get(other) != symbol or {symbol, other} & match.negated:
            minus = "1 - " if symbol.kind == "gate" and symbol.name in turned else ""
            phrases.append(f"{symbol.kind} {symbol.name} {is_} {minus}{other.name}")
        elif symbol.name < other.name:
            are = "are " if is_ == "is" else ""
            phrases.append(f"{symbol.kind}s {symbol.name} and {other.name} {are}exchanged")
    return ", ".join(phrases)


def _how_to_negate(a: Graph, b: Graph, match: Match) -> str:
    """'The same function if z is replaced by 1 - z: negate the weights and biases of gate z.'"""
    gates = [gate for gate in a.gates if Symbol("gate", gate) in match.negated]
    vectors = [vector for vector in a.vectors if Symbol("vector", vector) in match.negated]
    turned = [g for g in gates if is_sigmoid(a, g) and is_sigmoid(b, match.names[Symbol("gate", g)].name)]
    negate = f"negate the weights and biases of gate{'s' * (len(gates) > 1)} {_listed(gates)}"
    negate += f", and the vector{'s' * (len(vectors) > 1)} {_listed(vectors)}" if vectors else ""
    if names := _which_is_which(match, "is", turned):
        return f"The same function with other names, {names}: {negate}."
    if turned != gates:
        return f"The same function if you {negate}."
    replaced = _listed([f"{gate}{' is replaced' if gate == gates[0] else ''} by 1 - {gate}" for gate in gates])
    return f"The same function if {replaced}: {negate}."


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
