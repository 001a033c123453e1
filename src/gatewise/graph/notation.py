"""How an op is written, in plain text and in LaTeX: part of its row in `ops.py`.

A form is a template in which ①, ② and ③ stand for the arguments. It says how tightly it binds, and how tightly each
argument must bind to stand there without brackets, so that a printer adds no bracket that is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# How tightly a form binds, loosest first. A quotient binds less than a product: (a / b) ⊙ c keeps its brackets.
ANY, CHOICE, COMPARISON, SUM, QUOTIENT, PRODUCT, POWER, ATOM = range(8)


@dataclass(frozen=True, slots=True)
class Form:
    """One way to write an op.

    template: with ①, ②, ③ for its arguments. level: how tightly it binds.
    slots: the level from which on each argument needs no brackets.
    """

    template: str
    level: int = ATOM
    slots: tuple[int, ...] = ()


@dataclass(frozen=True)
class Notation:
    """An op in plain text and in LaTeX.

    params: what stands before the number of a parameter, which is shown where it is not the default.
    meaning: what follows "f(a) = " in the legend, for functions that not every reader knows.
    unit: whether a unit's value is made from that unit's own numbers alone.
    """

    text: Form
    latex: Form
    params: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    meaning: tuple[str, str] | None = None
    unit: bool = True


def forms(text: str, latex: str, level: int = ATOM, slots: tuple[int, ...] = ()) -> Notation:
    """Two templates that bind alike."""
    return Notation(Form(text, level, slots), Form(latex, level, slots))


def symbol(text: str, latex: str | None = None) -> Notation:
    """A name or a number."""
    return forms(text, text if latex is None else latex)


def call(
    text: str,
    latex: str | None = None,
    arity: int = 1,
    params: Mapping[str, tuple[str, str]] | None = None,
    meaning: tuple[str, str] | None = None,
    unit: bool = True,
) -> Notation:
    """A function, f(a, b). latex: its name there, if it isn't the same one, upright; or a template with ①."""
    arguments, slots = ", ".join("①②③"[:arity]), (ANY,) * arity
    latex = rf"\operatorname{{{text}}}" if latex is None else latex
    text, latex = (name if "①" in name else f"{name}({arguments})" for name in (text, latex))
    return Notation(Form(text, ATOM, slots), Form(latex, ATOM, slots), params or {}, meaning, unit)


def infix(sign: str, latex: str, level: int, left: int, right: int) -> Notation:
    """An operator between its two arguments; left, right: the levels that need no brackets."""
    return forms(f"① {sign} ②", f"① {latex} ②", level, (left, right))
