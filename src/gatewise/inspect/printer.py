"""Expressions and how they are printed: as plain text or LaTeX, in parts of which some stand for numbers.

An expression is a tree of notations (`graph/notation.py`); `equations.py` makes it of a cell's graph.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from gatewise.graph.notation import ATOM, POWER, PRODUCT, QUOTIENT, SUM, Form, Notation, infix, symbol
from gatewise.graph.ops import OPS

DIGITS = 6  # of a constant
SCALED = infix("·", r"\cdot", PRODUCT, PRODUCT, PRODUCT)  # a product with a number


@dataclass(frozen=True)
class Expression:
    """One value, written out.

    notation: how; args: of what. params: the op's numbers by name, those that are shown.
    node: the graph's node whose number may stand in its place; None, where it's written out even then.
    number: its value, if it is a constant.
    """

    notation: Notation
    args: tuple[Expression, ...] = ()
    params: tuple[tuple[str, float], ...] = ()
    node: int | None = None
    number: float | None = None

    @property
    def text(self) -> str:
        """In plain text, such as `σ(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)`."""
        return _joined(self.parts)

    @property
    def latex(self) -> str:
        """In LaTeX, with brackets as tall as what they hold."""
        return _tall(_joined(write(self, "latex")))

    @property
    def parts(self) -> list[str | Part]:
        """The text in parts: literal text, or the place of a node's number."""
        return write(self, "text")


@dataclass(frozen=True)
class Part:
    """A place in an equation where a number can stand.

    node: of which node of the graph. text: what stands there otherwise.
    bracket: whether a negative number needs brackets there.
    """

    node: int
    text: str
    bracket: bool


def number(value: float) -> Expression:
    """A constant: 1, not 1.0."""
    if value < 0 or (value == 0 and math.copysign(1, value) < 0):
        return negative(number(-value))
    text = "∞" if math.isinf(value) else f"{value:.{DIGITS}g}"
    mantissa, _, exponent = text.partition("e")
    latex = r"\infty" if math.isinf(value) else text
    if exponent:
        latex = rf"{mantissa} \cdot 10^{{{int(exponent)}}}" if mantissa != "1" else f"10^{{{int(exponent)}}}"
    notation = symbol(text, latex)
    if exponent and mantissa != "1":
        notation = Notation(notation.text, Form(latex, PRODUCT))
    return Expression(notation, number=value)


def negative(a: Expression) -> Expression:
    """-a."""
    positive = without_minus(a)
    return Expression(OPS["neg"].notation, (a,)) if positive is None else positive


def without_minus(a: Expression) -> Expression | None:
    """b, if a is -b."""
    return a.args[0] if a.notation is OPS["neg"].notation else None


def element(op: str, args: tuple[Expression, ...], params: tuple[tuple[str, float], ...]) -> Expression:
    """An op of these values, as a textbook writes it: a + -b is a - b, 1 a is a, -1 a is -a, (-a) b is -(a b)."""
    row, signs = OPS[op], [without_minus(a) for a in args]
    if op == "neg":
        return negative(args[0])
    if op in ("add", "sub") and signs[1] is not None:
        op, args = ("sub" if op == "add" else "add"), (args[0], signs[1])
    elif op in ("mul", "div") and any(s is not None for s in signs):
        plain = tuple(a if s is None else s for a, s in zip(args, signs, strict=True))
        made = element(op, plain, ())
        return negative(made) if (signs[0] is None) != (signs[1] is None) else made
    elif op == "mul" and 1.0 in [a.number for a in args]:
        return args[1] if args[0].number == 1.0 else args[0]
    elif op == "mul" and any(a.number is not None for a in args):
        return Expression(SCALED, args)
    elif op == "pow" and args[1].text.lstrip("-").isdigit() and len(args[1].text) < 4:
        return Expression(_power(args[1].text), args[:1])
    elif op == "clamp" and len(params) == 1:  # one bound alone
        op, args, params = ("maximum" if params[0][0] == "min" else "minimum"), (*args, number(params[0][1])), ()
    shown = tuple(
        (name, value) for name in row.notation.params for key, value in params
        if key == name and value != row.params[name]
    )  # fmt: skip
    return Expression(OPS[op].notation, args, shown)


def _power(exponent: str) -> Notation:
    """a², a⁻¹."""
    raised = exponent.translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return Notation(Form(f"①{raised}", POWER, (ATOM,)), Form(f"{{①}}^{{{exponent}}}", POWER, (ATOM,)))


def write(expression: Expression, style: str, slot: int = 0) -> list[str | Part]:
    """An expression in parts.

    Args:
        expression: what is printed. style: "text" or "latex".
        slot: how tightly it must bind to need no brackets.
    """
    form: Form = getattr(expression.notation, style)
    parts: list[str | Part] = []
    for piece in re.split("([①②③])", form.template):
        if piece not in ("①", "②", "③"):
            parts.append(piece)
            continue
        k = "①②③".index(piece)
        made = write(expression.args[k], style, form.slots[k])
        # a + (-b + c): two signs in a row are hard to read
        doubled = form.level in (SUM, QUOTIENT, PRODUCT) and form.slots[k] >= SUM and any(parts)
        parts += _bracketed(made) if doubled and _joined(made).startswith("-") else made
    for name, value in expression.params:
        label = expression.notation.params[name][style == "latex"]
        parts[-1] = f"{str(parts[-1]).removesuffix(')')}, {label}{_joined(write(number(value), style))})"
    if expression.node is not None:
        parts = [Part(expression.node, _joined(parts), slot > SUM)]
    return _merged(_bracketed(parts) if form.level < slot else parts)


def _bracketed(parts: list[str | Part]) -> list[str | Part]:
    match parts:
        case [Part(node, text, bracket)]:  # the brackets go with the text, since a number needs none
            return [Part(node, f"({text})", bracket)]
    return ["(", *parts, ")"]


def _merged(parts: list[str | Part]) -> list[str | Part]:
    """Neighbouring literals as one, none empty."""
    merged: list[str | Part] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part != "":
            merged.append(part)
    return merged


def _joined(parts: list[str | Part]) -> str:
    return "".join(part if isinstance(part, str) else part.text for part in parts)


def _tall(latex: str) -> str:
    """LaTeX in which brackets around a fraction or cases are made tall."""
    pieces = re.split(r"([()])", latex)
    opened: list[int] = []
    for k, piece in enumerate(pieces):
        if piece == "(":
            opened.append(k)
        elif piece == ")" and opened:
            begin = opened.pop()
            if any(tall in "".join(pieces[begin:k]) for tall in (r"\frac", r"\begin", r"\sqrt")):
                pieces[begin], pieces[k] = r"\left(", r"\right)"
    return "".join(pieces)
