"""A layer under torch.func, forward-mode AD, torch.compile and torch.export."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import assert_close, randomize
from tolerances import FLOAT64
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap

import gatewise
from gatewise import cells
from gatewise.scan.stages import draw_masks

DOUBLE = torch.float64
LAYERS: dict[str, Callable[[], gatewise.Recurrent]] = {
    "gru": lambda: gatewise.Recurrent(cells.gru, 3, 4, dtype=DOUBLE),
    "two-way peephole": lambda: gatewise.Recurrent(cells.lstm_peephole, 3, 4, 2, bidirectional=True, dtype=DOUBLE),
    "projected": lambda: gatewise.Recurrent(cells.lstm_projected, 3, 4, dtype=DOUBLE, proj_size=2),
    "reset before": lambda: gatewise.Recurrent(cells.gru_reset_before, 3, 4, bias="input", dtype=DOUBLE),
}


# The two that have most in them; the others nightly.
SLOW_TO_COMPILE = pytest.mark.parametrize(
    "layer",
    [
        name if name in ("two-way peephole", "reset before") else pytest.param(name, marks=pytest.mark.slow)
        for name in LAYERS
    ],
    indirect=True,
)


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> gatewise.Recurrent:
    torch.manual_seed(0)
    return randomize(LAYERS[request.param]())


def loss_of(layer: gatewise.Recurrent) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    weight = torch.linspace(0.5, 1.5, 5, dtype=DOUBLE)[:, None, None]
    return lambda parameters, x: (functional_call(layer, parameters, (x,))[0].square() * weight).sum()


def parameters_of(layer: gatewise.Recurrent) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in layer.named_parameters()}


def test_vmap_over_inputs_is_a_loop(layer: gatewise.Recurrent) -> None:
    xs = torch.randn(3, 5, 2, 3, dtype=DOUBLE)
    for axis in (0, 1, 2):
        mapped = vmap(lambda x: layer(x)[0], in_dims=axis)(xs.movedim(0, axis))
        assert_close(mapped, torch.stack([layer(x)[0] for x in xs]), FLOAT64)


def test_gradients_per_sample_are_a_loop(layer: gatewise.Recurrent) -> None:
    xs, p, loss = torch.randn(3, 5, 2, 3, dtype=DOUBLE), parameters_of(layer), loss_of(layer)
    mapped = vmap(grad(loss), in_dims=(None, 0))(p, xs)
    each = [grad(loss)(p, x) for x in xs]
    plain = torch.autograd.grad(loss(dict(layer.named_parameters()), xs[0]), list(layer.parameters()))
    for k, name in enumerate(p):
        assert_close(mapped[name], torch.stack([g[name] for g in each]), FLOAT64, name)
        assert_close(each[0][name], plain[k], FLOAT64, name)


def test_an_ensemble_is_a_loop_over_its_parameters(layer: gatewise.Recurrent) -> None:
    x, p, loss = torch.randn(5, 2, 3, dtype=DOUBLE), parameters_of(layer), loss_of(layer)
    stacked = {name: torch.stack([v, 0.5 * v, -v]) for name, v in p.items()}
    members = [{name: v[k] for name, v in stacked.items()} for k in range(3)]
    assert_close(vmap(loss, (0, None))(stacked, x), torch.stack([loss(m, x) for m in members]), FLOAT64)
    mapped = vmap(grad(loss), (0, None))(stacked, x)
    for name in p:
        assert_close(mapped[name], torch.stack([grad(loss)(m, x)[name] for m in members]), FLOAT64, name)


def test_forward_mode_is_the_transpose_of_reverse_mode(layer: gatewise.Recurrent) -> None:
    x, p, loss = torch.randn(5, 2, 3, dtype=DOUBLE), parameters_of(layer), loss_of(layer)
    direction = {name: torch.randn_like(v) for name, v in p.items()}
    _, forward = jvp(lambda p: loss(p, x), (p,), (direction,))
    reverse = sum((g * direction[name]).sum() for name, g in grad(loss)(p, x).items())
    assert_close(forward, torch.as_tensor(reverse), FLOAT64)
    tangent = torch.randn_like(x)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(loss(p, forward_ad.make_dual(x, tangent))).tangent
    assert_close(dual, (grad(loss, argnums=1)(p, x) * tangent).sum(), FLOAT64)


def test_jacobian_and_hessian(layer: gatewise.Recurrent) -> None:
    x = torch.randn(5, 1, 3, dtype=DOUBLE)
    p, loss = parameters_of(layer), loss_of(layer)
    rows = [torch.autograd.grad(layer(v)[0][t].sum(), v)[0] for t in range(5) for v in [x.clone().requires_grad_()]]
    assert_close(jacrev(lambda x: layer(x)[0].sum((1, 2)))(x), torch.stack(rows), FLOAT64)
    for summed in (hessian(lambda x: layer(x)[0].sum()), hessian(lambda x: layer(x.expand(5, 2, 3))[0].sum())):
        summed(x[:, :1])  # what an expanded tensor gives has elements that share memory
    made = hessian(lambda x: loss(p, x))(x)
    expected = torch.autograd.functional.hessian(lambda x: loss(p, x), x)
    assert_close(made, expected, FLOAT64)


@pytest.mark.parametrize("executor", ["auto", "reference"])
def test_gradients_that_torch_autograd_maps_are_refused_with_what_to_do(executor: str) -> None:
    layer, x = gatewise.GRU(3, 4), torch.randn(5, 2, 3, requires_grad=True)
    layer.executor = executor
    output = layer(x)[0]
    with pytest.raises(RuntimeError, match=r"use torch\.func\.jacrev"):
        torch.autograd.grad(output, x, torch.ones(6, *output.shape), is_grads_batched=True)
    with pytest.raises(RuntimeError, match=r"use torch\.func\.jacrev"):
        torch.autograd.functional.jacobian(lambda x: layer(x)[0].sum((0, 1)), x, vectorize=True)


def test_a_second_derivative_runs_the_reference_only_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from gatewise.scan import autograd

    asked: list[str] = []
    whole = autograd.ScanBackward._whole
    monkeypatch.setattr(autograd.ScanBackward, "_whole", lambda *args: asked.append("") or whole(*args))
    layer = LAYERS["gru"]()
    p, xs, loss = parameters_of(layer), torch.randn(3, 5, 2, 3, dtype=DOUBLE), loss_of(layer)
    vmap(grad(loss), in_dims=(None, 0))(p, xs)
    torch.autograd.grad(loss(dict(layer.named_parameters()), xs[0]), list(layer.parameters()), create_graph=True)
    assert not asked
    grad(lambda x: grad(loss, argnums=1)(p, x).square().sum())(xs[0])
    assert asked


@SLOW_TO_COMPILE
def test_compiled_whole_without_unrolling(layer: gatewise.Recurrent) -> None:
    torch._dynamo.reset()
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(layer, fullgraph=True, backend=backend, dynamic=True)
    for steps, batch in ((7, 5), (9, 5), (11, 6)):
        results = []
        for run in (compiled, layer):
            x = torch.ones(steps, batch, 3, dtype=DOUBLE).cumsum(0).div_(steps).requires_grad_()
            output, state = run(x)
            state = state if isinstance(state, tuple) else (state,)
            loss = output.square().sum() + sum(s.sum() for s in state)
            results.append((output, *state, *torch.autograd.grad(loss, [x, *layer.parameters()])))
        for a, b in zip(*results, strict=True):
            assert_close(a, b, FLOAT64)
    scans = [[n for n in g.graph.nodes if n.target is torch.ops.gatewise.scan] for g in graphs]
    (scans,) = [nodes for nodes in scans if nodes]  # one graph: no recompilation among sizes of two and more
    assert len(scans) == layer.num_layers * (1 + layer.bidirectional)  # not one for each step


def test_integers_are_mapped_and_compiled_too() -> None:
    layer = randomize(gatewise.GRU(6, 4, dtype=DOUBLE))
    x = torch.randint(0, 6, (3, 5, 2))
    each = torch.stack([layer(v)[0] for v in x])
    assert_close(vmap(lambda v: layer(v)[0])(x), each, FLOAT64)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x[0])[0], each[0], FLOAT64)
    for run in (compiled, vmap(lambda v: layer(v)[0])):
        with pytest.raises(IndexError):
            run(torch.full((3, 5, 2) if run is not compiled else (5, 2), 6))


def test_a_new_state_that_is_a_leaf_is_compiled() -> None:
    @gatewise.cell(gates="n m")
    def leaf(x, h, c, *, p):
        return torch.tanh(x.n + h.n + c.n + p), x.m

    layer = gatewise.Recurrent(leaf, 3, 4, dtype=DOUBLE)
    x = torch.randn(5, 2, 3, dtype=DOUBLE)
    torch._dynamo.reset()
    output, (_, c) = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    assert_close(output, layer(x)[0], FLOAT64)
    assert_close(c, layer(x)[1][1], FLOAT64)
    output.sum().backward()


def test_exported_with_dynamic_time_and_batch(layer: gatewise.Recurrent) -> None:
    axes = {0: torch.export.Dim("T", min=2, max=4096), 1: torch.export.Dim("B", min=2, max=1024)}
    program = torch.export.export(layer, (torch.randn(5, 4, 3, dtype=DOUBLE),), dynamic_shapes=(axes,))
    x = torch.randn(9, 7, 3, dtype=DOUBLE)
    assert_close(program.module()(x)[0], layer(x)[0], FLOAT64)


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_operators_pass_opcheck(name: str, cut: bool) -> None:
    layer = LAYERS[name]()
    graph = gatewise.zoneout(gatewise.recurrent_dropout(layer.cell, 0.3), 0.2) if cut else layer.cell
    states = [torch.randn(2, 2 if s == "P" else 4, dtype=DOUBLE) for s in graph.state_sizes]
    x = torch.randn(5, 2, len(graph.input_gates) * 4, dtype=DOUBLE)
    flags = torch.rand(2, 5, 2) > 0.4 if cut else torch.zeros(2, 0, 0, dtype=torch.bool)
    initial = torch.randn(sum(s.shape[1] for s in states) if cut else 0, dtype=DOUBLE)
    masks = draw_masks(graph, 5, 2, {"H": 4, "P": 2}, x)
    learned = [t.detach().requires_grad_() for t in (x, *layer._recurrent_weights("_l0"), initial, *states)]
    tensors = [*learned, *flags, *masks]
    torch.library.opcheck(torch.ops.gatewise.scan, (graph.text, "auto", True, tensors))
    plain = [t.detach() for t in tensors]
    output, *rest = torch.ops.gatewise.scan(graph.text, "auto", True, plain)
    g = [torch.randn_like(t) for t in (output, *states)]
    torch.library.opcheck(
        torch.ops.gatewise.scan_backward, (graph.text, "auto", plain, [output, *rest[len(states) :]], g)
    )
