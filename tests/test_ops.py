"""Each row of ops.py, against torch's own function and torch's own derivative."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from helpers import assert_close
from tolerances import FLOAT64, HARDSIGMOID

import gatewise
from gatewise.graph.notation import call
from gatewise.graph.ops import OPS, Op

DOUBLE = torch.float64
# Values on both sides of every kink, the kinks themselves, and ties of the two arguments.
POINTS = [-30.0, -3.0, -2.5, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 2.5, 3.0, 30.0]
PARAMS = {
    "softplus": {"beta": 0.7, "threshold": 10.0},
    "elu": {"alpha": 1.3},
    "leaky_relu": {"negative_slope": 0.2},
    "clamp": {"min": -1.0, "max": 0.5},
}
POSITIVE = {"log", "sqrt"}  # at 0 torch's own derivative is infinite


def arguments(name: str) -> list[torch.Tensor]:
    values = [p for p in POINTS if p > 0] if name in POSITIVE else POINTS
    if name == "pow":
        values = [p for p in POINTS if 0 <= p < 10]
    grid = torch.cartesian_prod(*[torch.tensor(values, dtype=DOUBLE)] * 2)
    if name == "pow":  # at a = 0, 0 < b < 1 the derivative is infinite, and spreads NaN through the input's weights
        grid = grid[(grid[:, 0] > 0) | (grid[:, 1] >= 1) | (grid[:, 1] == 0)]
    if name == "div":
        grid = grid[grid[:, 1] != 0]
    return [grid[:, 0].clone(), grid[:, 1].clone()]


def run_as_cell(name: str, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The op's value and gradients through a cell of one step: h + op(x.a, x.b), weights the identity."""
    row, params = OPS[name], PARAMS.get(name, {})

    @gatewise.cell(gates="a b")
    def one_op(x, h):
        function = row.run if row.scalars else getattr(torch, name, None) or getattr(torch.nn.functional, name)
        if name == "where":
            value = torch.where(x.a > 0.1, x.a, x.b)
        else:
            value = function(*(x.a, x.b)[: row.arity], **params)
        if row.boolean:
            value = torch.where(value, 1.0, 0.0)
        return value + 0 * x.a + 0 * x.b + h

    layer = gatewise.Recurrent(one_op, 2, 1, bias=False, dtype=DOUBLE)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.eye(2, dtype=DOUBLE))
    x = torch.stack([a, b], 1).requires_grad_()
    y = layer(x.unsqueeze(0))[0].reshape(-1)
    (g,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), g[:, 0], g[:, 1]


def run_in_torch(name: str, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
    row, params = OPS[name], PARAMS.get(name, {})
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    if name == "where":
        y = torch.where(a > 0.1, a, b)
    else:
        functions = [getattr(m, name) for m in (torch, torch.nn.functional) if hasattr(m, name)]
        y = functions[0](*(a, b)[: row.arity], **params)
    if row.boolean:
        return y.to(DOUBLE), torch.zeros_like(a), torch.zeros_like(b)
    g = torch.autograd.grad(y.sum(), (a, b), allow_unused=True)
    return y.detach(), *(torch.zeros_like(a) if t is None else t for t in g)


@pytest.mark.parametrize("name", [name for name in OPS if name not in ("mean", "clip_grad")])  # see test_change.py
def test_value_and_derivative_are_torchs(name: str) -> None:
    ours, theirs = (run(name, *arguments(name)) for run in (run_as_cell, run_in_torch))
    for what, a, b in zip(("value", "derivative by a", "derivative by b"), ours, theirs, strict=True):
        assert_close(a, b, HARDSIGMOID if name == "hardsigmoid" else FLOAT64, f"{name}, {what}")


@pytest.mark.parametrize("name", ["clamp"])
@pytest.mark.parametrize("params", [{"min": -1.0}, {"max": 0.5}])
def test_one_bound_alone(name: str, params: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARAMS, name, params)
    test_value_and_derivative_are_torchs(name)


@pytest.mark.parametrize("power", [0, 0.5, 1, 2, 3, -1])
def test_constant_powers(power: float) -> None:
    @gatewise.cell(gates="a")
    def raised(x, h):
        return x.a**power + h

    layer = gatewise.Recurrent(raised, 1, 1, bias=False, dtype=DOUBLE)
    torch.nn.init.ones_(layer.weight_ih_l0)
    a = torch.tensor([0.5, 1.0, 2.0] + ([0.0, -1.5] if power in (0, 1, 2, 3) else []), dtype=DOUBLE).requires_grad_()
    y = layer(a.reshape(1, -1, 1))[0].reshape(-1)
    assert_close(y, a**power, FLOAT64)
    assert_close(torch.autograd.grad(y.sum(), a)[0], torch.autograd.grad((a**power).sum(), a)[0], FLOAT64)


def test_every_function_a_cell_may_use_is_there() -> None:
    listed = "sigmoid tanh relu exp log softplus abs sqrt clamp minimum maximum where pow add sub mul div neg"
    listed += " lt le gt ge elu leaky_relu softsign hardsigmoid"
    assert set(listed.split()) <= set(OPS)


def test_the_example_in_contributing_is_a_whole_op(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[1].joinpath("CONTRIBUTING.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"```python\n(Op\(.*?)```", page, flags=re.DOTALL)
    op = eval(row, {"Op": Op, "torch": torch, "call": call})
    assert op.name not in OPS  # else the page shows nothing new
    monkeypatch.setitem(OPS, op.name, op)
    test_value_and_derivative_are_torchs(op.name)
