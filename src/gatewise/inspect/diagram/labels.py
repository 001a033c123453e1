"""What is written in a diagram, as matplotlib's mathtext (without the dollars, unless said)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from gatewise.graph.graph import Node
from gatewise.graph.ops import OPS

_GREEK = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "rho",
    "sigma",
    "tau",
    "phi",
    "chi",
    "psi",
    "omega",
]
_FUNCTIONS = {
    "sigmoid": "\\sigma",
    "relu": "ReLU",
    "sqrt": "\\sqrt{\\ \\cdot\\ }",
    "abs": "|\\,\\cdot\\,|",
    "elu": "ELU",
    "leaky_relu": "leaky\\ ReLU",
    "hardsigmoid": "hard\\ \\sigma",
    "clip_grad": "clip\\ \\nabla",
}
_COMPARISONS = {"lt": "<", "le": "\\leq", "gt": ">", "ge": "\\geq"}


def number(value: float) -> str:
    """A number as a person writes it: 2, 0.01, −0.6, 10⁻⁵."""
    text = f"{value:.4g}"
    if "e" in text:
        digits, _, power = text.partition("e")
        return ("" if digits == "1" else f"{digits}\\cdot") + f"10^{{{int(power)}}}"
    return text.replace("inf", "\\infty")


def symbol(name: str, subscript: str = "") -> str:
    """A Python name as a symbol: z, h_2, log_f with the rest of the name as a subscript."""
    head, *rest = [word for word in name.split("_") if word] or ["\\_"]
    digits = re.fullmatch(r"([A-Za-z]+)(\d+)", head)
    if digits:
        head, rest = digits[1], [digits[2], *rest]
    if rest and rest[-1] == "t" and subscript == "t":
        rest = rest[:-1]
    head = f"\\{head}" if head in _GREEK else head if len(head) == 1 else f"\\mathrm{{{head}}}"
    words = [word if len(word) == 1 or word.isdigit() else f"\\mathrm{{{word}}}" for word in rest]
    below = ",".join([*words, *([subscript] if subscript else [])])
    return f"{head}_{{{below}}}" if below else head


def subscripted(name: str, subscript: str) -> str:
    """A value at a step, with its dollars: $h_{t-1}$."""
    return f"${symbol(name, subscript)}$"


def function(node: Node, before: str = "") -> str:
    """A function of one value, with its numbers; `before`: what stands before its argument."""
    row, given = OPS[node.op], dict(node.params)
    text = _FUNCTIONS.get(node.op, node.op)
    if not text.startswith(("\\", "|")):
        text = f"\\mathrm{{{text}}}"
    if node.op == "clamp":
        low, high = number(given.get("min", -math.inf)), number(given.get("max", math.inf))
        return f"[{low},\\,{high}]"
    if node.op == "clip_grad":
        return f"{text}\\ {number(given['limit'])}"
    numbers = [number(value) for name, value in given.items() if value != row.params[name]]
    if before:
        return f"{text}({before}\\cdot)"
    return text + ("_{\\," + ",\\,".join(numbers) + "}" if numbers else "")


def binary(op: str, left: str, right: str) -> str:
    """An op of a value and of something that has a name: `1−`, `× 2`, `⊙ p`; the value's place is "" ."""
    name = left or right
    is_number = not re.search("[A-Za-z]", name.replace("\\cdot", "").replace("\\infty", ""))
    if op == "mul":
        return f"\\times\\,{name}" if is_number else f"\\odot\\,{name}"
    if op == "add":
        return f"+\\,{name}"
    if op == "sub":
        return f"{left}{{-}}" if left else f"-\\,{right}"
    if op == "div":
        return f"{left}\\,\\div" if left else f"\\div\\,{right}"
    if op == "pow":
        return f"{left}^{{\\,(\\cdot)}}" if left else f"(\\cdot)^{{{right}}}"
    if op in _COMPARISONS:
        dot = "\\cdot"
        return f"{left or dot} {_COMPARISONS[op]} {right or dot}"
    return f"\\mathrm{{{op[:3]}}}(\\cdot,\\,{name})"


def ordered(op: str, leaves: Sequence[str]) -> tuple[str, str, tuple[str, ...]]:
    """(kind, label with dollars, what is written at each argument's line) of an op of several values."""
    if op in ("add", "mul"):
        return "circle", "+" if op == "add" else "·", ("", "")
    if op in ("sub", "div"):
        return "circle", "+" if op == "sub" else "·", ("", "-" if op == "sub" else "\\div")
    if op == "where":
        words = [
            f"\\mathrm{{{word}}}\\ {leaf}" for word, leaf in zip(("then", "else"), leaves[1:], strict=True) if leaf
        ]
        label = ",\\ ".join(words) if words else "\\mathrm{where}"
        return "box", f"${label}$", ("\\mathrm{if}", "\\mathrm{then}", "\\mathrm{else}")
    if op in _COMPARISONS:
        return "box", f"$a {_COMPARISONS[op]} b$", ("a", "b")
    if op == "pow":
        return "box", "$a^{\\,b}$", ("a", "b")
    return "box", f"$\\mathrm{{{op[:3] if op in ('maximum', 'minimum') else op}}}$", ("",) * len(leaves)
