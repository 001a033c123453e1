"""docs/beside-torch.md: what it says that torch.nn does is what torch.nn does, and what it says of ours holds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap

import gatewise

PAGE = Path(__file__).parents[1].joinpath("docs", "beside-torch.md").read_text(encoding="utf-8")
X = torch.randn(5, 2, 3)
MANY = torch.randn(4, 5, 2, 3)
T, B = (torch.export.Dim(axis, min=2, max=99) for axis in "TB")


def parameters(layer: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in layer.named_parameters()}


def loss(layer: nn.Module) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    return lambda p, x: functional_call(layer, p, (x,))[0].square().sum()


def second(layer: nn.Module) -> None:
    x = X.clone().requires_grad_()
    (g,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
    g.square().sum().backward()


def compiled(layer: nn.Module) -> None:
    torch._dynamo.reset()
    torch.compile(layer, fullgraph=True, backend="aot_eager")(X)


def exported(layer: nn.Module) -> None:
    program = torch.export.export(layer, (torch.randn(5, 4, 3),), dynamic_shapes=({0: T, 1: B},))
    program.module()(torch.randn(9, 3, 3))


def autocast(layer: nn.Module) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        layer(X)[0].float().sum().backward()


# (layer, options): the row of the table, and what is run there.
PROBES: list[tuple[str, str, dict[str, Any], Callable[[Any], object]]] = [
    ("second derivatives", "LSTM", {}, second),
    ("backward in eval mode", "LSTM", {}, lambda m: m.eval()(X)[0].sum().backward()),
    ("`vmap` over inputs", "GRU", {}, lambda m: vmap(lambda x: m(x)[0])(MANY)),
    ("`vmap` over parameters", "GRU", {}, lambda m: vmap(loss(m), (0, None))(
        {name: torch.stack([p, 2 * p]) for name, p in parameters(m).items()}, X)),
    ("gradients per sample", "GRU", {}, lambda m: vmap(grad(loss(m)), (None, 0))(parameters(m), MANY)),
    ("`grad`, `jacrev`", "LSTM", {}, lambda m: (grad(loss(m))(parameters(m), X), jacrev(lambda x: m(x)[0])(X))),
    ("`jvp`, `hessian`", "LSTM", {}, lambda m: (
        jvp(lambda x: m(x)[0], (X,), (X,)), hessian(lambda x: m(x)[0].sum())(X[:2]))),
    ("`torch.compile(fullgraph=True)`", "GRU", {}, compiled),
    ("`torch.export`, dynamic T and B", "GRU", {}, exported),
    ("`lengths=`", "GRU", {}, lambda m: m(X, lengths=torch.tensor([5, 3]))),
    ("`resets=`", "GRU", {}, lambda m: m(X, resets=torch.zeros(5, 2, dtype=torch.bool))),
    ("`learn_state=True`", "GRU", {"learn_state": True}, lambda m: m(X)),
    ("`layer.step`", "GRU", {}, lambda m: m.step(X[0])),
    ("autocast", "GRU", {}, autocast),
]  # fmt: skip


def row(title: str) -> list[str]:
    (line,) = [line for line in PAGE.splitlines() if line.startswith("|") and line.split("|")[2].strip() == title]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(("title", "name", "options", "probe"), PROBES, ids=[p[0] for p in PROBES])
def test_the_table(title: str, name: str, options: dict[str, Any], probe: Callable[[Any], object]) -> None:
    probe(getattr(gatewise, name)(3, 4, **options))
    if not torch.__version__.startswith("2.13."):
        pytest.skip("the page speaks of torch 2.13")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            probe(getattr(nn, name)(3, 4, **options))
        raised = "works"
    except Exception as error:
        raised = f"{type(error).__name__}: {' '.join(str(error).split())}"
    said = row(title)[2].replace("`", "")
    assert said.startswith("works") == (raised == "works"), raised
    assert raised == "works" or raised.startswith(said.partition(" (")[0].removesuffix("…")), raised
