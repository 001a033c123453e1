"""Sequences of different lengths, cut in the middle, begun from learned states, and taken step by step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import assert_close, randomize
from tolerances import FLOAT64
from torch import Tensor
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gatewise
from gatewise import cells

DOUBLE = torch.float64
LENGTHS = torch.tensor([3, 6, 1, 4])
RESETS = torch.tensor(
    [[1, 0, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 1], [0, 1, 0, 0]], dtype=torch.bool
)  # at t = 0, twice in a row, and at or beyond the end of a sequence
CELLS = [cells.gru, cells.gru_reset_before, cells.lstm_projected, cells.lstm_peephole]


def make(cell: gatewise.Graph = cells.lstm_projected, layers: int = 2, **options: Any) -> gatewise.Recurrent:
    size = 2 if cell.projects_output else 0
    options = {"bidirectional": True, "dtype": DOUBLE} | options
    layer = gatewise.Recurrent(cell, 3, 4, layers, proj_size=size, **options)
    randomize(layer)
    return layer


def inputs(layer: gatewise.Recurrent, given: bool = True) -> tuple[Tensor, Any]:
    x = torch.randn(6, 4, 3, dtype=DOUBLE)
    state = layer.initial_state(4)
    state = state if isinstance(state, tuple) else (state,)
    hx = tuple(torch.randn_like(s) for s in state)
    return x, (hx if len(hx) > 1 else hx[0]) if given else None


def flat(results: tuple[Tensor, Any]) -> tuple[Tensor, ...]:
    output, state = results
    return (output, *state) if isinstance(state, tuple) else (output, state)


def pick(hx: Any, b: int) -> Any:
    if hx is None:
        return None
    return tuple(s[:, b] for s in hx) if isinstance(hx, tuple) else hx[:, b]


# --- lengths and resets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.name)
def test_lengths_are_the_sequences_on_their_own(cell: gatewise.Graph, given: bool) -> None:
    layer = make(cell)
    x, hx = inputs(layer, given)
    whole = flat(layer(x, hx, lengths=LENGTHS))
    for b, length in enumerate(LENGTHS.tolist()):
        alone = flat(layer(x[:length, b], pick(hx, b)))
        assert_close(whole[0][:length, b], alone[0], FLOAT64)
        assert not whole[0][length:, b].any()
        for s, t in zip(whole[1:], alone[1:], strict=True):
            assert_close(s[:, b], t, FLOAT64)


def test_what_lies_beyond_the_end_is_not_looked_at() -> None:
    @gatewise.cell(gates="a b")
    def fragile(x, h):  # log of a negative number, were it not for the mask
        return torch.log(x.a) * 0.1 + torch.sqrt(h) * torch.sigmoid(x.b)

    for cell in (cells.lstm, fragile):
        layer = gatewise.Recurrent(cell, 3, 4, dtype=DOUBLE)
        with torch.no_grad():
            for p in layer.parameters():
                p.uniform_(0.1, 0.5)
            if cell is fragile:
                layer.bias_ih_l0.fill_(-0.1)  # an input of zeros would be below 0
        x = torch.rand(6, 4, 3, dtype=DOUBLE) + 20
        poisoned = x.clone()
        for b, length in enumerate(LENGTHS.tolist()):
            poisoned[length:, b] = float("nan")
        made = []
        for given in (x, poisoned):
            given = given.clone().requires_grad_()
            state = layer.initial_state(4)
            state = tuple(s + 50 for s in state) if isinstance(state, tuple) else state + 50
            results = flat(layer(given, state, lengths=LENGTHS))
            loss = sum(r.square().sum() for r in results)
            made.append((*results, *torch.autograd.grad(loss, [given, *layer.parameters()])))
        for a, b in zip(*made, strict=True):
            assert torch.isfinite(b).all()
            assert torch.equal(a, b)


def test_integers_beyond_the_end_may_be_any() -> None:
    layer = gatewise.GRU(5, 4)
    x = torch.randint(0, 5, (6, 4))
    padded = torch.where(torch.arange(6).unsqueeze(1) < LENGTHS, x, -1)
    assert torch.equal(layer(x, lengths=LENGTHS)[0], layer(padded, lengths=LENGTHS)[0])
    with pytest.raises(IndexError):
        layer(padded)


def test_packed_integers() -> None:
    layer = gatewise.LSTM(5, 4, bidirectional=True)
    x = torch.randint(0, 5, (6, 4))
    packed, (h, c) = layer(pack_padded_sequence(x, LENGTHS, enforce_sorted=False))
    output, (h2, c2) = layer(x, lengths=LENGTHS)
    assert torch.equal(pad_packed_sequence(packed)[0], output)
    assert torch.equal(h, h2)
    assert torch.equal(c, c2)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.uint16])
def test_dtypes_of_lengths(dtype: torch.dtype) -> None:
    layer = make()
    x, hx = inputs(layer)
    assert torch.equal(layer(x, hx, lengths=LENGTHS.to(dtype))[0], layer(x, hx, lengths=LENGTHS)[0])


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.name)
def test_resets_are_the_pieces_on_their_own(cell: gatewise.Graph, lengths: Tensor | None, learn: bool) -> None:
    layer = make(cell, learn_state=learn)
    x, hx = inputs(layer)
    x.requires_grad_()
    made = flat(layer(x, hx, lengths=lengths, resets=RESETS))
    pieces = [torch.zeros(6, 4, made[0].shape[2], dtype=DOUBLE), *(torch.zeros_like(s) for s in made[1:])]
    for b in range(4):
        end = 6 if lengths is None else int(lengths[b])
        cuts = [0, *[t for t in range(1, end) if RESETS[t, b]], end]
        for first, (i, j) in zip([True] + [False] * 9, itertools.pairwise(cuts), strict=False):
            # hx enters the first piece forwards, unless t = 0 is a reset, and the last one backwards.
            fresh = layer.initial_state(1)
            fresh = tuple(s[:, 0] for s in (fresh if isinstance(fresh, tuple) else (fresh,)))
            ours = pick(hx, b) if isinstance(hx, tuple) else (pick(hx, b),)
            state = []
            for f, o in zip(fresh, ours, strict=True):
                forward = o if first and not RESETS[0, b] else f
                backward = o if j == end else f
                state.append(torch.where(torch.tensor([[1], [0], [1], [0]], dtype=torch.bool), forward, backward))
            output, *finals = flat(layer(x[i:j, b], tuple(state) if len(state) > 1 else state[0]))
            pieces[0][i:j, b] = output
            for whole, final in zip(pieces[1:], finals, strict=True):
                if j == end:
                    whole[0::2, b] = final[0::2]
                if first:
                    whole[1::2, b] = final[1::2]
    weights = [torch.randn_like(m) for m in made]
    variables = [x, *layer.parameters()]
    for a, b in zip(made, pieces, strict=True):
        assert_close(a, b, FLOAT64)
    g, h = (
        torch.autograd.grad(sum((w * r).sum() for w, r in zip(weights, results, strict=True)), variables)
        for results in (made, pieces)
    )
    for a, b in zip(g, h, strict=True):
        assert_close(a, b, FLOAT64)


@pytest.mark.parametrize("executor", ["reference", "auto"])
def test_one_value_as_two_states_with_lengths_backwards(executor: str) -> None:
    @gatewise.cell(gates="n m")
    def two(x, h, c):
        n = torch.tanh(x.n + h.n + c.m)
        return n, n

    layer = make(two, layers=1)
    layer.executor = executor
    x, hx = inputs(layer)
    alone = torch.autograd.grad(layer(x[:3, 0], pick(hx, 0))[0].sum(), [*layer.parameters()])
    whole = torch.autograd.grad(layer(x, hx, lengths=LENGTHS)[0][:, 0].sum(), [*layer.parameters()])
    for a, b in zip(whole, alone, strict=True):  # before its last step h and c hold what hx gave them, apart
        assert_close(a, b, FLOAT64)


def test_resets_are_laid_out_as_the_input() -> None:
    layer, first = make(cells.gru), make(cells.gru, batch_first=True)
    x, hx = inputs(layer)
    output, _ = layer(x, hx, resets=RESETS)
    assert_close(first(x.transpose(0, 1), hx, resets=RESETS.t())[0].transpose(0, 1), output, FLOAT64)
    assert_close(layer(x[:, 1], hx[:, 1], resets=RESETS[:, 1])[0], output[:, 1], FLOAT64)
    packed = pack_padded_sequence(x.transpose(0, 1), LENGTHS, batch_first=True, enforce_sorted=False)
    by_packed = pad_packed_sequence(first(packed, hx, resets=RESETS.t())[0])[0]
    assert torch.equal(by_packed, layer(x, hx, lengths=LENGTHS, resets=RESETS)[0])


def test_a_reset_nowhere_changes_nothing() -> None:
    layer = make()
    x, hx = inputs(layer)
    for a, b in zip(flat(layer(x, hx, resets=torch.zeros_like(RESETS))), flat(layer(x, hx)), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(layer(x, hx, resets=RESETS)[0], layer(x, hx)[0])


# --- under autograd, torch.func, torch.compile ------------------------------------------------------------


def test_second_derivatives_through_lengths_resets_and_learned_states() -> None:
    layer = make(cells.gru, layers=1, learn_state=True)
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(3, 2, 3, dtype=DOUBLE, requires_grad=True)
    resets, lengths = RESETS[1:4, [0, 2]], torch.tensor([2, 3])

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        given = dict(zip(names, parameters, strict=True))
        return functional_call(layer, given, (x,), {"lengths": lengths, "resets": resets})[0]

    p = [v.detach().requires_grad_() for v in layer.parameters()]
    assert torch.autograd.gradcheck(run, (x, *p))
    assert torch.autograd.gradgradcheck(run, (x, *p))


def test_mapped_over_lengths_and_resets() -> None:
    layer = make(cells.lstm, layers=1, learn_state=True)
    p = {name: v.detach() for name, v in layer.named_parameters()}
    x = torch.randn(3, 6, 4, 3, dtype=DOUBLE)
    lengths, resets = torch.stack([LENGTHS, LENGTHS.flip(0), 0 * LENGTHS + 6]), torch.rand(3, 6, 4) > 0.6

    def loss(p: dict[str, Tensor], x: Tensor, lengths: Tensor, resets: Tensor) -> Tensor:
        return functional_call(layer, p, (x,), {"lengths": lengths, "resets": resets})[0].square().sum()

    mapped = vmap(grad(loss), (None, 0, 0, 0))(p, x, lengths, resets)
    for k in range(3):
        for name, g in grad(loss)(p, x[k], lengths[k], resets[k]).items():
            assert_close(mapped[name][k], g, FLOAT64, name)
    only_resets = vmap(lambda r: loss(p, x[0], LENGTHS, r))(resets)
    assert_close(only_resets, torch.stack([loss(p, x[0], LENGTHS, r) for r in resets]), FLOAT64)
    direction = {name: torch.randn_like(v) for name, v in p.items()}
    _, forward = jvp(lambda p: loss(p, x[0], LENGTHS, resets[0]), (p,), (direction,))
    reverse = sum((g * direction[name]).sum() for name, g in grad(loss)(p, x[0], LENGTHS, resets[0]).items())
    assert_close(forward, torch.as_tensor(reverse), FLOAT64)


def test_compiled_once_and_exported_with_lengths_and_resets() -> None:
    layer = make(cells.lstm_projected, learn_state=True)
    torch._dynamo.reset()
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, given: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, given)

    compiled = torch.compile(layer, fullgraph=True, backend=backend, dynamic=True)
    for steps, batch in ((6, 4), (7, 5), (2, 2), (9, 3)):
        x = torch.randn(steps, batch, 3, dtype=DOUBLE)
        lengths, resets = torch.randint(1, steps + 1, (batch,)), torch.rand(steps, batch) > 0.7
        results = []
        for run in (compiled, layer):
            made = flat(run(x, lengths=lengths, resets=resets))
            results.append((*made, *torch.autograd.grad(sum(r.square().sum() for r in made), layer.parameters())))
        for a, b in zip(*results, strict=True):
            assert_close(a, b, FLOAT64)
    scans = [[n for n in g.graph.nodes if n.target is torch.ops.gatewise.scan] for g in graphs]
    assert [len(nodes) for nodes in scans if nodes] == [4]  # one graph, of two layers in two directions
    T, B = torch.export.Dim("T", min=2, max=99), torch.export.Dim("B", min=2, max=99)
    axes = {"input": {0: T, 1: B}, "lengths": {0: B}, "resets": {0: T, 1: B}}
    x, _ = inputs(layer)
    program = torch.export.export(layer, (x,), {"lengths": LENGTHS, "resets": RESETS}, dynamic_shapes=axes)
    x = torch.randn(9, 3, 3, dtype=DOUBLE)
    given = {"lengths": torch.tensor([9, 2, 5]), "resets": torch.rand(9, 3) > 0.5}
    assert_close(program.module()(x, **given)[0], layer(x, **given)[0], FLOAT64)


# --- learned states -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_learned_states(name: str) -> None:
    layer = getattr(gatewise, name)(3, 4, 2, bidirectional=True, learn_state=True, dtype=DOUBLE)
    plain = getattr(gatewise, name)(3, 4, 2, bidirectional=True, dtype=DOUBLE)
    learned = [n for n, _ in layer.named_parameters() if "_0_l" in n]
    states = ["h", "c"] if name == "LSTM" else ["h"]
    assert learned == [f"{s}_0_l{k}{d}" for k in range(2) for d in ("", "_reverse") for s in states]
    assert all(not getattr(layer, n).any() for n in learned)
    assert [p.shape for row in layer.all_weights for p in row] == [p.shape for row in plain.all_weights for p in row]
    layer.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(5, 3, 3, dtype=DOUBLE)
    assert torch.equal(layer(x)[0], plain(x)[0])
    randomize(layer)
    plain.load_state_dict({n: p for n, p in layer.state_dict().items() if n not in learned})
    hx = [torch.stack([getattr(layer, f"{s}_0_l{k}{d}") for k in range(2) for d in ("", "_reverse")]) for s in states]
    hx = tuple(s.unsqueeze(1).repeat(1, 3, 1) for s in hx)
    hx = hx if name == "LSTM" else hx[0]
    made = [(layer(x)[0]), plain(x, hx)[0]]
    assert_close(*made, FLOAT64)
    g, h = (torch.autograd.grad(m.square().sum(), [getattr(layer, n) for n in learned]) for m in made)
    for a, b in zip(g, h, strict=True):
        assert a.abs().max() > 0
        assert_close(a, b, FLOAT64)
    state = layer.initial_state(3)
    for a, b in zip(state if isinstance(state, tuple) else (state,), hx if name == "LSTM" else (hx,), strict=True):
        assert torch.equal(a, b)
    layer.reset_parameters()
    assert all(not getattr(layer, n).any() for n in learned)


def test_learn_state_shows_in_repr_and_is_checked() -> None:
    assert "learn_state=True" in repr(gatewise.Recurrent(cells.gru, 3, 4, learn_state=True))
    assert "learn_state=True" in repr(gatewise.LSTM(3, 4, learn_state=True))
    assert "learn_state" not in repr(gatewise.GRU(3, 4))
    for call in (
        lambda: gatewise.GRU(3, 4, learn_state=1),
        lambda: gatewise.Recurrent(cells.gru, 3, 4, learn_state="yes"),
    ):
        with pytest.raises(TypeError, match=r"learn_state is .*expected True or False"):
            call()

    @gatewise.cell(gates="n")
    def taken(x, h, *, h_0):
        return torch.tanh(x.n + h.n + h_0)

    with pytest.raises(ValueError, match="the cell has a vector h_0; rename it"):
        gatewise.Recurrent(taken, 3, 4, learn_state=True)


# --- step by step -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.name)
def test_steps_are_the_sequence(cell: gatewise.Graph, learn: bool) -> None:
    layer = make(cell, layers=3, bidirectional=False, learn_state=learn)
    x, _ = inputs(layer)
    whole = flat(layer(x, resets=RESETS))
    state, outputs = None, []
    for x_t, resets in zip(x, RESETS, strict=True):
        output, state = layer.step(x_t, state, resets)
        outputs.append(output)
    made = flat((torch.stack(outputs), state))
    for a, b in zip(made, whole, strict=True):
        assert_close(a, b, FLOAT64)
    g, h = (torch.autograd.grad(r[0].square().sum(), layer.parameters()) for r in (made, whole))
    for a, b in zip(g, h, strict=True):
        assert_close(a, b, FLOAT64)


def test_a_step_of_one_sample_and_of_integers() -> None:
    layer = gatewise.LSTM(5, 4, 2, batch_first=True, dtype=DOUBLE)
    x = torch.randint(0, 5, (6, 3))
    one_hot = torch.nn.functional.one_hot(x, 5).to(DOUBLE)
    output, (h, c) = layer.step(x[0])
    assert output.shape == (3, 4)
    assert h.shape == c.shape == (2, 3, 4)
    alone, (h_1, c_1) = layer.step(one_hot[0, 1], None, torch.tensor(True))
    assert alone.shape == (4,)
    assert h_1.shape == (2, 4)
    assert_close(alone, output[1], FLOAT64)
    assert_close(c_1, c[:, 1], FLOAT64)
    assert_close(layer.step(x[1, 1], (h_1, c_1))[0], layer.step(one_hot[1], (h, c))[0][1], FLOAT64)


def test_steps_that_are_refused() -> None:
    with pytest.raises(RuntimeError, match="LSTM: step\\(\\) of two directions"):
        gatewise.LSTM(3, 4, bidirectional=True).step(torch.zeros(2, 3))
    layer = gatewise.Recurrent(gatewise.recurrent_dropout(cells.gru, 0.1), 3, 4)
    with pytest.raises(RuntimeError, match=r"recurrent_dropout\(gru,0.1\), whose mask is drawn once a sequence"):
        layer.step(torch.zeros(2, 3))
    layer.eval()
    layer.step(torch.zeros(2, 3))
    gatewise.Recurrent(gatewise.zoneout(cells.gru, 0.1), 3, 4).step(torch.zeros(2, 3))  # a mask a step is fine


# --- the border ----------------------------------------------------------------------------------------------

GRU = gatewise.GRU(3, 4)
X = torch.zeros(6, 4, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: GRU(X, lengths=torch.tensor([1, 2, 7, 3])),
            ValueError,
            r"lengths lies in \[1, 7\], expected \[1, 6\]",
        ),
        (
            lambda: GRU(X, lengths=torch.tensor([1, 0, 6, 3])),
            ValueError,
            r"lengths lies in \[0, 6\], expected \[1, 6\]",
        ),
        (lambda: GRU(X, lengths=torch.ones(4)), ValueError, "lengths is torch.float32, expected integers"),
        (lambda: GRU(X, lengths=torch.ones(4).bool()), ValueError, "lengths is torch.bool, expected integers"),
        (lambda: GRU(X, lengths=torch.ones(3).long()), ValueError, r"lengths has shape \(3,\), expected \(4,\)"),
        (lambda: GRU(X, lengths=[1, 2, 3, 4]), TypeError, "lengths is a list, expected a tensor of integers"),
        (lambda: GRU(X[:, 0], lengths=torch.tensor(3)), ValueError, "lengths with unbatched input"),
        (
            lambda: GRU(pack_padded_sequence(X, [6, 6, 6, 1]), lengths=LENGTHS),
            ValueError,
            "lengths with a packed input, which brings its own",
        ),
        (
            lambda: GRU(X, resets=2 * RESETS.int()),
            ValueError,
            "resets has 2 in it, expected booleans, or numbers that are 0 or 1",
        ),
        (lambda: GRU(X, resets=RESETS.t()), ValueError, r"resets has shape \(4, 6\), expected \(6, 4\) = \(T, B\)"),
        (lambda: GRU(X[:, 0], resets=RESETS), ValueError, r"resets has shape \(6, 4\), expected \(6,\) = \(T,\)"),
        (lambda: GRU(X, resets=RESETS.to("meta")), RuntimeError, "resets is on meta, the weights are on cpu"),
        (lambda: GRU(X, resets=True), TypeError, "resets is a bool, expected a tensor of booleans"),
        (lambda: GRU.step(X[0], resets=RESETS), ValueError, r"resets has shape \(6, 4\), expected \(4,\) = \(B,\)"),
        (lambda: GRU.step(X), ValueError, r"input has shape \(6, 4, 3\), expected \(B, I\) or unbatched \(I,\)"),
        (lambda: GRU.step([0.0]), TypeError, "input is a list, expected a tensor$"),
        (lambda: GRU(X, lengths=LENGTHS.to("meta")), RuntimeError, "lengths is on meta"),
        (lambda: GRU(X, torch.zeros(1, 4, 4).to_sparse()), RuntimeError, "hx is torch.sparse_coo, expected a dense"),
        (lambda: GRU(X, resets=RESETS.to_sparse()), RuntimeError, "resets is torch.sparse_coo, expected a dense"),
        (lambda: GRU(X.to_sparse()), RuntimeError, "input is torch.sparse_coo, expected a dense tensor"),
        (lambda: GRU(X.to(torch.complex64)), ValueError, "input is torch.complex64, the weights are torch.float32"),
    ],
)
def test_a_fault_is_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
