"""convert.d2l on the lists themselves: `forward`, which reads them, and lists that are a layer's own memory."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import assert_close, randomize
from test_d2l import NETS, names_of, params_of
from tolerances import FLOAT32, FLOAT64
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import gatewise
from gatewise import cells
from gatewise.convert import d2l
from gatewise.errors import InputError

CELLS = {"rnn": cells.rnn, "gru": cells.gru_reset_before, "lstm": cells.lstm}


def begin(net: str, batch: int, size: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    return tuple(torch.randn(batch, size, dtype=dtype) for _ in range(2 if net == "lstm" else 1))


@pytest.mark.parametrize(("steps", "batch", "inputs", "size"), [(5, 3, 4, 6), (1, 1, 1, 1), (7, 1, 3, 3), (2, 4, 5, 1)])
@pytest.mark.parametrize("net", NETS)
def test_forward_is_the_books_loop_and_so_are_its_gradients(
    net: str, steps: int, batch: int, inputs: int, size: int
) -> None:
    params = [p.requires_grad_() for p in params_of(net, inputs, size, 5)]
    x, state = torch.randn(steps, batch, inputs, dtype=torch.float64), begin(net, batch, size)
    for t in (x, *state):
        t.requires_grad_()
    results = []
    for function in (NETS[net][0], d2l.forward):
        Y, finals = function(x, state, params)
        assert isinstance(finals, tuple)
        loss = (Y * torch.cos(Y)).sum() + sum((k + 2) * s.square().sum() for k, s in enumerate(finals))
        results.append([Y, *finals, *torch.autograd.grad(loss, [x, *state, *params])])
    for one, other in zip(*results[::-1], strict=True):
        assert_close(one, other, FLOAT64)


@pytest.mark.parametrize("net", NETS)
def test_forward_reads_the_list_anew_in_each_call_and_leaves_all_else_alone(net: str) -> None:
    params, x, state = params_of(net, 4, 6, 5), torch.randn(5, 3, 4, dtype=torch.float64), begin(net, 3, 6)
    for k in range(len(params)):
        random, before = torch.get_rng_state(), copy.deepcopy((x, state, params))
        assert_close(d2l.forward(x, state, params)[0], NETS[net][0](x, state, params)[0], FLOAT64)
        assert torch.equal(torch.get_rng_state(), random)
        for one, other in zip((x, *state, *params), (before[0], *before[1], *before[2]), strict=True):
            assert torch.equal(one, other)
        params[k].data.mul_(-0.5)  # which autograd does not count
        params[k] = params[k] + 0.1
    Y, finals = d2l.forward(x, state, [p.requires_grad_() for p in params])
    for tensor in (Y, *finals):
        assert tensor.requires_grad
        assert not tensor.detach_().requires_grad


@pytest.mark.parametrize("net", NETS)
def test_forward_of_what_else_a_list_may_be(net: str) -> None:
    params, state = params_of(net, 4, 6, 5, torch.float32), begin(net, 3, 6, torch.float32)
    ids = torch.randint(4, (5, 3))
    x = nn.functional.one_hot(ids, 4).float()
    expected, _ = NETS[net][0](x, state, params)
    named = dict(zip(names_of(net), params, strict=True))
    strided = [p.t().contiguous().t() for p in params]
    for inputs, given in ((x, params), (ids, params), (x, dict(reversed(named.items()))), (x, strided)):
        assert_close(d2l.forward(inputs, state, given)[0], expected, FLOAT32)
    hidden, _ = d2l.forward(x, state, params[:-2])
    assert_close(hidden.flatten(0, 1) @ params[-2] + params[-1], expected, FLOAT32)


@pytest.mark.parametrize("net", NETS)
def test_forward_in_torch_func_and_its_second_derivatives(net: str) -> None:
    params, x, state = params_of(net, 4, 6, 5), torch.randn(5, 3, 4, dtype=torch.float64), begin(net, 3, 6)

    def loss(function, params):
        return function(x, state, params)[0].square().sum()

    got, expected = (torch.func.grad(lambda p, f=f: loss(f, p))(params) for f in (d2l.forward, NETS[net][0]))
    for one, other in zip(got, expected, strict=True):
        assert_close(one, other, FLOAT64)
    leaves = [p.requires_grad_() for p in params]
    seconds = []
    for function in (d2l.forward, NETS[net][0]):
        first = torch.autograd.grad(loss(function, leaves), leaves, create_graph=True)
        seconds.append(torch.autograd.grad(sum(g.square().sum() for g in first), leaves, allow_unused=True))
    for one, other in zip(*seconds, strict=True):
        assert_close(one, other, FLOAT64)


@pytest.mark.parametrize("net", NETS)
def test_forward_under_vmap_and_compile(net: str) -> None:
    params, x, state = params_of(net, 4, 6, 5), torch.randn(5, 3, 4, dtype=torch.float64), begin(net, 3, 6)
    expected, _ = NETS[net][0](x, state, params)

    def one_sample(x: Tensor, state: tuple[Tensor, ...]) -> Tensor:
        return d2l.forward(x.unsqueeze(1), tuple(s.unsqueeze(0) for s in state), params)[0]

    mapped = torch.func.vmap(one_sample, in_dims=(1, 0), out_dims=1)(x, state)
    assert_close(mapped.flatten(0, 1), expected, FLOAT64)
    torch.compiler.reset()
    compiled = torch.compile(d2l.forward, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x, state, params)[0], expected, FLOAT64)


def test_forward_refuses_what_it_cannot_read() -> None:
    params, x, state = params_of("gru", 4, 6, 5), torch.randn(5, 3, 4, dtype=torch.float64), begin("gru", 3, 6)

    def with_(k: int, value: object) -> list:
        return [*params[:k], value, *params[k + 1 :]]

    for given, begins, words in (
        (params[:7], state, "7 parameters, expected 3 of an RNN, 9 of a GRU or 12 of an LSTM, or 2 more"),
        (params, state[0], r"state is a Tensor, expected \(H,\), as init_state makes it"),
        (params, state * 2, r"state is a tuple of 2, expected \(H,\)"),
        (with_(3, params[3].numpy()), state, "W_xr is a ndarray, expected a tensor; from_params makes a layer of it"),
        (with_(4, params[4].float()), state, "W_hr is torch.float32 on cpu, expected one .* W_xz is torch.float64 on"),
        (with_(3, params[3].t()), state, r"W_xr has shape \(6, 4\), expected \(4, 6\)"),
        (with_(7, params[7][:5]), state, r"W_hh has shape \(5, 6\), expected \(6, 6\)"),
        (with_(8, params[8][None]), state, r"b_h has shape \(1, 6\), expected \(6,\)"),
        (with_(9, params[9].t()), state, r"W_hq has shape \(5, 6\), expected \(6, Q\)"),
        (with_(10, params[10][:4]), state, r"b_q has shape \(4,\), expected \(5,\)"),
        ([p.long() for p in params], state, "W_xz is torch.int64 on cpu, expected one floating dtype"),
    ):
        with pytest.raises(InputError, match=words):
            d2l.forward(x, begins, given)
    with pytest.raises(InputError, match=r"state is a tuple of 1, expected \(H, C\), as"):
        d2l.forward(x, state, params_of("lstm", 4, 6, 5))
    with pytest.raises(RuntimeError, match=r"hx has shape \(1, 2, 6\), expected \(1, 3, 6\)"):
        d2l.forward(x, (state[0][:2],), params)


# --- lists that are a layer's memory ---------------------------------------------------------------------------


def one_bias(net: str, **options: object) -> gatewise.Recurrent:
    layer = gatewise.Recurrent(CELLS[net], 4, 6, bias="input", dtype=torch.float64, **options)
    return randomize(layer)


@pytest.mark.parametrize("net", NETS)
def test_shared_lists_are_the_copies_numbers_on_the_layers_memory(net: str) -> None:
    layer, linear = one_bias(net), randomize(nn.Linear(6, 5, dtype=torch.float64), 1)
    copies, shared = d2l.to_params(layer, linear), d2l.to_params(layer, linear, share=True)
    assert len(shared) == len(d2l.names(layer, linear))
    memory = {p.untyped_storage().data_ptr() for p in (*layer.parameters(), *linear.parameters())}
    for copied, view in zip(copies, shared, strict=True):
        assert_close(view, copied, 0.0)
        assert view.is_leaf
        assert not view.requires_grad
        assert view.untyped_storage().data_ptr() in memory
        assert copied.untyped_storage().data_ptr() not in memory
    # Each number of the layer is in the list once: what is added to all of the list is added to all of the layer.
    before = [p.detach().clone() for p in (*layer.parameters(), *linear.parameters())]
    for view in shared:
        view.add_(1.0)
    for now, then in zip((*layer.parameters(), *linear.parameters()), before, strict=True):
        assert torch.equal(now, then + 1.0)
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2.0)
    assert_close(d2l.to_params(layer)[1], shared[1], 0.0)
    assert len(d2l.to_params(layer, share=True)) == len(shared) - 2


def test_gradients_are_each_tensors_own_and_a_change_in_between_is_noticed() -> None:
    layer = one_bias("gru")
    shared = [p.requires_grad_() for p in d2l.to_params(layer, share=True)]
    x, state = torch.randn(5, 3, 4, dtype=torch.float64), begin("gru", 3, 6)
    d2l.forward(x, state, shared)[0].sum().backward()
    assert all(p.grad is not None for p in shared)
    assert all(p.grad is None for p in layer.parameters())
    loss = layer(x)[0].sum()
    with torch.no_grad():
        shared[0] -= 0.1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_cannot_be_shared() -> None:
    computed = one_bias("gru")
    parametrizations.weight_norm(computed, "weight_hh_l0")
    double = torch.float64
    for layer, output, words in (
        (gatewise.GRU(4, 6, reset_after=False), None, r"was made with bias=True, expected one bias a gate, .* like="
         r'gatewise.Recurrent\(gatewise.cells.gru_reset_before, 4, 6, bias="input"\)\) makes such a layer'),
        (nn.LSTM(4, 6), None, r"was made with bias=True, .*Recurrent\(gatewise.cells.lstm, 4, 6, bias="),
        (nn.RNN(4, 6, bias=False), None, "was made with bias=False, expected one bias a gate"),
        (computed, None, "a parametrization computes weights of this .*; take copies"),
        (one_bias("gru", learn_state=True), None, "learns the states"),
        (one_bias("gru", num_layers=2), None, "one layer and one direction"),
        (gatewise.Recurrent(cells.gru, 4, 6, bias="input"), None, "no weights make them equal"),
        (one_bias("gru"), nn.Linear(6, 5, bias=False, dtype=double), "output has no bias, which b_q would be"),
        (one_bias("gru"), nn.Linear(5, 6), r"expected nn.Linear\(6, …\)"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            d2l.to_params(layer, output, share=True)
