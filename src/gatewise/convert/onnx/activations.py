"""ONNX's names of activations, in and out.

Source: the attributes activations, activation_alpha and activation_beta of https://onnx.ai/onnx/operators/onnx__LSTM.html.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from gatewise.errors import InputError
from gatewise.graph.graph import Node


class Activation(NamedTuple):
    """One of ONNX's.

    run: of a value, alpha and beta, in what a cell's equations may have. alpha, beta: whether it has them, and the
    default; NaN where the standard and onnxruntime do not agree on one. op: the cell's op that it is, if it is one.
    """

    run: Callable[[Any, float, float], Any]
    alpha: float | None = None
    beta: float | None = None
    op: str = ""


OPEN = float("nan")
ACTIVATIONS: dict[str, Activation] = {
    "Sigmoid": Activation(lambda x, a, b: torch.sigmoid(x), op="sigmoid"),
    "Tanh": Activation(lambda x, a, b: torch.tanh(x), op="tanh"),
    "Relu": Activation(lambda x, a, b: torch.relu(x), op="relu"),
    "Softplus": Activation(lambda x, a, b: F.softplus(x), op="softplus"),
    "Softsign": Activation(lambda x, a, b: F.softsign(x), op="softsign"),
    "LeakyRelu": Activation(lambda x, a, b: F.leaky_relu(x, a), 0.01, op="leaky_relu"),
    "Elu": Activation(lambda x, a, b: F.elu(x, a), 1.0, op="elu"),
    "HardSigmoid": Activation(lambda x, a, b: torch.clamp(a * x + b, 0, 1), 0.2, 0.5, op="hardsigmoid"),
    "Affine": Activation(lambda x, a, b: a * x + b, OPEN, OPEN),
    "ThresholdedRelu": Activation(lambda x, a, b: torch.where(x > a, x, 0.0), OPEN),
    "ScaledTanh": Activation(lambda x, a, b: a * torch.tanh(b * x), OPEN, OPEN),
}
_BY_OP = {made.op: name for name, made in ACTIVATIONS.items() if made.op}
_LOWER = {name.lower(): name for name in ACTIVATIONS}  # onnxruntime does not look at the case


class Chosen(NamedTuple):
    """An activation with its numbers; None where it has none."""

    name: str
    alpha: float | None = None
    beta: float | None = None

    def function(self, clip: float | None) -> Callable[[Any], Any]:
        """What computes it, of a value within [-clip, clip]."""
        run, alpha, beta = ACTIVATIONS[self.name].run, self.alpha or 0.0, self.beta or 0.0

        def activation(x: Any) -> Any:
            return run(x if clip is None else torch.clamp(x, -clip, clip), alpha, beta)

        numbers = [f"{number:g}" for number in (self.alpha, self.beta) if number is not None]
        numbers += [] if clip is None else [f"clip={clip:g}"]
        activation.__name__ = self.name + (f"({','.join(numbers)})" if numbers else "")
        return activation


def chosen(node: str, names: Sequence[str], alpha: Sequence[float], beta: Sequence[float]) -> list[Chosen]:
    """The activations of a node's attributes, whose numbers are handed out in order to those that take one.

    Raises: InputError: an unknown one; numbers that can be read in two ways, or that are missing.
    """
    known = []
    for name in names:
        if name.lower() not in _LOWER:
            raise InputError(f"{node}: the activation {name!r} is unknown, expected one of {', '.join(ACTIVATIONS)}")
        known.append(_LOWER[name.lower()])
    made = zip(*(_given(node, known, f, n) for f, n in (("alpha", alpha), ("beta", beta))), strict=True)
    return [Chosen(name, a, b) for name, (a, b) in zip(known, made, strict=True)]


def _given(node: str, names: Sequence[str], which: str, numbers: Sequence[float]) -> list[float | None]:
    """One number for each activation that takes it, in order."""
    defaults = [getattr(ACTIVATIONS[name], which) for name in names]
    takers = [k for k, default in enumerate(defaults) if default is not None]
    found = dict(zip(takers, numbers, strict=False))
    if len(numbers) > len(takers):
        places = [numbers[k] if k < len(numbers) else None for k in takers]
        if places != list(numbers)[: len(takers)]:  # one number for each activation, or for each that takes one?
            raise InputError(
                f"{node}: activation_{which} has {len(numbers)} numbers, expected {len(takers)}: "
                f"as many as there are activations that take one, among {', '.join(names)}"
            )
    for k in takers:
        if k not in found and defaults[k] != defaults[k]:
            raise InputError(
                f"{node}: activation_{which} does not tell the {which} of {names[k]}, "
                "for which the standard and onnxruntime have different defaults; write it into the model"
            )
    return [found.get(k, default) for k, default in enumerate(defaults)]


def exported(node: Node) -> Chosen | None:
    """The activation that a cell's node is; None if ONNX has none."""
    if node.op not in _BY_OP:
        return None
    name, numbers = _BY_OP[node.op], dict(node.params)
    if node.op == "leaky_relu":
        return Chosen(name, numbers["negative_slope"])
    if node.op == "elu":
        return Chosen(name, numbers["alpha"])
    if node.op == "hardsigmoid":
        return Chosen(name, 1 / 6, 0.5)
    if node.op == "softplus" and (numbers["beta"], numbers["threshold"]) != (1.0, 20.0):
        return None
    return Chosen(name)
