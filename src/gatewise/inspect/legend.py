"""The legend under a cell's equations: what its symbols mean, of those that not every reader knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatewise.graph.graph import walk
from gatewise.graph.ops import OPS
from gatewise.inspect.normal import Key
from gatewise.inspect.printer import Expression, number

if TYPE_CHECKING:
    from gatewise.inspect.equations import Equations

Formula = tuple[str, str]  # in text, in LaTeX
Note = tuple[str | Formula, ...]  # words and formulas, which make a line


def legend(made: Equations) -> list[Note]:
    """The lines of the legend: only what the cell has."""
    return [
        *_functions(made),
        *_normalisations(made),
        *_vectors(made),
        *_masks(made),
        *_gradients(made),
        *_output(made),
    ]


def _functions(made: Equations) -> list[Note]:
    notes: list[Note] = []
    for op in dict.fromkeys(made.cell.nodes[i].op for i in made.present() if i not in made.normal):
        if op not in OPS:
            continue
        notation = OPS[op].notation
        head = notation.text.template.replace("①", "a"), notation.latex.template.replace("①", "a")
        if notation.meaning:
            notes.append(((f"{head[0]} = {notation.meaning[0]}", f"{head[1]} = {notation.meaning[1]}"),))
        elif not notation.unit:
            notes.append((head, " is taken over the units"))
    return notes


def _normalisations(made: Equations) -> list[Note]:
    notes: list[Note] = []
    for key, notation in made.normalisations.items():
        name, eps = _pair(Expression(notation)), number(key.eps)
        if key.group:
            values = [_pair(made.written(v)) for v in key.group]
            plain = _pair(Expression(made.normalisations[Key((), key.eps)]))
            notes.append((name, ": ", plain, " with one mean and variance for ", *_listed(values)))
        else:
            formula = (
                f"{name[0]}(a) = (a - mean) / √(variance + {eps.text})",
                rf"{name[1]}(a) = \frac{{a - \text{{mean}}}}{{\sqrt{{\text{{variance}} + {eps.latex}}}}}",
            )
            notes.append((formula, ", over the units"))
    return notes


def _vectors(made: Equations) -> list[Note]:
    by_start: dict[float | None, list[Formula]] = {}
    for i, node in walk(made.cell, "vector"):
        by_start.setdefault(dict(node.params).get("initial"), []).append(_pair(made.leaves[i]))
    notes: list[Note] = []
    for start, vectors in by_start.items():
        first: Note = () if start is None else (", starting from ", _pair(number(start)))
        noun = "a learned vector" if len(vectors) == 1 else "learned vectors"
        notes.append((*_listed(vectors), f": {noun}, one number a unit", *first))
    return notes


def _masks(made: Equations) -> list[Note]:
    notes: list[Note] = []
    for i in made.cell.masks:
        node = made.cell.nodes[i]
        keep, scale = dict(node.params)["keep"], dict(node.params)["scale"]
        often = "at every step" if node.op == "step_mask" else "once a sequence"
        zero, other, mean = (_pair(number(round(value, 12))) for value in (1 - keep, scale, keep * scale))
        drawn = f"; drawn for each unit {often}; in evaluation "
        notes.append((_pair(made.leaves[i]), ": 0 with probability ", zero, ", else ", other, drawn, mean))
    return notes


def _gradients(made: Equations) -> list[Note]:
    notes: list[Note] = []
    clipped = [(node.args[0], node.params[0][1]) for _, node in walk(made.cell, "clip_grad")]
    for value, limit in dict.fromkeys(clipped):
        bound = number(limit)
        interval = f"[-{bound.text}, {bound.text}]", f"[-{bound.latex}, {bound.latex}]"
        notes.append(("the gradient of ", _pair(made.written(value)), " is kept within ", interval))
    return notes


def _output(made: Equations) -> list[Note]:
    if not made.cell.projects_output or made.names.output == "W_hr":
        return []  # torch's own name
    torchs = "weight_hr", r"\mathtt{weight\_hr}"
    return [(_pair(Expression(made.names.output_weight())), " is the output projection, ", torchs)]


def _pair(expression: Expression) -> Formula:
    return expression.text, expression.latex


def _listed(pairs: list[Formula]) -> Note:
    listed: list[str | Formula] = []
    for pair in pairs:
        listed += [", ", pair]
    return tuple(listed[1:])
