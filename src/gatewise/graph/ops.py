"""The ops of cells, element-wise but for one: one row an op.

A row says how torch computes the op, what its derivative is and how it is written; everything else about an op is
derived from its row. A row's name is the name of the torch function that a cell writes (`torch.sigmoid`,
`torch.nn.functional.elu`, or the operator's: `a + b` is `torch.add`).

A derivative is one function an argument, `(g, *args, y, **params)`: g is the gradient of the op's value
y. It is written in the same operators and torch functions as cells are, so that it can be traced into
the backward graph, and it agrees with torch's own at kinks and ties.

Two rows are not element-wise functions of torch: `mean` is taken over the units of a sample, and every unit
gets it; `clip_grad` is the identity, whose derivative is clamped (`gatewise.clip_state_grad`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from gatewise.graph.notation import (
    ANY,
    ATOM,
    CHOICE,
    COMPARISON,
    POWER,
    PRODUCT,
    QUOTIENT,
    SUM,
    Form,
    Notation,
    call,
    forms,
    infix,
    symbol,
)

Fn = Callable[..., Any]


@dataclass(frozen=True)
class Op:
    """One op.

    name: its torch function's name. run: tensors in, tensor out.
    derivative: for each argument, g times the derivative of y by it (None: it has none).
    notation: how it is written, in plain text and in LaTeX.
    params: the numbers that it takes after its arguments, with their defaults (None: none given).
    boolean: it makes a comparison, not a number. conditions: which arguments must be comparisons.
    scalars: `run` takes Python numbers for constants; else they come as 0-dimensional tensors.
    triton: the same in the GPU kernels, which have the functions of scan/gpu/device.py; {0} is the 1st argument.
    """

    name: str
    run: Fn
    derivative: tuple[Fn | None, ...]
    notation: Notation
    params: Mapping[str, float | None] = field(default_factory=dict)
    boolean: bool = False
    conditions: tuple[int, ...] = ()
    scalars: bool = False
    triton: str = ""

    @property
    def arity(self) -> int:
        return len(self.derivative)


def _log(a: Any) -> Any:
    """log of a value or, as a power's base may be, of a number."""
    return torch.log(a) if not isinstance(a, float) else math.log(a) if a > 0.0 else math.nan


def _unless_zero(a: Any, gradient: Fn, g: Any) -> Any:
    """gradient(), but 0 where a is 0: there b * a ** (b - 1) and y * log(a) may be 0 * inf."""
    if isinstance(a, float):
        return gradient() if a != 0.0 else 0.0 * g
    return torch.where(torch.abs(a) > 0.0, gradient(), 0.0)


def _within(g: Any, a: Any, lo: float | None, hi: float | None) -> Any:
    """g where lo <= a <= hi, else 0; a bound of None is no bound."""
    if lo is not None:
        g = torch.where(a >= lo, g, 0.0)
    return g if hi is None else torch.where(a <= hi, g, 0.0)


_ROWS = (
    # arithmetic
    Op(
        "add",
        operator.add,
        (lambda g, a, b, y: g, lambda g, a, b, y: g),
        infix("+", "+", SUM, SUM, SUM),
        scalars=True,
        triton="{0} + {1}",
    ),
    Op(
        "sub",
        operator.sub,
        (lambda g, a, b, y: g, lambda g, a, b, y: -g),
        infix("-", "-", SUM, SUM, QUOTIENT),
        scalars=True,
        triton="{0} - {1}",
    ),
    Op(
        "mul",
        operator.mul,
        (lambda g, a, b, y: g * b, lambda g, a, b, y: g * a),
        infix("⊙", r"\odot", PRODUCT, PRODUCT, PRODUCT),
        scalars=True,
        triton="{0} * {1}",
    ),
    Op(
        "div",
        operator.truediv,
        (lambda g, a, b, y: g / b, lambda g, a, b, y: -(g * y / b)),
        Notation(Form("① / ②", QUOTIENT, (PRODUCT, POWER)), Form(r"\frac{①}{②}", PRODUCT, (ANY, ANY))),
        scalars=True,
        triton="{0} / {1}",
    ),
    Op("neg", torch.neg, (lambda g, a, y: -g,), forms("-①", "-①", SUM, (QUOTIENT,)), triton="-{0}"),
    Op(
        "pow",
        operator.pow,
        (
            lambda g, a, b, y: _unless_zero(b, lambda: g * (b * a ** (b - 1.0)), g),
            lambda g, a, b, y: _unless_zero(a, lambda: g * (y * _log(a)), g),
        ),
        Notation(Form("①^②", POWER, (ATOM, ATOM)), Form("{①}^{②}", POWER, (ATOM, ANY))),
        scalars=True,
        triton="power({0}, {1})",
    ),
    # functions
    Op("sigmoid", torch.sigmoid, (lambda g, a, y: g * (y * (1.0 - y)),), call("σ", r"\sigma"), triton="sigmoid({0})"),
    Op("tanh", torch.tanh, (lambda g, a, y: g * (1.0 - y * y),), call("tanh", r"\tanh"), triton="tanh({0})"),
    Op(
        "relu",
        torch.relu,
        (lambda g, a, y: torch.where(y > 0.0, g, 0.0),),
        call("ReLU"),
        triton="tl.where({0} < 0.0, 0.0, {0})",
    ),
    Op("exp", torch.exp, (lambda g, a, y: g * y,), call("exp", r"\exp"), triton="exp({0})"),
    Op("log", torch.log, (lambda g, a, y: g / a,), call("log", r"\log"), triton="tl.log({0})"),
    Op("sqrt", torch.sqrt, (lambda g, a, y: g / (2.0 * y),), call("√", r"\sqrt{①}"), triton="sqrt({0})"),
    Op(
        "abs",
        torch.abs,
        (lambda g, a, y: torch.where(a > 0.0, g, torch.where(a < 0.0, -g, 0.0)),),
        call("abs", r"\left|①\right|"),
        triton="tl.abs({0})",
    ),
    Op(
        "softplus",
        F.softplus,
        (lambda g, a, y, beta, threshold: torch.where(beta * a > threshold, g, g * torch.sigmoid(beta * a)),),
        call(
            "softplus",
            params={"beta": ("β=", r"\beta="), "threshold": ("linear above ", r"\text{linear above }")},
            meaning=(
                "log(1 + exp(β · a)) / β, β = 1 unless shown",
                r"\frac{1}{\beta} \log(1 + \exp(\beta a)),\ \beta = 1 \text{ unless shown}",
            ),
        ),
        params={"beta": 1.0, "threshold": 20.0},
        triton="softplus({0}, {beta}, {threshold})",
    ),
    Op(
        "elu",
        F.elu,
        (lambda g, a, y, alpha: torch.where(a > 0.0, g, g * (y + alpha)),),
        call(
            "ELU",
            params={"alpha": ("α=", r"\alpha=")},
            meaning=(
                "a if a > 0 else α · (exp(a) - 1), α = 1 unless shown",
                r"\begin{cases} a & \text{if } a > 0 \\ \alpha (\exp(a) - 1) & \text{otherwise} \end{cases}\quad"
                r"\alpha = 1 \text{ unless shown}",
            ),
        ),
        params={"alpha": 1.0},
        triton="elu({0}, {alpha})",
    ),
    Op(
        "leaky_relu",
        F.leaky_relu,
        (lambda g, a, y, negative_slope: torch.where(a > 0.0, g, negative_slope * g),),
        call(
            "LeakyReLU",
            params={"negative_slope": ("slope=", r"\text{slope}=")},
            meaning=(
                "a if a > 0 else slope · a, slope = 0.01 unless shown",
                r"\begin{cases} a & \text{if } a > 0 \\ \text{slope} \cdot a & \text{otherwise} \end{cases}\quad"
                r"\text{slope} = 0.01 \text{ unless shown}",
            ),
        ),
        params={"negative_slope": 0.01},
        triton="tl.where({0} > 0.0, {0}, {negative_slope} * {0})",
    ),
    Op(
        "softsign",
        F.softsign,
        (lambda g, a, y: g / (1.0 + torch.abs(a)) ** 2.0,),
        call("softsign", meaning=("a / (1 + abs(a))", r"\frac{a}{1 + \left|a\right|}")),
        triton="{0} / (1.0 + tl.abs({0}))",
    ),
    Op(
        "hardsigmoid",
        F.hardsigmoid,
        (lambda g, a, y: torch.where(y > 0.0, torch.where(y < 1.0, g / 6.0, 0.0), 0.0),),
        call(
            "hardsigmoid",
            meaning=("clamp(a / 6 + 0.5, 0, 1)", r"\operatorname{clamp}\left(\frac{a}{6} + 0.5, 0, 1\right)"),
        ),
        triton="clamp({0} + 3.0, 0.0, 6.0) / 6.0",
    ),
    Op(
        "clamp",
        torch.clamp,
        (lambda g, a, y, min=None, max=None: _within(g, a, min, max),),
        call("clamp", params={"min": ("", ""), "max": ("", "")}),
        params={"min": None, "max": None},
        triton="clamp({0}, {min}, {max})",
    ),
    # choices; at a tie, minimum and maximum give each side half, as torch does
    Op(
        "minimum",
        torch.minimum,
        (
            lambda g, a, b, y: torch.where(a < b, g, torch.where(a > b, 0.0, 0.5 * g)),
            lambda g, a, b, y: torch.where(b < a, g, torch.where(b > a, 0.0, 0.5 * g)),
        ),
        call("min", r"\min", arity=2),
        triton="minimum({0}, {1})",
    ),
    Op(
        "maximum",
        torch.maximum,
        (
            lambda g, a, b, y: torch.where(a > b, g, torch.where(a < b, 0.0, 0.5 * g)),
            lambda g, a, b, y: torch.where(b > a, g, torch.where(b < a, 0.0, 0.5 * g)),
        ),
        call("max", r"\max", arity=2),
        triton="maximum({0}, {1})",
    ),
    Op(
        "where",
        torch.where,
        (None, lambda g, c, a, b, y: torch.where(c, g, 0.0), lambda g, c, a, b, y: torch.where(c, 0.0, g)),
        Notation(
            Form("② if ① else ③", CHOICE, (COMPARISON,) * 3),
            Form(r"\begin{cases} ② & \text{if } ① \\ ③ & \text{otherwise} \end{cases}", CHOICE, (ANY,) * 3),
        ),
        conditions=(0,),
        triton="tl.where({0}, {1}, {2})",
    ),
    # over the units of a sample; the gradients that reach its value at each unit all reach each unit
    Op("mean", lambda a: a.mean(-1, keepdim=True), (lambda g, a, y: torch.mean(g),), call("mean", unit=False)),
    # of gradients alone
    Op(
        "clip_grad",
        lambda a, limit: a,
        (lambda g, a, y, limit: torch.clamp(g, min=-limit, max=limit),),
        symbol("①"),
        params={"limit": math.inf},
        triton="{0}",
    ),
    # comparisons
    Op(
        "lt",
        operator.lt,
        (None, None),
        infix("<", "<", COMPARISON, SUM, SUM),
        boolean=True,
        scalars=True,
        triton="{0} < {1}",
    ),
    Op(
        "le",
        operator.le,
        (None, None),
        infix("≤", r"\le", COMPARISON, SUM, SUM),
        boolean=True,
        scalars=True,
        triton="{0} <= {1}",
    ),
    Op(
        "gt",
        operator.gt,
        (None, None),
        infix(">", ">", COMPARISON, SUM, SUM),
        boolean=True,
        scalars=True,
        triton="{0} > {1}",
    ),
    Op(
        "ge",
        operator.ge,
        (None, None),
        infix("≥", r"\ge", COMPARISON, SUM, SUM),
        boolean=True,
        scalars=True,
        triton="{0} >= {1}",
    ),
)

OPS: dict[str, Op] = {row.name: row for row in _ROWS}

# Other names that torch gives to the same ops.
ALIASES = {
    "multiply": "mul", "subtract": "sub", "divide": "div", "true_divide": "div", "negative": "neg",
    "absolute": "abs", "clip": "clamp", "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge",
    "special_expit": "sigmoid",
}  # fmt: skip
