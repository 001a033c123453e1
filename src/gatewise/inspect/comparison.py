"""Two cells side by side: where their equations differ, and whether they are the same function."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from gatewise.graph.graph import Graph
from gatewise.graph.rules import MASKS
from gatewise.inspect.equations import lines

if TYPE_CHECKING:
    from rich.text import Text

STEPS, BATCH, INPUTS, UNITS = 5, 3, 4, 8
ROUNDING = 1e-9  # in float64, of values of about 1 after a few steps

# One row of the comparison: whose it is ("both", or a cell's name), the equation, and the spans that differ.
Span = tuple[int, int]
Row = tuple[str, str, list[Span]]


@dataclass(frozen=True)
class Comparison:
    """Two cells side by side; printed, it shows the equations and marks what differs with ~.

    a, b: the cells. same: whether they are the same function, with the same weights; None if that can't be asked, as
    they don't have the same weights and states. difference: the largest one between their states, in 5 steps with the
    same random weights. negated: the gate whose weights and biases are to be negated in one of them for the two to
    become the same function; "" if there is none. verdict: all this in words.
    """

    a: Graph
    b: Graph
    same: bool | None
    difference: float | None
    negated: str
    verdict: str

    @property
    def rows(self) -> list[Row]:
        """(whose, equation, the spans that differ): lines of both once, others one under the other."""
        return _rows(self.a, self.b)

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
            colour = {self.a.name: "red", _other(self.a, self.b): "green"}.get(whose, "dim")
            alone = whose != "both" and not spans  # a line that the other cell does not have
            shown.stylize(colour, at, at + (width + len(equation) if alone else len(whose)))
            for begin, end in spans:
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
    differ, each gate is tried with its weights and biases negated: since σ(-a) = 1 - σ(a), that replaces an update
    gate z by 1 - z, which is how the GRUs of different papers differ. Random masks are the same in both if both have
    the same ones; otherwise the cells of evaluation are compared. That two functions are the same at random points is
    no proof, but no accident either, unless they differ only in a region that these points do not reach.

    Args:
        a, b: cells.

    Raises: TypeError: an argument is no cell.
    """
    for cell in (a, b):
        if not isinstance(cell, Graph):
            raise TypeError(f"compare: got {cell!r}, expected what @gatewise.cell(gates=…) makes of a function")
    if a == b:
        return Comparison(a, b, True, 0.0, "", "The same equations.")
    if apart := _apart(a, b):
        return Comparison(a, b, None, None, "", f"They don't have the same weights and states: {'; '.join(apart)}.")
    masks = [[(n.op, n.key, n.params) for n in cell.nodes if n.op in MASKS] for cell in (a, b)]
    run_a, run_b, when = (a, b, "") if masks[0] == masks[1] else (a.expected, b.expected, " in evaluation")
    gap = _gap(run_a, run_b)
    if gap is None:
        verdict = "Whether they are the same function is not known: with random weights the states are not finite."
        return Comparison(a, b, None, None, "", verdict)
    after = f"after {STEPS} steps with the same random weights the states "
    after += f"differ by up to {gap:.2g}" if gap else "are equal"
    if gap <= ROUNDING:
        verdict = f"The same function to rounding{when}: {after}."
        if when:
            verdict += " In training their random masks differ."
        if _bounds(a) != _bounds(b):
            verdict += " Their gradients are clipped differently."
        return Comparison(a, b, True, gap, "", verdict)
    for gate in a.gates:
        turned = _gap(run_a, run_b, gate)
        if turned is not None and turned <= ROUNDING:
            negate = f"negate the weights and biases of gate {gate}"
            turns = _is_sigmoid(a, gate) and _is_sigmoid(b, gate)
            if_ = f"{gate} is replaced by 1 - {gate}: {negate}" if turns else f"you {negate}"
            verdict = f"Not the same function with the same weights{when}: {after}.\nThe same function if {if_}."
            return Comparison(a, b, False, gap, gate, verdict)
    return Comparison(a, b, False, gap, "", f"Not the same function{when}: {after}.")


# --- the equations side by side ---------------------------------------------------------------------


def _other(a: Graph, b: Graph) -> str:
    return b.name if b.name != a.name else f"{b.name} (2)"


def _rows(a: Graph, b: Graph) -> list[Row]:
    """The lines of both in b's order, those of the same symbol paired; a's others stand after their predecessors."""
    left, right = ({line.symbol.text: line.text for line in lines(cell)} for cell in (a, b))
    order, before = list(right), -1
    for symbol in left:
        if symbol not in right:
            order.insert(before + 1, symbol)
        before = order.index(symbol)
    rows: list[Row] = []
    for symbol in order:
        sides = [(name, side[symbol]) for name, side in ((a.name, left), (_other(a, b), right)) if symbol in side]
        texts = [text for _, text in sides]
        if len(set(texts)) < len(texts):
            rows.append(("both", texts[0], []))
        else:
            spans = _different(*texts) if len(texts) == 2 else [[]]
            rows += [(name, text, found) for (name, text), found in zip(sides, spans, strict=True)]
    return rows


def _different(a: str, b: str) -> list[list[Span]]:
    """Where two equations differ, token by token: the spans in each."""
    words = [list(re.finditer(r"[\w']+(\{[^}]*\})?|[^\w\s]", text)) for text in (a, b)]
    ours, theirs = ([word.group() for word in found] for found in words)
    spans: list[list[Span]] = [[], []]
    for kind, *ranges in difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        for k, (begin, end) in enumerate((ranges[:2], ranges[2:])):
            if kind != "equal" and begin < end:
                spans[k].append((words[k][begin].start(), words[k][end - 1].end()))
    return spans


# --- the same function? ---------------------------------------------------------------------------


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
        # Of the states the first is the output. Gates may be stacked in another order.
        same = {frozenset(side) if what != "states" else side[:1] + tuple(sorted(side[1:])) for side in sides}
        if len(same) > 1:
            has = [f"has the {what} {' '.join(side)}" if side else f"has no {what}" for side in sides]
            apart.append(f"{a.name} {has[0]}, {_other(a, b)} {has[1]}")
            if what == "gates":  # the others say no more
                break
    if a.projects_output != b.projects_output:
        apart.append(f"only {a.name if a.projects_output else _other(a, b)} projects its output")
    return apart


def _gap(a: Graph, b: Graph, negated: str = "") -> float | None:
    """The largest difference between two cells' states with the same weights; None if some are not finite.

    negated: the gate whose weights and biases are negated in b.
    """
    outcomes = [_run(cell, negate) for cell, negate in ((a, ""), (b, negated))]
    if any(not value.isfinite().all() for outcome in outcomes for value in outcome.values()):
        return None
    return max((outcomes[0][state] - outcomes[1][state]).abs().max().item() for state in outcomes[0])


def _run(cell: Graph, negated: str) -> dict[str, torch.Tensor]:
    """The output of every step and the last states, by name, with weights that depend on the gates' names alone."""
    from gatewise.layers import Recurrent

    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    size = UNITS // 2 if cell.projects_output else 0
    rows = size or UNITS
    devices: Any = []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(0)  # of the masks
        layer = Recurrent(cell, INPUTS, UNITS, dtype=torch.float64, device="cpu", proj_size=size)
        parameters: dict[str, torch.Tensor] = {}
        for side, width, gates in (("ih", INPUTS, cell.input_gates), ("hh", rows, cell.hidden_gates)):
            weight = {gate: drawn(UNITS, width) * 0.5 for gate in sorted(gates)}
            bias = {gate: drawn(UNITS) * 0.5 for gate in sorted(gates)}
            for gate in {negated} & set(gates):
                weight[gate], bias[gate] = -weight[gate], -bias[gate]
            if gates:
                parameters[f"weight_{side}_l0"] = torch.cat([weight[gate] for gate in gates])
                parameters[f"bias_{side}_l0"] = torch.cat([bias[gate] for gate in gates])
        if size:
            parameters["weight_hr_l0"] = drawn(size, UNITS) * 0.5
        for vector in sorted(cell.vectors):
            parameters[f"{vector}_l0"] = drawn(UNITS) * 0.5
        for name, parameter in layer.named_parameters():
            parameter.copy_(parameters[name])
        widths = dict(zip(cell.states, cell.state_sizes, strict=True))
        first = {state: drawn(1, BATCH, rows if widths[state] == "P" else UNITS) for state in sorted(cell.states)}
        states = tuple(first[state] for state in cell.states)
        torch.manual_seed(0)
        output, last = layer(drawn(STEPS, BATCH, INPUTS), states if len(states) > 1 else states[0])
        made = dict(zip(cell.states, last if len(states) > 1 else (last,), strict=True))
        return {"output": output, **{f"last {state}": value for state, value in made.items()}}


def _bounds(cell: Graph) -> list[str]:
    """How the cell clips gradients."""
    return sorted(f"{cell.nodes[node.args[0]]} {node.params}" for node in cell.nodes if node.op == "clip_grad")


def _is_sigmoid(cell: Graph, gate: str) -> bool:
    """Whether all that is made of a gate's sums is its σ, so that to negate its weights is to take 1 minus it."""
    linear = {i for i, node in enumerate(cell.nodes) if node.op in ("input", "project") and node.key == gate}
    readers = set()
    for i, node in enumerate(cell.nodes):
        if linear & set(node.args) and node.op == "add" and set(node.args) <= linear:
            linear.add(i)
        elif linear & set(node.args):
            readers.add(node.op)
    return readers == {"sigmoid"}
