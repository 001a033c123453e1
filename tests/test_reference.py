"""The reference executor: values and gradients against autograd through a plain loop."""

from __future__ import annotations

import pytest
import torch
from helpers import Recipe, assert_close, plain_loop, randomize, recipes
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import RANDOM_CELL

import gatewise
from gatewise import cells

DOUBLE = torch.float64


def check_against_plain_loop(recipe: Recipe, steps: int, batch: int, size: int) -> None:
    projected = size - 1 if recipe.project_output else 0
    layer = gatewise.Recurrent(recipe.cell(), 3, size, dtype=DOUBLE, proj_size=projected)
    randomize(layer)
    torch.manual_seed(1)
    x = torch.randn(steps, batch, 3, dtype=DOUBLE, requires_grad=True)
    shapes = [(batch, projected or size)] + [(batch, size)] * (recipe.states - 1)
    states = [torch.randn(shape, dtype=DOUBLE, requires_grad=True) for shape in shapes]

    hx = tuple(s.unsqueeze(0) for s in states)
    output, final = layer(x, hx if len(hx) > 1 else hx[0])
    ours = (output, *(s.squeeze(0) for s in (final if isinstance(final, tuple) else (final,))))
    theirs = plain_loop(recipe, layer, x, states)
    weights = [torch.randn(t.shape, dtype=DOUBLE) for t in theirs]
    variables = [x, *states, *layer.parameters()]
    names = ["x", *(f"state {k}" for k in range(recipe.states)), *(n for n, _ in layer.named_parameters())]
    gradients = []
    for made in (ours, theirs):
        loss = sum((w * t).sum() for w, t in zip(weights, made, strict=True))
        gradients.append(torch.autograd.grad(loss, variables, allow_unused=True))
    for name, a, b in zip(["output", *layer.cell.states], ours, theirs, strict=True):
        assert_close(a, b, RANDOM_CELL, name)
    for name, v, a, b in zip(names, variables, *gradients, strict=True):
        assert_close(
            torch.zeros_like(v) if a is None else a, torch.zeros_like(v) if b is None else b, RANDOM_CELL, name
        )


@settings(max_examples=100, deadline=None)
@given(recipes, st.integers(1, 5), st.integers(1, 3), st.sampled_from([2, 3, 7]))
def test_random_cells_equal_a_plain_loop(recipe: Recipe, steps: int, batch: int, size: int) -> None:
    check_against_plain_loop(recipe, steps, batch, size)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(recipes, st.integers(1, 8), st.integers(1, 3), st.sampled_from([2, 3, 7, 17]))
def test_many_random_cells_equal_a_plain_loop(recipe: Recipe, steps: int, batch: int, size: int) -> None:
    check_against_plain_loop(recipe, steps, batch, size)


BUILT_IN = [cells.rnn, cells.rnn_relu, cells.gru, cells.gru_reset_before, cells.lstm, cells.lstm_projected]
BUILT_IN += [cells.lstm_peephole]


@pytest.mark.parametrize("cell", BUILT_IN, ids=lambda c: c.name)
def test_first_and_second_derivatives(cell: gatewise.Graph) -> None:
    layer = gatewise.Recurrent(cell, 2, 3, dtype=DOUBLE, proj_size=2 if cell.projects_output else 0)
    randomize(layer)
    names = [name for name, _ in layer.named_parameters()]
    torch.manual_seed(2)
    x = torch.randn(3, 2, 2, dtype=DOUBLE, requires_grad=True)
    states = layer.initial_state(2)
    states = states if isinstance(states, tuple) else (states,)
    states = tuple(torch.randn_like(s).requires_grad_() for s in states)

    def run(x: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hx, parameters = rest[: len(states)], dict(zip(names, rest[len(states) :], strict=True))
        output, final = torch.func.functional_call(layer, parameters, (x, hx if len(hx) > 1 else hx[0]))
        return (output, *(final if isinstance(final, tuple) else (final,)))

    variables = (x, *states, *layer.parameters())
    assert torch.autograd.gradcheck(run, variables)
    assert torch.autograd.gradgradcheck(run, variables)


def test_a_state_returned_as_it_came_and_a_value_returned_twice() -> None:
    @gatewise.cell(gates="n")
    def odd(x, h, c, d):
        n = torch.tanh(x.n + h.n)
        return n, n, d

    layer = randomize(gatewise.Recurrent(odd, 2, 3, dtype=DOUBLE))
    hx = tuple(torch.randn(1, 2, 3, dtype=DOUBLE, requires_grad=True) for _ in range(3))
    output, (h, c, d) = layer(torch.randn(4, 2, 2, dtype=DOUBLE), hx)
    assert torch.equal(h, c)
    assert torch.equal(h[0], output[-1])
    assert torch.equal(d, hx[2])
    g = torch.autograd.grad((h + 2 * c + 3 * d).sum(), hx, retain_graph=True)
    assert torch.equal(g[2], torch.full_like(g[2], 3.0))
    assert torch.equal(g[1], torch.zeros_like(g[1]))
    (once,) = torch.autograd.grad(h.sum(), hx[:1], retain_graph=True)
    assert_close(g[0], 3 * once, RANDOM_CELL)


def check_derivatives(layer: gatewise.Recurrent) -> None:
    """Every gradient of one layer against finite differences."""
    randomize(layer)
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(3, 2, layer.input_size, dtype=DOUBLE, requires_grad=True)

    def run(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        output, final = torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))
        final = final if isinstance(final, tuple) else (final,)
        return output.sum() + sum((k + 2) * f.square().sum() for k, f in enumerate(final))

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()))


def test_one_gate_that_projects_several_values() -> None:
    @gatewise.cell(gates="a n")
    def shared(x, h, c):
        return torch.tanh(x.n + h.n + (h * c).n + c.a), torch.sigmoid((c - h).n + h.a)

    check_derivatives(gatewise.Recurrent(shared, 2, 3, dtype=DOUBLE))


def test_two_outputs_projected() -> None:
    @gatewise.cell(gates="n")
    def twice(x, h, c):
        n = torch.tanh(x.n + h.n + c.n)
        return n.hr, (n * n).hr

    assert twice.state_sizes == ("P", "P")
    check_derivatives(gatewise.Recurrent(twice, 2, 4, dtype=DOUBLE, proj_size=2))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_what_is_projected_is_a_value_like_others(size: int) -> None:
    @gatewise.cell(gates="n")
    def projected_early(x, h):
        return torch.tanh(torch.tanh(x.n + h.n).hr) * (1 - h) + h

    check_derivatives(gatewise.Recurrent(projected_early, 3, 5, dtype=DOUBLE, proj_size=size))


def test_a_long_chain_of_cheap_operations() -> None:
    @gatewise.cell(gates="n")
    def chain(x, h):
        a = torch.tanh(x.n + h.n)
        for _ in range(2000):
            a = 1 - a
        return a * a

    layer = randomize(gatewise.Recurrent(chain, 2, 3, dtype=DOUBLE))
    layer(torch.randn(2, 1, 2, dtype=DOUBLE))[0].sum().backward()


def test_the_sign_of_zero_is_kept() -> None:
    @gatewise.cell(gates="n")
    def signed(x, h):
        return 0.0 * x.n + h / -0.0

    layer = randomize(gatewise.Recurrent(signed, 2, 3, dtype=DOUBLE))
    output, _ = layer(torch.randn(1, 1, 2, dtype=DOUBLE), torch.ones(1, 1, 3, dtype=DOUBLE))
    assert torch.equal(output, torch.full_like(output, -torch.inf))


def test_gates_that_reach_no_state_get_zero_gradients() -> None:
    @gatewise.cell(gates="n u v")
    def watched(x, h):
        n = torch.tanh(x.n + h.n)
        u = torch.sigmoid(x.u + h.v)  # noqa: F841 -- watched, not used
        return n

    layer = randomize(gatewise.Recurrent(watched, 2, 3, dtype=DOUBLE))
    layer(torch.randn(4, 2, 2, dtype=DOUBLE))[0].sum().backward()
    assert layer.weight_ih_l0.grad[:3].abs().min() > 0
    assert layer.weight_ih_l0.grad[3:].abs().max() == 0
    assert layer.weight_hh_l0.grad[3:].abs().max() == 0
    check_derivatives(layer)


def test_a_vector_alone_can_be_a_new_state() -> None:
    @gatewise.cell(gates="n")
    def constant_memory(x, h, c, *, p):
        return torch.tanh(x.n + c), torch.sigmoid(p)

    layer = randomize(gatewise.Recurrent(constant_memory, 2, 3, dtype=DOUBLE))
    assert "weight_hh_l0" not in dict(layer.named_parameters())
    _, (_, c) = layer(torch.randn(4, 5, 2, dtype=DOUBLE))
    assert_close(c, torch.sigmoid(layer.p_l0).expand(1, 5, 3), RANDOM_CELL)
    c.sum().backward()
    s = torch.sigmoid(layer.p_l0)
    assert_close(layer.p_l0.grad, 5 * s * (1 - s), RANDOM_CELL)


def test_without_gradients_nothing_is_kept_for_backward() -> None:
    layer = gatewise.GRU(2, 3)
    with torch.no_grad():
        output, h = layer(torch.randn(4, 2, 2))
    assert output.grad_fn is None
    assert h.grad_fn is None
    output, h = layer(torch.randn(4, 2, 2))
    assert output.grad_fn is not None
