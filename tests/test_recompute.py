"""layer.recompute: the same results and gradients, from less memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import assert_close, randomize
from torch import Tensor

import gatewise
from gatewise import cells
from gatewise.scan import directions, fused

T, B, I, H = 11, 3, 4, 5
DOUBLE = {"dtype": torch.float64}
LAYERS: dict[str, Callable[[], Any]] = {
    "gru": lambda: gatewise.GRU(I, H, **DOUBLE),
    "two layers, both directions": lambda: gatewise.GRU(I, H, 2, bidirectional=True, **DOUBLE),
    "proj_size": lambda: gatewise.LSTM(I, H, proj_size=2, **DOUBLE),
    "masks of a step": lambda: gatewise.Recurrent(
        gatewise.zoneout(cells.lstm, 0.3), I, H, bidirectional=True, **DOUBLE
    ),
    "masks of a sequence": lambda: gatewise.Recurrent(gatewise.recurrent_dropout(cells.gru, 0.3), I, H, **DOUBLE),
    "learned states": lambda: gatewise.GRU(I, H, bidirectional=True, learn_state=True, **DOUBLE),
}
OPTIONS: dict[str, dict[str, Tensor]] = {
    "whole": {},
    "lengths": {"lengths": torch.tensor([2, 11, 7])},
    "resets": {"resets": torch.rand(T, B, generator=torch.Generator().manual_seed(0)) < 0.3},
}


def results(layer: Any, x: Tensor, **options: Any) -> list[Tensor]:
    """Output, final states and all gradients; the random masks are the same in every call."""
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    hx = layer.initial_state(B)
    output, state = layer(x, hx, **options)
    made = [output, *(state if isinstance(state, tuple) else (state,))]
    weights = [torch.linspace(-1, 2, t.numel(), dtype=t.dtype).view_as(t) for t in made]
    loss = sum((t * w).sum() for t, w in zip(made, weights, strict=True))
    return [*made, *torch.autograd.grad(loss, [x, *layer.parameters()])]


@pytest.mark.parametrize("executor", ["auto", "reference"])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", LAYERS)
def test_results_and_gradients_are_the_same(kind: str, option: str, executor: str) -> None:
    layer: Any = randomize(LAYERS[kind]())
    layer.executor = executor
    x = torch.randn(T, B, I, **DOUBLE)
    expected = results(layer, x, **OPTIONS[option])
    for every in (1, 4, T, 100):
        layer.recompute = every
        for k, (made, right) in enumerate(zip(results(layer, x, **OPTIONS[option]), expected, strict=True)):
            assert_close(made, right, 1e-12, f"every {every} steps, {k}")


def test_both_directions_at_once_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where one launch runs both."""
    layer: Any = randomize(gatewise.LSTM(I, H, bidirectional=True, **DOUBLE))
    x, options = torch.randn(T, B, I, **DOUBLE), {**OPTIONS["lengths"], **OPTIONS["resets"]}
    expected = results(layer, x, **options)
    monkeypatch.setattr(directions, "_run", lambda graph, executor, given: directions._both(graph, executor, given))
    monkeypatch.setattr(fused, "run", None)
    layer.recompute = 4
    for made, right in zip(results(layer, x, **options), expected, strict=True):
        assert_close(made, right, 1e-12)


def test_one_stretch_of_gates_is_alive_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    most = [0]
    forward, backward = fused._forward, fused._backward

    def alive() -> int:
        return sum(r() is not None for r in kept)

    def counted(*args: Any) -> Any:
        made, gates = forward(*args)
        if gates is not None:
            kept.append(weakref.ref(gates))
        most[0] = max(most[0], alive())
        return made, gates

    monkeypatch.setattr(fused, "_forward", counted)
    monkeypatch.setattr(fused, "_backward", lambda *args: (most.append(alive()), backward(*args))[1])
    layer, x = gatewise.GRU(I, H), torch.randn(T, B, I)
    layer.recompute = 2
    output, _ = layer(x)
    assert len(kept) == 6
    assert alive() == 0
    output.sum().backward()
    assert len(kept) == 12
    assert max(most) == 1


def test_recorded_values_and_their_gradients() -> None:
    layer: Any = randomize(gatewise.GRU(I, H, bidirectional=True, **DOUBLE))
    x = torch.randn(T, B, I, **DOUBLE, requires_grad=True)
    seen = []
    for every in (None, 4):
        layer.recompute = every
        with gatewise.record(layer, ["z", "h"]) as record:
            output, _ = layer(x)
        z = record["l0_reverse"]["z"]
        seen.append([z, record["l0"]["h"], *torch.autograd.grad((z * z).sum() + output.sum(), [x, layer.weight_hh_l0])])
    for made, right in zip(*seen, strict=True):
        assert_close(made, right, 1e-12)


def test_second_derivatives() -> None:
    layer: Any = randomize(gatewise.GRU(2, 3, **DOUBLE))
    layer.recompute = 2
    x = torch.randn(5, 2, 2, **DOUBLE, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], (x,))


def test_integers_and_one_step() -> None:
    layer: Any = gatewise.GRU(I, H)
    layer.recompute = 3
    x = torch.randint(I, (T, B))
    made, expected = layer(x)[0], layer(torch.nn.functional.one_hot(x, I).float())[0]
    assert_close(made, expected, 1e-6)
    assert made.grad_fn is not None
    assert_close(layer.step(x[0])[0], expected[0], 1e-6)


def test_nothing_is_cut_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directions, "_in_stretches", None)
    layer: Any = gatewise.GRU(I, H)
    layer.recompute = 2
    x = torch.randn(T, B, I)
    with torch.no_grad():
        layer(x)
    with torch.inference_mode():
        layer(x, lengths=torch.tensor([T] * B))
    layer.requires_grad_(False)
    layer(x)
    with pytest.raises(TypeError):  # but here it is
        layer.requires_grad_()(x)


def test_compiled() -> None:
    layer: Any = randomize(gatewise.GRU(I, H))
    x = torch.randn(T, B, I, requires_grad=True)
    (expected,) = torch.autograd.grad(layer(x)[0].square().sum(), x)
    layer.recompute = 4
    loss = torch.compile(lambda x: layer(x)[0].square().sum(), fullgraph=True, backend="aot_eager")
    assert_close(torch.autograd.grad(loss(x), x)[0], expected, 1e-6)


@pytest.mark.parametrize("recompute", [0, -3, 2.0, True, "8"])
def test_no_number_of_steps(recompute: Any) -> None:
    layer: Any = gatewise.GRU(I, H)
    layer.recompute = recompute
    with pytest.raises(ValueError, match="expected a number of steps, 1 or more, or None"):
        layer(torch.randn(T, B, I))


def test_an_exported_graph_takes_any_number_of_steps() -> None:
    layer: Any = randomize(gatewise.GRU(I, H))
    layer.recompute = 4
    steps = {"input": {0: torch.export.Dim("steps", min=2, max=99)}}
    made = torch.export.export(layer, (torch.randn(T, B, I),), dynamic_shapes=steps, strict=False).module()
    x = torch.randn(T + 5, B, I)
    assert_close(made(x)[0], layer(x)[0], 1e-6)


@pytest.mark.parametrize("what", ["x", "hx", "weight"])
def test_what_changed_before_backward_is_an_error(what: str) -> None:
    """As it is without, and not another gradient."""
    layer: Any = gatewise.GRU(I, H)
    for every in (None, 4):
        layer.recompute = every
        x, hx = torch.randn(T, B, I), torch.randn(1, B, H)
        output, _ = layer(x, hx)
        with torch.no_grad():
            {"x": x, "hx": hx, "weight": layer.weight_hh_l0}[what].mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.sum().backward()


def test_torch_func_is_told_what_to_do() -> None:
    layer: Any = gatewise.GRU(I, H)
    layer.recompute = 2
    with pytest.raises(RuntimeError, match=r"set layer\.recompute = None"):
        torch.func.grad(lambda x: layer(x)[0].sum())(torch.randn(T, B, I))
    with pytest.raises(RuntimeError, match=r"set layer\.recompute = None"):
        torch.func.vmap(lambda x: layer(x)[0])(torch.randn(2, T, B, I))
    with torch.no_grad():
        assert torch.func.vmap(lambda x: layer(x)[0])(torch.randn(2, T, B, I)).shape == (2, T, B, H)
