"""A cell's equations, as a textbook would write them, from its graph.

    r_t = σ(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)
    h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}

Each named local of the cell is a line, in the order of its code; a state's name is its new value, h_t, and the old
one is h_{t-1}. ⊙ is the product unit by unit, · the product with a number, σ the logistic function. The gates are
written with torch's names of their parameters: x.r is W_ir x_t + b_ir, h.r is W_hr h_{t-1} + b_hr, and (r * h).n is
W_hn (r_t ⊙ h_{t-1}) + b_hn. An unnamed value that is read more than once gets a letter of its own.

What is written is what is computed: the order of terms is the code's, and only what is surely the same function is
written shorter (a + -b as a - b, a + (b + c) without brackets, the normalisation of `layer_norm` as N(a)).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any

from gatewise.graph.graph import Graph, Node, walk
from gatewise.graph.notation import Notation, call
from gatewise.graph.ops import OPS
from gatewise.graph.rules import MASKS, is_comparison
from gatewise.inspect.legend import legend
from gatewise.inspect.names import Names
from gatewise.inspect.normal import Key, normalised
from gatewise.inspect.printer import Expression, Part, element, number

ATOMS = ("state", "vector", "const", *MASKS)  # the leaves that are as short as a name
DEEPEST = 40  # ops within each other in one line; Python's recursion has an end, and so has a reader's patience


@dataclass(frozen=True)
class Line:
    """One equation.

    symbol: its left side. value: its right side. node: the graph's node that it makes.
    name: what the cell's code calls the value, "" if nothing.
    """

    symbol: Expression
    value: Expression
    node: int
    name: str

    @property
    def text(self) -> str:
        """In plain text, `h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}`."""
        return f"{self.symbol.text} = {self.value.text}"


def text(cell: Graph) -> str:
    """`Graph.equations`: the lines, and under them what needs to be said about their symbols."""
    made = Equations.of(cell)
    notes = ["".join(piece if isinstance(piece, str) else piece[0] for piece in note) for note in legend(made)]
    return "\n".join([*(line.text for line in made.lines), *([""] if notes else []), *notes])


def latex(cell: Graph) -> str:
    """`Graph.latex`: an `aligned` block."""
    made = Equations.of(cell)
    block = " \\\\\n".join(f"{line.symbol.latex} &= {line.value.latex}" for line in made.lines)
    for k, note in enumerate(legend(made)):
        words = "".join(rf"\text{{{piece}}}" if isinstance(piece, str) else piece[1] for piece in note)
        block += f" \\\\{'' if k else '[1ex]'}\n&{words}"
    return f"\\begin{{aligned}}\n{block}\n\\end{{aligned}}"


def lines(cell: Graph) -> list[Line]:
    """The equations of a cell, one object a line."""
    return list(Equations.of(cell).lines)


def parts(cell: Graph) -> list[dict[str, Any]]:
    """The equations in a form for JSON, in which a page can put numbers in the place of symbols.

    Returns:
        For each line a dict: `name`, what the code calls the value ("" if nothing); `symbol`, such as "z_t"; `node`,
        the index of the node in `cell.nodes` that it makes; `parts`, its right side, each part either literal text or
        a dict of a place where a number can stand: `node`, of which value; `text`, what stands there otherwise;
        `bracket`, whether a negative number needs brackets there. The texts together are the line's right side.
        An input's x.r or a projection h.r is one number, and so is what is made of all units, such as a mean.
    """
    return [
        {
            "name": line.name,
            "symbol": line.symbol.text,
            "node": line.node,
            "parts": [
                p if isinstance(p, str) else {"node": p.node, "text": p.text, "bracket": p.bracket}
                for p in line.value.parts
            ],
        }
        for line in lines(cell)
    ]


def filled(cell: Graph, values: Mapping[int, float], digits: int = 2) -> list[str]:
    """The equations with one unit's numbers in place, such as `z_t = σ(0.31 + -1.20) = 0.29`.

    Args:
        cell: any cell. values: each node's number by its index, at least of all nodes of `parts(cell)`.
        digits: after the decimal point.

    Raises: ValueError: a number is missing.
    """

    def shown(part: Part) -> str:
        if part.node not in values:
            raise ValueError(
                f"filled: node {part.node}, {part.text}, has no number; expected one for each of parts(cell)"
            )
        value = float(values[part.node])
        word = f"{value:.{digits}f}" if abs(value) < 1e5 else f"{value:.{digits}e}"
        word = word.removeprefix("-") if not float(word) else word  # no -0.00
        return f"({word})" if part.bracket and word.startswith("-") else word

    filled_lines = []
    for line in lines(cell):
        right = "".join(part if isinstance(part, str) else shown(part) for part in line.value.parts)
        result = shown(Part(line.node, line.symbol.text, False))
        filled_lines.append(f"{line.symbol.text} = {right}" + (f" = {result}" if right != result else ""))
    return filled_lines


class Equations:
    """One cell, while its nodes become lines."""

    def __init__(self, cell: Graph) -> None:
        self.cell, self.names = cell, Names(cell)
        self.normal = normalised(cell)
        self.called: dict[int, str] = {}  # what the code calls a node: the first of its names
        new_values = dict(cell.outputs)
        for name, i in (*cell.outputs, *cell.names):
            if cell.nodes[i].op not in ATOMS and new_values.get(name, i) == i:
                self.called.setdefault(i, name)
        moving = {i for i, node in enumerate(cell.nodes) if node.op in ("input", "state", "step_mask")}
        for i, node in enumerate(cell.nodes):  # the values that differ from step to step
            if not moving.isdisjoint(node.args):
                moving.add(i)
        self.when = ["t" if i in moving else "" for i in range(len(cell.nodes))]

        own = self._own_lines()
        self.leaves: dict[int, Expression] = {}
        new = {}
        for state in cell.states:  # first, so that no local takes their names
            new[state] = Expression(self.names.new(state, "t"))
            old = self.names.new(state, "t-1")
            self.leaves.update((i, Expression(old, node=i)) for i, n in walk(cell, "state") if n.key == state)
        for op in ("vector", *MASKS):
            self.leaves.update((i, Expression(self.names.new(n.key, self.when[i]), node=i)) for i, n in walk(cell, op))
        self.normalisations = self._name_normalisations()
        symbols = {i: new[name] for i, name in self.called.items() if name in new and i in own}
        for i in sorted(own, key=lambda i: (i not in self.called, i)):  # names of the code first, then letters
            if i not in symbols:
                made = self.names.new(self.called[i], self.when[i]) if i in self.called else None
                symbols[i] = Expression(made or self.names.unnamed(self.when[i]))
        made_lines = []
        for i in sorted(own):
            value = self.written(i)
            made_lines.append(Line(symbols[i], value, i, self.called.get(i, "")))
            self.leaves[i] = Expression(symbols[i].notation, node=i)  # for the lines below
        for state, i in cell.outputs:  # a state whose new value is an old state or another's new one
            if symbols.get(i) is not new[state]:
                made_lines.append(Line(new[state], self.written(i), i, state))
        self.lines = tuple(made_lines)

    @staticmethod
    @lru_cache(maxsize=256)
    def of(cell: Graph) -> Equations:
        """The equations of a cell; raises TypeError if it is none."""
        if not isinstance(cell, Graph):
            raise TypeError(f"equations: cell is {cell!r}, expected what @gatewise.cell(gates=…) makes of a function")
        if not cell.is_cell:
            raise TypeError(f"equations: {cell.name} is a backward graph, expected a cell; its text is graph.text")
        return Equations(cell)

    # --- which values have a line ---------------------------------------------------------------

    def _reads(self, i: int) -> tuple[int, ...]:
        return (self.normal[i].value,) if i in self.normal else self.cell.nodes[i].args

    def _own_lines(self) -> set[int]:
        """The nodes that get a line: the named ones, those read more than once, and one in a chain without end."""
        own, reads = set(self.called), [0] * len(self.cell.nodes)
        outputs = {i for _, i in self.cell.outputs if self.cell.nodes[i].op != "state"}
        for i in reversed(range(len(self.cell.nodes))):
            node = self.cell.nodes[i]
            if node.op in ATOMS:
                continue
            if (reads[i] > 1 and not self._is_short(node)) or i in outputs:
                own.add(i)
            for a in self._reads(i):
                reads[a] += 1 if i in own else reads[i]
        depth = [0] * len(self.cell.nodes)
        for i in range(len(depth)):
            depth[i] = 1 + max((depth[a] for a in self._reads(i) if a not in own), default=0)
            if depth[i] > DEEPEST and reads[i] and self.cell.nodes[i].op not in ATOMS:
                own.add(i)
        return own

    def _is_short(self, node: Node) -> bool:
        """Whether a value is no longer than a name would be: 1 - z, a state, its clipped gradient."""
        if node.op == "clip_grad":  # not seen in the value
            return True
        arithmetic = node.op in ("add", "sub", "mul", "neg") or is_comparison(node)
        return arithmetic and all(a in self.called or self.cell.nodes[a].op in (*ATOMS, "clip_grad") for a in node.args)

    # --- a node as an expression ------------------------------------------------------------------

    def written(self, i: int) -> Expression:
        """A node, written out of what has a symbol."""
        node = self.cell.nodes[i]
        if i in self.leaves:
            return self.leaves[i]
        if node.op == "const":
            return number(node.params[0][1])
        if node.op == "input":
            return Expression(self.names.from_input(node.key), node=i)
        if node.op == "clip_grad":
            return self.written(node.args[0])
        args = tuple(self.written(a) for a in self._reads(i))
        if i in self.normal:
            name = Expression(self.normalisations[self.normal[i].key])
            return Expression(call(name.text, name.latex), args, node=i)
        if node.op == "project":
            return Expression(self.names.projected(node.key), args, node=i)
        if node.op == "output":
            return Expression(self.names.projected_output(), args, node=i)
        made = element(node.op, args, node.params)
        return made if OPS[node.op].notation.unit else Expression(made.notation, args, made.params, node=i)

    def _name_normalisations(self) -> dict[Key, Notation]:
        """The functions that normalise: N for one value by itself, N1, N2 … for several together."""
        keys = dict.fromkeys(self.normal[i].key for i in self.present() if i in self.normal)
        plain = {eps: self.names.new("N") for eps in dict.fromkeys(key.eps for key in keys)}
        number_of = count(1)
        return {Key((), eps): name for eps, name in plain.items()} | {
            key: self.names.new(f"N{next(number_of)}") for key in keys if key.group
        }

    def present(self) -> list[int]:
        """The nodes that some line shows, in order."""
        wanted = {i for _, i in (*self.cell.outputs, *self.cell.names)}
        for i in reversed(range(len(self.cell.nodes))):
            if i in wanted:
                wanted.update(self._reads(i))
        return sorted(wanted)
